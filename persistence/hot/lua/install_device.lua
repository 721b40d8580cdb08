--[[
Load how far a stream got, if this copy does not know it. Absent never means 0. Only while the copy is the one that was
seen before the read, with the same base: another may hold writes of this stream that the read did not see. Running it
twice is harmless.

KEYS
  progress  hash   the progress
ARGV
  devices_max      how many streams a copy knows at most; past it those that are saved whole are let go
  copy             the copy that was seen before Postgres was read …
  base_version     … and its base
  device           the stream's device
  seq              what Postgres has of it
  read_started_ms  when the read of Postgres began, by the clock of Redis
  deadline_ms      how old such a read may be
RETURNS
  1 it is there now · 0 another copy or base, or none · -1 too late
]]
local progress = KEYS[1]
local devices_max, copy, base_version, device, seq = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local read_started_ms, deadline_ms = tonumber(ARGV[6]), tonumber(ARGV[7])

local time = redis.call('TIME')
local age_ms = time[1] * 1000 + math.floor(time[2] / 1000) - read_started_ms
if age_ms < 0 or age_ms > deadline_ms then return -1 end
-- include head

local hot = redis.call('HMGET', progress, 'copy', 'head')
if hot[1] ~= copy then return 0 end
local _, base = struct.unpack(HEAD, hot[2] or adopt_head(progress))
if base ~= base_version then return 0 end

-- An absent stream is loaded again when its device comes back, so one that Postgres has whole may go. A client that says
-- hello with ever new devices must not make the hash grow for ever.
local known = {}
for _, field in ipairs(redis.call('HKEYS', progress)) do
  local other = string.match(field, '^accepted:(.*)$')
  if other and other ~= device then known[#known + 1] = other end
end
if #known >= devices_max then
  for _, other in ipairs(known) do
    local seqs = redis.call('HMGET', progress, 'accepted:' .. other, 'saved:' .. other)
    if seqs[1] == seqs[2] then redis.call('HDEL', progress, 'accepted:' .. other, 'saved:' .. other) end
  end
end
redis.call('HSETNX', progress, 'accepted:' .. device, seq)
redis.call('HSETNX', progress, 'saved:' .. device, seq)
return 1
