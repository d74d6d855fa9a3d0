"""worst: every row at its two smallest sizes, the printed form, the arithmetic on planted data."""

import contextlib
import glob
import io
import json
import os
import re
import subprocess
import tempfile
import unittest
import xml.etree.ElementTree

import worst  # puts the folder bench on the path of modules

import growth
import plot
import points
import rows
import show

FOLDER = os.path.dirname(os.path.abspath(__file__))
BIN_DIR = os.environ.get("BENCH_BIN_DIR") or os.path.dirname(FOLDER)
SIZES = [8e6, 8e7, 8e8, 8e9]
QUICK = ["--max-bytes", "256m", "--sizes", "2", "--repeats", "1", "--pause-ms", "20"]
FUNCTIONS = {"malloc", "calloc", "realloc", "free", "aligned_alloc", "malloc_trim"}
HEAP_FUNCTIONS = {"hak_heap_create", "hak_heap_malloc", "hak_heap_walk", "hak_heap_destroy"}


def run(*arguments, **more):
    """(exit status, standard output, standard error)"""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = worst.main(list(arguments), **more)
    return status, out.getvalue(), err.getvalue()


def report_of(path):
    with open(path, encoding="utf-8") as file:
        return json.load(file)


class Planted(points.Runner):
    """No process: one allocator's time grows as the size, another's is flat, a third keeps much."""

    SLOPES = {"hakmem": 1.0, "glibc": 0.0, "jemalloc": 0.5}

    def missing(self, allocator):
        return None

    def check_owner(self, allocator):
        return allocator

    def run(self, row, size, allocator, others, pause_ms, point):
        if row is rows.CONTROL:
            point.runs.append(growth.parse("calls pause 30000 30 1000")[0])
            return
        noise = len(point.runs) * 777  # a run later is a little longer: the least counts
        time = int(1e6 * (size / row.sizes(256 << 20)[0]) ** self.SLOPES[allocator]) + noise
        kept = size if allocator == "jemalloc" else 0
        found, point.done = growth.parse(
            f"calls free {time} 50 100\ncalls malloc 90 40 100\ncalls stall {time} 60 100\n"
            f"value left {kept} KiB {size / 2}\n"
        )
        point.runs.append(found)
        point.seconds = 0.1


class ArithmeticTest(unittest.TestCase):
    def test_exponents(self):
        for slope in (0.0, 0.25, 0.5, 1.0, 2.0):
            planted = [(size, 1e6 * (size / SIZES[0]) ** slope) for size in SIZES]
            self.assertAlmostEqual(growth.exponent(planted, 100e3), slope, places=9)
        self.assertIsNone(growth.exponent([(1, 1)], 1))

    def test_marks(self):
        linear = [(size, size / 1000) for size in SIZES]
        flat = [(size, 3e6) for size in SIZES]
        self.assertEqual(growth.judge(linear, "ns")[1], "GROWS")
        self.assertEqual(growth.judge(flat, "ns"), (0.0, ""))
        self.assertEqual(growth.judge([(size, 3e6 / size) for size in SIZES], "ns")[1], "")

    def test_below_the_floor_everything_may_grow(self):
        small = [(size, size / 1e6) for size in SIZES]  # 8 us at the most
        self.assertEqual(growth.judge(small, "ns"), (0.0, ""))
        self.assertEqual(growth.judge(small, "median_ns")[1], "GROWS")
        # What the machine itself does for so long is no one's fault.
        linear = [(size, size / 1000) for size in SIZES]
        self.assertEqual(growth.judge(linear, "ns", pause_ns=8e6)[1], "")
        self.assertEqual(growth.judge(linear, "ns", pause_ns=1e6)[1], "GROWS")

    def test_a_late_rise_counts(self):
        late = list(zip(SIZES, [1e6, 1e6, 1e6, 1e7]))
        self.assertAlmostEqual(growth.exponent(late, 1), 0.5)
        self.assertEqual(growth.judge(late, "ns")[1], "GROWS")

    def test_limits(self):
        linear = list(zip(SIZES, [10.0, 100.0, 1000.0, 10000.0]))
        self.assertEqual(growth.judge(linear, "KiB", [10000.0] * 4)[1], "")
        self.assertEqual(growth.judge(linear, "KiB", [10000.0] * 3 + [9999.0])[1], "WRONG")
        self.assertEqual(growth.judge([(1, 1.0)], "blocks", [0.0])[1], "WRONG")

    def test_the_least_time_and_the_middle_of_values_count(self):
        def runs(unit):
            return [growth.Measured(value, unit) for value in (5.0, 1.0, 3.0)]

        self.assertEqual(growth.least(runs("ns")).value, 1.0)
        self.assertEqual(growth.least(runs("KiB")).value, 3.0)

    def test_pauses_of_as_long_a_run(self):
        control = [(10, 1.0), (100, 2.0), (1000, 3.0)]
        self.assertEqual(
            [growth.pause_in(control, seconds) for seconds in (0.005, 0.05, 1.0, 50)],
            [1.0, 2.0, 3.0, 3.0],
        )

    def test_output_lines(self):
        found, done = growth.parse(
            "calls free 700 20 9\ncalls malloc_trim 9000 1 1\n"
            "value maps 3.000 maps 5.000\nunfinished 0.25\n"
        )
        self.assertEqual(
            (found["free"].value, found["free median"].value, done), (700.0, 20.0, 0.25)
        )
        self.assertEqual((found["maps"].value, found["maps"].limit), (3.0, 5.0))
        self.assertEqual(
            (found["longest"].value, found["longest"].what), (700.0, "free")
        )  # a trim may be long
        with self.assertRaises(ValueError):
            growth.parse("Segmentation fault\n")

    def test_sizes_grow_by_ten(self):
        for row in [rows.CONTROL, *rows.ALL]:
            self.assertEqual(row.sizes(rows.MAX_BYTES)[-1], row.most, row.name)
            for max_bytes in (1 << 20, 1 << 30, rows.MAX_BYTES):
                found = row.sizes(max_bytes)
                self.assertTrue(
                    all(1 <= a < b <= 20 * a for a, b in zip(found, found[1:])), (row.name, found)
                )
                self.assertLessEqual(found[-1] * row.cost, max(max_bytes, row.cost))


