// Overview: is everything well, how much is going on, and how it went in the last quarter of an hour.
import { TimeChart } from "../chart.js";
import * as format from "../format.js";
import { useLoad } from "../hooks.js";
import { useLive } from "../live.js";
import { html, useEffect, useState } from "../preact.js";
import { Ago, Badge, FeedStatus, Loaded, Panel, Table } from "../ui.js";

const POINTS_MAX = 900; // a quarter of an hour at one a second
const CHARTS = [
  ["Players", [["players_now", "players", format.count]]],
  ["Updates per second", [["updates_per_s", "accepted", format.rate]]],
  ["Accepted after", [["ack_p50_ms", "median", format.ms], ["ack_p99_ms", "99 %", format.ms]]],
  ["Saved after", [["saved_p50_ms", "median", format.ms], ["saved_p99_ms", "99 %", format.ms]]],
  ["Waiting to be saved", [["pending_updates", "updates", format.count]]],
  ["Oldest unsaved update", [["flush_lag_s", "age", format.duration]]],
];

export function OverviewPage() {
  const load = useLoad("overview", {}, 15);
  const [live, setLive] = useState({});
  const [series, setSeries] = useState(null);
  const feed = useLive({ topics: "figures" }, {
    figures: (figures) => {
      setLive(figures);
      setSeries((old) => old && append(old, figures));
    },
  });
  useEffect(() => {
    if (load.data?.series) setSeries(asSeconds(load.data.series));
  }, [load.data]);
  return html`<div class="page-head"><h1>Overview</h1><${FeedStatus} feed=${feed} /></div>
    <${Loaded} load=${load}>${(data) => html`<${Figures} data=${{ ...data, ...live }} />
      <div class="charts">${series && CHARTS.map(([title, lines]) => html`<${SeriesChart} title=${title} lines=${lines} series=${series} />`)}</div>
      <${Nodes} nodes=${live.nodes ?? data.nodes ?? []} />`}<//>`;
}

function asSeconds(series) {
  return { ...series, at: series.at.map(secondsOf) };
}

function secondsOf(at) {
  return typeof at === "number" ? at : new Date(at).getTime() / 1000;
}

function append(series, figures) {
  const at = secondsOf(figures.at ?? Date.now() / 1000);
  if (series.at.length && at - series.at.at(-1) < 0.9) return series;
  const longer = {};
  for (const [name, values] of Object.entries(series)) {
    longer[name] = [...values, name === "at" ? at : (figures[name] ?? null)].slice(-POINTS_MAX);
  }
  return longer;
}

function SeriesChart({ title, lines, series }) {
  const known = lines.filter(([name]) => series[name]);
  if (!known.length || !series.at.length) return null;
  return html`<section class="panel"><${TimeChart} title=${title} at=${series.at} series=${known.map(([name, label, show]) => ({ label, values: series[name], show }))} /></section>`;
}

function Figures({ data }) {
  const health = data.health ?? {};
  const status = health.status ?? "unknown";
  const tile = (label, value, note, tone = "") => html`<div class="tile ${tone}"><span class="tile-label">${label}</span><strong>${value}</strong><span class="dim">${note}</span></div>`;
  return html`
    <section class="health ${status === "healthy" || status === "ok" ? "good" : "bad"}" aria-label="Health">
      <strong>${status === "healthy" || status === "ok" ? "Healthy" : status}</strong>
      <span>Redis <${Badge} value=${health.redis ?? "–"} /></span><span>Postgres <${Badge} value=${health.postgresql ?? "–"} /></span>
      ${(health.reasons ?? []).map((reason) => html`<span class="reason">${reason}</span>`)}
    </section>
    <div class="tiles">
      ${tile("Players now", format.count(data.players_now), `${format.count(data.connections)} connected, ${format.count(data.sessions)} sessions`)}
      ${tile("Updates per second", format.rate(data.updates_per_s), "accepted")}
      ${tile("Accepted after", format.ms(data.ack_p50_ms), `99 %: ${format.ms(data.ack_p99_ms)}`)}
      ${tile("Saved after", format.ms(data.saved_p50_ms), `99 %: ${format.ms(data.saved_p99_ms)}`)}
      ${tile("Waiting to be saved", format.count(data.pending_updates), `${format.bytes(data.pending_bytes)}, oldest ${format.duration(data.flush_lag_s)}`)}
      ${tile("Resumes per second", format.rate(data.resumes_per_s), "connections that came back")}
      ${tile("Dead letters", format.count(data.dead_letters), html`<a href="#/dead-letters">look at them</a>`, data.dead_letters ? "bad" : "")}
      ${tile("In quarantine", format.count(data.quarantined), html`<a href="#/dead-letters">progress put aside</a>`, data.quarantined ? "bad" : "")}
    </div>`;
}

function Nodes({ nodes }) {
  const columns = [
    { title: "Node", cell: (node) => node.node },
    { title: "State", cell: (node) => html`<${Badge} value=${node.state} />` },
    { title: "Players", isNumber: true, cell: (node) => format.count(node.players ?? node.sessions) },
    { title: "Connections", isNumber: true, cell: (node) => format.count(node.connections) },
    { title: "Updates/s", isNumber: true, cell: (node) => format.rate(node.updates_per_s) },
    { title: "Version", cell: (node) => node.version ?? "–" },
    { title: "Since", cell: (node) => html`<${Ago} at=${node.started_at} />` },
  ];
  return html`<${Panel} title="Nodes"><${Table} label="Nodes" columns=${columns} rows=${nodes} keyOf=${(node) => node.node} empty="No gateway has reported yet." /><//>`;
}
