"""Tests of compare.py: its command line, its rounds, what it refuses, its files, and the check
against a baseline.

The programs that it runs here are fakes: functions, or shell scripts that print an output line at
once.
"""

import contextlib
import copy
import csv
import io
import json
import os
import re
import stat
import tempfile
import unittest

import compare
import comparison_testing as made_up
from comparison import analysis, baseline, core, machine, output, rounds, run, table

WORKLOADS = table.load([os.path.join(made_up.FOLDER, "workloads.json")])
for each in WORKLOADS.values():  # all are alike in most tests
    each.tags = [tag for tag in each.tags if tag != core.TAG]
LIMITLESS = [name for name in table.DEFAULT_ALLOCATORS if name not in ("null", "tbbmalloc")]


class OutputLineTest(unittest.TestCase):
    def test_lines(self):
        told = run.parse_output(
            "Throughput = 53806309 ops/s [iter=1000000 ws=256 live=4096] time=0.019s\n"
        )
        self.assertEqual(told, {"ops_per_s": 53806309, "live_bytes": 4096})
        told = run.parse_output(
            "hello\nThroughput = 41.70 M operations per second, relative time: 0.023979 s.\n"
        )
        self.assertAlmostEqual(told["ops_per_s"], 41.7e6)
        told = run.parse_output(
            "Throughput = 5 nodes/s [] time=1.000s\nLatency ns: p50=20 p99.9=300\n"
        )
        self.assertEqual(told["latency_ns"], {"p50": 20, "p99.9": 300})

    def test_anything_else(self):
        for line in (
            "", "Throughput = ", "throughput = 5 ops/s", "Throughput = -1 ops/s",
            "Throughput = 0 ops/s", "Segmentation fault",
        ):
            self.assertIsNone(run.parse_output(line), line)


class TableTest(unittest.TestCase):
    def test_every_workload_is_a_test_target(self):
        with open(os.path.join(made_up.FOLDER, "workloads.bzl"), encoding="utf-8") as file:
            targets = dict(
                re.findall(r'^    "(.*?)": "//bench[:/](.*?)",$', file.read(), re.MULTILINE)
            )
        found = table.load()
        self.assertEqual(
            targets, {name: one.binary.replace("/", ":") for name, one in found.items()}
        )
        self.assertGreater(len(table.tables()), 1)
        self.assertEqual(found["larson"].binary, "workloads/wl_larson")

    def test_rows(self):
        one = made_up.workload(
            args="{work} 8 {seed}", work={"quick": 1, "default": 20, "full": 300}
        )
        self.assertEqual([one.arguments(mode, 7)[0] for mode in table.MODES], ["1", "20", "300"])
        self.assertEqual(one.arguments("full", 7)[1:], ["8", "7"])
        one = made_up.workload(
            args={"default": "2 {threads} {seed}"}, threads=3, tags=["x", "scaling:f"]
        )
        self.assertEqual(one.arguments("quick", 7), ["2", "3", "7"])
        self.assertEqual(one.scaling(), "f")

    def test_files_beside_the_program(self):
        one = made_up.workload(args="{here}/a.trace {seed}", binary="folder/replay")
        command = run.command_of(table.Place("/bin_dir"), one, "jemalloc", "default", 7)
        self.assertEqual(
            command, ["/bin_dir/folder/replay_jemalloc", "/bin_dir/folder/a.trace", "7"]
        )

    def test_drivers_preload_by_themselves(self):
        driver, place = made_up.workload(tags=["real"]), table.Place("/bin_dir", by_preload=True)
        for allocator in table.DEFAULT_ALLOCATORS:
            self.assertEqual(place.binary(driver, allocator), f"/bin_dir/bench_one_{allocator}")
            self.assertIsNone(place.library(driver, allocator))
        told = run.parse_output(
            'Throughput = 0.5 units/s [work=x scale=1] time=2.000s\nUsed {"peak_kib": 7, '
            '"user_s": 1.5}\n'
        )
        self.assertEqual(told["used"], {"peak_kib": 7, "user_s": 1.5})

    def test_what_is_left_out_is_told(self):
        config = compare.Config(
            ["--tag", "real", "--allocator", "hakmem", "--allocator", "null"], table.load()
        )

        def missing(_place, workload, allocator):
            gone = workload.name in ("real_ruby", "real_perl")
            return (
                f"{workload.name[5:]} is not installed"
                if gone
                else "no null"
                if allocator == "null"
                else None
            )

        found = config.drop(missing)
        self.assertEqual(
            sorted(found[:2]),
            ["real_perl: perl is not installed", "real_ruby: ruby is not installed"],
        )
        self.assertRegex(found[2], r"^null: no null \(and at \d+ more workloads\)$")
        self.assertEqual(len(found), 3)
        with self.assertRaisesRegex(run.Failure, "nothing to measure: .* not there"):
            compare.Config(["--tag", "real"], table.load()).drop(lambda *_: "not there")

    def test_drivers_only_when_asked_for(self):
        all_of_them = table.load()
        for arguments, wanted in (
            ([], False),
            (["--quick"], False),
            (["--full"], True),
            (["--tag", "real"], True),
        ):
            config = compare.Config(arguments, all_of_them)
            self.assertEqual(any(one.is_driver for one in config.workloads), wanted, arguments)

    def test_bad_tables(self):
        row = {"name": "a", "binary": "b", "args": {"default": []}}
        for rows in (
            [row, row],
            [{"name": "a", "args": []}],
            [{**row, "name": "A b"}],
            [{**row, "args": "{work}"}],
        ):
            with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
                json.dump(rows, file)
                file.flush()
                with self.assertRaises(ValueError):
                    table.load([file.name])


