// The frame: tabs kept in the address, theme and language.

import { find, el } from "./dom.js";
import { onLanguage, speak, currentLanguage, t, translate } from "./words.js";
import * as tryIt from "./try.js";
import * as live from "./live.js";
import * as check from "./check.js";

const VIEWS = ["try", "live", "check"];
const POLICIES = ["off", "watch", "loops", "balanced", "strict"];

for (const select of document.querySelectorAll("select.policies")) {
  select.append(...POLICIES.map((policy) => el("option", { value: policy, "data-t": `policy.${policy}` })));
  select.value = "balanced";
}

function show() {
  const asked = location.hash.slice(2);
  const view = VIEWS.includes(asked) ? asked : "try";
  for (const name of VIEWS) {
    const tab = find(`tab-${name}`);
    tab.setAttribute("aria-selected", name === view);
    tab.tabIndex = name === view ? 0 : -1;
    find(`view-${name}`).hidden = name !== view;
  }
  live.shown(view === "live");
}

for (const name of VIEWS) {
  find(`tab-${name}`).addEventListener("click", () => { location.hash = `#/${name}`; });
}
document.querySelector("[role=tablist]").addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
  const at = VIEWS.findIndex((name) => event.target.id === `tab-${name}`);
  const next = { Home: 0, End: VIEWS.length - 1 }[event.key] ?? (step && (at + step + VIEWS.length) % VIEWS.length);
  if (next === undefined) return;
  event.preventDefault();
  find(`tab-${VIEWS[next]}`).focus();
  location.hash = `#/${VIEWS[next]}`;
});
window.addEventListener("hashchange", show);
find("skip").addEventListener("click", (event) => {  // the fragment is the current view
  event.preventDefault();
  find("main").focus();
});

const theme = find("theme");
theme.value = document.documentElement.dataset.theme ?? "auto";
theme.addEventListener("change", () => {
  if (theme.value === "auto") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme.value;
  localStorage.setItem("theme", theme.value);
  check.redraw();
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", check.redraw);

function nameLanguage() {
  find("language").textContent = t("language");
  find("language").setAttribute("lang", currentLanguage() === "zh" ? "en" : "zh");
}
find("language").addEventListener("click", () => speak(currentLanguage() === "zh" ? "en" : "zh"));
onLanguage(nameLanguage);

translate();
nameLanguage();
tryIt.start();
check.start();
live.start();
show();
