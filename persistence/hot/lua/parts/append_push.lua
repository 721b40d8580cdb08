--[[
Keep a message for the player of a session until the client has seen it, and hand it to the gateway that holds the
player, in the same instant: a message that the list has was published. Counted in `pushed` of the session, so that a new
session counts from 1; only the newest are kept.

`held` is {id, node, pushed} of the session. `position` is what stands in front of the body: the id of the message, behind
which seq it fell and which version it made ('-' for a message that is no change of the state).
]]
local function append_push(session, pushes, user_id, held, position, body, pushes_max, ttl_s)
  local n = tonumber(held[3] or 0) + 1
  -- What is left there without a count is of another session.
  if n == 1 then redis.call('DEL', pushes) end
  local message = position .. ' ' .. body
  redis.call('RPUSH', pushes, message)
  redis.call('LTRIM', pushes, -pushes_max, -1)
  redis.call('EXPIRE', pushes, ttl_s)
  redis.call('HSET', session, 'pushed', n)
  redis.call('PUBLISH', 'wayhold:notices:' .. held[2], 'push ' .. user_id .. ' ' .. held[1] .. ' ' .. n .. ' ' .. message)
  return n
end
