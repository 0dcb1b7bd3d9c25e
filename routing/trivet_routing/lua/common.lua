-- Shared by the scripts: put in front of each of them.
--
-- KEYS[1]  breaker of the (route, model): a hash, its health
--            state         open, probing or recovering; missing = healthy
--            cause, since  why, and from when on
--            gen           rises with every change; the outcome of a call counts only under the one it was begun in
--            failures      in a row, of different jobs; contradicted: 400s in a row that another route served; doubts: pages
--                          of proxies in a row, of different jobs; short: calls in a row that ran out of a time too short
--                          for them; opened: times in a row that it was unusable
--            row, blamed   number of this row; the jobs that failed lately: job@when@row, by semicolon
--            asked         why a probe is to find out whether a breaker that works does answer; proven_at: when the newest
--                          call that was answered had begun
--            retry_at      open, probing: when the next probe is due
--            probe         the probe under way: the scheduler's token, then its permit; until: when it counts as lost
--            goods         probing: good probes in a row
--            share, step, step_at, step_goods, ramp   recovering: the part it gets, the step's number and start, and the
--                          good calls of this step and of all; evidence: when it was last used
--            w0 .. w6      "slot:calls:failed" of the last sixths of the window
--            p50:C p95:C n:C late:C seen:C   seconds of the class's last calls, of how many, how many of them ran out of
--                          time, and when the last was; anew: only calls since then are counted
-- KEYS[2]  breaker of the whole route: the same fields; proven_at counts calls of every model, and the route has besides
--            called_at     when the last call began or ended; of a probe for being idle, when it said something of the
--                          route. idle_at: not before then is it probed for being idle. While such a probe is under way,
--                          `probe` and `until` are there without a state
--            unreached, refused   workers whose calls alone do not reach the provider, or whose key alone it refuses:
--                          origin@since@last, by semicolon
-- KEYS[3]  limiter of the account's limits, of one model or of a group of them: a hash
--            r i o at      level of requests, input tokens and output tokens, and when they were reckoned
--            lr li lo      limits a minute as the provider states them
--            saving        until then smaller calls get half, so that a large one finds room in the minute
--            second        of the newest slot of the last minute
--            r0 i0 o0 …    what was granted in a second, in the slot of that second modulo their number
--            ur ui uo      the sums over all slots
--            closed_until, limited, cause   limited by the provider until then; times in a row; noted_until: as SQL has it
--            window, threshold   calls in flight that the provider was found to bear; missing = not found yet
-- KEYS[4]  calls in flight under the limiter: a sorted set of permit ids by the time at which they count as lost
-- KEYS[5]  epoch: missing = the shared state lost its memory
-- KEYS[6]  unhealthy: the set of breakers that are not healthy
-- KEYS[7]  calls in flight of the model alone; the same key as KEYS[4] where it shares its limits with no other
local clock = redis.call('TIME')
local now = tonumber(clock[1]) + tonumber(clock[2]) / 1e6

local function text(value) return string.format('%.6f', value) end
local function number(value, otherwise) return tonumber(value or '') or otherwise end

-- The present state of the buckets. `limits`: configured ones a minute, 0 = none.
local function read_limiter(limits, burst)
    local stored = redis.call('HMGET', KEYS[3], 'r', 'i', 'o', 'at', 'lr', 'li', 'lo', 'saving')
    local at = math.max(now, number(stored[4], now)) -- ahead of now while the provider keeps it closed
    local passed = math.max(0, now - number(stored[4], now))
    local limiter = { at = at, limit = {}, rate = {}, full = {}, have = {} }
    for k = 1, 3 do
        local limit, learned = limits[k], number(stored[4 + k], 0)
        if learned > 0 and (limit == 0 or learned < limit) then limit = learned end
        local full = limit * burst / 60
        if k == 1 and limit > 0 then full = math.max(full, 1) end
        -- a rolling minute sees the refill of a minute and one burst: together they are the limit
        local rate = math.max((limit - full) / 60, limit / 62)
        if number(stored[8], 0) > now then rate = rate / 2 end
        limiter.limit[k], limiter.rate[k], limiter.full[k] = limit, rate, full
        limiter.have[k] = math.min(full, number(stored[k], full) + passed * rate)
    end
    return limiter
end

