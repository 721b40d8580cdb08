// Live events: what players do right now, a sample of it that one can read.
import * as format from "../format.js";
import { useLoad } from "../hooks.js";
import { useLive } from "../live.js";
import { html, useRef, useState } from "../preact.js";
import { replaceQuery } from "../router.js";
import { brief, Empty, FeedStatus, plain, PlayerLink, Select, Table, Time } from "../ui.js";

const SHOWN_MAX = 200;

export function EventsPage({ route }) {
  const { experience = "", type = "", content = "", player = "" } = route.query;
  const [items, setItems] = useState([]);
  const [dropped, setDropped] = useState(0);
  const [isPaused, setPaused] = useState(false);
  const waiting = useRef([]);
  const [waitingCount, setWaitingCount] = useState(0);
  const [seen, setSeen] = useState(0);
  const experiences = useLoad("experiences");
  const number = useRef(0);
  const feed = useLive({ topics: "events", experience, type, content, player }, {
    events: (news) => {
      const fresh = (news.items ?? []).map((item) => ({ ...item, number: ++number.current })).reverse();
      setSeen((old) => old + fresh.length);
      setDropped(news.dropped ?? 0);
      if (isPaused) {
        waiting.current = [...fresh, ...waiting.current].slice(0, SHOWN_MAX);
        setWaitingCount(waiting.current.length);
      } else {
        setItems((old) => [...fresh, ...old].slice(0, SHOWN_MAX));
      }
    },
  });
  const pause = () => {
    if (isPaused) {
      setItems((old) => [...waiting.current, ...old].slice(0, SHOWN_MAX));
      waiting.current = [];
      setWaitingCount(0);
    }
    setPaused(!isPaused);
  };
  const set = (changes) => {
    setItems([]);
    replaceQuery(route, changes);
  };
  const columns = [
    { title: "When", cell: (row) => html`<${Time} at=${row.received_at ?? row.at} precise />` },
    { title: "Player", cell: (row) => html`<${PlayerLink} id=${row.player} experience=${row.experience} />` },
    { title: "Event", cell: (row) => html`<button type="button" class="link" title="Only this type" onClick=${() => set({ type: row.type })}>${row.type}</button>` },
    { title: "About", className: "clip", cell: (row) => row.content_id && html`<button type="button" class="link" title="Only ${row.content_id}" onClick=${() => set({ content: row.content_id })}>${row.content_id}</button>` },
    { title: "Experience", cell: (row) => row.experience },
    { title: "Data", className: "clip", cell: (row) => html`<span title=${brief(row.data ?? "", 2000)}>${plain(row.data)}</span>` },
  ];
  const isFiltered = experience || type || content || player;
  return html`<div class="page-head"><h1>Live events</h1>
      <button type="button" onClick=${pause} aria-pressed=${isPaused}>${isPaused ? `Go on (${waitingCount} waiting)` : "Pause"}</button><${FeedStatus} feed=${feed} /></div>
    <div class="filters">
      <${Select} label="Experience" value=${experience} onChange=${(value) => set({ experience: value })} options=${[["", "every experience"], ...(experiences.data?.items ?? []).map((one) => one.experience)]} />
      <input type="search" placeholder="type, e.g. waypoint_visited" aria-label="Type of event" value=${type} onChange=${(event) => set({ type: event.target.value.trim() })} />
      <input type="search" placeholder="about: content id" aria-label="Content id" value=${content} onChange=${(event) => set({ content: event.target.value.trim() })} />
      <input type="search" placeholder="player id" aria-label="Player id" value=${player} onChange=${(event) => set({ player: event.target.value.trim() })} />
      ${isFiltered && html`<button type="button" class="quiet" onClick=${() => set({ experience: "", type: "", content: "", player: "" })}>clear</button>`}
    </div>
    <p class="dim" role="status">${format.count(seen)} shown since you came, <b class=${dropped ? "warning" : ""}>${format.count(dropped)} left out</b>${dropped ? ": more happens than can be read; a filter shows all of less" : ""}.</p>
    ${items.length ? html`<${Table} label="Live events" columns=${columns} rows=${items} keyOf=${(row) => row.number} />`
      : html`<${Empty}>${feed.status === "live" ? (isFiltered ? "Nothing that fits has happened since you came." : "Nobody has done anything since you came.") : "Waiting for the feed."}<//>`}`;
}
