// Charts over time (uPlot), in the colours of the page, and bars made of boxes for everything that is not over time.
import * as format from "./format.js";
import { html, useEffect, useRef, useState } from "./preact.js";

const COLOURS = ["--series-1", "--series-2", "--series-3", "--series-4"];
const cssColour = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

/** `at`: unix seconds, rising; `series`: [{label, values, show(value)}]. The newest value of each stands beside the title. */
export function TimeChart({ title, at, series, height = 150, isDays = false }) {
  const box = useRef(null);
  const plot = useRef(null);
  const [theme, setTheme] = useState(0);
  const shape = `${series.map((one) => one.label).join()} ${theme} ${format.getZone()}`;

  useEffect(() => {
    const change = () => setTheme((old) => old + 1);
    addEventListener("themechange", change);
    return () => removeEventListener("themechange", change);
  }, []);
  useEffect(() => {
    const show = series[0].show ?? format.rate;
    const axis = { stroke: cssColour("--dim"), grid: { stroke: cssColour("--line"), width: 1 }, ticks: { show: false }, font: "11px system-ui" };
    plot.current = new window.uPlot(
      {
        width: box.current.clientWidth || 300,
        height,
        tzDate: (ts) => (format.getZone() === "utc" ? window.uPlot.tzDate(new Date(ts * 1000), "Etc/UTC") : new Date(ts * 1000)),
        legend: { show: false },
        padding: [6, isDays ? 32 : 16, 0, 0],
        cursor: { y: false, points: { size: 6 } },
        scales: { y: { range: (_, low, high) => [Math.min(0, low ?? 0), high > 0 ? high * 1.1 : 1] } },
        axes: [{ ...axis, size: 26, space: 70, values: (_, splits) => splits.map((ts) => (isDays ? format.day(ts * 1000) : format.time(ts * 1000).slice(-8, splits[1] - splits[0] < 60 ? undefined : -3))) }, { ...axis, size: 56, space: 28, values: (_, splits) => splits.map((value) => (splits.every(Number.isInteger) ? show(value).replace(/\.0(?!\d)/, "") : show(value))) }],
        series: [{}, ...series.map((one, index) => ({ label: one.label, stroke: cssColour(COLOURS[index]), width: 1.6, points: { show: false }, spanGaps: false }))],
        hooks: { setCursor: [(u) => setHovered(u.cursor.idx ?? null)] },
      },
      [at, ...series.map((one) => one.values)],
      box.current,
    );
    const watch = new ResizeObserver(() => plot.current.setSize({ width: box.current.clientWidth, height }));
    watch.observe(box.current);
    return () => {
      watch.disconnect();
      plot.current.destroy();
    };
  }, [shape]);
  useEffect(() => {
    plot.current.setData([at, ...series.map((one) => one.values)]);
  }, [at]);
  const [hovered, setHovered] = useState(null);
  const index = hovered ?? at.length - 1;
  return html`<figure class="chart">
    <figcaption><strong>${title}</strong>${" "}
      ${series.map((one, number) => html`<span class="key"><i class="series-${number + 1}" aria-hidden="true"></i>${one.label}${" "}<b>${(one.show ?? format.rate)(one.values[index])}</b></span>`)}
      ${hovered !== null && at[index] && html`<span class="dim">${isDays ? format.day(at[index] * 1000) : format.time(at[index] * 1000)}</span>`}
    </figcaption>
    <div ref=${box} class="plot" aria-hidden="true"></div>
  </figure>`;
}

/** `rows`: [{label, value, share (0..1 of the box), note}] */
export function Bars({ label, rows }) {
  const most = Math.max(...rows.map((row) => row.value ?? 0), 1e-9);
  return html`<div class="bars" role="table" aria-label=${label}>
    ${rows.map((row) => html`<div class="bar" role="row">
      <span class="bar-label" role="rowheader" title=${row.label}>${row.label}</span>
      <span class="bar-box" role="presentation"><span class="bar-fill" style=${{ width: `${100 * (row.share ?? (row.value ?? 0) / most)}%` }}></span></span>
      <span class="bar-value" role="cell">${row.shown ?? format.count(row.value)}${row.note && html` <span class="dim">${row.note}</span>`}</span>
    </div>`)}
  </div>`;
}
