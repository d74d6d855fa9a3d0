/* Tests of slabs: taking and collecting blocks of every class, against an oracle; bad pointers
   abort. */
#include "superslab/slab.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <gtest/gtest.h>
#include <set>
#include <vector>

#include "base/os.h"
#include "base/verify.h"
#include "testing/failing_os.h"
#include "testing/rng.h"

namespace
{

using hak_testing::Rng;

/* A slab over memory of its own. */
class Slab
{
  public:
    explicit Slab(uint32_t size_class, int is_clean = 0)
    {
        memset(&slab, 0xEE, sizeof slab);
        slab.n_touched = 0; /* of no slab before */
        memset(far_bits, 0xEE, sizeof far_bits);
        memory = static_cast<char *>(aligned_alloc(SC_SLAB_BYTES, SC_SLAB_BYTES));
        hak_slab_init(&slab, memory, 7, size_class, far_bits, is_clean);
    }
    ~Slab()
    {
        free(memory);
    }
    /* As its bank would: in the list while it has free blocks. */
    int verify()
    {
        slab.list = slab.n_free ? SLAB_PARTIAL : SLAB_FULL;
        return hak_slab_verify(&slab);
    }
    /* All blocks that are free. */
    std::vector<char *> take_all()
    {
        std::vector<char *> all;
        for (std::vector<char *> some; !(some = take(UINT32_MAX)).empty();) {
            all.insert(all.end(), some.begin(), some.end());
        }
        return all;
    }
    std::vector<char *> take(uint32_t want)
    {
        void *head;
        uint32_t n = hak_slab_take(&slab, want, 4096, &head);
        std::vector<char *> blocks;
        for (; head; head = hak_link_next(head)) {
            blocks.push_back(static_cast<char *>(head));
        }
        EXPECT_EQ(blocks.size(), n);
        return blocks;
    }
    struct slab slab;
    uint64_t far_bits[SLAB_MAX_WORDS];
    char *memory;
};

TEST(Slab, HandsOutEachBlockOnceInAscendingOrder)
{
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        Slab s(c);
        EXPECT_EQ(s.verify(), 0);
        EXPECT_TRUE(hak_slab_is_empty(&s.slab));
        std::vector<char *> blocks = s.take_all();
        ASSERT_EQ(blocks.size(), hak_sc_table[c].capacity);
        for (size_t i = 0; i < blocks.size(); i++) {
            ASSERT_EQ(blocks[i], s.memory + i * hak_sc_table[c].size) << c;
        }
        EXPECT_EQ(s.slab.n_free, 0);
        EXPECT_EQ(s.verify(), 0);
        EXPECT_FALSE(hak_slab_is_empty(&s.slab));
        EXPECT_TRUE(s.take(1).empty());
        EXPECT_TRUE(s.take(0).empty());
        for (char *block : blocks) {
            hak_slab_put(&s.slab, block);
        }
        EXPECT_TRUE(hak_slab_is_empty(&s.slab));
        EXPECT_EQ(s.verify(), 0);
    }
}

/* Fresh blocks are not touched before they are asked for; about a page of them is served at a time.
 */
TEST(Slab, TouchesNoMoreThanAPageAhead)
{
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        Slab s(c);
        memset(s.memory, 0x77, SC_SLAB_BYTES);
        uint32_t n_blocks = s.slab.size > 4096 ? 1 : 4096 / s.slab.size;
        EXPECT_EQ(s.take(UINT32_MAX).size(), n_blocks);
        EXPECT_EQ(s.slab.n_free, s.slab.capacity - n_blocks);
        EXPECT_EQ(s.verify(), 0);
        for (size_t i = n_blocks * s.slab.size; i < SC_SLAB_BYTES; i++) {
            ASSERT_EQ(s.memory[i], 0x77);
        }
        EXPECT_EQ(s.take(1).size(), s.slab.capacity > n_blocks ? 1u : 0u);
        EXPECT_EQ(s.verify(), 0);
    }
}

