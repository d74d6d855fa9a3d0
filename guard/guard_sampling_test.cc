/* Who is sampled, how often, and by whom. */
#include <chrono>
#include <cmath>
#include <cstdint>
#include <ctime>
#include <gtest/gtest.h>
#include <thread>
#include <vector>

#include "base/stats.h"
#include "guard/guard.h"
#include "guard/guard_testing.h"
#include "guard/sampler.h"
#include "guard/slots.h"
#include "guard/ticker.h"
#include "hakmem/hakmem.h"
#include "heap/theap.h"
#include "testing/in_child.h"
#include "testing/rng.h"

namespace
{

using namespace guard_testing;
using hak_testing::Rng;

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

double processor_seconds()
{
    struct timespec used;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return static_cast<double>(used.tv_sec) + static_cast<double>(used.tv_nsec) / 1e9;
}

/* Works until `n` more blocks have been guarded, or the process has had a processor for 20 s, which
   on a busy machine takes longer; returns how many were. */
uint64_t wait_for_samples(uint64_t n)
{
    uint64_t before = static_cast<uint64_t>(hak_stat_get(guard_samples)), seen = 0;
    double end = processor_seconds() + 20;
    while (seen < n && processor_seconds() < end) {
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

} // namespace
