/* Tests of what the heap profile estimates, against what is known: its variance, its bias, and as
   many samples as a thread may take. */
#include <cmath>
#include <gtest/gtest.h>
#include <map>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

#include "base/os.h"
#include "hakmem/hakmem.h"
#include "profile/profile.h"
#include "profile/profile_testing.h"
#include "profile/sample.h"
#include "testing/rng.h"

namespace
{

using namespace profile_testing;
using hak_testing::Rng;
using hak_testing::total;

template <int number> __attribute__((noinline, aligned(256))) void *known_site(size_t size)
{
    void *p = hak_malloc(size);
    __asm__ volatile("" : "+r"(p) : "i"(number));
    return p;
}

struct Known {
    void *(*site)(size_t size);
    size_t size, n;
};

/* The variance of the estimate of n live blocks of `size` bytes (meter.h). */
double sigma_of(const Known &known, size_t period, size_t usable)
{
    double p = -std::expm1(-double(usable) / double(period));
    return double(usable) * std::sqrt(double(known.n) * (1 - p) / p);
}

/* 100 seeds: each site's estimate of its live bytes lies within 2.58 standard deviations, where 99
   of 100 must lie, in 95 runs at least; and the mean of all has no bias. */
TEST(Profile, EstimatesLieWhereTheVarianceSays)
{
    const Known known[] = {{known_site<0>, 24, 40000},
                           {known_site<1>, 200, 5000},
                           {known_site<2>, 1000, 2000},
                           {known_site<3>, 6000, 300},
                           {known_site<4>, 50000, 30}};
    const size_t n_known = sizeof known / sizeof known[0], period = 32768;
    size_t within[n_known] = {}, usable[n_known] = {};
    double sum[n_known] = {};
    for (uint64_t seed = 1; seed <= 100; seed++) {
        /* A thread of its own has the seed. */
        std::thread([&] {
            hak_profile_set_seed(seed);
            Sampling sampling(period);
            std::vector<void *> blocks;
            Rng rng(seed);
            size_t left[n_known], n_left = 0;
            for (size_t i = 0; i < n_known; i++) {
                n_left += left[i] = known[i].n;
            }
            /* In turns, with blocks between that are freed again. */
            while (n_left) {
                size_t i = rng.next() % n_known;
                if (left[i]) {
                    size_t n = std::min(left[i], 1 + known[i].n / 50);
                    for (size_t j = 0; j < n; j++) {
                        void *other = known[i].site(known[i].size);
                        blocks.push_back(known[i].site(known[i].size));
                        hak_free(other);
                        usable[i] = (known[i].size + 15) / 16 * 16;
                    }
                    left[i] -= n;
                    n_left -= n;
                }
            }
            Profile profile = written();
            for (size_t i = 0; i < n_known; i++) {
                double estimate = double(sum_of(profile, known[i].site)["live_bytes"]);
                size_t size = known[i].size <= SC_SMALL_MAX
                                  ? hak_sc_table[hak_sc_of(known[i].size)].size
                                  : hak_usable_size(blocks.back());
                if (known[i].size > SC_SMALL_MAX) {
                    void *p = hak_malloc(known[i].size);
                    size = hak_usable_size(p);
                    hak_free(p);
                }
                usable[i] = size;
                double error = estimate - double(size * known[i].n);
                within[i] += std::fabs(error) <= 2.58 * sigma_of(known[i], period, size);
                sum[i] += error;
            }
            for (void *block : blocks) {
                hak_free(block);
            }
        }).join();
    }
    for (size_t i = 0; i < n_known; i++) {
        EXPECT_GE(within[i], 95u) << known[i].size;
        EXPECT_LE(std::fabs(sum[i] / 100), 0.35 * sigma_of(known[i], period, usable[i]))
            << known[i].size;
    }
}

/* What is allocated in a round: bytes, as the estimates count them. */
uint64_t allocate_a_round(Rng &rng)
{
    uint64_t bytes = 0;
    std::vector<void *> blocks;
    for (size_t i = 0; i < 60; i++) {
        size_t size = i ? 16 + rng.next() % (i % 3 ? 100 : 2000) : 40000;
        void *p = known_site<9>(size);
        bytes += size <= SC_SMALL_MAX ? hak_sc_table[hak_sc_of(size)].size : hak_usable_size(p);
        blocks.push_back(p);
    }
    for (void *p : blocks) {
        hak_free(p);
    }
    return bytes;
}

uint64_t fake_ns;
uint64_t fake_clock()
{
    return fake_ns;
}

/* A thread that samples too often does so with a longer period, and later with the asked one again;
   over 200 seeds the estimate of what it allocated has no bias, and the samples are few. */
TEST(Profile, ThinnedSamplesStayUnbiased)
{
    const int n_seeds = 200;
    const uint64_t rate = 100;
    struct hak_os_ops before = hak_os_ops;
    fake_ns = before.clock_ns();
    hak_os_ops.clock_ns = fake_clock;
    double sum = 0, squares = 0, expected = 0;
    uint64_t n_thinned = 0, n_back = 0, seen = 0;
    for (int seed = 1; seed <= n_seeds; seed++) {
        std::thread([&] {
            hak_profile_set_seed(uint64_t(seed));
            Sampling sampling(512);
            hak_profile_limit = {rate, PROFILE_BURST};
            Rng rng{uint64_t(seed)};
            uint64_t bytes = 0;
            for (int round = 0; round < 60; round++) {
                bytes += allocate_a_round(rng);
                if (round == 29) {
                    n_thinned += hak_theap_own->meter_budget.shift >= 2;
                }
                fake_ns += round < 30 ? 0 : UINT64_C(1000000000);
            }
            n_back += hak_theap_own->meter_budget.shift == 0;
            uint64_t allocated = sum_of(written(), known_site<9>)["allocated_bytes"];
            double error = double(allocated - seen) - double(bytes);
            seen = allocated;
            sum += error;
            squares += error * error;
            expected += double(bytes);
        }).join();
    }
    hak_os_ops.clock_ns = before.clock_ns;
    EXPECT_EQ(n_thinned, uint64_t(n_seeds));
    EXPECT_EQ(n_back, uint64_t(n_seeds));
    double deviation = std::sqrt(squares / n_seeds);
    EXPECT_GT(deviation, 0);
    EXPECT_LT(deviation, 0.2 * expected / n_seeds);
    /* Four standard errors of the mean. */
    EXPECT_LT(std::fabs(sum / n_seeds), 4 * deviation / std::sqrt(n_seeds));
}

} // namespace
