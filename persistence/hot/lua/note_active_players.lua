--[[
Note who was heard in an experience just now, and trim those who were not for a long time. A connection that is older
than the erase of its player is passed over: a gateway that stood still meanwhile must not bring its player back.
Running it twice is harmless. Works when Redis is full: the first write is one that frees.

KEYS
  active       zset  user ids of the experience, by when they were last heard (s)
  experiences  zset  experiences by when anybody was last heard (s)
  fence        zset  SHA-1 of the user ids of the lately erased, by the time (ms) before which a connection counts for nothing
ARGV
  experience  as a member of `experiences`
  active_s    how long a player counts as active
  players     msgpack array, flat: user_id, number of the connection (never below the time in ms at which it opened), …
RETURNS
  how many were noted
]]
local active, experiences, fence = KEYS[1], KEYS[2], KEYS[3]
local experience, active_s, players = ARGV[1], tonumber(ARGV[2]), cmsgpack.unpack(ARGV[3])

local time = redis.call('TIME')
local now_s = time[1] + time[2] / 1000000
local now = string.format('%.3f', now_s)

redis.call('ZREMRANGEBYSCORE', active, '-inf', string.format('(%.3f', now_s - active_s))
local has_fence = redis.call('EXISTS', fence) == 1
local noted = {}
for i = 1, #players, 2 do
  local user_id, number = players[i], players[i + 1]
  local fenced_ms = has_fence and redis.call('ZSCORE', fence, redis.sha1hex(user_id))
  if not fenced_ms or number > tonumber(fenced_ms) then
    noted[#noted + 1] = now
    noted[#noted + 1] = user_id
  end
end
for first = 1, #noted, 1000 do
  redis.call('ZADD', active, unpack(noted, first, math.min(first + 999, #noted)))
end
redis.call('EXPIRE', active, active_s)
redis.call('ZADD', experiences, now, experience)
redis.call('EXPIRE', experiences, active_s)
return #noted / 2
