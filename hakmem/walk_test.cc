/* Tests of walks over the blocks of the process. */
#include <atomic>
#include <cstring>
#include <gtest/gtest.h>
#include <map>
#include <thread>
#include <vector>

#include "base/attributes.h"
#include "hakmem/hakmem.h"
#include "hakmem/walk.h"
#include "superslab/pool.h"
#include "superslab/superslab.h"
#include "testing/rng.h"

namespace
{

using hak_testing::Rng;
using Blocks = std::map<void *, size_t>;

/* The process's own malloc is libc's: maps do not disturb what is walked. */
int note(void *block, size_t size, void *context)
{
    auto &blocks = *static_cast<Blocks *>(context);
    EXPECT_TRUE(blocks.emplace(block, size).second) << "told twice: " << block;
    return 0;
}

Blocks walk()
{
    Blocks blocks;
    EXPECT_EQ(hak_walk(note, &blocks), 0);
    return blocks;
}

size_t some_size(Rng &rng)
{
    return rng.one_in(100)  ? rng.below(4 << 20)
           : rng.one_in(10) ? rng.below(200000)
                            : rng.below(4000);
}

TEST(Walk, TellsOfEachLiveBlockOnce)
{
    Rng rng(1);
    Blocks live;
    ASSERT_TRUE(walk().empty()) << "nothing of hakmem is in use at first";
    for (int step = 0; step < 3000; step++) {
        if (rng.one_in(3) && !live.empty()) {
            auto at = live.lower_bound(reinterpret_cast<void *>(rng.next() >> 17));
            at = at == live.end() ? live.begin() : at;
            hak_free(at->first);
            live.erase(at);
        } else {
            void *p = hak_malloc(some_size(rng));
            live.emplace(p, hak_usable_size(p));
        }
        if (step % 100 == 0) {
            ASSERT_EQ(walk(), live);
            ASSERT_EQ(hak_verify(), 0);
        }
    }
    for (auto &block : live) {
        hak_free(block.first);
    }
    EXPECT_TRUE(walk().empty());
}

TEST(Walk, BlocksOfThreadsThatEndedAndOfHeaps)
{
    Blocks live;
    std::thread([&live] {
        for (size_t size : {50, 3000, 50000}) {
            void *p = hak_malloc(size);
            live.emplace(p, hak_usable_size(p));
            hak_free(hak_malloc(size)); /* in the cache until the thread ends */
        }
    }).join();
    struct hak_heap *heap = hak_heap_create();
    for (size_t size : {70, 4000, 60000, 3 << 20}) {
        void *p = hak_heap_malloc(heap, size);
        live.emplace(p, hak_usable_size(p));
    }
    EXPECT_EQ(walk(), live);
    hak_heap_destroy(heap);
    EXPECT_EQ(walk().size(), 3u);
    for (auto &block : walk()) {
        hak_free(block.first);
    }
    EXPECT_EQ(hak_verify(), 0);
}

TEST(Walk, ACallbackEndsItWithItsResult)
{
    void *p = hak_malloc(100), *q = hak_malloc(100000);
    size_t n = 0;
    auto stop = [](void *, size_t, void *context) {
        return ++*static_cast<size_t *>(context) == 1 ? 77 : 0;
    };
    EXPECT_EQ(hak_walk(stop, &n), 77);
    EXPECT_EQ(n, 1u);
    hak_free(p);
    hak_free(q);
}

TEST(Walk, ACallbackMayFreeAndAllocate)
{
    for (int i = 0; i < 500; i++) {
        (void)hak_malloc(static_cast<size_t>(i) * 300);
    }
    auto replace = [](void *block, size_t, void *) {
        hak_free(block);
        hak_free(hak_malloc(5000));
        return 0;
    };
    EXPECT_EQ(hak_walk(replace, nullptr), 0);
    EXPECT_TRUE(walk().empty());
    EXPECT_EQ(hak_verify(), 0);
}

/* What stays allocated all the while is visited exactly once, whatever others do. */
TEST(Walk, WhileOthersAllocate)
{
    Rng rng(3);
    Blocks kept;
    for (int i = 0; i < 500; i++) {
        void *p = hak_malloc(some_size(rng));
        kept.emplace(p, hak_usable_size(p));
    }
    std::atomic<bool> stop{false};
    std::vector<std::thread> others;
    for (uint64_t seed = 0; seed < 3; seed++) {
        others.emplace_back([&stop, seed] {
            Rng mine(seed);
            std::vector<void *> cells(100);
            while (!stop) {
                void *&cell = cells[mine.below(cells.size())];
                hak_free(cell);
                cell = hak_malloc(some_size(mine));
            }
            for (void *p : cells) {
                hak_free(p);
            }
        });
    }
    for (int round = 0; round < 10; round++) {
        std::map<void *, int> seen;
        auto count = [](void *block, size_t, void *context) {
            ++(*static_cast<std::map<void *, int> *>(context))[block];
            return 0;
        };
        EXPECT_EQ(hak_walk(count, &seen), 0);
        for (auto &block : kept) {
            ASSERT_EQ(seen[block.first], 1);
        }
        ASSERT_EQ(hak_verify(), 0);
    }
    stop = true;
    for (std::thread &other : others) {
        other.join();
    }
    EXPECT_EQ(walk(), kept);
    for (auto &block : kept) {
        hak_free(block.first);
    }
}

/* Threads cut freed spans without the lock that a walk holds: here one that was seen as a block has
   been freed, cut and taken again before its middle was looked at. No byte is visited twice. */
TEST(Walk, ASpanThatIsCutMeanwhile)
{
    if (HAK_SECURE) {
        GTEST_SKIP() << "its blocks begin within spans, which no thread cuts";
    }
    void *p = hak_malloc(20 * SS_GRANULE_BYTES);
    uint16_t *word = hak_ss_span_word(p);
    ASSERT_NE(word, nullptr);
    uint16_t half = uint16_t(*word & ~SPAN_BITS) / 2;
    ASSERT_GT(half, 0);
    atomic_store_release(word + half, half);
    Blocks blocks = walk();
    atomic_store_release(word + half, uint16_t(0));
    EXPECT_EQ(blocks, (Blocks{{p, hak_usable_size(p)}}));
    hak_free(p);
}

TEST(Walk, CountsAgreeWithTheWalk)
{
    if (HAK_SECURE) {
        GTEST_SKIP() << "counts are of containers and of what is kept, too";
    }
    std::vector<void *> blocks;
    for (size_t size = 1; size < (3u << 20); size += size / 5 + 1) {
        blocks.push_back(hak_malloc(size));
        hak_free(hak_malloc(size / 2));
    }
    struct walk_counts counts;
    hak_walk_count(&counts); /* before the walk, which empties the thread's cache */
    size_t bytes = counts.span_bytes + counts.range_bytes, n = counts.n_spans + counts.n_ranges;
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        bytes += counts.n_used[c] * hak_sc_table[c].size;
        n += counts.n_used[c];
    }
    size_t told = 0;
    Blocks all = walk();
    for (auto &block : all) {
        size_t span = hak_ss_span_size(block.first); /* of which its block says less */
        told += span ? span : block.second;
    }
    EXPECT_EQ(n, all.size());
    EXPECT_EQ(bytes, told);
    EXPECT_EQ(n, blocks.size());
    for (void *p : blocks) {
        hak_free(p);
    }
}

} // namespace
