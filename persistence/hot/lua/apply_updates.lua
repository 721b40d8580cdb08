--[[
Take updates of many connections: for each group the connection, the copy and the seq are compared, its flat operations
applied, its entries appended, its progress marked dirty. A group without updates is a heartbeat: the same comparisons.
Running it twice is harmless: a repeated seq changes nothing and is answered again. Groups do not influence each other.

This is the hot path, so the caller names every field it may need: one read and one write of the hash for each group, no
string is put together here but the entries. An operation refers to fields by their place in the group's list.

KEYS, five for each group
  session   hash   the active session of the player
  progress  hash   copy, version, base, accepted and saved per device, the state as flat fields
  pending   list   entries that Postgres does not have yet, oldest first
  dirty     zset   progress with pending entries, by the time it is due
  expiry    zset   players by the time their session expires
ARGV
  options   msgpack array: flush_interval_ms, expiry_ms, activity_ms, pending_updates_max, pending_bytes_max,
            pending_due_updates, state_fields_max, state_bytes_max, counter_max
  groups    msgpack array of: user_id, session_id, connection, copy, device, told, member, durable, fields, updates.
            The first ten fields are copy, version, base_version, offset, base_offset, state_fields, state_bytes,
            quarantine, accepted and saved of the device. An update is: seq, entry_id, body, ops, void code, void
            message. An op is: verb, argument, places (persistence.hot.flat_ops says which)
RETURNS
  {numbers, voids}: eight numbers for each group: outcome (persistence.hot.shapes.Outcome), accepted, version, saved,
  base_version, taken, repeated, voids; and flat: seq, code, message, … Only OK, GAP and FULL may have written.
]]
local options = cmsgpack.unpack(ARGV[1])
local groups = cmsgpack.unpack(ARGV[2])
local flush_interval_ms, expiry_ms, activity_ms = options[1], options[2], options[3]
local pending_updates_max, pending_bytes_max, pending_due_updates = options[4], options[5], options[6]
local state_fields_max, state_bytes_max, counter_max = options[7], options[8], options[9]

local OK, GAP, MISSING, DIFFERENT_COPY, BEHIND, FENCED, SESSION_ENDED = 0, 1, 2, 3, 4, 5, 6
local FULL, QUARANTINED, NO_DEVICE = 7, 8, 9
-- What an entry costs beyond its body: header, list node, allocator. Bounds are kept in these units.
local ENTRY_OVERHEAD_BYTES = 112
-- Flushes that fall due within the same quarter second share a transaction.
local DUE_STEP_MS = 250

local call, format = redis.call, string.format
local time = call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local now = format('%.0f', now_ms)
local due = format('%.0f', math.ceil((now_ms + flush_interval_ms) / DUE_STEP_MS) * DUE_STEP_MS)

local numbers, voids = {}, {}

local function answer(outcome, accepted, version, saved, base_version, taken, repeated, void_count)
  local n = #numbers
  numbers[n + 1], numbers[n + 2], numbers[n + 3], numbers[n + 4] = outcome, accepted, version, saved
  numbers[n + 5], numbers[n + 6], numbers[n + 7], numbers[n + 8] = base_version, taken, repeated, void_count
end

local function note_void(seq, code, message)
  local n = #voids
  voids[n + 1], voids[n + 2], voids[n + 3] = seq, code, message
end

-- include apply_ops

