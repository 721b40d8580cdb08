--[[
Take updates of many connections: for each group the connection, the copy and the seq are compared, its flat operations
applied, its entries appended, its progress marked dirty. A group without updates is a heartbeat: the same comparisons.
Running it twice is harmless: a repeated seq changes nothing and is answered again. Groups do not influence each other.

KEYS, five for each group
  session   hash   the active session of the player
  progress  hash   copy, version, base, accepted and saved per device, the state as flat fields
  pending   list   entries that Postgres does not have yet, oldest first
  dirty     zset   progress with pending entries, by the time it is due
  expiry    zset   players by the time their session expires
ARGV
  options   msgpack array: flush_interval_ms, expiry_ms, activity_ms, pending_updates_max, pending_bytes_max,
            pending_due_updates, state_fields_max, state_bytes_max, counter_max, user ids by group
  groups    msgpack array of: session_id, connection, copy, device, told, member, durable, updates;
            an update is: seq, entry_id, body, ops, void code, void message; an op as protocol.effects makes it
RETURNS
  for each group {outcome, accepted, version, saved, base_version, taken, repeated, voids}; voids is flat:
  seq, code, message, …; outcome is persistence.hot.shapes.Outcome. Only OK, GAP and FULL may have written.
]]
local options = cmsgpack.unpack(ARGV[1])
local groups = cmsgpack.unpack(ARGV[2])
local flush_interval_ms, expiry_ms, activity_ms = options[1], options[2], options[3]
local pending_updates_max, pending_bytes_max, pending_due_updates = options[4], options[5], options[6]
local state_fields_max, state_bytes_max, counter_max = options[7], options[8], options[9]
local users = options[10]

local OK, GAP, MISSING, DIFFERENT_COPY, BEHIND, FENCED, SESSION_ENDED, FULL, QUARANTINED, NO_DEVICE = 0, 1, 2, 3, 4, 5, 6, 7, 8, 9
local INVALID_EFFECT, TOO_LARGE = 106, 105
-- What an entry costs beyond its body: header, list node, allocator. Bounds are kept in these units.
local ENTRY_OVERHEAD_BYTES = 112
-- Flushes that fall due within the same quarter second share a transaction.
local DUE_STEP_MS = 250

local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local function due_ms()
  return math.ceil((now_ms + flush_interval_ms) / DUE_STEP_MS) * DUE_STEP_MS
end

local function integer(number)
  return string.format('%.0f', number)
end

-- The fields that decide about one operation come first; what could only conflict with it is looked up
-- when those are absent, because a kind, once there, excludes the others.
local function first_fields(wanted, op)
  local verb, path, name, arg = op[1], op[2], op[3], op[4]
  if verb == 'add' or verb == 'remove' or verb == 'add_unless' then
    wanted['m:' .. name .. '.' .. arg] = true
    wanted['s:' .. name] = true
    if verb == 'add_unless' then wanted['m:' .. op[5] .. '.' .. arg] = true end
  else
    wanted['v:' .. path] = true
    wanted['c:' .. path] = true
    if path ~= name then wanted['g:' .. name] = true end
  end
end

local function conflict_fields(wanted, state, op)
  local verb, path, name = op[1], op[2], op[3]
  local settled
  if verb == 'add' or verb == 'remove' or verb == 'add_unless' then
    settled = state['s:' .. name]
  elseif path ~= name then
    settled = state['g:' .. name]
  else
    settled = state['v:' .. name] or state['c:' .. name]
  end
  if not settled then
    for _, kind in ipairs({'v:', 'c:', 's:', 'g:'}) do
      if state[kind .. name] == nil then wanted[kind .. name] = true end
    end
  end
end

