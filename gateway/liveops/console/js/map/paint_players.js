// Paints a crowd. Up to 2,000 in view each is a dot; above that they are put together in cells of the world's grid, so
// that a cluster stays where it is while the map is moved.
//
// Dots are written into an image, pixel by pixel, instead of being drawn: measured at 10,000 moving players that is what
// fits into a frame also where there is no graphics card.

export const DOTS_MAX = 2_000;
const CELL_PX = 64;
const DOT_PX = 3.4;

export class PlayersPainter {
  constructor(canvas) {
    this.canvas = canvas;
    this.context = canvas.getContext("2d", { willReadFrequently: true }); // stays in memory, where pixels are cheap
    this.visible = 0;
    this.isClustered = false;
  }

  resize(width, height, ratio) {
    this.ratio = ratio;
    this.canvas.width = Math.max(1, Math.round(width * ratio));
    this.canvas.height = Math.max(1, Math.round(height * ratio));
    this.image = this.context.createImageData(this.canvas.width, this.canvas.height);
    this.pixels = new Uint32Array(this.image.data.buffer);
    this.dot = makeDot(DOT_PX * ratio);
  }

  /** `colours`: css colours by state, then `edge`, `cluster`, `clusterText`. `mode`: "auto" or "dots". */
  paint(camera, crowd, colours, mode = "auto") {
    const { context, canvas, ratio } = this;
    this.visible = countVisible(camera, crowd);
    this.isClustered = mode === "auto" && this.visible > DOTS_MAX;
    const single = this.isClustered ? this.cluster(camera, crowd) : null;
    this.pixels.fill(0);
    this.stamp(camera, crowd, colours, single);
    context.putImageData(this.image, 0, 0);
    context.setTransform(ratio, 0, 0, ratio, 0, 0);
    if (this.isClustered) this.paintClusters(this.cells, colours);
    if (crowd.clusters.length) {
      this.paintClusters(crowd.clusters.map(([x, y, count]) => [camera.screenX(x), camera.screenY(y), count]), colours);
    }
    context.setTransform(1, 0, 0, 1, 0, 0);
    return canvas;
  }

  stamp(camera, crowd, colours, single) {
    const { pixels, ratio, dot } = this;
    const { width, height } = this.canvas;
    const fills = colours.states.map(packed);
    const edge = packed(colours.edge);
    const radius = dot.radius;
    const count = single ? single.length : crowd.size;
    const [scale, dx, dy] = [camera.scale * ratio, (camera.width / 2) * ratio - camera.x * camera.scale * ratio, (camera.height / 2) * ratio - camera.y * camera.scale * ratio];
    for (let n = 0; n < count; n++) {
      const i = single ? single[n] : n;
      const px = Math.round(crowd.x[i] * scale + dx);
      const py = Math.round(crowd.y[i] * scale + dy);
      if (px < radius || py < radius || px >= width - radius || py >= height - radius) continue;
      const at = py * width + px;
      const fill = fills[crowd.state[i]];
      for (let k = 0; k < dot.edge.length; k += 2) pixels[at + dot.edge[k] * width + dot.edge[k + 1]] = edge;
      for (let k = 0; k < dot.fill.length; k += 2) pixels[at + dot.fill[k] * width + dot.fill[k + 1]] = fill;
    }
  }

  /** Fills `cells` with [px, py, count] and returns the players who are alone in theirs. */
  cluster(camera, crowd) {
    const level = Math.floor(Math.log2(camera.scale / CELL_PX));
    const cell = 2 ** level; // cells in the whole world
    const left = Math.floor(camera.worldX(0) * cell) - 1;
    const top = Math.floor(camera.worldY(0) * cell) - 1;
    const across = Math.ceil(camera.worldX(camera.width) * cell) + 1 - left;
    const down = Math.ceil(camera.worldY(camera.height) * cell) + 1 - top;
    const counts = new Uint32Array(across * down);
    const sumX = new Float64Array(across * down);
    const sumY = new Float64Array(across * down);
    const last = new Uint32Array(across * down);
    for (let i = 0; i < crowd.size; i++) {
      const column = Math.floor(crowd.x[i] * cell) - left;
      const row = Math.floor(crowd.y[i] * cell) - top;
      if (column < 0 || row < 0 || column >= across || row >= down) continue;
      const at = row * across + column;
      counts[at]++;
      sumX[at] += crowd.x[i];
      sumY[at] += crowd.y[i];
      last[at] = i;
    }
    const single = [];
    this.cells = [];
    for (let at = 0; at < counts.length; at++) {
      if (counts[at] === 1) single.push(last[at]);
      else if (counts[at]) this.cells.push([camera.screenX(sumX[at] / counts[at]), camera.screenY(sumY[at] / counts[at]), counts[at]]);
    }
    return single;
  }

  paintClusters(cells, colours) {
    const { context } = this;
    context.fillStyle = colours.cluster;
    context.beginPath();
    for (const [x, y, count] of cells) {
      const radius = 9 + 3.2 * Math.log2(count);
      context.moveTo(x + radius, y);
      context.arc(x, y, radius, 0, 2 * Math.PI);
    }
    context.fill();
    context.fillStyle = colours.clusterText;
    context.font = "600 12px system-ui, sans-serif";
    context.textAlign = "center";
    context.textBaseline = "middle";
    for (const [x, y, count] of cells) context.fillText(count < 10_000 ? count : `${Math.round(count / 1000)}k`, x, y);
  }
}

function countVisible(camera, crowd) {
  const [left, right] = [camera.worldX(0), camera.worldX(camera.width)];
  const [top, bottom] = [camera.worldY(0), camera.worldY(camera.height)];
  let count = 0;
  for (let i = 0; i < crowd.size; i++) {
    if (crowd.x[i] >= left && crowd.x[i] <= right && crowd.y[i] >= top && crowd.y[i] <= bottom) count++;
  }
  return count;
}

/** Row and column offsets of the pixels of a dot and of its edge. */
function makeDot(radius) {
  const outer = radius + 1;
  const [fill, edge] = [[], []];
  const reach = Math.ceil(outer);
  for (let row = -reach; row <= reach; row++) {
    for (let column = -reach; column <= reach; column++) {
      const distance = Math.hypot(row, column);
      if (distance <= radius) fill.push(row, column);
      else if (distance <= outer) edge.push(row, column);
    }
  }
  return { fill: Int32Array.from(fill), edge: Int32Array.from(edge), radius: reach };
}

const packedColours = new Map();

/** "#rrggbb" as a little-endian RGBA pixel. */
function packed(colour) {
  if (!packedColours.has(colour)) {
    const [r, g, b] = [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
    packedColours.set(colour, ((255 << 24) | (b << 16) | (g << 8) | r) >>> 0);
  }
  return packedColours.get(colour);
}
