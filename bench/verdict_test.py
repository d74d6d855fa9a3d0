"""The sentence that stands first: right where the truth is known, silent where nothing is known."""

import io
import random
import unittest

import comparison_testing as made_up
from comparison import analysis, output, verdict
from report import html


def bare(speeds, rounds, n_workloads, noise, seed):
    """What verdict.py reads of a report, and no more: a quick one."""
    rng = random.Random(seed)
    parts = []
    for _ in range(n_workloads):
        size, rows = rng.uniform(0.2, 5), []
        for name, speed in speeds.items():
            runs = [
                {"ops_per_s": size * speed * rng.lognormvariate(0, noise), "peak_kib": 1000}
                for _ in range(rounds)
            ]
            rows.append({"allocator": name, "runs": runs})
        parts.append({"left_out": 0, "allocators": rows})
    return {"workloads": parts}


def measured(speeds, rounds=6, n_workloads=12, noise=0.02, seed=1, peaks=None, left_out=None):
    """A report of workloads at which each run's speed is off by a random factor. speeds, peaks:
    {allocator: what is true}."""
    rng = random.Random(seed)
    workloads = [made_up.workload("w%d" % i) for i in range(n_workloads)]
    results = {}
    for one in workloads:
        size = rng.uniform(0.2, 5)
        for name, speed in speeds.items():
            results[one.name, name] = [
                made_up.run(
                    size * speed * rng.lognormvariate(0, noise),
                    (peaks or {}).get(name, 1000) * rng.lognormvariate(0, noise / 10),
                )
                for _ in range(rounds)
            ]
    return analysis.analyse(workloads, results, 6, **{**made_up.ABOUT, **(left_out or {})})


class Distribution(unittest.TestCase):
    def test_student(self):
        """The quantiles that tables have."""
        for p, freedom, t in (
            (0.975, 1, 12.706), (0.975, 2, 4.303), (0.975, 9, 2.262), (0.995, 5, 4.032),
            (0.95, 30, 1.697),
        ):  # fmt: skip
            self.assertAlmostEqual(verdict.student_quantile(p, freedom), t, 3)
            self.assertAlmostEqual(verdict.student_cdf(t, freedom), p, 4)


