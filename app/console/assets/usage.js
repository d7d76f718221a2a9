import uPlot from "/console/vendor/uPlot.esm.js";

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const scales = { x: { range: (_, least, most) => (least === most ? [least - 43200, most + 43200] : [least, most]) } };
const axis = { stroke: colour("--ink"), grid: { stroke: colour("--line") } };

const latency = document.querySelector("#latency");
const hours = [...document.querySelectorAll("#hours tbody tr")].reverse();
if (hours.length) {
  const values = (name) => hours.map((row) => (row.dataset[name] ? Number(row.dataset[name]) : null));
  const line = (label, name) => ({ label, stroke: colour(name), width: 2, points: { show: true } });
  new uPlot(
    {
      width: Math.min(latency.clientWidth, 900), height: 220, scales, axes: [axis, { ...axis, size: 70 }],
      series: [{}, line("p50", "--good"), line("p95", "--warn"), line("p99", "--bad")],
    },
    [values("hour"), values("p50"), values("p95"), values("p99")],
    latency,
  );
}

const plot = document.querySelector("#plot");
const rows = [...document.querySelectorAll("#day tbody tr")].filter((row) => row.dataset.key);
if (rows.length) {
  const days = rows.map((row) => Date.parse(`${row.dataset.key}T00:00:00Z`) / 1000);
  const values = (name) => rows.map((row) => Number(row.dataset[name]));
  const series = (label, name) => ({ label, stroke: colour(name), width: 2, points: { show: true } });
  new uPlot(
    {
      width: Math.min(plot.clientWidth, 900), height: 220, scales, axes: [axis, { ...axis, size: 70 }],
      series: [{}, series(plot.dataset.input, "--user"), series(plot.dataset.output, "--good")],
    },
    [days, values("input"), values("output")],
    plot,
  );
}
