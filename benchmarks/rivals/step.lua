--[[
One update of a rival: what Wayhold's script does, as far as one hash, one set and one list can.

KEYS
  state    hash   seq, version, location, pose, steps
  visited  set    places
  pending  list   frames that Postgres does not have yet
  dirty    zset   players with pending frames
ARGV
  user     the player
  seq      number of the update
  frame    what is kept for Postgres
  place    where the player is
  steps    how many steps more
  pose     a value
RETURNS
  {seq, version}
]]
local found = redis.call('HMGET', KEYS[1], 'seq', 'version')
local last, version = tonumber(found[1] or 0), tonumber(found[2] or 0)
local seq = tonumber(ARGV[2])
if seq <= last then return {last, version} end
if seq > last + 1 then return redis.error_reply('GAP expected ' .. last + 1) end
redis.call('HSET', KEYS[1], 'seq', seq, 'version', version + 1, 'location', ARGV[4], 'pose', ARGV[6])
redis.call('HINCRBY', KEYS[1], 'steps', ARGV[5])
redis.call('SADD', KEYS[2], ARGV[4])
if redis.call('RPUSH', KEYS[3], ARGV[3]) == 1 then redis.call('ZADD', KEYS[4], 'NX', seq, ARGV[1]) end
return {seq, version + 1}
