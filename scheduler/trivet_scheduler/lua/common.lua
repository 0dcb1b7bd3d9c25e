-- What the scripts share; put in front of each of them.
--
-- KEYS[1]  gate of the (route, model): a hash, its health
--            state         open, probing or recovering; missing = healthy
--            cause, since  why, and from when on
--            gen           rises with every change; the outcome of a call counts only under the one it was begun in
--            failures      in a row; doubted: 400s in a row that another route served; opened: times in a row
--            retry_at      open, probing: when the next probe is due
--            probe         the probe under way: the scheduler's token, then its permit; until: when it counts as lost
--            goods         probing: good probes in a row
--            share, step, step_at, step_goods, ramp   recovering: the part it gets, the how manieth, since when, and the
--                          good calls of this step and of all; evidence: when it was last used
--            w0 .. w6      "slot:calls:failed" of the last sixths of the window
--            p50:C p95:C n:C seen:C   seconds of the class's last calls, of how many, and when the last was
-- KEYS[2]  gate of the whole route: the same fields
-- KEYS[3]  meter of the account's limits, of one model or of a group of them: a hash
--            r i o at      level of requests, input tokens and output tokens, and when they were reckoned
--            lr li lo      limits a minute as the provider states them
--            br bi bo      what a large call needs
--            closed_until, limited, cause   limited by the provider until then; times in a row
--            window, threshold   calls in flight that the provider was found to bear; missing = not found yet
-- KEYS[4]  calls in flight: a sorted set of permit ids by the time at which they count as lost
-- KEYS[5]  epoch: missing = the shared state lost its memory
-- KEYS[6]  unwell: the set of gates that are not healthy
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1e6

local function text(value) return string.format('%.6f', value) end
local function number(value, otherwise) return tonumber(value or '') or otherwise end

-- The buckets as they stand now. `limits`: configured ones a minute, 0 = none.
local function read_meter(limits, burst)
    local stored = redis.call('HMGET', KEYS[3], 'r', 'i', 'o', 'at', 'lr', 'li', 'lo', 'br', 'bi', 'bo')
    local at = math.max(now, number(stored[4], now)) -- ahead of now while the provider keeps it closed
    local passed = math.max(0, now - number(stored[4], now))
    local meter = { at = at, rate = {}, full = {}, have = {}, big = {} }
    for k = 1, 3 do
        local limit, learned = limits[k], number(stored[4 + k], 0)
        if learned > 0 and (limit == 0 or learned < limit) then limit = learned end
        local full = limit * burst / 60
        if k == 1 and limit > 0 then full = math.max(full, 1) end
        meter.big[k] = number(stored[7 + k], 0)
        -- a rolling minute sees the refill of a minute and one burst, or one large call: together they are the limit
        local rate = math.max((limit - math.max(full, meter.big[k])) / 60, limit / 120)
        meter.rate[k], meter.full[k] = rate, full
        meter.have[k] = math.min(full, number(stored[k], full) + passed * rate)
    end
    return meter
end

local function write_meter(meter)
    redis.call('HSET', KEYS[3], 'at', text(meter.at), 'r', text(meter.have[1]), 'i', text(meter.have[2]),
        'o', text(meter.have[3]), 'br', text(meter.big[1]), 'bi', text(meter.big[2]), 'bo', text(meter.big[3]))
end

-- Calls that may be in flight: what is configured, what the provider was found to bear, what a recovering route gets.
local function places(most)
    local window = number(redis.call('HGET', KEYS[3], 'window'), most)
    local free = math.min(most, math.max(1, math.floor(window)))
    for level = 1, 2 do
        local gate = redis.call('HMGET', KEYS[level], 'state', 'share', 'ramp')
        if gate[1] == 'recovering' then
            -- never at once: one, then two more for every good answer, up to the share
            free = math.min(free, math.max(1, math.floor(most * number(gate[2], 1))), 1 + 2 * number(gate[3], 0))
        end
    end
    return free
end
