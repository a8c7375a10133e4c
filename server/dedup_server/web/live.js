// The view of /metrics over the last minutes: charts with a line per model, and a table.

import { drawAgents, quantityOf } from "./agents.js";
import { chart } from "./chart.js";
import { el, find } from "./dom.js";
import { parse, quantile } from "./exposition.js";
import { metrics } from "./server.js";
import { number, onLanguage, percent, t } from "./words.js";

const EVERY = 2000;  // ms between two scrapes
const KEPT = 5 * 60_000;  // ms shown
const WINDOW = 20_000;  // ms that a point of a rate covers
const MAX_LINES = 6;

const readings = [];  // {at: ms, models: Map(name -> Map(quantity -> total))}
let timer = null;
let visible = false;
let goneSince = null;

const milliseconds = (seconds) => `${(seconds * 1000).toLocaleString(document.documentElement.lang, { maximumSignificantDigits: 3 })} ms`;
const count = (value) => number(value, value < 10 && value % 1 ? 1 : 0);
// A share is also told of all since the server's start, where the last minutes have none.
const QUANTITIES = [
  { name: "ratio", share: true, top: 1, show: percent, of: (grown) => (grown("answers") ? grown("ratio") / grown("answers") : null) },
  { name: "loops", top: 2, show: count, of: (grown, minutes) => grown("loops") / minutes },
  {
    name: "removed", share: true, top: 1, show: percent,
    of: (grown) => (grown("removed") + grown("output") ? grown("removed") / (grown("removed") + grown("output")) : null),
  },
  { name: "overhead", share: true, top: 0.001, show: milliseconds, of: (grown, minutes, bounds) => quantile(0.99, bounds.map((bound) => [bound, grown(`overhead<=${bound}`)])) },
  { name: "streams", top: 2, show: count, of: (grown, minutes, bounds, last) => last("streams") },
  { name: "requests", top: 2, show: count, of: (grown, minutes) => grown("requests") / minutes },
];
const COUNTED = {
  dedup_repetition_ratio_sum: "ratio",
  dedup_repetition_ratio_count: "answers",
  dedup_loops_total: "loops",
  dedup_removed_chars_total: "removed",
  dedup_output_chars_total: "output",
  dedup_streams_in_progress: "streams",
  dedup_requests_total: "requests",
};

export function start() {
  document.addEventListener("visibilitychange", go);
  onLanguage(draw);
  draw();
}

export function shown(isShown) {
  visible = isShown;
  go();
  if (!visible && !readings.length) first();
}

// Read once, so that what is counted until the view is shown is seen as growth.
async function first() {
  const began = Date.now();
  const text = await metrics().catch(() => null);
  if (text !== null && !readings.length) take(began, text);
}

function go() {
  clearTimeout(timer);
  if (visible && !document.hidden) read();
  else showStatus(t("live.paused"), "paused");
}

async function read() {
  const began = Date.now();
  try {
    take(began, await metrics());
    showStatus(t(readings.length > 1 ? "live.on" : "live.waiting"), "on");
    goneSince = null;
  } catch {
    goneSince ??= new Date();
    showStatus(t("live.gone", { time: goneSince.toLocaleTimeString(document.documentElement.lang) }), "gone");
  }
  draw();
  clearTimeout(timer);
  if (visible && !document.hidden) timer = setTimeout(read, EVERY);
}

function showStatus(text, state) {
  const line = find("live-state");
  if (line.textContent !== text) line.textContent = text;  // announced on a change only
  line.dataset.state = state;
}

function take(at, exposition) {
  const models = new Map();
  for (const { name, labels, value } of parse(exposition)) {
    const isBucket = name === "dedup_overhead_seconds_bucket";
    const quantity = isBucket ? `overhead<=${labels.le === "+Inf" ? Infinity : Number(labels.le)}` : COUNTED[name] ?? quantityOf(name, labels);
    if (quantity === undefined || labels.model === undefined) continue;
    if (!models.has(labels.model)) models.set(labels.model, new Map());
    const counts = models.get(labels.model);
    counts.set(quantity, (counts.get(quantity) ?? 0) + value);
  }
  readings.push({ at, models });
  while (readings[0].at < at - KEPT - WINDOW) readings.shift();
}

// Return the increase of a counter between two scrapes; a restart resets it.
function growth(from, to, model, quantity) {
  const before = from.models.get(model)?.get(quantity) ?? 0;
  const after = to.models.get(model)?.get(quantity) ?? 0;
  return after >= before ? after - before : after;
}

