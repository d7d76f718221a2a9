// Charts over time. Their numbers come from tables in the page, so nothing is fetched and screen readers can read them.
import uPlot from "../vendor/uPlot.esm.js";
import { element } from "./words.js";

const HEIGHT = 220;
const DAY = 86_400;
const MOST_POINTS = 10_000;
const WHOLE = Array.from({ length: 45 }, (_, place) => [1, 2, 5][place % 3] * 10 ** Math.floor(place / 3)); // 1, 2, 5, 10, 20 …
const language = document.documentElement.lang || "en";
const compact = new Intl.NumberFormat(language, { notation: "compact", maximumSignificantDigits: 3 });
const exact = new Intl.NumberFormat(language, { maximumFractionDigits: 6 });
const utc = (options) => new Intl.DateTimeFormat(language, { timeZone: "UTC", ...options });
const day = utc({ month: "short", day: "numeric" });
const hour = utc({ hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const moment = utc({ year: "numeric", month: "short", day: "numeric", hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
const date = utc({ year: "numeric", month: "short", day: "numeric" });

const colour = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

function amount(value, unit, format = exact) {
  if (value === null || value === undefined) return "–";
  if (unit === "ms") return value < 1000 ? `${format.format(value)} ms` : `${format.format(value / 1000)} s`;
  return unit ? `${format.format(value)} ${unit}` : format.format(value);
}

// Fills in missing points with null, so that lines break there.
function regular(times, series, step) {
  const count = times.length ? Math.round((times.at(-1) - times[0]) / step) + 1 : 0;
  if (count <= times.length || count > MOST_POINTS) return [times, series.map((each) => each.values)];
  const all = Array.from({ length: count }, (_, place) => times[0] + place * step);
  const places = times.map((time) => Math.round((time - times[0]) / step));
  const spread = (values) => {
    const row = Array(count).fill(null);
    places.forEach((place, index) => { row[place] = values[index]; });
    return row;
  };
  return [all, series.map((each) => spread(each.values))];
}

// Finds points without neighbours, which a line would not show.
function alone(values) {
  const absent = (value) => value === null || value === undefined;
  return values.flatMap((value, index) => (!absent(value) && absent(values[index - 1]) && absent(values[index + 1]) ? [index] : []));
}

// Draws a chart into an element of the page.
//   times: Unix seconds, ascending. series: [{label, values, colour}], colour is the name of a token.
//   stacked: bars upon each other. bars: false for lines. unit: "", "ms" or a currency.
//   since, until: the time that the chart spans. select(since, until): a time that somebody has marked.
export function timeSeries(place, { times, series, stacked = false, bars = stacked, unit = "", step = 3600, since = null, until = null, select = null }) {
  const [xs, raw] = regular(times, series, step);
  const tops = stacked
    ? raw.map((_, index) => xs.map((_, point) => raw.slice(0, index + 1).reduce((sum, values) => sum + (values[point] ?? 0), 0)))
    : raw;
  const order = series.map((_, index) => index);
  if (stacked) order.reverse(); // The highest bar lies behind the others.
  const left = since === null ? xs[0] ?? 0 : Math.min(since, xs[0] ?? since);
  const right = Math.max(until ?? 0, (xs.at(-1) ?? 0) + (bars ? step : 0), left + step);
  const tooltip = element("div", { className: "tooltip", hidden: true });
  const axis = { stroke: () => colour("quiet"), font: "12px system-ui, sans-serif", grid: { stroke: () => colour("line"), width: 1 }, ticks: { show: false } };
  const options = {
    width: Math.max(place.clientWidth, 120),
    height: HEIGHT,
    legend: { show: false },
    tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
    cursor: { points: { show: !bars }, drag: { x: select !== null, y: false, setScale: false }, y: false },
    scales: { x: { range: () => [left, right] }, y: { range: (_, __, most) => [0, most > 0 ? most * 1.1 : 1] } },
    axes: [
      { ...axis, grid: { show: false }, size: 28, space: 64, values: (_, splits) => splits.map((at) => (at % DAY === 0 ? day : hour).format(at * 1000)) },
      { ...axis, size: 58, values: (_, splits) => splits.map((value) => amount(value, unit === "ms" ? unit : "", compact)) },
    ],
    series: [
      {},
      ...order.map((index) => ({
        label: series[index].label,
        stroke: () => colour(series[index].colour),
        ...(bars
          ? { width: 0, fill: () => colour(series[index].colour), paths: uPlot.paths.bars({ size: [0.8, 48], align: 1, radius: stacked ? 0 : 0.1 }), points: { show: false } }
          : { width: 2, points: { size: 6, show: xs.length <= 60, filter: () => alone(raw[index]), fill: () => colour(series[index].colour) } }),
      })),
    ],
    hooks: {
      setCursor: [(chart) => told(chart)],
      setSelect: [(chart) => {
        if (!select || chart.select.width < 4) return;
        const [begin, end] = [chart.select.left, chart.select.left + chart.select.width].map((x) => chart.posToVal(x, "x"));
        select(begin, end);
      }],
    },
  };
  if (raw.flat().every((value) => value === null || Number.isInteger(value))) options.axes[1].incrs = WHOLE; // Whole numbers get whole ticks.

  function told(chart) {
    const { idx, left: x } = chart.cursor;
    tooltip.hidden = idx === null || idx === undefined || x < 0;
    if (tooltip.hidden) return;
    const head = element("strong", { textContent: (step >= DAY ? date : moment).format(xs[idx] * 1000) });
    const lines = element("dl");
    series.forEach((each, index) => {
      lines.append(
        element("dt", { className: each.colour, textContent: each.label }),
        element("dd", { textContent: amount(raw[index][idx], unit) }),
      );
    });
    tooltip.replaceChildren(head, lines);
    const beside = chart.over.offsetLeft + x;
    tooltip.style.left = `${Math.max(0, beside + 12 + tooltip.offsetWidth > place.clientWidth ? beside - 12 - tooltip.offsetWidth : beside + 12)}px`;
  }

  const chart = new uPlot(options, [xs, ...order.map((index) => tops[index])], place);
  place.append(tooltip);
  new ResizeObserver(() => {
    const width = Math.max(place.clientWidth, 120);
    if (width !== chart.width) chart.setSize({ width, height: HEIGHT });
  }).observe(place);
  const redraw = () => chart.redraw(false, true);
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  new MutationObserver(redraw).observe(document.documentElement, { attributes: true });
  return chart;
}

// Reads the numbers of a chart's table: `data-series` at the heads, `data-time` at the rows, `data-value` at the cells.
export function numbers(table) {
  const rows = [...table.tBodies[0].rows];
  const value = (cell) => (cell.dataset.value === "" ? null : Number(cell.dataset.value));
  const series = [...table.tHead.querySelectorAll("[data-series]")].map((head) => ({
    label: head.textContent,
    colour: head.dataset.colour,
    values: rows.map((row) => value(row.cells[head.cellIndex])),
  }));
  return { times: rows.map((row) => Number(row.dataset.time)), series };
}

// Makes the time selected in a chart the page's range.
function choose(since, until) {
  const place = document.querySelector("[data-range]").dataset.range;
  const minute = (seconds) => new Date(seconds * 1000).toISOString().slice(0, 16);
  const from = Math.floor(since / 60) * 60;
  const to = Math.max(Math.ceil(until / 60) * 60, from + 60);
  location.assign(`${place}&from=${minute(from)}&to=${minute(to)}`);
}

export function draw(place) {
  const { chart, unit, step, since, until } = place.dataset;
  place.replaceChildren();
  timeSeries(place, {
    ...numbers(place.parentElement.querySelector("table")),
    stacked: chart === "stacked",
    bars: chart !== "lines",
    unit,
    step: Number(step),
    since: since ? Number(since) : null,
    until: until ? Number(until) : null,
    select: document.querySelector("[data-range]") ? choose : null,
  });
  place.dataset.drawn = "true";
}

document.querySelectorAll("[data-chart]").forEach(draw);
