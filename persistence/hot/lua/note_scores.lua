--[[
Write what was just saved to a board that is there, ready or being filled. Scores come with the version of the progress
that they are of, so that of two flushers the later save wins, whoever comes first. Running it twice is harmless. Works
when Redis is full: the first write is one that frees.

KEYS
  board     zset  players by score, in millionths
  versions  hash  which version of each player's progress the score is of, `#state`, `#floor`
  boards    zset  the boards of the experience by when they end (ms)
  fence     zset  SHA-1 of the user ids of the lately erased, by the time (ms) before which nothing of them counts
ARGV
  name          this board as a member of `boards`
  began_ms      a time before the save began
  rows          msgpack array, flat: user_id, version, score, …
  players_max   how many players a board holds
  versions_max  how many versions; a board that would need more goes, and is filled again when somebody asks
RETURNS
  how many were newer than what was known · -1 there is no such board
]]
local board, versions, boards, fence = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local name, began_ms, rows = ARGV[1], tonumber(ARGV[2]), cmsgpack.unpack(ARGV[3])
local players_max, versions_max = tonumber(ARGV[4]), tonumber(ARGV[5])
-- include trim_board

local held = redis.call('HMGET', versions, '#state', '#floor')
if not held[1] then return -1 end
local floor = tonumber(held[2])

local time = redis.call('TIME')
redis.call('ZREMRANGEBYSCORE', boards, '-inf', string.format('%.0f', time[1] * 1000))
local has_fence = redis.call('EXISTS', fence) == 1
local noted = 0
local was_there = redis.call('EXISTS', board) == 1
for i = 1, #rows, 3 do
  local user_id, version, score = rows[i], rows[i + 1], rows[i + 2]
  local fenced_ms = has_fence and redis.call('ZSCORE', fence, redis.sha1hex(user_id))
  local known = redis.call('HGET', versions, user_id)
  if not (fenced_ms and tonumber(fenced_ms) >= began_ms) and not (known and tonumber(known) >= version) then
    redis.call('HSET', versions, user_id, string.format('%.0f', version))
    if score > 0 and score >= floor then
      redis.call('ZADD', board, string.format('%.0f', score), user_id)
    else
      redis.call('ZREM', board, user_id)
    end
    noted = noted + 1
  end
end
if redis.call('HLEN', versions) > versions_max then
  redis.call('DEL', board, versions)
  redis.call('ZREM', boards, name)
  return noted
end
trim_board(board, versions, players_max)
-- A board without players is no key: the first one makes it, and it must end with its versions.
if not was_there and noted > 0 then redis.call('PEXPIRE', board, redis.call('PTTL', versions)) end
return noted
