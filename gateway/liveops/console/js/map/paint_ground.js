// What lies under the players: a grid of round distances, a scale bar, the waypoints of the experience, a path. There are
// no map tiles: those would be requests to somebody else that tell where players are.
import { worldOf } from "./camera.js";

const LABELS_MAX = 60;

export function prepareWaypoints(waypoints) {
  return waypoints.map((one) => ({ ...one, at: worldOf(one.lat, one.lng) }));
}

export function preparePath(points) {
  return points.map((one) => ({ ...one, world: worldOf(one.lat, one.lng) }));
}

export function paintGround(context, camera, { waypoints, path, here }, colours) {
  const { width, height } = camera;
  context.fillStyle = colours.ground;
  context.fillRect(0, 0, width, height);
  paintGrid(context, camera, colours);
  paintWaypoints(context, camera, waypoints, colours);
  if (path?.length) paintPath(context, camera, path, colours);
  if (here) paintHere(context, camera, here, colours);
  paintScale(context, camera, colours);
}

function roundDistance(metres) {
  const power = 10 ** Math.floor(Math.log10(metres));
  return [1, 2, 5, 10].map((one) => one * power).find((one) => one >= metres);
}

function paintGrid(context, camera, colours) {
  const step = roundDistance(camera.metresPerPixel() * 80) / camera.metresPerPixel() / camera.scale;
  context.strokeStyle = colours.grid;
  context.lineWidth = 1;
  context.beginPath();
  for (let x = Math.ceil(camera.worldX(0) / step) * step; x < camera.worldX(camera.width); x += step) {
    const px = Math.round(camera.screenX(x)) + 0.5;
    context.moveTo(px, 0);
    context.lineTo(px, camera.height);
  }
  for (let y = Math.ceil(camera.worldY(0) / step) * step; y < camera.worldY(camera.height); y += step) {
    const py = Math.round(camera.screenY(y)) + 0.5;
    context.moveTo(0, py);
    context.lineTo(camera.width, py);
  }
  context.stroke();
}

function paintWaypoints(context, camera, waypoints, colours) {
  const visible = waypoints.filter(({ at: [x, y] }) => {
    const [px, py] = [camera.screenX(x), camera.screenY(y)];
    return px > -40 && py > -40 && px < camera.width + 40 && py < camera.height + 40;
  });
  const metre = 1 / camera.metresPerPixel();
  for (const { at: [x, y], radius_m } of visible) {
    const [px, py] = [camera.screenX(x), camera.screenY(y)];
    if (radius_m * metre > 6) {
      context.fillStyle = colours.area;
      context.beginPath();
      context.arc(px, py, radius_m * metre, 0, 2 * Math.PI);
      context.fill();
    }
    context.fillStyle = colours.waypoint;
    context.beginPath();
    context.moveTo(px, py - 6);
    context.lineTo(px + 6, py);
    context.lineTo(px, py + 6);
    context.lineTo(px - 6, py);
    context.fill();
  }
  // A label that would lie on another one is left out; zooming in brings it back.
  context.fillStyle = colours.label;
  context.font = "11px system-ui, sans-serif";
  context.textAlign = "left";
  context.textBaseline = "middle";
  const taken = [];
  for (const { at: [x, y], id } of visible.slice(0, 4 * LABELS_MAX)) {
    const [px, py] = [camera.screenX(x) + 9, camera.screenY(y)];
    const box = [px, py - 7, px + context.measureText(id).width, py + 7];
    if (taken.length > LABELS_MAX || taken.some((one) => one[0] < box[2] && box[0] < one[2] && one[1] < box[3] && box[1] < one[3])) continue;
    taken.push(box);
    context.fillText(id, px, py);
  }
}

function paintPath(context, camera, path, colours) {
  context.strokeStyle = colours.path;
  context.lineWidth = 2;
  context.lineJoin = "round";
  context.beginPath();
  path.forEach(({ world: [x, y] }, index) => context[index ? "lineTo" : "moveTo"](camera.screenX(x), camera.screenY(y)));
  context.stroke();
  context.fillStyle = colours.path;
  for (const { world: [x, y] } of path) context.fillRect(camera.screenX(x) - 1.5, camera.screenY(y) - 1.5, 3, 3);
}

function paintHere(context, camera, [x, y], colours) {
  const [px, py] = [camera.screenX(x), camera.screenY(y)];
  context.fillStyle = colours.states[0];
  context.strokeStyle = colours.edge;
  context.lineWidth = 2;
  context.beginPath();
  context.arc(px, py, 7, 0, 2 * Math.PI);
  context.fill();
  context.stroke();
}

function paintScale(context, camera, colours) {
  const metres = roundDistance(camera.metresPerPixel() * 70);
  const length = metres / camera.metresPerPixel();
  const [left, bottom] = [14, camera.height - 14];
  context.strokeStyle = colours.label;
  context.fillStyle = colours.label;
  context.lineWidth = 1.5;
  context.beginPath();
  context.moveTo(left, bottom - 5);
  context.lineTo(left, bottom);
  context.lineTo(left + length, bottom);
  context.lineTo(left + length, bottom - 5);
  context.stroke();
  context.font = "11px system-ui, sans-serif";
  context.textAlign = "left";
  context.textBaseline = "bottom";
  context.fillText(metres >= 1000 ? `${metres / 1000} km` : `${metres} m`, left + 5, bottom - 3);
}
