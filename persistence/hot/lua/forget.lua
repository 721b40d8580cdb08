--[[
Take a progress out of `dirty` and `quarantined` that has no hot copy. One that was hydrated since it was looked at stays: what came in
meanwhile must be flushed. Running it twice is harmless.

KEYS
  progress     hash   the progress
  dirty        zset   progress with pending entries, by the time it is due
  quarantined  zset   progress put aside, by the time it was
ARGV
  member  this progress in `dirty` and `quarantined`
RETURNS
  1 it was there without a copy · 0 it has a copy, or was not there
]]
local progress, dirty, quarantined = KEYS[1], KEYS[2], KEYS[3]
local member = ARGV[1]

if redis.call('EXISTS', progress) == 1 then return 0 end
redis.call('ZREM', quarantined, member)
return redis.call('ZREM', dirty, member)
