/* Tests of the random distances and of the weights. */
#include "profile/meter.h"

#include <cmath>
#include <gtest/gtest.h>

namespace
{

TEST(ProfileMeter, WeightsAreOneOverTheProbability)
{
    for (size_t period : {size_t(1), size_t(4096), PROFILE_PERIOD, size_t(1) << 40}) {
        for (size_t size : {size_t(16), size_t(100), size_t(4096), PROFILE_PERIOD, size_t(1) << 30,
                            size_t(1) << 44}) {
            double p = -std::expm1(-double(size) / double(period));
            struct profile_weight weight = hak_profile_weight(period, size);
            double objects = double(weight.objects) / PROFILE_OBJECT;
            EXPECT_NEAR(objects * p, 1, 1.0 / PROFILE_OBJECT) << period << " " << size;
            EXPECT_NEAR(double(weight.bytes) * p / double(size), 1, 1e-6 + p / double(size));
        }
    }
}

TEST(ProfileMeter, DistancesAreExponential)
{
    struct profile_random random;
    hak_profile_set_seed(1);
    hak_profile_seed(&random);
    const int n = 200000;
    double sum = 0, squares = 0;
    int beyond_one = 0, beyond_three = 0;
    for (int i = 0; i < n; i++) {
        double x = hak_profile_distance(&random, 1 << 20) / (1 << 20);
        ASSERT_GE(x, 0);
        sum += x;
        squares += x * x;
        beyond_one += x > 1;
        beyond_three += x > 3;
    }
    /* Five standard errors. */
    EXPECT_NEAR(sum / n, 1, 5 / std::sqrt(n));
    EXPECT_NEAR(squares / n, 2, 5 * std::sqrt(20.0 / n));
    EXPECT_NEAR(double(beyond_one) / n, std::exp(-1), 5 * std::sqrt(0.24 / n));
    EXPECT_NEAR(double(beyond_three) / n, std::exp(-3), 5 * std::sqrt(0.048 / n));
}

/* The blocks that pass, and the one behind them, are as many as the weights say. */
TEST(ProfileMeter, BlocksAreEstimatedWithoutBias)
{
    struct profile_random random;
    hak_profile_set_seed(2);
    hak_profile_seed(&random);
    for (size_t size : {size_t(16), size_t(1024), size_t(32768), size_t(1) << 20}) {
        const size_t period = 65536;
        double objects = double(hak_profile_weight(period, size).objects) / PROFILE_OBJECT;
        double p = 1 / objects, passed = 0, estimate = 0;
        for (int i = 0; i < 20000; i++) {
            passed += hak_profile_blocks(&random, period, size) + 1.0;
            estimate += objects;
        }
        double sigma = std::sqrt(passed * (1 - p) / p);
        EXPECT_NEAR(estimate, passed, 5 * sigma + 20000 * 1e-4) << size;
    }
}

TEST(ProfileMeter, SeedsGiveDifferentNumbers)
{
    struct profile_random a, b;
    hak_profile_set_seed(3);
    hak_profile_seed(&a);
    hak_profile_seed(&b);
    EXPECT_NE(a.state, b.state);
    hak_profile_set_seed(3);
    hak_profile_seed(&b);
    EXPECT_EQ(a.state, b.state);
    hak_profile_begin_seed(9); /* no effect: it was set */
    hak_profile_set_seed(3);
    hak_profile_seed(&b);
    EXPECT_EQ(a.state, b.state);
}

/* However often a program wants to sample: in the long run `rate` times a second. */
TEST(ProfileMeter, ABudgetBoundsTheSamples)
{
    for (uint64_t rate : {uint64_t(1), uint64_t(256), uint64_t(5000)}) {
        struct meter_budget budget;
        const struct profile_limit limit = {rate, PROFILE_BURST};
        hak_profile_begin_budget(&budget, &limit, 1000);
        /* Points of the first period 20 times as often; of 2^shift the budget sees one. */
        const uint64_t seconds = 100;
        uint64_t n = 0;
        for (uint64_t at = 0; at < seconds * 20 * rate; at++) {
            if (at % (uint64_t(1) << budget.shift) == 0) {
                n++;
                (void)hak_profile_spend(&budget, &limit, 1000 + at * 50 / rate);
            }
        }
        EXPECT_LE(n, rate * seconds + PROFILE_BURST * 8) << rate;
        EXPECT_GE(n, rate * seconds / 3) << rate;
    }
}

TEST(ProfileMeter, ABudgetReturnsAfterARest)
{
    struct meter_budget budget;
    const struct profile_limit limit = {100, PROFILE_BURST}, none = {0, PROFILE_BURST};
    hak_profile_begin_budget(&budget, &limit, 1000);
    for (int i = 0; i < 5000; i++) {
        EXPECT_EQ(hak_profile_spend(&budget, &limit, 1000), 0);
    }
    EXPECT_EQ(budget.shift, PROFILE_SHIFT_MAX);
    EXPECT_EQ(hak_profile_spend(&budget, &limit, 1000 + 60000), 1);
    EXPECT_EQ(budget.shift, 0u);
    for (int i = 0; i < 200; i++) { /* few enough */
        EXPECT_EQ(hak_profile_spend(&budget, &limit, 61000 + uint64_t(i) * 10), 0);
    }
    EXPECT_EQ(budget.shift, 0u);
    for (int i = 0; i < 5000; i++) {
        EXPECT_EQ(hak_profile_spend(&budget, &none, 70000), 0);
    }
    EXPECT_EQ(budget.shift, 0u);
}

TEST(ProfileMeter, AShorterPeriodHasALargerBudget)
{
    struct profile_limit limit = hak_profile_limit_for(256, PROFILE_PERIOD);
    EXPECT_EQ(limit.rate, 256u);
    EXPECT_EQ(limit.burst, PROFILE_BURST);
    EXPECT_EQ(hak_profile_limit_for(256, PROFILE_PERIOD * 8).rate, 256u);
    limit = hak_profile_limit_for(256, PROFILE_PERIOD / 32);
    EXPECT_EQ(limit.rate, 256u * 32);
    EXPECT_EQ(limit.burst, PROFILE_BURST * 32);
    limit = hak_profile_limit_for(1000000, 1);
    EXPECT_EQ(limit.rate, UINT64_C(1000000) * PROFILE_PERIOD);
    EXPECT_EQ(limit.burst, int32_t(PROFILE_BURST * PROFILE_PERIOD));
}

} // namespace
