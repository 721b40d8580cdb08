--[[
Keep a board within its bound: the lowest go, and `#floor` says from which score on nobody is missing. Among those who
have exactly that score some may be missing: whoever has it still knows how many are above.
]]
local function trim_board(board, versions, players_max)
  local surplus = redis.call('ZCARD', board) - players_max
  if surplus <= 0 then return end
  local last = redis.call('ZREVRANGE', board, players_max - 1, players_max - 1, 'WITHSCORES')
  redis.call('ZREMRANGEBYRANK', board, 0, surplus - 1)
  redis.call('HSET', versions, '#floor', last[2])
end
