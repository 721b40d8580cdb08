--[[
Flat operations on the fields of a copy, all of an update's or none: what an update does to the state. One text for every
script that does it, because two would come apart.

An operation is a few items of `args`, as persistence.hot.flat_ops puts them: verb, place, and what the verb needs. A place
is the number of a field; `begin_fields` says where the names are and what the fields hold. Fields that only matter when
something is made for the first time are named and read here, when that happens. After `apply_ops` the caller writes
with `add_changes`.

Before this part a script binds args, state_fields_max, state_bytes_max and counter_max.
]]
local TOO_LARGE, INVALID_EFFECT = 105, 106
local SET, UNSET, INCR, MAX, ADD, REMOVE, ADD_UNLESS = 1, 2, 3, 4, 5, 6, 7
-- Items of an operation, the verb included.
local WIDTHS = {3, 3, 3, 3, 3, 3, 4}
local call, format, match, sub = redis.call, string.format, string.match, string.sub

-- The fields at hand. `hot[place]` is what a field holds by now, or false; `args[names + place]` is its name, from
-- `first_named` to `last_named`; places above were given here.
local progress_key, hot, names, first_named, last_named
local state_fields, state_bytes
local places, more_names, last_place
-- What has changed, in order, and what was there before.
local log, before, logged = {}, {}, 0

local function begin_fields(progress, held, names_at, first, last, fields, bytes)
  progress_key, hot, names, first_named, last_named = progress, held, names_at, first, last
  state_fields, state_bytes, places, logged = fields, bytes, nil, 0
end

local function name_of(place)
  return place > last_named and more_names[place] or args[names + place]
end

-- The place of a field that the caller may not have named: then it is read now.
local function place_of(name)
  if not places then
    places, more_names, last_place = {}, {}, last_named
    for place = first_named, last_named do places[args[names + place]] = place end
  end
  local place = places[name]
  if not place then
    last_place = last_place + 1
    place = last_place
    places[name], more_names[place] = place, name
    hot[place] = call('HGET', progress_key, name)
  end
  return place
end

-- Puts a value into a field (false removes it) and keeps what was there, so that a void update can be taken back whole.
local function put(place, value)
  local old = hot[place]
  logged = logged + 1
  log[logged], before[logged] = place, old
  if old then
    state_bytes = state_bytes - #old
  elseif value then
    state_fields, state_bytes = state_fields + 1, state_bytes + #name_of(place)
  end
  if value then
    state_bytes = state_bytes + #value
  elseif old then
    state_fields, state_bytes = state_fields - 1, state_bytes - #name_of(place)
  end
  hot[place] = value
end

local function is_there(name)
  return hot[place_of(name)]
end

-- A leaf that is there is of the right kind, and so is all on its way. For one that is not: whether something else has its
-- name, or the name of its group. The group is made if it has to be.
local function is_leaf_refused(field)
  local kind, path = sub(field, 1, 1), sub(field, 3)
  if is_there((kind == 'v' and 'c:' or 'v:') .. path) then return true end
  local name = match(path, '^([^.]*)%.')
  if not name then return is_there('s:' .. path) or is_there('g:' .. path) end
  local group = place_of('g:' .. name)
  if hot[group] then return false end
  if is_there('v:' .. name) or is_there('c:' .. name) or is_there('s:' .. name) then return true end
  put(group, '')
  return false
end

-- Likewise for removing a leaf that is not there as either kind: only a name that is no leaf's is refused.
local function is_unset_refused(field)
  local path = sub(field, 3)
  local name = match(path, '^([^.]*)%.')
  if not name then return is_there('s:' .. path) or is_there('g:' .. path) end
  return not is_there('g:' .. name) and (is_there('v:' .. name) or is_there('c:' .. name) or is_there('s:' .. name))
end

