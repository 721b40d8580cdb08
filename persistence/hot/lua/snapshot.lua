--[[
Read a progress whole at one instant: hash and pending entries. It writes nothing.

KEYS
  progress  hash   the progress
  pending   list   its entries that Postgres does not have yet
RETURNS
  {HGETALL of progress, entries}
]]
local progress, pending = KEYS[1], KEYS[2]
return {redis.call('HGETALL', progress), redis.call('LRANGE', pending, 0, -1)}