class PlantedTest(unittest.TestCase):
    def test_growing_is_marked_and_flat_is_not(self):
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "worst.json")
            status, out, err = run(
                "--row",
                "backlog_spans",
                "--max-bytes",
                "256m",
                "--json",
                path,
                "--allocator",
                "hakmem",
                "--allocator",
                "glibc",
                "--allocator",
                "jemalloc",
                make_runner=Planted,
            )
            self.assertEqual(status, 0, err)
            report = report_of(path)
        marks = {
            (one["allocator"], one["measure"]): one["mark"]
            for one in report["series"]
            if one["row"] == "backlog_spans"
        }
        self.assertEqual(
            (marks["hakmem", "free"], marks["hakmem", "longest"], marks["hakmem", "stall"]),
            ("GROWS",) * 3,
        )
        self.assertEqual(
            (marks["glibc", "free"], marks["glibc", "longest"], marks["glibc", "stall"]), ("",) * 3
        )
        self.assertEqual(
            (marks["jemalloc", "left"], marks["hakmem", "left"], marks["hakmem", "malloc"]),
            ("WRONG", "", ""),
        )
        of = {(one["allocator"], one["measure"]): one for one in report["series"]}
        self.assertAlmostEqual(of["hakmem", "free"]["exponent"], 1.0, places=3)
        self.assertAlmostEqual(of["jemalloc", "free"]["exponent"], 0.5, places=3)
        self.assertEqual(
            of["glibc", "free"]["values"][0],
            {"size": 268435, "value": 1e6, "limit": None, "what": "", "repeats": 3, "done": 1.0},
        )
        self.assertRegex(
            out, r"\n  hakmem +longest \(free\) +1 ms +10 ms +100 ms +1 s +1\.00  GROWS\n"
        )
        self.assertRegex(out, r"\n  glibc +longest \(free\) +1 ms +1 ms +1 ms +1 ms +0\.00\n")
        if plot.is_there() or "NO_SKIP" in os.environ:
            self.assertRegex(out, r"(?m)^ +backlog_spans: stall *$")

    def test_pictures(self):
        def series(allocator, measure, unit, mark, exponent=0.0):
            values = [{"size": size, "value": size} for size in (10, 100)]
            return {
                **{"row": rows.ALL[0].name, "allocator": allocator, "others": 0, "unit": unit},
                **{"measure": measure, "mark": mark, "exponent": exponent, "values": values},
            }

        def drawn(*all_series):
            found = plot.panels_of(rows.ALL[0], all_series)
            return {one.title.split(": ")[1]: (set(one.lines), one.is_text) for one in found}

        both = {"hakmem", "glibc"}
        plain = [series(name, "free median", "median_ns", "") for name in both]
        main = [series(name, "stall", "ns", "") for name in both]
        self.assertEqual(drawn(*plain, *main), {"stall": (both, False)})
        # What is marked for one is drawn of all; the terminal has the steepest if no main one is.
        marked = [*plain, series("hakmem", "free median", "median_ns", "GROWS", 1.0)]
        self.assertEqual(
            drawn(*marked, *main), {"free median": (both, True), "stall": (both, False)}
        )
        worse = [*main, series("hakmem", "stall", "ns", "GROWS", 0.4)]
        self.assertEqual(
            drawn(*marked, *worse), {"free median": (both, False), "stall": (both, True)}
        )

    def test_no_time_left_is_told(self):
        plan = points.Plan(rows.ALL[:1], ["hakmem"], 256 << 20, None)
        ticks = iter(range(10000))
        runner = Planted(BIN_DIR)
        left_out = points.measure(
            plan,
            runner,
            1,
            1,
            None,
            worst.rounds.Progress(io.StringIO()),
            clock=lambda: next(ticks),
        )
        self.assertTrue(left_out and all("no time left" in one for one in left_out), left_out)

    def test_what_is_quick_comes_first(self):
        plan = points.Plan(rows.ALL[:2], ["hakmem", "glibc"], 256 << 20, 2)
        first, second = list(plan.points.values())[0], list(plan.points.values())[-1]
        for of_size, seconds in ((first, 9.0), (second, 0.1)):
            of_size[min(of_size)].seconds = seconds
        steps = list(plan.ordered())
        places = [
            [i for i, step in enumerate(steps) if plan.point(step) is point]
            for of_size in (first, second)
            for point in of_size.values()
        ]
        self.assertEqual(len(steps), sum(len(of_size) for of_size in plan.points.values()))
        (first_small, first_large, second_small, second_large) = (place for (place,) in places)
        self.assertLess(second_small, first_small)
        self.assertLess(second_large, first_large)
        self.assertLess(first_small, second_large)

    def test_numbers(self):
        self.assertEqual(
            [show.number(value, "ns") for value in (7, 1500, 2.5e6, 1.25e9)],
            ["7 ns", "1.5 us", "2.5 ms", "1.25 s"],
        )
        self.assertEqual(
            [
                show.number(value, unit)
                for value, unit in ((3072, "KiB"), (0, "blocks"), (-4, "KiB"), (8 << 30, "bytes"))
            ],
            ["3 MiB", "0", "-4 KiB", "8 GiB"],
        )


