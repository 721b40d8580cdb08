--[[
Forget the messages of a session that its client has seen. Running it twice is harmless.

KEYS
  session  hash  the active session of the player
  pushes   list  messages that the player's client may not have seen yet
ARGV
  session_id  whose messages
  seen        up to which number
RETURNS
  how many were forgotten
]]
local session, pushes = KEYS[1], KEYS[2]
local session_id, seen = ARGV[1], tonumber(ARGV[2])

local held = redis.call('HMGET', session, 'id', 'pushed')
if held[1] ~= session_id then return 0 end
local kept = redis.call('LLEN', pushes)
local forgotten = math.min(seen - (tonumber(held[2] or 0) - kept), kept)
if forgotten <= 0 then return 0 end
redis.call('LTRIM', pushes, forgotten, -1)
return forgotten
