/* Tests of the control law on sequences of live bytes and a clock of their own. */
#include "ace/control.h"

#include <algorithm>
#include <cstring>
#include <gtest/gtest.h>

#include "base/verify.h"

#include "testing/rng.h"

namespace
{

const uint64_t kMiB = 1 << 20;
const uint64_t kMs = 1000000;

class Control : public testing::Test
{
  protected:
    void SetUp() override
    {
        memset(&c, 0, sizeof c);
        hak_control_start(&c, now, 500);
        hak_control_set_helped(&c, 1);
    }
    void TearDown() override
    {
        EXPECT_EQ(hak_control_verify(&c), 0);
    }
    void note(uint64_t superslabs, uint64_t ranges, uint64_t ms)
    {
        now += ms * kMs;
        hak_control_note(&c, superslabs, ranges, now);
        ASSERT_EQ(hak_control_verify(&c), 0);
    }
    /* What is kept beyond the highest live bytes. */
    static uint64_t with_slack(uint64_t most, uint32_t slack = CONTROL_MIN_SLACK_SUPERSLABS)
    {
        return most + most / CONTROL_SLACK_PARTS * slack + CONTROL_LEAST;
    }
    static uint64_t with_slack_of_ranges(uint64_t most, uint32_t slack = CONTROL_MIN_SLACK_RANGES)
    {
        uint64_t spare = most / CONTROL_SLACK_PARTS * CONTROL_SPARE_PARTS;
        return with_slack(most, slack) + (spare < CONTROL_SPARE ? spare : CONTROL_SPARE);
    }
    uint64_t keep(enum control_pool pool) const
    {
        return hak_control_keep(&c, pool, UINT64_MAX);
    }
    struct control c;
    uint64_t now = 12345 * kMs;
};

TEST_F(Control, VerifyNamesTheBrokenEquation)
{
    note(100 * kMiB, 0, 1);
    c.peaks[CONTROL_RANGES][c.epoch]++;
    EXPECT_EQ(hak_control_verify(&c), VERIFY_CONTROL_PEAKS);
    c.peaks[CONTROL_RANGES][c.epoch]--;
    c.classes[3].live++;
    EXPECT_EQ(hak_control_verify(&c), VERIFY_CONTROL_CLASS);
    c.classes[3].live--;
    c.horizon_ms++;
    EXPECT_EQ(hak_control_verify(&c), VERIFY_CONTROL_HORIZON);
    c.horizon_ms--;
    c.slack[CONTROL_RANGES] = CONTROL_MIN_SLACK_RANGES - 1;
    EXPECT_EQ(hak_control_verify(&c), VERIFY_CONTROL_SLACK);
    c.slack[CONTROL_RANGES] = CONTROL_MAX_SLACK + 1;
    EXPECT_EQ(hak_control_verify(&c), VERIFY_CONTROL_SLACK);
    c.slack[CONTROL_RANGES] = CONTROL_MIN_SLACK_RANGES;
    c.is_lifted = 1;
    EXPECT_EQ(hak_control_verify(&c), VERIFY_CONTROL_LIFTED);
    c.is_lifted = 0;
    c.classes[3].live = static_cast<uint64_t>(-kMiB);
    EXPECT_EQ(hak_control_verify_classes(&c), VERIFY_CONTROL_CLASS);
    c.classes[3].live = 0;
}

TEST_F(Control, KeepsUpToTheRecentPeak)
{
    note(100 * kMiB, 0, 1);
    note(30 * kMiB, 0, 1);
    EXPECT_EQ(keep(CONTROL_SUPERSLABS), with_slack(100 * kMiB) - 30 * kMiB);
    EXPECT_EQ(keep(CONTROL_RANGES), with_slack(0));
    EXPECT_EQ(hak_control_keep(&c, CONTROL_SUPERSLABS, kMiB), kMiB) << "within the budget";
}

/* What slabs have never handed out is not kept when they are freed; but while they have it, the
   heap is not in a valley. */
TEST_F(Control, UntouchedBytesAreLiveInTheTotalAlone)
{
    hak_control_set_helped(&c, 0);
    hak_control_set_untouched(&c, 60 * kMiB);
    note(40 * kMiB, 0, 1);
    hak_control_set_untouched(&c, 24 * kMiB);
    note(10 * kMiB, 0, 2);
    EXPECT_EQ(keep(CONTROL_SUPERSLABS), with_slack(40 * kMiB) - 10 * kMiB);
    EXPECT_EQ(c.live[CONTROL_TOTAL], 34 * kMiB);
    EXPECT_GE(keep(CONTROL_TOTAL), 66 * kMiB) << "more than a quarter is taken";
    hak_control_set_untouched(&c, 4 * kMiB);
    note(10 * kMiB, 0, 3);
    EXPECT_LT(keep(CONTROL_TOTAL), 66 * kMiB) << "a valley";
    EXPECT_EQ(hak_control_verify(&c), 0);
}

/* Blocks of slabs need none of it. */
TEST_F(Control, SpansHaveSomeToSpareWhileThereAreAny)
{
    note(100 * kMiB, 0, 1);
    hak_control_set_spans(&c, 32 * kMiB);
    EXPECT_EQ(keep(CONTROL_SUPERSLABS),
              with_slack(100 * kMiB) + CONTROL_SPARE_PARTS_SPANS * kMiB - 100 * kMiB);
    EXPECT_EQ(keep(CONTROL_TOTAL), keep(CONTROL_SUPERSLABS));
    hak_control_set_spans(&c, 100 * kMiB);
    EXPECT_EQ(keep(CONTROL_SUPERSLABS), with_slack(100 * kMiB) + CONTROL_SPARE - 100 * kMiB);
    EXPECT_EQ(keep(CONTROL_RANGES), with_slack(0));
    hak_control_set_spans(&c, 0);
    EXPECT_EQ(keep(CONTROL_SUPERSLABS), with_slack(100 * kMiB) - 100 * kMiB);
}

TEST_F(Control, ForgetsThePeakAfterTheHorizon)
{
    note(0, 200 * kMiB, 1);
    note(0, 10 * kMiB, 1);
    for (int i = 0; i < 80; i++) {
        note(0, 10 * kMiB, 5);
    }
    EXPECT_GT(keep(CONTROL_RANGES), 100 * kMiB) << "400 ms later it is still worth it";
    for (int i = 0; i < 40; i++) {
        note(0, 10 * kMiB, 5);
    }
    EXPECT_EQ(keep(CONTROL_RANGES), with_slack_of_ranges(10 * kMiB) - 10 * kMiB);
}

/* However long no call comes. */
TEST_F(Control, ALongSilenceForgetsAll)
{
    note(200 * kMiB, 0, 1);
    note(0, 0, 1);
    note(0, 0, 3600000);
    EXPECT_EQ(keep(CONTROL_SUPERSLABS), with_slack(0));
    EXPECT_EQ(c.horizon_ms, 500u);
}

/* One pool's growth takes the other's claim. */
TEST_F(Control, TheTotalCountsBothPools)
{
    note(0, 100 * kMiB, 1);
    note(0, 0, 1);
    EXPECT_GE(keep(CONTROL_TOTAL), 100 * kMiB);
    note(100 * kMiB, 0, 1);
    EXPECT_EQ(keep(CONTROL_TOTAL), with_slack_of_ranges(100 * kMiB) - 100 * kMiB);
    EXPECT_EQ(keep(CONTROL_SUPERSLABS), with_slack(100 * kMiB) - 100 * kMiB);
}

/* The total has no slack for what is no longer in use. */
TEST_F(Control, RangesThatRestGiveTheTotalNoSlack)
{
    note(0, 100 * kMiB, 1);
    note(100 * kMiB, 0, 1);
    note(100 * kMiB, 0, 500 / CONTROL_EPOCHS + 1);
    note(100 * kMiB, 0, 500 / CONTROL_EPOCHS + 1);
    EXPECT_EQ(keep(CONTROL_TOTAL), with_slack(100 * kMiB) - 100 * kMiB);
    EXPECT_EQ(keep(CONTROL_RANGES), with_slack_of_ranges(100 * kMiB)) << "their own limit stays";
}

TEST_F(Control, RegretMakesTheHorizonLonger)
{
    uint64_t horizon = c.horizon_ms;
    for (int i = 0; i < 20; i++) {
        note(100 * kMiB, 0, 50);
        note(0, 0, 50);
        hak_control_purged(&c, CONTROL_SUPERSLABS, 50 * kMiB);
        hak_control_fresh(&c, CONTROL_SUPERSLABS, 50 * kMiB);
    }
    EXPECT_GT(c.horizon_ms, horizon);
    EXPECT_LE(c.horizon_ms, 500u * CONTROL_LONGEST);
    EXPECT_GT(c.n_longer, 0u);
}

/* Fetching again what was purged, at once, for more than 1/32 of the time: more slack for that
   pool, before the epoch ends. */
TEST_F(Control, DearRegretGivesMoreSlackAtOnce)
{
    for (int i = 0; i < 20; i++) {
        note(0, 100 * kMiB, 0);
        hak_control_purged(&c, CONTROL_RANGES, 10 * kMiB);
        hak_control_fresh(&c, CONTROL_RANGES, 10 * kMiB);
    }
    EXPECT_EQ(c.n_epochs, 0u);
    EXPECT_EQ(c.slack[CONTROL_RANGES], CONTROL_MAX_SLACK);
    EXPECT_EQ(c.slack[CONTROL_SUPERSLABS], CONTROL_MIN_SLACK_SUPERSLABS)
        << "the other pool regrets nothing";
    EXPECT_EQ(keep(CONTROL_RANGES),
              with_slack_of_ranges(100 * kMiB, CONTROL_MAX_SLACK) - 100 * kMiB);
}

/* As much as would have spared what was fetched beyond 1/32 of the time, and no more. */
TEST_F(Control, SlackGrowsByWhatWasRegretted)
{
    const uint64_t part = 320 * kMiB / CONTROL_SLACK_PARTS;
    note(0, 320 * kMiB, 0);
    hak_control_purged(&c, CONTROL_RANGES, 100 * kMiB);
    hak_control_fresh(&c, CONTROL_RANGES, 5 * kMiB);
    EXPECT_EQ(c.slack[CONTROL_RANGES], CONTROL_MIN_SLACK_RANGES) << "2 ms in 62 are no matter";
    hak_control_fresh(&c, CONTROL_RANGES, 3 * part + kMiB);
    EXPECT_EQ(c.slack[CONTROL_RANGES], CONTROL_MIN_SLACK_RANGES + 3);
    hak_control_fresh(&c, CONTROL_RANGES, part);
    EXPECT_EQ(c.slack[CONTROL_RANGES], CONTROL_MIN_SLACK_RANGES + 4) << "each byte counts once";
    hak_control_fresh(&c, CONTROL_RANGES, 1000 * kMiB);
    EXPECT_LE(c.slack[CONTROL_RANGES], CONTROL_MIN_SLACK_RANGES + 9) << "no more than was purged";
}

/* What suffices is not regretted: with time the pool tries with less. */
TEST_F(Control, HorizonsWithoutRegretTakeSlackBack)
{
    note(0, 100 * kMiB, 0);
    hak_control_purged(&c, CONTROL_RANGES, 200 * kMiB);
    hak_control_fresh(&c, CONTROL_RANGES, 200 * kMiB);
    ASSERT_EQ(c.slack[CONTROL_RANGES], CONTROL_MAX_SLACK);
    for (uint32_t slack = CONTROL_MAX_SLACK; slack > CONTROL_MIN_SLACK_RANGES; slack--) {
        for (uint32_t i = 0; i < CONTROL_EPOCHS; i++) {
            note(0, 100 * kMiB, c.horizon_ms / CONTROL_EPOCHS + 1);
        }
        ASSERT_EQ(c.slack[CONTROL_RANGES], slack - 1);
    }
    note(0, 100 * kMiB, 10000);
    EXPECT_EQ(c.slack[CONTROL_RANGES], CONTROL_MIN_SLACK_RANGES);
}

/* A quarter of it goes with a peak that was kept for in vain. */
TEST_F(Control, PeaksInVainTakeSlackBack)
{
    note(0, 100 * kMiB, 0);
    hak_control_purged(&c, CONTROL_RANGES, 200 * kMiB);
    hak_control_fresh(&c, CONTROL_RANGES, 200 * kMiB);
    note(0, 10 * kMiB, 1);
    uint32_t slack = c.slack[CONTROL_RANGES], n_shorter = c.n_shorter;
    for (int i = 0; i < 400 && c.n_shorter == n_shorter; i++) {
        note(0, 10 * kMiB, 10);
    }
    EXPECT_LE(c.slack[CONTROL_RANGES], slack - (slack - CONTROL_MIN_SLACK_RANGES) / 4);
}

/* The same bytes over a long time cost little. */
TEST_F(Control, CheapRegretGivesNoSlack)
{
    for (int i = 0; i < 200; i++) {
        note(100 * kMiB, 0, 60);
        hak_control_purged(&c, CONTROL_SUPERSLABS, 2 * kMiB);
        hak_control_fresh(&c, CONTROL_SUPERSLABS, 2 * kMiB);
    }
    EXPECT_GT(c.n_epochs, 20u);
    EXPECT_EQ(c.slack[CONTROL_SUPERSLABS], CONTROL_MIN_SLACK_SUPERSLABS);
}

/* What the other pool fetches is a change of phase. */
TEST_F(Control, TheOtherPoolsFetchIsNoRegret)
{
    for (int i = 0; i < 20; i++) {
        note(100 * kMiB, 0, 100);
        hak_control_purged(&c, CONTROL_RANGES, 50 * kMiB);
        hak_control_fresh(&c, CONTROL_SUPERSLABS, 50 * kMiB);
    }
    EXPECT_EQ(c.horizon_ms, 500u);
    EXPECT_EQ(c.n_longer, 0u);
}

TEST_F(Control, PeaksInVainMakeItShorterAgain)
{
    for (int i = 0; i < 20; i++) {
        note(100 * kMiB, 0, 100);
        hak_control_purged(&c, CONTROL_SUPERSLABS, 50 * kMiB);
        hak_control_fresh(&c, CONTROL_SUPERSLABS, 50 * kMiB);
    }
    ASSERT_GT(c.horizon_ms, 500u);
    uint64_t longest = c.horizon_ms;
    for (int i = 0; i < 400; i++) {
        note(i % 100 == 0 ? 300 * kMiB : 10 * kMiB, 0, 100);
    }
    EXPECT_LT(c.horizon_ms, longest);
    EXPECT_GT(c.n_shorter, 0u);
}

/* What was counted before the first start stays; a later one begins again. */
TEST_F(Control, TheFirstStartLeavesClassesAsTheyAre)
{
    static struct control fresh;
    hak_control_class_note(&fresh, 5, 1000);
    hak_control_miss(&fresh, 5);
    hak_control_start(&fresh, 1, 500);
    EXPECT_EQ(fresh.classes[5].misses, 1u);
    EXPECT_EQ(fresh.classes[5].peaks[0], 1000u);
    EXPECT_EQ(hak_control_verify_classes(&fresh), 0);
    hak_control_class_note(&fresh, 5, -600);
    hak_control_start(&fresh, 2, 500);
    EXPECT_EQ(fresh.classes[5].misses, 0u);
    EXPECT_EQ(fresh.classes[5].peaks[0], 400u);
    EXPECT_EQ(hak_control_verify(&fresh), 0);
}

TEST_F(Control, ClassesHaveTheirOwnPeaksHitsAndAges)
{
    hak_control_class_note(&c, 61, 40 * static_cast<int64_t>(kMiB));
    hak_control_class_note(&c, 61, -30 * static_cast<int64_t>(kMiB));
    EXPECT_EQ(hak_control_class_keep(&c, 61), 30 * kMiB);
    EXPECT_EQ(hak_control_class_keep(&c, 62), 0u);
    hak_control_miss(&c, 61);
    for (int i = 0; i < 100; i++) {
        hak_control_hit(&c, 61, 8000);
    }
    EXPECT_EQ(c.classes[61].hits, 100u);
    EXPECT_EQ(c.classes[61].misses, 1u);
    EXPECT_EQ(c.classes[61].age_ns, 8000u);
    hak_control_class_note(&c, 61, -10 * static_cast<int64_t>(kMiB));
    note(0, 0, 3000);
    EXPECT_EQ(hak_control_class_keep(&c, 61), 0u);
}

/* An epoch ends by operations too. */
TEST_F(Control, ManyOperationsEndAnEpoch)
{
    uint64_t epochs = c.n_epochs;
    for (uint32_t i = 0; i < CONTROL_EPOCH_OPS + 1; i++) {
        hak_control_note(&c, 0, 0, now);
    }
    EXPECT_EQ(c.n_epochs, epochs + 1);
}

TEST_F(Control, AClockThatStandsOrGoesBackDoesNoHarm)
{
    note(50 * kMiB, 0, 10);
    hak_control_note(&c, 10 * kMiB, 0, now - 5 * kMs);
    hak_control_note(&c, 10 * kMiB, 0, 0);
    EXPECT_EQ(c.now_ns, now);
    EXPECT_GE(keep(CONTROL_SUPERSLABS), 40 * kMiB);
}

/* The same operations at the same times give the same state. */
TEST_F(Control, IsDeterministic)
{
    struct control results[2];
    for (struct control &result : results) {
        hak_testing::Rng rng(7);
        memset(&c, 0, sizeof c);
        now = 1000 * kMs;
        hak_control_start(&c, now, 500);
        for (int i = 0; i < 20000; i++) {
            note(rng.below(300 * kMiB), rng.below(300 * kMiB), rng.below(30));
            if (rng.one_in(5)) {
                hak_control_purged(&c, rng.one_in(2) ? CONTROL_RANGES : CONTROL_SUPERSLABS,
                                   rng.below(50 * kMiB));
            }
            if (rng.one_in(5)) {
                hak_control_fresh(&c, rng.one_in(2) ? CONTROL_RANGES : CONTROL_SUPERSLABS,
                                  rng.below(50 * kMiB));
            }
            ASSERT_LE(keep(CONTROL_TOTAL), with_slack(600 * kMiB, CONTROL_MAX_SLACK));
        }
        result = c;
    }
    EXPECT_EQ(memcmp(&results[0], &results[1], sizeof results[0]), 0);
}

/* adapt.c notes an operation only if it has to: what may be kept is the same as if all were noted,
   at each moment. */
TEST_F(Control, SkippedOperationsChangeNothing)
{
    hak_testing::Rng rng(11);
    struct control each = c;
    uint32_t n_skipped = 0, n_all_skipped = 0, steps = 200000;
    uint64_t live[CONTROL_TOTAL] = {0, 0}, was[CONTROL_TOTAL] = {0, 0};
    for (uint32_t i = 0; i < steps; i++) {
        now += rng.one_in(50) ? rng.below(20 * kMs) : rng.below(kMs / 10);
        now += rng.one_in(5000) ? rng.below(3000 * kMs) : 0;
        uint64_t most = (rng.one_in(1000) ? 300 : 100) * kMiB;
        live[rng.below(2)] = rng.below(most);
        hak_control_note(&each, live[0], live[1], now);
        bool is_quiet = live[0] <= c.peaks[0][c.epoch] && live[1] <= c.peaks[1][c.epoch] &&
                        live[0] + live[1] <= c.peaks[CONTROL_TOTAL][c.epoch] &&
                        live[0] + live[1] >= hak_control_valley(&c) &&
                        now < hak_control_ends_ns(&c);
        if (is_quiet) {
            n_skipped++;
            n_all_skipped++;
            was[0] = live[0];
            was[1] = live[1];
        } else {
            hak_control_skip(&c, n_skipped, was[0], was[1]);
            hak_control_note(&c, live[0], live[1], now);
            n_skipped = 0;
        }
        if (!is_quiet && rng.one_in(3)) {
            enum control_pool pool = rng.one_in(2) ? CONTROL_RANGES : CONTROL_SUPERSLABS;
            uint64_t bytes = rng.below(5 * kMiB);
            for (struct control *control : {&each, &c}) {
                hak_control_purged(control, pool, bytes);
                hak_control_fresh(control, pool, bytes / 2);
            }
        }
        for (int pool = 0; pool < CONTROL_POOLS; pool++) {
            ASSERT_EQ(hak_control_most(&c, static_cast<enum control_pool>(pool)),
                      hak_control_most(&each, static_cast<enum control_pool>(pool)))
                << i << " pool " << pool;
        }
        ASSERT_EQ(hak_control_lone(&c), hak_control_lone(&each)) << i;
        ASSERT_EQ(c.horizon_ms, each.horizon_ms) << i;
        ASSERT_EQ(hak_control_verify(&c), 0);
    }
    EXPECT_GT(n_all_skipped, steps / 2);
    EXPECT_GT(c.n_longer + c.n_shorter, 0u);
}

/* No thread purges while the program sleeps: at the last free no more than a quarter stays. */
TEST_F(Control, ALoneThreadKeepsAQuarter)
{
    hak_control_set_helped(&c, 0);
    for (uint64_t mib : {100, 400, 4000}) {
        for (int round = 0; round < 3; round++) {
            note(mib * kMiB, 0, 300);
            note(0, 0, 300);
            EXPECT_LE(keep(CONTROL_TOTAL), mib * kMiB / 4) << round;
            EXPECT_GE(keep(CONTROL_TOTAL), 8 * kMiB);
            /* What is more has gone, and is fetched again in the next round. */
            uint64_t gone = mib * kMiB - keep(CONTROL_TOTAL);
            hak_control_purged(&c, CONTROL_SUPERSLABS, gone);
            hak_control_fresh(&c, CONTROL_SUPERSLABS, gone);
        }
        hak_control_start(&c, now, 500);
    }
    hak_control_set_helped(&c, 1);
    note(400 * kMiB, 0, 300);
    note(0, 0, 1);
    EXPECT_GE(keep(CONTROL_TOTAL), 400 * kMiB);
}

/* Up to `mib`, what went last is fetched, and down again. Returns what is kept then. */
uint64_t swing(struct control *c, uint64_t *now, uint64_t mib, uint64_t *gone)
{
    hak_control_note(c, mib * kMiB, 0, *now += 5 * kMs);
    hak_control_fresh(c, CONTROL_SUPERSLABS, *gone);
    hak_control_note(c, 0, 0, *now += 5 * kMs);
    uint64_t kept = hak_control_keep(c, CONTROL_TOTAL, UINT64_MAX);
    *gone = kept < mib * kMiB ? mib * kMiB - kept : 0;
    hak_control_purged(c, CONTROL_SUPERSLABS, *gone);
    EXPECT_EQ(hak_control_verify(c), 0);
    return kept;
}

/* What a valley may keep begins with all that the heap has had, and falls by no more than a free
   may purge: four times what is freed. Live and kept bytes are never more than four times what is
   live, or what a heap keeps of which nothing is live. */
TEST_F(Control, AValleyIsPurgedAsLateAsItsFreesCan)
{
    const uint64_t most = 400 * kMiB;
    hak_control_set_helped(&c, 0);
    note(most, 0, 300);
    uint64_t before = UINT64_MAX;
    for (uint64_t live = most / 4 - 1; live > kMiB; live -= kMiB / 4) {
        note(live, 0, 0);
        const uint64_t lone = hak_control_lone(&c);
        ASSERT_LE(live + lone, std::max(4 * live, live + most / CONTROL_LONE_PARTS)) << live;
        ASSERT_GE(lone, 2 * live) << live;
        if (before == UINT64_MAX) {
            EXPECT_GE(lone + 8, most - live) << "at the edge all is kept";
        } else {
            ASSERT_LE(lone, before) << live;
            ASSERT_LE(before - lone, 4 * (kMiB / 4)) << live;
        }
        before = lone;
    }
    EXPECT_EQ(before, most / CONTROL_LONE_PARTS);
}

/* Of a small heap the least that is kept is a large part: to fetch the rest three times is a habit
   all the same. A larger heap of long ago changes nothing. */
TEST_F(Control, ASmallHeapThatSwingsKeepsItsMemoryAsSoon)
{
    for (uint64_t before : {0, 400}) {
        hak_control_start(&c, now, 500);
        hak_control_set_helped(&c, 0);
        uint64_t gone = 0;
        if (before) {
            swing(&c, &now, before, &gone);
            note(0, 0, 10000);
            gone = 0;
        }
        for (int round = 0; round < 3; round++) {
            EXPECT_EQ(swing(&c, &now, 20, &gone), CONTROL_LONE_LEAST) << round;
        }
        if (before) { /* what a swing takes is known as the whole heap at most */
            EXPECT_EQ(swing(&c, &now, 20, &gone), CONTROL_LONE_LEAST);
        }
        EXPECT_GE(swing(&c, &now, 20, &gone), 20 * kMiB) << before;
        EXPECT_TRUE(c.is_lifted);
        note(0, 0, 5000);
        EXPECT_FALSE(c.is_lifted) << "it is paid";
    }
}

/* Plays a heap that swings between nothing and `mib` without help. Returns the part of the time
   that fetching costs, if a page costs 1.5 us. */
double sawtooth_cost(struct control *c, uint64_t now, uint64_t mib, int n, uint64_t period_ms)
{
    const uint64_t parts = 64;
    uint64_t kept = 0, fetched = 0, size = mib * kMiB;
    for (int tooth = 0; tooth < n; tooth++) {
        for (uint64_t i = 1; i <= 2 * parts; i++) {
            uint64_t live = size / parts * (i <= parts ? i : 2 * parts - i), part = size / parts;
            now += period_ms * kMs / (2 * parts);
            hak_control_note(c, live, 0, now);
            if (i <= parts) {
                uint64_t fresh = part > kept ? part - kept : 0;
                kept -= part - fresh;
                fetched += tooth ? fresh : 0;
                hak_control_fresh(c, CONTROL_SUPERSLABS, fresh);
            } else {
                uint64_t most = hak_control_keep(c, CONTROL_TOTAL, UINT64_MAX);
                kept += part;
                if (kept > most) {
                    hak_control_purged(c, CONTROL_SUPERSLABS, kept - most);
                    kept = most;
                }
            }
        }
    }
    return static_cast<double>(fetched) / 4096 * 1500 /
           (static_cast<double>(period_ms) * static_cast<double>(kMs) * n);
}

/* A heap that swings all the time gets to keep it; in the long run it pays a part of the time,
   however long a swing takes. (Fetching all of 400 MiB each time would cost 0.15 s.) */
TEST_F(Control, ASawtoothWithoutHelpPaysLittle)
{
    for (uint64_t period_ms : {200, 400, 1000, 3000}) {
        hak_control_start(&c, now, 500);
        hak_control_set_helped(&c, 0);
        double all = 0.15 / (static_cast<double>(period_ms) / 1000);
        double cost = sawtooth_cost(&c, now, 400, 100, period_ms);
        now = c.now_ns;
        EXPECT_LT(cost, 0.05) << period_ms << " ms, of " << all;
        EXPECT_GT(cost, 0) << "no one tooth tells that it is one";
    }
}

/* Where the heap stays in use, nothing is bounded, and what the law purges is no debt: at the last
   free little stays all the same. */
TEST_F(Control, AHeapInUseIsNotBounded)
{
    hak_control_set_helped(&c, 0);
    uint64_t bytes = 16 * kMiB;
    for (int i = 0; i < 200; i++, bytes += kMiB / 4) {
        note(0, 2 * bytes, 10);
        hak_control_fresh(&c, CONTROL_RANGES, bytes);
        note(0, bytes, 10);
        EXPECT_GE(keep(CONTROL_TOTAL), bytes) << "what was in use just now";
        hak_control_purged(&c, CONTROL_RANGES, bytes);
    }
    EXPECT_FALSE(c.is_lifted);
    note(0, 0, 1);
    EXPECT_LE(keep(CONTROL_TOTAL), bytes / 2);
}

} // namespace