class CommandLineTest(unittest.TestCase):
    def test_bad_arguments(self):
        for bad in (
            ["x"],
            ["--row", "none"],
            ["--allocator", "none"],
            ["--max-bytes", "0"],
            ["--max-bytes", "9g"],
            ["--seconds", "0"],
            ["--seconds", "1.5"],
            ["--repeats", "-1"],
            ["--json", "/nowhere/file"],
            ["--nonsense"],
            ["--max-bytes"],
            ["--row", "own_heaps", "--allocator", "glibc"],
        ):
            status, out, err = run(*bad)
            self.assertEqual((status, out), (2, ""), bad)
            self.assertRegex(err, r"\Aworst: .*\nusage: worst ", bad)

    def test_list(self):
        status, out, _ = run("--list")
        self.assertEqual(
            (status, [line.split()[0] for line in out.splitlines()]),
            (0, [row.name for row in rows.ALL]),
        )

    def test_programs(self):
        programs = {row.program for row in [rows.CONTROL, *rows.ALL]}
        for name in programs:
            for bad in ([], ["x"], ["1"] * 9):
                done = subprocess.run(
                    [os.path.join(BIN_DIR, "worst", name), *bad], capture_output=True, text=True
                )
                self.assertEqual((done.returncode, done.stdout), (2, ""), (name, bad))
                self.assertIn(f"usage: {name} ", done.stderr)

    def test_readme_has_every_row(self):
        with open(os.path.join(FOLDER, "README.md"), encoding="utf-8") as file:
            told = re.findall(r"^\| `(\w+)` ", file.read(), re.MULTILINE)
        self.assertEqual(told, [row.name for row in rows.ALL])


class SmokeTest(unittest.TestCase):
    def test_every_row(self):
        with tempfile.TemporaryDirectory() as folder:
            path, picture = os.path.join(folder, "worst.json"), os.path.join(folder, "worst.svg")
            drawn = ["--svg", picture] if plot.is_there() or "NO_SKIP" in os.environ else []
            status, out, err = run(
                *QUICK,
                *drawn,
                "--all",
                "--json",
                path,
                "--bin-dir",
                BIN_DIR,
                "--allocator",
                "hakmem",
                "--allocator",
                "glibc",
            )
            self.assertEqual(status, 0, err)
            report = report_of(path)
            if drawn:
                self.assertTrue(xml.etree.ElementTree.parse(picture).getroot().tag.endswith("svg"))
        self.assertEqual((report["failures"], report["left_out"], report["skipped"]), ([], [], []))
        self.assertEqual(set(report["served_by"]), {"hakmem", "glibc"})
        for row in rows.ALL:
            self.assertIn(f"\n{row.name}: {row.text}\n", "\n" + out)
            for allocator in row.allocators(["hakmem", "glibc"]):
                for others in row.others:
                    self.check(row, allocator, others, report["series"])
        control = {one["measure"] for one in report["series"] if one["row"] == "control"}
        self.assertLessEqual({"pause", "stall"}, control)

    def check(self, row, allocator, others, series):
        """A row's series have every function, both sizes, and times that are above nothing."""
        mine = {
            one["measure"]: one
            for one in series
            if (one["row"], one["allocator"], one["others"]) == (row.name, allocator, others)
        }
        wanted = (
            FUNCTIONS
            | {growth.LONGEST}
            | (HEAP_FUNCTIONS if allocator == "hakmem" else set())
            | ({"stall"} if others else set())
        )
        self.assertLessEqual(wanted, set(mine), (row.name, allocator, others))
        for name in wanted:
            sizes = [value["size"] for value in mine[name]["values"]]
            self.assertEqual(sizes, row.sizes(256 << 20)[:2], (row.name, allocator, name))
            self.assertTrue(
                all(value["value"] > 0 for value in mine[name]["values"]),
                (row.name, allocator, name),
            )
            self.assertIn(mine[name]["mark"], ("", "GROWS"))


if __name__ == "__main__":
    unittest.main()
