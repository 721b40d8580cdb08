// Where many players are: arrays of numbers instead of objects, so that ten thousand can move in every frame. A player
// glides from the last place that was heard to the newest one, because news come once a second.
import { worldOf } from "./camera.js";

export const STATES = ["playing", "suspended", "disconnected"];
const GLIDE_MS = 1_000;
const PER_FRAME = 1_500;
const WAITING_MAX = 40_000;

export class Crowd {
  size = 0;
  ids = [];
  slots = new Map(); // id → index
  x = new Float64Array(1024); // where a player is drawn
  y = new Float64Array(1024);
  fromX = new Float64Array(1024);
  fromY = new Float64Array(1024);
  toX = new Float64Array(1024);
  toY = new Float64Array(1024);
  since = new Float64Array(1024); // when the way from … to … began
  state = new Uint8Array(1024);
  clusters = []; // what the server has put together: [x, y, count]
  waiting = []; // news that later frames take in, so that none of them has to take in all
  movingUntil = 0;

  constructor({ glideMs = GLIDE_MS } = {}) {
    this.glideMs = glideMs;
  }

  /** News of the feed: {full, players: [[id, lat, lng, state]], gone: [id], clusters: [[lat, lng, count]]} */
  apply(news, now) {
    if (news.full) this.clear();
    const gone = news.gone ?? [];
    // Who has gone must be known before; a tab that was asleep catches up at once.
    if (gone.length || this.waiting.length > WAITING_MAX) this.takeIn(this.waiting.length, now);
    for (const id of gone) this.remove(id);
    for (const player of news.players ?? []) this.waiting.push(player);
    if (news.clusters) this.clusters = news.clusters.map(([lat, lng, count]) => [...worldOf(lat, lng), count]);
    this.movingUntil = now + this.glideMs;
  }

  takeIn(most, now) {
    for (const [id, lat, lng, state] of this.waiting.splice(0, most)) {
      const [x, y] = worldOf(lat, lng);
      let slot = this.slots.get(id);
      if (slot === undefined) {
        slot = this.add(id);
        this.x[slot] = x;
        this.y[slot] = y;
      }
      this.fromX[slot] = this.x[slot];
      this.fromY[slot] = this.y[slot];
      this.toX[slot] = x;
      this.toY[slot] = y;
      this.since[slot] = now;
      this.state[slot] = state === "recovering" ? 1 : Math.max(0, STATES.indexOf(state));
    }
    this.movingUntil = now + this.glideMs;
  }

  /** Takes in some of the news, and puts everybody where they are at this time. */
  step(now) {
    if (this.waiting.length) this.takeIn(PER_FRAME, now);
    const { x, y, fromX, fromY, toX, toY, since, size, glideMs } = this;
    for (let i = 0; i < size; i++) {
      const share = glideMs ? Math.min(1, (now - since[i]) / glideMs) : 1;
      x[i] = fromX[i] + (toX[i] - fromX[i]) * share;
      y[i] = fromY[i] + (toY[i] - fromY[i]) * share;
    }
  }

  isMoving(now) {
    return this.waiting.length > 0 || now <= this.movingUntil;
  }

  clear() {
    this.size = 0;
    this.ids = [];
    this.slots.clear();
    this.clusters = [];
    this.waiting = [];
  }

  add(id) {
    if (this.size === this.x.length) this.grow();
    const slot = this.size++;
    this.ids[slot] = id;
    this.slots.set(id, slot);
    return slot;
  }

  /** The last one takes the place of who has gone. */
  remove(id) {
    const slot = this.slots.get(id);
    if (slot === undefined) return;
    const last = --this.size;
    for (const values of [this.x, this.y, this.fromX, this.fromY, this.toX, this.toY, this.since, this.state]) values[slot] = values[last];
    this.ids[slot] = this.ids[last];
    this.slots.set(this.ids[slot], slot);
    this.ids.length = last;
    this.slots.delete(id);
  }

  grow() {
    for (const name of ["x", "y", "fromX", "fromY", "toX", "toY", "since", "state"]) {
      const longer = new this[name].constructor(this[name].length * 2);
      longer.set(this[name]);
      this[name] = longer;
    }
  }

  /** Who is nearest to a point of the screen, within a few pixels; null if nobody is. */
  near(camera, px, py, within = 12) {
    let best = null;
    let least = within * within;
    for (let i = 0; i < this.size; i++) {
      const dx = camera.screenX(this.x[i]) - px;
      const dy = camera.screenY(this.y[i]) - py;
      if (dx * dx + dy * dy < least) {
        least = dx * dx + dy * dy;
        best = this.ids[i];
      }
    }
    return best;
  }

  points() {
    const found = this.clusters.map(([x, y]) => [x, y]);
    for (let i = 0; i < this.size; i++) found.push([this.toX[i], this.toY[i]]);
    return found;
  }
}
