--[[
Put a progress aside whose state, session or profile Postgres refuses for its data: nothing of it is written or called
saved until it is released, updates are answered 201. What was refused must still be pending: another flusher may have
written it since, or this copy may be gone. Without a `holder` the next update looks closer, and finds this. Running it
twice is harmless.

KEYS
  progress     hash   the progress
  pending      list   its entries that Postgres does not have yet
  dirty        zset   progress with pending entries, by the time it is due
  quarantined  zset   progress put aside, by the time it was
ARGV
  member    this progress in `dirty` and `quarantined`
  copy      the copy that was refused …
  version   … the entry up to which it was …
  entry_id  … and its id; empty when nobody could read it
  reason    what Postgres said, for the operator
RETURNS
  1 it is in quarantine · 0 what was refused is not there any more: nothing changed
]]
local progress, pending, dirty, quarantined = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local member, copy, version, entry_id, reason = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]

-- include head

local hot = redis.call('HMGET', progress, 'copy', 'head')
if hot[1] ~= copy then return 0 end
local _, base_version = struct.unpack(HEAD, hot[2] or adopt_head(progress))
if version <= base_version then return 0 end
if entry_id ~= '' then
  local entry = redis.call('LINDEX', pending, version - base_version - 1)
  if not entry or string.match(entry, '^%d+ (%x+) ') ~= entry_id then return 0 end
end
redis.call('ZREM', dirty, member)
redis.call('HSET', progress, 'holder', '', 'quarantine', reason, 'quarantine_version', string.format('%.0f', version))
redis.call('ZADD', quarantined, redis.call('TIME')[1], member)
return 1
