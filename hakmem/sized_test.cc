/* Tests of sized frees, of hak_malloc_at_least and of hak_rezalloc. */
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <gtest/gtest.h>
#include <utility>
#include <vector>

#include "base/attributes.h"
#include "hakmem/hakmem.h"
#include "testing/rng.h"

namespace
{

using hak_testing::Rng;

const size_t SIZES[] = {0,    1,     16,    17,     100,     777,           1024,   1025,
                        5000, 32768, 32769, 200000, 1 << 20, (1 << 20) + 1, 9 << 20};

TEST(Sized, FreesAsFreeDoes)
{
    for (size_t size : SIZES) {
        void *p = hak_malloc(size);
        ASSERT_NE(p, nullptr);
        hak_free_sized(p, size);
        void *q = hak_aligned_alloc(256, size);
        ASSERT_NE(q, nullptr);
        hak_free_aligned_sized(q, 256, size);
    }
    errno = ECHILD;
    hak_free_sized(nullptr, 100);
    hak_free_aligned_sized(nullptr, 64, 100);
    EXPECT_EQ(errno, ECHILD);
    (void)hak_purge();
    EXPECT_EQ(hak_verify(), 0);
}

TEST(Sized, AfterReallocTheNewSizeIsTheSize)
{
    for (size_t from : SIZES) {
        for (size_t to : SIZES) {
            if (to) {
                hak_free_sized(hak_realloc(hak_malloc(from), to), to);
            }
        }
    }
    EXPECT_EQ(hak_verify(), 0);
}

#if HAK_VALIDATE
TEST(SizedDeathTest, ASizeThatCannotBeTrueEndsTheProcess)
{
    void *p = hak_malloc(100);
    EXPECT_DEATH(hak_free_sized(p, 1000), "freed with a size that is not the block's: 0x");
    hak_free(p);
}
#endif

TEST(SizedDeathTest, AnAlignmentThatCannotBeTrueEndsTheProcess)
{
    void *other = hak_malloc(100), *p = hak_malloc(100);
    if (reinterpret_cast<uintptr_t>(p) % 65536 == 0) {
        std::swap(p, other); /* not both are at the start of a slab */
    }
    EXPECT_DEATH(hak_free_aligned_sized(p, 65536, 100),
                 "freed with an alignment that is not the block's: 0x");
    EXPECT_DEATH(hak_free_aligned_sized(p, 0, 100),
                 "freed with an alignment that is not the block's: 0x");
    hak_free(p);
    hak_free(other);
    hak_free_aligned_sized(nullptr, 65536, 100);
}

TEST(AtLeast, AllOfItMayBeUsed)
{
    for (size_t size : SIZES) {
        struct hak_sized_block b = hak_malloc_at_least(size);
        ASSERT_NE(b.block, nullptr);
        EXPECT_GE(b.size, size);
        EXPECT_EQ(b.size, hak_usable_size(b.block));
        memset(b.block, 0xA5, b.size);
        hak_free_sized(b.block, b.size);
    }
    errno = 0;
    struct hak_sized_block none = hak_malloc_at_least(static_cast<size_t>(PTRDIFF_MAX) + 1);
    EXPECT_EQ(none.block, nullptr);
    EXPECT_EQ(none.size, 0u);
    EXPECT_EQ(errno, ENOMEM);
    EXPECT_EQ(hak_verify(), 0);
}

/* Fills blocks of all sizes with ones and frees them, so that memory which is reused reads as
   anything but zero. */
void dirty_everything()
{
    std::vector<void *> blocks;
    for (size_t size = 16; size < (4u << 20); size += size / 3) {
        void *p = hak_malloc(size);
        memset(p, 0xFF, hak_usable_size(p));
        blocks.push_back(p);
    }
    for (void *p : blocks) {
        hak_free(p);
    }
}

/* Only the bytes within the requested size are written, as a program would; whatever a call adds
   must read as zero. */
TEST(Rezalloc, WhatItAddsIsZero)
{
    Rng rng(7);
    for (int round = 0; round < 40; round++) {
        dirty_everything();
        std::vector<unsigned char> model;
        unsigned char *p = nullptr;
        for (int step = 0; step < 30; step++) {
            size_t most = rng.one_in(4) ? size_t(3) << 20 : rng.one_in(3) ? 100000 : 3000;
            size_t size = rng.between(1, most);
            p = static_cast<unsigned char *>(p && step ? hak_rezalloc(p, size)
                                                       : hak_rezalloc(nullptr, size));
            ASSERT_NE(p, nullptr);
            model.resize(size);
            ASSERT_EQ(memcmp(p, model.data(), size), 0)
                << "from step " << step << " of round " << round;
            size_t from = rng.below(size), n = rng.between(1, size - from);
            memset(p + from, 0xEE, n);
            memset(model.data() + from, 0xEE, n);
        }
        hak_free(p);
    }
    EXPECT_EQ(hak_verify(), 0);
}

TEST(Rezalloc, EdgesAreThoseOfRealloc)
{
    auto *p = static_cast<char *>(hak_rezalloc(nullptr, 100));
    ASSERT_NE(p, nullptr);
    p[99] = 7;
    errno = 0;
    EXPECT_EQ(hak_rezalloc(p, SIZE_MAX), nullptr);
    EXPECT_EQ(errno, ENOMEM);
    EXPECT_EQ(p[99], 7) << "a failed call leaves the block";
    EXPECT_EQ(hak_rezalloc(p, 0), nullptr);
    EXPECT_EQ(hak_verify(), 0);
}

} // namespace
