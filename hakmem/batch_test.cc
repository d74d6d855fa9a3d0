/* Tests of batches. */
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <gtest/gtest.h>
#include <set>
#include <thread>
#include <vector>

#include "base/stats.h"
#include "hakmem/hakmem.h"

namespace
{

TEST(Batch, BlocksAreApartAndFreedByEitherFamily)
{
    (void)hak_purge();
    for (size_t size : {0, 1, 16, 100, 1000, 5000, 32768, 40000, 2 << 20}) {
        for (size_t n : {0, 1, 2, 63, 500}) {
            n = size > 100000 ? n / 20 : n;
            std::vector<void *> blocks(n + 1, nullptr);
            ASSERT_EQ(hak_malloc_batch(size, n, blocks.data()), n);
            EXPECT_EQ(blocks[n], nullptr) << "nothing behind the n-th is written";
            std::set<char *> starts;
            for (size_t i = 0; i < n; i++) {
                memset(blocks[i], static_cast<int>(i), size);
                EXPECT_GE(hak_usable_size(blocks[i]), size);
                EXPECT_EQ(reinterpret_cast<uintptr_t>(blocks[i]) % 16, 0u);
                starts.insert(static_cast<char *>(blocks[i]));
            }
            ASSERT_EQ(starts.size(), n);
            const char *end = nullptr;
            for (const char *start : starts) {
                ASSERT_GE(start, end) << "two blocks overlap";
                end = start + size;
            }
            for (size_t i = 0; i < n && size; i++) {
                ASSERT_EQ(static_cast<unsigned char *>(blocks[i])[size - 1],
                          static_cast<unsigned char>(i));
            }
            ASSERT_EQ(hak_verify(), 0);
            if (n % 2) {
                hak_free_batch(blocks.data(), n + 1); /* with a NULL in it */
            } else {
                for (void *p : blocks) {
                    hak_free(p);
                }
            }
            ASSERT_EQ(hak_verify(), 0);
        }
    }
    (void)hak_purge();
    EXPECT_EQ(hak_stat_get(heap_used_bytes), 0);
}

TEST(Batch, WhatCannotBeHadIsNotCounted)
{
    void *out[3] = {&out, &out, &out};
    errno = 0;
    EXPECT_EQ(hak_malloc_batch(SIZE_MAX, 3, out), 0u);
    EXPECT_EQ(errno, ENOMEM);
    EXPECT_EQ(out[0], &out);
    EXPECT_EQ(out[1], &out);
    size_t soft, hard, committed;
    hak_limit_get(&soft, &hard, &committed);
    (void)hak_purge();
    hak_limit_get(&soft, &hard, &committed);
    hak_limit_set(0, committed + (40u << 20));
    std::vector<void *> blocks(100, nullptr);
    errno = 0;
    size_t n = hak_malloc_batch(1 << 20, 100, blocks.data());
    EXPECT_EQ(errno, ENOMEM);
    EXPECT_GT(n, 10u);
    EXPECT_LT(n, 100u);
    EXPECT_EQ(blocks[n], nullptr);
    hak_free_batch(blocks.data(), n);
    hak_limit_set(0, 0);
    EXPECT_EQ(hak_verify(), 0);
}

TEST(Batch, FromOneThreadToAnother)
{
    (void)hak_purge();
    for (int round = 0; round < 20; round++) {
        std::vector<void *> blocks(1000);
        ASSERT_EQ(hak_malloc_batch(48, blocks.size(), blocks.data()), blocks.size());
        std::thread([&blocks] { hak_free_batch(blocks.data(), blocks.size()); }).join();
    }
    (void)hak_purge();
    EXPECT_EQ(hak_stat_get(heap_used_bytes), 0);
    EXPECT_EQ(hak_verify(), 0);
}

} // namespace
