// The HTTP API of the ops port: one function to read, one to change something, and errors that say what to do next.
// Everything is asked for below ../api/v1/ of this page, so that no request can leave its origin.

const BASE = new URL("../api/v1/", document.baseURI);
const DEADLINE_MS = 15_000;

let csrf = "";
let onLoggedOut = () => {};

export class ApiError extends Error {
  constructor(status, code, message, next = "") {
    super(message);
    this.status = status;
    this.code = code;
    this.next = next;
  }
}

export function setCsrf(value) {
  csrf = value || "";
}

/** Called whenever an answer says that nobody is logged in any more. */
export function whenLoggedOut(listener) {
  onLoggedOut = listener;
}

/** Empty and absent parameters are left out. */
export function urlOf(path, params = {}) {
  const url = new URL(path.split("/").filter(Boolean).map(encodeURIComponent).join("/"), BASE);
  for (const [name, value] of Object.entries(params)) {
    if (value !== undefined && value !== null && value !== "") url.searchParams.set(name, value);
  }
  return url;
}

export function get(path, params, signal) {
  return ask(urlOf(path, params), { method: "GET" }, signal);
}

/** `once`: a key that makes asking again the same action and not another one. */
export function post(path, body = {}, once = "") {
  const headers = { "Content-Type": "application/json", "X-Wayhold-Csrf": csrf, ...(once && { "Idempotency-Key": once }) };
  return ask(urlOf(path), { method: "POST", headers, body: JSON.stringify(body) });
}

async function ask(url, options, signal) {
  const deadline = AbortSignal.timeout(DEADLINE_MS);
  let response, text;
  try {
    response = await fetch(url, {
      ...options,
      credentials: "same-origin",
      cache: "no-store",
      signal: signal ? AbortSignal.any([signal, deadline]) : deadline,
    });
    text = await response.text();
  } catch (error) {
    if (signal?.aborted) throw error;
    if (deadline.aborted)
      throw new ApiError(0, "NO_ANSWER", `No answer within ${DEADLINE_MS / 1000} s.`, "It may be busy. Try again; `wayhold status` tells how it is.");
    throw new ApiError(0, "OFFLINE", "The ops process cannot be reached.", "Check your network or tunnel. The page goes on by itself.");
  }
  let data = null;
  try {
    data = text ? JSON.parse(text) : null;
  } catch {
    if (response.ok) throw new ApiError(response.status, "NOT_JSON", "The answer is not JSON.", "Is something between you and the gateway?");
  }
  if (response.ok) return data;
  const error = data?.error ?? {};
  if (response.status === 401 && !/\/(login|setup)$/.test(url.pathname)) onLoggedOut();
  throw new ApiError(
    response.status,
    error.code ?? `HTTP_${response.status}`,
    error.message ?? `The server answered ${response.status}.`,
    error.next ?? (response.status >= 500 ? "Try again; the log of the ops process says more." : ""),
  );
}
