// A state as a tree that can be read, with what has just changed marked for a few seconds.
import { html, useEffect, useRef, useState } from "./preact.js";

const MARK_MS = 6_000;
const OPEN_ITEMS_MAX = 30; // a longer list is closed at first

/** Every leaf by its path. The members of a list are leaves themselves, because lists in a state are sets. */
export function flatten(value, path = "", found = new Map()) {
  if (Array.isArray(value)) {
    if (!value.length) found.set(path, "[]");
    value.forEach((one, index) => {
      const name = typeof one === "object" && one !== null ? `${path}[${index}]` : `${path} ∋ ${one}`;
      if (typeof one === "object" && one !== null) flatten(one, name, found);
      else found.set(name, one);
    });
  } else if (value !== null && typeof value === "object") {
    const names = Object.keys(value);
    if (!names.length) found.set(path, "{}");
    for (const name of names) flatten(value[name], path ? `${path}.${name}` : name, found);
  } else {
    found.set(path, value);
  }
  return found;
}

/** [{path, before, after}] of what differs; an absent side is undefined. */
export function diff(before, after) {
  const [left, right] = [flatten(before ?? {}), flatten(after ?? {})];
  const changes = [];
  for (const path of new Set([...left.keys(), ...right.keys()])) {
    if (path && !Object.is(left.get(path), right.get(path))) changes.push({ path, before: left.get(path), after: right.get(path) });
  }
  return changes;
}

export function StateTree({ state }) {
  const before = useRef(state);
  const [marks, setMarks] = useState(new Map()); // path → until when
  useEffect(() => {
    const changes = diff(before.current, state);
    before.current = state;
    if (!changes.length) return undefined;
    const until = Date.now() + MARK_MS;
    setMarks((old) => new Map([...old, ...changes.filter((one) => one.after !== undefined).map((one) => [one.path, until])]));
    return undefined;
  }, [state]);
  useEffect(() => {
    if (!marks.size) return undefined;
    const timer = setTimeout(() => setMarks((old) => new Map([...old].filter(([, until]) => until > Date.now()))), MARK_MS);
    return () => clearTimeout(timer);
  }, [marks]);
  if (!state || !Object.keys(state).length) return html`<p class="state dim">The state is empty.</p>`;
  return html`<div class="tree"><${Branch} value=${state} path="" marks=${marks} /></div>`;
}

const isLeaf = (value) => value === null || typeof value !== "object";

function Branch({ value, path, marks }) {
  // A closed branch says that something in it has changed.
  const isMarked = (below) => [...marks.keys()].some((name) => name === below || name.startsWith(`${below}.`) || name.startsWith(`${below} ∋`) || name.startsWith(`${below}[`));
  if (Array.isArray(value)) {
    return html`<ul class="members">${value.map((one, index) =>
      isLeaf(one)
        ? html`<li key=${`${one}`} class=${marks.has(`${path} ∋ ${one}`) ? "changed" : ""}><${Leaf} value=${one} /></li>`
        : html`<li><${Branch} value=${one} path="${path}[${index}]" marks=${marks} /></li>`)}</ul>`;
  }
  return html`<dl>${Object.keys(value).map((name) => {
    const below = path ? `${path}.${name}` : name;
    const one = value[name];
    if (isLeaf(one)) return html`<div key=${name} class=${marks.has(below) ? "changed" : ""}><dt>${name}</dt><dd><${Leaf} value=${one} /></dd></div>`;
    const size = Array.isArray(one) ? one.length : Object.keys(one).length;
    if (!size) return html`<div key=${name}><dt>${name}</dt><dd class="dim">none</dd></div>`;
    return html`<details key=${name} open=${size <= OPEN_ITEMS_MAX} class=${isMarked(below) ? "changed" : ""}>
      <summary>${name} <span class="dim">${size}</span></summary><${Branch} value=${one} path=${below} marks=${marks} /></details>`;
  })}</dl>`;
}

function Leaf({ value }) {
  const kind = value === null ? "null" : typeof value;
  return html`<span class="leaf ${kind}">${kind === "string" ? value : String(value)}</span>`;
}
