// One action from its form to its end: fill in, look at what it would do (a dry run), say why, confirm, watch it until
// the database has it, and undo it if it was a mistake.
import { KINDS, actionBody } from "./action_kinds.js";
import { get, post } from "./api.js";
import * as format from "./format.js";
import { html, useEffect, useRef, useState } from "./preact.js";
import { diff } from "./state_tree.js";
import { Badge, Field, Trouble } from "./ui.js";

const POLL_MS = 250;
const POLL_MAX_MS = 2_000;
const PATIENCE_MS = 20_000;

/** `facts`: see actionBody; `lists`: suggestions by name. `onDone` is called whenever something has changed. */
export function ActionDialog({ me, kind, facts, lists = {}, onClose, onDone }) {
  const spec = KINDS[kind];
  const dialog = useRef(null);
  const [values, setValues] = useState(() => Object.fromEntries(spec.fields.map((field) => [field.name, facts[field.name] ?? field.value ?? ""])));
  const [reason, setReason] = useState("");
  // Where it stands may know better what it is for: "End maintenance".
  const { title, help } = { ...spec, ...facts };
  const [preview, setPreview] = useState(null);
  const [step, setStep] = useState({ name: "form" }); // form, asking, confirm, sending, sent
  const [error, setError] = useState(null);
  useEffect(() => {
    const shown = dialog.current;
    shown.showModal();
    return () => shown.close(); // gives the focus back to where it was
  }, []);

  const body = () => {
    for (const field of spec.fields) {
      if (field.type === "json") parseJson(values[field.name], field.label);
      if (field.mustEqual && values[field.name].trim() !== facts[field.mustEqual]) throw { message: `${field.label}: that is not it.`, next: "" };
    }
    return actionBody(kind, values, facts);
  };
  const ask = async (event) => {
    event.preventDefault();
    setError(null);
    try {
      const asked = body();
      setStep({ name: "asking" });
      const answer = await post("actions", { ...asked, reason, dry_run: true });
      setPreview(answer);
      setStep({ name: "confirm", body: asked, id: onceKey() });
    } catch (trouble) {
      setError(trouble);
      setStep({ name: "form" });
    }
  };
  const confirm = async (event) => {
    event.preventDefault();
    setError(null);
    const { body: asked, id } = step;
    setStep({ ...step, name: "sending" });
    try {
      const answer = await post("actions", { ...asked, reason, dry_run: false }, id);
      setStep({ name: "sent", answer });
      onDone?.();
    } catch (trouble) {
      setError(trouble);
      setStep({ name: "confirm", body: asked, id });
    }
  };

  return html`<dialog ref=${dialog} class="action ${spec.isHard ? "hard" : ""}" aria-labelledby="action-title" onClose=${onClose}>
    <header><h2 id="action-title">${title}</h2><button type="button" class="quiet" aria-label="Close" onClick=${onClose}>✕</button></header>
    ${me.is_production && html`<p class="production-note">Production</p>`}
    <${Facts} facts=${facts} scope=${spec.scope} />
    ${help && html`<p class="dim">${help}</p>`}
    ${step.name === "sent"
      ? html`<${Progress} first=${step.answer} onDone=${onDone} onClose=${onClose} />`
      : step.name === "confirm" || step.name === "sending"
        ? html`<form onSubmit=${confirm}>
            <${Preview} answer=${preview} />
            <p><span class="dim">Reason:</span> ${reason}</p>
            ${error && html`<${Trouble} error=${error} />`}
            <footer><button type="button" onClick=${() => setStep({ name: "form" })}>← Change</button>
              <button type="submit" class=${spec.isHard ? "danger" : "primary"} autofocus disabled=${step.name === "sending"}>${step.name === "sending" ? "One moment …" : `${title}: do it`}</button></footer>
          </form>`
        : html`<form onSubmit=${ask}>
            ${spec.fields.map((field) => html`<${Input} field=${field} value=${values[field.name]} lists=${lists} onChange=${(value) => setValues({ ...values, [field.name]: value })} />`)}
            <${Field} label="Reason" help="Goes into the audit log with your name."><input name="reason" required maxlength="1000" value=${reason} onInput=${(event) => setReason(event.target.value)} /><//>
            ${error && html`<${Trouble} error=${error} />`}
            <footer><button type="submit" class="primary" disabled=${step.name === "asking"}>${step.name === "asking" ? "One moment …" : "Show what it would do"}</button></footer>
          </form>`}
  </dialog>`;
}

