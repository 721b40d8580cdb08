--[[
Take or start the session of a player for a connection, and read the whole progress in the same instant.
The number of the connection is higher than any before it. Running it again after a lost reply answers CHANGED:
the caller looks at the session and decides anew.

KEYS
  session   hash   the active session of the player
  progress  hash   the progress that is to be played
  pending   list   its entries that Postgres does not have yet
  dirty     zset   progress with pending entries, by the time it is due
  expiry    zset   players by the time their session expires
  ban       string the last word about whether the player may play (note_ban.lua)
ARGV
  request   msgpack array: user_id, experience, device, node, session_id, started_ms, claims, connection_min,
            seen_id, seen_connection, start_id, start_body, end_id, end_body, restore, expiry_ms, flush_interval_ms, member,
            token_ms (when the token was issued; -1 without one); an entry without an id is not appended;
            seen_connection -1: nobody has looked, the session is resumed if it is seen_id, and keeps its start
RETURNS
  {13, ban}: the player is banned; else
  {outcome, connection, HGETALL of progress, messages of this session so far, offset of the client's count of them,
  started_ms}; only OK carries more than the first, but for {CHANGED, HGETALL of session} when nobody has looked
]]
local session, progress, pending, dirty, expiry, ban = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local request = cmsgpack.unpack(ARGV[1])
local user_id, experience, device, node = request[1], request[2], request[3], request[4]
local session_id, started_ms, claims, connection_min = request[5], request[6], request[7], request[8]
local seen_id, seen_connection = request[9], request[10]
local start_id, start_body, end_id, end_body = request[11], request[12], request[13], request[14]
local restore, expiry_ms, flush_interval_ms, member, token_ms = request[15], request[16], request[17], request[18], request[19]

local OK, MISSING, FENCED, NO_DEVICE, CHANGED, ERASED, BANNED = 0, 2, 5, 9, 10, 12, 13
local ENTRY_OVERHEAD_BYTES = 112

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local function integer(number)
  return string.format('%.0f', number)
end
-- include head

local banned = redis.call('GET', ban)
if banned then
  local until_ms = tonumber(string.match(banned, '^%d+ (%-?%d+) '))
  if until_ms == 0 or until_ms > now_ms then return {BANNED, banned} end
end

local held = redis.call('HMGET', session, 'id', 'connection', 'current_experience', 'session_start')
local held_id, held_connection = held[1] or '', tonumber(held[2] or 0)
if restore then
  if held_connection > connection_min then return {FENCED} end
  if held_id ~= '' and held_id ~= session_id then return {CHANGED} end
elseif seen_connection < 0 then
  if held_id ~= seen_id or held[3] ~= experience then return {CHANGED, redis.call('HGETALL', session)} end
  started_ms = tonumber(held[4])
elseif held_id ~= seen_id or held_connection ~= seen_connection then
  return {CHANGED}
end
-- A session in another experience is ended first, with all that belongs to it: the progress there names it as its holder.
if held[3] and held[3] ~= experience then return {CHANGED} end
local hot = redis.call('HMGET', progress, 'copy', 'head', 'accepted:' .. device, 'erased_ms', 'quarantine')
if not hot[1] then return {MISSING} end
if hot[4] and token_ms >= 0 and token_ms <= tonumber(hot[4]) then return {ERASED} end
if not hot[3] then return {NO_DEVICE} end

local connection = connection_min
if not restore then connection = math.max(now_ms, held_connection + 1, connection_min) end

local version, base_version, offset, base_offset, state_fields, state_bytes = struct.unpack(HEAD, hot[2] or adopt_head(progress))
local entries = {}
local function append(entry_id, body)
  version = version + 1
  offset = offset + #body + ENTRY_OVERHEAD_BYTES
  entries[#entries + 1] = integer(version) .. ' ' .. entry_id .. ' ' .. integer(offset) .. ' ' .. integer(now_ms) .. ' 0 ' .. body
end
if end_id ~= '' then append(end_id, end_body) end
if start_id ~= '' and not (restore and held_id == session_id) then append(start_id, start_body) end

if held_id ~= session_id then redis.call('DEL', session) end
redis.call('HSET', session, 'id', session_id, 'current_experience', experience, 'session_start', integer(started_ms),
  'last_activity', integer(now_ms), 'node', node, 'connection', integer(connection), 'device', device, 'claims', claims)
redis.call('ZADD', expiry, integer(now_ms + expiry_ms), user_id)
if #entries > 0 then
  if version - #entries == base_version then
    redis.call('HSET', progress, 'dirty_since', integer(now_ms))
    redis.call('ZADD', dirty, 'NX', integer(now_ms + flush_interval_ms), member)
  end
  redis.call('RPUSH', pending, unpack(entries))
end
redis.call('HSET', progress, 'node', node, 'head',
  struct.pack(HEAD, version, base_version, offset, base_offset, state_fields, state_bytes, connection, now_ms))
if not hot[5] or hot[5] == '' then redis.call('HSET', progress, 'holder', hot[1] .. ' ' .. session_id) end
redis.call('PERSIST', progress)
local counted = redis.call('HMGET', session, 'pushed', 'push_offset')
return {OK, connection, redis.call('HGETALL', progress), tonumber(counted[1] or 0), tonumber(counted[2] or 0), started_ms}
