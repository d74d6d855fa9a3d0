/* Tests of the depot: what a bin overflows with comes back as it was, within bounds; a block that
   is freed twice is found on the way in; what empties a heap empties its depot. */
#include "heap/depot.h"

#include <algorithm>
#include <cstring>
#include <gtest/gtest.h>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "base/options.h"
#include "base/stats.h"
#include "base/verify.h"
#include "hakmem/hakmem.h"
#include "heap/background.h"
#include "heap/common.h"
#include "heap/gate.h"
#include "heap/parked.h"
#include "superslab/pool.h"
#include "testing/rng.h"

namespace
{

using hak_testing::Rng;

const size_t kSizes[] = {1040, 3000, 4096, 9000, 16384, 32768};

class Depot : public testing::Test
{
  protected:
    void SetUp() override
    {
        saved_ = hak_options;
        hak_common_from = COMMON_THREADS; /* fewer have slabs of their own */
        hak_parked_most = 0;
        if (HAK_SECURE) {
            GTEST_SKIP() << "freed blocks wait in a quarantine first";
        }
        hak_options.purge_delay_ms = 3600000;
        hak_free(hak_malloc(1));
        (void)hak_purge();
        hak_self->row_wait = hak_self->row_pause = 0; /* another test's, where they are repeated */
        ASSERT_EQ(hak_stat_get(heap_used_bytes), 0);
    }
    void TearDown() override
    {
        hak_options = saved_;
        (void)hak_purge();
        EXPECT_EQ(hak_verify(), 0);
        EXPECT_EQ(hak_stat_get(heap_used_bytes), 0) << "a test left blocks behind";
    }

