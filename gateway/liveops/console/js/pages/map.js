// Map: where the players of an experience are right now, and its waypoints.
import * as format from "../format.js";
import { useLoad } from "../hooks.js";
import { useLive } from "../live.js";
import { Crowd } from "../map/crowd.js";
import { GeoMap } from "../map/geo_map.js";
import { html, useMemo, useRef, useState } from "../preact.js";
import { goTo } from "../router.js";
import { Empty, FeedStatus, Loaded, PlayerLink, Select } from "../ui.js";

export function MapPage({ me, route }) {
  const experiences = useLoad("experiences");
  return html`<${Loaded} load=${experiences}>${(data) => {
    const chosen = route.args[0] ?? data.items.find((one) => one.definition)?.experience ?? data.items[0]?.experience;
    if (!chosen) return html`<h1>Map</h1><${Empty}>No experience is defined and nobody has played yet.<//>`;
    return html`<${ExperienceMap} key=${chosen} me=${me} chosen=${chosen} all=${data.items} />`;
  }}<//>`;
}

function ExperienceMap({ me, chosen, all }) {
  const reduced = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const [crowd] = useState(() => new Crowd({ glideMs: reduced ? 0 : undefined }));
  const [known, setKnown] = useState(0);
  const [shown, setShown] = useState({ visible: 0, isClustered: false });
  const [mode, setMode] = useState("auto");
  const [picked, setPicked] = useState(null);
  const heard = useRef(false);
  // More than 2,000 the server puts together itself. Then it is asked for what is in view alone, so that zooming in
  // shows single players; otherwise everybody is known and the map moves without asking.
  const [box, setBox] = useState("");
  const isCut = useRef(false);
  const onView = ([south, west, north, east]) => {
    const [high, wide] = [(north - south) / 4, (east - west) / 4];
    if (isCut.current) setBox([south - high, west - wide, north + high, east + wide].map((one) => one.toFixed(5)).join());
  };
  const feed = useLive({ topics: "players", experience: chosen, bbox: box }, {
    players: (news) => {
      // After a reconnect the first news are everybody: who has gone meanwhile is not in them.
      crowd.apply(heard.current ? news : { ...news, full: true }, performance.now());
      heard.current = true;
      isCut.current = !!box || news.clusters?.length > 0;
      setKnown(news.total ?? crowd.size + crowd.waiting.length);
    },
  });
  if (feed.status !== "live") heard.current = false;
  const waypoints = useMemo(() => (all.find((one) => one.experience === chosen)?.definition?.waypoints ?? []).filter((one) => Number.isFinite(one.lat)), [chosen, all]);
  return html`<div class="page-head"><h1>Map</h1>
      <${Select} label="Experience" value=${chosen} options=${all.map((one) => one.experience)} onChange=${(value) => goTo("map", [value])} />
      <label class="check"><input type="checkbox" checked=${mode === "dots"} onChange=${(event) => setMode(event.target.checked ? "dots" : "auto")} /> every player a dot</label>
      <${FeedStatus} feed=${feed} /></div>
    <div class="map-page">
      <${GeoMap} label="Players and waypoints of ${chosen}" waypoints=${waypoints} crowd=${crowd} mode=${mode} fitKey=${waypoints.length ? "waypoints" : `players ${known > 0}`}
        onPick=${setPicked} onCount=${setShown} onView=${onView} className="large" />
      <p class="map-note dim" role="status">
        <b>${format.count(known)}</b> players ${box ? "around here" : "with a known place"}, ${format.count(shown.visible)} in view${shown.isClustered ? ", put together: zoom in for single ones" : ""}.${" "}
        <span class="key"><i class="dot-playing"></i>playing</span> <span class="key"><i class="dot-suspended"></i>in the background</span> <span class="key"><i class="dot-disconnected"></i>disconnected</span>
        <span class="key"><i class="dot-waypoint"></i>waypoint</span>
        ${me.precise_location ? "" : " Places are rounded to about 110 m for your account."}
      </p>
      ${picked && html`<p class="picked">${picked.player ? html`Player <${PlayerLink} id=${picked.player} experience=${chosen} />` : html`Waypoint <b>${picked.waypoint.id}</b>`}
        <button type="button" class="quiet small" aria-label="Close" onClick=${() => setPicked(null)}>✕</button></p>`}
    </div>`;
}
