// Audit: who did what to whom, why, and what came of it. Also the table of a player's actions, with undo.
import { KINDS, mayDo } from "../action_kinds.js";
import { Progress } from "../action_dialog.js";
import { post } from "../api.js";
import * as format from "../format.js";
import { useLoad, usePages } from "../hooks.js";
import { html, useEffect, useRef, useState } from "../preact.js";
import { replaceQuery } from "../router.js";
import { Badge, brief, Field, Loaded, Pager, plain, PlayerLink, Table, Time, Trouble } from "../ui.js";

export function AuditPage({ me, route }) {
  const { operator = "", action = "", player = "", from = "", to = "" } = route.query;
  const params = { operator, action, player, from: instant(from), to: instant(to), limit: 50 };
  const pages = usePages(JSON.stringify(params));
  const load = useLoad("audit", { ...params, cursor: pages.cursor }, pages.number === 1 ? 10 : 0);
  const set = (changes) => replaceQuery(route, changes);
  const input = (name, placeholder, value) => html`<input type="search" placeholder=${placeholder} aria-label=${placeholder} value=${value} spellcheck=${false} onChange=${(event) => set({ [name]: event.target.value.trim() })} />`;
  return html`<div class="page-head"><h1>Audit</h1></div>
    <form class="filters narrow" onSubmit=${(event) => event.preventDefault()}>
      ${input("operator", "operator", operator)}
      ${input("action", "action", action)}
      ${input("player", "player id", player)}
      <label class="check">from <input type="datetime-local" value=${from} onChange=${(event) => set({ from: event.target.value })} /></label>
      <label class="check">to <input type="datetime-local" value=${to} onChange=${(event) => set({ to: event.target.value })} /></label>
    </form>
    <${Loaded} load=${load}>${(data) => html`<${AuditTable} me=${me} items=${data.items} onDone=${load.reload} />
      <${Pager} pages=${pages} next=${data.next_cursor} shown=${data.items.length} />`}<//>`;
}

/** What was typed is in the zone that the page shows. */
function instant(typed) {
  if (!typed) return "";
  const date = new Date(format.getZone() === "utc" ? `${typed}Z` : typed);
  return Number.isNaN(date.getTime()) ? "" : date.toISOString();
}

export function AuditTable({ me, items, hidesPlayer, onDone }) {
  const [undoing, setUndoing] = useState(null);
  const columns = [
    { title: "When", cell: (row) => html`<${Time} at=${row.at} />` },
    { title: "Who", cell: (row) => html`${row.operator} <span class="dim">${row.role}</span>` },
    { title: "Action", cell: (row) => html`<b>${row.action}</b>${row.undo_of ? html` <span class="dim">undo of ${format.shortId(row.undo_of)}</span>` : ""}` },
    !hidesPlayer && { title: "Player", cell: (row) => html`<${PlayerLink} id=${row.player} experience=${row.experience} />` },
    { title: "What", className: "clip", cell: (row) => html`<span title=${brief(row.payload ?? {}, 2000)}>${plain(row.payload)}</span>` },
    { title: "Why", className: "clip", cell: (row) => html`<span title=${row.reason}>${row.reason}</span>` },
    { title: "State", cell: (row) => html`<${Badge} value=${row.state} />${row.message && html` <span class="dim">${row.message}</span>`}` },
    { title: "", cell: (row) =>
        row.undone_by ? html`<span class="dim">undone</span>`
        : row.undo && row.state === "done" && mayDo(me, row.action in KINDS ? row.action : "edit_state")
          ? html`<button type="button" class="small" onClick=${() => setUndoing(row)}>Undo …</button>` : "" },
  ].filter(Boolean);
  return html`<${Table} label="Audit log" columns=${columns} rows=${items} keyOf=${(row) => row.id} empty="Nobody has done anything yet." />
    ${undoing && html`<${UndoDialog} row=${undoing} onClose=${() => setUndoing(null)} onDone=${onDone} />`}`;
}

function UndoDialog({ row, onClose, onDone }) {
  const dialog = useRef(null);
  const [reason, setReason] = useState("");
  const [answer, setAnswer] = useState(null);
  const [error, setError] = useState(null);
  useEffect(() => {
    const shown = dialog.current;
    shown.showModal();
    return () => shown.close();
  }, []);
  const submit = async (event) => {
    event.preventDefault();
    setError(null);
    try {
      setAnswer(await post(`actions/${row.id}/undo`, { reason }));
      onDone?.();
    } catch (trouble) {
      setError(trouble);
    }
  };
  return html`<dialog ref=${dialog} class="action hard" aria-labelledby="undo-title" onClose=${onClose}>
    <header><h2 id="undo-title">Undo ${row.action}</h2><button type="button" class="quiet" aria-label="Close" onClick=${onClose}>✕</button></header>
    ${row.player && html`<p class="id">${row.player}</p>`}
    ${answer ? html`<${Progress} first=${answer} onDone=${onDone} onClose=${onClose} />`
      : html`<form onSubmit=${submit}><p>What it does: ${row.undo.does ?? brief(row.undo, 300)}. It is refused if the state has moved on since.</p>
          <${Field} label="Reason" help="Goes into the audit log with your name."><input name="reason" required autofocus maxlength="1000" value=${reason} onInput=${(event) => setReason(event.target.value)} /><//>
          ${error && html`<${Trouble} error=${error} />`}
          <footer><button type="submit" class="danger">Undo it</button></footer></form>`}
  </dialog>`;
}
