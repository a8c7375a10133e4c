// A small line chart as SVG.

import { svg } from "./dom.js";
import { t } from "./words.js";

const [WIDTH, HEIGHT] = [340, 132];
const [LEFT, RIGHT, TOP, BOTTOM] = [46, 8, 10, 20];

// series: one per line, points [ms ago, value or null]. span: ms that the chart covers. top: lower
// bound of the value at its upper edge.
export function chart(series, { span, top, show, label }) {
  const values = series.flat().map(([, value]) => value ?? 0);
  const most = nice(Math.max(top, ...values));
  const x = (ago) => LEFT + (1 - ago / span) * (WIDTH - LEFT - RIGHT);
  const y = (value) => TOP + (1 - value / most) * (HEIGHT - TOP - BOTTOM);
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label });
  for (const share of [0, 0.5, 1]) {
    const level = y(most * share);
    picture.append(
      svg("line", { class: share ? "grid" : "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: level, y2: level }),
      svg("text", { x: LEFT - 6, y: level + 3.5, "text-anchor": "end" }, show(most * share)));
  }
  const minutes = span / 60_000;
  picture.append(
    svg("text", { x: LEFT, y: HEIGHT - 5 }, t("ago", { minutes })),
    svg("text", { x: WIDTH - RIGHT, y: HEIGHT - 5, "text-anchor": "end" }, t("now")));
  series.forEach((points, index) => {
    for (const run of runs(points)) {
      const path = run.map(([ago, value], at) => `${at ? "L" : "M"}${x(ago).toFixed(1)} ${y(value).toFixed(1)}`).join("");
      picture.append(svg("path", { class: `line line${index}`, d: run.length > 1 ? path : `${path}h.01` }));
    }
    const [ago, value] = points.at(-1) ?? [0, null];
    if (value !== null) picture.append(svg("circle", { class: `dot line${index}`, cx: x(ago), cy: y(value), r: 2.6 }));
  });
  return picture;
}

// Return the runs of points that have a value; between them, the line has a gap.
function runs(points) {
  const found = [];
  let open = false;
  for (const point of points) {
    if (point[1] === null) open = false;
    else if (open) found.at(-1).push(point);
    else {
      found.push([point]);
      open = true;
    }
  }
  return found;
}

// Return the next larger of 1, 2 and 5 times a power of ten.
function nice(value) {
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value * 0.9999) ?? value;
}