class Fakes:
    """Instead of processes: every allocator is 10 % slower than the one before it in the table."""

    instructions = staticmethod(
        lambda _dir, _workload, allocator, _seed: None if allocator == "glibc" else 12345
    )
    noise = staticmethod(lambda _dir: None)
    check_owner = staticmethod(lambda *_: "/lib/fake.so")

    @staticmethod
    def missing(_bin_dir, _workload, allocator):
        return f"no {allocator} here" if allocator in ("null", "tbbmalloc") else None

    @staticmethod
    def run_once(_bin_dir, _workload, allocator, _mode, seed):
        place = LIMITLESS.index(allocator)
        return made_up.run(1e8 / (1 + place / 10) + seed, 1024 * (place + 1), seed=seed)


class CompareCase(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        environment = dict(os.environ)
        self.addCleanup(lambda: (os.environ.clear(), os.environ.update(environment)))
        os.environ["BUILD_WORKING_DIRECTORY"] = self.folder

    def compare(self, *arguments, tools=Fakes, workloads=None):
        """Runs the whole of compare: exit status, standard output, standard error."""
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = compare.main(list(arguments), tools, workloads or WORKLOADS)
        return status, out.getvalue(), err.getvalue()

    def read(self, name):
        with open(os.path.join(self.folder, name), encoding="utf-8", newline="") as file:
            return file.read()

    def write(self, name, text):
        with open(os.path.join(self.folder, name), "w", encoding="utf-8") as file:
            file.write(text)


class CommandLineTest(CompareCase):
    def test_bad_arguments(self):
        self.write("no_report.json", "[]")
        for arguments in (
            ["--runs", "5"],
            ["--runs", "-3"],
            ["--runs", "many"],
            ["--runs"],
            ["--quick", "--full"],
            ["--bench", "nonsense"],
            ["--tag", "nonsense"],
            ["--allocator", "nonsense"],
            ["--nonsense"],
            ["surplus"],
            ["--json", "no/such/folder/out.json"],
            ["--html", "."],
            ["--seed", "x"],
            ["--baseline", "no_such_file"],
            ["--baseline", "no_report.json"],
        ):
            status, out, err = self.compare(*arguments)
            self.assertEqual((status, out), (2, ""), arguments)
            self.assertIn("usage: compare", err, arguments)
            self.assertTrue(err.startswith("compare: "), arguments)
        self.compare("--json", "out.json", "--runs", "5")
        self.assertFalse(os.path.exists(os.path.join(self.folder, "out.json")))

    def test_test_outputs(self):
        os.environ.pop("TEST_UNDECLARED_OUTPUTS_DIR", None)
        self.assertEqual(self.compare("--test-outputs")[0], 2)
        os.environ["TEST_UNDECLARED_OUTPUTS_DIR"] = self.folder
        self.assertEqual(self.compare("--quick", "--test-outputs", "--bench", "latency")[0], 0)
        self.assertEqual(
            json.loads(self.read("result.json"))["workloads"][0]["workload"], "latency"
        )
        self.assertIn("<!DOCTYPE html>", self.read("result.html"))

    def test_help(self):
        out = io.StringIO()
        with contextlib.redirect_stdout(out), self.assertRaises(SystemExit) as ended:
            compare.main(["--help"], Fakes, WORKLOADS)
        self.assertEqual(ended.exception.code, 0)
        for word in [
            "--runs", "--quick", "--full", "--html", "--baseline", *WORKLOADS, *table.ALLOCATORS,
        ]:
            self.assertIn(word, out.getvalue())

    def test_list(self):
        status, out, _ = self.compare("--list", "--tag", "remote")
        self.assertEqual((status, len(out.splitlines())), (0, 1))
        self.assertIn("prod_cons", out)

    def test_quick_measures_some(self):
        some = [one for one in WORKLOADS.values() if table.QUICK_TAG in one.tags]
        self.assertTrue(0 < len(some) < len(WORKLOADS))
        self.assertEqual(self.compare("--quick")[1].count("; 8 runs each"), len(some))
        self.assertIn(
            "mid_mt_gap_4: ", self.compare("--quick", "--bench", "mid_mt_gap_4")[1]
        )  # by name any

    def test_runs(self):
        for arguments, runs in ([], compare.DEFAULT_RUNS), (["--runs", "9"], 9):
            status, out, _ = self.compare(*arguments)
            self.assertEqual(status, 0)
            self.assertEqual(out.count(f"; {runs} runs each"), len(WORKLOADS))

    def test_choice(self):
        status, out, _ = self.compare(
            "--tag", "remote", "--allocator", "glibc", "--allocator", "hakmem", "--runs", "8"
        )
        self.assertEqual(status, 0)
        self.assertIn("prod_cons", out)
        self.assertIn("repeat: ./bazelw run //bench:compare -- --tag remote", out)
        for absent in ("random_mixed", "jemalloc", "skipped"):
            self.assertNotIn(absent, out)

    def test_skips_what_is_missing_and_says_so(self):
        status, out, err = self.compare("--quick")
        self.assertEqual(status, 0)
        for text in (out, err):
            self.assertIn("skipped", text)
            self.assertIn("tbbmalloc: no tbbmalloc here", text)
        status, out, err = self.compare(
            "--quick", "--allocator", "null"
        )  # asked for by name: no silent gap
        self.assertEqual((status, out), (1, ""))


class ReportTest(CompareCase):
    def test_text(self):
        status, out, err = self.compare("--runs", "8", "--bench", "mid_mt_gap", "--instructions")
        self.assertEqual(status, 0)
        lines = out.splitlines()
        start = next(i for i, line in enumerate(lines) if line.startswith("mid_mt_gap: ")) + 2
        found = [line.split() for line in lines[start : start + 5]]
        self.assertEqual([one[0] for one in found], LIMITLESS)
        self.assertEqual(found[0][1], "100.00")
        self.assertEqual(found[4][3:5], ["1.400", "5.0"])
        self.assertIn("faster,", found[4])
        self.assertIn("resident/live  M instr.", out)
        self.assertEqual(found[0][9], "0.0")
        self.assertIn("geometric means", out)
        self.assertIn("warming up", err)
        self.assertNotIn(
            "resident/live  M instr.", self.compare("--runs", "8", "--bench", "mid_mt_gap")[1]
        )

    def test_files(self):
        files = [word for name in compare.WRITERS for word in ("--" + name, "out." + name)]
        self.assertEqual(self.compare("--runs", "8", *files)[0], 0)
        report = json.loads(self.read("out.json"))
        self.assertEqual([part["workload"] for part in report["workloads"]], list(WORKLOADS))
        found = list(csv.DictReader(io.StringIO(self.read("out.csv"))))
        self.assertEqual(list(found[0]), output.CSV_COLUMNS)
        self.assertEqual(len(found), len(WORKLOADS) * len(LIMITLESS))
        for part in report["workloads"]:
            for row in part["allocators"]:
                line = found.pop(0)
                self.assertEqual(
                    (line["workload"], line["allocator"]), (part["workload"], row["allocator"])
                )
                self.assertEqual([one["seed"] for one in row["runs"]], list(range(42, 50)))
                self.assertEqual(float(line["ops_per_s_median"]), row["throughput"]["median"])
                self.assertEqual(float(line["peak_kib"]), row["peak_kib"]["median"])
                if row["allocator"] != "hakmem":
                    self.assertEqual(float(line["ours_ratio"]), row["ours_against_it"]["ratio"])
                    self.assertEqual(line["ours_verdict"], "faster")
        self.assertIn("## prod_cons", self.read("out.md"))
        for key in ("kernel", "compiler", "huge_pages", "versions", "cpu", "date"):
            self.assertIn(key, report["machine"])

    def test_at_a_glance(self):
        speeds = {"hakmem": 2e7, "jemalloc": 2.5e7, "glibc": 1e7, "null": 5e7}
        report = made_up.report(
            speeds, names=["a"],
            peaks={"hakmem": 1500, "jemalloc": 2000, "glibc": 1000, "null": 100},
        )
        head, row = output.glance_rows(report)
        self.assertEqual(
            head, ["workload", "jemalloc", "glibc", "best", "to best", "peak to lowest"]
        )
        self.assertEqual(row, ["a", "0.80-", "2.00+", "jemalloc", "1.25", "1.50"])
        few = made_up.report(speeds, names=["a"], rounds=3)
        self.assertEqual(list(output.glance_rows(few))[1][1:3], ["0.80?", "2.00?"])
        file = io.StringIO()
        output.write_markdown(report, file)
        self.assertIn("| a | 0.80- | 2.00+ | jemalloc | 1.25 | 1.50 |", file.getvalue())

    def test_overall(self):
        report = made_up.report(
            {"hakmem": 2e7, "glibc": 1e7, "null": 5e7}, peaks={"hakmem": 500, "glibc": 1000}
        )
        one = report["overall"]["glibc"]
        self.assertAlmostEqual(one["time_to_ours"], 2, 2)
        self.assertAlmostEqual(one["peak_to_ours"], 2, 5)
        self.assertAlmostEqual(one["cpu_to_ours"], 1, 5)
        row = analysis.row_of("glibc", [made_up.run(1, cpu_s=0.3)], [], [made_up.run(1, cpu_s=0.1)])
        self.assertAlmostEqual(row["ours_cpu_ratio"], 1 / 3)
        self.assertNotIn(
            "ours_cpu_ratio",
            analysis.row_of("glibc", [made_up.run(1, cpu_s=0)], [], [made_up.run(1)]),
        )
        self.assertEqual(one["verdicts"], {"faster": 2})
        best = next(
            row for row in report["workloads"][0]["allocators"] if row["allocator"] == "hakmem"
        )
        self.assertEqual(best["to_best"], 1)  # the null allocator is no competitor
        self.assertAlmostEqual(best["to_limit"], 2.5, 2)

    def test_warm_up_is_left_out_and_said(self):
        one = made_up.workload()
        speeds = [50] + [100 + i % 3 for i in range(19)]
        results = {
            ("one", name): [made_up.run(speed) for speed in speeds] for name in ("hakmem", "glibc")
        }
        report = analysis.analyse([one], results, 6, **made_up.ABOUT)
        self.assertEqual(
            (report["workloads"][0]["left_out"], report["workloads"][0]["rounds"]), (1, 19)
        )
        self.assertIn("the first 1 left out as warm-up", output.text(report))

    def test_machine(self):
        found = machine.describe(["glibc"])
        self.assertGreaterEqual(found["cpus"], 1)
        self.assertIn("Linux", machine.name(found))


class RoundsTest(CompareCase):
    """With a clock that the test sets: each run takes as long as the test says."""

    def measure(self, seconds, *arguments, slow=1):
        config = compare.Config(list(arguments), WORKLOADS)
        config.drop(Fakes.missing)
        now = [0.0]
        order = []

        def fake(bin_dir, workload, allocator, mode, seed):
            order.append((workload.name, allocator, mode))
            now[0] += seconds[mode] * (slow if workload.name == "prod_cons" else 1)
            return Fakes.run_once(bin_dir, workload, allocator, mode, seed)

        results = rounds.measure(config, rounds.Progress(io.StringIO()), fake, lambda: now[0])
        return (
            {len(runs) for runs in results.values()},
            {runs[0]["mode"] for runs in results.values()},
            now[0],
            order,
        )

    def test_everything_fits(self):
        counts, modes, _, _ = self.measure({"quick": 0.01, "default": 0.2})
        self.assertEqual((counts, modes), ({compare.DEFAULT_RUNS}, {"default"}))

    def test_fewer_rounds(self):
        counts, modes, seconds, _ = self.measure({"quick": 0.1, "default": 1})
        self.assertTrue(
            compare.MIN_RUNS <= min(counts) <= max(counts) < compare.DEFAULT_RUNS, counts
        )
        self.assertEqual(modes, {"default"})
        self.assertLessEqual(seconds, compare.BUDGET_S["default"])

    def test_less_work(self):
        counts, modes, seconds, _ = self.measure({"quick": 1, "default": 6})
        self.assertGreaterEqual(min(counts), compare.MIN_RUNS)
        self.assertIn("quick", modes)
        self.assertLess(seconds, compare.BUDGET_S["default"] + 20)

    def test_only_the_longest_get_less_work(self):
        for slow, wanted in (50, {"prod_cons"}), (1, set()):
            _, _, _, order = self.measure({"quick": 0.1, "default": 0.5}, slow=slow)
            last_round = order[-len(WORKLOADS) * len(LIMITLESS) :]
            self.assertEqual({name for name, _, mode in last_round if mode == "quick"}, wanted)

    def test_never_much_longer(self):
        _, _, seconds, _ = self.measure({"quick": 12, "default": 60})
        self.assertLess(seconds, 2 * 12 * len(WORKLOADS) * len(LIMITLESS) + 60)

    def test_a_busy_machine_has_the_rounds_of_a_verdict(self):
        """Within the limit, though not within the budget."""
        every = list(WORKLOADS)
        counts, _, seconds, _ = self.measure(
            {"quick": 0.8, "default": 9}, "--quick", *(f"--bench={name}" for name in every)
        )
        self.assertEqual(counts, {rounds.ENOUGH_ROUNDS})
        self.assertTrue(compare.BUDGET_S["quick"] < seconds < compare.LIMIT_S["quick"], seconds)
        counts, _, seconds, _ = self.measure(
            {"quick": 2.5, "default": 9}, "--quick", *(f"--bench={name}" for name in every)
        )
        self.assertEqual(counts, {1})
        self.assertLess(seconds, compare.LIMIT_S["quick"] + 3)

    def test_runs_are_kept_to(self):
        counts, modes, _, _ = self.measure({"quick": 1, "default": 30}, "--runs", "32")
        self.assertEqual((counts, modes), ({32}, {"default"}))

    def test_seed_draws_the_order(self):
        orders = [
            self.measure({"quick": 0, "default": 0}, "--seed", seed)[3] for seed in ("1", "1", "2")
        ]
        self.assertEqual(orders[0], orders[1])
        self.assertNotEqual(orders[0], orders[2])
        a_round = len(WORKLOADS) * len(LIMITLESS)
        self.assertNotEqual(orders[0][a_round : 2 * a_round], orders[0][2 * a_round : 3 * a_round])


class BreadthTest(CompareCase):
    """Rounds before breadth: prod_cons and latency are the core here."""

    def setUp(self):
        super().setUp()
        self.table = table.load([os.path.join(made_up.FOLDER, "workloads.json")])
        self.core = {"prod_cons", "latency"}
        for one in self.table.values():
            one.tags = ["x", table.QUICK_TAG] + [core.TAG] * (one.name in self.core)

    def measure(self, seconds, *arguments):
        """{workload: (rounds, mode)}, seconds in all, [(workload, mode)] in order."""
        config = compare.Config(list(arguments), self.table)
        config.drop(Fakes.missing)
        now, order, told = [0.0], [], []

        def fake(bin_dir, workload, allocator, mode, seed):
            order.append((workload.name, mode))
            now[0] += seconds[mode]
            return Fakes.run_once(bin_dir, workload, allocator, mode, seed)

        results = rounds.measure(
            config, rounds.Progress(io.StringIO()), fake, lambda: now[0],
            lambda found: told.append(dict(found)),
        )
        found = {name: (len(runs), runs[0]["mode"]) for (name, _), runs in results.items()}
        self.assertEqual(len(told), 1 if config.breadth else 0)
        for core_results in told:
            self.assertEqual({name for name, _ in core_results}, self.core)
        return found, now[0], order

    def test_all_fit(self):
        found, _, order = self.measure({"quick": 0.01, "default": 0.05})
        self.assertEqual(
            found, {name: (compare.DEFAULT_RUNS, "default") for name in self.table}
        )
        first_other = next(i for i, one in enumerate(order) if one[0] not in self.core)
        self.assertFalse([one for one in order[first_other:] if one[0] in self.core])

    def test_the_core_has_its_rounds_first(self):
        found, seconds, _ = self.measure({"quick": 2, "default": 5})
        for name in self.core:
            self.assertGreaterEqual(found[name][0], compare.MIN_RUNS)
        others = [one for name, one in found.items() if name not in self.core]
        self.assertTrue(0 < len(others) < len(self.table) - len(self.core), found)
        self.assertTrue(all(n >= compare.MIN_RUNS for n, _ in others), found)
        self.assertLessEqual(seconds, compare.BUDGET_S["default"] + 5)

    def test_no_time_for_others(self):
        found, seconds, _ = self.measure({"quick": 6.0, "default": 30.0})
        self.assertEqual(set(found), self.core)
        self.assertLess(seconds, compare.BUDGET_S["default"] + 31)

    def test_others_get_less_work_where_it_helps(self):
        for seed in "123":
            found, _, _ = self.measure({"quick": 0.5, "default": 1.4}, "--seed", seed)
            self.assertEqual(set(found), set(self.table))
            modes = {mode for name, (_, mode) in found.items() if name not in self.core}
            self.assertIn("quick", modes)

    def test_a_choice_has_no_core(self):
        for arguments in (["--quick"], ["--full"], ["--tag", "x"], ["--bench", "latency"]):
            config = compare.Config(arguments, self.table)
            self.assertEqual((config.core, config.breadth), (config.workloads, []), arguments)
        # All rounds of all: no budget.
        self.assertEqual(compare.Config(["--runs", "9"], self.table).breadth, [])

    def test_says_what_it_will_do(self):
        status, out, err = self.compare(workloads=self.table)
        self.assertEqual(status, 0)
        self.assertRegex(
            err,
            r"compare: 2 core workloads, each under hakmem, jemalloc, .*, glibc: as many "
            r"rounds as fit into 286 s, 6 to 31; then as many of 5 other workloads as fit; ends by "
            r"about \d\d:\d\d:\d\d \(520 s; on a busy machine at most 590 s\)",
        )
        self.assertIn("compare: the core set is measured: hakmem is the fastest", err)
        self.assertIn("(2 core workloads, 31 rounds, 95% confidence)", out.splitlines()[0])
        err = self.compare("--bench", "latency", "--runs", "9", workloads=self.table)[2]
        self.assertRegex(err, r"compare: 1 workload, each under .*: 9 rounds, as long as they take")

    def test_no_verdict(self):
        status, out, err = self.compare("--runs", "6", "--bench", "latency")
        self.assertEqual(status, compare.NO_VERDICT)
        self.assertTrue(out.startswith("No verdict on time: 6 rounds are too few"))
        self.assertIn("\ncompare: NO VERDICT. No verdict on time: ", err)
        # A test's result is for merge, which judges; one allocator alone is no comparison.
        os.environ["TEST_UNDECLARED_OUTPUTS_DIR"] = self.folder
        status, _, err = self.compare("--runs", "6", "--bench", "latency", "--test-outputs")
        self.assertEqual(status, 0)
        self.assertIn("NO VERDICT", err)
        alone = ["--runs", "6", "--bench", "latency", "--allocator", "hakmem"]
        self.assertEqual(self.compare(*alone)[0], 0)


class BaselineTest(CompareCase):
    def test_same(self):
        report = made_up.report()
        lines, regressions = baseline.compare(report, copy.deepcopy(report))
        self.assertEqual((len(lines), regressions), (2, 0))

    def test_slower_against_the_peers(self):
        then = made_up.report({"hakmem": 1.2e7, "jemalloc": 1e7, "glibc": 6e6})
        now = made_up.report({"hakmem": 1.0e7, "jemalloc": 1e7, "glibc": 6e6})
        lines, regressions = baseline.compare(then, now)
        self.assertEqual(regressions, 2)
        self.assertIn("REGRESSION", lines[0])
        # A machine that is slower for all is no regression; nor is a gain; nor too few runs to say.
        slow = made_up.report({"hakmem": 0.6e7, "jemalloc": 0.5e7, "glibc": 3e6})
        self.assertEqual(baseline.compare(then, slow)[1], 0)
        self.assertEqual(baseline.compare(now, then)[1], 0)
        few = made_up.report({"hakmem": 1.0e7, "jemalloc": 1e7, "glibc": 6e6}, rounds=4)
        self.assertEqual(baseline.compare(then, few)[1], 0)
        self.assertEqual(baseline.compare(then, now, tolerance=0.3)[1], 0)

    def test_memory(self):
        then, now = made_up.report(), made_up.report(peaks={"hakmem": 1100})
        self.assertEqual(baseline.compare(then, now)[1], 2)
        self.assertEqual(baseline.compare(now, then)[1], 0)

    def test_nothing_in_common(self):
        with self.assertRaises(baseline.Mismatch):
            baseline.compare(made_up.report(names=["a"]), made_up.report(names=["b"]))

    def test_exit_status(self):
        self.assertEqual(self.compare("--runs", "8", "--json", "base.json")[0], 0)
        status, out, _ = self.compare("--runs", "8", "--baseline", "base.json")
        self.assertEqual(status, 0)
        self.assertIn("0 regressions", out)

        class Slower(Fakes):
            @staticmethod
            def run_once(bin_dir, workload, allocator, mode, seed):
                result = Fakes.run_once(bin_dir, workload, allocator, mode, seed)
                return {
                    **result,
                    "ops_per_s": result["ops_per_s"] * (0.8 if allocator == "hakmem" else 1),
                }

        status, out, _ = self.compare("--runs", "8", "--baseline", "base.json", tools=Slower)
        self.assertEqual(status, compare.REGRESSION)
        self.assertIn("REGRESSION", out)
        self.assertEqual(
            self.compare(
                "--runs", "8", "--baseline", "base.json", "--tolerance", "30", tools=Slower
            )[0],
            0,
        )


class ProgramsTest(CompareCase):
    """With programs: real processes, but fakes of the workloads."""

    def program(self, name, text):
        os.makedirs(os.path.dirname(os.path.join(self.folder, name)), exist_ok=True)
        self.write(name, "#!/bin/sh\n" + text)
        os.chmod(os.path.join(self.folder, name), stat.S_IRWXU)

    def workload(
        self, allocator, malloc, free=None,
        line="Throughput = 7.00 M operations per second, time: 1 s.",
    ):
        who = f"echo 'malloc: {malloc}'; echo 'free: {free or malloc}'"
        works = f"echo '{line}'" if line is not None else "echo broken >&2; exit 9"
        self.program(
            f"bench_prod_cons_{allocator}", f'[ "$1" = --whoami ] && {{ {who}; exit 0; }}\n{works}'
        )

    def run_two(self, *arguments):
        self.program("common/measure", '"$@" || exit $?\necho \'{"peak_kib": 2048}\' >&3\n')
        chosen = ["--bench", "prod_cons", "--allocator", "hakmem", "--allocator", "glibc"]
        return self.compare(
            "--bin-dir", self.folder, "--quick", *chosen, *arguments, tools=compare.Tools
        )

    def test_measures(self):
        self.workload("hakmem", "/x/libhakmem.so")
        self.workload("glibc", "/lib/libc.so.6")
        status, out, err = self.run_two("--json", "out.json")
        self.assertEqual(status, 0, err)
        self.assertIn("7.00", out)
        report = json.loads(self.read("out.json"))
        self.assertEqual(
            report["served_by"], {"hakmem": "/x/libhakmem.so", "glibc": "/lib/libc.so.6"}
        )

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
            self.assertIn(
                "prod_cons under hakmem: " + ("no throughput line" if line else "exit status 9"),
                err,
            )


if __name__ == "__main__":
    unittest.main()
