-- Take one request from the bucket of a gateway key, which holds a minute's requests and fills evenly.
--
-- KEYS[1]  the bucket: the time at which it will be full again, in seconds; missing = full
-- ARGV     1 requests a minute
-- Returns  seconds to wait, as text; 0 = the request may go, and was counted
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1e6
local each = 60 / tonumber(ARGV[1])
local full_at = math.max(now, tonumber(redis.call('GET', KEYS[1]) or '0')) + each
local wait = full_at - now - 60
if wait > 1e-6 then return string.format('%.6f', math.min(wait, 60)) end
redis.call('SET', KEYS[1], string.format('%.6f', full_at), 'PX', math.ceil((full_at - now) * 1000))
return '0'
