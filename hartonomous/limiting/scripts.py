"""What Redis does in one step: let a request in, settle what it used, keep the places of those under way.

The clock is Redis' own (microseconds), so processes and hosts need not agree on the time. For a name there are a hash
with the level and the time of each limit (as in `core.ratelimit`) and a sorted set with the places of those under way
by the time at which each is lost, unless it is renewed: nobody's place outlives the process that held it for long.
"""

from __future__ import annotations

_CLOCK = """
local time = redis.call('TIME')
local now = time[1] * 1000000 + time[2]
"""

_BUCKETS = (
    _CLOCK
    + """
local function level_of(field, per_us)
    local kept = redis.call('HMGET', KEYS[1], field .. ':level', field .. ':at')
    local gone = math.max(0, now - tonumber(kept[2] or now))
    return math.max(0, tonumber(kept[1] or 0) - gone * per_us)
end
local function keep(field, per_us, level)
    redis.call('HSET', KEYS[1], field .. ':level', string.format('%.17g', level),
               field .. ':at', string.format('%.0f', now))
    local ms = math.min(level / per_us / 1000 + 1000, 1e11)
    if redis.call('PTTL', KEYS[1]) < ms then
        redis.call('PEXPIRE', KEYS[1], string.format('%.0f', ms))
    end
end
"""
)

ENTER = (
    _BUCKETS
    + """
-- ARGV: the concurrent (0: no limit), the place, its life (ms); for each limit: field, per_us, burst, cost, tolerance
local concurrent, place, life = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local levels = {}
local count = (#ARGV - 3) / 5
for index = 1, count do
    local field, per_us, burst, cost, tolerance = unpack(ARGV, 5 * index - 1, 5 * index + 3)
    burst, cost = tonumber(burst), tonumber(cost)
    local level = level_of(field, tonumber(per_us))
    if (cost > 0 and level + cost > burst + tonumber(tolerance)) or (cost == 0 and level >= burst) then
        return {index, 0, string.format('%.17g', level)}
    end
    levels[index] = level + cost
end
local held = 0
if concurrent > 0 then
    redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', string.format('%.0f', now))
    held = redis.call('ZCARD', KEYS[2])
    if held >= concurrent then
        return {count + 1, held, '0'}
    end
    redis.call('ZADD', KEYS[2], string.format('%.0f', now + life * 1000), place)
    redis.call('PEXPIRE', KEYS[2], life)
    held = held + 1
end
local answer = {0, held}
for index = 1, count do
    local field, per_us, _, cost = unpack(ARGV, 5 * index - 1, 5 * index + 2)
    if tonumber(cost) > 0 then
        keep(field, tonumber(per_us), levels[index])
    end
    answer[index + 2] = string.format('%.17g', levels[index])
end
return answer
"""
)

SETTLE = (
    _BUCKETS
    + """
-- ARGV: the place ('': none); for each limit: field, per_us, cost
if ARGV[1] ~= '' then
    redis.call('ZREM', KEYS[2], ARGV[1])
end
for index = 2, #ARGV, 3 do
    local per_us = tonumber(ARGV[index + 1])
    keep(ARGV[index], per_us, math.max(0, level_of(ARGV[index], per_us) + tonumber(ARGV[index + 2])))
end
return 0
"""
)

RENEW = (
    _CLOCK
    + """
-- KEYS: the sorted sets; ARGV: the life (ms), 'XX' or '' where lost places are taken again, and a place for each set.
-- Returns which of them (from 1 on) were lost and are not taken again.
local life = tonumber(ARGV[1])
local ends = string.format('%.0f', now + life * 1000)
local missed = {}
for index, key in ipairs(KEYS) do
    if ARGV[2] == '' or redis.call('ZSCORE', key, ARGV[index + 2]) then
        redis.call('ZADD', key, ends, ARGV[index + 2])
        redis.call('PEXPIRE', key, life)
    else
        missed[#missed + 1] = index
    end
end
return missed
"""
)

FORGET = """
-- KEYS: the sorted sets; ARGV: a place for each of them that nobody holds any more
for index, key in ipairs(KEYS) do
    redis.call('ZREM', key, ARGV[index])
end
return 0
"""
