// Moving and zooming a map: mouse, wheel, one finger, two fingers, keys.

const MOVED_PX = 4; // less than that between down and up is a click
const STEP_PX = 80;

/** `onChange()` after the camera was moved, `onPick(px, py)` for a click. Returns a function that takes it all off. */
export function listenToGestures(element, camera, onChange, onPick) {
  const pointers = new Map();
  let travelled = 0;

  const place = (event) => {
    const box = element.getBoundingClientRect();
    return [event.clientX - box.left, event.clientY - box.top];
  };
  const down = (event) => {
    if (event.button > 0) return;
    element.setPointerCapture(event.pointerId);
    if (!pointers.size) travelled = 0;
    pointers.set(event.pointerId, place(event));
  };
  const move = (event) => {
    const before = pointers.get(event.pointerId);
    if (!before) return;
    const now = place(event);
    const others = [...pointers].filter(([id]) => id !== event.pointerId).map(([, at]) => at);
    travelled += Math.hypot(now[0] - before[0], now[1] - before[1]);
    if (others.length) {
      const [other] = others;
      const spread = (at) => Math.max(10, Math.hypot(at[0] - other[0], at[1] - other[1]));
      camera.zoomAt((now[0] + other[0]) / 2, (now[1] + other[1]) / 2, spread(now) / spread(before));
      camera.moveBy((now[0] - before[0]) / 2, (now[1] - before[1]) / 2);
    } else if (travelled > MOVED_PX) {
      camera.moveBy(now[0] - before[0], now[1] - before[1]);
    }
    pointers.set(event.pointerId, now);
    onChange();
  };
  const up = (event) => {
    if (!pointers.delete(event.pointerId)) return;
    if (event.type === "pointerup" && travelled <= MOVED_PX && !pointers.size) onPick(...place(event));
  };
  const wheel = (event) => {
    event.preventDefault();
    camera.zoomAt(...place(event), Math.exp(-event.deltaY * (event.deltaMode ? 0.05 : 0.002)));
    onChange();
  };
  const key = (event) => {
    const steps = { ArrowLeft: [STEP_PX, 0], ArrowRight: [-STEP_PX, 0], ArrowUp: [0, STEP_PX], ArrowDown: [0, -STEP_PX] };
    if (steps[event.key]) camera.moveBy(...steps[event.key]);
    else if (event.key === "+" || event.key === "=") camera.zoomAt(camera.width / 2, camera.height / 2, 1.5);
    else if (event.key === "-") camera.zoomAt(camera.width / 2, camera.height / 2, 1 / 1.5);
    else return;
    event.preventDefault();
    onChange();
  };
  const listeners = { pointerdown: down, pointermove: move, pointerup: up, pointercancel: up, wheel, keydown: key };
  for (const [name, listener] of Object.entries(listeners)) element.addEventListener(name, listener, { passive: false });
  return () => {
    for (const [name, listener] of Object.entries(listeners)) element.removeEventListener(name, listener);
  };
}