/* What was freed comes first, lowest addresses first; fresh blocks only when there is no other. */
TEST(Slab, RandomTakesAndPutsAgreeWithAnOracle)
{
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        Rng rng(c);
        Slab s(c);
        std::set<char *> freed;
        std::vector<char *> live;
        uint32_t fresh = 0, capacity = s.slab.capacity,
                 page = s.slab.size > 4096 ? 1 : 4096 / s.slab.size;
        for (int step = 0; step < 300; step++) {
            if (live.empty() || rng.one_in(2)) {
                uint32_t want = static_cast<uint32_t>(rng.between(1, 1 + capacity / 4));
                size_t expected = freed.empty() ? std::min({want, page, capacity - fresh})
                                                : std::min(static_cast<size_t>(want), freed.size());
                bool from_fresh = freed.empty();
                std::vector<char *> blocks = s.take(want);
                ASSERT_EQ(blocks.size(), expected);
                for (char *block : blocks) {
                    if (from_fresh) {
                        ASSERT_EQ(block, s.memory + fresh++ * s.slab.size);
                    } else {
                        ASSERT_EQ(block, *freed.begin()) << "the lowest first";
                        freed.erase(block);
                    }
                    live.push_back(block);
                }
            } else {
                for (size_t n = rng.between(1, live.size()); n > 0; n--) {
                    size_t i = rng.below(live.size());
                    hak_slab_put(&s.slab, live[i]);
                    freed.insert(live[i]);
                    live[i] = live.back();
                    live.pop_back();
                }
            }
            ASSERT_EQ(s.slab.n_free, freed.size() + capacity - fresh);
            ASSERT_EQ(s.verify(), 0) << "class " << c << " step " << step;
        }
    }
}

/* Collects a list, which ends in the slab. */
uint32_t put_list(struct slab *slab, const std::vector<char *> &blocks)
{
    uint32_t n = 0;
    for (size_t i = 0; i < blocks.size(); i++) {
        hak_link_set(blocks[i], i + 1 < blocks.size() ? blocks[i + 1] : nullptr);
    }
    for (char *block = blocks.empty() ? nullptr : blocks[0]; hak_slab_is_same(block, slab->base);) {
        block = hak_slab_put_next(slab, &hak_sc_table[slab->size_class], block, &n);
    }
    return n;
}

/* Rows up, rows down, rows of every length that bend, end at either edge or lie across words, and
   blocks in no order: each comes back once. */
/* Of two slabs that are used alike, one gives the blocks that the other gives as a list. */
TEST(Slab, PicksWhatAListWouldHaveAndTouchesNothing)
{
    Rng rng(11);
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        Slab a(c), b(c);
        std::vector<size_t> used; /* offsets */
        memset(b.memory, 0xAA, SC_SLAB_BYTES);
        for (int step = 0; step < 100; step++) {
            void *blocks[8];
            uint32_t want = static_cast<uint32_t>(rng.between(1, 8));
            std::vector<char *> taken = a.take(want);
            uint32_t n = hak_slab_pick(&b.slab, want, 4096, blocks);
            ASSERT_EQ(n, taken.size());
            for (uint32_t i = 0; i < n; i++) {
                const char *block = static_cast<const char *>(blocks[i]);
                size_t at = static_cast<size_t>(block - b.memory);
                ASSERT_EQ(at, static_cast<size_t>(taken[i] - a.memory));
                ASSERT_EQ(*block, static_cast<char>(0xAA)) << "untouched";
                used.push_back(at);
            }
            ASSERT_EQ(a.slab.took_clean, b.slab.took_clean);
            for (size_t k = rng.below(8); k && !used.empty(); k--) {
                size_t i = rng.below(used.size()), at = used[i];
                used.erase(used.begin() + static_cast<long>(i));
                hak_slab_put(&a.slab, a.memory + at);
                hak_slab_put(&b.slab, b.memory + at);
                memset(b.memory + at, 0xAA, sizeof(void *));
            }
            ASSERT_EQ(b.verify(), 0) << c;
            ASSERT_EQ(a.slab.n_free, b.slab.n_free);
        }
    }
}

