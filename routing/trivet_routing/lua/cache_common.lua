-- Tables of another type than ours are foreign: they are begun anew.
local function own_tables(counters, expiries, sizes)
  for key, kind in pairs({[counters] = 'hash', [expiries] = 'zset', [sizes] = 'hash'}) do
    local found = redis.call('TYPE', key).ok
    if found ~= kind and found ~= 'none' then redis.call('DEL', key) end
  end
end

-- Remove an answer and its counts. Returns whether it was counted.
local function leave(counters, expiries, sizes, digest)
  local size = redis.call('HGET', sizes, digest)
  if size then
    redis.call('HINCRBY', counters, 'bytes', -(tonumber(string.match(size, '^%d+')) or 0))
    redis.call('HDEL', sizes, digest)
  end
  redis.call('ZREM', expiries, digest)
  return size ~= false
end
