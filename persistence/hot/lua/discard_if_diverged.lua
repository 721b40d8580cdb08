--[[
Throw a hot copy away if it has provably another history than Postgres: it reaches back to Postgres's last entry and
does not have it. A snapshot that did not match proves nothing, so the match is repeated here, against the copy that is
there now. Running it twice is harmless.

KEYS
  progress     hash   the progress
  pending      list   its entries that Postgres does not have yet
  dirty        zset   progress with pending entries, by the time it is due
  quarantined  zset   progress put aside, by the time it was
ARGV
  member      this progress in `dirty` and `quarantined`
  version     Postgres's last entry …
  last_entry  … and its id
RETURNS
  {1, thrown}  thrown away, and `thrown` pending entries with it
  {0, 0}       this copy is healthy, or none is there
]]
local progress, pending, dirty, quarantined = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local member, version, last_entry = ARGV[1], tonumber(ARGV[2]), ARGV[3]
-- include head

local hot = redis.call('HMGET', progress, 'head', 'base_id')
local packed = hot[1] or adopt_head(progress)
if not packed then return {0, 0} end
local _, base_version = struct.unpack(HEAD, packed)
if base_version > version then return {0, 0} end
local id = hot[2]
if version > base_version then
  local entry = redis.call('LINDEX', pending, version - base_version - 1)
  id = entry and string.match(entry, '^%d+ (%x+) ')
end
if id == last_entry then return {0, 0} end
local thrown = redis.call('LLEN', pending)
redis.call('ZREM', dirty, member)
redis.call('ZREM', quarantined, member)
redis.call('DEL', progress, pending)
return {1, thrown}
