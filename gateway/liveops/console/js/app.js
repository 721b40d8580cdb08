// The whole page: who is logged in, where we are, and the frame around every page.
import { get, post, setCsrf, whenLoggedOut } from "./api.js";
import * as format from "./format.js";
import { html, render, useCallback, useEffect, useState } from "./preact.js";
import { AnalyticsPage } from "./pages/analytics.js";
import { AuditPage } from "./pages/audit.js";
import { DeadLettersPage } from "./pages/dead_letters.js";
import { EventsPage } from "./pages/events.js";
import { LoginPage, SetupPage } from "./pages/login.js";
import { MaintenancePage } from "./pages/maintenance.js";
import { MapPage } from "./pages/map.js";
import { OverviewPage } from "./pages/overview.js";
import { PlayerPage } from "./pages/player.js";
import { PlayersPage } from "./pages/players.js";
import { linkTo, useRoute } from "./router.js";
import { Search } from "./search.js";
import { Loading, Trouble } from "./ui.js";

const PAGES = {
  overview: { title: "Overview", view: OverviewPage },
  players: { title: "Players now", view: PlayersPage },
  map: { title: "Map", view: MapPage },
  events: { title: "Live events", view: EventsPage },
  analytics: { title: "Analytics", view: AnalyticsPage },
  "dead-letters": { title: "Dead letters", view: DeadLettersPage },
  audit: { title: "Audit", view: AuditPage },
  maintenance: { title: "Maintenance", view: MaintenancePage },
  player: { title: "Player", view: PlayerPage, isHidden: true },
};

function App() {
  const route = useRoute();
  const [me, setMe] = useState(undefined); // undefined: not asked yet; null: nobody
  const [error, setError] = useState(null);

  const enter = useCallback((answer) => {
    setCsrf(answer?.csrf);
    setMe(answer);
    setError(null);
  }, []);
  const ask = useCallback(() => {
    setError(null);
    get("me").then(enter, (trouble) => (trouble.status === 401 ? enter(null) : setError(trouble)));
  }, []);
  useEffect(() => {
    whenLoggedOut(() => setMe(null));
    ask();
  }, []);
  useEffect(() => {
    document.documentElement.classList.toggle("production", !!me?.is_production);
  }, [me]);

  const key = new URLSearchParams(location.hash.slice(1)).get("setup");
  if (key) return html`<${SetupPage} setupKey=${key} onDone=${enter} />`;
  if (error) return html`<main class="alone"><${Trouble} error=${error} onRetry=${ask} /></main>`;
  if (me === undefined) return html`<main class="alone"><${Loading} /></main>`;
  if (me === null) return html`<${LoginPage} onDone=${enter} />`;
  return html`<${Frame} me=${me} route=${route} onLeave=${() => enter(null)} />`;
}

function Frame({ me, route, onLeave }) {
  const [isSearching, setSearching] = useState(false);
  const [isMenuOpen, setMenuOpen] = useState(false);
  const [, redraw] = useState(0);
  const page = PAGES[route.page];
  const title = page ? page.title : "Not found";

  useEffect(() => {
    document.title = `${me.is_production ? "PRODUCTION · " : ""}${title} · Wayhold`;
    setMenuOpen(false);
    setSearching(false);
  }, [title, route.args.join("/")]);
  useEffect(() => {
    const onKey = (event) => {
      const isTyping = /^(INPUT|TEXTAREA|SELECT)$/.test(event.target.tagName) || event.target.isContentEditable;
      if ((event.key === "k" && (event.ctrlKey || event.metaKey)) || (event.key === "/" && !isTyping)) {
        event.preventDefault();
        setSearching(true);
      }
    };
    addEventListener("keydown", onKey);
    return () => removeEventListener("keydown", onKey);
  }, []);

  const leave = () => post("logout").then(onLeave, onLeave);
  const setZone = (zone) => {
    format.setZone(zone);
    redraw((old) => old + 1);
  };
  return html`
    <a class="skip" href="#content" onClick=${(event) => { event.preventDefault(); document.getElementById("content").focus(); }}>To the content</a>
    ${me.is_production && html`<div class="production-bar">Production: what you do here happens to real players</div>`}
    <header class="top">
      <button type="button" class="quiet menu-button" aria-expanded=${isMenuOpen} aria-controls="menu" onClick=${() => setMenuOpen(!isMenuOpen)}>☰<span class="hidden">Menu</span></button>
      <a class="brand" href="#/overview"><img src="icon.svg" alt="" width="24" height="24" />Wayhold</a>
      <button type="button" class="search-button" onClick=${() => setSearching(true)}>Find a player <kbd>/</kbd></button>
      <div class="who">
        <${ZoneSwitch} onChange=${setZone} />
        <${ThemeSwitch} />
        <span class="name" title="role: ${me.role}">${me.operator} <span class="dim">${me.role}</span></span>
        <button type="button" class="quiet" onClick=${leave}>Log out</button>
      </div>
    </header>
    <div class="body">
      <nav id="menu" class=${isMenuOpen ? "open" : ""} aria-label="Pages">
        ${Object.entries(PAGES).filter(([, { isHidden }]) => !isHidden).map(([name, { title }]) =>
          html`<a href=${linkTo(name)} aria-current=${name === route.page || (name === "players" && route.page === "player") ? "page" : undefined}>${title}</a>`)}
        <small class="dim">${me.version && `version ${me.version}`}</small>
      </nav>
      <main id="content" tabindex="-1">
        ${page ? html`<${page.view} key=${`${route.page}/${route.args[0] ?? ""}/${format.getZone()}`} me=${me} route=${route} />`
          : html`<h1>Not found</h1><p>There is no page “${route.page}”. <a href="#/overview">To the overview</a></p>`}
      </main>
    </div>
    ${isSearching && html`<${Search} onClose=${() => setSearching(false)} />`}`;
}

function ZoneSwitch({ onChange }) {
  const isUtc = format.getZone() === "utc";
  const label = `Times are ${isUtc ? "UTC" : "local"}; show ${isUtc ? "local" : "UTC"}`;
  return html`<button type="button" class="quiet" title=${label} aria-label=${label} onClick=${() => onChange(isUtc ? "local" : "utc")}>${isUtc ? "UTC" : "local time"}</button>`;
}

function ThemeSwitch() {
  const [theme, setTheme] = useState(window.wayholdTheme.choice);
  const next = { auto: "dark", dark: "light", light: "auto" }[theme];
  const change = () => {
    window.wayholdTheme.choose(next);
    setTheme(next);
  };
  return html`<button type="button" class="quiet" title="Colours: ${theme}; change to ${next}" aria-label="Colours: ${theme}; change to ${next}" onClick=${change}>${{ auto: "◐", dark: "●", light: "○" }[theme]}</button>`;
}

const root = document.getElementById("app");
root.textContent = "";
render(html`<${App} />`, root);
