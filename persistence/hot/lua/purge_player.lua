--[[
Remove everything that is hot of an erased player, and put up the fence: what was read from Postgres before the fence's
time must not be installed any more. Running it twice is harmless. Works when Redis is full: the first write frees.

KEYS, three and then two for each progress
  session   hash    the active session of the player
  expiry    zset    players by the time their session expires
  fence     string  the time before which a read is not installed
  progress  hash    a progress
  pending   list    its entries
ARGV
  user_id        the player as a member of `expiry`
  fence_ahead_s  how far ahead the fence lies: an hour while rows are still being deleted, 0 afterwards
  fence_ttl_s    how long the fence stands
RETURNS
  {keys that were there, every device that only Redis knew, the time of the fence in ms}
]]
local session, expiry, fence = KEYS[1], KEYS[2], KEYS[3]
local user_id, fence_ahead_s, fence_ttl_s = ARGV[1], tonumber(ARGV[2]), ARGV[3]

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

redis.call('ZREM', expiry, user_id)
local devices = {}
local held = redis.call('HGET', session, 'device')
if held then devices[1] = held end
local removed = redis.call('DEL', session)
for first = 1, #KEYS - 3, 2 do
  local progress, pending = KEYS[first + 3], KEYS[first + 4]
  for _, field in ipairs(redis.call('HKEYS', progress)) do
    local device = string.match(field, '^accepted:(.*)$')
    if device then devices[#devices + 1] = device end
  end
  removed = removed + redis.call('DEL', progress, pending)
end
local fenced_ms = string.format('%.0f', now_ms + fence_ahead_s * 1000)
redis.call('SET', fence, fenced_ms, 'EX', fence_ttl_s)
return {removed, devices, fenced_ms}
