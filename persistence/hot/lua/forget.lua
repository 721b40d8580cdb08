--[[
Take a progress out of `dirty` that has no hot copy. One that was hydrated since it was looked at stays: what came in
meanwhile must be flushed. Running it twice is harmless.

KEYS
  progress  hash   the progress
  dirty     zset   progress with pending entries, by the time it is due
ARGV
  member    this progress in `dirty`
RETURNS
  1 it was there without a copy · 0 it has a copy, or was not there
]]
local progress, dirty = KEYS[1], KEYS[2]
local member = ARGV[1]

if redis.call('EXISTS', progress) == 1 then return 0 end
return redis.call('ZREM', dirty, member)
