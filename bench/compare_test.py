"""Tests of compare.py: its statistics, its command line, what it refuses, and its JSON and CSV files.

The programs that it runs here are fakes: shell scripts that print an output line at once.
"""

import contextlib
import csv
import io
import json
import os
import stat
import tempfile
import unittest

import compare
import stats


class StatisticsTest(unittest.TestCase):
    def test_quantiles(self):
        self.assertEqual(stats.median([3, 1, 2]), 2)
        self.assertEqual(stats.median([4, 1, 2, 3]), 2.5)
        self.assertEqual(stats.quantile([7], 0.25), 7)
        self.assertEqual(stats.quantile([1, 2, 3, 4, 5], 0.25), 2)
        self.assertEqual(stats.quantile([1, 2, 3, 4], 0.25), 1.75)
        self.assertEqual(stats.quantile([1, 2, 3, 4], 1), 4)

    def test_summary(self):
        made = stats.summary([10, 30, 20, 50, 40])
        self.assertEqual(made, {"min": 10, "q1": 20, "median": 30, "q3": 40, "max": 50, "spread": 20 / 30})
        self.assertEqual(stats.summary([0, 0])["spread"], 0)

    def test_median_interval(self):
        # By the binomial distribution: least to greatest up to 8 values, the second from each end at 9 and 10
        # (96.1 %, 97.9 %), the third at 11 (93.5 %).
        for n, k in [(1, 0), (2, 0), (5, 0), (8, 0), (9, 1), (10, 1), (11, 2), (21, 5)]:
            self.assertEqual(stats.median_interval(list(range(n))[::-1]), (k, n - 1 - k), n)

    def test_against(self):
        faster = stats.against([110, 120, 130, 110, 120], [100] * 5)
        self.assertEqual((faster["verdict"], faster["low"], faster["high"]), ("faster", 1.1, 1.3))
        self.assertEqual(faster["pairs"], [1.1, 1.2, 1.3, 1.1, 1.2])
        self.assertEqual(stats.against([90, 80, 70, 90, 80], [100] * 5)["verdict"], "slower")
        self.assertEqual(stats.against([90, 120, 130, 110, 120], [100] * 5)["verdict"], "within the spread")
        self.assertEqual(stats.against([100] * 5, [100] * 5)["verdict"], "within the spread")
        with self.assertRaises(ValueError):
            stats.against([1, 2], [1])


class OutputLineTest(unittest.TestCase):
    def test_both_lines(self):
        line = "Throughput = 53806309 ops/s [iter=1000000 ws=256] time=0.019s\n"
        self.assertEqual(compare.parse_throughput(line), 53806309)
        line = "Throughput = 41.70 M operations per second, relative time: 0.023979 s.\n"
        self.assertAlmostEqual(compare.parse_throughput(line), 41.7e6)

    def test_anything_else(self):
        for line in ("", "Throughput = ", "throughput = 5 ops/s", "Throughput = -1 ops/s", "Segmentation fault"):
            self.assertIsNone(compare.parse_throughput(line), line)


def fake_run(_bin_dir, workload, allocator, n, seed):
    """Every run 10 % faster than the one before it under another allocator; memory by allocator."""
    place = list(compare.ALLOCATORS).index(allocator)
    return {"ops_per_s": 1e8 / (1 + place / 10) + seed, "seed": seed, "peak_kib": 1024 * (place + 1), "wall_s": n * 1e-9}


