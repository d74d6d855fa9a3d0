/* Tests of guarded sampling: slots, who is sampled, what is said of misuse, signals, forks, threads
   against an oracle, and a system that refuses. */
#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cmath>
#include <csetjmp>
#include <csignal>
#include <cstdint>
#include <cstring>
#include <gtest/gtest.h>
#include <map>
#include <set>
#include <string>
#include <sys/mman.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "base/lock.h"
#include "base/options.h"
#include "base/stats.h"
#include "base/verify.h"
#include "guard/guard.h"
#include "guard/sampler.h"
#include "guard/slots.h"
#include "guard/ticker.h"
#include "hakmem/hakmem.h"
#include "hakmem/tell.h"
#include "heap/theap.h"
#include "limit/limit.h"
#include "testing/failing_os.h"
#include "testing/in_child.h"
#include "testing/rng.h"

namespace
{

using hak_testing::FailingOs;
using hak_testing::Rng;

size_t page()
{
    return hak_os_page_size();
}

void *escape(void *p)
{
    __asm__ volatile("" : "+r"(p) : : "memory");
    return p;
}

char *guarded(size_t size)
{
    char *p = static_cast<char *>(escape(hak_malloc(size)));
    EXPECT_TRUE(hak_guard_holds(p)) << size;
    return p;
}

/* One that lies at its slot's end, or at its start. */
char *guarded_at(size_t size, bool is_at_end)
{
    for (;;) {
        char *p = guarded(size);
        if ((hak_guard_slot_of(p)->is_at_end != 0) == is_at_end) {
            return p;
        }
        hak_free(p);
    }
}

class Guard : public testing::Test
{
  protected:
    void SetUp() override
    {
        ASSERT_EQ(hak_guard_start(1), 0);
    }
    void TearDown() override
    {
        hak_guard_stop();
        EXPECT_EQ(hak_guard_n_used(), 0u) << "a block was left behind";
        EXPECT_EQ(hak_verify(), 0);
    }
};

/* Of blocks of that size. */
size_t n_slots(size_t size)
{
    uint32_t n_kept;
    return hak_guard_n_slots(size, &n_kept);
}

size_t most_at_once(size_t size = 1)
{
    uint32_t n_kept, n = hak_guard_n_slots(size, &n_kept);
    return n - n_kept;
}

/* Larger than what goes into a small slot. */
size_t large()
{
    return std::max(GUARD_MAX, page()) + 5000;
}

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

/* --- who is sampled --- */

/* Allocations whose turn it was, whether there was a slot or not. */
uint64_t n_turns()
{
    return static_cast<uint64_t>(hak_stat_get(guard_samples) + hak_stat_get(guard_missed));
}

/* Of n allocations. */
uint64_t sampled_of(size_t n, Rng &rng)
{
    std::vector<void *> blocks(500);
    uint64_t before = n_turns();
    for (size_t i = 0; i < n; i++) {
        void *&place = blocks[rng.below(blocks.size())];
        hak_free(place);
        place = hak_malloc(rng.between(1, 500));
    }
    for (void *p : blocks) {
        hak_free(p);
    }
    return n_turns() - before;
}

/* Four standard deviations and a half. */
TEST_F(Guard, LowRatesAreCountedExactly)
{
    Rng rng(2);
    ASSERT_EQ(hak_guard_start(25), 0);
    EXPECT_EQ(hak_self, &hak_theap_none);
    EXPECT_NEAR(static_cast<double>(sampled_of(200000, rng)), 8000, 400);
}

/* A block of s bytes is guarded with the probability 1 - exp(-s / rate). */
TEST_F(Guard, ByBytesBlocksAreChosenInProportionToTheirSize)
{
    const struct {
        size_t size;
        double part;
    } rows[] = {{64, 0.00778}, {1000, 0.11489}, {8192, 0.63212}, {GUARD_MAX, 0.86466}};
    ASSERT_EQ(hak_guard_start_by(8192, GUARD_BYTES), 0);
    EXPECT_EQ(hak_self, &hak_theap_none) << "so low a rate is counted exactly";
    for (auto row : rows) {
        const int n = 40000;
        uint64_t before = n_turns();
        for (int i = 0; i < n; i++) {
            hak_free(escape(hak_malloc(row.size)));
        }
        EXPECT_NEAR(static_cast<double>(n_turns() - before), n * row.part,
                    5 * std::sqrt(n * row.part * (1 - row.part)))
            << row.size;
    }
    EXPECT_EQ(hak_guard_start(GUARD_EXACT_RATE), 0);
    uint64_t before = n_turns();
    for (int i = 0; i < 200; i++) {
        hak_free(escape(hak_malloc(GUARD_MAX)));
    }
    EXPECT_LT(n_turns() - before, 20u) << "blocks are counted again";
}

/* Works until `n` more blocks have been guarded, or half a minute has passed (where hundreds of
   threads want the processors, slices are rare); returns how many were. */
uint64_t wait_for_samples(uint64_t n)
{
    uint64_t before = static_cast<uint64_t>(hak_stat_get(guard_samples)), seen = 0;
    auto end = std::chrono::steady_clock::now() + std::chrono::seconds(30);
    while (seen < n && std::chrono::steady_clock::now() < end) {
        for (int i = 0; i < 1000; i++) {
            hak_free(escape(hak_malloc(64)));
        }
        seen = static_cast<uint64_t>(hak_stat_get(guard_samples)) - before;
    }
    return seen;
}

/* One block, freed and taken for ever, which reaches no slow path otherwise. */
TEST_F(Guard, HighRatesAreSampledInSlicesOfTime)
{
    ASSERT_EQ(hak_guard_start(1000), 0);
    EXPECT_GE(wait_for_samples(20), 20u);
}

TEST_F(Guard, HighRatesOfBytesAreSampledInSlicesOfTime)
{
    ASSERT_EQ(hak_guard_start_by(64 * 1000, GUARD_BYTES), 0);
    EXPECT_GE(wait_for_samples(20), 20u);
}

TEST_F(Guard, FastPathsAreInForceBetweenSlices)
{
    if (HAK_SECURE) {
        GTEST_SKIP() << "there every call comes to its layer";
    }
    ASSERT_EQ(hak_guard_start(1000), 0);
    ASSERT_GE(wait_for_samples(1), 1u);
    int n_shown = 0;
    for (int i = 0; i < 200; i++) {
        n_shown += !hak_theap_is_hidden();
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
    }
    EXPECT_GT(n_shown, 100);
}

TEST_F(Guard, AChildGetsATickerOfItsOwn)
{
    if (HAK_SECURE) {
        GTEST_SKIP() << "there every call comes to its layer, and there is no ticker";
    }
    ASSERT_EQ(hak_guard_start(1000), 0);
    ASSERT_GE(wait_for_samples(1), 1u);
    hak_testing::in_child([] {
        EXPECT_EQ(hak_guard_ticker, static_cast<uint32_t>(TICKER_WANTED));
        for (unsigned i = 0; i < 2 * TICKER_CHILD_CALLS; i++) {
            hak_free(escape(hak_malloc(40)));
        }
        EXPECT_EQ(hak_guard_ticker, static_cast<uint32_t>(TICKER_RUNNING));
        EXPECT_GE(wait_for_samples(5), 5u);
        EXPECT_EQ(hak_verify(), 0);
    });
}

TEST_F(Guard, StoppedItServesWhatIsGuarded)
{
    char *p = guarded(100);
    hak_guard_stop();
    for (int i = 0; i < 5000; i++) {
        void *q = hak_malloc(40000);
        EXPECT_FALSE(hak_guard_holds(q));
        hak_free(q);
    }
    if (!HAK_SECURE) {
        EXPECT_EQ(hak_self, hak_theap_own);
    }
    EXPECT_EQ(hak_usable_size(p), 100u);
    hak_free(p);
}

TEST(GuardApi, RatesOfZeroAreRefused)
{
    EXPECT_EQ(hak_guard_start(0), EINVAL);
    EXPECT_EQ(hak_guard_start_by(0, GUARD_BYTES), EINVAL);
}

TEST(GuardSampler, DistancesAreExponential)
{
    struct guard_sampler sampler = {};
    sampler.random = 7;
    const int n = 200000;
    double sum = 0;
    int n_long = 0;
    for (int i = 0; i < n; i++) {
        int64_t distance = hak_guard_distance(&sampler, 5000);
        ASSERT_GE(distance, 1);
        sum += static_cast<double>(distance);
        n_long += distance > 10000;
    }
    EXPECT_NEAR(sum / n, 5000, 60); /* five standard deviations of the mean */
    EXPECT_NEAR(n_long / static_cast<double>(n), 0.1353, 0.005);
    EXPECT_EQ(hak_guard_distance(&sampler, 1), 1);
}

/* --- what is said of misuse --- */

#define DIES(signal, statement, text) EXPECT_EXIT(statement, testing::KilledBySignal(signal), text)

const char *const STACKS = "[^\n]*\n(.*\n)*hakmem: allocated by thread [0-9]+: 0x";

std::string with_stacks(const std::string &line)
{
    return "hakmem: " + line + STACKS;
}

void touch(char *p)
{
    *static_cast<volatile char *>(p) = 1;
}

char look(char *p)
{
    return *static_cast<volatile char *>(p);
}

#if defined(__x86_64__)
#define READ    "read"
#define WRITTEN "written to"
#else
#define READ    "touched"
#define WRITTEN "touched"
#endif

TEST_F(Guard, BehindTheEnd)
{
    DIES(SIGSEGV, touch(guarded_at(96, true) + 96),
         with_stacks("block " WRITTEN " behind its end: 0x[0-9a-f]+ \\(1 byte behind a guarded "
                     "block of 96 bytes at 0x"));
    DIES(SIGSEGV, look(guarded_at(4096, false) + 4096 + 9),
         with_stacks("block " READ " behind its end: 0x[0-9a-f]+ \\(10 bytes behind a guarded "
                     "block of 4096 bytes at 0x"));
    DIES(
        SIGABRT,
        {
            char *p = guarded_at(100, true);
            touch(p + 100);
            hak_free(p);
        },
        with_stacks("block written to behind its end: 0x[0-9a-f]+ \\(a guarded block of 100 "
                    "bytes\\)"));
    DIES(
        SIGABRT,
        {
            char *p = guarded_at(100, false);
            touch(p + 163);
            hak_free(p);
        },
        with_stacks("block written to behind its end"));
}

TEST_F(Guard, BeforeTheStart)
{
    DIES(SIGSEGV, touch(guarded_at(100, false) - 1),
         with_stacks("block " WRITTEN " before its start: 0x[0-9a-f]+ \\(1 byte before a guarded "
                     "block of 100 bytes at 0x"));
    DIES(SIGSEGV, look(guarded_at(4096, true) - 32),
         with_stacks("block " READ " before its start: 0x[0-9a-f]+ \\(32 bytes before a"));
    DIES(
        SIGABRT,
        {
            char *p = guarded_at(100, true);
            touch(p - 64);
            hak_free(p);
        },
        with_stacks("block written to before its start"));
}

TEST_F(Guard, AfterTheFree)
{
    DIES(
        SIGSEGV,
        {
            char *p = guarded(100);
            hak_free(p);
            touch(p + 12);
        },
        with_stacks("freed block " WRITTEN ": 0x[0-9a-f]+ \\(byte 12 of a freed guarded block of "
                    "100 bytes at 0x") +
            "[^\n]*\nhakmem: freed by thread [0-9]+: 0x");
    DIES(
        SIGSEGV,
        {
            char *p = guarded(100);
            hak_free(p);
            look(p);
        },
        with_stacks("freed block " READ ": 0x[0-9a-f]+ \\(byte 0 of a freed"));
    DIES(
        SIGSEGV,
        {
            char *q = guarded(100);
            void *moved = hak_realloc(q, 300);
            escape(moved);
            look(q);
        },
        with_stacks("freed block " READ));
}

TEST_F(Guard, LargeBlocks)
{
    DIES(SIGSEGV, touch(guarded_at(81920, true) + 81920),
         with_stacks("block " WRITTEN " behind its end: 0x[0-9a-f]+ \\(1 byte behind a guarded "
                     "block of 81920 bytes at 0x"));
    DIES(SIGSEGV, look(guarded_at(81920, false) - 1),
         with_stacks("block " READ " before its start: 0x[0-9a-f]+ \\(1 byte before a"));
    DIES(
        SIGSEGV,
        {
            char *p = guarded(100000);
            hak_free(p);
            look(p + 50000);
        },
        with_stacks("freed block " READ ": 0x[0-9a-f]+ \\(byte 50000 of a freed guarded block of "
                    "100000 bytes"));
    DIES(
        SIGABRT,
        {
            char *p = guarded_at(99999, true);
            touch(p + 99999);
            hak_free(p);
        },
        with_stacks("block written to behind its end: 0x[0-9a-f]+ \\(a guarded block of 99999"));
    DIES(
        SIGABRT,
        {
            char *p = guarded(100000);
            hak_free(p);
            hak_free(p);
        },
        with_stacks("block freed twice"));
}

TEST_F(Guard, BlocksOfADestroyedHeap)
{
    DIES(
        SIGSEGV,
        {
            hak_heap *heap = hak_heap_create();
            char *p = static_cast<char *>(hak_heap_malloc(heap, 100));
            hak_heap_destroy(heap);
            look(p);
        },
        with_stacks("freed block " READ) + "[^\n]*\nhakmem: freed by thread [0-9]+: 0x");
    DIES(
        SIGABRT,
        {
            hak_heap *heap = hak_heap_create();
            char *p = static_cast<char *>(hak_heap_malloc(heap, 100));
            touch(p + 100);
            hak_heap_destroy(heap);
        },
        with_stacks("block written to behind its end"));
    DIES(
        SIGABRT,
        {
            hak_heap *heap = hak_heap_create();
            hak_heap *other = hak_heap_create();
            escape(hak_heap_realloc(other, hak_heap_malloc(heap, 100), 10));
        },
        "block of another heap given to hak_heap_realloc");
}

TEST_F(Guard, SizeZero)
{
    DIES(SIGSEGV, touch(guarded(0)), with_stacks("block " WRITTEN " behind its end"));
}

TEST_F(Guard, FreedTwiceOrWrong)
{
    DIES(
        SIGABRT,
        {
            char *p = guarded(100);
            hak_free(p);
            hak_free(p);
        },
        with_stacks("block freed twice: 0x[0-9a-f]+ \\(a freed guarded block of 100 bytes\\)"));
    DIES(SIGABRT, hak_free(guarded(100) + 16),
         with_stacks("invalid pointer freed \\(not the start of a block\\): 0x[0-9a-f]+ \\(byte 16 "
                     "of a guarded block of 100 bytes at 0x"));
    DIES(
        SIGABRT,
        {
            char *p = guarded(100);
            hak_free(p);
            escape(hak_realloc(p, 10));
        },
        with_stacks("freed block given to realloc"));
    DIES(SIGABRT, escape(hak_realloc(guarded(100) + 8, 10)),
         with_stacks("invalid pointer given to realloc"));
    DIES(SIGABRT, hak_usable_size(guarded(100) + 8),
         with_stacks("invalid pointer given to malloc_usable_size"));
    DIES(
        SIGABRT,
        {
            char *p = guarded(100);
            hak_free(p);
            hak_usable_size(p);
        },
        with_stacks("freed block given to malloc_usable_size"));
    DIES(
        SIGABRT,
        {
            hak_heap *heap = hak_heap_create();
            escape(hak_heap_realloc(heap, guarded(100), 10));
        },
        "block of another heap given to hak_heap_realloc");
}

TEST_F(Guard, NothingThatTheGuardsHoldIsKnownToOthers)
{
    hak_guard_stop();
    DIES(SIGABRT, hak_free(reinterpret_cast<void *>(hak_guard_base + 8)),
         "invalid pointer freed \\(not the start of a block\\)");
}

TEST_F(Guard, TheMappingsOfTheCodeAreNamed)
{
    DIES(SIGSEGV, touch(guarded_at(96, true) + 96),
         "hakmem: [0-9a-f]+-[0-9a-f]+ r-xp .*guard_test");
}

TEST_F(Guard, AHookIsToldOfWhatAFreeFinds)
{
    DIES(
        SIGABRT,
        {
            hak_on_corruption([](const char *reason, const void *,
                                 void *) { fprintf(stderr, "told of: %s\n", reason); },
                              nullptr);
            char *p = guarded(100);
            hak_free(p);
            hak_free(p);
        },
        "told of: block freed twice");
}

/* --- signals --- */

std::atomic<int> n_handled;
sigjmp_buf back;

void handler_of_old(int)
{
    n_handled++;
    static const char text[] = "the program's handler\n";
    (void)!write(2, text, sizeof text - 1);
    _exit(7);
}

void handler_that_recovers(int, siginfo_t *info, void *context)
{
    n_handled += info && context;
    siglongjmp(back, 1);
}

void install(void (*old)(int), void (*modern)(int, siginfo_t *, void *))
{
    struct sigaction action = {};
    if (modern) {
        action.sa_sigaction = modern;
        action.sa_flags = SA_SIGINFO;
    } else {
        action.sa_handler = old;
    }
    ASSERT_EQ(sigaction(SIGSEGV, &action, nullptr), 0);
}

/* A process of its own, in which nothing is guarded yet. */
class GuardSignals : public testing::Test
{
  protected:
    void SetUp() override
    {
        GTEST_FLAG_SET(death_test_style, "threadsafe");
    }
    void TearDown() override
    {
        GTEST_FLAG_SET(death_test_style, "fast");
    }
};

TEST_F(GuardSignals, TheProgramsHandlerRunsAfterTheReport)
{
    EXPECT_EXIT(
        {
            install(handler_of_old, nullptr);
            hak_guard_start(1);
            touch(guarded_at(96, true) + 96);
        },
        testing::ExitedWithCode(7), "block " WRITTEN " behind(.*\n)*the program's handler");
}

TEST_F(GuardSignals, FaultsElsewhereAreTheProgramsAndMoreMayCome)
{
    EXPECT_EXIT(
        {
            install(nullptr, handler_that_recovers);
            hak_guard_start(1);
            for (volatile int i = 0; i < 3; i = i + 1) {
                if (!sigsetjmp(back, 1)) {
                    touch(static_cast<char *>(escape(reinterpret_cast<void *>(16))));
                }
            }
            fprintf(stderr, "handled %d\n", n_handled.load());
            if (!sigsetjmp(back, 1)) {
                touch(guarded_at(96, true) + 96);
            }
            _exit(n_handled == 4 ? 0 : 1);
        },
        testing::ExitedWithCode(0), "handled 3\nhakmem: block " WRITTEN " behind");
}

TEST_F(GuardSignals, WithoutAHandlerAFaultElsewhereEndsTheProcessInSilence)
{
    EXPECT_EXIT(
        {
            hak_guard_start(1);
            touch(static_cast<char *>(escape(reinterpret_cast<void *>(16))));
        },
        testing::KilledBySignal(SIGSEGV), "^$");
    EXPECT_EXIT(
        {
            hak_guard_start(1);
            raise(SIGSEGV);
        },
        testing::KilledBySignal(SIGSEGV), "^$");
}

TEST_F(GuardSignals, AnIgnoredSignalStaysIgnored)
{
    EXPECT_EXIT(
        {
            install(SIG_IGN, nullptr);
            hak_guard_start(1);
            kill(getpid(), SIGSEGV);
            _exit(3);
        },
        testing::ExitedWithCode(3), "^$");
}

/* A program that installs its own later asks. */
void handler_that_asks(int, siginfo_t *info, void *)
{
    _exit(hak_guard_report(info->si_addr) ? 5 : 6);
}

TEST_F(GuardSignals, ALaterHandlerMayAskForTheReport)
{
    EXPECT_EXIT(
        {
            hak_guard_start(1);
            install(nullptr, handler_that_asks);
            touch(guarded_at(96, true) + 96);
        },
        testing::ExitedWithCode(5), "hakmem: block touched behind its end: 0x");
}

/* HAKMEM_SHOW_STATS's handlers and ours, in either order, the program's own there or not. */

const char *const STATISTICS = "(.*\n)*hakmem: superslabs = [0-9]+ ";

void show_stats()
{
    hak_options.show_stats = 1;
    hak_tell_watch_signals();
}

void watch(bool are_stats_first)
{
    if (are_stats_first) {
        show_stats();
    }
    ASSERT_EQ(hak_guard_start(1), 0);
    if (!are_stats_first) {
        show_stats();
    }
}

TEST_F(GuardSignals, TheStatisticsComeBehindTheReport)
{
    for (bool are_stats_first : {false, true}) {
        EXPECT_EXIT(
            {
                watch(are_stats_first);
                touch(guarded_at(96, true) + 96);
            },
            testing::KilledBySignal(SIGSEGV),
            std::string("hakmem: block " WRITTEN " behind its end") + STATISTICS);
    }
}

TEST_F(GuardSignals, TheStatisticsComeAtAFaultElsewhereAndAtASignalThatWasSent)
{
    for (bool are_stats_first : {false, true}) {
        EXPECT_EXIT(
            {
                watch(are_stats_first);
                touch(static_cast<char *>(escape(reinterpret_cast<void *>(16))));
            },
            testing::KilledBySignal(SIGSEGV), STATISTICS);
        EXPECT_EXIT(
            {
                watch(are_stats_first);
                raise(SIGSEGV);
            },
            testing::KilledBySignal(SIGSEGV), STATISTICS);
    }
}

/* Its own handler runs last, and what it handles is its own to print. */
TEST_F(GuardSignals, TheProgramsHandlerRunsAfterTheReportWithStatisticsOn)
{
    for (bool are_stats_first : {false, true}) {
        EXPECT_EXIT(
            {
                install(handler_of_old, nullptr);
                watch(are_stats_first);
                touch(guarded_at(96, true) + 96);
            },
            testing::ExitedWithCode(7), "block " WRITTEN " behind(.*\n)*the program's handler\n");
    }
}

TEST_F(GuardSignals, OneThatTheProgramInstallsBetweenTheTwoRunsAfterTheReport)
{
    EXPECT_EXIT(
        {
            show_stats();
            install(handler_of_old, nullptr);
            hak_guard_start(1);
            touch(guarded_at(96, true) + 96);
        },
        testing::ExitedWithCode(7), "block " WRITTEN " behind(.*\n)*the program's handler\n");
}

/* --- forks and threads --- */

TEST_F(Guard, AChildHasItsParentsBlocksAndItsOwn)
{
    char *p = guarded(100);
    memset(p, 9, 100);
    hak_testing::in_child([&] {
        EXPECT_EQ(p[99], 9);
        hak_free(p);
        for (int i = 0; i < 200; i++) {
            hak_free(guarded(50));
        }
        EXPECT_EQ(hak_verify(), 0);
    });
    EXPECT_EQ(p[99], 9);
    hak_free(p);
}

void find_queue_lock(struct lock *lock, void *found)
{
    if (lock->rank == LOCK_RANK_GUARD) {
        *static_cast<struct lock **>(found) = lock;
    }
}

/* The child lacks the thread that takes a slot, or queues one. */
TEST_F(Guard, ForksWhileAnotherThreadHoldsTheQueue)
{
    struct lock *queue = nullptr;
    hak_lock_for_each(find_queue_lock, &queue);
    ASSERT_NE(queue, nullptr);
    char *p = guarded(100);
    std::atomic<int> phase{0};
    std::thread other([&] {
        hak_lock_acquire(queue);
        phase = 1;
        while (phase == 1) {
            usleep(1000);
        }
        hak_lock_release(queue);
    });
    while (phase == 0) {
        usleep(100);
    }
    hak_testing::in_child([&] {
        alarm(60);
        hak_free(p);
        for (int i = 0; i < 200; i++) {
            hak_free(guarded(50));
        }
        EXPECT_EQ(hak_guard_verify(), 0);
        EXPECT_EQ(hak_verify(), 0);
    });
    phase = 2;
    other.join();
    hak_free(p);
}

TEST_F(Guard, ForksWhileOtherThreadsAllocate)
{
    std::atomic<bool> is_over{false};
    std::vector<std::thread> threads;
    for (int t = 0; t < 3; t++) {
        threads.emplace_back([&] {
            while (!is_over) {
                void *p = hak_malloc(100);
                hak_free(p);
            }
        });
    }
    for (int i = 0; i < 60; i++) {
        pid_t child = fork();
        if (child == 0) {
            for (int k = 0; k < 20; k++) {
                char *p = static_cast<char *>(hak_malloc(100));
                memset(p, 1, 100);
                hak_free(p);
            }
            _exit(hak_guard_verify());
        }
        int status = -1;
        ASSERT_EQ(waitpid(child, &status, 0), child);
        EXPECT_EQ(status, 0);
    }
    is_over = true;
    for (std::thread &thread : threads) {
        thread.join();
    }
}

struct Owned {
    unsigned char *p;
    size_t size;
    unsigned char mark;
};

void check_and_free(Owned &block)
{
    for (size_t i = 0; i < block.size; i++) {
        ASSERT_EQ(block.p[i], block.mark) << i << " of " << block.size;
    }
    hak_free(block.p);
    block.p = nullptr;
}

void work(uint64_t seed, int n)
{
    Rng rng(seed);
    std::vector<Owned> blocks(60);
    for (int i = 0; i < n; i++) {
        Owned &block = blocks[rng.below(blocks.size())];
        size_t size = rng.one_in(50) ? rng.between(1, 60000) : rng.between(1, 900);
        if (block.p && rng.one_in(3)) {
            unsigned char *moved = static_cast<unsigned char *>(hak_realloc(block.p, size));
            ASSERT_NE(moved, nullptr);
            for (size_t k = 0; k < std::min(size, block.size); k++) {
                ASSERT_EQ(moved[k], block.mark);
            }
            block.p = moved;
        } else {
            if (block.p) {
                check_and_free(block);
            }
            block.p = static_cast<unsigned char *>(rng.one_in(4)   ? hak_calloc(1, size)
                                                   : rng.one_in(4) ? hak_aligned_alloc(64, size)
                                                                   : hak_malloc(size));
            ASSERT_NE(block.p, nullptr);
        }
        block.size = size;
        block.mark = static_cast<unsigned char>(rng.next());
        memset(block.p, block.mark, size);
    }
    for (Owned &block : blocks) {
        if (block.p) {
            check_and_free(block);
        }
    }
}

TEST_F(Guard, ThreadsAgainstAnOracleAtEveryKindOfRate)
{
    for (size_t rate : {size_t(1), size_t(3), size_t(40), size_t(200), size_t(5000)}) {
        ASSERT_EQ(hak_guard_start(rate), 0);
        std::vector<std::thread> threads;
        for (uint64_t t = 0; t < 4; t++) {
            threads.emplace_back(work, rate * 10 + t, 8000);
        }
        for (std::thread &thread : threads) {
            thread.join();
        }
        EXPECT_EQ(hak_verify(), 0);
        EXPECT_EQ(hak_guard_n_used(), 0u);
    }
}

TEST_F(Guard, ABlockMayBeFreedByAnotherThread)
{
    std::vector<char *> blocks;
    for (size_t i = 0; i < most_at_once(); i++) {
        blocks.push_back(guarded(30));
    }
    std::thread([&] {
        for (char *p : blocks) {
            hak_free(p);
        }
    }).join();
}

TEST_F(Guard, TheRateChangesWhileThreadsRun)
{
    std::atomic<bool> is_over{false};
    std::vector<std::thread> threads;
    for (uint64_t t = 0; t < 3; t++) {
        threads.emplace_back([&is_over, t] {
            while (!is_over) {
                work(t, 300);
            }
        });
    }
    for (int i = 0; i < 40; i++) {
        static const size_t rates[] = {1, 100, 10, 5000};
        ASSERT_EQ(hak_guard_start(rates[i % 4]), 0);
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
        if (i % 7 == 0) {
            hak_guard_stop();
        }
    }
    is_over = true;
    for (std::thread &thread : threads) {
        thread.join();
    }
}

/* --- a system that refuses --- */

TEST_F(Guard, WhereProtectionIsRefusedABlockIsServedAsEver)
{
    void *p;
    {
        FailingOs os;
        os.fail_always(hak_testing::OS_MPROTECT);
        p = hak_malloc(100);
        EXPECT_TRUE(os.fired());
    }
    EXPECT_FALSE(hak_guard_holds(p));
    hak_free(p);
    EXPECT_EQ(hak_verify(), 0);
}

TEST_F(Guard, WherePagesCannotBeDroppedTheyAreCleared)
{
    FailingOs os;
    for (size_t i = 0; i < 3 * hak_options.guard_slots; i++) {
        os.fail_always(hak_testing::OS_MADVISE);
        char *p = guarded(3000);
        ASSERT_TRUE(std::all_of(p, p + 3000, [](char c) { return c == 0; })) << i;
        memset(p, 0x77, 3000);
        hak_free(p);
    }
}

TEST_F(Guard, WhereAFreedBlockCannotBeProtectedItIsFreedAllTheSame)
{
    char *p = guarded(100);
    FailingOs os;
    os.fail_always(hak_testing::OS_MPROTECT);
    hak_free(p);
    os.reset();
    EXPECT_EQ(hak_guard_n_used(), 0u);
    for (size_t i = 0; i < 2 * hak_options.guard_slots; i++) {
        hak_free(guarded(100));
    }
}

/* Bytes that the memory limit counts, and mappings. */
struct Counted {
    int64_t committed = hak_stat_get(committed_bytes), mappings = hak_stat_get(mappings);
};

TEST_F(Guard, TheMemoryLimitCountsGuardedBlocks)
{
    hak_free(guarded(100));
    for (size_t size : {size_t(0), size_t(100), page() + 1, large()}) {
        Counted before;
        char *p = guarded(size);
        Counted with;
        hak_free(p);
        Counted after;
        EXPECT_EQ(with.committed - before.committed,
                  static_cast<int64_t>((size + page() - 1) & ~(page() - 1)))
            << size;
        EXPECT_EQ(with.mappings - before.mappings, size ? 2 : 0);
        EXPECT_EQ(after.committed, before.committed);
        EXPECT_EQ(after.mappings, before.mappings);
    }
    uint64_t soft = hak_limit_soft_set, hard = hak_limit_hard_set;
    hak_limit_configure(0, hak_limit_committed() + page() - 1);
    void *p = hak_malloc(100), *q = hak_malloc(0);
    EXPECT_FALSE(hak_guard_holds(p)) << "beyond the limit";
    EXPECT_TRUE(hak_guard_holds(q)) << "has no page";
    hak_limit_configure(soft, hard);
    hak_free(p);
    hak_free(q);
}

/* Where the system leaves a freed block's pages resident, they count until they are used again. */
TEST_F(GuardSignals, PagesThatTheSystemLeavesStayCounted)
{
    EXPECT_EXIT(
        {
            (void)hak_guard_start(1);
            hak_free(hak_malloc(100));
            Counted before;
            {
                FailingOs os;
                os.fail_always(hak_testing::OS_MADVISE);
                hak_free(hak_malloc(100));
            }
            Counted refused;
            for (size_t i = 0; i < 2 * hak_options.guard_slots; i++) {
                hak_free(hak_malloc(100));
            }
            Counted after;
            _exit(refused.committed - before.committed == static_cast<int64_t>(page()) &&
                          after.committed == before.committed && after.mappings == before.mappings
                      ? 0
                      : 1);
        },
        testing::ExitedWithCode(0), "");
}

TEST_F(GuardSignals, WithoutMemoryNothingIsGuarded)
{
    EXPECT_EXIT(
        {
            hak_free(hak_malloc(1));
            int error = 0;
            {
                FailingOs os;
                os.fail_always(hak_testing::OS_MMAP);
                error = hak_guard_start(1);
            }
            void *p = hak_malloc(100);
            int is_guarded = hak_guard_holds(p);
            hak_free(p);
            int again = hak_guard_start(1);
            _exit(error == ENOMEM && !is_guarded && again == 0 && hak_guard_holds(hak_malloc(9))
                      ? 0
                      : 1);
        },
        testing::ExitedWithCode(0), "");
}

TEST_F(GuardSignals, WithoutAddressSpaceForLargeSlotsThereAreSmallOnes)
{
    EXPECT_EXIT(
        {
            hak_free(hak_malloc(1));
            int error;
            {
                FailingOs os;
                os.fail(hak_testing::OS_MMAP, 1, 0);
                error = hak_guard_start(1);
            }
            void *p = hak_malloc(100);
            void *q = hak_malloc(large());
            _exit(error == 0 && hak_guard_holds(p) && !hak_guard_holds(q) && hak_guard_verify() == 0
                      ? 0
                      : 1);
        },
        testing::ExitedWithCode(0), "");
}

} // namespace
