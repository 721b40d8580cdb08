--[[
Take updates of many connections: for each group the connection, the copy and the seq are compared, its flat operations
applied, its entries appended, its progress marked dirty. A group without updates is a heartbeat: the same comparisons.
Running it twice is harmless: a repeated seq changes nothing and is answered again. Groups do not influence each other.

This is the hot path. What a group needs comes in one flat array, since tables and strings are what costs in Lua; its
fields are read with one command and written with one. While the copy's `holder` and the connection in its `head` are
those of the group (parts/head.lua) nothing else has to be looked at; if not, the session and the copy are compared one by
one. Key names come in that array, too: declaring them costs as much as reading a hash. In Cluster all groups of a
call share the slot of the first.

Where the gateway knows what a group will leave (persistence/hot/known_fields.py) it sends that instead of operations, and
behind which version it is so: then no field of the state is read. Behind any other version nothing of it is done.

KEYS
  slot      hash   the progress of the first group
ARGV
  options   msgpack array: flush_interval_ms, expiry_ms, activity_ms, pending_updates_max, pending_bytes_max,
            pending_due_updates, state_fields_max, state_bytes_max, counter_max
  args      msgpack array, flat, for each group: progress, pending, holder, connection, the fields accepted and saved of
            the device; how many items the group has, told, flags (1: durable, 2: tell counters), updates, fields; the
            names of so many fields that the operations touch; then for each update: seq, entry_id, body, how many items
            its operations have, and these (parts/apply_ops.lua); a void one has -1, error code, message instead.
            One that is foreseen has -1 - fields, and these are members to be put into sets that are there; then: behind
            which version, the first seq, by how many bytes the values grow in the end and at most, how many items
            follow, and these: field, value, …; then for each update: entry_id, body
RETURNS
  {numbers, notes}: for a group that was taken whole, without voids: version, saved; for any other: -1 - outcome
  (persistence.hot.shapes.Outcome, and MOVED: this is not what was foreseen), accepted, version, saved, taken, repeated,
  voids; and flat: of each void seq, code, message; of a group taken whole that wants to be told, each counter among its
  fields. Only OK, GAP and FULL may have written.
]]
local slot = KEYS[1]
local options = cmsgpack.unpack(ARGV[1])
local args = cmsgpack.unpack(ARGV[2])
local flush_interval_ms, expiry_ms, activity_ms = options[1], options[2], options[3]
local pending_updates_max, pending_bytes_max, pending_due_updates = options[4], options[5], options[6]
local state_fields_max, state_bytes_max, counter_max = options[7], options[8], options[9]

local OK, GAP, MISSING, DIFFERENT_COPY, BEHIND, FENCED, SESSION_ENDED = 0, 1, 2, 3, 4, 5, 6
local FULL, QUARANTINED, NO_DEVICE = 7, 8, 9
local MOVED = 13
local DURABLE, TELL = 1, 2
-- What an entry costs beyond its body: header, list node, allocator. Bounds are kept in these units.
local ENTRY_OVERHEAD_BYTES = 112
-- Flushes that fall due within the same quarter second share a transaction.
local DUE_STEP_MS = 250
local HEADER_ITEMS, FORESEEN_ITEMS = 11, 5
-- Before it come holder, head, accepted and saved.
local FIRST_PLACE = 5

-- include head
-- include apply_ops

local unpack, pack_head, unpack_head = unpack, struct.pack, struct.unpack
local time = call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local now = format('%d', now_ms)
local due = format('%d', math.ceil((now_ms + flush_interval_ms) / DUE_STEP_MS) * DUE_STEP_MS)
local header_end = ' ' .. now .. ' 0 '

local numbers, notes, answered = {}, {}, 0
-- Used again for every group: what lies behind their end is of an earlier one.
local writes, entries = {}, {}

local function answer(outcome, accepted, version, saved, taken, repeated, void_count)
  local n = answered
  numbers[n + 1], numbers[n + 2], numbers[n + 3], numbers[n + 4] = -1 - outcome, accepted, version, saved
  numbers[n + 5], numbers[n + 6], numbers[n + 7] = taken, repeated, void_count
  answered = n + 7
end

