-- Admits a turn if every one of its limits does, or takes nothing of any.
--
-- KEYS: one for each limit; then, where the turn sends a history, the size of that history in tokens. ARGV: the turn's
-- id, for how many ms it counts as running, the number of limits, and for each limit its kind, how much it is, what the
-- turn takes of it, what it takes for each token of the history, and what is expected for its answer:
--   bucket   so much a minute: a hash of what is left and since when; what is taken may be all of it, but not more
--   running  so many at once: a sorted set of those that run, by when each is taken for dead
--   month    so much in all: a counter of what was used. Beside it, in the same slot: `:held`, what each running turn
--            has reserved, and their `total`; `:until`, when each reservation lapses; `:mean`, what answers have used
-- Returns: 0 or the number of the limit that refuses, or minus the number of a key that is missing; how many ms to
-- wait, -1 for a month that is used up; and what each limit has left.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local id, lease, limits = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local refused, wait, left, reserved = 0, 0, {}, {}

local function refuse(place, ms)
    if refused == 0 or (wait ~= -1 and (ms == -1 or ms > wait)) then
        refused, wait = place, ms
    end
end

local function release(key, turn)
    local amount = redis.call('HGET', key .. ':held', turn)
    redis.call('ZREM', key .. ':until', turn)
    if amount then
        redis.call('HDEL', key .. ':held', turn)
        redis.call('HINCRBYFLOAT', key .. ':held', 'total', -tonumber(amount))
    end
end

local function word(place, number)
    return ARGV[5 * place - 2 + number]
end

for place = 1, limits do
    local key, kind, limit, takes = KEYS[place], word(place, 1), tonumber(word(place, 2)), tonumber(word(place, 3))
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
        local used, history = redis.call('GET', key), 0
        if not used then
            return {-place, 0}
        end
        if #KEYS > limits then
            history = redis.call('GET', KEYS[limits + 1])
            if not history then
                return {-limits - 1, 0}
            end
        end
        for _, dead in ipairs(redis.call('ZRANGEBYSCORE', key .. ':until', '-inf', now)) do
            release(key, dead)
        end
        release(key, id)
        local answer = tonumber(word(place, 5))
        if answer > 0 then
            answer = tonumber(redis.call('GET', key .. ':mean')) or answer
        end
        reserved[place] = math.ceil(takes + tonumber(word(place, 4)) * tonumber(history) + answer)
        left[place] = math.max(0, limit - tonumber(used))
        local others = redis.call('ZCARD', key .. ':until')
        if others == 0 then
            redis.call('DEL', key .. ':held')
        end
        local held = tonumber(redis.call('HGET', key .. ':held', 'total')) or 0
        if left[place] == 0 then
            refuse(place, -1)
        elseif others > 0 and held + reserved[place] > left[place] then
            refuse(place, 2000)
        end
    end
end
if refused == 0 then
    for place = 1, limits do
        local key, kind, limit, takes = KEYS[place], word(place, 1), tonumber(word(place, 2)), tonumber(word(place, 3))
        if kind == 'bucket' then
            left[place] = left[place] - math.min(takes, limit)
            redis.call('HSET', key, 'left', left[place], 'at', now)
            redis.call('PEXPIRE', key, 3600000)
        elseif kind == 'running' then
            left[place] = left[place] - 1
            redis.call('ZADD', key, now + lease, id)
            redis.call('PEXPIRE', key, 2 * lease)
        else
            redis.call('HSET', key .. ':held', id, reserved[place])
            redis.call('HINCRBYFLOAT', key .. ':held', 'total', reserved[place])
            redis.call('ZADD', key .. ':until', now + lease, id)
            redis.call('PEXPIRE', key .. ':held', 2 * lease)
            redis.call('PEXPIRE', key .. ':until', 2 * lease)
        end
    end
end
local answer = {refused, math.floor(wait)}
for place = 1, limits do
    answer[place + 2] = math.floor(left[place] or 0)
end
return answer
