// The lists of a player: connections with why they closed, sessions, devices, and what operators have done.
import * as format from "../format.js";
import { useLoad, usePages } from "../hooks.js";
import { html, useEffect } from "../preact.js";
import { Ago, Badge, Loaded, Pager, Panel, Table, Time } from "../ui.js";
import { AuditTable } from "./audit.js";

const LIMIT = 10;

/** A list below the player that is read again when something has happened. */
function History({ title, path, params = {}, turn, children }) {
  const pages = usePages(`${path} ${JSON.stringify(params)}`);
  const load = useLoad(path, { ...params, limit: LIMIT, cursor: pages.cursor });
  useEffect(() => {
    if (turn) load.reload();
  }, [turn]);
  return html`<${Panel} title=${title}><${Loaded} load=${load}>${(data) => html`${children(data.items)}
    <${Pager} pages=${pages} next=${data.next_cursor} shown=${data.items.length} />`}<//><//>`;
}

// What the ranges of close codes tell a client to do; the numbers themselves are in docs/operations.md.
function closeTone(code) {
  return code >= 4200 ? "bad" : code >= 4001 ? "warn" : "";
}

export function ConnectionList({ id, turn }) {
  const columns = [
    { title: "Opened", cell: (row) => html`<${Time} at=${row.opened_at} />` },
    { title: "Closed", cell: (row) => (row.closed_at ? html`<${Time} at=${row.closed_at} />` : html`<${Badge} value="open" />`) },
    { title: "Close", cell: (row) => (row.close_code ? html`<span class="badge ${closeTone(row.close_code)}">${row.close_code}</span> ${row.close_name ?? ""}` : "–") },
    { title: "Why", className: "clip", cell: (row) => row.reason ?? "" },
    { title: "Resumed", cell: (row) => (row.resumed === undefined || row.resumed === null ? "–" : row.resumed ? "yes" : "no") },
    { title: "Updates", isNumber: true, cell: (row) => format.count(row.updates) },
    { title: "Round trip", isNumber: true, cell: (row) => format.ms(row.rtt_ms) },
    { title: "Node", cell: (row) => row.node },
    { title: "Device", className: "clip", cell: (row) => html`<span class="id" title=${row.device}>${format.shortId(row.device)}</span>` },
  ];
  return html`<${History} title="Connections" path="players/${id}/connections" turn=${turn}>${(items) => html`<${Table} label="Connections" columns=${columns} rows=${items} empty="No connection is remembered." />`}<//>`;
}

export function SessionList({ id, turn }) {
  const columns = [
    { title: "Started", cell: (row) => html`<${Time} at=${row.started_at} />` },
    { title: "Ended", cell: (row) => (row.ended_at ? html`<${Time} at=${row.ended_at} />` : html`<${Badge} value="open" />`) },
    { title: "Why", cell: (row) => (row.end_reason ? html`<${Badge} value=${row.end_reason} tone=${{ left: "plain", expired: "plain", switched: "plain" }[row.end_reason]} />` : "–") },
    { title: "Experience", cell: (row) => row.experience },
    { title: "Played", isNumber: true, cell: (row) => format.duration(row.playtime_s) },
    { title: "Session", cell: (row) => html`<span class="id" title=${row.session_id}>${format.shortId(row.session_id)}</span>` },
  ];
  return html`<${History} title="Sessions" path="players/${id}/sessions" turn=${turn}>${(items) => html`<${Table} label="Sessions" columns=${columns} rows=${items} empty="No session yet." />`}<//>`;
}

export function PlayerActions({ me, id, turn, onDone }) {
  return html`<${History} title="What operators did" path="players/${id}/actions" turn=${turn}>${(items) => html`<${AuditTable} me=${me} items=${items} hidesPlayer onDone=${onDone} />`}<//>`;
}

export function DeviceList({ devices }) {
  const columns = [
    { title: "Device", cell: (row) => html`<span class="id">${row.device}</span>` },
    { title: "Experience", cell: (row) => row.experience },
    { title: "Saved up to", isNumber: true, cell: (row) => format.count(row.last_seq) },
    { title: "Last saved", cell: (row) => html`<${Ago} at=${row.updated_at} />` },
  ];
  return html`<${Panel} title="Devices"><${Table} label="Devices" columns=${columns} rows=${devices} empty="No device has saved anything yet." /><//>`;
}
