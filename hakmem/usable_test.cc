/* Tests of what hak_usable_size says: all of it may be filled, and realloc keeps it; above small
   blocks it is little more than was asked for, however the block came to its size, since programs
   account by it. */
#include <cstring>
#include <gtest/gtest.h>
#include <map>
#include <thread>
#include <vector>

#include "ace/ace.h"
#include "base/link.h"
#include "base/size_classes.h"
#include "base/stats.h"
#include "hakmem/hakmem.h"
#include "superslab/superslab.h"
#include "testing/rng.h"

namespace
{

using hak_testing::Rng;

class Usable : public testing::Test
{
  protected:
    void TearDown() override
    {
        (void)hak_purge();
        EXPECT_EQ(hak_verify(), 0);
        EXPECT_EQ(hak_stat_get(heap_used_bytes), 0) << "a test left blocks behind";
    }
};

/* A class holds requests that are larger than the next smaller one; a block that grew by realloc
   may stay in its range when it becomes small. */
size_t most_for(size_t size)
{
    size_t in_range = size >= ACE_RANGE_LEAST ? size + size * 15 / 100 : 0;
    size_t in_slab = size <= SC_SMALL_MAX ? hak_sc_table[hak_sc_of(size)].size : 0;
    return in_range > in_slab ? in_range : in_slab;
}

/* Filled from end to end before it is resized: `tag` is what realloc must keep. */
struct Block {
    unsigned char *p;
    size_t asked, said;
    unsigned char tag;
};

void look(Block *block, const char *how)
{
    block->said = hak_usable_size(block->p);
    ASSERT_GE(block->said, block->asked) << how;
    ASSERT_LE(block->said, most_for(block->asked)) << how << " " << block->asked;
    if (!HAK_SECURE) {
        ASSERT_EQ(hak_super_lookup(block->p).size, block->said) << how;
    }
    block->p[0] = block->p[block->said - 1] = block->tag;
    for (size_t i = 0; i < block->said; i += 1024) {
        block->p[i] = static_cast<unsigned char>(block->tag + i / 1024);
    }
}

void expect_kept(const Block &block, size_t size, const char *how)
{
    size_t n = block.said < size ? block.said : size;
    for (size_t i = 0; i < n; i += 1024) {
        ASSERT_EQ(block.p[i], static_cast<unsigned char>(block.tag + i / 1024))
            << how << " at " << i;
    }
    if (n && n == block.said && (n - 1) % 1024) {
        ASSERT_EQ(block.p[n - 1], block.tag) << how;
    }
}

void resize(Block *block, size_t size, const char *how)
{
    void *p = hak_realloc(block->p, size);
    ASSERT_NE(p, nullptr);
    block->p = static_cast<unsigned char *>(p);
    ASSERT_NO_FATAL_FAILURE(expect_kept(*block, size, how));
    block->asked = size;
}

const size_t LARGEST = 6 << 20;

TEST_F(Usable, OfFreshBlocks)
{
    for (size_t size = 200; size < LARGEST; size += size / 29 + 1) {
        Block blocks[] = {{static_cast<unsigned char *>(hak_malloc(size)), size, 0, 1},
                          {static_cast<unsigned char *>(hak_calloc(1, size)), size, 0, 2},
                          {nullptr, size, 0, 3}};
        for (int is_reused = 0; is_reused < 2; is_reused++) {
            blocks[2].p = static_cast<unsigned char *>(hak_malloc(size));
            for (Block &block : blocks) {
                ASSERT_NE(block.p, nullptr);
                ASSERT_NO_FATAL_FAILURE(look(&block, "fresh"));
            }
            hak_free(blocks[2].p);
        }
        hak_free_sized(blocks[0].p, size);
        hak_free(blocks[1].p);
        if (size > SC_SMALL_MAX) {
            Block block = {static_cast<unsigned char *>(hak_aligned_alloc(64, size)), size, 0, 4};
            ASSERT_NO_FATAL_FAILURE(look(&block, "aligned"));
            hak_free_aligned_sized(block.p, 64, size);
        }
    }
}

TEST_F(Usable, AfterGrowingStepByStep)
{
    for (size_t percent : {1, 3, 7, 15, 33, 50, 100, 200}) {
        Block block = {static_cast<unsigned char *>(hak_malloc(200)), 200, 0, 1};
        for (size_t size = 200; size < LARGEST; size += size * percent / 100 + 1) {
            ASSERT_NO_FATAL_FAILURE(resize(&block, size, "grown"));
            ASSERT_NO_FATAL_FAILURE(look(&block, "grown"));
        }
        hak_free_sized(block.p, block.asked);
    }
    for (size_t step : {100, 4096, 65536}) {
        Block block = {static_cast<unsigned char *>(hak_malloc(20000)), 20000, 0, 1};
        for (size_t size = 20000; size < 600000 + 20 * step; size += step) {
            ASSERT_NO_FATAL_FAILURE(resize(&block, size, "by steps"));
            ASSERT_NO_FATAL_FAILURE(look(&block, "by steps"));
        }
        hak_free(block.p);
    }
}

/* The first word is a link still, to the next free block or the end, or 0, as of a free block whose
   page was purged. Freed, each is found by the same question (misuse_test). */
TEST_F(Usable, OfSmallBlocksThatWereNotWritten)
{
    atomic_store_relaxed(&hak_link_are_zeroed, 1u);
    for (uint32_t c = 0; c < SC_N_CLASSES; c += 2) {
        size_t size = hak_sc_table[c].size;
        std::vector<void *> blocks;
        for (int i = 0; i < 70; i++) {
            void *p = i % 3 ? hak_malloc(size) : hak_calloc(1, size);
            ASSERT_EQ(hak_usable_size(p), size) << "just taken";
            blocks.push_back(p);
        }
        std::thread([&] {
            for (int i = 0; i < 3; i++) {
                blocks.push_back(hak_malloc(size));
                /* A thread's first small blocks may be of a cache line each (common.h). */
                ASSERT_GE(hak_usable_size(blocks.back()), size) << "in a thread's first slabs";
            }
        }).join();
        for (size_t i = 0; i < blocks.size(); i++) {
            size_t said = hak_usable_size(blocks[i]);
            ASSERT_TRUE(said == size || (i >= 70 && said > size)) << "with others taken since";
            hak_free(blocks[i]);
        }
    }
}

/* All that is said is used, and a byte more is asked for: as strings and tables do. */
TEST_F(Usable, IsFilledAndGrows)
{
    for (size_t size = 200; size < LARGEST; size += size / 7 + 1) {
        Block block = {static_cast<unsigned char *>(hak_malloc(size)), size, 0, 1};
        for (int i = 0; i < 4; i++) {
            ASSERT_NO_FATAL_FAILURE(look(&block, "filled"));
            ASSERT_NO_FATAL_FAILURE(
                resize(&block, block.said + (i < 2 ? 1 : block.said / 2), "filled"));
        }
        hak_free(block.p);
    }
}

/* A block that becomes smaller may stay where it is, and says what it did. */
TEST_F(Usable, OfManyThatAreResizedAtRandom)
{
    Rng rng(7);
    Block blocks[48] = {};
    for (int i = 0; i < 12000; i++) {
        Block &block = blocks[rng.below(48)];
        size_t size = 200 + (rng.below(1000) << rng.below(12));
        if (!block.p || rng.one_in(8)) {
            hak_free(block.p);
            block = {static_cast<unsigned char *>(hak_malloc(size)), size, 0, 0};
        } else {
            int is_larger = size > block.said;
            ASSERT_NO_FATAL_FAILURE(resize(&block, size, "at random"));
            if (is_larger) {
                ASSERT_LE(hak_usable_size(block.p), most_for(size));
            }
        }
        block.said = hak_usable_size(block.p);
        ASSERT_GE(block.said, size);
        ASSERT_LE(block.said, 2 * size + size / 8);
        block.tag = static_cast<unsigned char>(i);
        block.p[block.said - 1] = block.tag;
        for (size_t at = 0; at < block.said; at += 1024) {
            block.p[at] = static_cast<unsigned char>(block.tag + at / 1024);
        }
    }
    for (Block &block : blocks) {
        hak_free(block.p);
    }
}

/* A walk says the same. */
TEST_F(Usable, IsWhatAWalkTells)
{
    std::map<void *, size_t> *told = new std::map<void *, size_t>;
    struct hak_heap *heap = hak_heap_create();
    ASSERT_NE(heap, nullptr);
    void *blocks[40];
    for (size_t i = 0; i < 40; i++) {
        blocks[i] = hak_heap_malloc(heap, 1000 + i * i * 700);
        if (i % 2) {
            blocks[i] = hak_heap_realloc(heap, blocks[i], 2000 + i * i * 900);
        }
    }
    auto note = [](void *p, size_t size, void *context) {
        (*static_cast<std::map<void *, size_t> *>(context))[p] = size;
        return 0;
    };
    EXPECT_EQ(hak_heap_walk(heap, note, told), 0);
    for (void *p : blocks) {
        EXPECT_EQ((*told)[p], hak_usable_size(p));
    }
    hak_heap_destroy(heap);
    delete told;
}

} // namespace
