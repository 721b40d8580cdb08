--[[
Keep the last word about whether a player may play, for hellos while Postgres is away. A word that was asked for earlier
than the one that is there changes nothing, so it may be said again by anybody at any time.

KEYS
  ban  string  the last word: "asked_us until_ms message"; until_ms 0: for ever, -1: lifted
ARGV
  asked_us   when it was asked for, microseconds
  until_ms   until when it holds, as above
  message    what the player is told
  kept_s     how long a lifted one is kept, so that an older word cannot come back
RETURNS
  1: this is the last word now; 0: a later one is there
]]
local ban = KEYS[1]
local asked_us, until_ms, message, kept_s = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]

local held = redis.call('GET', ban)
if held and tonumber(string.match(held, '^(%d+)')) > tonumber(asked_us) then return 0 end
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
if until_ms == 0 then
  redis.call('SET', ban, asked_us .. ' 0 ' .. message)
elseif until_ms > now_ms then
  redis.call('SET', ban, asked_us .. ' ' .. string.format('%d', until_ms) .. ' ' .. message, 'PX', string.format('%d', until_ms - now_ms))
else
  redis.call('SET', ban, asked_us .. ' -1 ' .. message, 'EX', kept_s)
end
return 1
