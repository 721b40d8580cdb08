--[[
Let a progress back that was put aside: it is due at once. If Postgres refuses it again, it is put aside again.
Running it twice is harmless.

KEYS
  progress     hash   the progress
  pending      list   its entries that Postgres does not have yet
  dirty        zset   progress with pending entries, by the time it is due
  quarantined  zset   progress put aside, by the time it was
ARGV
  member  this progress in `dirty` and `quarantined`
RETURNS
  1 it is due · 0 it was not in quarantine
]]
local progress, pending, dirty, quarantined = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local member = ARGV[1]

if redis.call('ZREM', quarantined, member) == 0 then return 0 end
redis.call('HDEL', progress, 'quarantine', 'quarantine_version')
if redis.call('EXISTS', pending) == 1 then redis.call('ZADD', dirty, redis.call('TIME')[1] * 1000, member) end
return 1
