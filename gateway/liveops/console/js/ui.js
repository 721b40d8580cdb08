// The small parts that all pages are made of. Whatever a player's client may have written gets into the page as text
// alone: nothing here, and nothing in any page, makes markup from data.
import * as format from "./format.js";
import { useTick } from "./hooks.js";
import { html, useState } from "./preact.js";
import { linkTo } from "./router.js";

export function Panel({ title, aside, children, className = "" }) {
  return html`<section class="panel ${className}" aria-label=${title}>
    ${(title || aside) && html`<header class="panel-head"><h2>${title}</h2><div class="aside">${aside}</div></header>`}
    ${children}
  </section>`;
}

export function Time({ at, precise }) {
  if (format.toMs(at) === null) return html`<span class="dim">–</span>`;
  return html`<time datetime=${new Date(format.toMs(at)).toISOString()} title=${format.bothTimes(at)}>${format.time(at, { precise })}</time>`;
}

export function Ago({ at }) {
  useTick(1_000);
  if (format.toMs(at) === null) return html`<span class="dim">–</span>`;
  return html`<time datetime=${new Date(format.toMs(at)).toISOString()} title=${format.bothTimes(at)}>${format.ago(at)}</time>`;
}

const TONES = {
  playing: "good", ready: "good", ok: "good", healthy: "good", done: "good", live: "good", open: "good",
  suspended: "warn", draining: "warn", requested: "warn", degraded: "warn", reconnecting: "warn", connecting: "warn", lost: "warn",
  error: "bad", refused: "bad", banned: "bad", quarantined: "bad", gone: "bad", unhealthy: "bad", kicked: "bad", erased: "bad",
};

export function Badge({ value, tone }) {
  return html`<span class="badge ${tone ?? TONES[value] ?? ""}">${value ?? "–"}</span>`;
}

export function PlayerLink({ id, experience }) {
  if (!id) return html`<span class="dim">–</span>`;
  return html`<a class="id" href=${linkTo("player", [id], { experience })} title=${id}>${format.shortId(id)}</a>`;
}

export function Copy({ text }) {
  const [isCopied, setCopied] = useState(false);
  const copy = async () => {
    try {
      await navigator.clipboard.writeText(text);
      setCopied(true);
      setTimeout(() => setCopied(false), 1_500);
    } catch {
      // Without https there is no clipboard; the text can still be selected.
    }
  };
  return html`<button type="button" class="quiet small" onClick=${copy} aria-label="Copy ${text}">${isCopied ? "copied" : "copy"}</button>`;
}

export function Loading({ what = "Loading" }) {
  return html`<p class="state" role="status"><span class="spinner" aria-hidden="true"></span> ${what} …</p>`;
}

export function Empty({ children }) {
  return html`<p class="state dim">${children}</p>`;
}

export function Trouble({ error, onRetry }) {
  return html`<div class="trouble" role="alert">
    <p><strong>${error.message}</strong>${" "}<span class="dim">${error.code}</span></p>
    ${error.next && html`<p>${error.next}</p>`}
    ${onRetry && html`<button type="button" onClick=${onRetry}>Try again</button>`}
  </div>`;
}

/** What `useLoad` gave: loading, trouble (above the data of before, with its age), or the children's view of the data. */
export function Loaded({ load, children, what }) {
  if (load.data === null && load.error) return html`<${Trouble} error=${load.error} onRetry=${load.reload} />`;
  if (load.data === null) return html`<${Loading} what=${what} />`;
  return html`
    ${load.error && html`<${Trouble} error=${{ ...load.error, message: `${load.error.message} What you see is from ${format.ago(load.at)}.`, code: load.error.code, next: load.error.next }} onRetry=${load.reload} />`}
    ${children(load.data)}`;
}

export function FeedStatus({ feed }) {
  useTick(1_000);
  if (feed.status === "live") return html`<span class="feed good" role="status"><i aria-hidden="true"></i>live</span>`;
  const age = feed.heardAt ? `, last heard ${format.ago(feed.heardAt)}` : "";
  return html`<span class="feed warn" role="status"><i aria-hidden="true"></i>${feed.status}${age}</span>`;
}

/** `columns`: [{title, cell(row), isNumber?, sort?}]; `sort` "-key" is descending. Scrolls sideways on a narrow screen. */
export function Table({ label, columns, rows, keyOf, sort, onSort, empty = "Nothing here." }) {
  if (!rows.length) return html`<${Empty}>${empty}<//>`;
  const field = sort?.replace(/^-/, "");
  const heading = (column) => {
    if (!column.sort || !onSort) return column.title;
    const isSorted = field === column.sort;
    const isDown = isSorted && sort.startsWith("-");
    return html`<button type="button" class="sort" onClick=${() => onSort(isSorted ? (isDown ? column.sort : `-${column.sort}`) : `-${column.sort}`)}>
      ${column.title}<span aria-hidden="true">${isSorted ? (isDown ? " ↓" : " ↑") : ""}</span></button>`;
  };
  const order = (column) => (column.sort && field === column.sort ? (sort.startsWith("-") ? "descending" : "ascending") : undefined);
  return html`<div class="scroll" role="region" aria-label=${label} tabindex="0"><table>
    <thead><tr>${columns.map((column) => html`<th scope="col" class=${column.isNumber ? "number" : ""} aria-sort=${order(column)}>${heading(column)}</th>`)}</tr></thead>
    <tbody>${rows.map((row, index) => html`<tr key=${keyOf ? keyOf(row) : index}>
      ${columns.map((column) => html`<td class="${column.isNumber ? "number" : ""} ${column.className ?? ""}">${column.cell(row)}</td>`)}</tr>`)}</tbody>
  </table></div>`;
}

/** "31–60 of 1,204" and the buttons of keyset pages. */
export function Pager({ pages, next, shown, total }) {
  if (!next && pages.number === 1) return total === undefined ? null : html`<p class="pager dim">${format.count(total)} in all</p>`;
  return html`<nav class="pager" aria-label="Pages">
    <button type="button" disabled=${pages.number === 1} onClick=${pages.back}>← Back</button>
    <span class="dim">page ${pages.number}, ${format.count(shown)} rows${total === undefined ? "" : ` of ${format.count(total)}`}</span>
    <button type="button" disabled=${!next} onClick=${() => pages.next(next)}>Next →</button>
  </nav>`;
}

export function Field({ label, children, help }) {
  return html`<label class="field"><span>${label}</span>${children}${help && html`<small>${help}</small>`}</label>`;
}

export function Select({ value, options, onChange, label }) {
  return html`<select aria-label=${label} value=${value ?? ""} onChange=${(event) => onChange(event.target.value)}>
    ${options.map((option) => {
      const [id, text] = Array.isArray(option) ? option : [option, option];
      return html`<option value=${id} selected=${id === (value ?? "")}>${text}</option>`;
    })}</select>`;
}

/** {a: 1, b: "x"} as "a 1 · b x": what an event or an action carries is mostly flat. */
export function plain(value, max = 60) {
  if (value === null || value === undefined) return "";
  if (typeof value !== "object" || Array.isArray(value)) return brief(value, 90);
  return Object.entries(value).filter(([, one]) => one !== null && one !== "").map(([name, one]) => `${name} ${brief(one, max)}`).join(" · ");
}

/** A value of any shape as one short line. */
export function brief(value, max = 120) {
  const text = typeof value === "string" ? value : (JSON.stringify(value) ?? "–");
  return text.length > max ? `${text.slice(0, max)}…` : text;
}
