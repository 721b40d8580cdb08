// A map as a component: two canvases on top of each other. The ground is painted when the camera moves, the players also
// when they do; a map where nothing moves costs nothing.
import { html, useEffect, useMemo, useRef, useState } from "../preact.js";
import { Camera, placeOf, worldOf } from "./camera.js";
import { listenToGestures } from "./gestures.js";
import { paintGround, preparePath, prepareWaypoints } from "./paint_ground.js";
import { PlayersPainter } from "./paint_players.js";

const COUNT_MS = 500;
const VIEW_MS = 400;

export function readColours() {
  const style = getComputedStyle(document.documentElement);
  const get = (name) => style.getPropertyValue(name).trim();
  return {
    ground: get("--map-ground"), grid: get("--map-grid"), area: get("--map-area"), waypoint: get("--map-waypoint"), label: get("--dim"),
    path: get("--map-path"), edge: get("--map-edge"), cluster: get("--map-cluster"), clusterText: get("--map-cluster-text"),
    states: ["--map-playing", "--map-suspended", "--map-disconnected"].map(get),
  };
}

/** `crowd` and `path` and `here` ([lat, lng]) may be absent; `fitKey`: when it changes the view is made to fit again. */
export function GeoMap({ label, waypoints = [], crowd, path = [], here, mode = "auto", fitKey, onPick, onCount, onView, className = "" }) {
  const box = useRef(null);
  const ground = useRef(null);
  const players = useRef(null);
  const latest = useRef({});
  const [camera] = useState(() => new Camera());
  const engine = useRef(null);
  latest.current = {
    crowd, mode, onPick, onCount, onView, fitKey,
    scene: useMemo(() => ({ waypoints: prepareWaypoints(waypoints), path: preparePath(path), here: here && worldOf(...here) }), [waypoints, path, here?.[0], here?.[1]]),
  };

  useEffect(() => {
    const run = (engine.current = new MapEngine(box.current, ground.current, players.current, camera, latest));
    return () => run.stop();
  }, []);
  useEffect(() => engine.current?.invalidate(), [latest.current.scene, mode]);
  const zoom = (factor) => {
    camera.zoomAt(camera.width / 2, camera.height / 2, factor);
    engine.current.touch();
  };
  return html`<div class="map ${className}">
    <div ref=${box} class="map-box" tabindex="0" role="application" aria-label="${label}. Arrow keys move, plus and minus zoom.">
      <canvas ref=${ground}></canvas><canvas ref=${players}></canvas>
    </div>
    <div class="map-buttons">
      <button type="button" aria-label="Zoom in" onClick=${() => zoom(1.6)}>+</button>
      <button type="button" aria-label="Zoom out" onClick=${() => zoom(1 / 1.6)}>−</button>
      <button type="button" aria-label="Show everything" title="Show everything" onClick=${() => engine.current.fit()}>all</button>
    </div>
  </div>`;
}

export class MapEngine {
  constructor(box, ground, players, camera, latest) {
    Object.assign(this, { box, ground, camera, latest });
    this.painter = new PlayersPainter(players);
    this.context = ground.getContext("2d");
    this.fitted = null;
    this.isTouched = false;
    this.countedAt = 0;
    this.colours = readColours();
    this.observer = new ResizeObserver(() => this.resize());
    this.observer.observe(box);
    this.unlisten = listenToGestures(box, camera, () => this.touch(), (px, py) => this.pick(px, py));
    this.recolour = () => {
      this.colours = readColours();
      this.invalidate();
    };
    addEventListener("themechange", this.recolour);
    this.resize();
    this.request = requestAnimationFrame((now) => this.frame(now));
  }

  stop() {
    cancelAnimationFrame(this.request);
    clearTimeout(this.viewTimer);
    this.observer.disconnect();
    this.unlisten();
    removeEventListener("themechange", this.recolour);
  }

  resize() {
    const { width, height } = this.box.getBoundingClientRect();
    const ratio = Math.min(2, devicePixelRatio || 1);
    this.camera.resize(width, height);
    this.ground.width = Math.max(1, Math.round(width * ratio));
    this.ground.height = Math.max(1, Math.round(height * ratio));
    this.context.setTransform(ratio, 0, 0, ratio, 0, 0);
    this.painter.resize(width, height, ratio);
    if (!this.isTouched) this.fitted = null;
    this.invalidate();
  }

  invalidate() {
    this.isStale = true;
  }

  /** Somebody has moved the map: from now on it stays where they put it. */
  touch() {
    this.isTouched = true;
    this.invalidate();
  }

  fit() {
    const { scene, crowd } = this.latest.current;
    // A path is what somebody wants to see where there is one; the waypoints around it are there anyway.
    const points = scene.path.length ? scene.path.map((one) => one.world) : [...scene.waypoints.map((one) => one.at), ...(scene.here ? [scene.here] : [])];
    const all = points.length ? points : (crowd?.points() ?? []);
    this.camera.fit(all);
    this.isTouched = false;
    this.invalidate();
    return all.length > 0;
  }

  pick(px, py) {
    const { crowd, onPick, scene } = this.latest.current;
    const id = crowd?.near(this.camera, px, py);
    if (id) return onPick?.({ player: id });
    const waypoint = scene.waypoints.find((one) => Math.hypot(this.camera.screenX(one.at[0]) - px, this.camera.screenY(one.at[1]) - py) < 10);
    return onPick?.(waypoint ? { waypoint } : null);
  }

  /** South, west, north and east of what is shown, once the camera has come to rest. */
  tellView(onView) {
    clearTimeout(this.viewTimer);
    this.viewTimer = setTimeout(() => {
      const [south, west] = placeOf(this.camera.worldX(0), this.camera.worldY(this.camera.height));
      const [north, east] = placeOf(this.camera.worldX(this.camera.width), this.camera.worldY(0));
      onView([south, west, north, east]);
    }, VIEW_MS);
  }

  frame(now) {
    this.request = requestAnimationFrame((next) => this.frame(next));
    const { crowd, mode, scene, fitKey, onCount, onView } = this.latest.current;
    if (this.fitted !== (fitKey ?? "") && this.camera.width > 1 && !this.isTouched && this.fit()) this.fitted = fitKey ?? "";
    const isMoving = crowd?.isMoving(now);
    if (!this.isStale && !isMoving) return;
    if (this.isStale && onView) this.tellView(onView);
    if (this.isStale) paintGround(this.context, this.camera, scene, this.colours);
    this.isStale = false;
    if (!crowd) return;
    crowd.step(now);
    this.painter.paint(this.camera, crowd, this.colours, mode);
    if (onCount && now - this.countedAt > COUNT_MS) {
      this.countedAt = now;
      onCount({ visible: this.painter.visible, isClustered: this.painter.isClustered });
    }
  }
}
