// What the rivals on Node share: Redis, tokens, and one Lua call per update.

'use strict';
const fs = require('node:fs');
const path = require('node:path');
const Redis = require('ioredis');
const jwt = require('jsonwebtoken');

const OPS = new Set(['set', 'unset', 'incr', 'max', 'add', 'remove']);

// Calls of the same tick share a write, as ioredis' documentation advises.
function openRedis() {
  const redis = new Redis({ path: process.env.RIVAL_REDIS, enableAutoPipelining: true });
  const lua = fs.readFileSync(path.join(__dirname, 'step.lua'), 'utf8');
  redis.defineCommand('step', { numberOfKeys: 4, lua });
  return redis;
}

function readUser(token) {
  return jwt.verify(token, process.env.RIVAL_SECRET, { algorithms: ['HS256'] }).sub;
}

function keysOf(user) {
  return [`rival:${user}:state`, `rival:${user}:visited`, `rival:${user}:pending`, 'rival:dirty'];
}

// The shape of an update, as the rivals in Python check theirs.
function checkUpdate(update) {
  if (!Number.isInteger(update.seq)) throw new TypeError('seq');
  if (typeof update.event !== 'object' || typeof update.event.type !== 'string') throw new TypeError('event');
  if (!Array.isArray(update.effects)) throw new TypeError('effects');
  for (const effect of update.effects) {
    if (!OPS.has(effect.op) || typeof effect.path !== 'string') throw new TypeError('effect');
  }
}

// Resolves to [seq, version]. `kept` is what goes to Postgres.
function step(redis, keys, user, update, kept) {
  const { event, effects } = update;
  return redis.step(...keys, user, update.seq, kept, event.content_id || '', effects[0].value, effects[1].value);
}

async function acceptedOf(redis, keys) {
  return Number((await redis.hget(keys[0], 'seq')) || 0);
}

function makeWelcome(seq) {
  return {
    t: 'welcome',
    session: { id: '', token: '', expires_s: 3600 },
    resumed: false,
    seq: { accepted: seq, saved: 0 },
    heartbeat_s: 20,
  };
}

function tellPort(server) {
  console.log(JSON.stringify({ port: server.address().port }));
}

module.exports = { openRedis, readUser, keysOf, checkUpdate, step, acceptedOf, makeWelcome, tellPort };
