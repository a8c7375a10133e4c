// The view that completes a prompt twice: unfiltered and filtered.

import { el, find } from "./dom.js";
import { curl, python } from "./code.js";
import { chat, check, models, Refusal } from "./server.js";
import { showMarked } from "./marked.js";
import { number, onLanguage, t } from "./words.js";

// The bundled demo model continues a story; other models answer. The last example is Chinese.
const DEMO = "demo";
const STORIES = [
  "She had not slept since the night when her brother disappeared.",
  "The train left the station at noon.",
  "夜深了，屋里只点着一盏灯。",
];
const QUESTIONS = [
  "What should I cook tonight?",
  "List 50 actors and the years in which they were born.",
  "请写一篇关于灯塔看守人的长故事。",
];
const KNOBS = { temperature: "0", max_tokens: "256", seed: "", repetition_penalty: "", dry_multiplier: "", no_repeat_ngram_size: "" };
const MORE_KNOBS = {
  top_p: "", top_k: "", min_p: "", presence_penalty: "", frequency_penalty: "", dry_base: "", dry_allowed_length: "",
  lz_penalty: "", repetition_temperature: "",
};
// Characters. The next checks follow whenever the text has doubled, so that their cost is linear.
const FIRST_CHECK = 200;

let asking = null;  // AbortController of the requests in progress
let answers = null;  // {raw, filtered}

export function start() {
  for (const [id, knobs] of [["knobs", KNOBS], ["more-knobs", MORE_KNOBS]]) {
    find(id).append(...Object.entries(knobs).map(([name, value]) => el("label", { class: "field" },
      el("code", {}, name), el("input", { type: "number", step: "any", name, value, inputmode: "decimal" }))));
  }
  find("model").addEventListener("change", showExamples);
  find("key").value = sessionStorage.getItem("key") ?? "";
  find("key").addEventListener("change", () => {
    sessionStorage.setItem("key", find("key").value.trim());
    listModels();
  });
  find("question").addEventListener("submit", (event) => {
    event.preventDefault();
    ask();
  });
  find("prompt").addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) ask();
  });
  find("stop").addEventListener("click", () => asking?.abort());
  find("copy-curl").addEventListener("click", () => copy(curl(request())));
  find("copy-python").addEventListener("click", () => copy(python(request())));
  onLanguage(() => {
    nothingYet();
    if (answers) {
      for (const answer of Object.values(answers)) answer.show();
      updateFacts();
    }
  });
  nothingYet();
  listModels();
}

// Offer prompts that fit the model; one that the reader wrote stays.
function showExamples() {
  const examples = find("model").value === DEMO ? STORIES : QUESTIONS;
  const prompt = find("prompt");
  const isWritten = ![...STORIES, ...QUESTIONS, ""].includes(prompt.value);
  if (!isWritten && !examples.includes(prompt.value)) prompt.value = examples.at(document.documentElement.lang === "zh" ? -1 : 0);
  find("examples").replaceChildren(...examples.map((example) => {
    const button = el("button", { type: "button", class: "example", lang: /^\p{ASCII}/u.test(example) ? "en" : "zh" }, example);
    button.addEventListener("click", () => { prompt.value = example; });
    return button;
  }));
}

function nothingYet() {
  if (answers) return;
  find("raw").replaceChildren(el("p", { class: "empty" }, t("raw.empty")));
  find("filtered").replaceChildren(el("p", { class: "empty" }, t("filtered.empty")));
  showFacts([["loop", "–"], ["onset", "–"], ["saved", "–"], ["rep4", "–"]]);
}

async function listModels() {
  const select = find("model");
  try {
    const names = await models();
    select.replaceChildren(...names.map((name) => el("option", { value: name }, name)));
    fail(null);
  } catch (error) {
    select.replaceChildren(el("option", { value: "", "data-t": "model.none" }, t("model.none")));
    fail(error);
  }
  showExamples();
}

function fail(error) {
  const box = find("try-error");
  box.hidden = !error;
  box.textContent = error?.message ?? "";
}

// Return the body of the request that the form describes.
function request() {
  const body = {
    model: find("model").value,
    messages: [{ role: "user", content: find("prompt").value.toWellFormed() }],
    stream: true,
  };
  for (const input of document.querySelectorAll("#knobs input, #more-knobs input")) {
    if (input.value !== "") body[input.name] = Number(input.value);
  }
  body.repetition = { policy: find("try-policy").value, heal: find("heal").checked };
  return body;
}

async function ask() {
  asking?.abort();
  const signal = (asking = new AbortController()).signal;
  const filtered = request();
  const raw = { ...filtered, repetition: { policy: "off" } };
  const prompt = filtered.messages[0].content;
  fail(null);
  find("stop").disabled = false;
  find("try-status").textContent = "";
  answers = { raw: new RawAnswer(filtered.repetition.policy, prompt), filtered: new Answer("filtered") };
  showFacts([["loop", "…"], ["onset", "…"], ["saved", "…"], ["rep4", "…"]]);
  const ours = answers;
  await Promise.all([ours.raw.follow(raw, signal), ours.filtered.follow(filtered, signal)]);
  if (ours !== answers) return;
  find("stop").disabled = true;
  asking = null;
  updateFacts();
  find("try-status").textContent = t("done.status");
}

