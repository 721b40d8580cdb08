// Where a player has been: the places of saved events as a line over the waypoints of the experience.
import { useLoad } from "../hooks.js";
import { GeoMap } from "../map/geo_map.js";
import { html, useEffect, useMemo } from "../preact.js";
import { Empty, Loaded, Panel, Time } from "../ui.js";

export function PlayerPath({ id, experience, live, turn }) {
  const load = useLoad(experience ? `players/${id}/path` : null, { experience });
  const experiences = useLoad("experiences");
  useEffect(() => {
    if (turn) load.reload();
  }, [turn]);
  const waypoints = useMemo(
    () => (experiences.data?.items?.find((one) => one.experience === experience)?.definition?.waypoints ?? []).filter((one) => Number.isFinite(one.lat)),
    [experiences.data, experience],
  );
  const items = load.data?.items;
  const path = useMemo(() => (items ?? []).filter((one) => Number.isFinite(one.lat) && Number.isFinite(one.lng)), [items]);
  if (!experience) return null;
  const here = live && Number.isFinite(live.lat) && live.experience === experience ? [live.lat, live.lng] : undefined;
  return html`<${Panel} title="Path" aside=${path.length > 0 && html`${path.length} places, the last <${Time} at=${path.at(-1).at} />`}>
    <${Loaded} load=${load}>${() =>
      path.length || here
        ? html`<${GeoMap} label="Path of the player" waypoints=${waypoints} path=${path} here=${here} fitKey=${path.length ? "path" : "none"} className="small" />`
        : html`<${Empty}>No event of this player says where it happened.<//>`}<//>
  <//>`;
}
