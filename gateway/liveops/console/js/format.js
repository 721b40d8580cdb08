// How numbers, times and ids are written: the same everywhere. Times are shown local or UTC, whichever was chosen; the
// other one is in the title.

let zone = "local";
try {
  zone = localStorage.getItem("wayhold.zone") === "utc" ? "utc" : "local";
} catch {
  // Storage may be forbidden.
}

export function getZone() {
  return zone;
}

export function setZone(value) {
  zone = value;
  try {
    localStorage.setItem("wayhold.zone", value);
  } catch {
    // Then it holds for this visit.
  }
}

const NONE = "–";
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

export function count(value) {
  return isNumber(value) ? Math.round(value).toLocaleString("en") : NONE;
}

export function decimal(value, digits = 1) {
  return isNumber(value) ? value.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }) : NONE;
}

export function rate(value) {
  return !isNumber(value) ? NONE : value && value < 10 ? decimal(value, 1) : count(value);
}

export function ms(value) {
  if (!isNumber(value)) return NONE;
  return value && value < 10 ? `${decimal(value, 1)} ms` : value < 10_000 ? `${count(value)} ms` : `${decimal(value / 1000, 1)} s`;
}

export function percent(share) {
  return isNumber(share) ? `${decimal(share * 100, 1)} %` : NONE;
}

export function bytes(value) {
  if (!isNumber(value)) return NONE;
  for (const [unit, size] of [["GiB", 2 ** 30], ["MiB", 2 ** 20], ["KiB", 1024]]) {
    if (value >= size) return `${decimal(value / size, 1)} ${unit}`;
  }
  return `${count(value)} B`;
}

/** 4.2 s, 3 min, 2 h 5 min, 3 d 4 h */
export function duration(seconds) {
  if (!isNumber(seconds)) return NONE;
  if (seconds < 10) return Number.isInteger(seconds) ? `${seconds} s` : `${decimal(seconds, 1)} s`;
  if (seconds < 120) return `${Math.round(seconds)} s`;
  const minutes = Math.round(seconds / 60);
  if (minutes < 60) return `${minutes} min`;
  const hours = Math.floor(minutes / 60);
  if (hours < 48) return minutes % 60 ? `${hours} h ${minutes % 60} min` : `${hours} h`;
  const days = Math.floor(hours / 24);
  return hours % 24 ? `${days} d ${hours % 24} h` : `${days} d`;
}

export function ago(at, now = Date.now()) {
  const time = toMs(at);
  if (time === null) return NONE;
  const seconds = (now - time) / 1000;
  if (seconds < 0) return `in ${duration(-seconds)}`;
  return seconds < 2 ? "now" : `${duration(Math.round(seconds))} ago`;
}

/** ISO text, ms or Date to ms; null if it is none of them. */
export function toMs(at) {
  if (at === null || at === undefined || at === "") return null;
  const value = typeof at === "number" ? at : new Date(at).getTime();
  return Number.isFinite(value) ? value : null;
}

const two = (value) => String(value).padStart(2, "0");

function parts(date, inZone) {
  return inZone === "utc"
    ? [date.getUTCFullYear(), date.getUTCMonth() + 1, date.getUTCDate(), date.getUTCHours(), date.getUTCMinutes(), date.getUTCSeconds(), date.getUTCMilliseconds()]
    : [date.getFullYear(), date.getMonth() + 1, date.getDate(), date.getHours(), date.getMinutes(), date.getSeconds(), date.getMilliseconds()];
}

/** "today" leaves the date away; `precise` adds milliseconds. */
export function time(at, { precise = false, inZone = zone } = {}) {
  const value = toMs(at);
  if (value === null) return NONE;
  const [year, month, day, hour, minute, second, milli] = parts(new Date(value), inZone);
  const [nowYear, nowMonth, nowDay] = parts(new Date(), inZone);
  const clock = `${two(hour)}:${two(minute)}:${two(second)}${precise ? `.${String(milli).padStart(3, "0")}` : ""}`;
  const isToday = year === nowYear && month === nowMonth && day === nowDay;
  return isToday ? clock : `${year}-${two(month)}-${two(day)} ${clock}`;
}

export function bothTimes(at) {
  const value = toMs(at);
  if (value === null) return "";
  const full = (inZone) => {
    const [year, month, day, hour, minute, second] = parts(new Date(value), inZone);
    return `${year}-${two(month)}-${two(day)} ${two(hour)}:${two(minute)}:${two(second)}`;
  };
  return `${full("local")} local\n${full("utc")} UTC`;
}

export function shortId(id) {
  const text = String(id ?? NONE);
  return text.length > 13 && /^[0-9a-f-]{32,36}$/i.test(text) ? `${text.slice(0, 8)}…` : text;
}

export function isUuid(text) {
  return /^[0-9a-f]{8}-?([0-9a-f]{4}-?){3}[0-9a-f]{12}$/i.test(text);
}

/** The day of the analytics, which is UTC. */
export function day(at) {
  return new Date(at).toISOString().slice(0, 10);
}
