// Analytics of an experience: where players go, how far they get, whether they come back. The numbers are those of
// `wayhold analytics`; docs/analytics.md says what each means.
import { Bars, TimeChart } from "../chart.js";
import * as format from "../format.js";
import { useLoad } from "../hooks.js";
import { html, useState } from "../preact.js";
import { goTo, replaceQuery } from "../router.js";
import { Empty, Field, Loaded, Panel, Select, Table } from "../ui.js";
import { RetentionPanel } from "./analytics_retention.js";

const WINDOWS = [["1d", "the last day"], ["7d", "the last 7 days"], ["30d", "the last 30 days"], ["90d", "the last 90 days"]];
const STEPS_MAX = 12;

export function AnalyticsPage({ route }) {
  const experiences = useLoad("experiences");
  return html`<${Loaded} load=${experiences}>${(data) => {
    const chosen = data.items.find((one) => one.experience === route.args[0]) ?? data.items.find((one) => one.definition) ?? data.items[0];
    if (!chosen) return html`<h1>Analytics</h1><${Empty}>No experience is defined and nobody has played yet.<//>`;
    const since = route.query.from ?? "7d";
    return html`<div class="page-head"><h1>Analytics</h1>
        <${Select} label="Experience" value=${chosen.experience} options=${data.items.map((one) => one.experience)} onChange=${(value) => goTo("analytics", [value], route.query)} />
        <${Select} label="When" value=${since} options=${WINDOWS} onChange=${(value) => replaceQuery(route, { from: value })} />
        <span class="dim">as of the last flush; days are UTC</span></div>
      <div class="columns">
        <${EngagementPanel} experience=${chosen.experience} since=${since} />
        <${FunnelPanel} key=${chosen.experience} chosen=${chosen} since=${since} route=${route} />
      </div>
      <${ActivePanel} experience=${chosen.experience} />
      <${RetentionPanel} experience=${chosen.experience} />
      <div class="columns">
        <${CompletionPanel} experience=${chosen.experience} since=${since} />
        <${BucketsPanel} title="Length of sessions" question="sessions" unit="sessions" experience=${chosen.experience} since=${since} />
        <${BucketsPanel} title="Playtime of players" question="playtime" unit="players" experience=${chosen.experience} since=${since} />
        <${DropOffPanel} experience=${chosen.experience} />
      </div>`;
  }}<//>`;
}

function EngagementPanel({ experience, since }) {
  const [type, setType] = useState("waypoint_visited");
  const load = useLoad("analytics/ranking", { experience, from: since, type, players: true, top: 15 });
  const columns = [
    { title: "Content", className: "clip", cell: (row) => html`<span title=${row.content_id}>${row.content_id}</span>` },
    { title: "Visits", isNumber: true, cell: (row) => format.count(row.total_visits) },
    { title: "Players", isNumber: true, cell: (row) => format.count(row.unique_players) },
    { title: "Time there", isNumber: true, cell: (row) => format.duration(row.average_time_spent_s) },
  ];
  const types = [["waypoint_visited", "waypoints"], ["item_collected", "items"], ["quest_completed", "quests"], ["location_reached", "locations"]];
  return html`<${Panel} title="What players do most" aside=${html`<${Select} label="Type of content" value=${type} options=${types} onChange=${setType} />`}>
    <${Loaded} load=${load}>${(data) => (data.rows.length
      ? html`<${Bars} label="Visits" rows=${data.rows.slice(0, 10).map((row) => ({ label: row.content_id, value: row.total_visits }))} />
          <details><summary>as a table</summary><${Table} label="Engagement" columns=${columns} rows=${data.rows} keyOf=${(row) => row.content_id} /></details>`
      : html`<${Empty}>Nothing of that in this time.<//>`)}<//><//>`;
}

