-- A turn has ended: it runs no more, and what it took is set right by what it used. Once, however often it is said: the
-- first key is a set of running turns that it stands in.
--
-- KEYS: one for each limit, then those of the size of the history that the turn leaves. ARGV: the turn's id, the number
-- of limits, for each limit its kind, what is still to be taken of it (of a bucket, less than nothing where too much was
-- taken) and what of it was used for answers; then that size, and for how many seconds it is kept.
-- Returns 1, or 0 where the turn is not known as running any more and nothing was taken.
if redis.call('ZREM', KEYS[1], ARGV[1]) == 0 then
    return 0
end
local limits = tonumber(ARGV[2])
for place = 1, limits do
    local key, kind, takes, answer = KEYS[place], ARGV[3 * place], ARGV[3 * place + 1], tonumber(ARGV[3 * place + 2])
    if kind == 'running' then
        redis.call('ZREM', key, ARGV[1])
    elseif kind == 'bucket' then
        if takes ~= '0' and redis.call('EXISTS', key) == 1 then
            redis.call('HINCRBYFLOAT', key, 'left', -tonumber(takes))
        end
    else
        local amount = redis.call('HGET', key .. ':held', ARGV[1])
        if amount then
            redis.call('HDEL', key .. ':held', ARGV[1])
            redis.call('HINCRBYFLOAT', key .. ':held', 'total', -tonumber(amount))
        end
        redis.call('ZREM', key .. ':until', ARGV[1])
        if takes ~= '0' and redis.call('EXISTS', key) == 1 then
            redis.call('INCRBYFLOAT', key, takes)
        end
        if answer > 0 then
            local mean = tonumber(redis.call('GET', key .. ':mean')) or answer
            redis.call('SET', key .. ':mean', math.ceil(mean + (answer - mean) / 8), 'EX', 86400)
        end
    end
end
for place = limits + 1, #KEYS do
    redis.call('SET', KEYS[place], ARGV[3 * limits + 3], 'EX', ARGV[3 * limits + 4])
end
return 1