function valueOf(quantity, from, to, names) {
  const sum = (one) => names.reduce((total, model) => total + one(model), 0);
  const grown = (what) => sum((model) => growth(from, to, model, what));
  const last = (what) => sum((model) => to.models.get(model)?.get(what) ?? 0);
  const bounds = new Set();
  for (const model of names) {
    for (const what of to.models.get(model)?.keys() ?? []) if (what.startsWith("overhead<=")) bounds.add(Number(what.slice(10)));
  }
  const value = quantity.of(grown, (to.at - from.at) / 60_000, [...bounds], last);
  return Number.isFinite(value) ? value : null;
}

// Return the points [ms before now, value or null] of one line.
function points(quantity, names, now) {
  const line = [];
  let from = 0;
  for (let at = 1; at < readings.length; at += 1) {
    while (readings[from].at < readings[at].at - WINDOW && from < at - 1) from += 1;
    const to = readings[at];
    if (to.at >= now - KEPT) line.push([now - to.at, valueOf(quantity, readings[from], to, names)]);
  }
  return line;
}

function draw() {
  const now = readings.at(-1)?.at ?? Date.now();
  const names = modelsByUse();
  const lines = names.slice(0, MAX_LINES);
  find("legend").replaceChildren(...lines.map((name, index) => el("li", { class: `line${index}` }, el("bdi", {}, name))));
  find("charts").replaceChildren(...QUANTITIES.map((quantity) => {
    const title = t(`chart.${quantity.name}`);
    const series = lines.map((name) => points(quantity, [name], now));
    const all = points(quantity, names, now).map(([, value]) => value);
    const last = all.findLast((value) => value !== null) ?? null;
    const known = series.flat().map(([, value]) => value).filter((value) => value !== null);
    const total = last === null ? sinceStart(quantity, names) : null;
    const shownValue = shownOf(quantity, last ?? total);
    const label = known.length
      ? t("chart.label", { title, value: shownValue, most: quantity.show(Math.max(...known)) })
      : `${title}: ${t("live.quiet")}`;
    return el("article", { class: "card chart", "data-chart": quantity.name },
      el("header", {}, el("h3", {}, title), el("b", {}, shownValue), ...(total === null ? [] : [el("small", {}, t("live.start"))])),
      chart(series, { span: KEPT, top: quantity.top, show: quantity.show, label }),
      el("p", { class: "hint" }, t(`chart.${quantity.name}.hint`)));
  }));
  const [from, to] = ends();
  drawAgents((what) => (from === to ? 0 : names.reduce((total, model) => total + growth(from, to, model, what), 0)));
  table(names);
}

function shownOf(quantity, value) {
  return value === null ? "–" : quantity.show(value);
}

// Return a share of all since the server's start; null if there is none.
function sinceStart(quantity, names) {
  const to = readings.at(-1);
  return to && quantity.share ? valueOf(quantity, { at: 0, models: new Map() }, to, names) : null;
}

// Return the first scrape that is shown and the last; twice undefined before there is one.
function ends() {
  const to = readings.at(-1);
  return [readings.find((reading) => reading.at >= to.at - KEPT), to];
}

function modelsByUse() {
  const latest = readings.at(-1)?.models ?? new Map();
  const use = (name) => latest.get(name).get("requests") ?? 0;
  return [...latest.keys()].filter((name) => use(name) || latest.get(name).get("streams")).sort((one, other) => use(other) - use(one));
}

function table(names) {
  const head = ["model", ...QUANTITIES.map((quantity) => `chart.${quantity.name}`)];
  const rows = [...names.map((name) => [name, [name]]), ...(names.length > 1 ? [[t("live.all"), names]] : [])];
  const [from, to] = ends();
  const cells = (group) => QUANTITIES.map((quantity) => {
    const value = from !== to ? valueOf(quantity, from, to, group) : null;
    const total = value === null ? sinceStart(quantity, group) : null;
    return el("td", total === null ? {} : { class: "since", title: t("live.start") }, shownOf(quantity, value ?? total));
  });
  find("live-table").replaceChildren(
    el("caption", {}, t("live.table")),
    el("thead", {}, el("tr", {}, ...head.map((key) => el("th", { scope: "col" }, t(key))))),
    el("tbody", {}, ...(rows.length
      ? rows.map(([name, group]) => el("tr", {}, el("th", { scope: "row" }, el("bdi", {}, name)), ...cells(group)))
      : [el("tr", {}, el("td", { colspan: head.length }, t("live.quiet")))])));
}