class CompareCase(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.environment = dict(os.environ)
        self.addCleanup(self.restore_environment)
        os.environ["BUILD_WORKING_DIRECTORY"] = self.folder

    def restore_environment(self):
        os.environ.clear()
        os.environ.update(self.environment)

    def compare(self, *arguments, **replaced):
        """Runs the whole of compare: exit status, standard output, standard error."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = compare.main(list(arguments), **replaced)
        return status, out.getvalue(), err.getvalue()

    def measured(self, *arguments):
        return self.compare(*arguments, run=fake_run, check=lambda *_: "/lib/fake.so")

    def read(self, name):
        with open(os.path.join(self.folder, name), encoding="utf-8", newline="") as file:
            return file.read()


class CommandLineTest(CompareCase):
    def test_bad_arguments(self):
        for arguments in (
            ["--runs", "4"],
            ["--runs", "0"],
            ["--runs", "-3"],
            ["--runs", "many"],
            ["--runs"],
            ["--bench", "nonsense"],
            ["--allocator", "nonsense"],
            ["--nonsense"],
            ["surplus"],
            ["--json", "no/such/folder/out.json"],
            ["--csv", "."],
            ["--seed", "x"],
        ):
            status, out, err = self.measured(*arguments)
            self.assertEqual(status, 2, arguments)
            self.assertEqual(out, "", arguments)
            self.assertIn("usage: compare", err, arguments)
            self.assertTrue(err.startswith("compare: "), arguments)

    def test_help(self):
        out = io.StringIO()
        with contextlib.redirect_stdout(out), self.assertRaises(SystemExit) as ended:
            compare.main(["--help"])
        self.assertEqual(ended.exception.code, 0)
        for word in ["--runs", "--quick", "--bench", "--json", "--csv", *compare.WORKLOADS, *compare.ALLOCATORS]:
            self.assertIn(word, out.getvalue())

    def test_runs(self):
        for arguments, runs in ([], compare.DEFAULT_RUNS), (["--runs", "7"], 7), (["--quick"], compare.QUICK_RUNS):
            status, out, _ = self.measured(*arguments)
            self.assertEqual(status, 0)
            self.assertEqual(out.count(f"; {runs} runs each"), len(compare.WORKLOADS))

    def test_choice(self):
        status, out, _ = self.measured("--bench", "prod_cons", "--allocator", "glibc", "--allocator", "hakmem")
        self.assertEqual(status, 0)
        self.assertIn("prod_cons", out)
        for absent in ("random_mixed", "jemalloc"):
            self.assertNotIn(absent, out)


class ReportTest(CompareCase):
    def test_table(self):
        _, out, err = self.measured("--runs", "5", "--bench", "mid_mt_gap")
        rows = [line.split() for line in out.splitlines()[2:7]]
        self.assertEqual([row[0] for row in rows], compare.DEFAULT_ALLOCATORS)
        self.assertEqual(rows[0][1:3], ["100.00", "M/s"])
        self.assertEqual(rows[0][5:8], ["1.000", "1.0", "MiB"])
        self.assertEqual(rows[4][5:8], ["1.500", "6.0", "MiB"])
        self.assertIn("faster", rows[4])
        self.assertIn("warming up", err)

    def test_files(self):
        status, _, _ = self.measured("--runs", "6", "--json", "out.json", "--csv", "out.csv")
        self.assertEqual(status, 0)
        report = json.loads(self.read("out.json"))
        self.assertEqual([part["workload"] for part in report["workloads"]], list(compare.WORKLOADS))
        rows = list(csv.DictReader(io.StringIO(self.read("out.csv"))))
        self.assertEqual(list(rows[0]), compare.CSV_COLUMNS)
        self.assertEqual(len(rows), len(compare.WORKLOADS) * len(compare.DEFAULT_ALLOCATORS))
        for part in report["workloads"]:
            self.assertEqual(part["rounds"], 6)
            for row in part["allocators"]:
                line = rows.pop(0)
                self.assertEqual((line["workload"], line["allocator"]), (part["workload"], row["allocator"]))
                self.assertEqual(len(row["runs"]), 6)
                self.assertEqual([run["seed"] for run in row["runs"]], list(range(42, 48)))
                self.assertEqual(float(line["ops_per_s_median"]), row["throughput"]["median"])
                self.assertEqual(float(line["peak_kib_median"]), row["peak_kib"]["median"])
                if row["allocator"] != "hakmem":
                    self.assertEqual(float(line["ours_ratio"]), row["ours_against_it"]["ratio"])
                    self.assertEqual(line["ours_verdict"], "faster")
                    self.assertEqual(len(row["ours_against_it"]["pairs"]), 6)
                else:
                    self.assertEqual(line["ours_ratio"], "")

    def test_absolute_file(self):
        path = os.path.join(self.folder, "absolute.csv")
        os.environ["BUILD_WORKING_DIRECTORY"] = "/nonexistent"
        self.assertEqual(self.measured("--quick", "--csv", path)[0], 0)
        self.assertIn("ops_per_s_median", self.read("absolute.csv"))

    def test_seed_draws_the_order(self):
        def order(seed):
            seen = []

            def run(*arguments):
                seen.append(arguments[1:3])
                return fake_run(*arguments)

            self.compare("--quick", "--seed", seed, run=run, check=lambda *_: "/lib/fake.so")
            return seen

        self.assertEqual(order("1"), order("1"))
        self.assertNotEqual(order("1"), order("2"))
        a_round = len(compare.WORKLOADS) * len(compare.DEFAULT_ALLOCATORS)
        self.assertNotEqual(order("1")[a_round : 2 * a_round], order("1")[2 * a_round : 3 * a_round])


class BudgetTest(CompareCase):
    """With a clock of its own: each run takes as long as it is told to."""

    def rounds_and_share(self, seconds_a_run, *arguments):
        config = compare.Config(list(arguments))
        now = [0.0]
        shares = []

        def run(_bin_dir, workload, allocator, n, seed):
            share = n / compare.WORKLOADS[workload][2]
            shares.append(share)
            now[0] += seconds_a_run * share
            return fake_run(_bin_dir, workload, allocator, n, seed)

        results = compare.measure(config, compare.Progress(io.StringIO()), run, lambda: now[0])
        return len(next(iter(results.values()))), shares[-1], now[0]

    def test_everything_fits(self):
        rounds, share, _ = self.rounds_and_share(0.2)
        self.assertEqual((rounds, share), (compare.DEFAULT_RUNS, 1))

    def test_fewer_rounds(self):
        rounds, share, seconds = self.rounds_and_share(0.4)
        self.assertTrue(compare.MIN_RUNS <= rounds < compare.DEFAULT_RUNS)
        self.assertEqual(share, 1)
        self.assertLessEqual(seconds, compare.BUDGET_S)

    def test_less_work(self):
        rounds, share, seconds = self.rounds_and_share(30)
        self.assertEqual(rounds, compare.MIN_RUNS)
        self.assertLess(share, 1)
        self.assertLess(seconds, 1.3 * compare.BUDGET_S)

    def test_runs_are_kept_to(self):
        rounds, share, _ = self.rounds_and_share(30, "--runs", "32")
        self.assertEqual((rounds, share), (32, 1))


class ProgramsTest(CompareCase):
    """With programs: real processes, but fakes of the workloads."""

    def program(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write("#!/bin/sh\n" + text)
        os.chmod(path, stat.S_IRWXU)

    def workload(self, allocator, malloc, free=None, line="Throughput = 7.00 M operations per second, time: 1 s."):
        who = f"echo 'malloc: {malloc}'; echo 'free: {free or malloc}'"
        self.program(f"bench_prod_cons_{allocator}", f'[ "$1" = --whoami ] && {{ {who}; exit 0; }}\n{line_command(line)}')

    def run_two(self, *arguments):
        self.program("measure", '"$@" || exit $?\necho \'{"peak_kib": 2048}\' >&3\n')
        chosen = ["--bench", "prod_cons", "--allocator", "hakmem", "--allocator", "glibc"]
        return self.compare("--bin-dir", self.folder, "--quick", *chosen, *arguments)

    def test_measures(self):
        self.workload("hakmem", "/x/libhakmem.so")
        self.workload("glibc", "/lib/libc.so.6")
        status, out, err = self.run_two("--json", "out.json")
        self.assertEqual(status, 0, err)
        self.assertIn("7.00 M/s", out)
        report = json.loads(self.read("out.json"))
        self.assertEqual(report["served_by"], {"hakmem": "/x/libhakmem.so", "glibc": "/lib/libc.so.6"})

    def test_refuses_the_wrong_allocator(self):
        self.workload("glibc", "/lib/libc.so.6")
        for malloc, free in (
            ("/lib/libc.so.6", None),
            ("/x/libhakmem.so", "/lib/libc.so.6"),
            ("/x/libhakmem.so.bak", None),
            ("static", None),
            ("", None),
        ):
            self.workload("hakmem", malloc, free)
            status, out, err = self.run_two()
            self.assertEqual((status, out), (1, ""), malloc)
            self.assertIn("nothing was measured", err)

    def test_program_missing(self):
        status, _, err = self.run_two()
        self.assertEqual(status, 1)
        self.assertIn("bench_prod_cons_hakmem", err)

    def test_program_fails(self):
        self.workload("glibc", "/lib/libc.so.6")
        for line in ("nonsense", None):
            self.workload("hakmem", "/x/libhakmem.so", line=line)
            status, out, err = self.run_two()
            self.assertEqual((status, out), (1, ""))
            self.assertIn("prod_cons under hakmem: " + ("no throughput line" if line else "exit status 9"), err)


def line_command(line):
    return f"echo '{line}'" if line is not None else "echo broken >&2; exit 9"


if __name__ == "__main__":
    unittest.main()
