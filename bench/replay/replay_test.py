"""replay: makes exactly the calls of a trace, in each order it offers, under every allocator; and
refuses what is no trace.

replay_test.py HAKMEM_COMMAND CALLS_PROGRAM
"""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

FOLDER = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(FOLDER, "..", "..", "trace"))

import trace_file

COMMAND, CALLS = (os.path.abspath(a) for a in sys.argv[1:3])
COUNTER = os.path.join(FOLDER, "libcount.so")
ALLOCATORS = ("glibc", "hakmem", "hakmem_static", "jemalloc", "mimalloc", "null", "tcmalloc")
LINE = re.compile(
    r"Resident before the first call: own=\d+\n"
    r"Throughput = (\d+) ops/s \[iter=(\d+) ws=(\d+) threads=(\d+) live=(\d+)\] time=\d+\.\d{3}s\n"
)
# malloc(100); malloc(200); free of the first; realloc of the second; as bytes of a body, one run of
# thread 0.
BODY = bytes([0, 4, 0, 100, 0, 0xC8, 1, 4, 2, 3, 1, 50])


def run(arguments, allocator="glibc", **more):
    program = os.path.join(FOLDER, f"replay_{allocator}")
    return subprocess.run(
        [program, *arguments], capture_output=True, text=True, timeout=100,
        env={**os.environ, **more},
    )


class ReplayTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(dir=os.environ.get("TEST_TMPDIR"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.trace = os.path.join(self.folder, "t.trace")

    def record(self, mode, calls="20000"):
        env = {
            name: value for name, value in os.environ.items() if name != "BUILD_WORKING_DIRECTORY"
        }
        subprocess.run(
            [COMMAND, "record", "-o", self.trace, "--calls", calls, CALLS, mode],
            check=True,
            stderr=subprocess.DEVNULL,
            env=env,
        )
        return trace_file.read(self.trace)

    def counted(self, *options):
        """The calls of replay: {operation: (calls, bytes, sum of alignments)}."""
        told = os.path.join(self.folder, "counts")
        done = run([*options, self.trace], LD_PRELOAD=COUNTER, COUNT_FILE=told)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        with open(told, encoding="utf-8") as file:
            return {
                name: tuple(int(n) for n in numbers)
                for name, *numbers in (line.split() for line in file)
            }

    def expected(self, header, calls, repeats):
        counts = {op: [0, 0, 0] for op in trace_file.OPS}
        for call in calls:
            counts[call.op][0] += repeats
            counts[call.op][1] += (call.size or 0) * repeats
            counts[call.op][2] += max(call.align, 8) * repeats if call.op == "aligned" else 0
        counts["free"][0] = header.n_blocks * repeats  # what is left is freed at the end of a pass
        return {op: tuple(numbers) for op, numbers in counts.items()}

    def test_makes_exactly_the_recorded_calls(self):
        for mode in ("known", "threads", "short"):
            header, calls = self.record(mode)
            for window in ("0", "1", "100", "1024"):
                self.assertEqual(
                    self.counted("--window", window, "--repeat", "2"),
                    self.expected(header, calls, 2),
                    (mode, window),
                )

    def test_every_allocator_and_the_line(self):
        header, _ = self.record("threads")
        for allocator in ALLOCATORS:
            for touch in ("none", "ends", "all"):
                done = run(["--touch", touch, "--repeat", "3", self.trace], allocator)
                self.assertEqual((done.returncode, done.stderr), (0, ""), allocator)
                told = LINE.fullmatch(done.stdout)
                self.assertTrue(told, done.stdout)
                wanted = (
                    3 * header.n_calls, header.peak_blocks, header.n_threads, header.peak_bytes,
                )
                self.assertEqual(tuple(int(n) for n in told.groups()[1:]), wanted)

    def test_whoami(self):
        for allocator, pattern in (
            ("glibc", r"/libc\.so\.6\n"),
            ("hakmem", r"/libhakmem\.so(\.0)?\n"),
            ("hakmem_static", r"static hakmem "),
        ):
            self.assertRegex(run(["--whoami"], allocator).stdout, "malloc: .*" + pattern)

    def test_made_by_hand(self):
        trace_file.write(self.trace, BODY, 4, 2)
        self.assertEqual(
            [tuple(call) for call in trace_file.read(self.trace)[1]],
            [
                ("malloc", 0, 0, 100, 1),
                ("malloc", 0, 1, 200, 1),
                ("free", 0, 0, None, 1),
                ("realloc", 0, 1, 50, 1),
            ],
        )
        self.assertEqual(
            self.counted(),
            {
                "malloc": (2, 300, 0),
                "calloc": (0, 0, 0),
                "aligned": (0, 0, 0),
                "realloc": (1, 50, 0),
                "free": (2, 0, 0),
            },
        )

    def test_order_between_threads(self):
        """A block goes from thread to thread: each waits for the one before, whatever the
        window."""
        body, n = bytearray([0, 1, 0, 64]), 1
        for turn in range(3000):
            body += bytes([turn % 3, 1, 3, 1, 16 + turn % 100])
            n += 1
        trace_file.write(self.trace, bytes(body + bytes([2, 1, 4, 1])), n + 1, 1, 3)
        for window in ("0", "1", "7", "1024"):
            counts = self.counted("--window", window)
            self.assertEqual((counts["realloc"][0], counts["free"][0]), (3000, 1))

    def refused(self, why, *options):
        done = run([*options, self.trace])
        self.assertEqual((done.returncode, done.stdout), (2, ""), why)
        self.assertRegex(done.stderr, rf"^replay: .*{why}")

    def test_damaged_files(self):
        trace_file.write(self.trace, BODY, 4, 2)
        with open(self.trace, "rb") as file:
            good = file.read()
        wrong = set()
        for i in range(len(good)):
            for data in (good[:i] + bytes([good[i] ^ 0x41]) + good[i + 1 :], good[:i]):
                with open(self.trace, "wb") as file:
                    file.write(data)
                done = run([self.trace])
                self.assertEqual((done.returncode, done.stdout), (2, ""), i)
                wrong.add(done.stderr.split(": ")[2].strip())
        self.assertEqual(
            wrong,
            {
                "not a trace", "a trace of another version", "cut short, or longer than it says",
                "damaged",
            },
        )

    def test_bodies_that_make_no_sense(self):
        for name, body, calls, blocks, why in (
            ("operation", bytes([0, 1, 7, 100]), 1, 1, "damaged"),
            ("no such thread", bytes([1, 1, 0, 100]), 1, 1, "damaged"),
            ("an empty run", bytes([0, 0]), 0, 0, "damaged"),
            ("a block not made", bytes([0, 2, 0, 100, 4, 2]), 2, 1, "damaged"),
            ("distance 0", bytes([0, 2, 0, 100, 4, 0]), 2, 1, "damaged"),
            ("ends in a call", bytes([0, 2, 0, 100, 0]), 2, 2, "damaged"),
            ("run too long", bytes([0, 3, 0, 100]), 3, 1, "damaged"),
            ("number too long", bytes([0, 1, 0] + [0xFF] * 11), 1, 1, "damaged"),
            ("fewer calls", BODY, 5, 2, "damaged"),
            ("more blocks than calls", BODY, 4, 5, "contradicts itself"),
            ("more calls than bytes", BODY, 400, 2, "contradicts itself"),
            ("freed twice", bytes([0, 3, 0, 100, 4, 1, 4, 1]), 3, 1, "used after it was freed"),
            (
                "resized after free", bytes([0, 3, 0, 100, 4, 1, 3, 1, 1]), 3, 1,
                "used after it was freed",
            ),
            ("too large", bytes([0, 1, 0] + [0xFF] * 6 + [1]), 1, 1, "more than 16 GiB|damaged"),
            ("malloc with alignment", bytes([0, 1, 8, 100]), 1, 1, "damaged"),
        ):
            with self.subTest(name):
                trace_file.write(self.trace, body, calls, blocks)
                self.refused(why)

    def test_empty_trace(self):
        trace_file.write(self.trace, b"", 0, 0, 0)
        self.assertEqual(run([self.trace]).returncode, 0)

    def test_usage(self):
        trace_file.write(self.trace, BODY, 4, 2)
        for bad in (
            [],
            ["--repeat", "0", self.trace],
            ["--window", "x", self.trace],
            ["--touch", "some", self.trace],
            ["--walk", self.trace],
            [self.trace, self.trace],
            [self.trace, "--repeat"],
        ):
            done = run(bad)
            self.assertEqual((done.returncode, done.stdout), (2, ""), bad)
            self.assertIn("usage: replay ", done.stderr)
        self.assertEqual(run(["/no/such"]).returncode, 2)
        self.assertIn("usage: replay ", run(["--help"]).stdout)


class TracesTest(unittest.TestCase):
    """The traces that are checked in, the page about them, and the rows that have them measured."""

    def setUp(self):
        with open(os.path.join(FOLDER, "workloads.json"), encoding="utf-8") as file:
            self.rows = {row["name"]: row for row in json.load(file)}

    def test_the_page_and_the_rows(self):
        with open(os.path.join(FOLDER, "README.md"), encoding="utf-8") as file:
            told = re.findall(
                r"^\| (\w+) \| .* \| ([0-9,]+) \| (\d+) \| ([0-9.]+) MiB \|$", file.read(),
                re.MULTILINE,
            )
        found = []
        for name in sorted(os.listdir(os.path.join(FOLDER, "traces"))):
            if name.endswith(".trace"):
                header = trace_file.read_header(os.path.join(FOLDER, "traces", name))
                row = (name[: -len(".trace")], f"{header.n_calls:,}", str(header.n_threads))
                self.assertEqual(self.rows["replay_" + row[0]]["threads"], header.n_threads)
                found.append((*row, f"{header.peak_bytes / 2**20:.1f}"))
        self.assertEqual(told, found)
        self.assertEqual(len(self.rows), len(found))

    def test_all_are_played(self):
        for row in self.rows.values():
            arguments = row["args"].replace("{here}", FOLDER).replace("{work}", "1").split()
            for allocator in ("glibc", "hakmem"):
                done = run(arguments, allocator)
                self.assertEqual((done.returncode, done.stderr), (0, ""), (row["name"], allocator))
                self.assertRegex(done.stdout, LINE)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]] + sys.argv[3:], verbosity=2)
