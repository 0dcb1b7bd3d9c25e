-- Release permits and report to breakers and limiter a group of calls of one (route, model, class).
--
-- KEYS     as in common.lua; KEYS[8] samples: a list of "when:seconds" of the class's calls, less than 0 of those that ran
--          out of time
-- ARGV     1 requests  2 input tokens  3 output tokens a minute  4 seconds of burst  5 most calls in flight
--          6 failures in a row that open  7 seconds to the next probe  8 longest pause of an unusable route
--          9 seconds a limited route rests at first when the provider did not say  10 at most
--          11 failed share that opens  12 seconds of its window  13 calls it needs
--          14 good probes that begin the recovery  15 seconds of a step  16 good calls of a step
--          17 latency class  18 19 20 the provider's own limits a minute  21 22 23 what it said is left ('' = not said)
--          24 number of shares, then those; origin of the worker whose calls these are
--          then per call: permit id, input tokens given back, output tokens given back, signal, seconds, sample,
--            whether the provider stated its limits, generation, job, cause; repeated
--          signal: good | failed | local_failed | short | limited | unusable_model | unusable_route | local_refused |
--            unreachable | contradicted | doubted | check | neutral | unused
--          seconds: the pause asked for of a limited call (0 = not said), of a good one the seconds since it began
--          sample: seconds the call took (0 = says nothing), less than 0 if it ran out of time
-- Returns  a flat list of changes: level (1 model, 2 route, 3 limits), state, cause, seconds until the next try, share
local PER_CALL = 10
local MOST_BLAMED = 32
local CONTRADICTIONS = 5 -- jobs in a row that were refused here and served elsewhere: a probe is to judge
local SAMPLES, SAMPLE_AGE = 100, 300
local MOST_WITNESSES = 16

