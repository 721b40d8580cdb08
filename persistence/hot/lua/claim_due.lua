--[[
Take the progress that has been due longest: its score moves past the lease, so that nobody else takes it meanwhile and
a dead flusher's work comes back by itself. Running it twice takes the next ones. Works when Redis is full: the first
write is one that frees.

KEYS, any number
  dirty     zset   progress with pending entries, by the time it is due
ARGV
  lease_ms      how long a claim holds
  progress_max  how many to take at most
  ahead_ms      also take what falls due within this time; a final flush looks ahead, others pass 0
RETURNS
  the claimed members
]]
local lease_ms, progress_max, ahead_ms = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local until_ms = string.format('%.0f', now_ms + lease_ms)

local claimed = {}
for _, dirty in ipairs(KEYS) do
  local left = progress_max - #claimed
  if left <= 0 then break end
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', dirty, '-inf', string.format('%.0f', now_ms + ahead_ms), 'LIMIT', 0, left)) do
    redis.call('ZREM', dirty, member)
    redis.call('ZADD', dirty, until_ms, member)
    claimed[#claimed + 1] = member
  end
end
return claimed
