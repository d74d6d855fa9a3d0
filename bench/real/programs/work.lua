-- Lua's part: tables that grow, strings, closures, and a garbage collector that frees in bursts. work.lua SCALE
local function tree(depth)
    if depth == 0 then
        return {}
    end
    return { tree(depth - 1), tree(depth - 1) }
end

local function count(node)
    return node[1] and 1 + count(node[1]) + count(node[2]) or 1
end

local function words(n)
    local seen, list = {}, {}
    for i = 1, n do
        local word = tostring(i * 7919 % 100003) .. string.rep("x", i % 40)
        if not seen[word] then
            seen[word] = i
            list[#list + 1] = word
        end
    end
    table.sort(list)
    return #list, #table.concat(list, ",")
end

local function closures(n)
    local made = {}
    for i = 1, n do
        made[i] = function(x)
            return x + i
        end
    end
    local sum = 0
    for i = 1, n do
        sum = sum + made[i](i)
    end
    return sum
end

local total = 0
for _ = 1, tonumber(arg[1]) do
    local kept = tree(14)
    for _ = 1, 8 do
        total = total + count(tree(12))
    end
    local a, b = words(40000)
    total = total + count(kept) + a + b + closures(60000)
end
print(total)
