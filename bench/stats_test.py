"""Tests of the statistics: known values, and their promises, by simulation from fixed seeds."""

import itertools
import math
import random
import statistics
import unittest

from comparison import stats


class KnownValuesTest(unittest.TestCase):
    def test_quantiles(self):
        self.assertEqual(stats.median([3, 1, 2]), 2)
        self.assertEqual(stats.median([4, 1, 2, 3]), 2.5)
        self.assertEqual(stats.quantile([7], 0.25), 7)
        self.assertEqual(stats.quantile([1, 2, 3, 4], 0.25), 1.75)
        self.assertEqual(stats.quantile([1, 2, 3, 4], 1), 4)

    def test_summary(self):
        made = stats.summary([10, 30, 20, 50, 40])
        wanted = {
            "min": 10,
            "q1": 20,
            "median": 30,
            "q3": 40,
            "max": 50,
            "low": 10,
            "high": 50,
            "spread": 20 / 30,
        }
        wanted.update(mean=30, stdev=math.sqrt(250), mean_without_first=35, best_3_of_5=40)
        self.assertEqual(made, wanted)
        self.assertEqual(stats.summary([0, 0])["spread"], 0)
        self.assertIsNone(stats.summary([1])["mean_without_first"])

    def test_best_3_of_5(self):
        self.assertEqual(stats.best_3_of_5([5, 1, 3, 2, 4, 100]), 4)
        self.assertEqual(stats.best_3_of_5([5, 1, 3, 2, 4, 0], least=True), 2)
        self.assertIsNone(stats.best_3_of_5([1, 2, 3, 4]))

    def test_geometric_mean_and_sigma(self):
        self.assertAlmostEqual(stats.geometric_mean([1, 4, 16]), 4)
        self.assertAlmostEqual(stats.sigma([1, 2, 3, 4, 1000]), 1.4826 * stats.MAD_OF_FEW[5], 4)

    def test_sigma_is_right_on_average(self):
        rng = random.Random(7)
        for n in (*range(2, 13), 31):
            drawn = [stats.sigma([rng.gauss(0, 1) for _ in range(n)]) for _ in range(6000)]
            # The mean of 6,000 swings by 1 % (n = 2: standard deviation 0.75 / sqrt(6,000)), the
            # table is good to 1 %.
            self.assertAlmostEqual(sum(drawn) / len(drawn), 1, delta=0.03, msg=str(n))

    def test_against_other_ways_to_compute(self):
        rng = random.Random(3)
        for n in (2, 3, 6, 11, 30):
            values = [rng.expovariate(1) for _ in range(n)]
            self.assertAlmostEqual(stats.median(values), statistics.median(values))
            for q, wanted in zip(
                (0.25, 0.5, 0.75), statistics.quantiles(values, n=4, method="inclusive")
            ):
                self.assertAlmostEqual(stats.quantile(values, q), wanted)
            self.assertAlmostEqual(stats.geometric_mean(values), math.prod(values) ** (1 / n))
            made = stats.summary(values)
            self.assertAlmostEqual(made["mean"], sum(values) / n)
            self.assertAlmostEqual(
                made["stdev"], math.sqrt(sum((x - sum(values) / n) ** 2 for x in values) / (n - 1))
            )
            self.assertEqual(stats.pair_ratios(values, [2.0] * n), [x / 2 for x in values])

    def test_the_rank_by_counting_all_cases(self):
        # Every way in which n pairs can fall on either side of the true median is as likely as any
        # other.
        for n in range(1, 15):
            fewer = [
                min(sides.count(0), sides.count(1)) for sides in itertools.product((0, 1), repeat=n)
            ]
            allowed = [
                k
                for k in range((n + 1) // 2)
                if sum(one <= k for one in fewer) / len(fewer) <= 0.05
            ]
            self.assertEqual(stats.sign_rank(n), max(allowed) if allowed else None, n)

    def test_intervals_hold_the_true_median(self):
        rng = random.Random(11)
        tries = 3000
        for n in (6, 13, 31):
            sign, bootstrap = 0, 0
            for _ in range(tries):
                values = [rng.expovariate(1) for _ in range(n)]  # its median is log 2
                low, high = stats.median_interval(values)
                sign += low <= math.log(2) <= high
                low, high = stats.bootstrap_interval(values)
                bootstrap += low <= math.log(2) <= high
            # 95 % is promised by the first; the bootstrap of a few values comes near it. 3,000
            # tries swing by 0.4 %.
            self.assertGreater(sign / tries, 0.938, n)
            self.assertGreater(bootstrap / tries, 0.90, n)

    def test_median_interval(self):
        # By the binomial distribution, at 95 %: least to greatest up to 8 values (5 or fewer do not
        # reach it), then the second (96.1 % at 9), the third (96.1 % at 12), the tenth of 31 (97.1
        # %).
        for n, k in [(1, 0), (5, 0), (6, 0), (8, 0), (9, 1), (11, 1), (12, 2), (31, 9)]:
            self.assertEqual(stats.median_interval(list(range(n))[::-1]), (k, n - 1 - k), n)
        self.assertIsNone(stats.sign_rank(5))
        self.assertEqual(stats.sign_rank(6), 0)

    def test_the_bootstrap_is_what_drawing_gives(self):
        rng = random.Random(1)
        for n in (5, 7, 12, 31):
            values = [rng.random() for _ in range(n)]
            drawn = sorted(sorted(rng.choices(values, k=n))[(n - 1) // 2] for _ in range(20000))
            low, high = stats.bootstrap_interval(values)
            ordered = sorted(values)
            self.assertLessEqual(abs(ordered.index(drawn[500]) - ordered.index(low)), 1, n)
            self.assertLessEqual(abs(ordered.index(drawn[19499]) - ordered.index(high)), 1, n)
            usual = sorted(
                statistics.median(rng.choices(values, k=n)) for _ in range(5000)
            )  # of an even number: the middle of two
            for end, drawn_end in ((low, usual[125]), (high, usual[4874])):
                at = ordered.index(end)
                self.assertTrue(
                    ordered[max(at - 1, 0)] <= drawn_end <= ordered[min(at + 1, n - 1)], n
                )
        self.assertEqual(stats.bootstrap_interval([3]), (3, 3))


class VerdictTest(unittest.TestCase):
    def test_against(self):
        faster = stats.against([110, 120, 130, 110, 120, 125], [100] * 6)
        self.assertEqual((faster["verdict"], faster["low"], faster["high"]), ("faster", 1.1, 1.3))
        self.assertEqual(stats.against([90, 80, 70, 90, 80, 60], [100] * 6)["verdict"], "slower")
        self.assertEqual(
            stats.against([90, 120, 130, 110, 120, 125], [100] * 6)["verdict"], "not told apart"
        )
        self.assertEqual(stats.against([100] * 6, [100] * 6)["verdict"], "not told apart")
        few = stats.against([200] * 5, [100] * 5)
        self.assertEqual((few["verdict"], few["smallest_effect"]), ("too few runs", None))
        with self.assertRaises(ValueError):
            stats.against([1, 2], [1])

    def rate(self, n, effect, wanted, draw, tries=1500):
        """The share of simulated measurements of n pairs that end in one of the verdicts."""
        rng = random.Random(n)
        found = 0
        for _ in range(tries):
            ours = [draw(rng) * (1 + effect) for _ in range(n)]
            found += stats.against(ours, [draw(rng) for _ in range(n)])["verdict"] in wanted
        return found / tries

    def test_equal_allocators_are_seldom_told_apart(self):
        def normal(rng):
            return math.exp(rng.gauss(0, 0.05))

        def skewed(rng):  # a machine that now and then stalls
            return 1 / (1 + 0.05 * rng.expovariate(1) + (3 if rng.random() < 0.05 else 0))

        for draw in (normal, skewed):
            for n in (6, 9, 12, 31):
                # The promise is 5 %; 1,500 tries swing by 0.6 % (standard deviation).
                self.assertLess(self.rate(n, 0, ("faster", "slower"), draw), 0.068, n)

    def test_the_smallest_effect_is_seen(self):
        def normal(rng):
            return math.exp(rng.gauss(0, 0.05))

        # Ratios of two such have sqrt(2) times the spread.
        for n in (6, 12, 31):
            rng = random.Random(n)
            effects = [
                stats.smallest_effect(
                    stats.pair_ratios(
                        [normal(rng) for _ in range(n)], [normal(rng) for _ in range(n)]
                    )
                )
                for _ in range(400)
            ]
            seen = self.rate(n, stats.median(effects), ("faster",), normal)
            self.assertGreater(seen, 0.6, n)
            self.assertLess(seen, 0.95, n)
        self.assertGreater(self.rate(31, 0.5, ("faster",), normal, 200), 0.99)


class WarmUpTest(unittest.TestCase):
    def series(self, first, n=20, seed=1):
        rng = random.Random(seed)
        values = [[rng.gauss(100, 1) for _ in range(n)] for _ in range(5)]
        for one in values:
            one[: len(first)] = first
        return values

    def test_found(self):
        self.assertEqual(stats.warm_up(self.series([]), 6), 0)
        self.assertEqual(stats.warm_up(self.series([60]), 6), 1)
        self.assertEqual(stats.warm_up(self.series([60, 80, 90]), 6), 3)

    def test_one_allocator_alone_is_no_warm_up(self):
        values = self.series([])
        values[0][0] = 10
        self.assertEqual(stats.warm_up(values, 6), 0)

    def test_enough_are_left(self):
        self.assertEqual(stats.warm_up(self.series([50] * 9), 6), 6)
        self.assertEqual(stats.warm_up(self.series([50], n=6), 6), 0)

    def test_seldom_found_where_there_is_none(self):
        found = sum(stats.warm_up(self.series([], seed=seed), 6) > 0 for seed in range(400))
        self.assertLess(found, 400 * 0.03)


if __name__ == "__main__":
    unittest.main()