function FunnelPanel({ chosen, since, route }) {
  const waypoints = (chosen.definition?.waypoints ?? []).map((one) => one.id);
  const first = route.query.steps ? route.query.steps.split(",") : [0, 0.2, 0.4, 0.6, 0.8, 0.999].map((at) => waypoints[Math.floor(at * waypoints.length)]).filter(Boolean);
  const [text, setText] = useState([...new Set(first)].join("\n"));
  const steps = [...new Set(text.split("\n").map((one) => one.trim()).filter(Boolean))].slice(0, STEPS_MAX);
  const [asked, setAsked] = useState(steps);
  const load = useLoad(asked.length > 1 ? "analytics/funnel" : null, { experience: chosen.experience, from: since, steps: asked.join(",") });
  const submit = (event) => {
    event.preventDefault();
    setAsked(steps);
    replaceQuery(route, { steps: steps.join(",") });
  };
  return html`<${Panel} title="Funnel: players at each step, and how many of the step before">
    ${asked.length > 1
      ? html`<${Loaded} load=${load}>${(data) => html`<${Bars} label="Players who reached each step" rows=${data.rows.map((row) => ({ label: row.content_id, value: row.players, share: row.share_of_first ?? 0, note: row.step > 1 && row.share_of_previous !== null ? format.percent(row.share_of_previous) : "" }))} />`}<//>`
      : html`<${Empty}>Name at least two steps.<//>`}
    <details><summary>choose the steps</summary><form onSubmit=${submit}>
      <${Field} label="Content ids, one on each line, in order" help="A waypoint, or another type with a colon: quest_completed:bells"><textarea rows="7" class="code" value=${text} onInput=${(event) => setText(event.target.value)}></textarea><//>
      <button type="submit">Show</button></form></details>
  <//>`;
}

function ActivePanel({ experience }) {
  const load = useLoad("analytics/active", { experience, from: "30d" });
  return html`<${Panel} title=""><${Loaded} load=${load}>${(data) => {
    if (!data.rows.length) return html`<h2>Active players</h2><${Empty}>Nobody has played on these days.<//>`;
    const at = data.rows.map((row) => new Date(row.day).getTime() / 1000);
    if (at.length < 2) return html`<h2>Active players</h2><p>${format.count(data.rows[0].players)} players on ${data.rows[0].day}, ${format.count(data.rows[0].new_players)} of them new. A chart needs a second day.</p>`;
    return html`<${TimeChart} title="Active players a day" at=${at} isDays series=${[
      { label: "players", values: data.rows.map((row) => row.players), show: format.count },
      { label: "new", values: data.rows.map((row) => row.new_players), show: format.count }]} />`;
  }}<//><//>`;
}

function CompletionPanel({ experience, since }) {
  const load = useLoad("analytics/completion", { experience, from: since });
  return html`<${Panel} title="Completion"><${Loaded} load=${load}>${(data) => html`
    <p><b>${format.count(data.completed)}</b> of ${format.count(data.players)} players who started then have completed it (${format.percent(data.share)}); on average they are at ${format.decimal(data.average_percentage, 1)} %.</p>
    ${data.rows.length > 0 && html`<${Bars} label="Completed quests" rows=${data.rows.map((row) => ({ label: row.quest, value: row.completed, share: row.share ?? 0, note: `of ${format.count(row.players)}` }))} />`}`}<//><//>`;
}

function BucketsPanel({ title, question, unit, experience, since }) {
  const load = useLoad(`analytics/${question}`, { experience, from: since });
  const name = (row) => (row.to_s === null ? `${format.duration(row.from_s)} or more` : `${format.duration(row.from_s)} to ${format.duration(row.to_s)}`);
  return html`<${Panel} title=${title} aside=${load.data?.average_s != null && html`<span class="dim">${format.duration(load.data.average_s)} on average</span>`}>
    <${Loaded} load=${load}>${(data) => (data.rows.some((row) => row[unit])
      ? html`<${Bars} label=${title} rows=${data.rows.map((row) => ({ label: name(row), value: row[unit], share: row.share ?? 0, note: format.percent(row.share) }))} />`
      : html`<${Empty}>None in this time.<//>`)}<//><//>`;
}

function DropOffPanel({ experience }) {
  const load = useLoad("analytics/dropoff", { experience });
  return html`<${Panel} title="Where players stopped" aside=${html`<span class="dim">not completed, not played for a week</span>`}>
    <${Loaded} load=${load}>${(data) => (data.rows.length
      ? html`<${Bars} label="Where players stopped" rows=${data.rows.slice(0, 12).map((row) => ({ label: row.location ?? row.current_location ?? "nowhere yet", value: row.players }))} />`
      : html`<${Empty}>Nobody has stopped.<//>`)}<//><//>`;
}
