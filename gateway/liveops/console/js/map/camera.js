// Which part of the world a map shows, and where on the screen a place is. World coordinates are those of web maps
// (spherical Mercator, 0 to 1 in both directions), because there a circle on the ground stays a circle.

const LAT_MAX = 85.051129;
const SCALE_MAX = 2 ** 33; // about 0.5 cm for each pixel
const EARTH_M = 40_075_016.7;

export function worldOf(lat, lng) {
  const bounded = Math.max(-LAT_MAX, Math.min(LAT_MAX, lat));
  const sine = Math.sin((bounded * Math.PI) / 180);
  return [lng / 360 + 0.5, 0.5 - Math.log((1 + sine) / (1 - sine)) / (4 * Math.PI)];
}

export function placeOf(x, y) {
  return [(Math.atan(Math.sinh(Math.PI * (1 - 2 * y))) * 180) / Math.PI, (x - 0.5) * 360];
}

export class Camera {
  x = 0.5;
  y = 0.5;
  scale = 512; // pixels for the whole world
  width = 1;
  height = 1;

  resize(width, height) {
    this.width = Math.max(1, width);
    this.height = Math.max(1, height);
  }

  screenX(x) {
    return (x - this.x) * this.scale + this.width / 2;
  }

  screenY(y) {
    return (y - this.y) * this.scale + this.height / 2;
  }

  worldX(px) {
    return (px - this.width / 2) / this.scale + this.x;
  }

  worldY(py) {
    return (py - this.height / 2) / this.scale + this.y;
  }

  /** What is under (px, py) stays there. */
  zoomAt(px, py, factor) {
    const [x, y] = [this.worldX(px), this.worldY(py)];
    this.scale = Math.max(128, Math.min(SCALE_MAX, this.scale * factor));
    this.x = x - (px - this.width / 2) / this.scale;
    this.y = y - (py - this.height / 2) / this.scale;
  }

  moveBy(dx, dy) {
    this.x -= dx / this.scale;
    this.y = Math.max(0, Math.min(1, this.y - dy / this.scale));
  }

  /** Shows all of these world points with a margin; with one point, about a kilometre around it. */
  fit(points, margin = 40) {
    if (!points.length) return;
    let [left, top, right, bottom] = [Infinity, Infinity, -Infinity, -Infinity];
    for (const [x, y] of points) {
      left = Math.min(left, x);
      right = Math.max(right, x);
      top = Math.min(top, y);
      bottom = Math.max(bottom, y);
    }
    this.x = (left + right) / 2;
    this.y = (top + bottom) / 2;
    const least = 300 / EARTH_M;
    const wide = Math.max(right - left, least) / Math.max(50, this.width - 2 * margin);
    const high = Math.max(bottom - top, least) / Math.max(50, this.height - 2 * margin);
    this.scale = Math.min(SCALE_MAX, 1 / Math.max(wide, high));
  }

  metresPerPixel() {
    const [lat] = placeOf(this.x, this.y);
    return (EARTH_M * Math.cos((lat * Math.PI) / 180)) / this.scale;
  }
}
