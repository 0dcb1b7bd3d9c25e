-- Claim the right to make the next probe of a (route, model): one at a time for all schedulers, and not before it is due.
--
-- ARGV     1 token  2 seconds to the next  3 seconds until this one counts as lost  4 '1' = now, whether it is due or not
--          5 seconds without a call after which a route is probed that nothing is known against; 0 = not for that
-- Returns  1 claimed, 0 not
local force = ARGV[4] == '1'
local interval = tonumber(ARGV[2])
local idle = tonumber(ARGV[5])
local needed = false
if redis.call('EXISTS', KEYS[5]) == 0 then return 0 end
if not force and number(redis.call('HGET', KEYS[3], 'closed_until'), 0) > now then return 0 end
if idle > 0 then
    local called = redis.call('HMGET', KEYS[2], 'called_at', 'idle_at')
    if not called[1] then
        redis.call('HSET', KEYS[2], 'called_at', text(now)) -- the interval begins when the route is first seen
        return 0
    end
    if now - tonumber(called[1]) < idle or number(called[2], 0) > now then return 0 end
    for level = 1, 2 do -- an unhealthy route is probed for that, at its own pace
        local breaker = redis.call('HMGET', KEYS[level], 'state', 'asked', 'probe', 'until')
        if breaker[1] or breaker[2] or (breaker[3] and number(breaker[4], 0) > now) then return 0 end
    end
    redis.call('HSET', KEYS[2], 'probe', ARGV[1], 'until', text(now + tonumber(ARGV[3])), 'idle_at', text(now + interval))
    return 1
end
for level = 1, 2 do
    local breaker = redis.call('HMGET', KEYS[level], 'state', 'retry_at', 'probe', 'until', 'evidence', 'asked')
    if breaker[3] and number(breaker[4], 0) > now then return 0 end
    if breaker[1] == 'open' or breaker[1] == 'probing' or breaker[6] then
        if not force and number(breaker[2], 0) > now then return 0 end
        needed = true
    elseif breaker[1] == 'recovering' and number(breaker[5], 0) + interval < now then
        needed = true -- unused at present, it would never recover
    end
end
if not (needed or force) then return 0 end
for level = 1, 2 do
    local breaker = redis.call('HMGET', KEYS[level], 'state', 'asked')
    if breaker[1] or breaker[2] then
        redis.call('HSET', KEYS[level], 'probe', ARGV[1], 'until', text(now + tonumber(ARGV[3])),
            'retry_at', text(now + interval), 'evidence', text(now))
    end
end
return 1
