-- Give permits back and tell the gates what came of the calls, for a group of calls of one (route, model).
--
-- KEYS     as in take.lua, and further fields of a gate: failures (in a row), opened (times in a row), limited (times
--          in a row), cause, since, latency (seconds, moving average of good calls)
-- ARGV     1 requests/s  2 input tokens/s  3 output tokens/s  4 seconds of burst
--          5 failures that open  6 seconds to the next try  7 longest pause of an unusable route
--          8 seconds a limited route rests when the provider did not say
--          9.. per call: permit id, input tokens given back, output tokens given back, verdict, seconds, cause; repeated
--          verdict: good | failed | limited | unusable_model | unusable_route | neutral | unused (no call was made)
--          seconds: latency of a good call, the pause asked for of a limited one (0 = not said)
-- Returns  a flat list of changes: level (1 model, 2 route), state, cause, seconds until the next try; repeated
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1e6
local function text(value) return string.format('%.6f', value) end

local changes = {}
local function change(level, state, cause, seconds)
    for _, value in ipairs({ level, state, cause, text(seconds) }) do changes[#changes + 1] = tostring(value) end
end

local function open(level, cause, longest)
    local gate = redis.call('HMGET', KEYS[level], 'state', 'opened')
    if gate[1] == 'open' then return end -- a late word of calls that were under way
    local opened = tonumber(gate[2] or '0') + 1
    local pause = math.min(tonumber(ARGV[6]) * 2 ^ math.min(opened - 1, 20), longest)
    redis.call('HSET', KEYS[level], 'state', 'open', 'opened', opened, 'retry_at', text(now + pause),
        'cause', cause, 'since', gate[1] and redis.call('HGET', KEYS[level], 'since') or text(now))
    if not gate[1] then change(level, 'open', cause, pause) end
end

-- whether this call is the one try that a gate waits for; late words of earlier calls say how it was, not how it is
local function is_probe(level, permit)
    local gate = redis.call('HMGET', KEYS[level], 'state', 'probe')
    return gate[1] == 'probing' and gate[2] == permit
end

local function close(level)
    redis.call('HDEL', KEYS[level], 'state', 'opened', 'retry_at', 'cause', 'probe')
    redis.call('HSET', KEYS[level], 'since', text(now), 'failures', 0)
    change(level, 'healthy', 'a call succeeded', 0)
end

local back = { 0, 0, 0 }
for base = 9, #ARGV, 6 do
    local permit, verdict, seconds, cause = ARGV[base], ARGV[base + 3], tonumber(ARGV[base + 4]), ARGV[base + 5]
    if redis.call('ZREM', KEYS[3], permit) == 1 then -- given back twice it flows back once
        back[2] = back[2] + tonumber(ARGV[base + 1])
        back[3] = back[3] + tonumber(ARGV[base + 2])
        if verdict == 'unused' then back[1] = back[1] + 1 end
    end
    if verdict == 'unused' or verdict == 'neutral' or verdict == 'limited' then
        -- a try that was not made, or said nothing of the route's health: let another be made
        for level = 1, 2 do
            if is_probe(level, permit) then redis.call('HSET', KEYS[level], 'retry_at', text(now)) end
        end
    end
    if verdict == 'good' then
        local before = tonumber(redis.call('HGET', KEYS[1], 'latency') or seconds)
        redis.call('HSET', KEYS[1], 'failures', 0, 'limited', 0, 'latency', text(before * 0.9 + seconds * 0.1))
        for level = 1, 2 do
            if is_probe(level, permit) then close(level) end
        end
    elseif verdict == 'failed' then
        local failures = redis.call('HINCRBY', KEYS[1], 'failures', 1)
        local state = redis.call('HGET', KEYS[1], 'state')
        if is_probe(1, permit) or (not state and failures >= tonumber(ARGV[5])) then
            open(1, cause, tonumber(ARGV[6]))
        end
        if is_probe(2, permit) then open(2, cause, tonumber(ARGV[7])) end
    elseif verdict == 'limited' then
        local closed = tonumber(redis.call('HGET', KEYS[1], 'closed_until') or '0')
        local pause = seconds
        if pause <= 0 then
            -- one wave of refusals counts once, however many calls were under way
            local limited = tonumber(redis.call('HGET', KEYS[1], 'limited') or '0')
            if closed <= now then
                limited = redis.call('HINCRBY', KEYS[1], 'limited', 1)
            end
            pause = math.min(tonumber(ARGV[8]) * 2 ^ math.max(0, math.min(limited - 1, 5)), 60)
        end
        if now + pause > closed then
            redis.call('HSET', KEYS[1], 'closed_until', text(now + pause), 'cause', cause)
            if closed <= now then change(1, 'limited', cause, pause) end
        end
    elseif verdict == 'unusable_model' then
        open(1, cause, tonumber(ARGV[7]))
    elseif verdict == 'unusable_route' then
        open(2, cause, tonumber(ARGV[7]))
    end
end

local stored = redis.call('HMGET', KEYS[1], 'r', 'i', 'o', 'at')
if stored[4] then
    local name = { 'r', 'i', 'o' }
    local passed = math.max(0, now - tonumber(stored[4]))
    for k = 1, 3 do
        local rate = tonumber(ARGV[k])
        local full = rate * tonumber(ARGV[4])
        if k == 1 then full = math.max(full, 1) end
        local level = math.min(full, tonumber(stored[k]) + passed * rate + back[k])
        redis.call('HSET', KEYS[1], name[k], text(level))
    end
    redis.call('HSET', KEYS[1], 'at', text(now))
end
return changes