TEST(Slab, ListsInAnyOrderComeBack)
{
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        Rng rng(c);
        Slab s(c);
        std::vector<char *> all = s.take_all();
        for (int step = 0; step < 60; step++) {
            std::vector<char *> list;
            std::vector<bool> is_in(all.size());
            for (size_t n = rng.between(1, 8); n > 0; n--) {
                size_t at = rng.below(all.size()), length = rng.between(1, all.size());
                bool is_down = rng.one_in(2);
                size_t stride = rng.one_in(2) ? 1 : rng.between(2, 4);
                for (; at < all.size() && length > 0 && !is_in[at]; length--) {
                    is_in[at] = true;
                    list.push_back(all[at]);
                    at += is_down ? 0 - stride : stride; /* below 0 is beyond the end */
                }
            }
            for (size_t i = 0; step % 3 == 0 && i + 4 < list.size(); i++) {
                std::swap(list[i], list[i + rng.below(4)]);
            }
            ASSERT_EQ(put_list(&s.slab, list), list.size());
            ASSERT_EQ(s.slab.n_free, list.size());
            ASSERT_EQ(s.verify(), 0) << "class " << c << " step " << step;
            for (size_t i = 0; i < all.size(); i++) {
                ASSERT_EQ(hak_slab_shows_free(&s.slab, static_cast<uint32_t>(i)), is_in[i]);
            }
            std::sort(list.begin(), list.end());
            ASSERT_EQ(s.take(UINT32_MAX), list);
        }
    }
}

/* What blocks of an earlier slab have touched is taken more at a time; not so if the unit has been
   purged since. */
TEST(Slab, TakesMoreWhereAnEarlierSlabWas)
{
    for (uint32_t c : {hak_sc_of(16), hak_sc_of(208), hak_sc_of(1024), hak_sc_of(3000)}) {
        Slab s(c);
        const uint32_t size = s.slab.size;
        for (char *block : s.take_all()) {
            hak_slab_put(&s.slab, block);
        }
        hak_slab_init(&s.slab, s.memory, 7, c, s.far_bits, 0);
        EXPECT_EQ(s.take(UINT32_MAX).size(), 4 * 4096 / size);
        EXPECT_EQ(s.verify(), 0);
        hak_slab_init(&s.slab, s.memory, 7, c, s.far_bits, 1);
        EXPECT_EQ(s.take(UINT32_MAX).size(), 4096 / size);
        hak_slab_init(&s.slab, s.memory, 7, c, s.far_bits, 0);
        memset(s.memory, 0x77, SC_SLAB_BYTES);
        s.take(UINT32_MAX);
        s.take(UINT32_MAX);
        EXPECT_EQ(s.verify(), 0);
        for (size_t i = s.slab.fresh * size; i < SC_SLAB_BYTES; i++) {
            ASSERT_EQ(s.memory[i], 0x77);
        }
    }
}

TEST(Slab, VerifySeesEachBrokenEquation)
{
    for (uint32_t c :
         {hak_sc_of(16), hak_sc_of(48), hak_sc_of(144), hak_sc_of(5000), hak_sc_of(29000)}) {
        Slab s(c);
        s.take(1);
        ASSERT_EQ(s.verify(), 0);
        struct slab good = s.slab;
        auto broken = [&] {
            /* The bitmap of small capacities lies in the struct itself. */
            int result = hak_slab_verify(&s.slab);
            s.slab = good;
            return result;
        };
        s.slab.n_free++;
        EXPECT_NE(broken(), 0);
        s.slab.list = SLAB_FULL;
        EXPECT_NE(broken(), 0);
        s.slab.is_used = 0;
        EXPECT_NE(broken(), 0);
        s.slab.size += 16;
        EXPECT_NE(broken(), 0);
        s.slab.fresh = 0;
        EXPECT_NE(broken(), 0);
        s.slab.n_touched = 0;
        EXPECT_EQ(broken(), VERIFY_SLAB_TOUCHED);
        uint64_t word = s.slab.bits[0];
        s.slab.bits[0] ^= 1;
        EXPECT_NE(hak_slab_verify(&s.slab), 0);
        s.slab.bits[0] = word;
        if (s.slab.capacity % 64) {
            /* A bit above the capacity, in place of a valid one. */
            uint32_t last = (s.slab.capacity - 1) / 64;
            word = s.slab.bits[last];
            s.slab.bits[last] = (word & (word - 1)) | (uint64_t(1) << (s.slab.capacity % 64));
            EXPECT_NE(hak_slab_verify(&s.slab), 0) << c;
            s.slab.bits[last] = word;
        }
        EXPECT_EQ(s.verify(), 0);
    }
    /* A free block below the hint would never be found again. */
    Slab s(hak_sc_of(16));
    s.take(128);
    ASSERT_EQ(s.slab.hint, 2);
    s.slab.bits[0] |= 1;
    s.slab.n_free++;
    EXPECT_EQ(s.verify(), VERIFY_SLAB_HINT);
}

