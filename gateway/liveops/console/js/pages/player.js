// One player: what there is, what happens right now, and what an operator can do.
import { ActionButtons } from "../action_dialog.js";
import { mayDo } from "../action_kinds.js";
import { urlOf } from "../api.js";
import * as format from "../format.js";
import { useLoad } from "../hooks.js";
import { useLive } from "../live.js";
import { html, useEffect, useRef, useState } from "../preact.js";
import { replaceQuery } from "../router.js";
import { StateTree } from "../state_tree.js";
import { Ago, Badge, Copy, FeedStatus, Loaded, Panel, Time } from "../ui.js";
import { ConnectionList, DeviceList, PlayerActions, SessionList } from "./player_history.js";
import { PlayerPath } from "./player_path.js";
import { Timeline, TRACE_MAX } from "./player_timeline.js";

const REFRESH_S = 15;
const SOON_MS = 400; // several updates in a row are read once
const LISTS_MS = 5_000;
const STEADY = new Set(["update", "ack", "saved", "ping", "pong"]);

const ACTIONS = ["message", "grant_item", "take_item", "set_flag", "move", "edit_state", "edit_profile", "force_flush", "end_session", "kick", "ban", "unban", "erase"];

export function PlayerPage({ me, route }) {
  const id = route.args[0] ?? "";
  const load = useLoad(`players/${id}`, {}, REFRESH_S);
  const [trace, setTrace] = useState({ items: [], dropped: 0 });
  const [turn, setTurn] = useState(0); // counts what has changed, for the lists below
  const timer = useRef(null);
  const listed = useRef({ at: Date.now(), isDue: false });
  // The state follows the player; the lists below it, of which each is a query of Postgres, only when something for them
  // has happened, or now and then.
  const refresh = (isForLists = true) => {
    listed.current.isDue ||= isForLists;
    timer.current ??= setTimeout(() => {
      timer.current = null;
      load.reload();
      if (!listed.current.isDue && Date.now() - listed.current.at < LISTS_MS) return;
      listed.current = { at: Date.now(), isDue: false };
      setTurn((old) => old + 1);
    }, SOON_MS);
  };
  useEffect(() => () => clearTimeout(timer.current), []);
  const feed = useLive({ topics: "player", player: id }, {
    player: (news) => {
      const heardAt = Date.now();
      const items = (news.items ?? []).map((item) => ({ ...item, heardAt }));
      setTrace((old) => ({ items: [...items.reverse(), ...old.items].slice(0, TRACE_MAX), dropped: old.dropped + (news.dropped ?? 0) }));
      refresh(items.some((item) => !STEADY.has(item.kind)));
    },
  });
  return html`<${Loaded} load=${load} what="Looking for the player">${(player) => {
    const progress = player.progress ?? [];
    const chosen = progress.find((one) => one.experience === route.query.experience) ?? progress.find((one) => one.experience === player.live?.experience) ?? progress[0];
    return html`
      <${Head} me=${me} player=${player} chosen=${chosen} feed=${feed} refresh=${refresh} />
      ${progress.length > 1 && html`<div class="tabs" role="tablist">${progress.map((one) => html`<button type="button" role="tab" aria-selected=${one === chosen}
        onClick=${() => replaceQuery(route, { experience: one.experience })}>${one.experience}</button>`)}</div>`}
      <div class="columns">
        <div>
          <${ProgressPanel} progress=${chosen} />
          <${ProfilePanel} profile=${player.profile} />
        </div>
        <div>
          <${Timeline} id=${id} experience=${chosen?.experience} trace=${trace} feed=${feed} />
          <${PlayerPath} id=${id} experience=${chosen?.experience} live=${player.live} turn=${turn} />
        </div>
      </div>
      <${ConnectionList} id=${id} turn=${turn} />
      <${SessionList} id=${id} turn=${turn} />
      <${PlayerActions} me=${me} id=${id} turn=${turn} onDone=${refresh} />
      <${DeviceList} devices=${player.devices ?? []} />`;
  }}<//>`;
}

function Head({ me, player, chosen, feed, refresh }) {
  const { live } = player;
  const ban = (player.bans ?? []).find((one) => !one.lifted_at && (!one.until || new Date(one.until) > new Date()));
  const state = chosen?.state ?? {};
  const waypoints = useLoad("experiences").data?.items?.find((one) => one.experience === chosen?.experience)?.definition;
  const lists = {
    items: (waypoints?.items ?? []).map(nameOf),
    waypoints: (waypoints?.waypoints ?? []).map(nameOf),
    inventory: Array.isArray(state.inventory) ? state.inventory.map(nameOf) : [],
  };
  const kinds = ACTIONS.filter((kind) => (kind === "unban" ? ban : kind === "ban" ? !ban : ["kick", "end_session"].includes(kind) ? live : true));
  return html`<div class="page-head"><h1 class="id">${player.user_id}</h1> <${Copy} text=${player.user_id} /> <${FeedStatus} feed=${feed} /></div>
    <p class="facts-line">
      ${live ? html`<${Badge} value=${live.state ?? "playing"} /> in <b>${live.experience}</b> on ${live.node}, since <${Ago} at=${live.started_at} />, last active <${Ago} at=${live.last_activity_at} />${live.rtt_ms != null && html`, round trip ${format.ms(live.rtt_ms)}`}`
        : html`<${Badge} value="not playing" /> last played <${Ago} at=${chosen?.last_played_at} />`}
      ${ban && html` <span class="badge bad">banned ${ban.until ? html`until <${Time} at=${ban.until} />` : "for good"}</span> ${ban.message && html`<span>“${ban.message}”</span>`}`}
      ${player.created_at && html` <span class="dim">known since <${Time} at=${player.created_at} /></span>`}
    </p>
    <${ActionButtons} me=${me} mayDo=${mayDo} kinds=${kinds} facts=${{ player: player.user_id, experience: chosen?.experience }} lists=${lists} onDone=${refresh} />
    ${me.role !== "viewer" && html`<p class="dim"><a href=${urlOf(`players/${player.user_id}/export`)} download="player-${player.user_id}.json">Export everything about this player</a> (JSON; it is noted in the audit log)</p>`}`;
}

const nameOf = (one) => (typeof one === "string" ? one : String(one?.id ?? one?.name ?? ""));

function ProgressPanel({ progress }) {
  if (!progress) return html`<${Panel} title="Progress"><p class="state dim">This player has never been in an experience.</p><//>`;
  const percent = progress.completion_percentage;
  return html`<${Panel} title="State in ${progress.experience}" aside=${html`version ${format.count(progress.version)}${progress.pending ? html`, <b>${format.count(progress.pending)} unsaved</b>` : ""}`}>
    ${progress.quarantine && html`<div class="trouble"><p><strong>In quarantine:</strong> ${progress.quarantine.reason}</p><p>Nothing of it is saved until it is released; see <a href="#/dead-letters">Dead letters</a>.</p></div>`}
    <div class="progress-line"><progress max="100" value=${percent ?? 0} aria-label="Completed"></progress> <b>${format.decimal(percent, 1)} %</b>
      <span class="dim">started <${Time} at=${progress.started_at} />${progress.completed_at && html`, completed <${Time} at=${progress.completed_at} />`}</span></div>
    <${StateTree} key=${progress.experience} state=${progress.state ?? {}} />
  <//>`;
}

function ProfilePanel({ profile }) {
  if (!profile) return null;
  return html`<${Panel} title="Profile (as saved)"><${StateTree} state=${profile} /><//>`;
}