function onceKey() {
  return [...crypto.getRandomValues(new Uint8Array(16))].map((one) => one.toString(16).padStart(2, "0")).join("");
}

function parseJson(value, label) {
  try {
    return JSON.parse(value);
  } catch (trouble) {
    throw { message: `${label}: not JSON.`, next: trouble.message };
  }
}

function Facts({ facts, scope }) {
  const shown = [];
  if (scope === "any" && facts.to === "all") shown.push(["To", "everybody"]);
  else if (scope === "any" && facts.to === "experience") shown.push(["To", `everybody in ${facts.experience}`]);
  else if (facts.player) shown.push(["Player", facts.player]);
  if (scope === "progress" && facts.experience) shown.push(["Experience", facts.experience]);
  for (const name of ["node", "id", "progress"]) if (facts[name]) shown.push([name, facts[name]]);
  return shown.length > 0 && html`<dl class="facts">${shown.map(([name, value]) => html`<div><dt>${name}</dt><dd class="id">${String(value)}</dd></div>`)}</dl>`;
}

function Input({ field, value, lists, onChange }) {
  const change = (event) => onChange(event.target.value);
  const suggestions = field.list && lists[field.list];
  let input;
  if (field.type === "select") {
    input = html`<select name=${field.name} onChange=${change}>${field.options.map(([id, label]) => html`<option value=${id} selected=${String(id) === String(value)}>${label}</option>`)}</select>`;
  } else if (field.type === "textarea" || field.type === "json") {
    input = html`<textarea name=${field.name} rows=${field.type === "json" ? 4 : 3} class=${field.type === "json" ? "code" : ""} spellcheck=${field.type !== "json"} required=${field.required} value=${value} onInput=${change}></textarea>`;
  } else {
    input = html`<input name=${field.name} type=${field.type === "datetime" ? "datetime-local" : "text"} required=${field.required} autocomplete="off" spellcheck=${false} list=${suggestions ? `list-${field.list}` : undefined} value=${value} onInput=${change} />`;
  }
  return html`<${Field} label=${field.label} help=${field.help}>${input}<//>
    ${suggestions && html`<datalist id="list-${field.list}">${suggestions.map((one) => html`<option value=${one}></option>`)}</datalist>`}`;
}

function show(value) {
  return value === undefined ? "–" : typeof value === "string" ? value : JSON.stringify(value);
}

function Preview({ answer }) {
  const { before, after, affects } = answer.preview ?? {};
  const asObject = (value) => (value !== null && typeof value === "object" ? value : { value });
  const changes = diff(before == null ? {} : asObject(before), after == null ? {} : asObject(after));
  return html`<section class="preview" aria-label="What it would do">
    <h3>What it would do</h3>
    ${affects && html`<p>${typeof affects === "string" ? affects : affects.text ? `${affects.text}${affects.players > 1 ? `: ${format.count(affects.players)} players` : ""}` : Object.entries(affects).map(([name, value]) => `${name}: ${show(value)}`).join(" · ")}</p>`}
    ${changes.length
      ? html`<div class="scroll"><table><thead><tr><th scope="col">What</th><th scope="col">Now</th><th scope="col">Afterwards</th></tr></thead>
          <tbody>${changes.map((one) => html`<tr><th scope="row">${one.path}</th><td class="before">${show(one.before)}</td><td class="after">${show(one.after)}</td></tr>`)}</tbody></table></div>`
      : html`<p class="dim">${affects ? "" : "Nothing would change."}</p>`}
    ${(answer.warnings ?? []).map((warning) => html`<p class="warning">${warning}</p>`)}
  </section>`;
}

