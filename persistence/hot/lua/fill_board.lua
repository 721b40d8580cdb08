--[[
Put what was read from Postgres on a board that is being filled. What a flusher has written meanwhile is newer and stays,
and who was erased since the read stays away. Running it twice is harmless.

KEYS
  board     zset  players by score, in millionths
  versions  hash  which version of each player's progress the score is of, `#state`, `#floor`
  boards    zset  the boards of the experience by when they end (ms)
  fence     zset  SHA-1 of the user ids of the lately erased, by the time (ms) before which nothing of them counts
ARGV
  name         this board as a member of `boards`
  lease        that of whoever fills it
  read_ms      a time before the read
  rows         msgpack array, flat: user_id, version, score, …
  floor        with the last rows: nobody who is missing has a higher score; '' before
  ends_ms      how long the lease goes on, 0 to give it back; with the last rows, how long the board lives
  players_max  how many players a board holds
RETURNS
  1 done · 0 the lease is over: nothing changed
]]
local board, versions, boards, fence = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local name, lease, read_ms, rows = ARGV[1], ARGV[2], tonumber(ARGV[3]), cmsgpack.unpack(ARGV[4])
local floor, ends_ms, players_max = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7])
-- include trim_board

if redis.call('HGET', versions, '#state') ~= lease then return 0 end

local has_fence = redis.call('EXISTS', fence) == 1
for i = 1, #rows, 3 do
  local user_id, version, score = rows[i], rows[i + 1], rows[i + 2]
  local fenced_ms = has_fence and redis.call('ZSCORE', fence, redis.sha1hex(user_id))
  local known = redis.call('HGET', versions, user_id)
  if not (fenced_ms and tonumber(fenced_ms) >= read_ms) and not (known and tonumber(known) >= version) then
    redis.call('HSET', versions, user_id, string.format('%.0f', version))
    redis.call('ZADD', board, string.format('%.0f', score), user_id)
  end
end
if floor ~= '' then
  redis.call('HSET', versions, '#floor', floor, '#state', 'ready')
  -- What a flusher has lowered meanwhile may lie below those who were not read.
  redis.call('ZREMRANGEBYSCORE', board, '-inf', '(' .. floor)
  trim_board(board, versions, players_max)
end

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

redis.call('PEXPIRE', board, ends_ms)
redis.call('PEXPIRE', versions, ends_ms)
redis.call('ZADD', boards, string.format('%.0f', now_ms + ends_ms), name)
if redis.call('PTTL', boards) < ends_ms then redis.call('PEXPIRE', boards, ends_ms) end
return 1
