--[[
Let a progress be flushed at once, if it has pending entries. Running it twice is harmless.

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
if not redis.call('ZSCORE', dirty, member) then return 0 end
redis.call('ZADD', dirty, 'XX', 'LT', string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000)), member)
return 1
