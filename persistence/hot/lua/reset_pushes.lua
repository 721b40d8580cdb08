--[[
Let a client count its messages from 1 again, from behind those that were delivered: what a resync does. Running it twice
is harmless.

KEYS
  session  hash  the active session of the player
  pushes   list  messages that the player's client may not have seen yet
ARGV
  session_id  whose messages
  delivered   the last number that the client has had
RETURNS
  {pushed, offset} as they are now · {-1}: another session, or none
]]
local session, pushes = KEYS[1], KEYS[2]
local session_id, delivered = ARGV[1], tonumber(ARGV[2])

local held = redis.call('HMGET', session, 'id', 'pushed')
if held[1] ~= session_id then return {-1} end
-- A Redis that came back from an older time has counted less than was delivered; what is not kept cannot be counted on.
local pushed = tonumber(held[2] or 0)
local offset = math.max(math.min(delivered, pushed), pushed - redis.call('LLEN', pushes))
if pushed > 0 then redis.call('HSET', session, 'push_offset', offset) end
return {pushed, offset}
