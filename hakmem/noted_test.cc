/* Tests of the debug variant's announcements, with AddressSanitizer's three functions replaced by a map of what may not be
   touched. (survival/ runs it under the real ones.) */
#include "hakmem/noted.h"

#include <cerrno>
#include <cstring>
#include <gtest/gtest.h>
#include <map>
#include <vector>

#include "base/stats.h"
#include "hakmem/hakmem.h"

#if HAK_NOTES && !defined(__SANITIZE_ADDRESS__)

namespace
{

/* Start and end of what may not be touched. */
std::map<uintptr_t, uintptr_t> &poisoned()
{
    static std::map<uintptr_t, uintptr_t> map;
    return map;
}

void clear(uintptr_t start, uintptr_t end)
{
    auto &map = poisoned();
    auto it = map.upper_bound(start);
    it = it == map.begin() ? it : std::prev(it);
    while (it != map.end() && it->first < end) {
        uintptr_t first = it->first, last = it->second;
        if (last <= start) {
            ++it;
            continue;
        }
        it = map.erase(it);
        if (first < start) {
            map[first] = start;
        }
        if (last > end) {
            it = map.emplace(end, last).first;
        }
    }
}

} // namespace

extern "C" {
void __asan_poison_memory_region(const volatile void *p, size_t size)
{
    uintptr_t start = reinterpret_cast<uintptr_t>(p);
    clear(start, start + size);
    if (size) {
        poisoned()[start] = start + size;
    }
}

void __asan_unpoison_memory_region(const volatile void *p, size_t size)
{
    uintptr_t start = reinterpret_cast<uintptr_t>(p);
    clear(start, start + size);
}

void *__asan_region_is_poisoned(void *p, size_t size)
{
    uintptr_t start = reinterpret_cast<uintptr_t>(p);
    auto it = poisoned().upper_bound(start);
    if (it != poisoned().begin() && std::prev(it)->second > start) {
        return p;
    }
    return it != poisoned().end() && it->first < start + size ? reinterpret_cast<void *>(it->first) : nullptr;
}
}

namespace
{

bool may_touch(const void *p, size_t size)
{
    return !__asan_region_is_poisoned(const_cast<void *>(p), size);
}

unsigned char *bytes(void *p)
{
    return static_cast<unsigned char *>(p);
}

} // namespace

TEST(Noted, OnlyWhatWasAskedForMayBeTouched)
{
    for (size_t size : {0u, 1u, 16u, 100u, 5000u, 70000u, 3000000u}) {
        unsigned char *p = bytes(hak_malloc(size));
        size_t first = size ? size : 1;
        EXPECT_TRUE(may_touch(p, first));
        EXPECT_FALSE(may_touch(p + first, 1));
        EXPECT_FALSE(may_touch(p + size + 15, 1));
        EXPECT_EQ(hak_usable_size(p), first);
        hak_free(p);
    }
    hak_free(nullptr);
}

TEST(Noted, FreedBlocksWaitAndMayNotBeTouched)
{
    unsigned char *p = bytes(hak_malloc(64));
    hak_free(p);
    EXPECT_FALSE(may_touch(p, 1));
    EXPECT_FALSE(may_touch(p + 63, 1));
    std::vector<void *> others;
    for (uint32_t i = 0; i < NOTED_QUEUE; i++) {
        void *q = hak_malloc(64);
        EXPECT_NE(q, p) << i;
        others.push_back(q);
    }
    EXPECT_FALSE(may_touch(p, 1));
    for (void *q : others) {
        hak_free(q);
    }
    EXPECT_TRUE(may_touch(p, 64)) << "it has gone back to the allocator";
}

TEST(Noted, LargeBlocksDoNotWait)
{
    int64_t before = stat_get(large_bytes) + stat_get(heap_used_bytes);
    void *p = hak_malloc(8u << 20);
    EXPECT_GT(stat_get(large_bytes) + stat_get(heap_used_bytes), before);
    hak_free(p);
    EXPECT_EQ(stat_get(large_bytes) + stat_get(heap_used_bytes), before);
}

TEST(Noted, EveryWayToAllocate)
{
    unsigned char *p = bytes(hak_calloc(10, 20));
    EXPECT_TRUE(may_touch(p, 200));
    EXPECT_FALSE(may_touch(p + 200, 1));
    EXPECT_EQ(p[0], 0);
    EXPECT_EQ(memcmp(p, p + 1, 199), 0);
    memset(p, 0x5A, 200);
    unsigned char *q = bytes(hak_realloc(p, 1000));
    EXPECT_NE(q, p);
    EXPECT_FALSE(may_touch(p, 1));
    EXPECT_TRUE(may_touch(q, 1000));
    EXPECT_EQ(q[0], 0x5A);
    EXPECT_EQ(q[199], 0x5A);
    q = bytes(hak_realloc(q, 50));
    EXPECT_EQ(q[49], 0x5A);
    EXPECT_FALSE(may_touch(q + 50, 1));
    EXPECT_EQ(hak_realloc(q, 0), nullptr);
    EXPECT_FALSE(may_touch(q, 1));
    p = bytes(hak_realloc(nullptr, 30));
    EXPECT_EQ(hak_usable_size(p), 30u);
    hak_free(p);
    p = bytes(hak_aligned_alloc(4096, 100));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % 4096, 0u);
    EXPECT_FALSE(may_touch(p + 100, 1));
    hak_free(p);
}

TEST(Noted, TooMuchIsRefused)
{
    for (size_t size : {SIZE_MAX, SIZE_MAX / 2, SIZE_MAX / 2 - 8}) {
        errno = 0;
        EXPECT_EQ(hak_malloc(size), nullptr);
        EXPECT_EQ(errno, ENOMEM);
    }
    unsigned char *p = bytes(hak_malloc(10));
    EXPECT_EQ(hak_realloc(p, SIZE_MAX / 2), nullptr);
    EXPECT_TRUE(may_touch(p, 10));
    hak_free(p);
}

TEST(NotedDeathTest, WrongFreesAreTold)
{
    char *p = static_cast<char *>(hak_malloc(100));
    EXPECT_DEATH(hak_free(p + 16), "invalid pointer freed");
    hak_free(p);
    EXPECT_DEATH(hak_free(p), "block freed twice");
}

#else

TEST(Noted, TheOthersHaveNoListener)
{
#if !HAK_NOTES
    EXPECT_EQ(note_has_listener(), 0);
    EXPECT_EQ(noted_wanted(), 0);
#else
    EXPECT_EQ(note_has_listener(), 1);
#endif
}

#endif