TEST(Slab, VerifyNamesTheBrokenEquation)
{
    Slab s(hak_sc_of(2000)); /* 32 blocks: the word is not full */
    ASSERT_NE(s.slab.capacity % 64, 0);
    while (s.slab.fresh < 2) {
        s.take(1);
    }
    s.slab.list = SLAB_PARTIAL;
    uint64_t *last = &s.slab.bits[s.slab.capacity / 64];
    *last |= uint64_t(1) << 63;
    EXPECT_EQ(hak_slab_verify(&s.slab), VERIFY_SLAB_CAPACITY);
    *last &= ~(uint64_t(1) << 63);
    s.slab.n_free--;
    EXPECT_EQ(hak_slab_verify(&s.slab), VERIFY_SLAB_COUNT);
    s.slab.n_free++;
    uint16_t fresh = s.slab.fresh;
    s.slab.fresh = 1;
    EXPECT_EQ(hak_slab_verify(&s.slab), VERIFY_SLAB_FRESH);
    s.slab.fresh = fresh;
    s.slab.is_used = 0;
    EXPECT_EQ(hak_slab_verify(&s.slab), VERIFY_SLAB_GEOMETRY);
    s.slab.is_used = 1;
    s.slab.list = SLAB_FULL;
    EXPECT_EQ(hak_slab_verify(&s.slab), VERIFY_SLAB_LISTED);
    s.slab.list = SLAB_PARTIAL;
    EXPECT_EQ(hak_slab_verify(&s.slab), 0);
}

TEST(SlabDeathTest, BlockFreedTwiceAborts)
{
    for (uint32_t c :
         {hak_sc_of(16), hak_sc_of(48), hak_sc_of(1000), hak_sc_of(28672), hak_sc_of(32768)}) {
        Slab s(c);
        char *block = s.take(1)[0];
        hak_slab_put(&s.slab, block);
        EXPECT_EXIT(hak_slab_put(&s.slab, block), testing::KilledBySignal(SIGABRT),
                    "^hakmem: block freed twice: 0x");
        /* Never handed out: just as free. */
        char *fresh = s.memory + (s.slab.capacity - 1) * s.slab.size;
        if (s.slab.capacity > 2) {
            EXPECT_EXIT(hak_slab_put(&s.slab, fresh), testing::KilledBySignal(SIGABRT),
                        "block freed twice");
        }
    }
}

/* In a row, which looks at no block by itself. */
TEST(SlabDeathTest, ABlockOfARowFreedTwiceAborts)
{
    for (uint32_t c : {hak_sc_of(16), hak_sc_of(48), hak_sc_of(1000), hak_sc_of(5000)}) {
        Slab s(c);
        std::vector<char *> all = s.take_all();
        char *twice = all[all.size() - 3];
        hak_slab_put(&s.slab, twice);
        char name[64];
        snprintf(name, sizeof name, "block freed twice: %p", static_cast<void *>(twice));
        EXPECT_EXIT(put_list(&s.slab, all), testing::KilledBySignal(SIGABRT), name);
        std::vector<char *> second;
        for (size_t i = (all.size() - 3) % 2; i < all.size(); i += 2) {
            second.push_back(all[i]);
        }
        EXPECT_EXIT(put_list(&s.slab, second), testing::KilledBySignal(SIGABRT), name);
        std::reverse(second.begin(), second.end());
        EXPECT_EXIT(put_list(&s.slab, second), testing::KilledBySignal(SIGABRT), name);
        std::reverse(all.begin(), all.end());
        EXPECT_EXIT(put_list(&s.slab, all), testing::KilledBySignal(SIGABRT), name);
        if (hak_slab_may_hold(&s.slab)) {
            Slab other(c);
            all = other.take_all();
            hak_slab_set_held(&other.slab, 2);
            EXPECT_EXIT(put_list(&other.slab, all), testing::KilledBySignal(SIGABRT),
                        "block freed twice");
            EXPECT_EXIT(put_list(&other.slab, {all[1]}), testing::KilledBySignal(SIGABRT),
                        "block freed twice");
        }
    }
}

