--[[
End a session: one caller wins, its entry says why. The progress becomes due at once. Running it again finds no such
session. Works when Redis is full: the first write is one that frees.

KEYS
  session   hash   the active session of the player
  progress  hash   the progress it plays
  pending   list   its entries that Postgres does not have yet
  dirty     zset   progress with pending entries, by the time it is due
  expiry    zset   players by the time their session expires
ARGV
  user_id           the player as a member of `expiry`
  session_id        the session that is to end
  connection        a leave: only while no higher number holds the session; -1 checks nothing
  last_activity_ms  an expiry: only if it was not used since; -1 checks nothing
  expiry_ms         how long a session lives unused
  entry_id          the entry that ends it …
  body              … as protocol.entry makes it
  member            this progress in `dirty`
  is_rowless        1: Postgres has no such progress, so the session ends without an entry if there is no copy either
RETURNS
  {0, version}   ended; the end is in Postgres once this version is (0: nothing is to be saved)
  {2} no hot copy of the progress: hydrate first · {5} a higher connection · {6} no such session · {11} used since
]]
local session, progress, pending, dirty, expiry = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local user_id, session_id, connection, last_activity_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])
local expiry_ms, entry_id, body, member, is_rowless = tonumber(ARGV[5]), ARGV[6], ARGV[7], ARGV[8], ARGV[9] == '1'

local OK, MISSING, FENCED, SESSION_ENDED, ACTIVE = 0, 2, 5, 6, 11
local ENTRY_OVERHEAD_BYTES = 112

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local function integer(number)
  return string.format('%.0f', number)
end
-- include head

local held = redis.call('HMGET', session, 'id', 'connection', 'last_activity')
if not held[1] then
  -- An index row without a session is nobody's: the sweeper would meet it every second.
  redis.call('ZREM', expiry, user_id)
  return {SESSION_ENDED}
end
if held[1] ~= session_id then return {SESSION_ENDED} end
if connection >= 0 and tonumber(held[2]) > connection then return {FENCED} end
if last_activity_ms >= 0 and tonumber(held[3]) ~= last_activity_ms then
  redis.call('ZREM', expiry, user_id)
  redis.call('ZADD', expiry, integer(tonumber(held[3]) + expiry_ms), user_id)
  return {ACTIVE}
end
local hot = redis.call('HMGET', progress, 'copy', 'head', 'quarantine')
if not hot[1] then
  if not is_rowless then return {MISSING} end
  redis.call('ZREM', expiry, user_id)
  redis.call('DEL', session)
  return {OK, 0}
end

redis.call('ZREM', expiry, user_id)
redis.call('DEL', session)
local version, base_version, offset, base_offset, state_fields, state_bytes = struct.unpack(HEAD, hot[2] or adopt_head(progress))
version = version + 1
offset = offset + #body + ENTRY_OVERHEAD_BYTES
redis.call('PERSIST', progress)
redis.call('RPUSH', pending, integer(version) .. ' ' .. entry_id .. ' ' .. integer(offset) .. ' ' .. integer(now_ms) .. ' 0 ' .. body)
redis.call('HSET', progress, 'holder', '', 'head',
  struct.pack(HEAD, version, base_version, offset, base_offset, state_fields, state_bytes, 0, 0))
if version - 1 == base_version then redis.call('HSET', progress, 'dirty_since', integer(now_ms)) end
if not (hot[3] and hot[3] ~= '') then redis.call('ZADD', dirty, integer(now_ms), member) end
return {OK, version}
