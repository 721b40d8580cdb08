--[[
Flat operations on the fields of a copy, all of an update's or none: what an update does to the state. One text for every
script that does it, because two would come apart.

An operation is {verb, argument, places…}, as persistence.hot.flat_ops makes it. `change` is {hot = what the named fields
hold, names = their names, changed = {}, fields = …, bytes = …}; the caller writes the places in `changed` afterwards.
Before this part a script binds state_fields_max, state_bytes_max and counter_max.
]]
local TOO_LARGE, INVALID_EFFECT = 105, 106
local SET, UNSET, INCR, MAX, ADD, REMOVE, ADD_UNLESS = 1, 2, 3, 4, 5, 6, 7
local format = string.format

-- Puts a value into a field of the copy at hand (false removes it) and keeps what was there, so that a void update
-- can be taken back whole.
local function put(change, place, value)
  local hot = change.hot
  local old = hot[place]
  local undo = change.undo
  undo[#undo + 1] = place
  undo[#undo + 1] = old
  if old then change.bytes = change.bytes - #old end
  if value then change.bytes = change.bytes + #value end
  if old and not value then
    change.fields = change.fields - 1
    change.bytes = change.bytes - #change.names[place]
  elseif value and not old then
    change.fields = change.fields + 1
    change.bytes = change.bytes + #change.names[place]
  end
  hot[place] = value
end

-- A place 0 is a field that cannot be there: the name is known to be of the right kind.
local function is_taken(hot, first, second, third)
  return (first > 0 and hot[first]) or (second > 0 and hot[second]) or (third > 0 and hot[third])
end

-- Applies one operation; true when it cannot be done.
local function is_refused(change, op)
  local hot = change.hot
  local verb, argument, place = op[1], op[2], op[3]
  if verb >= ADD then
    -- places: member, set, and value, counter, group of that name; for ADD_UNLESS the member of the other set
    if verb == ADD_UNLESS and hot[op[8]] then return false end
    if not hot[op[4]] then
      if is_taken(hot, op[5], op[6], op[7]) then return true end
      put(change, op[4], '')
    end
    if verb == REMOVE then
      if hot[place] then put(change, place, false) end
    elseif not hot[place] then
      put(change, place, '')
    end
    return false
  end
  -- places: the leaf, the leaf as the other kind, the group (0 for a top-level name), and what else the name could be
  local other, group = op[4], op[5]
  if verb == UNSET then
    if not (group > 0 and hot[group]) and is_taken(hot, op[6], op[7], op[8]) then return true end
    if hot[place] then put(change, place, false) end
    if other > 0 and hot[other] then put(change, other, false) end
    return false
  end
  if other > 0 and hot[other] then return true end
  if group > 0 then
    if not hot[group] then
      if is_taken(hot, op[6], op[7], op[8]) then return true end
      put(change, group, '')
    end
  elseif not hot[place] and is_taken(hot, op[6], op[7], op[8]) then
    return true
  end
  if verb == SET then
    put(change, place, argument)
    return false
  end
  local number = tonumber(hot[place] or 0)
  if verb == INCR then
    number = number + argument
  elseif argument > number then
    number = argument
  end
  if number > counter_max or number < -counter_max then return true end
  put(change, place, format('%.0f', number))
  return false
end

-- All operations of one update, or none: returns an error code and message when it is void.
local function apply_ops(change, ops)
  local fields, bytes = change.fields, change.bytes
  change.undo = {}
  local code, message
  for i = 1, #ops do
    if is_refused(change, ops[i]) then
      code, message = INVALID_EFFECT, 'operation ' .. i .. ': a path is of another kind, or a counter would leave its bounds'
      break
    end
  end
  -- A state that is past a bound, because the bound was lowered, may still shrink.
  if not code and change.fields > state_fields_max and change.fields > fields then
    code, message = TOO_LARGE, 'the state would have more than ' .. state_fields_max .. ' fields'
  elseif not code and change.bytes > state_bytes_max and change.bytes > bytes then
    code, message = TOO_LARGE, 'the state would be larger than ' .. state_bytes_max .. ' bytes'
  end
  local undo = change.undo
  if code then
    for i = #undo, 1, -2 do change.hot[undo[i - 1]] = undo[i] end
    change.fields, change.bytes = fields, bytes
    return code, message
  end
  local changed = change.changed
  for i = 1, #undo, 2 do changed[undo[i]] = true end
  return 0
end
