--[[
As step.lua, for several updates in one call.

KEYS
  dirty, then three for each update: state, visited, pending
ARGV
  six for each update: user, seq, frame, place, steps, pose
RETURNS
  two for each update: seq, version (seq 0: a gap)
]]
local answers = {}
for i = 0, #ARGV / 6 - 1 do
  local state, visited, pending = KEYS[3 * i + 2], KEYS[3 * i + 3], KEYS[3 * i + 4]
  local user, frame, place = ARGV[6 * i + 1], ARGV[6 * i + 3], ARGV[6 * i + 4]
  local seq = tonumber(ARGV[6 * i + 2])
  local found = redis.call('HMGET', state, 'seq', 'version')
  local last, version = tonumber(found[1] or 0), tonumber(found[2] or 0)
  if seq <= last then
    seq = last
  elseif seq > last + 1 then
    seq = 0
  else
    version = version + 1
    redis.call('HSET', state, 'seq', seq, 'version', version, 'location', place, 'pose', ARGV[6 * i + 6])
    redis.call('HINCRBY', state, 'steps', ARGV[6 * i + 5])
    redis.call('SADD', visited, place)
    if redis.call('RPUSH', pending, frame) == 1 then redis.call('ZADD', KEYS[1], 'NX', seq, user) end
  end
  answers[2 * i + 1], answers[2 * i + 2] = seq, version
end
return answers
