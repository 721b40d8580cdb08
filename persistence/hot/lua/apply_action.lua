--[[
Apply an operator's action to a progress: the same step as an update, in the stream `ops`, without a connection. The
player who is there gets it as a push, with the number of the own stream behind which it fell. Running it twice is
harmless: a number that was taken changes nothing and is answered again, so any node may issue any action.

KEYS
  session   hash    the active session of the player
  progress  hash    the progress (parts/head.lua)
  pending   list    entries that Postgres does not have yet
  dirty     zset    progress with pending entries, by the time it is due
  pushes    list    messages that the player's client may not have seen yet
  fence     string  after an erase: the time before which nothing of the player is touched
ARGV
  options   msgpack array: flush_interval_ms, state_fields_max, state_bytes_max, counter_max, pushes_max, pushes_ttl_s
  args      msgpack array, flat: user_id, experience, row_id, seq, entry_id, body, member, durable, push, void code, void
            message, fields; the names of so many fields that the operations touch; the operations (parts/apply_ops.lua)
  expects   msgpack array, flat: names of fields and what each must hold (false: it must not be there), else the action
            is void: an undo means nothing once the state has moved on
RETURNS
  {outcome, accepted, version, void code, void message, n, before}: outcome as persistence.hot.shapes.ActionOutcome; a
  void code of 0: it has an effect; `n` is the number of the push, 0 without one; `before` is what the fields held, in
  their order, for an action that was applied now. Only APPLIED has written.
]]
local session, progress, pending, dirty, pushes, fence = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local options = cmsgpack.unpack(ARGV[1])
local args = cmsgpack.unpack(ARGV[2])
local expects = cmsgpack.unpack(ARGV[3])
local flush_interval_ms, state_fields_max, state_bytes_max, counter_max = options[1], options[2], options[3], options[4]
local pushes_max, pushes_ttl_s = options[5], options[6]
local user_id, experience, row_id, seq, entry_id, body = args[1], args[2], args[3], args[4], args[5], args[6]
local member, durable, push, code, message, field_count = args[7], args[8], args[9], args[10], args[11], args[12]

local APPLIED, REPEATED, MISSING, OTHER_ROW, NO_DEVICE, EARLIER_MISSING, QUARANTINED, FENCED = 0, 1, 2, 3, 4, 5, 6, 7
local DEVICE = 'ops'
local MOVED_ON = 106
local ENTRY_OVERHEAD_BYTES = 112
local HEADER_ITEMS = 12
-- Places 1 to 4 of `hot` are not the state's.
local FIRST_PLACE = 5

-- include head
-- include apply_ops
-- include append_push

local time = call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)
local now = format('%d', now_ms)

if now_ms < tonumber(call('GET', fence) or 0) then return {FENCED} end
local there = call('HMGET', progress, 'copy', 'row', 'quarantine', 'accepted:' .. DEVICE)
if not there[1] then return {MISSING} end
-- The player was erased and has started anew: this action belongs to a life that is over.
if there[2] ~= row_id then return {OTHER_ROW} end
if not there[4] then return {NO_DEVICE} end
local accepted = tonumber(there[4])
local version, base_version, offset, base_offset, fields, bytes, connection, active_ms =
  struct.unpack(HEAD, call('HGET', progress, 'head') or adopt_head(progress))
local void_field = 'void:' .. format('%d', seq) .. ':' .. DEVICE
if seq <= accepted then
  local void = call('HGET', progress, void_field)
  if void then return {REPEATED, accepted, version, tonumber(sub(void, 1, 3)), sub(void, 5), 0} end
  return {REPEATED, accepted, version, 0, '', 0}
end
if seq > accepted + 1 then return {EARLIER_MISSING, accepted} end
if there[3] and there[3] ~= '' then return {QUARANTINED, accepted} end

local hot = call('HMGET', progress, 'holder', 'head', 'accepted:' .. DEVICE, 'saved:' .. DEVICE,
  unpack(args, HEADER_ITEMS + 1, HEADER_ITEMS + field_count))
local found = {}
for place = FIRST_PLACE, FIRST_PLACE - 1 + field_count do found[#found + 1] = hot[place] end
if code == 0 then
  for i = 1, #expects, 2 do
    if call('HGET', progress, expects[i]) ~= expects[i + 1] then
      code, message = MOVED_ON, 'the state has moved on: ' .. sub(expects[i], 3)
      break
    end
  end
end
begin_fields(progress, hot, HEADER_ITEMS + 1 - FIRST_PLACE, FIRST_PLACE, FIRST_PLACE - 1 + field_count, fields, bytes)
if code == 0 then code, message = apply_ops(HEADER_ITEMS + field_count + 1, #args + 1) end
local writes = {'accepted:' .. DEVICE, format('%d', seq)}
local n, removed = add_changes(writes, 2)
if code ~= 0 then
  writes[n + 1], writes[n + 2] = void_field, code .. ' ' .. message
  n = n + 2
end
if version == base_version then
  writes[n + 1], writes[n + 2] = 'dirty_since', now
  n = n + 2
end
version = version + 1
offset = offset + #body + ENTRY_OVERHEAD_BYTES
call('HSET', progress, 'head',
  struct.pack(HEAD, version, base_version, offset, base_offset, state_fields, state_bytes, connection, active_ms),
  unpack(writes, 1, n))
if removed then call('HDEL', progress, unpack(removed)) end
call('RPUSH', pending, format('%d %s %d %s %d ', version, entry_id, offset, now, code) .. body)
-- Nobody may be playing it: an idle copy with something pending must not expire.
call('PERSIST', progress)
if durable then
  call('ZADD', dirty, 'LT', now, member)
else
  call('ZADD', dirty, 'NX', format('%d', now_ms + flush_interval_ms), member)
end

local pushed = 0
local held = call('HMGET', session, 'id', 'current_experience', 'device', 'node', 'pushed')
if code == 0 and held[1] and held[2] == experience then
  local after = call('HGET', progress, 'accepted:' .. held[3]) or '0'
  local position = entry_id .. ' ' .. after .. ' ' .. format('%d', version)
  pushed = append_push(session, pushes, user_id, {held[1], held[4], held[5]}, position, push, pushes_max, pushes_ttl_s)
end
return {APPLIED, seq, version, code, message or '', pushed, found}
