// Maintenance: players away and back, words to everybody, nodes to drain, and who is banned.
import { ActionButtons, ActionDialog } from "../action_dialog.js";
import { mayDo } from "../action_kinds.js";
import * as format from "../format.js";
import { useLoad } from "../hooks.js";
import { html, useState } from "../preact.js";
import { Badge, Empty, Loaded, Panel, PlayerLink, Select, Table, Time } from "../ui.js";

export function MaintenancePage({ me }) {
  const maintenance = useLoad("maintenance", {}, 10);
  const nodes = useLoad("nodes", {}, 10);
  const bans = useLoad("bans", { limit: 100 }, 30);
  const [open, setOpen] = useState(null);
  const reload = () => [maintenance, nodes, bans].forEach((one) => one.reload());
  const button = (kind, text, facts) => mayDo(me, kind) && html`<button type="button" class="small" onClick=${() => setOpen({ kind, facts })}>${text}</button>`;
  const nodeColumns = [
    { title: "Node", cell: (row) => row.node },
    { title: "State", cell: (row) => html`<${Badge} value=${row.state} />` },
    { title: "Players", isNumber: true, cell: (row) => format.count(row.players ?? row.sessions) },
    { title: "Connections", isNumber: true, cell: (row) => format.count(row.connections) },
    { title: "", cell: (row) => row.state === "draining"
        ? button("drain", "Take players again …", { node: row.node, isBack: true, title: "Take players again", help: "For a node that an operator drained. One that is being stopped goes on stopping." })
        : row.state === "ready" ? button("drain", "Drain …", { node: row.node }) : "" },
  ];
  const banColumns = [
    { title: "Player", cell: (row) => html`<${PlayerLink} id=${row.player} />` },
    { title: "Until", cell: (row) => (row.until ? html`<${Time} at=${row.until} />` : "for good") },
    { title: "Message to the player", className: "clip", cell: (row) => row.message },
    { title: "By", cell: (row) => row.operator },
    { title: "Why", className: "clip", cell: (row) => row.reason },
    { title: "", cell: (row) => button("unban", "Lift …", { player: row.player }) },
  ];
  return html`<div class="page-head"><h1>Maintenance</h1></div>
    <div class="columns">
      <${Panel} title="Maintenance mode"><${Loaded} load=${maintenance}>${(data) => html`
        <p class="big">${data.on && !isLater(data.at) ? html`<span class="badge bad">on</span> Players are kept away${data.at && html` since <${Time} at=${data.at} />`}.`
          : data.on || data.at ? html`<span class="badge warn">planned</span> It begins <${Time} at=${data.at} /> (${format.ago(data.at)}).`
          : html`<span class="badge good">off</span> Players may come and play.`}</p>
        ${data.until && html`<p>It ends by itself at <${Time} at=${data.until} />.</p>`}
        ${data.message && html`<p>Players are told: “${data.message}”</p>`}
        <p>${data.on ? button("maintenance", "End maintenance …", { on: "false", title: "End maintenance" }) : button("maintenance", "Begin maintenance …", { on: "true", title: "Begin maintenance" })}</p>`}<//><//>
      <${Panel} title="A message to many"><${Broadcast} me=${me} /><//>
    </div>
    <${Panel} title="Nodes"><${Loaded} load=${nodes}>${(data) => html`<${Table} label="Nodes" columns=${nodeColumns} rows=${data.items ?? data.nodes ?? []} keyOf=${(row) => row.node} empty="No gateway has reported yet." />`}<//><//>
    <${Panel} title="Bans"><${Loaded} load=${bans}>${(data) => html`<${Table} label="Bans" columns=${banColumns} rows=${data.items} keyOf=${(row) => row.player} empty="Nobody is banned." />`}<//><//>
    ${open && html`<${ActionDialog} me=${me} kind=${open.kind} facts=${open.facts} onClose=${() => setOpen((now) => (now === open ? null : now))} onDone=${reload} />`}`;
}

function isLater(at) {
  return at && format.toMs(at) > Date.now();
}

function Broadcast({ me }) {
  const experiences = useLoad("experiences");
  const [to, setTo] = useState("");
  return html`<${Loaded} load=${experiences}>${(data) => {
    if (!mayDo(me, "message", true)) return html`<${Empty}>Your role (${me.role}) may look, not act.<//>`;
    const options = [["", "everybody who is there"], ...data.items.map((one) => [one.experience, `everybody in ${one.experience}`])];
    return html`<p class="dim">Who is not there gets nothing.</p><div class="filters"><${Select} label="To whom" value=${to} options=${options} onChange=${setTo} />
      <${ActionButtons} key=${to} me=${me} mayDo=${mayDo} kinds=${["message"]} facts=${to ? { to: "experience", experience: to } : { to: "all" }} /></div>`;
  }}<//>`;
}