local most, interval = tonumber(ARGV[5]), tonumber(ARGV[7])
local shares = {}
for n = 1, tonumber(ARGV[24]) do shares[n] = tonumber(ARGV[24 + n]) end
local origin = ARGV[25 + #shares]
local first = 26 + #shares
local names = { KEYS[1], KEYS[2] }

local changes = {}
local function change(level, state, cause, seconds, share)
    for _, value in ipairs({ level, state, cause, text(seconds), share }) do changes[#changes + 1] = tostring(value) end
end

-- the calls of the window, the running sixth included
local width = tonumber(ARGV[12]) / 6
local slot = math.floor(now / width)
local calls, failed, new_calls, new_failed = 0, 0, 0, 0
for n = 0, 6 do
    local at, of, bad = string.match(redis.call('HGET', KEYS[1], 'w' .. n) or '', '(%d+):(%d+):(%d+)')
    if at and tonumber(at) > slot - 6 and tonumber(at) <= slot then -- later ones are of another width of window
        calls, failed = calls + tonumber(of), failed + tonumber(bad)
        if tonumber(at) == slot then new_calls, new_failed = tonumber(of), tonumber(bad) end
    end
end
local function forget_window()
    redis.call('HDEL', KEYS[1], 'w0', 'w1', 'w2', 'w3', 'w4', 'w5', 'w6')
    calls, failed, new_calls, new_failed = 0, 0, 0, 0
end
local function counted(bad)
    calls, new_calls = calls + 1, new_calls + 1
    if bad then failed, new_failed = failed + 1, new_failed + 1 end
end

local function become(level, state, cause)
    redis.call('HINCRBY', KEYS[level], 'gen', 1)
    redis.call('HDEL', KEYS[level], 'probe', 'until', 'goods', 'share', 'step', 'step_at', 'step_goods', 'ramp',
        'contradicted', 'short', 'doubts', 'blamed', 'asked')
    redis.call('HSET', KEYS[level], 'failures', 0, 'since', text(now), 'cause', cause)
    if state == 'healthy' then
        redis.call('HDEL', KEYS[level], 'state', 'retry_at', 'opened')
        redis.call('SREM', KEYS[6], names[level])
    else
        redis.call('HSET', KEYS[level], 'state', state)
        redis.call('SADD', KEYS[6], names[level])
    end
    if level == 1 then forget_window() end
    if state == 'recovering' then -- how slow it was before it broke says nothing of how it is now
        redis.call('HSET', KEYS[level], 'anew', text(now))
        for _, field in ipairs(redis.call('HKEYS', KEYS[level])) do
            if string.find(field, ':', 1, true) then redis.call('HDEL', KEYS[level], field) end
        end
    end
end

local function open(level, cause, longest)
    local before = redis.call('HMGET', KEYS[level], 'state', 'opened', 'since')
    local opened, pause = 0, interval
    if longest > interval then -- unusable: it takes a person, and may take long
        opened = number(before[2], 0) + 1
        pause = math.min(interval * 2 ^ math.min(opened - 1, 20), longest)
    end
    become(level, 'open', cause)
    redis.call('HSET', KEYS[level], 'opened', opened, 'retry_at', text(now + pause))
    if before[1] == 'open' then
        redis.call('HSET', KEYS[level], 'since', before[3] or text(now))
    else
        change(level, 'open', cause, pause, 0)
    end
end

local function step_up(level)
    local step = number(redis.call('HGET', KEYS[level], 'step'), 0) + 1
    if shares[step] >= 1 then
        become(level, 'healthy', 'it held its last share')
        change(level, 'healthy', 'it held its last share', 0, 1)
        return
    end
    local cause = 'it held its last share'
    if step == 1 then
        cause = 'good probes'
        become(level, 'recovering', cause)
        redis.call('HDEL', KEYS[level], 'opened', 'retry_at')
        redis.call('HSET', KEYS[level], 'ramp', 0)
    end
    redis.call('HSET', KEYS[level], 'share', shares[step], 'step', step, 'step_at', text(now), 'step_goods', 0)
    change(level, 'recovering', cause, 0, shares[step])
end

-- Whether a failure of this job counts: in the row of failures, and in the window. One request's peculiarity, tried again
-- and again, is one piece of evidence.
local function blame(job)
    local breaker = redis.call('HMGET', KEYS[1], 'row', 'blamed')
    local row, in_row, in_window, kept = breaker[1] or '0', true, true, {}
    for name, at, of in string.gmatch(breaker[2] or '', '([^;@]+)@([^;@]+)@([^;@]+)') do
        local recent = now - tonumber(at) < tonumber(ARGV[12])
        if name == job then
            in_row, in_window = of ~= row, not recent
        elseif (recent or of == row) and #kept < MOST_BLAMED - 1 then
            kept[#kept + 1] = string.format('%s@%s@%s', name, at, of)
        end
    end
    table.insert(kept, 1, string.format('%s@%s@%s', job, text(now), row))
    redis.call('HSET', KEYS[1], 'blamed', table.concat(kept, ';'))
    return in_row, in_window
end

-- Workers whose latest calls did not reach the provider (`unreached`), or whose key it refused (`refused`):
-- one worker alone closes nothing, until another one has the same failure and no call succeeded meanwhile.
local witnesses = {}
local recorded = redis.call('HMGET', KEYS[2], 'unreached', 'refused')
for n, kind in ipairs({ 'unreached', 'refused' }) do
    witnesses[kind] = {}
    for name, since, last in string.gmatch(recorded[n] or '', '([^;@]*)@([^;@]+)@([^;@]+)') do
        if now - tonumber(last) < tonumber(ARGV[12]) then
            table.insert(witnesses[kind], { name = name, since = tonumber(since), last = last })
        end
    end
end

local function write_witnesses(kind)
    local entries = {}
    for _, one in ipairs(witnesses[kind]) do
        if #entries < MOST_WITNESSES then
            entries[#entries + 1] = string.format('%s@%s@%s', one.name, text(one.since), one.last)
        end
    end
    if #entries == 0 then
        redis.call('HDEL', KEYS[2], kind)
    else
        redis.call('HSET', KEYS[2], kind, table.concat(entries, ';'))
    end
end

-- Record this worker's failure, and return whether another worker has the same.
local function confirmed(kind)
    local others, mine = {}, { name = origin, since = now, last = text(now) }
    for _, one in ipairs(witnesses[kind]) do
        if one.name == origin then mine.since = one.since else others[#others + 1] = one end
    end
    witnesses[kind] = { mine, unpack(others) }
    write_witnesses(kind)
    return #others > 0
end

-- A call of this worker that began then was answered: workers that failed before it are at fault themselves.
local function refute(began)
    for kind, found in pairs(witnesses) do
        local left = {}
        for _, one in ipairs(found) do
            if one.name ~= origin and one.since > began then left[#left + 1] = one end
        end
        if #left < #found then
            witnesses[kind] = left
            write_witnesses(kind)
        end
    end
end

-- Ask for a probe of a breaker that works: what refused these calls may be the route, or something in the calls.
local function ask(cause)
    local breaker = redis.call('HMGET', KEYS[1], 'state', 'asked', 'retry_at')
    if breaker[1] == 'open' or breaker[1] == 'probing' or breaker[2] then return end
    redis.call('HSET', KEYS[1], 'asked', cause, 'retry_at', text(math.max(now, number(breaker[3], now))))
    redis.call('SADD', KEYS[6], names[1])
end

local function doubt(job, cause, at_once)
    local in_row = blame(job)
    local doubts = in_row and redis.call('HINCRBY', KEYS[1], 'doubts', 1) or 0
    if at_once or doubts >= tonumber(ARGV[6]) then ask(cause) end
end

-- an answered call ends every row of failures and withdraws the request for a probe
local function clear(level, is_probe)
    local breaker = redis.call('HMGET', KEYS[level], 'failures', 'contradicted', 'short', 'doubts', 'asked', 'state')
    if number(breaker[1], 0) + number(breaker[2], 0) + number(breaker[3], 0) + number(breaker[4], 0) > 0 then
        redis.call('HINCRBY', KEYS[level], 'row', 1)
        redis.call('HDEL', KEYS[level], 'failures', 'contradicted', 'short', 'doubts')
    end
    if breaker[5] then
        redis.call('HDEL', KEYS[level], 'asked')
        if is_probe then redis.call('HSET', KEYS[level], 'retry_at', text(now + interval / 5)) end
        if not breaker[6] then redis.call('SREM', KEYS[6], names[level]) end
    end
end

local function good(level, is_probe)
    local breaker = redis.call('HMGET', KEYS[level], 'state', 'goods', 'step_at', 'step_goods')
    clear(level, is_probe)
    if breaker[1] == 'recovering' then
        redis.call('HINCRBY', KEYS[level], 'ramp', 1)
        redis.call('HSET', KEYS[level], 'evidence', text(now))
        local goods = redis.call('HINCRBY', KEYS[level], 'step_goods', 1)
        if goods >= tonumber(ARGV[16]) and now - number(breaker[3], now) >= tonumber(ARGV[15]) then step_up(level) end
    elseif is_probe and breaker[1] then
        local goods = number(breaker[2], 0) + 1
        if goods >= tonumber(ARGV[14]) then
            step_up(level)
            return
        end
        if breaker[1] == 'open' then
            become(level, 'probing', 'a probe succeeded')
            change(level, 'probing', 'a probe succeeded', interval / 5, 0)
        end
        redis.call('HSET', KEYS[level], 'goods', goods, 'retry_at', text(now + interval / 5))
    end
end

local function bad(is_probe, cause, in_row)
    local state = redis.call('HGET', KEYS[1], 'state')
    if state == 'open' or state == 'probing' then
        if is_probe then open(1, cause, interval) end
        return
    end
    local failures = redis.call('HINCRBY', KEYS[1], 'failures', in_row and 1 or 0)
    local enough = tonumber(ARGV[6])
    if state == 'recovering' then enough = math.min(enough, 2) end
    if failures >= enough then
        open(1, cause, interval)
    elseif calls >= tonumber(ARGV[13]) and failed > tonumber(ARGV[11]) * calls then
        open(1, string.format('%d of %d calls failed, the last: %s', failed, calls, cause), interval)
    end
end

local limiter = read_limiter({ tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]) }, tonumber(ARGV[4]))
local minute = read_minute()
local in_flight = redis.call('ZCARD', KEYS[4])

-- additive increase: by one a round trip or a fiftieth of the whole, twice as fast up to the threshold
local function widen()
    local stored = redis.call('HMGET', KEYS[3], 'window', 'threshold', 'closed_until')
    local window = number(stored[1], 0)
    if window <= 0 or in_flight < window / 2 then return end
    if number(stored[3], 0) > now then return end -- begun before the refusal: it says nothing of what is borne now
    if window < number(stored[2], 0) then
        window = window + 1
    else
        window = window + math.max(1, most / 50) / window
    end
    if window >= most then
        redis.call('HDEL', KEYS[3], 'window', 'threshold')
    else
        redis.call('HSET', KEYS[3], 'window', text(window))
    end
end

local function limited(seconds, stated, cause)
    local stored = redis.call('HMGET', KEYS[3], 'closed_until', 'limited', 'noted_until')
    local closed, times = number(stored[1], 0), number(stored[2], 0)
    if closed <= now then -- one wave of refusals counts once, however many calls were under way
        times = times + 1
        redis.call('HSET', KEYS[3], 'limited', times)
        if stated == '0' then
            -- multiplicative decrease, then a quick climb back to half of what it was
            local threshold = math.max(1, in_flight / 2)
            redis.call('HSET', KEYS[3], 'threshold', text(threshold), 'window', text(math.max(1, threshold / 4)))
        end
        for k = 1, 3 do limiter.have[k] = math.min(limiter.have[k], 0) end
    end
    local pause = seconds
    if pause <= 0 then pause = math.min(tonumber(ARGV[9]) * 2 ^ math.max(0, math.min(times - 1, 10)), tonumber(ARGV[10])) end
    if now + pause > closed then -- the longer pause wins
        redis.call('HSET', KEYS[3], 'closed_until', text(now + pause), 'cause', cause)
        limiter.at = math.max(limiter.at, now + pause)
        if now + pause > number(stored[3], 0) + 1 then
            redis.call('HSET', KEYS[3], 'noted_until', text(now + pause))
            change(3, 'limited', cause, pause, 0)
        end
    end
end

local back, samples, goods = { 0, 0, 0 }, {}, 0
local proven = number(redis.call('HGET', KEYS[1], 'proven_at'), 0)
local called, answered = false, 0
for base = first, #ARGV, PER_CALL do
    local permit, signal, job, cause = ARGV[base], ARGV[base + 3], ARGV[base + 8], ARGV[base + 9]
    local generation = { string.match(ARGV[base + 7], '(%d+)%.(%d+)%.?(%d*)') }
    local held = redis.call('ZREM', KEYS[4], permit) == 1
    -- reported twice, because the answer was lost, it counts once
    if signal == 'local_failed' then
        signal = held and (confirmed('unreached') and 'failed' or 'unconfirmed') or 'neutral'
    elseif signal == 'local_refused' then
        -- a key that is good somewhere is not revoked
        local proven_at = math.max(answered, number(redis.call('HGET', KEYS[2], 'proven_at'), 0))
        local nowhere = now - proven_at >= tonumber(ARGV[12])
        signal = confirmed('refused') and nowhere and 'unusable_route' or 'unconfirmed'
    end
    if not held and (signal == 'good' or signal == 'failed' or signal == 'short') then signal = 'neutral' end
    if job == '' then job = permit end
    if held then
        local unused = { signal == 'unused' and 1 or 0, tonumber(ARGV[base + 1]), tonumber(ARGV[base + 2]) }
        for k = 1, 3 do back[k] = back[k] + unused[k] end
        count(minute, number(generation[3], 0), { -unused[1], -unused[2], -unused[3] })
    end
    redis.call('ZREM', KEYS[7], permit)
    if held and tonumber(ARGV[base + 5]) ~= 0 then samples[#samples + 1] = text(now) .. ':' .. ARGV[base + 5] end

    local mine, probe = {}, {}
    for level = 1, 2 do
        local breaker = redis.call('HMGET', KEYS[level], 'gen', 'probe')
        mine[level] = generation[level] == (breaker[1] or '0')
        probe[level] = breaker[2] == permit
        if probe[level] then
            redis.call('HDEL', KEYS[level], 'probe', 'until')
            if signal == 'unused' or signal == 'unconfirmed' then -- another worker may make it
                redis.call('HSET', KEYS[level], 'retry_at', text(now + interval / 5))
            end
        end
    end
    local idle = probe[2] and not redis.call('HGET', KEYS[2], 'state')
    local mute = signal == 'unused' or (idle and (signal == 'neutral' or signal == 'unconfirmed'))
    if held and not mute then called = true end
    if signal == 'good' then
        goods = goods + 1
        refute(now - tonumber(ARGV[base + 4]))
        if mine[1] then counted(false) end
        for level = 1, 2 do
            if mine[level] then good(level, probe[level]) end
        end
        if mine[1] then proven = math.max(proven, now - tonumber(ARGV[base + 4])) end
        if mine[2] then answered = math.max(answered, now - tonumber(ARGV[base + 4])) end
        widen()
    elseif signal == 'failed' then
        if mine[1] then
            local in_row, in_window = blame(job)
            if in_window then counted(true) end
            bad(probe[1], cause, in_row)
        end
        if probe[2] and redis.call('HGET', KEYS[2], 'state') == 'probing' then open(2, cause, interval) end
    elseif signal == 'short' then
        -- the job asked for more than its time allows; but a route that answers none of many is out of order
        if mine[1] and blame(job) and redis.call('HINCRBY', KEYS[1], 'short', 1) >= tonumber(ARGV[13]) then
            open(1, cause, interval)
        end
    elseif signal == 'limited' then
        limited(tonumber(ARGV[base + 4]), ARGV[base + 6], cause)
    elseif signal == 'unusable_model' then
        if mine[1] then open(1, cause, tonumber(ARGV[8])) end
    elseif signal == 'unusable_route' then
        if mine[2] then open(2, cause, tonumber(ARGV[8])) end
    elseif signal == 'unreachable' then
        if mine[1] then bad(probe[1], cause, false) end
        if mine[2] then open(2, cause, interval) end
    elseif signal == 'doubted' or signal == 'check' then
        if mine[1] or generation[1] == nil then doubt(job, cause, signal == 'check') end
    elseif signal == 'contradicted' then
        if redis.call('HINCRBY', KEYS[1], 'contradicted', 1) >= CONTRADICTIONS then ask(cause) end
    end
    -- an idle route gives no other evidence: probes follow, of other workers too, until it has answered or is open
    if idle and (signal == 'failed' or signal == 'unconfirmed') then ask(cause) end
end
if new_calls > 0 then
    redis.call('HSET', KEYS[1], 'w' .. (slot % 7), string.format('%d:%d:%d', slot, new_calls, new_failed))
end
if goods > 0 then redis.call('HSET', KEYS[1], 'proven_at', text(proven)) end
if called then redis.call('HSET', KEYS[2], 'called_at', text(now)) end
if answered > number(redis.call('HGET', KEYS[2], 'proven_at'), 0) then
    redis.call('HSET', KEYS[2], 'proven_at', text(answered))
end
if goods > 0 and number(redis.call('HGET', KEYS[3], 'closed_until'), 0) <= now then
    redis.call('HSET', KEYS[3], 'limited', 0)
end

for k = 1, 3 do
    if limiter.rate[k] > 0 then limiter.have[k] = math.min(limiter.full[k], limiter.have[k] + back[k]) end
    -- the provider counts what others of the account use too
    local limit, left = tonumber(ARGV[17 + k]), tonumber(ARGV[20 + k])
    if limit then redis.call('HSET', KEYS[3], ({ 'lr', 'li', 'lo' })[k], limit) end
    if left then limiter.have[k] = math.min(limiter.have[k], left) end
end
write_limiter(limiter)

if #samples > 0 then
    redis.call('LPUSH', KEYS[8], unpack(samples))
    redis.call('LTRIM', KEYS[8], 0, SAMPLES - 1)
    redis.call('EXPIRE', KEYS[8], 3600)
    local seconds, late = {}, 0
    local oldest = math.max(now - SAMPLE_AGE, number(redis.call('HGET', KEYS[1], 'anew'), 0))
    for _, sample in ipairs(redis.call('LRANGE', KEYS[8], 0, -1)) do
        local at, took = string.match(sample, '([^:]+):([^:]+)')
        if tonumber(at) >= oldest then
            seconds[#seconds + 1] = math.abs(tonumber(took))
            if tonumber(took) < 0 then late = late + 1 end
        end
    end
    table.sort(seconds)
    local class = ARGV[17]
    redis.call('HSET', KEYS[1], 'p50:' .. class, text(seconds[math.ceil(#seconds * 0.5)]),
        'p95:' .. class, text(seconds[math.ceil(#seconds * 0.95)]), 'n:' .. class, #seconds, 'late:' .. class, late,
        'seen:' .. class, text(now))
end
return changes