local function note_void(seq, code, message)
  local n = #notes
  notes[n + 1], notes[n + 2], notes[n + 3] = seq, code, message
end

-- The other keys of a player and its members of indexes, from the name of its progress.
local function key_beside(progress, what)
  return match(progress, '^(.-:player:[^:]+):') .. ':' .. what
end

local function index_of(progress, what)
  return match(progress, '^{[^}]*}:') .. what
end

local function void_field(seq, accepted_field)
  return 'void:' .. format('%d', seq) .. sub(accepted_field, 9)
end

local function apply_group(at)
  local progress, pending, holder, connection, accepted_field, saved_field, _, told, flags, update_count, field_count =
    unpack(args, at, at + HEADER_ITEMS - 1)
  local named = field_count < 0 and -1 - field_count or field_count
  local hot = call('HMGET', progress, 'holder', 'head', accepted_field, saved_field,
    unpack(args, at + HEADER_ITEMS, at + HEADER_ITEMS - 1 + named))
  local version, base_version, offset, base_offset, fields, bytes, held_by, active_ms = 0, 0
  if hot[2] then version, base_version, offset, base_offset, fields, bytes, held_by, active_ms = unpack_head(HEAD, hot[2]) end

  local is_quarantined, is_new_holder, is_active = false, false, false
  if hot[1] ~= holder or held_by ~= connection or now_ms - active_ms >= activity_ms then
    local copy, session_id = match(holder, '^(%S+) (.*)$')
    local held = call('HMGET', key_beside(progress, 'session'), 'id', 'connection', 'last_activity')
    if held[2] and tonumber(held[2]) > connection then return answer(FENCED, 0, 0, 0, 0, 0, 0) end
    local there = call('HMGET', progress, 'copy', 'quarantine')
    if not there[1] then return answer(MISSING, 0, 0, 0, 0, 0, 0) end
    if held[1] ~= session_id then return answer(SESSION_ENDED, 0, 0, 0, 0, 0, 0) end
    if not hot[2] then version, base_version, offset, base_offset, fields, bytes = unpack_head(HEAD, adopt_head(progress)) end
    if there[1] ~= copy then return answer(DIFFERENT_COPY, 0, version, 0, 0, 0, 0) end
    is_quarantined = there[2] and there[2] ~= ''
    is_active = now_ms - tonumber(held[3] or 0) >= activity_ms
    active_ms = is_active and now_ms or tonumber(held[3] or 0)
    -- Only what the session says may be remembered: it knows of a connection that has a lower number than this one.
    is_new_holder = not is_quarantined and tonumber(held[2]) == connection and (hot[1] ~= holder or held_by ~= connection)
    held_by = tonumber(held[2] or 0)
  end
  if not hot[3] then return answer(NO_DEVICE, 0, version, 0, 0, 0, 0) end
  local accepted, saved = tonumber(hot[3]), tonumber(hot[4] or 0)
  if accepted < told then return answer(BEHIND, accepted, version, saved, 0, 0, 0) end

  local outcome, taken, repeated, void_count = OK, 0, 0, 0
  local first_version = version
  local n, removed = 0, nil
  if field_count < 0 then
    local i = at + HEADER_ITEMS + named
    local behind, seq, growth, growth_max, items = unpack(args, i, i + FORESEEN_ITEMS - 1)
    for member = 1, named do
      if not hot[FIRST_PLACE - 1 + member] then
        local name = args[at + HEADER_ITEMS - 1 + member]
        writes[n + 1], writes[n + 2] = name, ''
        n = n + 2
        growth, growth_max = growth + #name, growth_max + #name
      end
    end
    fields = fields + n / 2
    if version ~= behind or seq ~= accepted + 1 or is_quarantined or version - base_version + update_count > pending_updates_max
      or n > 0 and fields > state_fields_max or growth_max > 0 and bytes + growth_max > state_bytes_max then
      return answer(MOVED, 0, 0, 0, 0, 0, 0)
    end
    i = i + FORESEEN_ITEMS
    for item = 1, items do writes[n + item] = args[i + item - 1] end
    n = n + items
    i = i + items
    for number = 1, update_count do
      if offset - base_offset >= pending_bytes_max then return answer(MOVED, 0, 0, 0, 0, 0, 0) end
      local body = args[i + 1]
      version = version + 1
      offset = offset + #body + ENTRY_OVERHEAD_BYTES
      entries[number] = format('%d %s %d', version, args[i], offset) .. header_end .. body
      i = i + 2
    end
    taken, accepted, bytes = update_count, accepted + update_count, bytes + growth
  elseif update_count > 0 then
    begin_fields(progress, hot, at + HEADER_ITEMS - FIRST_PLACE, FIRST_PLACE, FIRST_PLACE - 1 + field_count, fields, bytes)
    local i = at + HEADER_ITEMS + field_count
    for _ = 1, update_count do
      local seq, entry_id, body, items = args[i], args[i + 1], args[i + 2], args[i + 3]
      i = i + 4
      if seq <= accepted then
        repeated = repeated + 1
        local void = seq > saved and call('HGET', progress, void_field(seq, accepted_field))
        if void then
          void_count = void_count + 1
          note_void(seq, tonumber(sub(void, 1, 3)), sub(void, 5))
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
        local code, message
        if items < 0 then code, message = args[i], args[i + 1] else code, message = apply_ops(i, i + items) end
        if code ~= 0 then
          writes[n + 1], writes[n + 2] = void_field(seq, accepted_field), code .. ' ' .. message
          n = n + 2
          void_count = void_count + 1
          note_void(seq, code, message)
        end
        accepted = seq
        version = version + 1
        taken = taken + 1
        offset = offset + #body + ENTRY_OVERHEAD_BYTES
        entries[taken] = format('%d %s %d', version, entry_id, offset) .. (code == 0 and header_end or ' ' .. now .. ' ' .. code .. ' ') .. body
      end
      if items < 0 then i = i + 2 else i = i + items end
    end
    n, removed = add_changes(writes, n)
    fields, bytes = state_fields, state_bytes
  end
  if taken > 0 then
    writes[n + 1], writes[n + 2] = accepted_field, format('%d', accepted)
    n = n + 2
    if first_version == base_version then
      writes[n + 1], writes[n + 2] = 'dirty_since', now
      n = n + 2
      call('ZADD', index_of(progress, 'dirty'), 'NX', due, match(progress, ':player:([^:]+):') .. '/' .. match(progress, ':progress:(.*)$'))
    end
  end
  if taken > 0 or is_new_holder or is_active then
    if is_new_holder then
      writes[n + 1], writes[n + 2] = 'holder', holder
      n = n + 2
    end
    call('HSET', progress, 'head', pack_head(HEAD, version, base_version, offset, base_offset, fields, bytes, held_by, active_ms),
      unpack(writes, 1, n))
    if removed then call('HDEL', progress, unpack(removed)) end
  end
  if taken > 0 then
    call('RPUSH', pending, unpack(entries, 1, taken))
  end
  if version > base_version and (flags % 2 == DURABLE or version - base_version >= pending_due_updates) and not is_quarantined then
    call('ZADD', index_of(progress, 'dirty'), 'LT', now, match(progress, ':player:([^:]+):') .. '/' .. match(progress, ':progress:(.*)$'))
  end
  if is_active then
    local user_id = match(progress, ':player:([^:]+):')
    call('HSET', key_beside(progress, 'session'), 'last_activity', now,
      'current_location', call('HGET', progress, 'v:current_location') or '')
    call('ZADD', index_of(progress, 'expiry'), format('%d', now_ms + expiry_ms), user_id)
  end
  if taken > 0 and taken == update_count and void_count == 0 then
    numbers[answered + 1], numbers[answered + 2] = version, saved
    answered = answered + 2
    if flags >= TELL then
      for place = FIRST_PLACE, FIRST_PLACE - 1 + field_count do
        if sub(args[at + HEADER_ITEMS - FIRST_PLACE + place], 1, 2) == 'c:' then notes[#notes + 1] = hot[place] or '' end
      end
    end
    return nil
  end
  return answer(outcome, accepted, version, saved, taken, repeated, void_count)
end

local at, last = 1, #args
while at <= last do
  apply_group(at)
  at = at + args[at + 6]
end
return {numbers, notes}