-- The mark of a set, "s:<name>", is there or can be made.
local function is_set_refused(mark)
  if hot[mark] then return false end
  local name = sub(name_of(mark), 3)
  if is_there('v:' .. name) or is_there('c:' .. name) or is_there('g:' .. name) then return true end
  put(mark, '')
  return false
end

-- Applies the operation that begins at args[at]; true when it cannot be done.
local function is_refused(at)
  local verb, place, argument = args[at], args[at + 1], args[at + 2]
  local old = hot[place]
  if verb >= ADD then
    -- `argument` is the place of the set's mark; ADD_UNLESS is followed by the place of the member of the other set.
    if verb == ADD_UNLESS and hot[args[at + 3]] then return false end
    -- A member is never there without its set.
    if verb == REMOVE then
      if old then put(place, false) else return is_set_refused(argument) end
    elseif not old then
      if is_set_refused(argument) then return true end
      put(place, '')
    end
    return false
  end
  if verb == UNSET then
    -- `place` is the leaf as a value, `argument` the same as a counter.
    if old then
      put(place, false)
    elseif hot[argument] then
      put(argument, false)
    else
      return is_unset_refused(args[names + place])
    end
    return false
  end
  if not old and is_leaf_refused(args[names + place]) then return true end
  if verb == SET then
    put(place, argument)
    return false
  end
  local number = tonumber(old or 0)
  if verb == INCR then
    number = number + argument
  elseif argument > number then
    number = argument
  end
  if number > counter_max or number < -counter_max then return true end
  put(place, format('%d', number))
  return false
end

-- All operations from args[at] to before args[stop], or none: returns an error code and message when the update is void.
-- What most operations are, a value or a counter that is there and a member that is, is done right here: a call costs as
-- much as the rest of it.
local function apply_ops(at, stop)
  local logged_before, fields_before, bytes_before = logged, state_fields, state_bytes
  local code, message
  local number = 0
  while at < stop do
    number = number + 1
    local verb, place = args[at], args[at + 1]
    local old = hot[place]
    if old and (verb == SET or verb == INCR) then
      local value = args[at + 2]
      local is_kept = true
      if verb == INCR then
        value = old + value
        is_kept = value <= counter_max and value >= -counter_max
        value = format('%d', value)
      end
      if not is_kept then
        code, message = INVALID_EFFECT, 'operation ' .. number .. ': a counter would leave its bounds'
        break
      end
      logged = logged + 1
      log[logged], before[logged] = place, old
      state_bytes = state_bytes + #value - #old
      hot[place] = value
    elseif not (old and verb == ADD) and is_refused(at) then
      code, message = INVALID_EFFECT, 'operation ' .. number .. ': a path is of another kind, or a counter would leave its bounds'
      break
    end
    at = at + WIDTHS[verb]
  end
  -- A state that is past a bound, because the bound was lowered, may still shrink.
  if not code and state_fields > state_fields_max and state_fields > fields_before then
    code, message = TOO_LARGE, 'the state would have more than ' .. state_fields_max .. ' fields'
  elseif not code and state_bytes > state_bytes_max and state_bytes > bytes_before then
    code, message = TOO_LARGE, 'the state would be larger than ' .. state_bytes_max .. ' bytes'
  end
  if not code then return 0 end
  for i = logged, logged_before + 1, -1 do hot[log[i]] = before[i] end
  logged, state_fields, state_bytes = logged_before, fields_before, bytes_before
  return code, message
end

-- Adds what has changed to the arguments of a HSET; returns how many there are then, and the fields that must go.
local written = {}
local group_number = 0
local function add_changes(writes, n)
  local removed = nil
  group_number = group_number + 1
  for i = 1, logged do
    local place = log[i]
    if written[place] ~= group_number then
      written[place] = group_number
      local name, value = place > last_named and more_names[place] or args[names + place], hot[place]
      if value then
        writes[n + 1], writes[n + 2] = name, value
        n = n + 2
      else
        removed = removed or {}
        removed[#removed + 1] = name
      end
    end
  end
  return n, removed
end
