--[[
After a commit: drop the entries that Postgres has now, and let the last of them be the base from which the copy counts.
A quarantine ends when what was refused has been written after all. Running it twice is harmless. Works when Redis is
full: the first write is one that frees.

KEYS
  progress     hash   the progress
  pending      list   its entries that Postgres does not have yet
  dirty        zset   progress with pending entries, by the time it is due
  session      hash   the active session of the player
  quarantined  zset   progress put aside, by the time it was
ARGV
  member             this progress in `dirty` and `quarantined`
  experience         the experience of this progress
  version            up to which entry Postgres has it …
  entry_id           … and which one that was: the copy may have taken another way since
  flush_interval_ms  how long the entries behind it may wait
  idle_s             how long a copy stays that nobody plays and Postgres has
  saved              msgpack array, flat: device, seq, …: how far each stream is in Postgres now
  voids              msgpack array of the void notes that Postgres made superfluous
RETURNS
  {1, left, node}  settled; `left` entries came since; `node` is the gateway that welcomed last
  {0}              settled further already
  {-1}             another history, or no hot copy: nothing changed
]]
local progress, pending, dirty, session, quarantined = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local member, experience, version, entry_id = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local flush_interval_ms, idle_s = tonumber(ARGV[5]), tonumber(ARGV[6])
local saved, voids = cmsgpack.unpack(ARGV[7]), cmsgpack.unpack(ARGV[8])

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local function integer(number)
  return string.format('%.0f', number)
end
-- include head

local hot = redis.call('HMGET', progress, 'head', 'base_id', 'node', 'quarantine', 'quarantine_version')
local packed = hot[1] or adopt_head(progress)
if not packed then return {-1} end
local newest, base_version, offset, base_offset, state_fields, state_bytes, connection, active_ms = struct.unpack(HEAD, packed)
if version < base_version then return {0} end
local trimmed = version - base_version
if trimmed == 0 then
  if hot[2] ~= entry_id then return {-1} end
else
  local entry = redis.call('LINDEX', pending, trimmed - 1)
  if not entry then return {-1} end
  local id, entry_offset = string.match(entry, '^%d+ (%x+) (%d+) ')
  if id ~= entry_id then return {-1} end
  base_offset = tonumber(entry_offset)
end

redis.call('ZREM', dirty, member)
redis.call('LTRIM', pending, trimmed, -1)
local is_quarantined = hot[4] and hot[4] ~= ''
if is_quarantined and version >= tonumber(hot[5] or 0) then
  -- Another flusher was refused it, and we were not: since then it was mended, or came to hold something else.
  redis.call('ZREM', quarantined, member)
  redis.call('HDEL', progress, 'quarantine', 'quarantine_version')
  is_quarantined = false
end
local writes = {'base_id', entry_id, 'head',
  struct.pack(HEAD, newest, version, offset, base_offset, state_fields, state_bytes, connection, active_ms)}
for i = 1, #saved, 2 do
  local field = 'saved:' .. saved[i]
  if tonumber(redis.call('HGET', progress, field) or 0) < saved[i + 1] then
    writes[#writes + 1] = field
    writes[#writes + 1] = integer(saved[i + 1])
  end
end
local oldest = redis.call('LINDEX', pending, 0)
if oldest then
  writes[#writes + 1] = 'dirty_since'
  writes[#writes + 1] = string.match(oldest, '^%d+ %x+ %d+ (%d+) ')
end
redis.call('HSET', progress, unpack(writes))
for first = 1, #voids, 1000 do
  redis.call('HDEL', progress, unpack(voids, first, math.min(first + 999, #voids)))
end
local left = redis.call('LLEN', pending)
if left > 0 then
  if not is_quarantined then redis.call('ZADD', dirty, integer(now_ms + flush_interval_ms), member) end
elseif redis.call('HGET', session, 'current_experience') ~= experience then
  redis.call('EXPIRE', progress, idle_s)
end
return {1, left, hot[3] or ''}
