/* Blocks that are guarded, and their slots. */
#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <gtest/gtest.h>
#include <map>
#include <set>
#include <sys/mman.h>
#include <vector>

#include "base/options.h"
#include "base/stats.h"
#include "base/verify.h"
#include "guard/guard_testing.h"
#include "guard/slots.h"
#include "hakmem/hakmem.h"
#include "testing/rng.h"

namespace
{

using namespace guard_testing;
using hak_testing::Rng;

/* --- blocks --- */

TEST_F(Guard, BlocksOfEverySizeAreAlignedZeroAndAsLargeAsAsked)
{
    for (size_t size : {size_t(0), size_t(1), size_t(15), size_t(16), size_t(17), size_t(100),
                        size_t(4095), size_t(4096), size_t(4097), size_t(16383), GUARD_MAX}) {
        for (int i = 0; i < 8; i++) {
            char *p = guarded(size);
            EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % 16, 0u);
            EXPECT_EQ(hak_usable_size(p), size);
            EXPECT_TRUE(hak_owns(p));
            EXPECT_TRUE(std::all_of(p, p + size, [](char c) { return c == 0; })) << size;
            if (size) {
                memset(p, 0x5A, size);
            }
            hak_free(p);
        }
    }
}

TEST_F(Guard, LargeBlocksHaveSlotsOfTheirOwn)
{
    ASSERT_EQ(hak_guard_largest(), hak_options.guard_large);
    for (size_t size : {GUARD_MAX + 1, size_t(20000), size_t(65536), size_t(100001),
                        hak_guard_largest() - 4095, hak_guard_largest()}) {
        for (int i = 0; i < 8; i++) {
            char *p = guarded(size);
            EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % 16, 0u);
            EXPECT_EQ(hak_usable_size(p), size);
            EXPECT_TRUE(hak_owns(p));
            EXPECT_TRUE(std::all_of(p, p + size, [](char c) { return c == 0; })) << size;
            memset(p, 0x5A, size);
            EXPECT_EQ(hak_guard_slot_of(p)->n_bytes, (size + page() - 1) & ~(page() - 1));
            EXPECT_EQ(hak_verify(), 0);
            hak_free(p);
        }
    }
}

TEST_F(Guard, TheLargestAreServedAsEver)
{
    void *p = hak_malloc(hak_guard_largest() + 1);
    EXPECT_FALSE(hak_guard_holds(p));
    hak_free(p);
    EXPECT_EQ(hak_malloc(SIZE_MAX), nullptr);
}

TEST_F(Guard, ThePagesOfAFreedLargeBlockGoBackAtOnce)
{
    const size_t size = hak_guard_largest();
    for (size_t i = 0; i < n_slots(size); i++) {
        char *p = guarded(size);
        memset(p, 1, size);
        const guard_slot *slot = hak_guard_slot_of(p);
        hak_free(p);
        std::vector<unsigned char> is_resident(slot->n_bytes / page());
        ASSERT_EQ(mincore(slot->pages, slot->n_bytes, is_resident.data()), 0);
        EXPECT_EQ(std::count_if(is_resident.begin(), is_resident.end(),
                                [](unsigned char c) { return c & 1; }),
                  0);
    }
}

TEST_F(Guard, AQuarterOfTheLargeSlotsWaitsAndSmallOnesAreNotUsedUp)
{
    std::vector<void *> blocks;
    for (size_t i = 0; i < n_slots(large()); i++) {
        blocks.push_back(hak_malloc(large()));
    }
    EXPECT_EQ(hak_guard_n_used(), most_at_once(large()));
    EXPECT_EQ(hak_verify(), 0);
    hak_free(guarded(100));
    for (void *p : blocks) {
        hak_free(p);
    }
}

TEST_F(Guard, CallocAndAlignedAreGuardedToo)
{
    for (size_t alignment = 32; alignment <= page(); alignment *= 2) {
        char *p = static_cast<char *>(hak_aligned_alloc(alignment, alignment + 3));
        EXPECT_TRUE(hak_guard_holds(p));
        EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % alignment, 0u);
        EXPECT_EQ(hak_usable_size(p), alignment + 3);
        memset(p, 1, alignment + 3);
        hak_free(p);
    }
    void *p = hak_aligned_alloc(2 * page(), 10);
    EXPECT_FALSE(hak_guard_holds(p));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % (2 * page()), 0u);
    hak_free(p);
    char *c = static_cast<char *>(hak_calloc(10, 7));
    EXPECT_TRUE(hak_guard_holds(c));
    EXPECT_EQ(hak_usable_size(c), 70u);
    hak_free_sized(c, 70);
}

