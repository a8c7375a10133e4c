// Prometheus's text format, and quantiles of its histograms.

const LINE = /^([a-zA-Z_:][\w:]*)(?:\{(.*)\})?\s+(\S+)/;
const LABEL = /([a-zA-Z_]\w*)="((?:[^"\\]|\\.)*)"/g;
const ESCAPED = { n: "\n" };

// Return the [{name, labels, value}] of an exposition.
export function parse(text) {
  const samples = [];
  for (const line of text.split("\n")) {
    const found = line.startsWith("#") ? null : LINE.exec(line);
    if (!found) continue;
    const labels = {};
    for (const [, name, value] of (found[2] ?? "").matchAll(LABEL)) {
      labels[name] = value.replace(/\\(.)/g, (_, char) => ESCAPED[char] ?? char);
    }
    samples.push({ name: found[1], labels, value: number(found[3]) });
  }
  return samples;
}

function number(text) {
  return text === "+Inf" ? Infinity : text === "-Inf" ? -Infinity : Number(text);
}

// Return the quantile q as PromQL's histogram_quantile does: linear within a bucket, the last
// finite bound beyond it, null without observations. buckets: [[upper bound, cumulative count]].
export function quantile(q, buckets) {
  const sorted = [...buckets].sort((one, other) => one[0] - other[0]);
  const total = sorted.at(-1)?.[1] ?? 0;
  if (!total) return null;
  const rank = q * total;
  let [below, counted] = [0, 0];
  for (const [bound, count] of sorted) {
    if (count >= rank) return bound === Infinity ? below : below + ((bound - below) * (rank - counted)) / (count - counted || 1);
    [below, counted] = [bound, count];
  }
  return below;
}
