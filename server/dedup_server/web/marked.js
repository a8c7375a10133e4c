// A text with its repeats marked in place, as `POST /check` returns them.
//
// Equal sentences have one colour. Removed text is struck through. Removed text and kept copies are
// links to the first occurrence, with the reason in a tooltip. The text is one tab stop: arrow keys
// move between links.

import { el, find } from "./dom.js";
import { t } from "./words.js";

const NUM_COLOURS = 8;
const EXCERPT = 90;

export const colourOf = (group) => group % NUM_COLOURS;

class Marked {
  constructor(container, text, checked) {
    this.container = container;
    // Offsets count code points; if each is one code unit, strings can be sliced directly.
    this.points = /[\ud800-\udbff]/.test(text) ? Array.from(text) : null;
    this.text = text;
    this.size = this.points ? this.points.length : text.length;
    this.checked = checked;
    this.nodes = [];  // [start, text node], in order
    this.links = new Map();  // element -> its first occurrence, and the reason
    this.next = 0;
    this.firsts = new Map();
    for (const { start, group } of checked?.sentences ?? []) {
      if (group !== null && !this.firsts.has(group)) this.firsts.set(group, start);
    }
    const root = document.createDocumentFragment();
    let at = 0;
    for (const removal of checked?.removed ?? []) {
      this.paint(at, removal.start, root, false);
      const link = this.link(removal.first_start, removedBecause(removal));
      this.paint(removal.start, removal.end, link, true);
      root.append(el("del", {}, link));
      at = removal.end;
    }
    this.paint(at, this.size, root, false);
    const first = this.links.keys().next().value;
    if (first) first.tabIndex = 0;
    container.replaceChildren(root);
  }

  slice(start, end) {
    return this.points ? this.points.slice(start, end).join("") : this.text.slice(start, end);
  }

  // Show the text from start to end, repeated sentences coloured, kept copies as links.
  paint(start, end, parent, removed) {
    const sentences = this.checked?.sentences ?? [];
    let at = start;
    while (at < end && this.next < sentences.length && sentences[this.next].start < end) {
      const sentence = sentences[this.next];
      const from = Math.max(sentence.start, at);
      const to = Math.min(sentence.end, end);
      if (sentence.group !== null && from < to) {
        this.write(at, from, parent);
        const first = this.firsts.get(sentence.group);
        const isLink = !removed && first < sentence.start;
        const mark = isLink ? this.link(first, t("reason.kept", { at: first + 1 })) : el("span");
        mark.classList.add("repeat", `g${colourOf(sentence.group)}`);
        this.write(from, to, mark);
        parent.append(mark);
        at = to;
      }
      if (sentence.end > end) break;
      this.next += 1;
    }
    this.write(at, end, parent);
  }

  write(start, end, parent) {
    if (start >= end) return;
    const node = document.createTextNode(this.slice(start, end));
    this.nodes.push([start, node]);
    parent.append(node);
  }

  link(first, reason) {
    const element = el("span", { role: "link", tabindex: "-1", class: "link" });
    this.links.set(element, { first, reason });
    return element;
  }

  // Return the text node and position of the character at `offset`.
  range(offset) {
    let low = 0;
    for (let high = this.nodes.length; low + 1 < high; ) {
      const middle = (low + high) >> 1;
      if (this.nodes[middle][0] <= offset) low = middle;
      else high = middle;
    }
    const [start, node] = this.nodes[low];
    const range = document.createRange();
    range.setStart(node, Math.min(node.length, this.slice(start, offset).length));
    range.setEnd(node, node.length);
    if (range.collapsed) range.selectNodeContents(node);
    return range;
  }

  excerpt(offset) {
    const text = this.slice(offset, offset + EXCERPT).trim();
    return offset + EXCERPT < this.size ? `${text}…` : text;
  }
}

function removedBecause({ kind, first_start: first }) {
  if (first < 0) return t("reason.earlier");
  if (kind === "loop") return t("reason.loop", { at: first + 1 });
  return t("reason.repeat", { kind: t(`unit.${kind}`), at: first + 1 });
}

const shown = new WeakMap();  // container -> the Marked in it

export function showMarked(container, text, checked) {
  hideTip();
  if (!shown.has(container)) listen(container);
  shown.set(container, new Marked(container, text, checked));
}

function listen(container) {
  const linkAt = (event) => event.target.closest?.("[role=link]");
  container.addEventListener("mouseover", (event) => { if (linkAt(event)) showTip(container, linkAt(event), event.clientY); });
  container.addEventListener("mouseout", hideTip);
  container.addEventListener("focusin", (event) => { if (linkAt(event)) showTip(container, linkAt(event)); });
  container.addEventListener("focusout", hideTip);
  container.addEventListener("scroll", hideTip);
  container.addEventListener("click", (event) => { if (linkAt(event)) goToFirst(container, linkAt(event)); });
  container.addEventListener("keydown", (event) => {
    const link = linkAt(event);
    if (event.key === "Escape") hideTip();
    if (!link) return;
    if (event.key === "Enter") goToFirst(container, link);
    const links = [...shown.get(container).links.keys()];
    const at = links.indexOf(link);
    const next = { ArrowRight: at + 1, ArrowDown: at + 1, ArrowLeft: at - 1, ArrowUp: at - 1, Home: 0, End: links.length - 1 }[event.key];
    if (next === undefined) return;
    event.preventDefault();
    if (!links[next]) return;
    link.tabIndex = -1;
    links[next].tabIndex = 0;
    links[next].focus();
  });
}

// at: y of the pointer; a link may be taller than its pane, and the tooltip belongs to one line.
function showTip(container, link, at) {
  const marked = shown.get(container);
  const { first, reason } = marked.links.get(link);
  const tip = find("tip");
  tip.replaceChildren(el("p", {}, reason));
  if (first >= 0) {
    tip.append(el("p", { class: "first" }, el("span", {}, t("first.occurrence")), " ", el("q", { dir: "auto" }, marked.excerpt(first))));
    highlight(marked.range(first));
  }
  for (const other of document.querySelectorAll("[aria-describedby=tip]")) other.removeAttribute("aria-describedby");
  link.setAttribute("aria-describedby", "tip");
  tip.hidden = false;
  const lines = [...link.getClientRects()];
  const pane = container.getBoundingClientRect();
  const box = lines.find((line) => line.top <= at && at <= line.bottom) ?? lines.find((line) => line.top >= pane.top) ?? lines[0];
  const { width, height } = tip.getBoundingClientRect();
  const below = box.bottom + 8 + height < innerHeight;
  tip.style.left = `${Math.max(8, Math.min(box.left, innerWidth - width - 8))}px`;
  tip.style.top = `${below ? box.bottom + 8 : Math.max(8, box.top - height - 8)}px`;
}

function hideTip() {
  find("tip").hidden = true;
  highlight(null);
}

function goToFirst(container, link) {
  const marked = shown.get(container);
  const { first } = marked.links.get(link);
  if (first < 0) return;
  const range = marked.range(first);
  const box = range.getClientRects()[0] ?? range.getBoundingClientRect();
  const inside = container.getBoundingClientRect();
  container.scrollTop += box.top - inside.top - container.clientHeight / 3;
  hideTip();
  highlight(range);
}

function highlight(range) {
  if (!globalThis.CSS?.highlights) return;
  if (range) CSS.highlights.set("first", new Highlight(range));
  else CSS.highlights.delete("first");
}

document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