TEST_F(Guard, ReallocKeepsWhatABlockHolds)
{
    Rng rng(1);
    char *p = nullptr;
    size_t size = 0;
    for (int i = 0; i < 300; i++) {
        size_t wanted = rng.one_in(8) ? rng.between(20000, 60000) : rng.between(1, 3000);
        bool is_first = p == nullptr;
        char *q = static_cast<char *>(hak_realloc(p, wanted));
        ASSERT_NE(q, nullptr);
        for (size_t k = 0; k < std::min(size, wanted); k++) {
            ASSERT_EQ(q[k], static_cast<char>(k * 7));
        }
        for (size_t k = 0; k < wanted; k++) {
            q[k] = static_cast<char>(k * 7);
        }
        EXPECT_TRUE(hak_guard_holds(q) || is_first) << wanted;
        p = q;
        size = wanted;
    }
    EXPECT_EQ(hak_realloc(p, 0), nullptr);
}

/* It would be copied, where below its pages move. */
TEST_F(Guard, ALargeBlockThatReallocMakesLargerStaysWhereItIs)
{
    hak_guard_stop();
    void *p = hak_malloc(100000), *q = hak_malloc(1000);
    ASSERT_EQ(hak_guard_start(1), 0);
    p = hak_realloc(p, 200000);
    q = hak_realloc(q, 2000);
    EXPECT_FALSE(hak_guard_holds(p));
    EXPECT_TRUE(hak_guard_holds(q));
    hak_free(p);
    hak_free(q);
}

TEST_F(Guard, RezallocIsZeroBehindTheOldEnd)
{
    char *p = static_cast<char *>(hak_rezalloc(nullptr, 100));
    memset(p, 3, 100);
    p = static_cast<char *>(hak_rezalloc(p, 5000));
    EXPECT_EQ(std::count(p, p + 5000, 3), 100);
    EXPECT_EQ(std::count(p, p + 5000, 0), 4900);
    hak_free(p);
}

TEST_F(Guard, BlocksOfFirstClassHeapsAreGuardedAndStayInThem)
{
    hak_heap *heap = hak_heap_create();
    char *p = static_cast<char *>(hak_heap_malloc(heap, 100));
    EXPECT_TRUE(hak_guard_holds(p));
    EXPECT_EQ(hak_guard_slot_of(p)->heap, heap);
    memset(p, 6, 100);
    p = static_cast<char *>(hak_heap_realloc(heap, p, 5000));
    EXPECT_EQ(std::count(p, p + 5000, 6), 100);
    p = static_cast<char *>(hak_realloc(p, large()));
    EXPECT_TRUE(hak_guard_holds(p));
    EXPECT_EQ(hak_guard_slot_of(p)->heap, heap);
    p = static_cast<char *>(hak_realloc(p, hak_guard_largest() + 1));
    EXPECT_FALSE(hak_guard_holds(p));
    EXPECT_EQ(std::count(p, p + 5000, 6), 100);
    char *c = static_cast<char *>(hak_heap_calloc(heap, 10, 30));
    char *a = static_cast<char *>(hak_heap_aligned_alloc(heap, 256, 30));
    EXPECT_TRUE(hak_guard_holds(c) && hak_guard_holds(a));
    EXPECT_EQ(reinterpret_cast<uintptr_t>(a) % 256, 0u);
    hak_free(c);
    EXPECT_EQ(hak_guard_n_used(), 1u);
    hak_heap_destroy(heap);
    EXPECT_EQ(hak_guard_n_used(), 0u);
}

TEST_F(Guard, ABlockOfAHeapThatMovesInByReallocStaysItsHeaps)
{
    hak_heap *heap = hak_heap_create(), *other = hak_heap_create();
    hak_guard_stop();
    void *p = hak_heap_malloc(heap, 100), *q = hak_heap_malloc(heap, 200);
    void *r = hak_heap_malloc(other, 300);
    /* In the secure variant this one lies in a span, whose heap is not asked for: it stays. */
    void *s = hak_heap_malloc(heap, 32 * 1024 - 16);
    ASSERT_EQ(hak_guard_start(1), 0);
    s = hak_realloc(s, 32 * 1024 - 8);
    s = hak_heap_realloc(heap, s, 32 * 1024 - 16);
    p = hak_realloc(p, 101);
    q = hak_heap_realloc(heap, q, 201);
    r = hak_realloc(r, 301);
    for (void *each : {p, q}) {
        ASSERT_TRUE(hak_guard_holds(each));
        EXPECT_EQ(hak_guard_slot_of(each)->heap, heap);
    }
    hak_heap_destroy(heap);
    EXPECT_EQ(hak_guard_n_used(), 1u);
    EXPECT_EQ(hak_usable_size(r), 301u);
    hak_heap_destroy(other);
}

using Told = std::map<void *, size_t>;

int tell(void *block, size_t size, void *told)
{
    EXPECT_TRUE(static_cast<Told *>(told)->emplace(block, size).second);
    return 0;
}

