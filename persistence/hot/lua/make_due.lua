--[[
Let a progress be flushed at once, if it has pending entries. Running it twice is harmless. Works when Redis is full:
the first write is one that frees.

KEYS
  dirty     zset   progress with pending entries, by the time it is due
ARGV
  member    this progress in `dirty`
RETURNS
  1 it is due · 0 it has nothing pending
]]
local dirty = KEYS[1]
local member = ARGV[1]

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local due_ms = redis.call('ZSCORE', dirty, member)
if not due_ms then return 0 end
if tonumber(due_ms) > now_ms then
  redis.call('ZREM', dirty, member)
  redis.call('ZADD', dirty, string.format('%.0f', now_ms), member)
end
return 1
