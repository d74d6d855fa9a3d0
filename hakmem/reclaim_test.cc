/* Tests of the trim before a request is refused: when it is done again, and when it is known to
   be in vain. */
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <gtest/gtest.h>
#include <vector>

#include "base/options.h"
#include "base/stats.h"
#include "hakmem/hakmem.h"
#include "hakmem/request.h"
#include "limit/fail.h"
#include "superslab/superslab.h"
#include "testing/failing_os.h"

namespace
{

const size_t kMiB = 1 << 20;
int n_reclaims;

void see(const struct hak_fail *fail, void *)
{
    for (int i = 0; i < fail->n_steps; i++) {
        n_reclaims += strcmp(fail->steps[i], "Reclaim") == 0;
    }
}

class Reclaim : public testing::Test
{
  protected:
    void SetUp() override
    {
        hak_options.purge_delay_ms = 3600000;
        hak_options.large_cache_bytes = size_t(1) << 40;
        (void)hak_purge();
        static uint64_t n_tests;
        clock.advance_ms(1000 * ++n_tests); /* what a test before has left is forgotten */
        hak_ace_on_fail(see, nullptr);
    }
    void TearDown() override
    {
        hak_ace_on_fail(nullptr, nullptr);
        hak_limit_set(0, 0);
        EXPECT_EQ(hak_verify(), 0);
    }
    /* How many trims a request makes that is refused. */
    int refused(size_t size)
    {
        n_reclaims = 0;
        errno = 0;
        EXPECT_EQ(hak_malloc(size), nullptr) << size;
        EXPECT_EQ(errno, ENOMEM);
        return n_reclaims;
    }
    static size_t committed()
    {
        size_t soft, hard, bytes;
        hak_limit_get(&soft, &hard, &bytes);
        return bytes;
    }
    hak_testing::FakeClock clock;
};

/* More than the address space is refused at once, whatever is dirty. */
TEST_F(Reclaim, NotForMoreThanTheAddressSpace)
{
    hak_free(hak_malloc(100000));
    for (size_t size : {size_t(PTRDIFF_MAX) + 1, size_t(1) << 60, (size_t(1) << 48) + 1}) {
        EXPECT_EQ(refused(size), 0) << size;
        hak_free(hak_malloc(100000));
        struct hak_heap *heap = hak_heap_create();
        n_reclaims = 0;
        EXPECT_EQ(hak_heap_malloc(heap, size), nullptr);
        EXPECT_EQ(n_reclaims, 0);
        hak_heap_destroy(heap);
    }
    EXPECT_EQ(hak_aligned_alloc(size_t(1) << 60, 100), nullptr);
    EXPECT_EQ(n_reclaims, 0);
}

TEST_F(Reclaim, OnceForWhatCannotBeHelped)
{
    hak_testing::FailingOs os;
    os.fail_always(hak_testing::OS_MMAP);
    EXPECT_EQ(refused(4 * kMiB), 1);
    EXPECT_EQ(refused(4 * kMiB), 0);
    EXPECT_EQ(refused(400 * kMiB), 0) << "more than what was refused";
    EXPECT_EQ(refused(3 * kMiB), 1) << "less: it could be had, perhaps";
    EXPECT_EQ(refused(3 * kMiB), 0);
    EXPECT_EQ(refused(4 * kMiB), 0);
}

TEST_F(Reclaim, AgainAfterAWhile)
{
    hak_limit_set(0, committed() + kMiB);
    EXPECT_EQ(refused(8 * kMiB), 1);
    clock.advance_ms(99);
    EXPECT_EQ(refused(8 * kMiB), 0);
    clock.advance_ms(1);
    EXPECT_EQ(refused(8 * kMiB), 1);
    EXPECT_EQ(refused(8 * kMiB), 0);
}

TEST_F(Reclaim, AgainWhenLessIsInUse)
{
    for (size_t size : {size_t(1000), size_t(30000), size_t(100000), 3 * kMiB}) {
        std::vector<void *> blocks;
        while (blocks.size() * size < 4 * kMiB) {
            blocks.push_back(hak_malloc(size));
        }
        (void)hak_purge();
        hak_limit_set(0, committed() + 2 * kMiB);
        EXPECT_EQ(refused(5 * kMiB), 1) << size;
        EXPECT_EQ(refused(5 * kMiB), 0);
        for (void *p : blocks) {
            hak_free(p); /* the last ones stay in the thread's cache */
        }
        void *p = hak_malloc(5 * kMiB);
        EXPECT_NE(p, nullptr) << size;
        hak_free(p);
        hak_limit_set(0, 0);
        (void)hak_purge();
        clock.advance_ms(1000);
    }
}

/* Full of blocks of any one size: what is freed can be had again in another, at once. */
TEST_F(Reclaim, WhatIsFreedCanBeHadInAnotherSize)
{
    struct hak_heap *heap = hak_heap_create();
    const size_t limit = committed() + 16 * kMiB;
    for (int is_own = 0; is_own < 2; is_own++) {
        for (size_t size : {size_t(100), size_t(4096), size_t(16384), size_t(32768)}) {
            auto take = [&](size_t bytes) {
                return is_own ? hak_heap_malloc(heap, bytes) : hak_malloc(bytes);
            };
            hak_limit_set(0, limit);
            std::vector<void *> blocks;
            while (void *p = take(size)) {
                blocks.push_back(p);
            }
            for (int i = 0; i < 3; i++) {
                EXPECT_EQ(take(1500), nullptr);
                EXPECT_EQ(take(20000), nullptr);
            }
            for (int i = 0; i < 2; i++) {
                size_t freed = 0; /* two neighbouring slabs' worth of blocks, at least one whole */
                while (freed < 2 * SS_UNIT_BYTES && !blocks.empty()) {
                    freed += size;
                    hak_free(blocks.back());
                    blocks.pop_back();
                }
                void *p = take(20000 + static_cast<size_t>(i) * 8000);
                EXPECT_NE(p, nullptr) << size << " " << is_own;
                hak_free(p);
            }
            for (void *p : blocks) {
                hak_free(p);
            }
            hak_limit_set(0, 0);
            (void)hak_purge();
        }
    }
    hak_heap_destroy(heap);
}

/* An owner's empty slab is not in the way, though it counts as used. */
TEST_F(Reclaim, AgainWhenAHeapKeepsAnEmptySlab)
{
    struct hak_heap *heap = hak_heap_create();
    void *p = hak_heap_malloc(heap, 1000), *q = hak_heap_malloc(heap, 16);
    (void)hak_purge();
    hak_limit_set(0, committed());
    EXPECT_EQ(hak_malloc(1500), nullptr);
    EXPECT_EQ(hak_malloc(1500), nullptr);
    hak_free(p); /* its slab stays with the heap */
    void *served = hak_malloc(1500);
    EXPECT_NE(served, nullptr);
    hak_free(served);
    hak_free(q);
    hak_heap_destroy(heap);
}

} // namespace