TEST_F(Guard, WalksVisitGuardedBlocksOnce)
{
    hak_heap *heap = hak_heap_create();
    void *p = guarded(100), *q = guarded(large()), *nothing = guarded(0);
    void *of_heap = hak_heap_malloc(heap, 300);
    ASSERT_TRUE(hak_guard_holds(of_heap));
    Told all, of_one;
    EXPECT_EQ(hak_walk(tell, &all), 0);
    EXPECT_EQ(all[p], 100u);
    EXPECT_EQ(all[q], large());
    EXPECT_EQ(all[of_heap], 300u);
    EXPECT_EQ(all.count(nothing), 0u);
    EXPECT_EQ(hak_heap_walk(heap, tell, &of_one), 0);
    EXPECT_EQ(of_one, (Told{{of_heap, 300}}));
    EXPECT_EQ(hak_heap_walk(
                  heap, [](void *, size_t, void *) { return 9; }, nullptr),
              9);
    hak_free(p);
    all.clear();
    EXPECT_EQ(hak_walk(tell, &all), 0);
    EXPECT_EQ(all.count(p), 0u);
    hak_free(q);
    hak_free(nothing);
    hak_heap_destroy(heap);
}

TEST_F(Guard, ErrnoIsKept)
{
    errno = ERANGE;
    hak_free(guarded(100));
    EXPECT_EQ(errno, ERANGE);
}

/* --- slots --- */

TEST_F(Guard, AQuarterOfTheSlotsWaitsAndTheRestIsServedAsEver)
{
    std::vector<void *> blocks;
    uint64_t missed = static_cast<uint64_t>(hak_stat_get(guard_missed));
    for (size_t i = 0; i < n_slots(50); i++) {
        blocks.push_back(hak_malloc(50));
    }
    EXPECT_EQ(hak_guard_n_used(), most_at_once());
    EXPECT_EQ(static_cast<uint64_t>(hak_stat_get(guard_missed)) - missed,
              blocks.size() - most_at_once());
    EXPECT_EQ(hak_verify(), 0);
    for (void *p : blocks) {
        hak_free(p);
    }
}

TEST_F(Guard, VerifySeesASlotThatIsNotInTheQueue)
{
    char *p = guarded(100);
    guard_slot *slot = hak_guard_slot_of(p);
    EXPECT_EQ(hak_verify(), 0);
    slot->state = GUARD_FREE;
    EXPECT_EQ(hak_verify(), VERIFY_GUARD);
    EXPECT_EQ(hak_guard_verify(), VERIFY_GUARD);
    slot->state = GUARD_USED;
    slot->block = p + 3 * GUARD_MAX;
    EXPECT_EQ(hak_guard_verify(), VERIFY_GUARD);
    slot->block = p;
    hak_free(p);
}

TEST_F(Guard, TheSlotThatWaitedLongestIsUsedNext)
{
    std::set<const void *> seen;
    for (size_t i = 0; i < hak_options.guard_slots; i++) {
        char *p = guarded(100);
        EXPECT_TRUE(seen.insert(hak_guard_slot_of(p)).second) << i;
        hak_free(p);
    }
}

TEST_F(Guard, BlocksLieAtTheEndOrAtTheStartOfTheirPages)
{
    size_t n_ends = 0, n_tries = 400;
    for (size_t i = 0; i < n_tries; i++) {
        char *p = guarded(4096);
        const guard_slot *slot = hak_guard_slot_of(p);
        EXPECT_EQ(slot->n_bytes, (4096 + page() - 1) & ~(page() - 1));
        n_ends += slot->is_at_end;
        hak_free(p);
    }
    EXPECT_GT(n_ends, n_tries / 2);
    EXPECT_LT(n_ends, n_tries - 20);
}

TEST_F(Guard, AddressesAreToldFromTheNearestBlock)
{
    char *p = guarded_at(100, true);
    char *q = guarded_at(100, false);
    guard_spot spot = hak_guard_spot_of(p + 99);
    EXPECT_EQ(spot.place, GUARD_INSIDE);
    EXPECT_EQ(spot.distance, 99u);
    spot = hak_guard_spot_of(p + 112); /* in the guard page */
    EXPECT_EQ(spot.slot->block, p);
    EXPECT_EQ(spot.place, GUARD_BEHIND);
    EXPECT_EQ(spot.distance, 12u);
    spot = hak_guard_spot_of(q - 1);
    EXPECT_EQ(spot.slot->block, q);
    EXPECT_EQ(spot.place, GUARD_BEFORE);
    EXPECT_EQ(spot.distance, 1u);
    EXPECT_EQ(hak_guard_spot_of(&spot).slot, nullptr);
    EXPECT_EQ(hak_guard_report(&spot), 0);
    hak_free(p);
    hak_free(q);
}

} // namespace
