--[[
Read a leaderboard; one that is not there may be filled by whoever asks first: they get the lease, and until it ends
flushers write to the board what they save, so that nothing falls between the read of Postgres and the board. Running it
twice is harmless.

KEYS
  board     zset  players by score, in millionths; at most as many as fit, see `#floor`
  versions  hash  which version of each player's progress the score is of, also of players who are not on the board;
                  `#state`: ready, or the lease of whoever fills it; `#floor`: whoever has a higher score is on the board
  boards    zset  the boards of the experience by when they end (ms)
ARGV
  name        this board as a member of `boards`
  user_id     whose place is wanted, '' for nobody's
  limit       how many rows
  lease       the name of the lease, if it is taken; '' only looks
  lease_ms    how long filling may take
  boards_max  how many boards of counters an experience may have at once; 0 for a board that there is always room for
RETURNS
  {2, {user_id, score, …}, floor, score, above}  the board; the player's score ('' without one), and how many are above it
                                                 or, without a score, above the floor
  {1}   not there: the lease is yours
  {0}   not there: somebody else fills it, or you only looked
  {-1}  not there, and the experience has as many boards as it may have
]]
local board, versions, boards = KEYS[1], KEYS[2], KEYS[3]
local name, user_id, limit, lease = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]
local lease_ms, boards_max = tonumber(ARGV[5]), tonumber(ARGV[6])

local state = redis.call('HGET', versions, '#state')
if state == 'ready' then
  local rows = redis.call('ZREVRANGE', board, 0, limit - 1, 'WITHSCORES')
  local floor = redis.call('HGET', versions, '#floor')
  local score = user_id ~= '' and redis.call('ZSCORE', board, user_id)
  local above = redis.call('ZCOUNT', board, '(' .. (score or floor), '+inf')
  return {2, rows, floor, score or '', above}
end
if state or lease == '' then return {0} end

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

if boards_max > 0 then
  local counters = redis.call('ZCOUNT', boards, string.format('(%.0f', now_ms), '+inf')
  for _, column in ipairs({'distance', 'completion'}) do
    local ends_ms = redis.call('ZSCORE', boards, column)
    if ends_ms and tonumber(ends_ms) > now_ms then counters = counters - 1 end
  end
  if counters >= boards_max then return {-1} end
end
redis.call('ZREMRANGEBYSCORE', boards, '-inf', string.format('%.0f', now_ms))
redis.call('DEL', board)
redis.call('HSET', versions, '#state', lease, '#floor', 0)
redis.call('PEXPIRE', versions, lease_ms)
redis.call('ZADD', boards, string.format('%.0f', now_ms + lease_ms), name)
redis.call('PEXPIRE', boards, lease_ms)
return {1}
