"""Tests of the workload programs themselves: command lines, output lines, and which allocator
serves each of them."""

import json
import os
import re
import subprocess
import unittest
import unittest.mock

from comparison import run as starting
from comparison import table

BIN_DIR = os.environ.get("BENCH_BIN_DIR") or os.path.dirname(os.path.abspath(__file__))

PLACE = table.Place(BIN_DIR)

# Program, good arguments, its output line.
PROGRAMS = [
    (
        "bench_random_mixed",
        ["10000", "256", "42"],
        r"Throughput = \d+ ops/s \[iter=10000 ws=256\] time=\d+\.\d{3}s\n",
    ),
    (
        "bench_latency",
        ["1000", "64", "42"],
        r"Throughput = \d+ ops/s \[iter=1000 ws=64\] time=\d+\.\d{3}s\nLatency ns: p50=.* "
        r"max=\d+\n",
    ),
    (
        "bench_mid_mt_gap",
        ["2", "1000", "64", "42"],
        r"Throughput = \d+\.\d\d M operations per second, relative time: \d+\.\d{6} s\.\n",
    ),
    (
        "bench_prod_cons",
        ["1000", "16", "8", "42"],
        r"Throughput = \d+\.\d\d M operations per second, relative time: \d+\.\d{6} s\.\n",
    ),
]

# With a binary of their own.
LINKED = [name for name, one in table.ALLOCATORS.items() if one.linked]

BAD = [
    ["x"],
    ["-1", "256", "42"],
    ["0", "256", "42"],
    ["1000", "256x", "42"],
    ["1000", "", "42"],
    ["99999999999999999999999", "256", "42"],
    ["1000", "256", "42", "1", "1"],
    ["--nonsense"],
]


def workload_of(program):
    """A workload whose program it is."""
    return next(one for one in table.load().values() if one.binary == program)


def run(program, allocator, *arguments):
    return subprocess.run(
        [PLACE.binary(workload_of(program), allocator), *arguments], capture_output=True, text=True
    )


class ProgramsTest(unittest.TestCase):
    def test_served_by(self):
        for program, _, _ in PROGRAMS:
            for allocator in LINKED:
                starting.check_owner(PLACE, workload_of(program), allocator)

    def test_the_check_notices(self):
        with unittest.mock.patch.dict(table.ALLOCATORS, {"glibc": table.ALLOCATORS["jemalloc"]}):
            with self.assertRaises(starting.Failure):
                starting.check_owner(PLACE, workload_of("bench_random_mixed"), "glibc")

    def test_output(self):
        for program, arguments, pattern in PROGRAMS:
            for allocator in LINKED:
                done = run(program, allocator, *arguments)
                self.assertEqual((done.returncode, done.stderr), (0, ""), (program, allocator))
                self.assertTrue(re.fullmatch(pattern, done.stdout), done.stdout)

    def test_bad_arguments(self):
        for program, _, _ in PROGRAMS:
            for arguments in BAD:
                done = run(program, "glibc", *arguments)
                self.assertEqual((done.returncode, done.stdout), (2, ""), (program, arguments))
                self.assertIn(f"\nusage: {program}_glibc ", done.stderr)
        self.assertEqual(run("bench_random_mixed", "glibc").returncode, 2)
        self.assertEqual(run("bench_prod_cons", "glibc", "1000", "16", "7").returncode, 2)

    def test_help(self):
        for program, _, _ in PROGRAMS:
            done = run(program, "glibc", "--help")
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertIn("usage: ", done.stdout)

    def test_defaults(self):
        self.assertEqual(run("bench_mid_mt_gap", "glibc", "1").returncode, 0)


class MeasureTest(unittest.TestCase):
    def measure(self, *command):
        """Exit status and report of measure."""
        read_end, write_end = os.pipe()
        program = os.path.join(BIN_DIR, "common", "measure")
        script = ["/bin/sh", "-c", f'exec "$@" 3>&{write_end}', "sh", program, *command]
        done = subprocess.run(script, capture_output=True, pass_fds=[write_end])
        os.close(write_end)
        with os.fdopen(read_end) as file:
            text = file.read()
        return done.returncode, json.loads(text) if text else None

    def test_peak(self):
        status, report = self.measure("/bin/true")
        self.assertEqual(status, 0)
        # The point of the program: not the memory of the Python process that started it.
        self.assertLess(report["peak_kib"], 6 * 1024)
        self.assertGreater(report["peak_kib"], 100)
        self.assertGreater(
            self.measure("/bin/sh", "-c", "x=$(head -c 20000000 /dev/zero | tr '\\0' x)")[1][
                "peak_kib"
            ],
            19000,
        )

    def test_status(self):
        self.assertEqual(self.measure("/bin/sh", "-c", "exit 7")[0], 7)
        self.assertEqual(self.measure("/bin/sh", "-c", "kill -9 $$")[0], 137)
        self.assertEqual(self.measure("/no/such/program")[0], 127)
        self.assertEqual(self.measure("/")[0], 126)

    def test_a_real_run(self):
        result = starting.run_once(PLACE, table.load()["mid_mt_gap"], "glibc", "quick", 1)
        self.assertGreater(result["ops_per_s"], 0)
        self.assertGreater(result["peak_kib"], 0)
        self.assertEqual(result["seed"], 1)

    def test_memory_over_time(self):
        _, report = self.measure(
            "/bin/sh", "-c", "x=$(head -c 20000000 /dev/zero | tr '\\0' x); unset x; sleep 0.1"
        )
        self.assertGreater(len(report["resident_kib"]), 5)
        self.assertGreater(report["interval_ms"], 0)
        self.assertLess(report.get("exit_kib", 0), report["peak_kib"] * 1.5)

    def test_preload(self):
        place = table.Place(BIN_DIR, by_preload=True)
        for allocator in table.DEFAULT_ALLOCATORS:
            for program in ("bench_random_mixed", "workloads/wl_larson", "replay/replay"):
                starting.check_owner(place, workload_of(program), allocator)
            library = place.library(workload_of("bench_random_mixed"), allocator)
            self.assertEqual(allocator == "glibc", library is None)
        self.assertIn(
            "libtbbmalloc_proxy", PLACE.library(workload_of("bench_random_mixed"), "tbbmalloc")
        )  # there is no binary of it
        self.assertIsNone(PLACE.library(workload_of("bench_random_mixed"), "jemalloc"))
        told = starting.run_once(PLACE, table.load()["random_mixed_256"], "tbbmalloc", "quick", 1)
        plain = starting.run_once(PLACE, table.load()["random_mixed_256"], "glibc", "quick", 1)
        self.assertGreater(told["peak_kib"], plain["peak_kib"])

    def test_noise(self):
        noise = starting.noise(PLACE)
        self.assertEqual(noise["spins"], starting.SPINS)
        self.assertGreater(noise["median_ns"], 1e5)

    def test_latency(self):
        told = starting.run_once(PLACE, table.load()["latency"], "glibc", "quick", 1)["latency_ns"]
        ordered = [told[name] for name in ("p50", "p90", "p99", "p99.9", "p99.99", "max")]
        self.assertEqual(ordered, sorted(ordered))
        self.assertGreater(ordered[0], 0)


if __name__ == "__main__":
    unittest.main()
