/* Tests of sets of granules against plain arrays. */
#include "superslab/granules.h"

#include <algorithm>
#include <bitset>
#include <cstring>
#include <gtest/gtest.h>

#include "testing/rng.h"

namespace
{

using hak_testing::Rng;
using Bits = std::bitset<SS_GRANULES>;

struct granules from(const Bits &bits)
{
    struct granules set = {{0}};
    for (uint32_t i = 0; i < SS_GRANULES; i++) {
        set.word[i / 64] |= static_cast<uint64_t>(bits[i]) << (i % 64);
    }
    return set;
}

/* Runs of random length, so that all lengths occur. */
Bits random_bits(Rng &rng)
{
    Bits bits;
    bool value = rng.one_in(2);
    for (uint32_t i = 0; i < SS_GRANULES; value = !value) {
        uint32_t n = static_cast<uint32_t>(rng.between(1, rng.one_in(4) ? SS_GRANULES : 12));
        for (; n && i < SS_GRANULES; n--, i++) {
            bits[i] = value;
        }
    }
    return bits;
}

uint32_t run_at(const Bits &bits, uint32_t first)
{
    uint32_t n = 0;
    while (first + n < SS_GRANULES && bits[first + n]) {
        n++;
    }
    return n;
}

TEST(Granules, AgreeWithPlainArrays)
{
    Rng rng(3);
    for (int round = 0; round < 3000; round++) {
        Bits bits = random_bits(rng);
        struct granules set = from(bits);
        uint32_t longest = 0, whole = 0, touched = 0;
        for (uint32_t i = 0; i < SS_GRANULES; i++) {
            longest = std::max(longest, run_at(bits, i));
            touched |= static_cast<uint32_t>(bits[i]) << (i / 8);
            whole |= static_cast<uint32_t>(i % 8 == 0 && run_at(bits, i) >= 8) << (i / 8);
        }
        ASSERT_EQ(hak_granules_longest_run(&set), longest);
        ASSERT_EQ(hak_granules_whole_units(&set), whole);
        ASSERT_EQ(hak_granules_touched_units(&set), touched);
        ASSERT_EQ(hak_granules_is_empty(&set), bits.none());
        uint32_t first = static_cast<uint32_t>(rng.below(SS_GRANULES));
        uint32_t n = static_cast<uint32_t>(rng.between(0, SS_GRANULES - first));
        Bits range;
        for (uint32_t i = first; i < first + n; i++) {
            range[i] = true;
        }
        ASSERT_EQ(hak_granules_count(&set, first, n), (bits & range).count());
        uint32_t before = first;
        while (before > 0 && bits[before - 1]) {
            before--;
        }
        ASSERT_EQ(hak_granules_run_around(&set, first, n),
                  first - before + n + run_at(bits, first + n));
        ASSERT_EQ(hak_granules_of_unit(&set, first / 8),
                  ((bits >> (first / 8 * 8)) & Bits(0xFF)).to_ullong());
        struct granules changed = set, expected = from(bits | range);
        hak_granules_set(&changed, first, n);
        ASSERT_EQ(memcmp(&changed, &expected, sizeof changed), 0);
        expected = from(bits & ~range);
        hak_granules_clear(&changed, first, n);
        ASSERT_EQ(memcmp(&changed, &expected, sizeof changed), 0);
    }
}

/* The shortest run that holds n at the alignment. */
TEST(Granules, BestFit)
{
    Rng rng(4);
    int n_found = 0;
    for (int round = 0; round < 3000; round++) {
        Bits bits = random_bits(rng);
        struct granules set = from(bits);
        uint32_t n = static_cast<uint32_t>(rng.between(1, rng.one_in(3) ? 256 : 20)),
                 align = 1u << rng.below(6);
        uint32_t best = SS_GRANULES, best_run = SS_GRANULES + 1;
        for (uint32_t i = 0; i < SS_GRANULES; i++) {
            if (!bits[i] || (i && bits[i - 1])) {
                continue;
            }
            uint32_t run = run_at(bits, i), place = (i + align - 1) / align * align;
            if (place + n <= i + run && run < best_run) {
                best = place;
                best_run = run;
            }
        }
        ASSERT_EQ(hak_granules_best_fit(&set, n, align), best);
        n_found += best < SS_GRANULES;
    }
    EXPECT_GT(n_found, 500);
    EXPECT_LT(n_found, 2900);
}

} // namespace