/* The first link that is broken ends the process, in a row too. */
TEST(SlabDeathTest, ABrokenLinkInARowAborts)
{
    Slab s(hak_sc_of(64));
    std::vector<char *> all = s.take_all();
    auto put = [&] {
        for (size_t i = 0; i + 1 < all.size(); i++) {
            hak_link_set(all[i], all[i + 1]);
        }
        memset(all[20], 0x41, 8);
        uint32_t n = 0;
        hak_slab_put_next(&s.slab, &hak_sc_table[s.slab.size_class], all[0], &n);
    };
    EXPECT_EXIT(put(), testing::KilledBySignal(SIGABRT), "^hakmem: ");
}

/* What is no block, at a block's distance from the one before and the one behind. */
TEST(SlabDeathTest, NoStartOfABlockInARowAborts)
{
    for (uint32_t step : {1u, 2u}) {
        Slab s(hak_sc_of(48));
        std::vector<char *> all = s.take_all();
        char *at = all[20] + 16;
        ptrdiff_t distance = step * s.slab.size;
        std::vector<char *> list = {all[20], at, at + distance, at + 2 * distance};
        EXPECT_EXIT(put_list(&s.slab, list), testing::KilledBySignal(SIGABRT),
                    "not the start of a block");
        list = {all[20], all[20] + step * 48 - 16, all[20] + 2 * (step * 48 - 16)};
        EXPECT_EXIT(put_list(&s.slab, list), testing::KilledBySignal(SIGABRT),
                    "not the start of a block");
    }
}

/* What is wrong among blocks of one slab that lie in no row. */
TEST(SlabDeathTest, WhatIsWrongInARunAborts)
{
    Slab s(hak_sc_of(48));
    std::vector<char *> all = s.take_all(), run;
    for (size_t i = 0; i < 30; i++) {
        run.push_back(all[i * 37 % 100]);
    }
    for (size_t at : {0, 1, 2, 3, 17, 29}) {
        std::vector<char *> list = run;
        list[at] += 16;
        EXPECT_EXIT(put_list(&s.slab, list), testing::KilledBySignal(SIGABRT),
                    "not the start of a block");
        auto put_broken = [&] {
            for (size_t i = 0; i < run.size(); i++) {
                hak_link_set(run[i], i + 1 < run.size() ? run[i + 1] : nullptr);
            }
            memset(run[at], 0x41, 8);
            for (char *block = run[0]; hak_slab_is_same(block, s.memory);) {
                uint32_t n = 0;
                block = hak_slab_put_next(&s.slab, &hak_sc_table[s.slab.size_class], block, &n);
            }
        };
        EXPECT_EXIT(put_broken(), testing::KilledBySignal(SIGABRT), "^hakmem: ");
    }
    EXPECT_EQ(put_list(&s.slab, run), run.size());
    EXPECT_EXIT(put_list(&s.slab, {all[200], all[240], run[7], all[250]}),
                testing::KilledBySignal(SIGABRT), "block freed twice");
    EXPECT_EQ(s.verify(), 0);
}

TEST(SlabDeathTest, NoStartOfABlockAborts)
{
    const char *message = "^hakmem: invalid pointer freed \\(not the start of a block\\): 0x";
    for (uint32_t c : {hak_sc_of(16), hak_sc_of(48), hak_sc_of(1000), hak_sc_of(28672)}) {
        Slab s(c);
        std::vector<char *> blocks = s.take_all();
        EXPECT_EXIT(hak_slab_put(&s.slab, blocks[0] + 8), testing::KilledBySignal(SIGABRT),
                    message);
        EXPECT_EXIT(hak_slab_put(&s.slab, blocks[1] - 1), testing::KilledBySignal(SIGABRT),
                    message);
        size_t end = size_t(s.slab.capacity) * s.slab.size;
        if (end < SC_SLAB_BYTES) {
            EXPECT_EXIT(hak_slab_put(&s.slab, s.memory + end), testing::KilledBySignal(SIGABRT),
                        message);
        }
    }
}

size_t purge(struct slab *slab, uint16_t tick)
{
    return hak_slab_purge_pages(slab->base, hak_slab_ask_for_pages(slab, tick));
}

