// The self-similarity plot: rows and columns are places in the text, a dot marks two equal ones.

import { colour } from "./dom.js";
import { colourOf } from "./marked.js";

const MAX_CELLS = 320;  // per side; of longer texts, a cell covers several places
const WORDS_IN_A_ROW = 3;
const WORD = /[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|[\p{L}\p{N}]+/gu;

// Draw the plot. Return the number of places, and the share of equal pairs of different places.
// The cost is at most the number of places times MAX_CELLS, even if all places are equal.
export function drawDots(canvas, level, text, checked) {
  const keys = level === "words" ? wordKeys(text) : checked.sentences.map(({ group }) => group);
  const cells = Math.max(1, Math.min(MAX_CELLS, keys.length));
  const cellOf = (index) => Math.floor((index * cells) / keys.length);
  const places = new Map();  // key -> {times, cells it occurs in}
  keys.forEach((key, index) => {
    if (key === null) return;
    const place = places.get(key) ?? places.set(key, { times: 0, cells: [] }).get(key);
    place.times += 1;
    if (place.cells.at(-1) !== cellOf(index)) place.cells.push(cellOf(index));
  });
  canvas.width = canvas.height = cells;
  const context = canvas.getContext("2d");
  const image = context.createImageData(cells, cells);
  const paint = painter(image, cells);
  const alone = rgb("--dot-alone");
  for (let at = 0; at < cells; at += 1) paint(at, at, alone);
  const colours = level === "words" ? [rgb("--accent")] : Array.from({ length: 8 }, (_, index) => rgb(`--c${index}`));
  let pairs = 0;
  for (const [key, { times, cells: where }] of places) {
    if (times < 2) continue;
    pairs += times * (times - 1);
    const ink = level === "words" ? colours[0] : colours[colourOf(key)];
    for (const row of where) for (const column of where) paint(row, column, ink);
  }
  context.putImageData(image, 0, 0);
  return { count: keys.length, share: pairs ? pairs / (keys.length * (keys.length - 1)) : 0 };
}

// Runs of words, and of characters of unspaced scripts; case and width are ignored.
function wordKeys(text) {
  const words = text.normalize("NFKC").toLowerCase().match(WORD) ?? [];
  return words.map((_, at) => (at + WORDS_IN_A_ROW <= words.length ? words.slice(at, at + WORDS_IN_A_ROW).join("\0") : null));
}

const rgb = (name) => colour(name).match(/\d+/g).slice(0, 3).map(Number);

function painter(image, cells) {
  return (row, column, [red, green, blue]) => {
    const at = (row * cells + column) * 4;
    image.data[at] = red;
    image.data[at + 1] = green;
    image.data[at + 2] = blue;
    image.data[at + 3] = 255;
  };
}
