--[[
Send a message to the player of a session, whatever the player is doing. Running it twice is harmless as long as the first
one is still kept: the same id is the same message.

KEYS
  session  hash  the active session of the player
  pushes   list  messages that the player's client may not have seen yet
ARGV
  user_id       the player
  experience    only if the session is in this experience; empty for any
  id            what tells this message from others
  body          what the player gets, opaque
  pushes_max    how many are kept
  pushes_ttl_s  how long
RETURNS
  its number in the session, or 0: nobody is there
]]
local session, pushes = KEYS[1], KEYS[2]
local user_id, experience, id, body = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local pushes_max, pushes_ttl_s = tonumber(ARGV[5]), ARGV[6]

-- include append_push

local held = redis.call('HMGET', session, 'id', 'node', 'pushed', 'current_experience')
if not held[1] or (experience ~= '' and held[4] ~= experience) then return 0 end
if held[3] then
  local kept = redis.call('LRANGE', pushes, 0, -1)
  local start = id .. ' '
  for i = 1, #kept do
    if string.sub(kept[i], 1, #start) == start then return tonumber(held[3]) - #kept + i end
  end
end
return append_push(session, pushes, user_id, held, id .. ' - -', body, pushes_max, pushes_ttl_s)