  private:
    struct options saved_;
};

std::vector<void *> allocate(size_t n, size_t size)
{
    std::vector<void *> blocks;
    for (size_t i = 0; i < n; i++) {
        blocks.push_back(hak_malloc(size));
    }
    return blocks;
}

void free_all(const std::vector<void *> &blocks)
{
    for (void *p : blocks) {
        hak_free(p);
    }
}

uint64_t mid_bytes(const struct theap *heap)
{
    return heap->depot_bytes[1];
}

/* The class's blocks in the depot. */
std::set<void *> in_depot(const struct theap *heap, uint32_t size_class)
{
    std::set<void *> blocks;
    for (void *head = heap->depot[size_class]; head;
         head = reinterpret_cast<void *>(static_cast<uintptr_t *>(head)[1] & 0xFFFFFFFFFFFFu)) {
        for (void *block = head; block; block = hak_link_next(block)) {
            EXPECT_TRUE(blocks.insert(block).second);
        }
    }
    return blocks;
}

/* What is loose is held from now on. */
void hold()
{
    hak_lock_acquire(&hak_self->owner.lock);
    hak_depot_hold(hak_self);
    hak_lock_release(&hak_self->owner.lock);
    EXPECT_EQ(hak_self->depot_loose, 0u);
}

/* Frees blocks of that size until some are in the depot, loose but in variants that validate. */
std::vector<void *> fill(size_t size)
{
    std::vector<void *> blocks = allocate(HAK_TINY_OR(40u, 1000u), size), freed;
    while (!blocks.empty() && !hak_self->depot[hak_sc_of(size)]) {
        hak_free(blocks.back());
        freed.push_back(blocks.back());
        blocks.pop_back();
    }
    EXPECT_NE(hak_self->depot[hak_sc_of(size)], nullptr) << size;
    return blocks;
}

TEST_F(Depot, WhatOverflowsComesBackLastFirst)
{
    for (size_t size : kSizes) {
        uint32_t c = hak_sc_of(size);
        std::vector<void *> rest = fill(size);
        std::set<void *> held = in_depot(hak_self, c);
        EXPECT_EQ(mid_bytes(hak_self), held.size() * hak_sc_table[c].size);
        EXPECT_EQ(hak_verify(), 0);
        std::vector<void *> again;
        while (hak_self->depot[c]) {
            again.push_back(hak_malloc(size));
            held.erase(again.back());
        }
        EXPECT_EQ(mid_bytes(hak_self), 0u);
        size_t in_bin = held.size(); /* the list is in the bin now */
        for (size_t i = 0; i < in_bin; i++) {
            again.push_back(hak_malloc(size));
            EXPECT_EQ(held.erase(again.back()), 1u) << "another block came before " << size;
        }
        EXPECT_EQ(hak_verify(), 0);
        free_all(again);
        free_all(rest);
        (void)hak_purge();
    }
}

/* The list that came last is held when another one comes; if it is taken first, its slabs have not
   been looked at. */
TEST_F(Depot, TheListThatCameLastIsLoose)
{
    if (HAK_VALIDATE) {
        GTEST_SKIP() << "none is";
    }
    for (size_t size : kSizes) {
        uint32_t c = hak_sc_of(size);
        uint64_t bit = uint64_t{1} << c;
        std::vector<void *> rest = fill(size);
        std::set<void *> first = in_depot(hak_self, c);
        EXPECT_EQ(hak_self->depot_loose, bit);
        for (void *p : first) {
            EXPECT_TRUE(hak_super_lookup(p).is_allocated);
            EXPECT_FALSE(hak_bank_has_mark(p));
        }
        std::vector<void *> again; /* takes it, and returns it */
        while (hak_self->depot[c]) {
            again.push_back(hak_malloc(size));
        }
        EXPECT_EQ(hak_self->depot_loose, 0u);
        EXPECT_EQ(hak_verify(), 0);
        rest.insert(rest.end(), again.begin(), again.end());
        size_t n = 0;
        while (!rest.empty() && n < 2) { /* until there are two lists */
            hak_free(rest.back());
            rest.pop_back();
            n = 0;
            for (void *at = hak_self->depot[c]; at; n++) {
                at = reinterpret_cast<void *>(static_cast<uintptr_t *>(at)[1] & 0xFFFFFFFFFFFFu);
            }
        }
        ASSERT_EQ(n, 2u) << size;
        EXPECT_EQ(hak_self->depot_loose, bit);
        std::set<void *> both = in_depot(hak_self, c);
        size_t held = 0;
        for (void *p : both) {
            EXPECT_EQ(hak_super_lookup(p).is_allocated, !hak_bank_has_mark(p));
            held += static_cast<size_t>(hak_bank_has_mark(p));
        }
        EXPECT_GT(held, 0u);
        EXPECT_LT(held, both.size());
        EXPECT_FALSE(hak_bank_has_mark(hak_self->depot[c]));
        EXPECT_EQ(hak_verify(), 0);
        free_all(rest);
        (void)hak_purge();
        EXPECT_EQ(hak_self->depot_loose, 0u);
    }
}

/* Enough that bins overflow with lists of their largest length. */
const size_t kRowBlocks = HAK_TINY_OR(3000, 60000);

TEST_F(Depot, RowsWaitForTheNextBlocksOfTheirClass)
{
    hak_options.ace_keep = uint64_t{1} << 30;
    free_all(allocate(kRowBlocks, 64));
    EXPECT_EQ(hak_self->row_bytes, hak_self->depot_bytes[0]);
    EXPECT_EQ(hak_stat_get(depot_row_bytes), static_cast<int64_t>(hak_self->row_bytes));
    if (HAK_VALIDATE) {
        EXPECT_EQ(hak_self->row_bytes, 0u) << "each block is looked at when its bin overflows";
        return;
    }
    EXPECT_GT(hak_self->row_bytes, 0u);
    EXPECT_EQ(hak_verify(), 0);
    std::vector<void *> again = allocate(kRowBlocks, 64);
    EXPECT_EQ(std::set<void *>(again.begin(), again.end()).size(), again.size());
    EXPECT_EQ(hak_self->row_bytes, 0u) << "before slabs are asked";
    free_all(again);
    EXPECT_GT(hak_self->row_bytes, 0u);
    (void)hak_purge();
    EXPECT_EQ(hak_self->row_bytes, 0u);
    EXPECT_EQ(hak_stat_get(depot_row_bytes), 0);
}

TEST_F(Depot, NoMoreRowsWaitThanMayBeKept)
{
    for (uint64_t keep : {uint64_t{0}, uint64_t{256} << 10}) {
        hak_options.ace_keep = keep;
        std::vector<void *> blocks = allocate(kRowBlocks, 64);
        uint64_t most = 0;
        for (void *p : blocks) {
            hak_free(p);
            most = std::max<uint64_t>(most, hak_self->row_bytes);
        }
        EXPECT_LE(most, keep + hak_options.bin_bytes) << "one list more";
        EXPECT_LE(hak_stat_get(depot_row_bytes),
                  static_cast<int64_t>(keep + hak_options.bin_bytes));
        (void)hak_purge();
    }
}

/* What waits of one class becomes slabs of another, and then waits no more for a while. */
TEST_F(Depot, GrowthTakesRowsFirst)
{
    hak_options.ace_keep = uint64_t{1} << 30;
    free_all(allocate(kRowBlocks, 64));
    uint64_t waiting = hak_self->row_bytes;
    if (waiting) {
        std::vector<void *> others = allocate(kRowBlocks / 10, 512);
        EXPECT_LT(hak_self->row_bytes, waiting);
        EXPECT_GT(hak_self->row_pause, 0u);
        free_all(allocate(kRowBlocks / 10, 64));
        free_all(others);
    }
    EXPECT_EQ(hak_verify(), 0);
}

/* Rows of a thread that sleeps are found behind a heap that put lists later, and has none left. */
TEST_F(Depot, GrowthTakesRowsOfEachHeap)
{
    hak_options.ace_keep = uint64_t{1} << 30;
    free_all(allocate(kRowBlocks, 64));
    struct theap *heap = hak_self;
    std::thread([heap] {
        hak_free(hak_malloc(1));
        uint64_t waiting = atomic_load_relaxed(&heap->row_bytes);
        hak_depot_last = hak_self;
        for (int i = 0; i < 2; i++) {
            ASSERT_TRUE(hak_gate_enter());
            hak_depot_relieve(2 * SC_SLAB_BYTES);
            hak_gate_leave();
        }
        EXPECT_TRUE(!waiting || atomic_load_relaxed(&heap->row_bytes) < waiting);
    }).join();
    EXPECT_EQ(hak_verify(), 0);
}

/* One of several threads may sleep for ever, and only the background thread looks after it. */
TEST_F(Depot, NoRowsWaitThatNobodySeesTo)
{
    hak_options.ace_keep = uint64_t{1} << 30;
    std::thread([this] {
        free_all(allocate(kRowBlocks, 64));
        if (atomic_load_relaxed(&hak_background_state) != BACKGROUND_RUNNING) {
            EXPECT_EQ(hak_self->row_bytes, 0u);
        }
    }).join();
    EXPECT_EQ(hak_verify(), 0);
}

TEST_F(Depot, HoldsAPartOfTheHeapAtMost)
{
    Rng rng(1);
    std::vector<void *> blocks;
    for (int i = 0; i < HAK_TINY_OR(500, 8000); i++) {
        blocks.push_back(hak_malloc(rng.between(1025, 16384)));
    }
    uint64_t most = 0;
    for (size_t left = blocks.size(); left > 0; left--) {
        std::swap(blocks[rng.below(left)], blocks[left - 1]);
        hak_free(blocks[left - 1]);
        uint64_t slabs = uint64_t{hak_self->owner.bank.n_slabs} * SC_SLAB_BYTES;
        /* The share is looked at when a list comes; then slabs go. */
        if (mid_bytes(hak_self) > most) {
            EXPECT_LE(mid_bytes(hak_self), std::max<uint64_t>(slabs / 4, DEPOT_LEAST_BYTES));
        }
        most = mid_bytes(hak_self);
    }
    EXPECT_LE(mid_bytes(hak_self), uint64_t{hak_self->owner.bank.n_slabs} * SC_SLAB_BYTES);
    hak_options.cache_bytes = 0;
    (void)hak_purge();
    free_all(allocate(HAK_TINY_OR(50, 3000), 5000));
    EXPECT_LE(mid_bytes(hak_self), DEPOT_LEAST_BYTES) << "the option bounds it";
}

/* Before a fresh slab is made, a slab's worth goes back. */
TEST_F(Depot, AHeapDoesNotGrowByIt)
{
    std::vector<void *> rest = fill(2000);
    uint64_t before = mid_bytes(hak_self);
    ASSERT_GT(before, 0u);
    std::vector<void *> others = allocate(1, 12000); /* of a class that has no slab */
    EXPECT_LT(mid_bytes(hak_self), before);
    EXPECT_EQ(mid_bytes(hak_self), before > SC_SLAB_BYTES ? mid_bytes(hak_self) : 0u);
    free_all(rest);
    free_all(others);
}

TEST_F(Depot, BlocksInItAreFree)
{
    for (size_t size : kSizes) {
        std::vector<void *> rest = fill(size);
        hold();
        std::set<void *> held = in_depot(hak_self, hak_sc_of(size));
        for (void *p : held) {
            struct ss_lookup found = hak_super_lookup(p);
            EXPECT_EQ(found.start, p);
            EXPECT_FALSE(found.is_allocated);
        }
        std::set<void *> walked;
        hak_walk(
            [](void *p, size_t, void *context) {
                static_cast<std::set<void *> *>(context)->insert(p);
                return 0;
            },
            &walked);
        for (void *p : held) {
            EXPECT_EQ(walked.count(p), 0u);
        }
        free_all(rest);
    }
}

TEST_F(Depot, WhatEmptiesAHeapEmptiesIt)
{
    std::vector<void *> rest = fill(5000);
    free_all(rest);
    hak_theap_trim_own();
    EXPECT_EQ(mid_bytes(hak_self), 0u);
    free_all(fill(5000));
    EXPECT_GT(mid_bytes(hak_self), 0u);
    hak_theap_trim_all();
    EXPECT_EQ(mid_bytes(hak_self), 0u);
    free_all(fill(5000));
    struct theap *heap = hak_self;
    std::thread([heap] {
        for (int i = 0; i < 3 && mid_bytes(heap); i++) {
            hak_theap_rest_all(); /* as the background thread does when the heap is idle */
        }
    }).join();
    EXPECT_EQ(mid_bytes(heap), 0u);
}

TEST_F(Depot, AThreadThatEndsLeavesNothingInIt)
{
    std::thread([] {
        free_all(fill(3000));
        EXPECT_GT(mid_bytes(hak_self), 0u);
    }).join();
    EXPECT_EQ(hak_stat_get(heap_used_bytes), 0);
}

/* A slab with blocks in the depot goes to another heap: they follow it, as strays. */
TEST_F(Depot, BlocksFollowASlabThatChangesItsHeap)
{
    const size_t size = 5000;
    const uint32_t c = hak_sc_of(size);
    std::vector<void *> rest = fill(size);
    std::set<void *> held = in_depot(hak_self, c);
    struct theap *heap = hak_self;
    std::vector<void *> theirs;
    std::thread([&] {
        hak_free(hak_malloc(1));
        free_all({hak_malloc(size)});
        struct theap *other = hak_self;
        hak_lock_acquire(&heap->owner.lock);
        ASSERT_EQ(hak_lock_try(&other->owner.lock), 1);
        while (hak_bank_n_partial(&heap->owner.bank, c)) {
            hak_bank_move_one(&heap->owner.bank, &other->owner.bank, c);
        }
        hak_lock_release(&other->owner.lock);
        hak_lock_release(&heap->owner.lock);
        EXPECT_EQ(hak_verify(), 0);
    }).join();
    EXPECT_EQ(hak_verify(), 0);
    theirs =
        allocate(held.size(), size); /* takes the lists: what is not ours any more is sent on */
    EXPECT_EQ(hak_verify(), 0);
    std::set<void *> distinct(theirs.begin(), theirs.end());
    EXPECT_EQ(distinct.size(), theirs.size());
    for (void *p : theirs) {
        EXPECT_EQ(std::count(rest.begin(), rest.end(), p), 0) << "was in use";
    }
    free_all(theirs);
    free_all(rest);
}

TEST_F(Depot, VerifySeesEachBrokenEquation)
{
    std::vector<void *> rest = fill(5000);
    uint32_t c = hak_sc_of(5000);
    void *head = hak_self->depot[c];
    hold();
    ASSERT_EQ(hak_verify(), 0);
    hak_self->depot_loose = 1; /* a tiny class's */
    EXPECT_EQ(hak_verify(), VERIFY_DEPOT_BYTES);
    hak_self->depot_loose = 0;
    hak_self->depot_bytes[1]++;
    EXPECT_EQ(hak_verify(), VERIFY_DEPOT_BYTES);
    hak_self->depot_bytes[1]--;
    static_cast<uintptr_t *>(head)[1] += uintptr_t{1} << 48;
    EXPECT_EQ(hak_verify(), VERIFY_DEPOT_LIST);
    static_cast<uintptr_t *>(head)[1] -= uintptr_t{1} << 48;
    struct slab *slab = hak_pool_slab_of(hak_map_get(head).ref, head);
    hak_self->depot_blocks[c]++;
    EXPECT_EQ(hak_verify(), VERIFY_DEPOT_BYTES);
    hak_self->depot_blocks[c]--;
    uint64_t mark = *hak_bank_mark(head);
    *hak_bank_mark(head) = 0;
    EXPECT_EQ(hak_verify(), VERIFY_DEPOT_HELD);
    *hak_bank_mark(head) = mark;
    uint64_t note = hak_bank_mark(head)[1];
    if (HAK_TINY_OR(0, 1)) { /* else its lists are single blocks, which note none */
        hak_bank_mark(head)[1] = 0;
        EXPECT_EQ(hak_verify(), VERIFY_DEPOT_HELD);
        EXPECT_EXIT(allocate(1000, 5000), testing::KilledBySignal(SIGABRT),
                    "freed block written to");
    }
    hak_bank_mark(head)[1] = note;
    uint32_t index =
        hak_sc_index_of(c, static_cast<uint32_t>(static_cast<char *>(head) - slab->base));
    slab->bits[0] |= uint64_t{1} << index;
    slab->n_free++;
    uint16_t hint = slab->hint;
    slab->hint = 0;
    EXPECT_EQ(hak_slab_verify(slab), VERIFY_SLAB_HELD);
    slab->hint = hint;
    slab->bits[0] &= ~(uint64_t{1} << index);
    slab->n_free--;
    EXPECT_EQ(hak_verify(), 0);
    free_all(rest);
}

/* Random calls of several sizes against an oracle, with trims in between. */
TEST_F(Depot, RandomCallsAgreeWithAnOracle)
{
    Rng rng(3);
    struct Block {
        size_t size;
        unsigned char pattern;
    };
    std::vector<std::pair<unsigned char *, Block>> live;
    for (int step = 0; step < HAK_TINY_OR(300, 1500); step++) {
        size_t size = kSizes[rng.below(6)] - rng.below(16);
        bool grows = live.size() < 100 || (live.size() < 2000 && rng.one_in(2));
        for (size_t n = rng.between(1, HAK_TINY_OR(20, 120)); n > 0 && (grows || !live.empty());
             n--) {
            if (grows) {
                Block block = {size, static_cast<unsigned char>(rng.next())};
                auto *p = static_cast<unsigned char *>(hak_malloc(size));
                ASSERT_NE(p, nullptr);
                p[0] = p[8] = p[size / 2] = p[size - 1] = block.pattern;
                live.emplace_back(p, block);
            } else {
                size_t i = rng.below(live.size());
                const Block &block = live[i].second;
                unsigned char *p = live[i].first;
                ASSERT_TRUE(p[0] == block.pattern && p[8] == block.pattern &&
                            p[block.size / 2] == block.pattern &&
                            p[block.size - 1] == block.pattern);
                hak_free(p);
                live[i] = live.back();
                live.pop_back();
            }
        }
        if (rng.one_in(40)) {
            (void)hak_purge();
            EXPECT_EQ(mid_bytes(hak_self), 0u);
        }
        ASSERT_EQ(hak_verify(), 0) << step;
    }
    for (const auto &block : live) {
        hak_free(block.first);
    }
}

/* --- tiny blocks --- */

uint64_t tiny_bytes()
{
    return hak_self->depot_bytes[0];
}

/* Frees blocks of many slabs of a class in no order, so that lists of them are in the depot.
   Returns how many. */
size_t scatter(size_t size)
{
    std::vector<void *> blocks = allocate(HAK_TINY_OR(40, 20) * (SC_SLAB_BYTES / size), size);
    Rng rng(7);
    for (size_t i = blocks.size() - 1; i > 0; i--) {
        std::swap(blocks[i], blocks[rng.below(i + 1)]);
    }
    free_all(blocks);
    EXPECT_NE(hak_self->depot[hak_sc_of(size)], nullptr);
    EXPECT_EQ(hak_verify(), 0);
    return blocks.size();
}

TEST_F(Depot, ScatteredTinyListsComeBackAsLists)
{
    size_t n = scatter(256);
    uint32_t c = hak_sc_of(256);
    std::set<void *> held = in_depot(hak_self, c);
    EXPECT_EQ(tiny_bytes(), held.size() * hak_sc_table[c].size);
    EXPECT_LE(tiny_bytes(), hak_options.cache_bytes);
    EXPECT_GT(held.size(), HAK_TINY_OR(n / 100, n / 2));
    int64_t made = hak_stat_get(slabs_made);
    std::vector<void *> again = allocate(n, 256);
    EXPECT_EQ(hak_self->depot[c], nullptr);
    EXPECT_LE(hak_stat_get(slabs_made), made + HAK_TINY_OR(40, 0)) << "a list was passed over";
    EXPECT_EQ(std::set<void *>(again.begin(), again.end()).size(), again.size());
    EXPECT_EQ(hak_verify(), 0);
    free_all(again);
}

TEST_F(Depot, TinyListsOfOneSlabEachGoToTheirSlabs)
{
    std::vector<void *> blocks = allocate(20 * (SC_SLAB_BYTES / 256), 256);
    std::sort(blocks.begin(), blocks.end());
    Rng rng(1); /* in no row */
    for (size_t i = 0; i < blocks.size(); i++) {
        size_t first = i - i % (SC_SLAB_BYTES / 256);
        std::swap(blocks[i], blocks[first + rng.below(i - first + 1)]);
    }
    free_all(blocks);
    EXPECT_EQ(tiny_bytes(), 0u);
}

/* Blocks that lie all over their slabs keep all of these: they must not wait while the process
   takes other memory, of whatever kind, for whatever thread. */
TEST_F(Depot, GrowthEmptiesItOfTinyLists)
{
    for (int way = 0; way < 4; way++) {
        scatter(256);
        std::vector<void *> blocks;
        auto grow = [&] {
            size_t size = way % 2 ? 100000 : 1000;
            for (size_t n = 0; tiny_bytes() && n < HAK_TINY_OR(4000u, 2000u); n++) {
                blocks.push_back(hak_malloc(size));
            }
        };
        theap *mine = hak_self;
        if (way < 2) {
            grow();
        } else {
            std::thread([&] {
                size_t size = way % 2 ? 100000 : 1000;
                for (size_t n = 0; n < HAK_TINY_OR(4000u, 2000u); n++) {
                    blocks.push_back(hak_malloc(size));
                }
            }).join();
        }
        EXPECT_EQ(mine->depot_bytes[0], 0u) << way;
        EXPECT_EQ(hak_verify(), 0);
        free_all(blocks);
        (void)hak_purge();
    }
}

TEST_F(Depot, TinyListsOfClassesThatSleepGoToTheirSlabs)
{
    scatter(256);
    uint64_t before = tiny_bytes();
    hak_self->awake = 0;
    hak_self->window_left = 0; /* the next list from behind the lock ends the window */
    int64_t refills = hak_stat_get(refills);
    std::vector<void *> blocks;
    while (hak_stat_get(refills) == refills) {
        blocks.push_back(hak_malloc(16));
    }
    EXPECT_LT(tiny_bytes(), before);
    EXPECT_EQ(hak_self->depot[hak_sc_of(256)] == nullptr, tiny_bytes() == 0);
    EXPECT_EQ(tiny_bytes() != 0, HAK_TINY_OR(before > 64 * 256, 0));
    free_all(blocks);
}

using DepotDeathTest = Depot;

/* `between` blocks are freed between the two: they are in one list, which leads in a circle, or in
   two. */
void free_twice(size_t between)
{
    std::vector<void *> blocks = allocate(40 * (SC_SLAB_BYTES / 256), 256);
    Rng rng(7);
    for (size_t i = blocks.size() - 1; i > 0; i--) {
        std::swap(blocks[i], blocks[rng.below(i + 1)]);
    }
    blocks.insert(blocks.begin() + static_cast<long>(100 + between), blocks[100]);
    free_all(blocks);
    (void)hak_purge();
}

TEST_F(DepotDeathTest, ATinyBlockFreedTwiceIsFoundWhenItComesToItsSlab)
{
    for (size_t between : {1u, 20u, 3000u}) {
        EXPECT_EXIT(free_twice(between), testing::KilledBySignal(SIGABRT), "block freed twice");
    }
}

/* With so many others freed in between that neither bin nor spare holds the block any more. */
TEST_F(DepotDeathTest, ABlockFreedTwiceIsFoundOnTheWayIn)
{
    for (size_t size : kSizes) {
        auto free_twice = [size] {
            std::vector<void *> blocks = allocate(HAK_TINY_OR(40u, 1000u), size);
            void *twice = blocks[0];
            hak_free(twice);
            size_t i = 1;
            while (!in_depot(hak_self, hak_sc_of(size)).count(twice)) {
                hak_free(blocks.at(i++));
            }
            hak_free(twice);
            for (; i < blocks.size(); i++) {
                hak_free(blocks[i]);
            }
            (void)hak_purge();
        };
        EXPECT_EXIT(free_twice(), testing::KilledBySignal(SIGABRT), "hakmem: block freed twice")
            << size;
    }
}

TEST_F(DepotDeathTest, ABlockInItIsFreeToReallocAndUsableSize)
{
    std::vector<void *> rest = fill(5000);
    hold();
    void *p = *in_depot(hak_self, hak_sc_of(5000)).begin();
    EXPECT_EXIT(hak_free(hak_realloc(p, 6000)), testing::KilledBySignal(SIGABRT), "freed block");
    EXPECT_EXIT((void)hak_usable_size(p), testing::KilledBySignal(SIGABRT), "freed block");
    free_all(rest);
}

/* What is freed in random order leaves single blocks from all over the slabs in the lists, and each
   would keep its slab: of a thread that then sleeps, for ever. */
TEST_F(Depot, AHeapThatFallsEmptiesItsLists)
{
    if (HAK_TINY_OR(1, 0)) {
        GTEST_SKIP() << "its heaps are never so large";
    }
    hak_options.cache_bytes = 16 * SC_SLAB_BYTES;
    for (uint64_t seed = 1; seed <= 2; seed++) {
        Rng rng(seed);
        std::vector<void *> blocks;
        while (hak_stat_get(heap_used_bytes) < 1000 * static_cast<int64_t>(SC_SLAB_BYTES)) {
            blocks.push_back(hak_malloc(rng.one_in(2) ? 100 : 200));
        }
        const int64_t peak = hak_stat_get(heap_used_bytes);
        for (size_t i = blocks.size(); i-- > 1;) {
            std::swap(blocks[i], blocks[rng.below(i + 1)]);
        }
        for (size_t i = 0; i < blocks.size(); i++) {
            hak_free(blocks[i]);
            if (i % 100 == 0) { /* one that allocates a little falls too */
                hak_free(hak_malloc(100));
            }
        }
        EXPECT_EQ(hak_verify(), 0);
        EXPECT_LT(hak_stat_get(heap_used_bytes), peak / 8) << "of " << peak;
        EXPECT_GE(hak_stat_get(bin_budget), 0);
    }
}

} // namespace
