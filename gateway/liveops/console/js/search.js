// "/" or Ctrl-K: find a player by the beginning of an id, or go to a page, without the mouse.
import { get } from "./api.js";
import { useSettled } from "./hooks.js";
import { html, useEffect, useRef, useState } from "./preact.js";
import { goTo } from "./router.js";
import { Badge } from "./ui.js";

const PAGES = [["overview", "Overview"], ["players", "Players now"], ["map", "Map"], ["events", "Live events"], ["analytics", "Analytics"],
  ["dead-letters", "Dead letters"], ["audit", "Audit"], ["maintenance", "Maintenance"]];
const FOUND_MAX = 8;

export function Search({ onClose }) {
  const [text, setText] = useState("");
  const [found, setFound] = useState({ text: "", items: [], error: null });
  const [chosen, setChosen] = useState(0);
  const dialog = useRef(null);
  const settled = useSettled(text.trim(), 120);

  useEffect(() => {
    dialog.current.showModal();
  }, []);
  useEffect(() => {
    setChosen(0);
    if (!settled) return setFound({ text: "", items: [], error: null });
    const stop = new AbortController();
    get("search", { text: settled, limit: FOUND_MAX }, stop.signal).then(
      (data) => setFound({ text: settled, items: data.items, isPart: data.unavailable.length > 0, error: null }),
      (error) => !stop.signal.aborted && setFound({ text: settled, items: [], error }),
    );
    return () => stop.abort();
  }, [settled]);

  const pages = PAGES.filter(([, title]) => text && title.toLowerCase().includes(text.trim().toLowerCase()));
  const choices = [
    ...found.items.map((one) => ({ key: one.user_id, go: () => goTo("player", [one.user_id], { experience: one.experience }), view: html`<span class="id">${one.user_id}</span> ${one.state && html`<${Badge} value=${one.state} />`} <span class="dim">${one.experience ?? ""}${one.is_by_id ? "" : `, device ${one.device}`}</span>` })),
    ...pages.map(([name, title]) => ({ key: name, go: () => goTo(name), view: html`<span class="dim">page</span> ${title}` })),
  ];
  const take = (choice) => {
    if (!choice) return;
    onClose();
    choice.go();
  };
  const onKey = (event) => {
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (step && choices.length) {
      event.preventDefault();
      setChosen((chosen + step + choices.length) % choices.length);
    } else if (event.key === "Enter") {
      event.preventDefault();
      take(choices[chosen]);
    }
  };
  const isBusy = text.trim() && found.text !== text.trim();
  return html`<dialog ref=${dialog} class="search" aria-label="Find a player" onClose=${onClose} onClick=${(event) => event.target === dialog.current && onClose()}>
    <input type="search" placeholder="The beginning of a player's id, or a page" autofocus spellcheck=${false} autocomplete="off"
      role="combobox" aria-expanded="true" aria-controls="found" aria-activedescendant=${choices[chosen] ? `found-${chosen}` : undefined}
      aria-label="Find a player" value=${text} onInput=${(event) => setText(event.target.value)} onKeyDown=${onKey} />
    <ul id="found" role="listbox">
      ${choices.map((choice, index) => html`<li key=${choice.key} id="found-${index}" role="option" aria-selected=${index === chosen}
        onMouseEnter=${() => setChosen(index)} onClick=${() => take(choice)}>${choice.view}</li>`)}
    </ul>
    <p class="dim hint" role="status">${
      found.error ? `${found.error.message} ${found.error.next}`
      : isBusy ? "Searching …"
      : text.trim() && !choices.length ? (found.isPart ? "Of those who play now, nobody's id begins like this. Postgres does not answer, so nobody else is found." : "Nobody's id begins like this.")
      : "↑ ↓ to choose, Enter to open, Esc to close"}</p>
  </dialog>`;
}
