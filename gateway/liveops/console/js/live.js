// The live feed (server-sent events) of one page: comes back by itself, and always knows how old what it shows is.
import { urlOf } from "./api.js";
import { useEffect, useRef, useState } from "./preact.js";

const RETRY_MS = 1_000;
const RETRY_MAX_MS = 15_000;

/** `handlers`: by the name of the event, each gets the parsed data. `onStatus` gets "connecting", "live", "reconnecting". */
export class LiveFeed {
  constructor(params, handlers, onStatus) {
    this.url = urlOf("live", params);
    this.handlers = handlers;
    this.onStatus = onStatus;
    this.retryMs = RETRY_MS;
    this.isClosed = false;
    this.onStatus("connecting");
    this.open();
  }

  open() {
    const source = new EventSource(this.url, { withCredentials: false });
    this.source = source;
    source.onopen = () => {
      this.retryMs = RETRY_MS;
      this.onStatus("live");
    };
    source.onerror = () => {
      if (this.isClosed) return;
      this.onStatus("reconnecting");
      // After an answer other than 200 a browser gives up for good; after a lost connection it comes back by itself.
      if (source.readyState !== EventSource.CLOSED) return;
      this.timer = setTimeout(() => this.open(), this.retryMs * (0.5 + Math.random() / 2));
      this.retryMs = Math.min(RETRY_MAX_MS, this.retryMs * 2);
    };
    for (const [name, handle] of Object.entries(this.handlers)) {
      source.addEventListener(name, (event) => {
        if (!this.isClosed) handle(JSON.parse(event.data));
      });
    }
  }

  close() {
    this.isClosed = true;
    clearTimeout(this.timer);
    this.source.close();
  }
}

/**
 * A feed for as long as the component is shown and the tab is looked at: nothing is computed for a tab in the background.
 * Handlers may change from one render to the next; `params` null: no feed. Returns {status, heardAt}.
 */
export function useLive(params, handlers) {
  const latest = useRef(handlers);
  latest.current = handlers;
  const [state, setState] = useState({ status: "connecting", heardAt: null });
  const key = params && JSON.stringify(params);
  useEffect(() => {
    if (!key) return undefined;
    let feed = null;
    let heardAt = null;
    const wrapped = Object.fromEntries(
      Object.keys(latest.current).map((name) => [
        name,
        (data) => {
          heardAt = Date.now();
          latest.current[name]?.(data);
        },
      ]),
    );
    const start = () => (feed ??= new LiveFeed(JSON.parse(key), wrapped, (status) => setState({ status, heardAt })));
    const stop = () => {
      feed?.close();
      feed = null;
    };
    const look = () => (document.hidden ? stop() : start());
    look();
    document.addEventListener("visibilitychange", look);
    return () => {
      document.removeEventListener("visibilitychange", look);
      stop();
    };
  }, [key]);
  return state;
}
