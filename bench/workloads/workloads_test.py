"""Every program under every allocator it is linked with, with little work: the output line, the
checksum, bad arguments."""

import json
import os
import re
import subprocess
import unittest

FOLDER = os.path.dirname(os.path.abspath(__file__))
NULL = os.path.join(FOLDER, "..", "null", "libnull.so")
HAKMEM = os.path.join(FOLDER, "..", "..", "preload", "libhakmem.so")
ALLOCATORS = {
    "glibc": r"/libc\.so\.6$",
    "hakmem": r"/libhakmem\.so(\.0)?$",
    "hakmem_static": r"^static hakmem ",
    "jemalloc": r"/libjemalloc\.so[.0-9]*$",
    "mimalloc": r"/libmimalloc\.so[.0-9]*$",
    "null": r"/libnull\.so$",
    "tcmalloc": r"/libtcmalloc(_minimal)?\.so[.0-9]*$",
}
LINE = re.compile(
    r"Throughput = (\d+) ops/s \[iter=\d+ ws=\d+ sum=([0-9a-f]{16})(?: live=\d+)?\] "
    r"time=\d+\.\d{3}s\n"
)

# A little of each; of those that behave differently by an argument, each way.
TINY = {
    "wl_batches": ["1 300 20 1000 0 {seed}", "2 300 20 1000 1 {seed}"],
    "wl_binary_trees": ["2 6 1"],
    "wl_exchange": [
        "2 20 50 8 16000 50 0 {seed}",
        "2 20 50 8 16000 100 1 {seed}",
        "1 20 50 8 16000 0 2 {seed}",
    ],
    "wl_factor": ["1 18 {seed}"],
    "wl_false_sharing": ["2 500 10 8 0 {seed}", "2 500 10 64 1 {seed}"],
    "wl_grow": ["1 8192 0", "2 2048 64"],
    "wl_large": ["1 20 5 5242880 8388608 0 {seed}", "2 100 5 65536 1048576 1 {seed}"],
    "wl_larson": ["2 100 500 8 8 1000 {seed}"],
    "wl_logic": ["2 6 70 {seed}"],
    "wl_many_threads": ["20 60 3 1 {seed}", "3 60 3 0 {seed}"],
    "wl_mix": ["1 3000 100 16 256 {seed}", "2 3000 90 16 1024 {seed}"],
    "wl_mstress": ["3 2000 3 100 {seed}"],
    "wl_nbody": ["100 3 {seed}"],
    "wl_order": ["2 3 500 16 512 0 {seed}", "1 3 500 16 512 1 {seed}", "1 3 500 16 512 2 {seed}"],
    "wl_pareto": ["2 5000 256 16 {seed}"],
    "wl_persistent": ["2 500 256 16 {seed}"],
    "wl_realloc": [
        "2 3000 50 16 1024 {seed} 1",
        "2 3000 50 16 1024 {seed}",
        "1 500 10 1024 1048576 {seed}",
    ],
    "wl_red_black": ["5000 500 {seed}"],
    "wl_simple": ["100 25 128 {seed}"],
    "wl_store": ["2 5000 500 32 {seed}"],
    "wl_strings": ["2 500 {seed}"],
    "wl_thread_exit": ["50 4 50 1000 {seed}"],
    "wl_threads": ["3 5000 100 {seed}"],
    "wl_touch": [
        "2 100 5 65536 1048576 0 0 {seed}",
        "1 50 5 65536 1048576 1 1 {seed}",
        "1 50 5 65536 1048576 2 2 {seed}",
        "1 50 5 65536 1048576 3 1 {seed}",
    ],
    "wl_working_set": ["5000 1000 16 128 {seed}"],
    "wl_xmalloc": ["2 100 20 16 256 {seed}", "2 20 200 64 64 {seed}"],
}


def run(program, allocator, *arguments, preload=None):
    env = {**os.environ, "LD_PRELOAD": preload} if preload else None
    command = [os.path.join(FOLDER, f"{program}_{allocator}"), *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=env)


def binaries():
    with open(os.path.join(FOLDER, "workloads.json"), encoding="utf-8") as file:
        return {row["binary"] for row in json.load(file)}


class WorkloadsTest(unittest.TestCase):
    def checksum(self, program, allocator, arguments, preload=None):
        done = run(program, allocator, *arguments, preload=preload)
        self.assertEqual((done.returncode, done.stderr), (0, ""), (program, allocator, arguments))
        match = LINE.fullmatch(done.stdout)
        self.assertTrue(match, (program, allocator, done.stdout))
        self.assertGreater(int(match.group(1)), 0)
        return match.group(2)

    def test_all_are_here(self):
        self.assertEqual(set(TINY), binaries())

    def test_same_checksum_under_all(self):
        for program, runs in TINY.items():
            for arguments in runs:
                arguments = arguments.replace("{seed}", "42").split()
                expected = self.checksum(program, "glibc", arguments)
                for allocator in ALLOCATORS:
                    self.assertEqual(
                        self.checksum(program, allocator, arguments), expected, (program, allocator)
                    )

    def test_same_checksum_preloaded(self):
        for program, runs in TINY.items():
            arguments = runs[-1].replace("{seed}", "7").split()
            expected = self.checksum(program, "glibc", arguments)
            for library in (HAKMEM, NULL):
                self.assertEqual(
                    self.checksum(program, "glibc", arguments, library),
                    expected,
                    (program, library),
                )

    def test_seed_matters(self):
        for program, runs in TINY.items():
            for arguments in runs:
                if "{seed}" in arguments:
                    sums = {
                        self.checksum(program, "glibc", arguments.replace("{seed}", s).split())
                        for s in "123"
                    }
                    self.assertEqual(len(sums), 3, (program, arguments))

    def test_served_by(self):
        for program in TINY:
            for allocator, pattern in ALLOCATORS.items():
                lines = run(program, allocator, "--whoami").stdout.splitlines()
                owners = dict(line.split(": ", 1) for line in lines)
                self.assertEqual(sorted(owners), ["free", "malloc"], (program, allocator))
                for owner in owners.values():
                    self.assertRegex(owner, pattern, (program, allocator))

    def test_bad_arguments(self):
        for program, runs in TINY.items():
            good = runs[0].replace("{seed}", "1").split()
            bad = [
                good + ["1"],
                ["x"] + good[1:],
                ["-1"] + good[1:],
                ["0"] + good[1:],
                ["--nonsense"],
                [""],
            ]
            for arguments in bad + [["99999999999999999999999"] + good[1:]]:
                done = run(program, "glibc", *arguments)
                self.assertEqual((done.returncode, done.stdout), (2, ""), (program, arguments))
                self.assertIn(f"\nusage: {program}_glibc ", done.stderr)

    def test_sizes_the_wrong_way_round(self):
        for program, arguments in (
            ("wl_larson", "2 100 500 8 1000 8 1"),
            ("wl_large", "1 20 5 8388608 5242880 0 1"),
            ("wl_mix", "1 3000 100 256 16 1"),
            ("wl_order", "1 3 500 512 16 0 1"),
            ("wl_realloc", "1 500 10 1024 16 1"),
            ("wl_touch", "1 20 5 1048576 65536 0 0 1"),
            ("wl_working_set", "5000 1000 128 16 1"),
            ("wl_grow", "1 8193 0"),
        ):
            done = run(program, "glibc", *arguments.split())
            self.assertEqual((done.returncode, done.stdout), (2, ""), program)
            self.assertIn("usage: ", done.stderr)


if __name__ == "__main__":
    unittest.main()
