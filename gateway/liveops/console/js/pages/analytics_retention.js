// Retention: of the players who came on a day, how many played again 1, 7 and 30 days later.
import * as format from "../format.js";
import { useLoad } from "../hooks.js";
import { html } from "../preact.js";
import { Empty, Loaded, Panel, Table } from "../ui.js";

const DAYS = [1, 7, 30];

export function RetentionPanel({ experience }) {
  const load = useLoad("analytics/retention", { experience, from: "30d" });
  const columns = [
    { title: "First played on", cell: (row) => row.cohort },
    { title: "New players", isNumber: true, cell: (row) => format.count(row.new_players) },
    ...DAYS.map((day) => ({ title: `Day ${day}`, isNumber: true, cell: (row) => html`<${Cell} share=${row[`day_${day}_share`]} players=${row[`day_${day}_players`]} />` })),
  ];
  return html`<${Panel} title="Retention: who came back after 1, 7 and 30 days"><${Loaded} load=${load}>${(data) => html`
    <p>${DAYS.map((day) => {
      const total = data.totals?.[`day_${day}`];
      return total && html`<span class="key">day ${day}: ${total.new_players ? html`<b>${format.percent(total.share)}</b> <span class="dim">(${format.count(total.retained)} of ${format.count(total.new_players)})</span>` : html`<span class="dim">too early to say</span>`}</span> `;
    })}</p>
    ${data.rows.length
      ? html`<details open=${data.rows.length <= 14}><summary>day by day</summary><${Table} label="Retention" columns=${columns} rows=${[...data.rows].reverse()} keyOf=${(row) => row.cohort} /></details>`
      : html`<${Empty}>Nobody began in the last 30 days.<//>`}`}<//><//>`;
}

/** The darker, the more came back. Null: that day is not over yet. */
function Cell({ share, players }) {
  if (players === null || players === undefined) return html`<span class="dim" title="That day is not over yet">–</span>`;
  return html`<span class="heat" title="${format.count(players)} players" style=${{ "--heat": `${Math.round(15 + 70 * Math.min(1, share ?? 0))}%` }}>${format.percent(share)}</span>`;
}