/** From "requested" to "done" or "refused", and the way back. */
export function Progress({ first, onDone, onClose }) {
  const [answer, setAnswer] = useState(first);
  const [error, setError] = useState(null);
  const [undo, setUndo] = useState(null); // null, {reason}, {answer}
  const since = useRef(Date.now());
  useEffect(() => {
    if (answer.state !== "requested") {
      onDone?.();
      return undefined;
    }
    let wait = POLL_MS;
    let timer = null;
    let isOver = false;
    const look = async () => {
      try {
        const newer = await get(`actions/${answer.id}`);
        if (isOver) return;
        setError(null);
        if (newer.state !== "requested") return setAnswer({ ...answer, ...newer });
      } catch (trouble) {
        if (!isOver) setError(trouble);
      }
      wait = Math.min(POLL_MAX_MS, wait * 1.5);
      timer = setTimeout(look, wait);
    };
    timer = setTimeout(look, wait);
    return () => {
      isOver = true;
      clearTimeout(timer);
    };
  }, [answer.id, answer.state]);

  const takeBack = async (event) => {
    event.preventDefault();
    try {
      setUndo({ answer: await post(`actions/${answer.id}/undo`, { reason: undo.reason }) });
      onDone?.();
    } catch (trouble) {
      setError(trouble);
    }
  };
  const isLate = answer.state === "requested" && Date.now() - since.current > PATIENCE_MS;
  return html`<section aria-live="polite">
    <ol class="steps">
      <li class="done">written down <span class="dim">in the audit log as</span> <code>${format.shortId(answer.id)}</code></li>
      ${answer.state === "requested" && html`<li class="now"><span class="spinner" aria-hidden="true"></span> applied, and waiting until Postgres has it …</li>`}
      ${answer.state === "done" && html`<li class="done"><${Badge} value="done" /> Postgres has it</li>`}
      ${answer.state === "refused" && html`<li class="failed"><${Badge} value="refused" /> ${answer.message ?? "It was refused."}</li>`}
    </ol>
    ${isLate && html`<p class="warning">This takes long. It stays requested and is done as soon as it can be; you may close this. See whether Redis and Postgres are well on the overview.</p>`}
    ${answer.state === "done" && answer.message && html`<p>${answer.message}</p>`}
    ${error && html`<${Trouble} error=${error} />`}
    ${undo?.answer && html`<h3>Undo</h3><${Progress} first=${undo.answer} onDone=${onDone} onClose=${onClose} />`}
    ${undo && !undo.answer && html`<form onSubmit=${takeBack}>
      <${Field} label="Why undo it?"><input name="undo-reason" required autofocus maxlength="1000" value=${undo.reason} onInput=${(event) => setUndo({ reason: event.target.value })} /><//>
      <footer><button type="button" onClick=${() => setUndo(null)}>No</button><button type="submit" class="danger">Undo it</button></footer></form>`}
    ${!undo && html`<footer>
      ${answer.state === "done" && answer.undo && html`<button type="button" onClick=${() => setUndo({ reason: "" })}>Undo …</button>`}
      ${onClose && html`<button type="button" class="primary" onClick=${onClose}>Close</button>`}</footer>`}
  </section>`;
}

/** Buttons that open dialogs: [[kind, facts]]; what the role may not do is left out. */
export function ActionButtons({ me, kinds, facts, lists, onDone, mayDo }) {
  const [open, setOpen] = useState(null);
  const shown = kinds.filter((kind) => mayDo(me, kind));
  // A browser tells late that a dialog was closed; by then another one may be open.
  const close = () => setOpen((now) => (now === open ? null : now));
  return html`<div class="actions">
    ${shown.map((kind) => html`<button type="button" class=${KINDS[kind].isHard ? "hard" : ""} onClick=${() => setOpen(kind)}>${KINDS[kind].title}</button>`)}
    ${!shown.length && html`<span class="dim">Your role (${me.role}) may look, not act.</span>`}
    ${open && html`<${ActionDialog} key=${open} me=${me} kind=${open} facts=${facts} lists=${lists} onClose=${close} onDone=${onDone} />`}
  </div>`;
}
