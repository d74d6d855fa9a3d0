"""Tests of the statistics: known values, and what they promise, by simulation from fixed seeds."""

import math
import random
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
        wanted = {"min": 10, "q1": 20, "median": 30, "q3": 40, "max": 50, "low": 10, "high": 50, "spread": 20 / 30}
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
        self.assertAlmostEqual(stats.sigma([1, 2, 3, 4, 1000]), 1.4826 * 1.206)

    def test_median_interval(self):
        # By the binomial distribution, at 95 %: least to greatest up to 8 values (5 or fewer do not reach it), then
        # the second (96.1 % at 9), the third (96.1 % at 12), the tenth of 31 (97.1 %).
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
        self.assertEqual(stats.bootstrap_interval([3]), (3, 3))


class VerdictTest(unittest.TestCase):
    def test_against(self):
        faster = stats.against([110, 120, 130, 110, 120, 125], [100] * 6)
        self.assertEqual((faster["verdict"], faster["low"], faster["high"]), ("faster", 1.1, 1.3))
        self.assertEqual(stats.against([90, 80, 70, 90, 80, 60], [100] * 6)["verdict"], "slower")
        self.assertEqual(stats.against([90, 120, 130, 110, 120, 125], [100] * 6)["verdict"], "not told apart")
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
                stats.smallest_effect(stats.pair_ratios([normal(rng) for _ in range(n)], [normal(rng) for _ in range(n)]))
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