class Sentence(unittest.TestCase):
    def test_fastest_and_smallest(self):
        report = measured(
            {"glibc": 1e7, "hakmem": 1.3e7, "jemalloc": 1.1e7, "null": 9e7},
            peaks={"glibc": 900, "hakmem": 1000, "jemalloc": 2700, "null": 1},
        )
        text = report["verdict"]["text"]
        self.assertRegex(
            text,
            r"^hakmem is the fastest: jemalloc, the next, needs 1[5-9]\.\d % more time "
            r"\(\d+\.\d % to \d+\.\d %\); glibc is the smallest: hakmem, the next, needs 11\.\d % "
            r"more memory at its peak \(1\d\.\d % to 1\d\.\d %\) "
            r"\(12 workloads, 6 rounds, 95% confidence\)\.$",
        )
        self.assertTrue(report["verdict"]["is_clear"])
        self.assertNotIn("null", text)
        self.assertNotIn("null", report["overall"])
        other = report["verdict"]["time"]["others"]["jemalloc"]
        self.assertLess(other["low"], 1.3 / 1.1)
        self.assertGreater(other["high"], 1.3 / 1.1)

    def test_far_ahead(self):
        text = measured({"glibc": 1e6, "hakmem": 3e6})["verdict"]["text"]
        self.assertRegex(text, r"^hakmem is the fastest: glibc needs (2\.9|3\.0)\d times its time")

    def test_not_told_apart(self):
        report = measured({"hakmem": 1e7, "tcmalloc": 1.001e7, "glibc": 5e6}, noise=0.05)
        self.assertRegex(
            report["verdict"]["text"],
            r"^(hakmem and tcmalloc|tcmalloc and hakmem) cannot be told apart in time \(0\.9\d\d "
            r"to 1\.0\d\d\)",
        )

    def test_too_noisy(self):
        """An interval that holds nearly everything is no answer."""
        report = measured({"hakmem": 1e7, "glibc": 1.001e7}, 4, noise=0.9)
        self.assertRegex(
            report["verdict"]["text"],
            r"^No verdict on time: (hakmem and glibc|glibc and hakmem) are within the noise "
            r"\(0\.\d+ to [1-9]\.\d+\)",
        )
        self.assertFalse(report["verdict"]["is_clear"])

    def test_the_core_set_gives_the_verdict(self):
        report = measured(
            {"hakmem": 3e7, "glibc": 1e7}, left_out={"core": ["w%d" % i for i in range(10)]}
        )
        self.assertIn("(10 core workloads, 6 rounds", report["verdict"]["text"])
        self.assertEqual(sum(part["is_breadth"] for part in report["workloads"]), 2)
        for part in report["workloads"][10:]:  # few rounds there do not matter
            for row in part["allocators"]:
                row["runs"] = row["runs"][:1]
        self.assertEqual(verdict.of(report)["time"]["rounds"], 6)

    def test_allocators_of_other_command_lines(self):
        """A report is judged where its allocators are not in the table, as in merge."""
        report = measured({"hakmem": 1e7, "theirs": 2e7})
        self.assertIn("theirs is the fastest", report["verdict"]["text"])
        self.assertIn("theirs", next(output.glance_rows(report)))

    def test_too_few_rounds(self):
        noise = {"spins": 40, "spread": 0.2, "worst": 0.9, "median_ns": 1e6}
        for rounds in (1, 2):
            report = measured({"hakmem": 3e7, "glibc": 1e7}, rounds, left_out={"noise": noise})
            text = report["verdict"]["text"]
            self.assertTrue(
                text.startswith(
                    "No verdict on time: %s too few; no verdict on memory"
                    % ("1 round is" if rounds == 1 else "2 rounds are")
                ), text
            )
            self.assertIn("This machine is busy (a fixed loop spreads by 20%): measure on", text)
            self.assertFalse(report["verdict"]["is_clear"])
        self.assertTrue(measured({"hakmem": 3e7, "glibc": 1e7}, 3)["verdict"]["is_clear"])

    def test_one_workload_needs_the_sign_test(self):
        """Of one workload nothing is known about the distribution: six pairs are the fewest."""
        speeds = {"hakmem": 3e7, "glibc": 1e7}
        self.assertFalse(measured(speeds, 5, n_workloads=1)["verdict"]["is_clear"])
        text = measured(speeds, 6, n_workloads=1)["verdict"]["text"]
        self.assertIn("hakmem is the fastest", text)
        self.assertIn("(1 workload, 6 rounds", text)

    def test_nothing_to_compare(self):
        for speeds, name in (({"hakmem": 1e7}, "hakmem"), ({"glibc": 1e7, "null": 2e7}, "glibc")):
            text = measured(speeds)["verdict"]["text"]
            self.assertEqual(text, "Only %s was measured: there is nothing to compare." % name)

    def test_workloads_that_some_lack_are_left_out(self):
        report = measured({"hakmem": 1e7, "glibc": 2e7})
        for part in report["workloads"][:-2]:
            part["allocators"] = [r for r in part["allocators"] if r["allocator"] != "glibc"]
        self.assertEqual(verdict.of(report)["time"]["workloads"], 2)
        for part in report["workloads"]:
            part["allocators"] = part["allocators"][:1]
        report["workloads"][0]["allocators"][0]["allocator"] = "jemalloc"
        self.assertIn("no workload that every allocator", verdict.of(report)["text"])

    def test_warm_up_is_left_out(self):
        report = measured({"hakmem": 1e7, "glibc": 2e7}, rounds=9)
        report["workloads"][3]["left_out"] = 2
        self.assertEqual(verdict.of(report)["time"]["rounds"], 7)

    def test_stands_first_everywhere(self):
        report = measured({"hakmem": 1e7, "glibc": 2e7})
        text = report["verdict"]["text"]
        self.assertEqual(output.text(report).split("\n")[0], text)
        written = io.StringIO()
        output.write_markdown(report, written)
        self.assertEqual(written.getvalue().split("\n")[2], text)
        self.assertIn('<p id="verdict">%s</p>' % text, html.page(report))


class Coverage(unittest.TestCase):
    """Many measurements of allocators of which the truth is known."""

    TRIES = 300

    def test_interval_holds_the_truth(self):
        for rounds, n_workloads in ((3, 12), (6, 12), (8, 1)):
            missed = 0
            for seed in range(self.TRIES):
                one = bare({"hakmem": 1.2e7, "glibc": 1e7}, rounds, n_workloads, 0.1, seed)
                other = verdict.ranked(one, "time")["others"].get("glibc")
                missed += not (other and other["low"] <= 1.2 <= other["high"])
            # 15 of 300 are expected; the sign test's interval is wider than it says.
            self.assertLess(missed, 28, (rounds, n_workloads))

    def test_equals_are_rarely_told_apart(self):
        wrong = 0
        speeds = {name: 1e7 for name in ("hakmem", "glibc", "jemalloc", "mimalloc")}
        for seed in range(self.TRIES):
            one = verdict.ranked(bare(speeds, 5, 12, 0.1, seed), "time")
            wrong += "fastest" in verdict.clause("time", one)[0]
        self.assertLess(wrong, 28)


if __name__ == "__main__":
    unittest.main()
