-- Return the used amount of each limit. Takes nothing.
--
-- KEYS: one for each limit. ARGV: the kind and the amount of each limit, as in admit.lua.
-- Returns: for each limit the used amount, -1 if unknown, and the ms until all of a bucket is free again.
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local answer = {}
for place, key in ipairs(KEYS) do
    local kind, limit, used, frees = ARGV[2 * place - 1], tonumber(ARGV[2 * place]), -1, 0
    if kind == 'bucket' then
        local kept = redis.call('HMGET', key, 'left', 'at')
        local level = tonumber(kept[1]) or limit
        level = math.min(limit, level + (now - (tonumber(kept[2]) or now)) * limit / 60000)
        used = math.ceil(limit - level)
        frees = (limit - level) * 60000 / limit
    elseif kind == 'running' then
        used = redis.call('ZCOUNT', key, now, '+inf')
    else
        used = tonumber(redis.call('GET', key)) or -1
    end
    answer[2 * place - 1] = math.floor(used)
    answer[2 * place] = math.floor(frees)
end
return answer
