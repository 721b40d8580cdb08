// What a player did: the live trace on top (updates, acknowledgements, saves, closes, pushes), the saved events below.
import { useLoad, usePages } from "../hooks.js";
import { html, useState } from "../preact.js";
import { Badge, brief, Empty, FeedStatus, Loaded, Pager, Panel, plain, Table, Time } from "../ui.js";

export const TRACE_MAX = 200;
const QUIET_KINDS = new Set(["ack", "saved", "pong", "ping"]);
const KNOWN = new Set(["at", "kind", "text", "heardAt", "player", "user_id", "experience", "device", "node"]);

export function Timeline({ id, experience, trace, feed }) {
  const [view, setView] = useState("live");
  return html`<${Panel} title="Timeline" aside=${html`<div class="tabs small" role="tablist">
      <button type="button" role="tab" aria-selected=${view === "live"} onClick=${() => setView("live")}>live</button>
      <button type="button" role="tab" aria-selected=${view === "saved"} onClick=${() => setView("saved")}>saved events</button></div>`}>
    ${view === "live" ? html`<${Trace} trace=${trace} feed=${feed} />` : html`<${SavedEvents} id=${id} experience=${experience} />`}
  <//>`;
}

function Trace({ trace, feed }) {
  const [hasAll, setAll] = useState(false);
  const items = hasAll ? trace.items : trace.items.filter((item) => !QUIET_KINDS.has(item.kind));
  return html`<div class="trace-head"><label class="check"><input type="checkbox" checked=${hasAll} onChange=${(event) => setAll(event.target.checked)} /> acknowledgements, too</label>
      <${FeedStatus} feed=${feed} />${trace.dropped > 0 && html`<span class="warning">${trace.dropped} left out</span>`}</div>
    ${items.length
      ? html`<ol class="trace">${items.map((item) => html`<li class="kind-${/^[a-z_]+$/.test(item.kind) ? item.kind : "other"}">
          <${Time} at=${item.at} precise /> <${Badge} value=${item.kind} tone=${{ close: "warn", void: "bad" }[item.kind] ?? "plain"} /> <span class="what">${describe(item)}</span></li>`)}</ol>`
      : html`<${Empty}>Nothing has happened since you opened this page. It appears here within a second.<//>`}`;
}

function describe(item) {
  const { data, effects, lat, lng, ...others } = item;
  const hasPlace = Number.isFinite(lat) && Number.isFinite(lng);
  const ordered = { ...(data?.effects ? {} : { data }), effects: effects ?? data?.effects, ...others, at_place: hasPlace ? `${lat}, ${lng}` : null };
  const isSaid = (value) => value !== null && value !== undefined && value !== "" && !(typeof value === "object" && !Object.keys(value).length);
  const facts = Object.entries(ordered).filter(([name, value]) => !KNOWN.has(name) && isSaid(value));
  const lead = item.text ?? [item.type ?? item.event?.type, item.content_id ?? item.event?.content_id].filter(Boolean).join(" ");
  const rest = facts.filter(([name]) => !["type", "content_id", "event"].includes(name)).map(([name, value]) => (name === "data" ? plain(value) : name === "effects" ? sayEffects(value) : name === "at_place" ? `at ${value}` : `${name} ${brief(value, 60)}`));
  return html`<b>${lead}</b>${lead && rest.length ? " " : ""}<span class="dim">${rest.join(" · ")}</span>`;
}

function sayEffects(effects) {
  if (!Array.isArray(effects)) return brief(effects, 90);
  return effects.map((one) => `${one.op} ${one.path}${one.value === undefined ? "" : ` ${brief(one.value, 60)}`}`).join(", ");
}

function SavedEvents({ id, experience }) {
  const [type, setType] = useState("");
  const pages = usePages(`${id} ${experience} ${type}`);
  const load = useLoad(`players/${id}/events`, { experience, type, limit: 50, cursor: pages.cursor });
  const columns = [
    { title: "When", cell: (row) => html`<${Time} at=${row.timestamp} />` },
    { title: "Event", cell: (row) => row.type },
    { title: "About", className: "clip", cell: (row) => html`<span title=${row.content_id}>${row.content_id ?? "–"}</span>` },
    { title: "Data", className: "clip", cell: (row) => html`<span title=${brief(row.data, 2000)}>${plain(row.data)}</span>` },
    { title: "Version", isNumber: true, cell: (row) => row.version },
  ];
  return html`<div class="filters"><input type="search" placeholder="type of event" aria-label="Type of event" value=${type} onChange=${(event) => setType(event.target.value.trim())} /></div>
    <${Loaded} load=${load}>${(data) => html`<${Table} label="Saved events" columns=${columns} rows=${data.items} empty="No saved events." />
      <${Pager} pages=${pages} next=${data.next_cursor} shown=${data.items.length} />`}<//>`;
}
