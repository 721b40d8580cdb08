// Where in the console we are: the hash of the address, so that every view is a link that can be sent to somebody.
// "#/player/UUID?experience=x" is {page: "player", args: ["UUID"], query: {experience: "x"}}.
import { useEffect, useState } from "./preact.js";

export function readRoute(hash = location.hash) {
  const [path, query = ""] = hash.replace(/^#\/?/, "").split("?");
  const [page, ...args] = path.split("/").filter(Boolean).map(decode);
  return { page: page ?? "overview", args, query: Object.fromEntries(new URLSearchParams(query)) };
}

function decode(text) {
  try {
    return decodeURIComponent(text);
  } catch {
    return text;
  }
}

export function linkTo(page, args = [], query = {}) {
  const kept = Object.entries(query).filter(([, value]) => value !== undefined && value !== null && value !== "");
  const tail = new URLSearchParams(kept).toString();
  return `#/${[page, ...args].map(encodeURIComponent).join("/")}${tail ? `?${tail}` : ""}`;
}

export function goTo(page, args, query) {
  location.hash = linkTo(page, args, query);
}

/** Change what is asked for without a new step in the browser's history: typing makes no hundred of them. */
export function replaceQuery(route, changes) {
  const hash = linkTo(route.page, route.args, { ...route.query, ...changes });
  if (hash === location.hash) return;
  history.replaceState(null, "", hash);
  dispatchEvent(new HashChangeEvent("hashchange"));
}

export function useRoute() {
  const [route, setRoute] = useState(readRoute());
  useEffect(() => {
    const update = () => setRoute(readRoute());
    addEventListener("hashchange", update);
    return () => removeEventListener("hashchange", update);
  }, []);
  return route;
}
