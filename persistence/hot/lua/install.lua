--[[
Make what was read from Postgres the hot copy of a progress, if none is there, or if the one there has provably
diverged: it reaches back to what was read and does not have that entry. A copy that merely looks old is kept.
Running it twice is harmless: the second time the copy is there.

KEYS
  progress     hash    the progress
  pending      list    its entries that Postgres does not have yet
  dirty        zset    progress with pending entries, by the time it is due
  fence        string  after an erase: a read that began before this time must not be installed
  quarantined  zset    progress put aside, by the time it was
ARGV
  request   msgpack array: copy, row_id, version, last_entry, read_started_ms, deadline_ms, idle_s, device, device_seq,
            state_fields, state_bytes, member, erased_ms, fields (flat: field, value, …)
RETURNS
  {outcome, thrown}: 1 installed · 0 a copy is there and stays · -1 too late: what was read is too old or was erased ·
  2 a diverged copy was replaced and `thrown` of its entries with it
]]
local progress, pending, dirty, fence, quarantined = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local request = cmsgpack.unpack(ARGV[1])
local copy, row_id, version, last_entry = request[1], request[2], request[3], request[4]
local read_started_ms, deadline_ms, idle_s = request[5], request[6], request[7]
local device, device_seq = request[8], request[9]
local state_fields, state_bytes, member, erased_ms, fields = request[10], request[11], request[12], request[13], request[14]

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local function integer(number)
  return string.format('%.0f', number)
end
-- include head

-- A clock of Redis that went back says nothing about the age of the read: refuse that too.
local age_ms = now_ms - read_started_ms
if age_ms < 0 or age_ms > deadline_ms then return {-1, 0} end
if read_started_ms <= tonumber(redis.call('GET', fence) or 0) then return {-1, 0} end

local outcome, thrown = 1, 0
local there = redis.call('HMGET', progress, 'copy', 'head', 'base_id', 'node')
if there[1] then
  local _, base_version = struct.unpack(HEAD, there[2] or adopt_head(progress))
  local id = nil
  if version == base_version then
    id = there[3]
  elseif version > base_version then
    local entry = redis.call('LINDEX', pending, version - base_version - 1)
    if entry then id = string.match(entry, '^%d+ (%x+) ') end
  end
  if version < base_version or id == last_entry then
    -- A copy that is further than the read may be behind writes of this stream that the read did not see.
    if version >= base_version then
      redis.call('HSETNX', progress, 'accepted:' .. device, integer(device_seq))
      redis.call('HSETNX', progress, 'saved:' .. device, integer(device_seq))
    end
    return {0, 0}
  end
  outcome, thrown = 2, redis.call('LLEN', pending)
end
redis.call('ZREM', dirty, member)
-- What was refused went with the copy that had it.
redis.call('ZREM', quarantined, member)
redis.call('DEL', progress, pending)
-- What every update asks for comes first: a small hash is searched from its beginning.
redis.call('HSET', progress, 'holder', '', 'head', struct.pack(HEAD, version, version, 0, 0, state_fields, state_bytes, 0, 0),
  'accepted:' .. device, integer(device_seq), 'saved:' .. device, integer(device_seq),
  'copy', copy, 'row', row_id, 'base_id', last_entry)
-- An earlier player of this id was erased: tokens from before count for nothing, and no read of Postgres will say so.
if erased_ms > 0 then redis.call('HSET', progress, 'erased_ms', integer(erased_ms)) end
-- The gateway that welcomed last still holds the player, and is told what is saved.
if there[4] then redis.call('HSET', progress, 'node', there[4]) end
for first = 1, #fields, 1000 do
  redis.call('HSET', progress, unpack(fields, first, math.min(first + 999, #fields)))
end
redis.call('EXPIRE', progress, idle_s)
return {outcome, thrown}
