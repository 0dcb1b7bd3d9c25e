-- Keep answers and release leads; the size of all answers stays within the bound.
--
-- KEYS: counters; expiry of each answer (sorted set, ms); size and model of each (hash); then for each entry the keys of its
-- answer and of its lead
-- ARGV: most bytes; what the keys of answers begin with; then for each entry: digest, job, ms that it lives, model, answer or '',
-- bytes, 1 where no answer to this request can be kept

local counters, expiries, sizes = KEYS[1], KEYS[2], KEYS[3]
own_tables(counters, expiries, sizes)
local most, prefix = tonumber(ARGV[1]), ARGV[2]
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)

for _, digest in ipairs(redis.call('ZRANGEBYSCORE', expiries, '-inf', now, 'LIMIT', 0, 500)) do leave(counters, expiries, sizes, digest) end

for at = 3, #ARGV, 7 do
  local digest, job, life, model, answer, bytes, never = unpack(ARGV, at, at + 6)
  local entry = (at - 3) / 7
  local answer_key, lead_key = KEYS[4 + 2 * entry], KEYS[5 + 2 * entry]
  if never == '1' then
    redis.call('SET', lead_key, 'x', 'PX', life)
  else
    local lead = redis.pcall('GET', lead_key)
    if type(lead) == 'table' then
      redis.call('DEL', lead_key)
    elseif lead and (string.sub(lead, 2) == job or (lead == 'x' and answer ~= '')) then redis.call('DEL', lead_key) end
  end
  if answer ~= '' then
    leave(counters, expiries, sizes, digest)
    redis.call('SET', answer_key, answer, 'PX', life)
    redis.call('ZADD', expiries, now + life, digest)
    redis.call('HSET', sizes, digest, bytes .. ' ' .. model)
    redis.call('HINCRBY', counters, 'bytes', bytes)
    redis.call('HINCRBY', counters, 'stored', 1)
  end
end

while tonumber(redis.call('HGET', counters, 'bytes') or 0) > most do
  local first = redis.call('ZRANGE', expiries, 0, 0)[1]
  if not first then
    redis.call('HSET', counters, 'bytes', 0)
    break
  end
  redis.call('DEL', prefix .. first)
  leave(counters, expiries, sizes, first)
  redis.call('HINCRBY', counters, 'evicted', 1)
end
