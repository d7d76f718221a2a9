-- A turn is under way still: it counts as running for the lease from now on, by the clock here.
local time = redis.call('TIME')
local until_ms = time[1] * 1000 + math.floor(time[2] / 1000) + tonumber(ARGV[2])
for _, key in ipairs(KEYS) do
    redis.call('ZADD', key, until_ms, ARGV[1])
    redis.call('PEXPIRE', key, 2 * ARGV[2])
end
return 1
