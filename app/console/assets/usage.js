import uPlot from "../vendor/uPlot.esm.js";

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const scales = { x: { range: (_, least, most) => (least === most ? [least - 43200, most + 43200] : [least, most]) } };
const axis = { stroke: colour("--ink"), grid: { stroke: colour("--line") } };

// Lines over time, of the numbers that a table's rows have. Args: lines: of each its label, number and colour.
function plot(place, rows, time, lines) {
  if (!rows.length) return;
  const values = (name) => rows.map((row) => (row.dataset[name] ? Number(row.dataset[name]) : null));
  const series = lines.map(([label, , name]) => ({ label, stroke: colour(name), width: 2, points: { show: true } }));
  new uPlot(
    { width: Math.min(place.clientWidth, 900), height: 220, scales, axes: [axis, { ...axis, size: 70 }], series: [{}, ...series] },
    [rows.map(time), ...lines.map(([, name]) => values(name))],
    place,
  );
}

plot(
  document.querySelector("#latency"),
  [...document.querySelectorAll("#hours tbody tr")].reverse(),
  (row) => Number(row.dataset.hour),
  [["p50", "p50", "--good"], ["p95", "p95", "--warn"], ["p99", "p99", "--bad"]],
);

const tokens = document.querySelector("#plot");
plot(
  tokens,
  [...document.querySelectorAll("#day tbody tr")].filter((row) => row.dataset.key),
  (row) => Date.parse(`${row.dataset.key}T00:00:00Z`) / 1000,
  [[tokens.dataset.input, "input", "--user"], [tokens.dataset.output, "output", "--good"]],
);
