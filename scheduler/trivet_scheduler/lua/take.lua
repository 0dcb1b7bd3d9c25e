-- Take permits for as many of a chunk's calls as fit now, in order; stop at the first that does not fit.
--
-- KEYS[1]  gate of the (route, model): a hash
--            state         "open" or "probing"; missing = healthy
--            retry_at      open: when one call may try again; probing: when the try counts as lost
--            probe         probing: the permit of the try; no other call's outcome decides it
--            closed_until  limited by the provider until then
--            r i o at      level of requests, input tokens and output tokens, and when they were reckoned
-- KEYS[2]  gate of the whole route: the same fields, without buckets
-- KEYS[3]  calls in flight: a sorted set of permit ids by the time at which they count as lost
-- ARGV     1 requests/s  2 input tokens/s  3 output tokens/s (0 = no limit)  4 seconds of burst
--          5 most calls in flight  6 seconds a permit lives  7 seconds a try may take
--          8.. permit id, input tokens, output tokens; repeated
-- Returns  { granted, milliseconds until the next may fit, reason }
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1e6
local wanted = (#ARGV - 7) / 3

local function refuse(seconds, reason)
    return { 0, math.ceil(math.max(seconds, 0.001) * 1000), reason }
end

for level = 1, 2 do
    local gate = redis.call('HMGET', KEYS[level], 'state', 'retry_at', 'closed_until')
    local closed = tonumber(gate[3] or '0')
    if closed > now then
        return refuse(closed - now, 'limited')
    end
    if gate[1] then
        local retry_at = tonumber(gate[2] or '0')
        if retry_at > now then
            return refuse(retry_at - now, gate[1])
        end
        wanted = 1
    end
end

-- calls whose worker never gave the permit back
redis.call('ZREMRANGEBYSCORE', KEYS[3], '-inf', now)
local free = tonumber(ARGV[5]) - redis.call('ZCARD', KEYS[3])
if free <= 0 then
    return refuse(0.05, 'concurrency')
end

local burst = tonumber(ARGV[4])
local rate = { tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]) }
local name = { 'r', 'i', 'o' }
local why = { 'requests', 'input_tokens', 'output_tokens' }
local full, have = {}, {}
local stored = redis.call('HMGET', KEYS[1], 'r', 'i', 'o', 'at')
local passed = math.max(0, now - tonumber(stored[4] or now))
for k = 1, 3 do
    full[k] = rate[k] * burst
    if k == 1 then full[k] = math.max(full[k], 1) end
    have[k] = math.min(full[k], tonumber(stored[k] or full[k]) + passed * rate[k])
end

local granted, wait, reason = 0, 0, ''
for n = 1, math.min(wanted, free) do
    local base = 8 + (n - 1) * 3
    local need = { 1, tonumber(ARGV[base + 1]), tonumber(ARGV[base + 2]) }
    local fits = true
    for k = 1, 3 do
        -- a call larger than the whole bucket goes when the bucket is full, and leaves a debt
        local missing = math.min(need[k], full[k]) - have[k]
        if rate[k] > 0 and missing > 1e-6 then
            fits = false
            if missing / rate[k] > wait then
                wait, reason = missing / rate[k], why[k]
            end
        end
    end
    if not fits then break end
    for k = 1, 3 do
        -- what nothing limits runs up no debt, or a limit set later would begin with it
        if rate[k] > 0 then have[k] = have[k] - need[k] end
    end
    redis.call('ZADD', KEYS[3], now + tonumber(ARGV[6]), ARGV[base])
    granted = granted + 1
end

local function text(value) return string.format('%.6f', value) end
redis.call('HSET', KEYS[1], 'r', text(have[1]), 'i', text(have[2]), 'o', text(have[3]), 'at', text(now))
if granted > 0 then
    redis.call('PEXPIRE', KEYS[3], math.ceil(tonumber(ARGV[6]) * 1000) + 60000)
    for level = 1, 2 do
        if redis.call('HGET', KEYS[level], 'state') then
            redis.call('HSET', KEYS[level], 'state', 'probing', 'retry_at', text(now + tonumber(ARGV[7])),
                'probe', ARGV[8])
        end
    end
end
if granted == 0 and reason == '' then
    wait, reason = 0.05, 'concurrency'
end
return { granted, math.ceil(wait * 1000), reason }
