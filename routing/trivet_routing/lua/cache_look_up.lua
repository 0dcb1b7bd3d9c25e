-- Returns for each job: the answer to its request, the leader whose answer it may wait for, that it is to call, or that a
-- foreign value of another type than ours is in the way.
--
-- KEYS: counters; then for each job the keys of its answer and of its lead
-- ARGV: urgency of the class, 0 the most; then for each job its id, a leader that is known to be over, or '', and the ms
-- that its lead lives
-- A lead is the urgency and the id of the job that calls, or 'x' where an answer cannot be kept and everybody calls.

local urgency = ARGV[1]
local found = {}

-- one key of another type than ours fails for itself, not for all
local function get(key)
  local value = redis.pcall('GET', key)
  if type(value) == 'table' then return nil, true end
  return value, false
end
local hits, misses, coalesced = 0, 0, 0

for n = 1, (#ARGV - 1) / 3 do
  local job, over, life = unpack(ARGV, 3 * n - 1, 3 * n + 1)
  local answer_key, lead_key = KEYS[2 * n], KEYS[2 * n + 1]
  local answer, foreign = get(answer_key)
  if foreign then
    found[#found + 1] = {'foreign', ''}
  elseif answer then
    hits = hits + 1
    found[#found + 1] = {'hit', answer}
  else
    local lead = get(lead_key)
    local leader = lead and string.sub(lead, 2)
    if lead == 'x' then
      misses = misses + 1
      found[#found + 1] = {'call', ''}
    -- no job waits for a leader that has more time than itself
    elseif lead and leader ~= job and leader ~= over and string.sub(lead, 1, 1) <= urgency then
      coalesced = coalesced + 1
      found[#found + 1] = {'coalesce', leader}
    else
      if leader ~= job then misses = misses + 1 end
      redis.call('SET', lead_key, urgency .. job, 'PX', life)
      found[#found + 1] = {'call', ''}
    end
  end
end

for name, count in pairs({hits = hits, misses = misses, coalesced = coalesced}) do
  if count > 0 and type(redis.pcall('HINCRBY', KEYS[1], name, count)) == 'table' then
    redis.call('DEL', KEYS[1])
  end
end
return found
