--[[
Put a progress aside whose state, session or profile Postgres refuses for its data: nothing of it is written or called
saved until it is released, updates are answered 201. Running it twice is harmless.

KEYS
  progress     hash   the progress
  dirty        zset   progress with pending entries, by the time it is due
  quarantined  zset   progress put aside, by the time it was
ARGV
  member  this progress in `dirty` and `quarantined`
  copy    the copy that was refused; another one is left alone
  reason  what Postgres said, for the operator
RETURNS
  1 it is in quarantine · 0 another copy is there now
]]
local progress, dirty, quarantined = KEYS[1], KEYS[2], KEYS[3]
local member, copy, reason = ARGV[1], ARGV[2], ARGV[3]

if redis.call('HGET', progress, 'copy') ~= copy then return 0 end
redis.call('ZREM', dirty, member)
redis.call('HSET', progress, 'quarantine', reason)
redis.call('ZADD', quarantined, redis.call('TIME')[1], member)
return 1
