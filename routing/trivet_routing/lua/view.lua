-- The state of a (route, model) now.
--
-- ARGV     1 requests  2 input tokens  3 output tokens a minute  4 seconds of burst  5 most calls in flight  6 window s
-- Returns  { epoch, state, cause, wait, in flight, places, levels (3), rates (3), calls, failed, share, since,
--            fields and values of the breaker's latencies as a flat list, why a probe was asked for, seconds since the newest
--            answered call was begun, generation of both breakers }; numbers as text, '' = unknown
local state, cause, wait, since, share = 'healthy', '', 0, '', 1
local closed = redis.call('HMGET', KEYS[3], 'closed_until', 'cause')
if number(closed[1], 0) > now then
    state, cause, wait = 'limited', closed[2] or '', number(closed[1], 0) - now
end
for level = 1, 2 do
    local breaker = redis.call('HMGET', KEYS[level], 'state', 'cause', 'since', 'retry_at', 'share')
    if level == 1 or breaker[1] then since = breaker[3] or since end
    if breaker[1] == 'open' or breaker[1] == 'probing' then
        state, cause = breaker[1], breaker[2] or ''
        wait = math.max(wait, number(breaker[4], 0) - now, 0.001)
    elseif breaker[1] == 'recovering' then
        share = math.min(share, number(breaker[5], 1))
        if state == 'healthy' then state, cause = 'recovering', breaker[2] or '' end
    end
end
local limiter = read_limiter({ tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]) }, tonumber(ARGV[4]))
local minute = read_minute()
local levels, rates, full = {}, {}, 0
for k = 1, 3 do
    if limiter.rate[k] > 0 then
        levels[k] = text(math.min(limiter.have[k], limiter.limit[k] - minute.used[k]))
        rates[k] = text(limiter.rate[k])
        full = math.max(full, (wait_for(limiter, minute, k, 1)))
    else
        levels[k], rates[k] = '', ''
    end
end
if wait == 0 then wait = full end
local slot, calls, failed = math.floor(now / (tonumber(ARGV[6]) / 6)), 0, 0
local latencies = {}
local breaker = redis.call('HGETALL', KEYS[1])
for n = 1, #breaker, 2 do
    if string.match(breaker[n], '^w%d$') then
        local at, of, bad = string.match(breaker[n + 1], '(%d+):(%d+):(%d+)')
        if tonumber(at) > slot - 6 and tonumber(at) <= slot then calls, failed = calls + tonumber(of), failed + tonumber(bad) end
    elseif string.match(breaker[n], ':') then
        latencies[#latencies + 1] = breaker[n]
        latencies[#latencies + 1] = breaker[n + 1]
    end
end
-- without those whose holder died: only taking removes them, and a dispatcher that counted them would send no job
local in_flight = redis.call('ZCOUNT', KEYS[4], '(' .. text(now), '+inf')
local of_model = redis.call('ZCOUNT', KEYS[7], '(' .. text(now), '+inf')
local all, of_mine = places(tonumber(ARGV[5]))
if of_mine - of_model < all - in_flight then in_flight, all = of_model, of_mine end
local mine = redis.call('HMGET', KEYS[1], 'asked', 'proven_at', 'gen')
local proven = mine[2] and text(math.max(0, now - tonumber(mine[2]))) or ''
local generation = string.format('%s.%s', mine[3] or '0', redis.call('HGET', KEYS[2], 'gen') or '0')
return { redis.call('EXISTS', KEYS[5]), state, cause, text(wait), in_flight, all, levels, rates,
    calls, failed, text(share), since, text(now), latencies, mine[1] or '', proven, generation }