class Answer {
  constructor(id) {
    this.pane = find(id);
    this.stateLine = find(`${id}-state`);
    this.text = this.reasoning = "";
    this.unshown = "";
    this.finish = null;
    this.state = "streaming";
    this.checked = null;
    this.pane.replaceChildren();
    this.showState();
  }

  async follow(body, signal) {
    try {
      for await (const chunk of chat(body, signal)) {
        const choice = chunk.choices?.[0];
        if (!choice) continue;
        const { content, reasoning, reasoning_content: thought } = choice.delta ?? {};
        if (reasoning ?? thought) this.think(reasoning ?? thought);
        if (content) this.add(content);
        if (choice.finish_reason) this.finish = choice;
      }
      const { stop_reason: stopReason, repetition } = this.finish ?? {};
      this.state = stopReason === "repetition_detected" ? "cut" : repetition?.healed ? "healed" : "done";
    } catch (error) {
      this.state = error.name === "AbortError" ? "stopped" : "failed";
      if (this.state === "failed") {
        if (!(error instanceof Refusal)) console.error(error);
        if (this.current()) fail(error);
      }
    }
    this.flush();
    await this.measure();
    if (this.current()) this.show();
  }

  current() {
    return answers !== null && Object.values(answers).includes(this);
  }

  think(text) {
    this.reasoning += text;
    if (!this.current()) return;
    this.thoughts ??= el("p", { class: "reasoning", "data-t-label": "reasoning", "aria-label": t("reasoning") });
    if (!this.thoughts.parentNode) this.pane.prepend(this.thoughts);
    this.thoughts.append(text);
  }

  // Show text once per frame, however many chunks arrive.
  add(text) {
    this.text += text;
    this.unshown += text;
    if (!this.due) {
      this.due = true;
      requestAnimationFrame(() => this.flush());
    }
  }

  flush() {
    this.due = false;
    if (!this.unshown || !this.current()) return;
    const atEnd = this.pane.scrollHeight - this.pane.scrollTop - this.pane.clientHeight < 40;
    this.pane.append(this.unshown);
    this.unshown = "";
    if (atEnd) this.pane.scrollTop = this.pane.scrollHeight;
  }

  async measure() {
    this.checked = await check({ text: this.text, policy: "watch" }).catch(() => null);
  }

  show() {
    this.showState();
    this.pane.replaceChildren(...(this.thoughts ? [this.thoughts] : []), this.text);
  }

  showState() {
    const reason = this.finish?.finish_reason ?? "";
    this.stateLine.textContent = t(`state.${this.state}`, { reason });
    this.stateLine.dataset.state = this.state;
  }
}

// The unfiltered answer, with what the filter would remove marked. It is checked while it grows.
class RawAnswer extends Answer {
  constructor(policy, prompt) {
    super("raw");
    this.policy = policy;
    this.prompt = prompt;
    this.nextCheck = FIRST_CHECK;
    this.done = false;
  }

  add(text) {
    super.add(text);
    if (this.text.length >= this.nextCheck) {
      this.nextCheck = Infinity;
      this.look();
    }
  }

  async look() {
    const text = this.text;
    const checked = await this.ask(text);
    this.nextCheck = text.length * 2;
    if (this.done || !checked || !this.current()) return;
    const rest = this.text.slice(text.length);
    const { scrollTop } = this.pane;
    showMarked(this.pane, text, checked);
    this.pane.append(rest);
    if (this.thoughts) this.pane.prepend(this.thoughts);
    this.unshown = "";
    this.pane.scrollTop = scrollTop;
  }

  ask(text) {
    return check({ text, policy: this.policy, prompt: this.prompt }).catch((error) => {
      if (this.current()) fail(error);
      return null;
    });
  }

  async measure() {
    this.done = true;
    this.nextCheck = Infinity;
    this.checked = await this.ask(this.text);
  }

  show() {
    this.showState();
    showMarked(this.pane, this.text, this.checked);
    if (this.thoughts) this.pane.prepend(this.thoughts);
    this.pane.scrollTop = 0;
  }
}

function updateFacts() {
  const { raw, filtered } = answers;
  const loop = raw.checked?.loop;
  const rep4 = (answer) => (answer.checked ? number(answer.checked.metrics.rep_4, 2) : "–");
  showFacts([
    ["loop", loop ? t("fact.times", { kind: t(`kind.${loop.kind}`), period: number(loop.period) }) : t("fact.none")],
    ["onset", loop ? t("fact.at", { at: number(loop.onset + 1) }) : "–"],
    ["saved", raw.checked ? number(raw.checked.removed_chars) : "–"],
    ["rep4", `${rep4(raw)} → ${rep4(filtered)}`],
  ]);
}

function showFacts(facts) {
  find("facts").replaceChildren(...facts.map(([name, value]) =>
    el("div", { "data-fact": name }, el("dt", {}, t(`fact.${name}`)), el("dd", {}, value))));
}

async function copy(text) {
  const code = find("code");
  code.hidden = false;
  code.textContent = text;
  try {
    await navigator.clipboard.writeText(text);
    find("copied").textContent = t("copied");
  } catch {
    getSelection().selectAllChildren(code);
    find("copied").textContent = t("copy.failed");
  }
}
