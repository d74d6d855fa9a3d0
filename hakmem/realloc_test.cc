/* Tests of realloc of small blocks whose first word may be a link of a list of free blocks, since
   the program has not written to it: they are as good as any, and freed ones are found. */
#include "hakmem/realloc.h"

#include <cerrno>
#include <cstring>
#include <gtest/gtest.h>
#include <vector>

#include "base/link.h"
#include "base/stats.h"
#include "hakmem/fast.h"
#include "hakmem/hakmem.h"
#include "hakmem/plain.h"
#include "heap/theap.h"
#include "testing/rng.h"

namespace
{

using hak_testing::Rng;

class Realloc : public testing::Test
{
  protected:
    void TearDown() override
    {
        (void)hak_purge();
        EXPECT_EQ(hak_verify(), 0);
        EXPECT_EQ(hak_stat_get(heap_used_bytes), 0) << "a test left blocks behind";
    }
    static int is_in_use(const void *p)
    {
        struct theap *heap = hak_theap_own;
        uint32_t size_class = TAG_CLASS(hak_map_find(p).tag);
        return hak_plain_is_in_use(heap, &heap->bins[size_class], p);
    }
};

/* Fewer bytes than a word are written, at any place in it, or none. */
TEST_F(Realloc, OfBlocksThatWereHardlyWritten)
{
    Rng rng(1);
    for (size_t written = 0; written <= 9; written++) {
        struct {
            unsigned char *p;
            size_t size;
        } blocks[64] = {};
        for (int i = 0; i < 20000; i++) {
            auto &block = blocks[rng.below(64)];
            size_t size = rng.between(16, rng.one_in(8) ? 8192 : 1024);
            size_t n = block.size < size ? block.size : size;
            n = n < written ? n : written;
            block.p = static_cast<unsigned char *>(hak_realloc(block.p, size));
            ASSERT_NE(block.p, nullptr);
            for (size_t k = 0; k < n; k++) {
                ASSERT_EQ(block.p[k], static_cast<unsigned char>(k + 1)) << i;
            }
            for (size_t k = 0; k < written && k < size; k++) {
                block.p[k] = static_cast<unsigned char>(k + 1);
            }
            block.size = size;
        }
        for (auto &block : blocks) {
            hak_free(block.p);
        }
    }
}

TEST_F(Realloc, OnlyWhatLooksLikeAListIsDoubted)
{
    char *p = static_cast<char *>(hak_malloc(100)), *other = static_cast<char *>(hak_malloc(500)),
         *same = static_cast<char *>(hak_malloc(100));
    alignas(16) int is_release = !HAK_VALIDATE;
    hak_map_view_extend(&hak_theap_own->view, other); /* a free has, but in the secure variant */
    hak_link_write(p, other);
    EXPECT_EQ(is_in_use(p), is_release) << "of another class";
    hak_link_write(p, same + 1);
    struct theap *heap = hak_theap_own;
    const struct bin *bin = &heap->bins[TAG_CLASS(hak_map_find(p).tag)];
    EXPECT_EQ(hak_fast_is_in_use(heap, bin, p), is_release) << "not the start of a block";
    hak_link_write(p, p + SC_MIN_ALIGN);
    EXPECT_EQ(hak_fast_is_in_use(heap, bin, p), is_release) << "nor of one of this class";
    hak_link_set(p, nullptr);
    EXPECT_EQ(hak_fast_is_in_use(heap, bin, p), 0) << "the end of a list";
    hak_link_write(p, &is_release);
    EXPECT_EQ(is_in_use(p), is_release) << "of what the map does not show: looked for, not found";
    hak_link_write(p, same);
    EXPECT_EQ(is_in_use(p), is_release);
    hak_link_set(p, nullptr);
    EXPECT_EQ(is_in_use(p), is_release) << "the end of a list";
    memset(p, 0, 8);
    EXPECT_EQ(is_in_use(p), is_release) << "a purged page; its slab shows it as allocated";
    /* All are blocks that may be resized. */
    for (const char *next : {other, same + 1, same}) {
        hak_link_write(p, next);
        char *q = static_cast<char *>(hak_realloc(p, 300));
        EXPECT_NE(q, p);
        p = static_cast<char *>(hak_realloc(q, 100));
    }
    hak_free(p);
    hak_free(other);
    hak_free(same);
}

/* The sixteen of a class that were freed last. */
TEST_F(Realloc, WhatWasFreedLastIsLookedFor)
{
    const uint32_t n = 16, size_class = hak_sc_of(100);
    void *blocks[n], *used = hak_malloc(100);
    for (int round = 0; round < 2; round++) {
        for (void *&p : blocks) {
            p = hak_malloc(100);
        }
        for (void *p : blocks) {
            hak_free(p);
        }
        struct theap *heap = hak_theap_own;
        for (uint32_t i = 0; i < n; i++) {
            if (!HAK_SECURE) { /* whose layer keeps them */
                EXPECT_EQ(is_in_use(blocks[i]), 0) << i;
            }
            if (hak_tc_holds(heap, size_class, blocks[i], UINT32_MAX)) {
                EXPECT_EQ(hak_tc_holds(heap, size_class, blocks[i], n - i), 1) << i;
            } /* else a short list was full */
        }
        hak_tc_flush(heap); /* they are in their slab now, whose bitmap tells */
        EXPECT_EQ(hak_tc_holds(heap, size_class, blocks[0], UINT32_MAX), 0);
        if (!HAK_SECURE) {
            EXPECT_EQ(is_in_use(blocks[0]), 0);
        }
    }
    hak_link_write(used, blocks[0]); /* as if it was not written to since it was handed out */
    EXPECT_EQ(is_in_use(used), !HAK_VALIDATE);
    hak_free(used);
}

size_t least_of(size_t a, size_t b)
{
    return a < b ? a : b;
}

/* From every class to every other, with each number of bytes around the ends of the copy. */
TEST_F(Realloc, KeepsWhatWasInTheBlock)
{
    for (size_t from = 1; from <= 1200; from += from % 16 == 15 ? 1 : 7) {
        for (size_t to :
             {1,   15,  16,  17,  32,  33,  48,  49,  63,  64,  65,  79,  80,   81,   127,
              128, 129, 193, 240, 241, 256, 257, 272, 500, 512, 513, 768, 1009, 1024, 3000}) {
            unsigned char *p = static_cast<unsigned char *>(hak_malloc(from));
            unsigned char *next = static_cast<unsigned char *>(hak_malloc(to));
            for (size_t i = 0; i < from; i++) {
                p[i] = static_cast<unsigned char>(i * 7 + 1);
            }
            size_t had = hak_usable_size(p);
            memset(next, 0xEE, to);
            hak_free(next); /* p may move there */
            p = static_cast<unsigned char *>(hak_realloc(p, to));
            for (size_t i = 0; i < from && i < to; i++) {
                ASSERT_EQ(p[i], static_cast<unsigned char>(i * 7 + 1)) << from << " to " << to;
            }
            if (p == next) { /* in pieces of 16 bytes, and no further than either block reaches */
                for (size_t i = (least_of(had, to) + 15) / 16 * 16; i < to; i++) {
                    ASSERT_EQ(p[i], 0xEE) << from << " to " << to;
                }
            }
            EXPECT_GE(hak_usable_size(p), to);
            hak_free(p);
        }
    }
}

TEST_F(Realloc, StaysWhereAtMostHalfIsUnused)
{
    if (HAK_SECURE) {
        GTEST_SKIP() << "a block ends where its owner's bytes do";
    }
    for (size_t size : {16, 128, 144, 512, 1024, 2048, 32768}) {
        for (size_t to = 1; to <= size; to += to < 200 ? 1 : 50) {
            void *p = hak_malloc(size);
            size_t usable = hak_usable_size(p);
            uintptr_t was = reinterpret_cast<uintptr_t>(p);
            void *q = hak_realloc(p, to);
            EXPECT_EQ(reinterpret_cast<uintptr_t>(q) == was, usable <= 128 || to >= usable / 2)
                << size << " to " << to;
            hak_free(q);
        }
    }
}

/* Whichever way it goes: a request that is refused is one request. */
TEST_F(Realloc, WhatIsRefusedIsCountedOnce)
{
    hak_free(hak_malloc(24)); /* so that the next one is in the view */
    void *p = hak_malloc(24);
    memset(p, 1, 24);
    for (size_t size : {200, 1200, 20000, 30000, 100000, 3000000}) {
        int64_t before = hak_stat_get(failed_requests);
        hak_limit_set(0, 4096);
        errno = 0;
        EXPECT_EQ(hak_realloc(p, size), nullptr);
        EXPECT_EQ(errno, ENOMEM);
        hak_limit_set(0, 0);
        EXPECT_EQ(hak_stat_get(failed_requests) - before, 1) << size;
    }
    EXPECT_EQ(*static_cast<char *>(p), 1);
    hak_free(p);
    p = hak_malloc(200000);
    int64_t before = hak_stat_get(failed_requests);
    EXPECT_EQ(hak_realloc(p, size_t(1) << 46), nullptr);
    EXPECT_EQ(hak_stat_get(failed_requests) - before, 1);
    hak_free(p);
}

/* Of no block: what the bin has, without a slow path; in the secure variant its layer serves. */
TEST_F(Realloc, OfNoBlockIsMallocsFastPath)
{
    for (size_t size : {0, 1, 16, 24, 200, 1024, 1500, 8000, 32768}) {
        void *p = hak_malloc(size);
        hak_free(p);
        int64_t refills = hak_stat_get(refills);
        void *q = hak_realloc(nullptr, size);
        ASSERT_NE(q, nullptr);
        EXPECT_GE(hak_usable_size(q), size);
        if (!HAK_SECURE) {
            EXPECT_EQ(q, p) << size;
            EXPECT_EQ(hak_stat_get(refills), refills) << size;
        }
        EXPECT_EQ(hak_realloc(q, 0), nullptr);
    }
    void *large = hak_realloc(nullptr, 300000);
    EXPECT_GE(hak_usable_size(large), 300000u);
    hak_free(large);
    errno = 0;
    EXPECT_EQ(hak_realloc(nullptr, SIZE_MAX), nullptr);
    EXPECT_EQ(errno, ENOMEM);
}

TEST_F(Realloc, AFreedBlockIsFound)
{
    const size_t n = 2000;
    std::vector<void *> blocks;
    for (size_t i = 0; i < n; i++) {
        blocks.push_back(hak_malloc(1000));
    }
    for (void *p : blocks) {
        hak_free(p);
    }
    hak_theap_trim_own(); /* back in their slabs, which go back to the pool except for one */
    void *kept = hak_malloc(1000), *freed = hak_malloc(1000), *last = hak_malloc(1000);
    hak_free(freed);
    EXPECT_DEATH((void)hak_realloc(freed, 300), "freed block given to realloc");
    hak_free(last);
    EXPECT_DEATH((void)hak_realloc(freed, 300), "freed block given to realloc");
    hak_tc_flush(hak_theap_own);
    EXPECT_DEATH((void)hak_realloc(freed, 300), "freed block given to realloc");
    /* Whatever class its link leads to by now: the place is one of a block of 1,024 bytes. */
    char *other = static_cast<char *>(hak_malloc(2048));
    ASSERT_EQ(reinterpret_cast<uintptr_t>(other) % 1024, 0u);
    hak_link_write(freed, other);
    EXPECT_DEATH((void)hak_realloc(freed, 300), "freed block given to realloc");
    memset(freed, 0, sizeof(int64_t)); /* as by a purge */
    atomic_store_relaxed(&hak_link_are_zeroed, 1u);
    EXPECT_DEATH((void)hak_realloc(freed, 300), "freed block given to realloc");
    if (HAK_VALIDATE) { /* release takes a word that leads to no block for the program's */
        hak_link_write(freed, other + 1);
        EXPECT_DEATH((void)hak_realloc(freed, 300), "freed block given to realloc");
    }
    hak_free(other);
    hak_free(kept);
}

} // namespace
