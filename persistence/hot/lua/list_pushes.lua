--[[
The messages of a session behind a number, as far as they are kept. It writes nothing.

KEYS
  session  hash  the active session of the player
  pushes   list  messages that the player's client may not have seen yet
ARGV
  session_id  whose messages
  behind      the last number that is known already
RETURNS
  {pushed, offset, messages}: how many there were in this session, what the client's count is behind ours, and the newest
  of those that are missing: the last of them has the number `pushed` · {-1}: another session, or none
]]
local session, pushes = KEYS[1], KEYS[2]
local session_id, behind = ARGV[1], tonumber(ARGV[2])

local held = redis.call('HMGET', session, 'id', 'pushed', 'push_offset')
if held[1] ~= session_id then return {-1} end
local pushed, offset = tonumber(held[2] or 0), tonumber(held[3] or 0)
if behind >= pushed then return {pushed, offset, {}} end
return {pushed, offset, redis.call('LRANGE', pushes, behind - pushed, -1)}