/* Pages of free blocks go back once the slab is cold, and only those. */
TEST(Slab, ColdPagesGoBack)
{
    const size_t page = hak_os_page_size();
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        Slab s(c);
        const size_t size = hak_sc_table[c].size;
        std::vector<char *> blocks = s.take_all();
        for (char *p : blocks) {
            memset(p, 9, size);
        }
        EXPECT_EQ(purge(&s.slab, 1), 0u) << "full";
        /* All but three blocks, far from each other. */
        std::set<size_t> kept = {0, blocks.size() / 2, blocks.size() - 1};
        std::set<size_t> pages_in_use;
        for (size_t i = 0; i < blocks.size(); i++) {
            if (kept.count(i)) {
                size_t offset = static_cast<size_t>(blocks[i] - s.memory);
                for (size_t at = offset / page; at <= (offset + size - 1) / page; at++) {
                    pages_in_use.insert(at);
                }
            } else {
                hak_slab_put(&s.slab, blocks[i]);
            }
        }
        EXPECT_EQ(purge(&s.slab, 2), 0u) << "seen for the first time";
        EXPECT_EQ(purge(&s.slab, 2), 0u) << "no time has passed";
        size_t expected = s.slab.n_free ? SC_SLAB_BYTES - pages_in_use.size() * page : 0;
        EXPECT_EQ(purge(&s.slab, 3), expected) << size;
        EXPECT_EQ(purge(&s.slab, 4), 0u) << "once is enough";
        for (size_t i : kept) {
            for (size_t k = 0; k < size; k++) {
                ASSERT_EQ(blocks[i][k], 9) << size;
            }
        }
        for (size_t at = 0; expected && at < SC_SLAB_BYTES / page; at++) {
            const char *start = s.memory + at * page;
            ASSERT_TRUE(pages_in_use.count(at) ||
                        std::count(start, start + page, 0) == static_cast<long>(page))
                << size;
        }
        EXPECT_EQ(s.verify(), 0);
        /* A slab that is used again is not cold. */
        std::vector<char *> again = s.take(1);
        if (!again.empty()) {
            EXPECT_EQ(purge(&s.slab, 5), 0u);
            hak_slab_put(&s.slab, again[0]);
            EXPECT_EQ(purge(&s.slab, 6), 0u);
        }
    }
}

/* With tick 0 at once; what the system refused, or has purged, is not asked for again until
   blocks were taken; what was never touched is not asked for at all. */
TEST(Slab, PagesGoBackAtOnceAndAreAskedForOnce)
{
    const uint32_t page = static_cast<uint32_t>(hak_os_page_size()), n_pages = SC_SLAB_BYTES / page;
    const uint32_t c = hak_sc_of(1024);
    Slab s(c);
    std::vector<char *> blocks = s.take_all();
    EXPECT_EQ(purge(&s.slab, 0), 0u) << "full";
    for (size_t i = 1; i < blocks.size(); i++) {
        hak_slab_put(&s.slab, blocks[i]);
    }
    {
        hak_testing::FailingOs os;
        os.fail_always(hak_testing::OS_MADVISE);
        EXPECT_EQ(purge(&s.slab, 0), 0u);
        EXPECT_EQ(os.calls(hak_testing::OS_MADVISE), 1u);
        EXPECT_EQ(purge(&s.slab, 0), 0u);
        EXPECT_EQ(os.calls(hak_testing::OS_MADVISE), 1u) << "asked for again";
    }
    hak_slab_put(&s.slab, s.take(1)[0]);
    EXPECT_EQ(purge(&s.slab, 0), size_t(n_pages - 1) * page);
    EXPECT_EQ(purge(&s.slab, 0), 0u);
    hak_slab_put(&s.slab, blocks[0]);
    EXPECT_EQ(purge(&s.slab, 0), page) << "one more is free";

    Slab clean(c, 1);
    char *first = clean.take(1)[0];
    EXPECT_EQ(purge(&clean.slab, 0), 0u) << "nothing was ever touched but the first page";
    hak_slab_put(&clean.slab, first);
    EXPECT_EQ(purge(&clean.slab, 0), page);
}

/* Blocks that were never handed out read as zero if the unit did; no other ones do. */
TEST(SlabTest, FreshBlocksOfACleanUnitAreClean)
{
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        for (int is_clean = 0; is_clean < 2; is_clean++) {
            Slab s(c, is_clean);
            std::vector<char *> first = s.take(1);
            EXPECT_EQ(s.slab.took_clean, is_clean);
            hak_slab_put(&s.slab, first[0]);
            EXPECT_EQ(s.take(1), first);
            EXPECT_EQ(s.slab.took_clean, 0) << "was used before";
            if (s.slab.n_free) {
                s.take(1);
                EXPECT_EQ(s.slab.took_clean, is_clean);
            }
        }
    }
}

} // namespace
