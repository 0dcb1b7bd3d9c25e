-- An answer leaves: what is counted of it goes, too. Returns whether it was counted.
local function leave(counters, expiries, sizes, digest)
  local size = redis.call('HGET', sizes, digest)
  if size then
    redis.call('HINCRBY', counters, 'bytes', -tonumber(string.match(size, '^%d+')))
    redis.call('HDEL', sizes, digest)
  end
  redis.call('ZREM', expiries, digest)
  return size ~= false
end
