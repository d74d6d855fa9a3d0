/* Tests of the debug variant's announcements, with AddressSanitizer's three functions replaced by a
   map of what may not be touched. (checks/survival/ runs it under the real ones.) */
#include "observe/noted.h"

#include <cerrno>
#include <cstring>
#include <gtest/gtest.h>
#include <map>
#include <utility>
#include <vector>

#include "base/stats.h"
#include "hakmem/hakmem.h"
#include "observe/hooks.h"

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
    return it != poisoned().end() && it->first < start + size ? reinterpret_cast<void *>(it->first)
                                                              : nullptr;
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
    int64_t before = hak_stat_get(large_bytes) + hak_stat_get(heap_used_bytes);
    void *p = hak_malloc(8u << 20);
    EXPECT_GT(hak_stat_get(large_bytes) + hak_stat_get(heap_used_bytes), before);
    hak_free(p);
    EXPECT_EQ(hak_stat_get(large_bytes) + hak_stat_get(heap_used_bytes), before);
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

TEST(Noted, HeapsBlocksAreAnnouncedAndDoNotWait)
{
    struct hak_heap *heap = hak_heap_create();
    unsigned char *p = bytes(hak_heap_malloc(heap, 40)),
                  *q = bytes(hak_heap_calloc(heap, 1, 100000));
    EXPECT_TRUE(may_touch(p, 40));
    EXPECT_FALSE(may_touch(p + 40, 1));
    EXPECT_FALSE(may_touch(q + 100000, 1));
    EXPECT_EQ(q[99999], 0);
    memset(p, 0x5A, 40);
    p = bytes(hak_realloc(p, 50)); /* stays in its heap */
    EXPECT_EQ(p[39], 0x5A);
    EXPECT_FALSE(may_touch(p + 50, 1));
    p = bytes(hak_heap_realloc(heap, p, 60));
    EXPECT_FALSE(may_touch(p + 60, 1));
    p = bytes(hak_heap_realloc(heap, p, 0));
    EXPECT_EQ(p, nullptr);
    p = bytes(hak_heap_realloc(heap, nullptr, 70));
    std::map<void *, size_t> walked;
    auto note = [](void *block, size_t size, void *context) {
        (*static_cast<std::map<void *, size_t> *>(context))[block] = size;
        return 0;
    };
    EXPECT_EQ(hak_heap_walk(heap, note, &walked), 0);
    EXPECT_EQ(walked, (std::map<void *, size_t>{{p, 70}, {q, 100000}}));
    errno = 0;
    EXPECT_EQ(hak_heap_malloc(heap, SIZE_MAX - 8), nullptr);
    EXPECT_EQ(errno, ENOMEM);
    hak_heap_destroy(heap);
    EXPECT_TRUE(may_touch(p, 128)) << "the allocator has it";
    for (uint32_t i = 0; i <= NOTED_QUEUE; i++) {
        hak_free(hak_malloc(40)); /* nothing of the heap comes out of the queue */
    }
    EXPECT_EQ(hak_verify(), 0);
}

TEST(Noted, AWalkLeavesOutWhatWaits)
{
    void *p = hak_malloc(48), *q = hak_malloc(48);
    hak_free(p);
    std::pair<void *, int> sought{p, 0};
    auto look = [](void *block, size_t, void *context) {
        auto *one = static_cast<std::pair<void *, int> *>(context);
        one->second += block == one->first;
        return 0;
    };
    EXPECT_EQ(hak_walk(look, &sought), 0);
    EXPECT_EQ(sought.second, 0);
    sought.first = q;
    EXPECT_EQ(hak_walk(look, &sought), 0);
    EXPECT_EQ(sought.second, 1);
    hak_free(q);
}

TEST(Noted, BatchesAndRezalloc)
{
    for (uint32_t i = 0; i < NOTED_QUEUE + 100; i++) {
        hak_free(hak_malloc(40)); /* the thread's bin has some */
    }
    void *blocks[20];
    ASSERT_EQ(hak_malloc_batch(40, 20, blocks), 20u);
    for (void *block : blocks) {
        EXPECT_TRUE(may_touch(block, 40));
        EXPECT_FALSE(may_touch(bytes(block) + 40, 1));
    }
    hak_free_batch(blocks, 20);
    EXPECT_FALSE(may_touch(blocks[7], 1));
    unsigned char *p = bytes(hak_rezalloc(nullptr, 10));
    memset(p, 1, 10);
    p = bytes(hak_rezalloc(p, 200000));
    EXPECT_EQ(p[9], 1);
    EXPECT_EQ(p[10], 0);
    EXPECT_EQ(memcmp(p + 10, p + 11, 199989), 0);
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

/* Hooks lie above: they see what the program asks for, and what their callbacks allocate is
   announced too. */
TEST(Noted, HooksLieAbove)
{
    struct Told {
        hak_hook_call call;
        unsigned char *own;
    };
    static std::vector<Told> told;
    static const hak_hooks hooks = {nullptr,
                                    [](const hak_hook_call *call, void *) {
                                        told.push_back({*call, bytes(hak_malloc(33))});
                                        EXPECT_FALSE(may_touch(told.back().own + 33, 1));
                                    },
                                    nullptr};
    hak_hooks_set(&hooks);
    EXPECT_EQ(hak_entry_below(&hak_hooks_layer), &hak_noted_layer.table);
    unsigned char *p = bytes(hak_malloc(100));
    EXPECT_TRUE(may_touch(p, 100));
    EXPECT_FALSE(may_touch(p + 100, 1));
    unsigned char *q = bytes(hak_realloc(p, 200));
    EXPECT_FALSE(may_touch(p, 1));
    EXPECT_FALSE(may_touch(q + 200, 1));
    hak_free(q);
    EXPECT_FALSE(may_touch(q, 1));
    hak_hooks_set(nullptr);
    ASSERT_EQ(told.size(), 3u);
    EXPECT_EQ(told[0].call.size, 100u);
    EXPECT_EQ(told[0].call.result, p);
    EXPECT_EQ(told[1].call.size, 200u);
    EXPECT_EQ(told[1].call.block, p);
    EXPECT_EQ(told[1].call.result, q);
    EXPECT_EQ(told[2].call.block, q);
    for (const Told &one : told) {
        hak_free(one.own);
    }
    EXPECT_EQ(hak_entry_now(), &hak_noted_layer.table);
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
    hak_free(hak_malloc(1));
    EXPECT_EQ(hak_note_has_listener(), 0);
    EXPECT_EQ(hak_entry_now() == &hak_entry_plain, !HAK_SECURE);
#else
    EXPECT_EQ(hak_note_has_listener(), 1);
#endif
}

#endif
