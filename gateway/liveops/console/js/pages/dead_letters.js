// Dead letters and quarantine: what Postgres refuses for its data, and what to do about it.
import { ActionDialog } from "../action_dialog.js";
import { mayDo } from "../action_kinds.js";
import { useLoad, usePages } from "../hooks.js";
import { html, useState } from "../preact.js";
import { brief, Loaded, Pager, Panel, PlayerLink, Table, Time } from "../ui.js";

export function DeadLettersPage({ me }) {
  const [open, setOpen] = useState(null); // {kind, facts}
  const pages = usePages("dead-letters");
  const letters = useLoad("dead-letters", { limit: 50, cursor: pages.cursor }, 15);
  const quarantine = useLoad("quarantine", { limit: 50 }, 15);
  const reload = () => {
    letters.reload();
    quarantine.reload();
  };
  const button = (kind, text, facts) => mayDo(me, kind) && html`<button type="button" class="small" onClick=${() => setOpen({ kind, facts })}>${text}</button>`;
  const letterColumns = [
    { title: "Since", cell: (row) => html`<${Time} at=${row.created_at} />` },
    { title: "Player", cell: (row) => html`<${PlayerLink} id=${row.player} experience=${row.experience} />` },
    { title: "Experience", cell: (row) => row.experience },
    { title: "What Postgres said", className: "clip", cell: (row) => html`<span title=${row.reason}>${row.reason}</span> <span class="dim">${row.sqlstate ?? ""}</span>` },
    { title: "The event", className: "clip", cell: (row) => html`<span title=${brief(row.payload ?? "", 3000)}>${brief(row.payload ?? "")}</span>` },
    { title: "", cell: (row) => html`<div class="row-actions">${button("replay_dead_letter", "Replay …", { id: row.id })}${button("drop_dead_letter", "Drop …", { id: row.id })}</div>` },
  ];
  const quarantineColumns = [
    { title: "Player", cell: (row) => html`<${PlayerLink} id=${row.player} experience=${row.experience} />` },
    { title: "Experience", cell: (row) => row.experience },
    { title: "What Postgres said", className: "clip", cell: (row) => html`<span title=${row.reason}>${row.reason}</span>` },
    { title: "", cell: (row) => button("release_quarantine", "Release …", { player: row.player, experience: row.experience }) },
  ];
  return html`<div class="page-head"><h1>Dead letters and quarantine</h1></div>
    <${Panel} title="Quarantine"><p class="dim">Progress whose state Postgres refuses. Its player is told to wait, and nothing of it is saved until it is released.</p>
      <${Loaded} load=${quarantine}>${(data) => html`<${Table} label="Quarantine" columns=${quarantineColumns} rows=${data.items} empty="Nothing is in quarantine. Good." />`}<//><//>
    <${Panel} title="Dead letters"><p class="dim">Single events that Postgres refused. Everything else of their players is saved. Mend the cause, then replay.</p>
      <${Loaded} load=${letters}>${(data) => html`<${Table} label="Dead letters" columns=${letterColumns} rows=${data.items} keyOf=${(row) => row.id} empty="There are no dead letters. Good." />
        <${Pager} pages=${pages} next=${data.next_cursor} shown=${data.items.length} />`}<//><//>
    ${open && html`<${ActionDialog} me=${me} kind=${open.kind} facts=${open.facts} onClose=${() => setOpen((now) => (now === open ? null : now))} onDone=${reload} />`}`;
}
