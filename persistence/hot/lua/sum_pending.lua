--[[
Add up what these progress have pending. It writes nothing, but to take over a copy of an earlier version.

KEYS, any number
  progress  hash   a progress
RETURNS
  {updates, bytes, oldest_ms}: oldest_ms is how long the oldest entry has been waiting
]]
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

-- include head

local updates, bytes, oldest_ms = 0, 0, 0
for _, progress in ipairs(KEYS) do
  local hot = redis.call('HMGET', progress, 'head', 'dirty_since')
  local packed = hot[1] or adopt_head(progress)
  if packed then
    local version, base_version, offset, base_offset = struct.unpack(HEAD, packed)
    if version > base_version then
      updates = updates + version - base_version
      bytes = bytes + offset - base_offset
      if hot[2] then oldest_ms = math.max(oldest_ms, now_ms - tonumber(hot[2])) end
    end
  end
end
return {updates, bytes, oldest_ms}
