--[[
The head of a copy: all numbers that change with every update, in one field, because each field that a script reads or
writes costs more than packing eight numbers. Little-endian doubles, which hold whole numbers up to 2^53:

    version, base_version   the newest entry, and the newest that Postgres is known to have
    offset, base_offset     bytes of entries counted from the install on, up to each of the two
    state_fields, state_bytes
    connection, active_ms   who plays, and when the session's last_activity was written last; see `holder`

The field `holder` is "<copy> <session id>" while the session that it names is the player's and nothing about the copy
needs a closer look (it is not in quarantine). Whoever ends or changes a session empties it or writes it anew: empty,
not gone, so that it stays at the beginning of the hash, where it is found soonest.

Not more than 64 bytes: a longer field would turn the whole hash from a list into a table, at twice the memory.
]]
local HEAD = '<dddddddd'

-- A copy that an earlier version made has the numbers in fields of their own. Frees before it writes.
local function adopt_head(progress)
  local old = redis.call('HMGET', progress, 'version', 'base_version', 'offset', 'base_offset', 'state_fields', 'state_bytes')
  if not old[1] then return false end
  redis.call('HDEL', progress, 'version', 'base_version', 'offset', 'base_offset', 'state_fields', 'state_bytes')
  local head = struct.pack(HEAD, tonumber(old[1]), tonumber(old[2]), tonumber(old[3]), tonumber(old[4]), tonumber(old[5]),
    tonumber(old[6]), 0, 0)
  redis.call('HSET', progress, 'head', head)
  return head
end
