-- Take permits for as many of a chunk's calls as fit now, in order; stop at the first that does not fit.
--
-- ARGV     1 requests  2 input tokens  3 output tokens a minute (0 = no limit)  4 seconds of burst
--          5 most calls in flight  6 seconds a permit lives  7 token of the probe that this is, or nothing
--          8 latency class  9.. permit id, input tokens, output tokens; repeated
-- Returns  { granted, milliseconds until the next may fit, reason, generation of both breakers and the second of the limiter,
--            seconds within which 95 % of the class's last calls ended ('' = not known) }
local SAVING_S = 5 -- longer than a job that got no permit takes to come back
local wanted = (#ARGV - 8) / 3
local token = ARGV[7]

local function refuse(seconds, reason)
    return { 0, math.ceil(math.max(seconds, 0.001) * 1000), reason, '', '' }
end

if redis.call('EXISTS', KEYS[5]) == 0 then
    return refuse(0.5, 'forgotten')
end
local generation = {}
for level = 1, 2 do
    local breaker = redis.call('HMGET', KEYS[level], 'state', 'retry_at', 'probe', 'gen')
    generation[level] = breaker[4] or '0'
    if breaker[1] == 'open' or breaker[1] == 'probing' then
        if token == '' or breaker[3] ~= token then
            return refuse(math.max(number(breaker[2], 0) - now, 0.5), breaker[1])
        end
        wanted = 1
    end
end
local closed = number(redis.call('HGET', KEYS[3], 'closed_until'), 0)
if closed > now then
    return refuse(closed - now, 'limited')
end

-- calls whose worker never released the permit
redis.call('ZREMRANGEBYSCORE', KEYS[4], '-inf', now)
redis.call('ZREMRANGEBYSCORE', KEYS[7], '-inf', now)
local all, mine = places(tonumber(ARGV[5]))
local free = math.min(all - redis.call('ZCARD', KEYS[4]), mine - redis.call('ZCARD', KEYS[7]))
if free <= 0 then
    return refuse(0.05, 'concurrency')
end

local why = { 'requests', 'input_tokens', 'output_tokens' }
local limiter = read_limiter({ tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]) }, tonumber(ARGV[4]))
local minute = read_minute()
local granted, wait, reason = 0, 0, ''
for n = 1, math.min(wanted, free) do
    local base = 9 + (n - 1) * 3
    local need = { 1, tonumber(ARGV[base + 1]), tonumber(ARGV[base + 2]) }
    local fits = true
    for k = 1, 3 do
        local seconds, crowded = wait_for(limiter, minute, k, need[k])
        if crowded and need[k] > limiter.full[k] and need[k] <= limiter.limit[k] / 2 then
            redis.call('HSET', KEYS[3], 'saving', text(now + SAVING_S))
        end
        if seconds > 0 then
            fits = false
            if seconds > wait then wait, reason = seconds, why[k] end
        end
    end
    if not fits then break end
    for k = 1, 3 do
        -- what nothing limits runs up no debt, or a limit set later would begin with it
        if limiter.rate[k] > 0 then limiter.have[k] = limiter.have[k] - need[k] end
    end
    count(minute, minute.second, need)
    redis.call('ZADD', KEYS[4], now + tonumber(ARGV[6]), ARGV[base])
    redis.call('ZADD', KEYS[7], now + tonumber(ARGV[6]), ARGV[base])
    granted = granted + 1
end
write_limiter(limiter)
if granted > 0 then
    local whole = redis.call('HMGET', KEYS[2], 'probe', 'state')
    local idle = token ~= '' and whole[1] == token and not whole[2]
    -- a probe for being idle counts once it has said something of the route
    if not idle then redis.call('HSET', KEYS[2], 'called_at', text(now)) end
end
if granted > 0 and token ~= '' then
    for level = 1, 2 do
        -- from now on it goes by its permit, so a second message with the token makes no second call
        if redis.call('HGET', KEYS[level], 'probe') == token then
            redis.call('HSET', KEYS[level], 'probe', ARGV[9], 'until', text(now + tonumber(ARGV[6])))
        end
    end
elseif granted == 0 and reason == '' then
    wait, reason = 0.05, 'concurrency'
end
return { granted, math.ceil(wait * 1000), reason,
    string.format('%s.%s.%d', generation[1], generation[2], minute.second),
    redis.call('HGET', KEYS[1], 'p95:' .. ARGV[8]) or '' }
