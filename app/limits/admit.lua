-- Lets a turn in, if every one of its limits does; or takes nothing of any.
--
-- KEYS: one for each limit. ARGV: the turn's id, for how many ms it counts as running, and for each limit its kind, how
-- much it is, and what the turn takes of it:
--   bucket   so much a minute: a hash of what is left and since when; what is taken may be all of it, but not more
--   running  so many at once: a sorted set of those that run, by when each is taken for dead
--   month    so much in all: a counter
-- Gives: 0 or the number of the limit that refuses, or minus the number of a counter that is not there; how many ms to
-- wait; and what each limit has left.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local id, lease = ARGV[1], tonumber(ARGV[2])
local refused, wait, left = 0, 0, {}

local function refuse(place, ms)
    if refused == 0 or ms > wait then
        refused, wait = place, ms
    end
end

for place, key in ipairs(KEYS) do
    local kind, limit, takes = ARGV[3 * place], tonumber(ARGV[3 * place + 1]), tonumber(ARGV[3 * place + 2])
    if kind == 'bucket' then
        local kept = redis.call('HMGET', key, 'left', 'at')
        local level = tonumber(kept[1]) or limit
        level = math.min(limit, level + (now - (tonumber(kept[2]) or now)) * limit / 60000)
        left[place] = level
        if level < math.min(takes, limit) then
            refuse(place, math.ceil((math.min(takes, limit) - level) * 60000 / limit))
        end
    elseif kind == 'running' then
        redis.call('ZREMRANGEBYSCORE', key, '-inf', now)
        left[place] = limit - redis.call('ZCARD', key)
        if left[place] < 1 then
            refuse(place, 1000)
        end
    else
        local used = redis.call('GET', key)
        if not used then
            return {-place, 0}
        end
        left[place] = math.max(0, limit - tonumber(used))
        if left[place] == 0 then
            refuse(place, 1000)
        end
    end
end
if refused == 0 then
    for place, key in ipairs(KEYS) do
        local kind, limit, takes = ARGV[3 * place], tonumber(ARGV[3 * place + 1]), tonumber(ARGV[3 * place + 2])
        if kind == 'bucket' then
            left[place] = left[place] - math.min(takes, limit)
            redis.call('HSET', key, 'left', left[place], 'at', now)
            redis.call('PEXPIRE', key, 3600000)
        elseif kind == 'running' then
            left[place] = left[place] - 1
            redis.call('ZADD', key, now + lease, id)
            redis.call('PEXPIRE', key, 2 * lease)
        end
    end
end
local answer = {refused, math.floor(wait)}
for place = 1, #KEYS do
    answer[place + 2] = math.floor(left[place] or 0)
end
return answer
