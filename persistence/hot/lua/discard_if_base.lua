--[[
Throw a hot copy away whose base is beyond what Postgres has: Postgres lost commits, and what was settled is gone from
here too. Only if the base is still the one that was seen. Running it twice is harmless.

KEYS
  progress     hash   the progress
  pending      list   its entries that Postgres does not have yet
  dirty        zset   progress with pending entries, by the time it is due
  quarantined  zset   progress put aside, by the time it was
ARGV
  member        this progress in `dirty` and `quarantined`
  base_version  the base that was seen …
  base_id       … and its id
RETURNS
  {1, thrown}  thrown away, and `thrown` pending entries with it
  {0, 0}       another base is there now, or no copy
]]
local progress, pending, dirty, quarantined = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local member, base_version, base_id = ARGV[1], tonumber(ARGV[2]), ARGV[3]
-- include head

local hot = redis.call('HMGET', progress, 'head', 'base_id')
local packed = hot[1] or adopt_head(progress)
if not packed or hot[2] ~= base_id then return {0, 0} end
local _, base = struct.unpack(HEAD, packed)
if base ~= base_version then return {0, 0} end
local thrown = redis.call('LLEN', pending)
redis.call('ZREM', dirty, member)
redis.call('ZREM', quarantined, member)
redis.call('DEL', progress, pending)
return {1, thrown}