local function load_fields(key, state, wanted)
  local names = {}
  for field in pairs(wanted) do
    if state[field] == nil then names[#names + 1] = field end
  end
  if #names > 0 then
    local values = redis.call('HMGET', key, unpack(names))
    for i, field in ipairs(names) do state[field] = values[i] end
  end
end

local function put(change, field, value)
  local old = change.state[field]
  if change.before[field] == nil then change.before[field] = old or false end
  if old then
    change.bytes = change.bytes + #value - #old
  else
    change.fields = change.fields + 1
    change.bytes = change.bytes + #field + #value
  end
  change.state[field] = value
end

local function drop(change, field)
  local old = change.state[field]
  if not old then return end
  if change.before[field] == nil then change.before[field] = old end
  change.fields = change.fields - 1
  change.bytes = change.bytes - #field - #old
  change.state[field] = false
end

local function other_kind(state, name, kind)
  if kind ~= 'v:' and state['v:' .. name] then return name .. ' is a value' end
  if kind ~= 'c:' and state['c:' .. name] then return name .. ' is a counter' end
  if kind ~= 's:' and state['s:' .. name] then return name .. ' is a set' end
  if kind ~= 'g:' and state['g:' .. name] then return name .. ' is a group' end
  return nil
end

-- Applies one operation to the overlay; returns what is wrong with it, or nil.
local function apply_op(change, op)
  local state = change.state
  local verb, path, name, arg = op[1], op[2], op[3], op[4]
  if verb == 'add' or verb == 'remove' or verb == 'add_unless' then
    if verb == 'add_unless' and state['m:' .. op[5] .. '.' .. arg] then return nil end
    local wrong = other_kind(state, name, 's:')
    if wrong then return wrong end
    if not state['s:' .. name] then put(change, 's:' .. name, '') end
    local member = 'm:' .. name .. '.' .. arg
    if verb == 'remove' then
      drop(change, member)
    elseif not state[member] then
      put(change, member, '')
    end
    return nil
  end
  local value, counter = 'v:' .. path, 'c:' .. path
  if path ~= name then
    local wrong = other_kind(state, name, 'g:')
    if wrong then return wrong end
    if verb == 'unset' then
      drop(change, value)
      drop(change, counter)
      return nil
    end
    if not state['g:' .. name] then put(change, 'g:' .. name, '') end
  elseif verb == 'unset' then
    if state['s:' .. name] then return name .. ' is a set' end
    if state['g:' .. name] then return name .. ' is a group' end
    drop(change, value)
    drop(change, counter)
    return nil
  end
  if verb == 'set' then
    if path == name then
      local wrong = other_kind(state, name, 'v:')
      if wrong then return wrong end
    elseif state[counter] then
      return path .. ' is a counter'
    end
    put(change, value, arg)
    return nil
  end
  if path == name then
    local wrong = other_kind(state, name, 'c:')
    if wrong then return wrong end
  elseif state[value] then
    return path .. ' is a value'
  end
  local old = tonumber(state[counter] or 0)
  local new
  if verb == 'incr' then
    new = old + arg
  else
    new = math.max(old, arg)
  end
  if new > counter_max or new < -counter_max then return path .. ' would leave the range of a counter' end
  put(change, counter, integer(new))
  return nil
end

-- All operations of one update, or none: returns an error code and message when it is void.
local function apply_ops(key, copy, ops)
  local wanted = {}
  for _, op in ipairs(ops) do first_fields(wanted, op) end
  load_fields(key, copy.state, wanted)
  wanted = {}
  for _, op in ipairs(ops) do conflict_fields(wanted, copy.state, op) end
  load_fields(key, copy.state, wanted)
  local change = {state = copy.state, before = {}, fields = copy.fields, bytes = copy.bytes}
  local code, message
  for _, op in ipairs(ops) do
    local wrong = apply_op(change, op)
    if wrong then
      code, message = INVALID_EFFECT, wrong
      break
    end
  end
  -- A state that is past a bound, because the bound was lowered, may still shrink.
  if not code and change.fields > state_fields_max and change.fields > copy.fields then
    code, message = TOO_LARGE, 'the state would have more than ' .. state_fields_max .. ' fields'
  elseif not code and change.bytes > state_bytes_max and change.bytes > copy.bytes then
    code, message = TOO_LARGE, 'the state would be larger than ' .. state_bytes_max .. ' bytes'
  end
  if code then
    for field, old in pairs(change.before) do copy.state[field] = old end
    return code, message
  end
  copy.fields, copy.bytes = change.fields, change.bytes
  for field in pairs(change.before) do copy.changed[field] = true end
  return nil
end

local function apply_group(session, progress, pending, dirty, expiry, user_id, group)
  local session_id, connection, copy_name, device, told = group[1], group[2], group[3], group[4], group[5]
  local member, durable, updates = group[6], group[7], group[8]

  local held = redis.call('HMGET', session, 'id', 'connection', 'last_activity')
  if held[2] and tonumber(held[2]) > connection then return {FENCED, 0, 0, 0, 0, 0, 0, {}} end
  local hot = redis.call('HMGET', progress, 'copy', 'version', 'base_version', 'offset', 'base_offset', 'state_fields',
    'state_bytes', 'quarantine', 'accepted:' .. device, 'saved:' .. device)
  if not hot[1] then return {MISSING, 0, 0, 0, 0, 0, 0, {}} end
  if held[1] ~= session_id then return {SESSION_ENDED, 0, 0, 0, 0, 0, 0, {}} end
  local version, base_version = tonumber(hot[2]), tonumber(hot[3])
  local offset, base_offset = tonumber(hot[4]), tonumber(hot[5])
  if hot[1] ~= copy_name then return {DIFFERENT_COPY, 0, version, 0, base_version, 0, 0, {}} end
  if not hot[9] then return {NO_DEVICE, 0, version, 0, base_version, 0, 0, {}} end
  local accepted, saved = tonumber(hot[9]), tonumber(hot[10] or 0)
  if accepted < told then return {BEHIND, accepted, version, saved, base_version, 0, 0, {}} end

  local outcome = OK
  local copy = {state = {}, changed = {}, fields = tonumber(hot[6]), bytes = tonumber(hot[7])}
  local entries, writes, voids = {}, {}, {}
  local taken, repeated = 0, 0
  local first_version = version
  for _, update in ipairs(updates) do
    local seq = update[1]
    if seq <= accepted then
      repeated = repeated + 1
      if seq > saved then
        local void = redis.call('HGET', progress, 'void:' .. integer(seq) .. ':' .. device)
        if void then
          voids[#voids + 1] = seq
          voids[#voids + 1] = tonumber(string.sub(void, 1, 3))
          voids[#voids + 1] = string.sub(void, 5)
        end
      end
    elseif seq > accepted + 1 then
      outcome = GAP
      break
    elseif hot[8] and hot[8] ~= '' then
      outcome = QUARANTINED
      break
    elseif version - base_version >= pending_updates_max or offset - base_offset >= pending_bytes_max then
      outcome = FULL
      break
    else
      local entry_id, body, ops, code, message = update[2], update[3], update[4], update[5], update[6]
      if code == 0 then
        code, message = apply_ops(progress, copy, ops)
        code = code or 0
      end
      if code ~= 0 then
        writes[#writes + 1] = 'void:' .. integer(seq) .. ':' .. device
        writes[#writes + 1] = code .. ' ' .. message
        voids[#voids + 1] = seq
        voids[#voids + 1] = code
        voids[#voids + 1] = message
      end
      accepted = seq
      version = version + 1
      taken = taken + 1
      offset = offset + #body + ENTRY_OVERHEAD_BYTES
      entries[#entries + 1] = integer(version) .. ' ' .. entry_id .. ' ' .. integer(offset) .. ' ' .. integer(now_ms) .. ' ' .. code .. ' ' .. body
    end
  end

  if taken > 0 then
    local removed = {}
    for field in pairs(copy.changed) do
      local value = copy.state[field]
      if value then
        writes[#writes + 1] = field
        writes[#writes + 1] = value
      else
        removed[#removed + 1] = field
      end
    end
    for field, value in pairs({version = integer(version), offset = integer(offset), ['accepted:' .. device] = integer(accepted)}) do
      writes[#writes + 1] = field
      writes[#writes + 1] = value
    end
    if next(copy.changed) then
      writes[#writes + 1] = 'state_fields'
      writes[#writes + 1] = integer(copy.fields)
      writes[#writes + 1] = 'state_bytes'
      writes[#writes + 1] = integer(copy.bytes)
    end
    if first_version == base_version then
      writes[#writes + 1] = 'dirty_since'
      writes[#writes + 1] = integer(now_ms)
      redis.call('ZADD', dirty, 'NX', integer(due_ms()), member)
    end
    redis.call('HSET', progress, unpack(writes))
    if #removed > 0 then redis.call('HDEL', progress, unpack(removed)) end
    redis.call('RPUSH', pending, unpack(entries))
  end
  if version > base_version and (durable or version - base_version >= pending_due_updates) and not (hot[8] and hot[8] ~= '') then
    redis.call('ZADD', dirty, 'LT', integer(now_ms), member)
  end
  if now_ms - tonumber(held[3] or 0) >= activity_ms then
    local location = redis.call('HGET', progress, 'v:current_location')
    redis.call('HSET', session, 'last_activity', integer(now_ms), 'current_location', location or '')
    redis.call('ZADD', expiry, integer(now_ms + expiry_ms), user_id)
  end
  return {outcome, accepted, version, saved, base_version, taken, repeated, voids}
end

local verdicts = {}
for i, group in ipairs(groups) do
  local k = (i - 1) * 5
  verdicts[i] = apply_group(KEYS[k + 1], KEYS[k + 2], KEYS[k + 3], KEYS[k + 4], KEYS[k + 5], users[i], group)
end
return verdicts
