-- A turn has ended: it runs no more, and what it took is set right by what it used. Once, however often it is said: the
-- first key is a set of running turns that it stands in.
--
-- KEYS and ARGV as in admit.lua, without the lease: the turn's id, and for each limit its kind and what is to be taken
-- of it still (of a bucket, less than nothing where too much was taken).
if redis.call('ZREM', KEYS[1], ARGV[1]) == 0 then
    return 0
end
for place, key in ipairs(KEYS) do
    local kind, takes = ARGV[2 * place], ARGV[2 * place + 1]
    if kind == 'running' then
        redis.call('ZREM', key, ARGV[1])
    elseif takes ~= '0' and redis.call('EXISTS', key) == 1 then
        if kind == 'bucket' then
            redis.call('HINCRBYFLOAT', key, 'left', -tonumber(takes))
        else
            redis.call('INCRBYFLOAT', key, takes)
        end
    end
end
return 1
