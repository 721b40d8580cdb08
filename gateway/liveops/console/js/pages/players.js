// Players now: everybody who has a session, searched, filtered and sorted by the server.
import * as format from "../format.js";
import { useLoad, usePages, useSettled } from "../hooks.js";
import { html, useState } from "../preact.js";
import { linkTo, replaceQuery } from "../router.js";
import { Ago, Badge, Loaded, Pager, PlayerLink, Select, Table } from "../ui.js";

const LIMIT = 50;
const REFRESH_S = 5;

export function PlayersPage({ route }) {
  const { search = "", experience = "", state = "", lag_ms_min = "", near = "", sort = "-last_activity" } = route.query;
  const [typed, setTyped] = useState(search);
  const settled = useSettled(typed.trim(), 150);
  const params = { search: settled, experience, state, lag_ms_min, near, sort, limit: LIMIT };
  const pages = usePages(JSON.stringify(params));
  const load = useLoad("sessions", { ...params, cursor: pages.cursor }, REFRESH_S);
  const experiences = useLoad("experiences");
  const set = (changes) => replaceQuery(route, changes);

  const columns = [
    { title: "Player", cell: (row) => html`<${PlayerLink} id=${row.user_id} experience=${row.experience} />` },
    { title: "State", cell: (row) => html`<${Badge} value=${row.state} />` },
    { title: "Experience", cell: (row) => row.experience },
    { title: "Where", className: "clip", cell: (row) => html`<span title=${row.location}>${row.location ?? "–"}</span>` },
    { title: "Last active", sort: "last_activity", cell: (row) => html`<${Ago} at=${row.last_activity_at} />` },
    { title: "Since", sort: "started_at", cell: (row) => html`<${Ago} at=${row.started_at} />` },
    { title: "Updates", isNumber: true, sort: "accepted", cell: (row) => format.count(row.updates) },
    { title: "Unsaved", isNumber: true, sort: "pending", cell: (row) => format.count(row.pending) },
    { title: "Round trip", isNumber: true, sort: "rtt_ms", cell: (row) => format.ms(row.rtt_ms) },
    { title: "Node", className: "clip narrow", cell: (row) => html`<span title=${row.node}>${row.node}</span>` },
    { title: "Device", className: "clip narrow", cell: (row) => html`<span class="id" title=${row.device}>${format.shortId(row.device)}</span>` },
  ];
  return html`<div class="page-head"><h1>Players now</h1>
      <a href=${linkTo("map", experience ? [experience] : [])}>on the map</a></div>
    <form class="filters" role="search" onSubmit=${(event) => event.preventDefault()}>
      <input type="search" placeholder="The beginning of an id" aria-label="Search players" value=${typed} spellcheck=${false} autocomplete="off"
        onInput=${(event) => { setTyped(event.target.value); set({ search: event.target.value.trim() }); }} />
      <${Select} label="Experience" value=${experience} onChange=${(value) => set({ experience: value })}
        options=${[["", "every experience"], ...(experiences.data?.items ?? []).map((one) => one.experience)]} />
      <${Select} label="State" value=${state} onChange=${(value) => set({ state: value })}
        options=${[["", "every state"], "playing", ["suspended", "in the background"], "recovering", "disconnected"]} />
      <input type="number" min="0" placeholder="silent for … s" aria-label="Not heard for at least, in seconds" value=${lag_ms_min && lag_ms_min / 1000}
        onChange=${(event) => set({ lag_ms_min: event.target.value && Math.round(event.target.value * 1000) })} />
      <input type="text" placeholder="near: lat,lng,metres" aria-label="Near a place: latitude, longitude, metres" value=${near} onChange=${(event) => set({ near: event.target.value.replaceAll(" ", "") })} />
    </form>
    <${Loaded} load=${load} what="Looking for players">${(data) => html`
      <${Table} label="Players now" columns=${columns} rows=${data.items} keyOf=${(row) => row.session_id} sort=${sort} onSort=${(value) => set({ sort: value })}
        empty=${settled || experience || state || lag_ms_min || near ? "Nobody who plays now fits. Who does not play now is found with “/”." : "Nobody plays right now."} />
      <${Pager} pages=${pages} next=${data.next_cursor} shown=${data.items.length} total=${data.total} />`}<//>`;
}
