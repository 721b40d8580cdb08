--[[
Load how far a stream got, if this copy does not know it. Absent never means 0. Running it twice is harmless.

KEYS
  progress  hash   the progress
ARGV
  device           the stream's device
  seq              what Postgres has of it
  read_started_ms  when the read of Postgres began, by the clock of Redis
  deadline_ms      how old such a read may be
RETURNS
  1 it is there now · 0 no hot copy · -1 too late
]]
local progress = KEYS[1]
local device, seq, read_started_ms, deadline_ms = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])

local time = redis.call('TIME')
local age_ms = time[1] * 1000 + math.floor(time[2] / 1000) - read_started_ms
if age_ms < 0 or age_ms > deadline_ms then return -1 end
if redis.call('EXISTS', progress) == 0 then return 0 end
redis.call('HSETNX', progress, 'accepted:' .. device, seq)
redis.call('HSETNX', progress, 'saved:' .. device, seq)
return 1
