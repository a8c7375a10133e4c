// The card of agents in loops: what was done about them in the last minutes. Hidden while there are none.

import { el, find } from "./dom.js";
import { number, percent, t } from "./words.js";

const ACTIONS = ["measured", "nudged", "answered", "stopped"];
const OUTCOMES = ["recovered", "repeated"];

// Return the quantity that a sample counts; undefined of other samples.
export function quantityOf(name, labels) {
  if (name === "dedup_agent_loops_total") return `agents/${labels.action}`;
  if (name === "dedup_agent_nudges_total") return `nudges/${labels.outcome}`;
  return name === "dedup_agent_loop_tokens_total" ? "agents/tokens" : undefined;
}

// Show the card. grown: the increase of a quantity.
export function drawAgents(grown) {
  const actions = ACTIONS.map((action) => [action, grown(`agents/${action}`)]);
  const [recovered, repeated] = OUTCOMES.map((outcome) => grown(`nudges/${outcome}`));
  const asked = recovered + repeated;
  const facts = [
    ...actions.map(([action, count]) => [action, number(count)]),
    ["tokens", number(grown("agents/tokens"))],
    ["helped", asked ? t("agents.of", { part: number(recovered), all: number(asked), share: percent(recovered / asked) }) : "–"],
  ];
  find("agents").hidden = actions.every(([, count]) => !count);
  find("agents-facts").replaceChildren(...facts.map(([name, value]) =>
    el("div", { "data-agents": name }, el("dt", {}, t(`agents.${name}`)), el("dd", {}, value))));
}
