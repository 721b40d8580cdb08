// Loading, repeating and debouncing, as hooks: what every page needs to be honest about what it shows.
import { get } from "./api.js";
import { useCallback, useEffect, useRef, useState } from "./preact.js";

/**
 * What `path` answers: {data, error, isLoading, at, reload}. `path` null: nothing is asked. Data of before stays while it
 * is asked for again and when that fails, so that a page never goes blank under somebody who reads it; data of another
 * path or other parameters goes at once. `everyS` asks again while the tab is looked at.
 */
export function useLoad(path, params = {}, everyS = 0) {
  const key = path && `${path} ${JSON.stringify(params)}`;
  const [state, setState] = useState({ key: null, data: null, error: null, isLoading: true, at: null });
  const [turn, setTurn] = useState(0);
  const keyRef = useRef(key);
  keyRef.current = key;
  useEffect(() => {
    if (!path) return undefined;
    const stop = new AbortController();
    setState((old) => (old.key === key ? { ...old, isLoading: true } : { key, data: null, error: null, isLoading: true, at: null }));
    get(path, params, stop.signal).then(
      (data) => setState({ key, data, error: null, isLoading: false, at: Date.now() }),
      (error) => {
        if (!stop.signal.aborted) setState((old) => ({ ...old, error, isLoading: false }));
      },
    );
    return () => stop.abort();
  }, [key, turn]);
  const reload = useCallback(() => setTurn((old) => old + 1), []);
  useEffect(() => {
    if (!path || !everyS) return undefined;
    const timer = setInterval(() => !document.hidden && reload(), everyS * 1000);
    return () => clearInterval(timer);
  }, [key, everyS]);
  const isOurs = state.key === key;
  return { data: isOurs ? state.data : null, error: isOurs ? state.error : null, isLoading: !!path && (!isOurs || state.isLoading), at: isOurs ? state.at : null, reload };
}

/** The value, once it has stayed the same for `delayMs`. */
export function useSettled(value, delayMs = 200) {
  const [settled, setSettled] = useState(value);
  useEffect(() => {
    const timer = setTimeout(() => setSettled(value), delayMs);
    return () => clearTimeout(timer);
  }, [value, delayMs]);
  return settled;
}

/** Renders again every `everyMs`: for ages ("4 s ago"). */
export function useTick(everyMs = 1_000) {
  const [, setTurn] = useState(0);
  useEffect(() => {
    const timer = setInterval(() => !document.hidden && setTurn((old) => old + 1), everyMs);
    return () => clearInterval(timer);
  }, [everyMs]);
}

/** Keyset pages: the cursors that led here. `key` is what the list is of; another one begins at the first page. */
export function usePages(key) {
  const [state, setState] = useState({ key, cursors: [] });
  const cursors = state.key === key ? state.cursors : [];
  return {
    cursor: cursors.at(-1),
    number: cursors.length + 1,
    next: (cursor) => setState({ key, cursors: [...cursors, cursor] }),
    back: () => setState({ key, cursors: cursors.slice(0, -1) }),
  };
}
