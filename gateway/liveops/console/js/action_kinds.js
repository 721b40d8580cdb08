// What an operator can do: for each action its form, and the body that is sent. One table; the dialog is made from it.
// Who may do what is decided by the server; `role` only keeps buttons away that would be refused.

const ROLES = ["viewer", "support", "operator", "admin"];

/** `isWide`: to more than one player. */
export function mayDo(me, kind, isWide = false) {
  const { role, wideRole } = KINDS[kind];
  return ROLES.indexOf(me.role) >= ROLES.indexOf((isWide && wideRole) || role);
}

const DAY_S = 86_400;
const text = (name, label, more = {}) => ({ name, label, type: "text", required: true, ...more });

/** `scope`: what the target names. `progress` = player and experience. */
export const KINDS = {
  message: {
    title: "Send a message", role: "support", wideRole: "operator", scope: "any",
    fields: [text("text", "Message", { type: "textarea", help: "The game shows it. Who is not there gets nothing." })],
    payload: (v) => ({ text: v.text }),
  },
  kick: {
    title: "Kick", role: "support", scope: "player", isHard: true,
    help: "Ends the session with close 4202. The player may come back by starting again.",
    fields: [text("message", "Message to the player", { required: false })],
    payload: (v) => ({ message: v.message }),
  },
  ban: {
    title: "Ban", role: "operator", scope: "player", isHard: true,
    help: "Closes the connection with 4203 and keeps the player out until the ban ends.",
    fields: [
      { name: "for_s", label: "For", type: "select", options: [[3600, "an hour"], [DAY_S, "a day"], [7 * DAY_S, "a week"], [30 * DAY_S, "30 days"], ["", "for good"]], value: DAY_S },
      text("message", "Message to the player"),
    ],
    payload: (v) => ({ for_s: v.for_s === "" ? null : Number(v.for_s), message: v.message }),
  },
  unban: { title: "Lift the ban", role: "operator", scope: "player", fields: [], payload: () => ({}) },
  grant_item: {
    title: "Grant an item", role: "support", scope: "progress",
    fields: [text("item", "Item", { list: "items" })],
    payload: (v) => ({ item: v.item }),
  },
  take_item: {
    title: "Take an item", role: "support", scope: "progress",
    fields: [text("item", "Item", { list: "inventory" })],
    payload: (v) => ({ item: v.item }),
  },
  set_flag: {
    title: "Set a flag", role: "support", scope: "progress",
    fields: [text("flag", "Flag"), text("value", "Value", { type: "json", value: "true", help: "JSON: true, 3, \"text\"" })],
    payload: (v) => ({ flag: v.flag, value: JSON.parse(v.value) }),
  },
  move: {
    title: "Move", role: "support", scope: "progress",
    help: "Sets current_location: where the game thinks the player is.",
    fields: [text("location", "To", { list: "waypoints" })],
    payload: (v) => ({ location: v.location }),
  },
  edit_state: {
    title: "Edit the state", role: "operator", scope: "progress", isHard: true,
    help: "Effects as a client sends them: set, unset, incr, max, add, remove. All of them happen, or none.",
    fields: [text("effects", "Effects", { type: "json", value: '[{"op": "add", "path": "inventory", "value": "lantern"}]', help: "A JSON list" })],
    payload: (v) => ({ effects: JSON.parse(v.effects) }),
  },
  edit_profile: {
    title: "Edit the profile", role: "operator", scope: "player", isHard: true,
    fields: [text("stats", "Change in the statistics", { type: "json", value: '{"note": "…"}', help: "A JSON object; its keys replace those of the profile's stats, null removes one." })],
    payload: (v) => ({ stats: JSON.parse(v.stats) }),
  },
  force_flush: { title: "Save now", role: "support", scope: "player", help: "Has what is unsaved written to Postgres at once.", fields: [], payload: () => ({}) },
  end_session: { title: "End the session", role: "support", scope: "player", isHard: true, help: "The client starts a new one when it next has something to say.", fields: [], payload: () => ({}) },
  erase: {
    title: "Erase for good", role: "admin", scope: "player", isHard: true,
    help: "Removes everything about this player from Redis and Postgres, and keeps the devices out. It cannot be undone. Export first if somebody may ask.",
    fields: [text("confirm", "Type the player's id", { mustEqual: "player" })],
    payload: () => ({}),
  },
  maintenance: {
    title: "Maintenance", role: "admin", scope: "none", isHard: true,
    fields: [
      { name: "on", label: "Maintenance", type: "select", options: [["true", "on: players are sent away and told to come back"], ["false", "off: players may come"]], value: "true" },
      { name: "at", label: "At", type: "datetime", required: false, help: "Your local time; empty: now" },
      { name: "until", label: "Until", type: "datetime", required: false, help: "Your local time; empty: until somebody ends it" },
      text("message", "Message to players", { required: false }),
    ],
    payload: (v) => ({ on: v.on === "true", at: v.at ? new Date(v.at).toISOString() : null, message: v.message, ...(v.until && v.on === "true" ? { until: new Date(v.until).toISOString() } : {}) }),
  },
  drain: { title: "Drain a node", role: "admin", scope: "node", isHard: true, help: "Its players are sent to other nodes, 500 a second; nobody loses a step.", fields: [], payload: (_, facts) => ({ on: !facts.isBack }) },
  replay_dead_letter: { title: "Replay", role: "operator", scope: "none", help: "Writes the event again. Mend what Postgres refused before.", fields: [], payload: (_, facts) => ({ id: facts.id }) },
  drop_dead_letter: { title: "Drop", role: "operator", scope: "none", isHard: true, help: "The event is given up for good; the audit log keeps that it was.", fields: [], payload: (_, facts) => ({ id: facts.id }) },
  release_quarantine: { title: "Release", role: "operator", scope: "progress", help: "It is flushed again at once, and put aside again if Postgres still refuses it.", fields: [], payload: () => ({}) },
};

/**
 * Body for POST actions. `facts`: {player, experience, node, id, progress, to, isBack}; `to` is what a message is for, `isBack`
 * lets a node take players again. A fact with the name of a field is what the field begins with.
 */
export function actionBody(kind, values, facts) {
  const { scope, payload } = KINDS[kind];
  const target = {};
  const isPlayer = ["player", "progress"].includes(scope) || (scope === "any" && facts.to !== "all" && facts.to !== "experience");
  if (isPlayer && facts.player) target.player = facts.player;
  if ((scope === "progress" || (scope === "any" && facts.to === "experience")) && facts.experience) target.experience = facts.experience;
  if (scope === "node") target.node = facts.node;
  if (scope === "any" && facts.to === "all") target.all = true;
  return { action: kind, target, payload: payload(values, facts) };
}
