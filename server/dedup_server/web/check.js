// The view that checks a text: its repeats in place, as metrics and as a plot.

import { drawDots } from "./dots.js";
import { el, find } from "./dom.js";
import { showMarked } from "./marked.js";
import { check } from "./server.js";
import { number, onLanguage, percent, t } from "./words.js";

const SHOWN = [
  "rep_1", "rep_2", "rep_3", "rep_4", "rep_w", "distinct_1", "distinct_2", "diversity", "duplicate_sentences", "duplicate_lines",
  "duplicate_paragraphs", "top_2gram_chars", "top_3gram_chars", "top_4gram_chars", "duplicate_5gram_chars", "duplicate_10gram_chars",
  "compression_ratio", "units",
];
const EXAMPLES = [
  `The river rose in the night. Nobody in the village slept, for the water had come up to the mill before and taken two of its walls.
By morning the bridge was gone. Nobody in the village slept, for the water had come up to the mill before and taken two of its walls.

What we found at the mill:
- two walls gone, the wheel still turning
- the miller’s cat on the roof
- two walls gone, the wheel still turning

The old road is under water as far as the church. ${"I have to see what is left of the bridge, and so I go down to the river again. ".repeat(6)}`,
  `夜里河水涨了，村里没有一个人睡着。水一直涨到磨坊，冲走了两面墙，磨轮还在转。
天亮的时候，桥已经不见了。水一直涨到磨坊，冲走了两面墙，磨轮还在转。

旧路一直到教堂都在水下。${"我得去看看桥还剩下什么，于是我又一次走到河边。".repeat(6)}`,
];

let shown = null;  // {text, checked}

export function start() {
  find("check-examples").append(...EXAMPLES.map((example, index) => {
    const button = el("button", { type: "button", class: "example", lang: index ? "zh" : "en" }, `${example.slice(0, index ? 20 : 44)}…`);
    button.addEventListener("click", () => {
      find("text").value = example;
      count();
      ask();
    });
    return button;
  }));
  find("text").addEventListener("input", count);
  find("check-form").addEventListener("submit", (event) => {
    event.preventDefault();
    ask();
  });
  find("text").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) ask();
  });
  find("level").addEventListener("change", redraw);
  onLanguage(() => {
    count();
    if (shown) show();
  });
  count();
}

function count() {
  find("check-chars").textContent = t("chars", { count: number(find("text").value.length) });
}

let asked = null;

async function ask() {
  const text = find("text").value.toWellFormed();
  asked?.abort();
  const { signal } = (asked = new AbortController());
  find("check-error").hidden = true;
  find("verdict").textContent = t("checking");
  try {
    const checked = await check({ text, policy: find("check-policy").value, on_loop: "skip" }, signal);
    if (signal.aborted) return;
    shown = { text, checked };
    show();
  } catch (error) {
    if (error.name === "AbortError") return;
    find("verdict").textContent = "";
    find("check-error").textContent = error.message;
    find("check-error").hidden = false;
  }
}

function show() {
  const { text, checked } = shown;
  find("found").hidden = false;
  find("verdict").textContent = verdict(checked);
  find("verdict").dataset.loops = checked.loop !== null;
  showMarked(find("marked"), text, checked);
  find("numbers").replaceChildren(
    el("thead", {}, el("tr", {}, ...["metric", "value"].map((key) => el("th", { scope: "col" }, t(key))))),
    el("tbody", {}, ...SHOWN.map((name) => el("tr", { "data-metric": name },
      el("th", { scope: "row" }, el("span", {}, el("code", {}, name), " ", el("small", {}, t(`m.${name}`)))),
      el("td", {}, number(checked.metrics[name], name === "units" ? 0 : 3))))));
  redraw();
}

function verdict({ loop, removed_chars: removed, sentences, chars }) {
  const groups = new Set(sentences.map(({ group }) => group).filter((group) => group !== null)).size;
  const what = loop && t("fact.times", { kind: t(`kind.${loop.kind}`), period: number(loop.period) });
  const values = { groups: number(groups), sentences: number(sentences.length), removed: number(removed), share: percent(removed / (chars || 1)) };
  const sum = groups || removed ? t("check.sum", values) : t("check.clean", values);
  return `${loop ? t("check.loop", { what, at: number(loop.onset + 1) }) : t("check.noloop")} ${sum}`;
}

export function redraw() {
  if (!shown) return;
  const level = find("level").value;
  const { count: size, share } = drawDots(find("dots"), level, shown.text, shown.checked);
  find("dots").setAttribute("aria-label", t("plot.label", { count: number(size), unit: t(`plot.unit.${level}`), share: percent(share) }));
}
