/* Tests of the memory limit and of the callback through the public functions. */
#include <cerrno>
#include <cstring>
#include <gtest/gtest.h>
#include <string>
#include <vector>

#include "base/attributes.h"
#include "base/options.h"
#include "base/os.h"
#include "base/stats.h"
#include "hakmem/hakmem.h"

namespace
{

const size_t kMiB = 1 << 20;

class Limit : public testing::Test
{
  protected:
    void SetUp() override
    {
        hak_options.purge_delay_ms = 3600000;
        hak_options.large_cache_bytes = size_t(1) << 40;
        hak_purge();
        size_t soft, hard;
        hak_limit_get(&soft, &hard, &base);
    }
    void TearDown() override
    {
        hak_ace_on_fail(nullptr, nullptr);
        hak_limit_set(0, 0);
        EXPECT_EQ(hak_verify(), 0);
        EXPECT_EQ(hak_stat_get(committed_bytes),
                  hak_stat_get(heap_used_bytes) + hak_stat_get(heap_dirty_bytes) +
                      hak_stat_get(large_bytes) + hak_stat_get(large_cached_bytes));
    }
    static size_t committed()
    {
        size_t soft, hard, bytes;
        hak_limit_get(&soft, &hard, &bytes);
        return bytes;
    }
    size_t base;
};

/* Blocks of each kind up to the limit; freed, they can be had again. */
TEST_F(Limit, HardForEverySize)
{
    const size_t limit = base + 40 * kMiB;
    hak_limit_set(0, limit);
    for (size_t size : {size_t(64), size_t(5000), size_t(50000), 3 * kMiB}) {
        size_t first = 0;
        for (int round = 0; round < 3; round++) {
            std::vector<void *> all;
            errno = 0;
            while (void *p = hak_malloc(size)) {
                memset(p, 1, size);
                all.push_back(p);
            }
            EXPECT_EQ(errno, ENOMEM);
            EXPECT_LE(committed(), limit + HAK_TINY_OR(65536, kMiB))
                << "but for a chunk of metadata";
            EXPECT_GT(all.size() * size, 20 * kMiB) << size;
            first = first ? first : all.size();
            EXPECT_GE(all.size() * 10, first * 9) << "what was freed is there again";
            for (void *p : all) {
                hak_free(p);
            }
        }
        hak_purge();
    }
}

/* Memory kept for other sizes goes back before a request fails. */
TEST_F(Limit, HardPurgesFirst)
{
    hak_limit_set(0, base + 40 * kMiB);
    void *p = hak_malloc(30 * kMiB);
    ASSERT_NE(p, nullptr);
    hak_free(p);
    EXPECT_GE(committed(), base + 30 * kMiB);
    std::vector<void *> all;
    for (int i = 0; i < 300; i++) {
        all.push_back(hak_malloc(100000));
        ASSERT_NE(all.back(), nullptr);
    }
    for (void *q : all) {
        hak_free(q);
    }
}

TEST_F(Limit, SoftPurgesAndGoesOn)
{
    hak_limit_set(base + 40 * kMiB, 0);
    int64_t purges = hak_stat_get(soft_purges);
    void *kept = hak_malloc(30 * kMiB);
    hak_free(kept);
    EXPECT_EQ(hak_stat_get(soft_purges), purges);
    std::vector<void *> all;
    for (int i = 0; i < 800; i++) {
        all.push_back(hak_malloc(100000));
        ASSERT_NE(all.back(), nullptr);
    }
    EXPECT_GT(hak_stat_get(soft_purges), purges);
    EXPECT_LE(hak_stat_get(soft_purges), purges + 40) << "not again and again";
    EXPECT_EQ(hak_stat_get(large_cached_bytes), 0);
    for (void *q : all) {
        hak_free(q);
    }
}

TEST_F(Limit, ReallocOverTheLimitLeavesTheBlock)
{
    hak_limit_set(0, base + 20 * kMiB);
    char *p = static_cast<char *>(hak_malloc(10 * kMiB));
    p[0] = p[10 * kMiB - 1] = 5;
    errno = 0;
    EXPECT_EQ(hak_realloc(p, 30 * kMiB), nullptr);
    EXPECT_EQ(errno, ENOMEM);
    EXPECT_EQ(p[0] + p[10 * kMiB - 1], 10);
    hak_free(p);
}

TEST_F(Limit, SetAndGet)
{
    hak_limit_set(100 * kMiB, 200 * kMiB);
    size_t soft, hard, bytes;
    hak_limit_get(&soft, &hard, &bytes);
    EXPECT_EQ(soft, 100 * kMiB);
    EXPECT_EQ(hard, 200 * kMiB);
    hak_limit_set(HAK_LIMIT_AUTO, HAK_LIMIT_AUTO);
    hak_limit_get(&soft, &hard, &bytes);
    EXPECT_LE(soft, hard);
    EXPECT_NE(hard, HAK_LIMIT_AUTO);
}

struct Seen {
    int n = 0;
    struct hak_fail last;
    std::vector<std::string> steps;
    void *block = nullptr;
};

void on_fail(const struct hak_fail *fail, void *context)
{
    Seen *seen = static_cast<Seen *>(context);
    seen->n++;
    seen->last = *fail;
    seen->steps.assign(fail->steps, fail->steps + fail->n_steps);
    hak_free(seen->block); /* it may allocate and free */
    seen->block = hak_malloc(10);
}

TEST_F(Limit, TheCallbackIsTold)
{
    if (HAK_SECURE) {
        GTEST_SKIP() << "containers are larger, and asked for twice";
    }
    Seen seen;
    hak_ace_on_fail(on_fail, &seen);
    void *p = hak_malloc(5 * kMiB);
    EXPECT_EQ(seen.n, 0);
    hak_limit_set(0, base + 20 * kMiB);
    EXPECT_EQ(hak_malloc(50 * kMiB), nullptr);
    EXPECT_EQ(seen.n, 1);
    EXPECT_EQ(seen.last.size, 50 * kMiB);
    EXPECT_EQ(seen.last.failed, 1);
    ASSERT_GE(seen.steps.size(), 1u);
    EXPECT_EQ(seen.steps[0], "Exhaustion");
    hak_free(p);
    hak_free(seen.block);
    seen.block = nullptr;
    hak_ace_on_fail(nullptr, nullptr);
    EXPECT_EQ(hak_malloc(50 * kMiB), nullptr);
    EXPECT_EQ(seen.n, 1);
}

/* A refusal that cannot be helped is reported at once, however often it comes: no trimming of all
   heaps each time. */
TEST_F(Limit, RefusalsInARowAreCheap)
{
    static int n_unmapped;
    hak_limit_set(0, base + 1);
    (void)hak_malloc(10 * kMiB);
    n_unmapped = 0;
    hak_os_ops.madvise = [](void *addr, size_t size, int advice) {
        n_unmapped++;
        return hak_os_real_ops.madvise(addr, size, advice);
    };
    for (int i = 0; i < 100000; i++) {
        ASSERT_EQ(hak_malloc(10 * kMiB), nullptr);
    }
    hak_os_ops = hak_os_real_ops;
    EXPECT_LE(n_unmapped, 10);
}

} // namespace