local function write_limiter(limiter)
    redis.call('HSET', KEYS[3], 'at', text(limiter.at), 'r', text(limiter.have[1]), 'i', text(limiter.have[2]),
        'o', text(limiter.have[3]))
end

-- The last minute, second by second: what a limit really says. The buckets spread calls evenly; beside a call larger than
-- a burst they would let more through than a rolling minute may hold.
local KINDS = { 'r', 'i', 'o' }
local SLOTS = 61 -- the running second included: every rolling minute lies within them

local function slot_of(kind, second) return kind .. second % SLOTS end

local function read_minute()
    local running = math.floor(now)
    local stored = redis.call('HMGET', KEYS[3], 'second', 'ur', 'ui', 'uo')
    local last = number(stored[1], running)
    local minute = { second = math.max(running, last), used = {} }
    for k = 1, 3 do minute.used[k] = number(stored[1 + k], 0) end
    if running == last then return minute end
    local old = {}
    for second = last + 1, math.min(running, last + SLOTS) do
        for _, kind in ipairs(KINDS) do old[#old + 1] = slot_of(kind, second) end
    end
    if #old == 0 then return minute end -- the clock was set back
    for n, amount in ipairs(redis.call('HMGET', KEYS[3], unpack(old))) do
        local k = (n - 1) % 3 + 1
        minute.used[k] = minute.used[k] - number(amount, 0)
    end
    redis.call('HDEL', KEYS[3], unpack(old))
    redis.call('HSET', KEYS[3], 'second', minute.second,
        'ur', minute.used[1], 'ui', minute.used[2], 'uo', minute.used[3])
    return minute
end

-- Count calls of that second, or what of them was given back (less than nothing).
local function count(minute, second, amounts)
    if second > minute.second or second <= minute.second - SLOTS then return end
    redis.call('HSETNX', KEYS[3], 'second', minute.second)
    for k, kind in ipairs(KINDS) do
        local slot, amount = slot_of(kind, second), amounts[k]
        -- permits taken before the shared state lost its memory are not in there
        if amount < 0 then amount = math.max(amount, -number(redis.call('HGET', KEYS[3], slot), 0)) end
        if amount ~= 0 then
            redis.call('HINCRBY', KEYS[3], slot, amount)
            redis.call('HINCRBY', KEYS[3], 'u' .. kind, amount)
            minute.used[k] = minute.used[k] + amount
        end
    end
end

-- Seconds until so much of the last minute is more than a minute ago.
local function until_free(minute, k, amount)
    local names, oldest = {}, minute.second - SLOTS + 1
    for n = 1, SLOTS do names[n] = slot_of(KINDS[k], oldest + n - 1) end
    for n, granted in ipairs(redis.call('HMGET', KEYS[3], unpack(names))) do
        amount = amount - number(granted, 0)
        if amount <= 0 then return oldest + n - 1 + SLOTS - now end
    end
    return SLOTS
end

-- Seconds until a call may go by limit k, 0 = now; and whether only the minute is too full for it. One larger than a
-- burst need not wait until the bucket is full, which smaller ones would never let happen: it goes as they do when there
-- is something in it, and leaves a debt.
local function wait_for(limiter, minute, k, need)
    if limiter.limit[k] == 0 then return 0, false end
    local missing = math.min(need, 1, limiter.full[k]) - limiter.have[k]
    local wait = missing > 1e-6 and missing / limiter.rate[k] or 0
    local beyond = minute.used[k] + need - limiter.limit[k]
    if beyond <= 1e-6 or minute.used[k] <= 0 then return wait, false end -- one larger than the limit itself goes alone
    return math.max(wait, until_free(minute, k, math.min(beyond, minute.used[k]))), wait == 0
end

-- Calls that may be in flight, by what is configured and what the provider was found to bear; and, of the model alone,
-- by what a recovering one gets.
local function places(most)
    local window = number(redis.call('HGET', KEYS[3], 'window'), most)
    local all = math.min(most, math.max(1, math.floor(window)))
    local mine = all
    for level = 1, 2 do
        local breaker = redis.call('HMGET', KEYS[level], 'state', 'share', 'ramp')
        if breaker[1] == 'recovering' then
            -- never at once: one, then two more for every good answer, up to the share
            mine = math.min(mine, math.max(1, math.floor(most * number(breaker[2], 1))), 1 + 2 * number(breaker[3], 0))
        end
    end
    return all, mine
end