local function apply_group(first_key, group)
  local session, progress, pending = KEYS[first_key], KEYS[first_key + 1], KEYS[first_key + 2]
  local dirty, expiry = KEYS[first_key + 3], KEYS[first_key + 4]
  local user_id, session_id, connection, copy, device = group[1], group[2], group[3], group[4], group[5]
  local told, member, durable, names, updates = group[6], group[7], group[8], group[9], group[10]

  local held = call('HMGET', session, 'id', 'connection', 'last_activity')
  if held[2] and tonumber(held[2]) > connection then return answer(FENCED, 0, 0, 0, 0, 0, 0, 0) end
  local hot = call('HMGET', progress, unpack(names))
  if not hot[1] then return answer(MISSING, 0, 0, 0, 0, 0, 0, 0) end
  if held[1] ~= session_id then return answer(SESSION_ENDED, 0, 0, 0, 0, 0, 0, 0) end
  local version, base_version = tonumber(hot[2]), tonumber(hot[3])
  if hot[1] ~= copy then return answer(DIFFERENT_COPY, 0, version, 0, base_version, 0, 0, 0) end
  if not hot[9] then return answer(NO_DEVICE, 0, version, 0, base_version, 0, 0, 0) end
  local accepted, saved = tonumber(hot[9]), tonumber(hot[10] or 0)
  if accepted < told then return answer(BEHIND, accepted, version, saved, base_version, 0, 0, 0) end

  local is_quarantined = hot[8] and hot[8] ~= ''
  local outcome, taken, repeated, void_count = OK, 0, 0, 0
  if #updates > 0 then
    local offset, base_offset = tonumber(hot[4]), tonumber(hot[5])
    local change = {hot = hot, names = names, changed = {}, fields = tonumber(hot[6]), bytes = tonumber(hot[7])}
    local writes, entries = {}, {}
    local first_version = version
    for i = 1, #updates do
      local update = updates[i]
      local seq = update[1]
      if seq <= accepted then
        repeated = repeated + 1
        local void = seq > saved and call('HGET', progress, 'void:' .. format('%.0f', seq) .. ':' .. device)
        if void then
          void_count = void_count + 1
          note_void(seq, tonumber(string.sub(void, 1, 3)), string.sub(void, 5))
        end
      elseif seq > accepted + 1 then
        outcome = GAP
        break
      elseif is_quarantined then
        outcome = QUARANTINED
        break
      elseif version - base_version >= pending_updates_max or offset - base_offset >= pending_bytes_max then
        outcome = FULL
        break
      else
        local body, code, message = update[3], update[5], update[6]
        if code == 0 then code, message = apply_ops(change, update[4]) end
        if code ~= 0 then
          writes[#writes + 1] = 'void:' .. format('%.0f', seq) .. ':' .. device
          writes[#writes + 1] = code .. ' ' .. message
          void_count = void_count + 1
          note_void(seq, code, message)
        end
        accepted = seq
        version = version + 1
        taken = taken + 1
        offset = offset + #body + ENTRY_OVERHEAD_BYTES
        entries[taken] = format('%.0f %s %.0f %s %d ', version, update[2], offset, now, code) .. body
      end
    end
    if taken > 0 then
      local n = #writes
      writes[n + 1], writes[n + 2] = 'version', format('%.0f', version)
      writes[n + 3], writes[n + 4] = 'offset', format('%.0f', offset)
      writes[n + 5], writes[n + 6] = names[9], format('%.0f', accepted)
      n = n + 6
      if first_version == base_version then
        writes[n + 1], writes[n + 2] = 'dirty_since', now
        n = n + 2
        call('ZADD', dirty, 'NX', due, member)
      end
      local removed = {}
      for place in pairs(change.changed) do
        local value = hot[place]
        if value then
          writes[n + 1], writes[n + 2] = names[place], value
          n = n + 2
        else
          removed[#removed + 1] = names[place]
        end
      end
      if next(change.changed) then
        writes[n + 1], writes[n + 2] = 'state_fields', change.fields
        writes[n + 3], writes[n + 4] = 'state_bytes', change.bytes
      end
      call('HSET', progress, unpack(writes))
      if #removed > 0 then call('HDEL', progress, unpack(removed)) end
      call('RPUSH', pending, unpack(entries))
    end
  end
  if version > base_version and (durable or version - base_version >= pending_due_updates) and not is_quarantined then
    call('ZADD', dirty, 'LT', now, member)
  end
  if now_ms - tonumber(held[3] or 0) >= activity_ms then
    call('HSET', session, 'last_activity', now, 'current_location', call('HGET', progress, 'v:current_location') or '')
    call('ZADD', expiry, format('%.0f', now_ms + expiry_ms), user_id)
  end
  return answer(outcome, accepted, version, saved, base_version, taken, repeated, void_count)
end

for i = 1, #groups do apply_group(i * 5 - 4, groups[i]) end
return {numbers, voids}
