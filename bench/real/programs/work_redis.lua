-- Redis' part, run inside the server: values of 0 to 700 bytes, hashes, sorted sets, lists; a third is changed, a third deleted.
local n = tonumber(ARGV[1])
for i = 1, n do
    redis.call('set', 'k' .. i, string.rep('x', i % 700))
    redis.call('hset', 'h' .. i % 1000, 'f' .. i, i * 7919 % 10007)
    redis.call('zadd', 'z', i * 7919 % 10007, 'm' .. i)
    redis.call('lpush', 'l' .. i % 50, string.rep('y', i % 90))
end
for i = 1, n, 3 do
    redis.call('append', 'k' .. i, 'a tail that makes it longer')
    redis.call('del', 'k' .. i + 1)
end
for i = 1, n do
    redis.call('setrange', 'k' .. i * 7919 % n, i % 900, 'z')
end
local all = redis.call('zrange', 'z', 0, -1, 'withscores')
return { redis.call('dbsize'), redis.call('strlen', 'k13'), redis.sha1hex(table.concat(all)), redis.call('llen', 'l1') }
