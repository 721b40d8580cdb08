--[[
Add up what these progress have pending. It writes nothing.

KEYS, any number
  progress  hash   a progress
RETURNS
  {updates, bytes, oldest_ms}: oldest_ms is how long the oldest entry has been waiting
]]
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local updates, bytes, oldest_ms = 0, 0, 0
for _, progress in ipairs(KEYS) do
  local hot = redis.call('HMGET', progress, 'version', 'base_version', 'offset', 'base_offset', 'dirty_since')
  if hot[1] and tonumber(hot[1]) > tonumber(hot[2]) then
    updates = updates + tonumber(hot[1]) - tonumber(hot[2])
    bytes = bytes + tonumber(hot[3]) - tonumber(hot[4])
    if hot[5] then oldest_ms = math.max(oldest_ms, now_ms - tonumber(hot[5])) end
  end
end
return {updates, bytes, oldest_ms}
