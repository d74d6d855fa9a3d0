"""hakmem record: what a program is known to call is in the trace, in its order, whatever way the program ends.

record_test.py HAKMEM_COMMAND CALLS_PROGRAM
"""

import collections
import glob
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import trace_file

COMMAND, CALLS = (os.path.abspath(a) for a in sys.argv[1:3])

# The calls of mode `known`, of which calls.c is the other copy: operation, size, alignment, and a name for the block.
KNOWN = [
    ("malloc", 100001, 1, "a"), ("calloc", 120003, 1, "b"), ("aligned", 100005, 64, "d"), ("aligned", 100003, 4096, "c"),
    ("realloc", 300007, 1, "a"), ("free", None, 1, "b"), ("malloc", 100007, 1, "e"), ("aligned", 128128, 128, "f"),
    ("malloc", 110077, 1, "g"), ("free", None, 1, "d"), ("free", None, 1, "a"), ("realloc", 50021, 1, "e"), ("free", None, 1, "f"),
    ("free", None, 1, "g"),
]  # fmt: skip
SHORT_THREADS, THREADS, ROUNDS = 300, 4, 20000


class RecordTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(dir=os.environ.get("TEST_TMPDIR"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.trace = os.path.join(self.folder, "t.trace")

    def command(self, *arguments, **more):
        env = {**os.environ, **more}
        env.pop("BUILD_WORKING_DIRECTORY", None)
        return subprocess.run([COMMAND, *arguments], env=env, capture_output=True, text=True, cwd=self.folder)

    def record(self, mode, *options, status=0):
        done = self.command("record", "-o", self.trace, *options, CALLS, mode)
        self.assertEqual((done.returncode, done.stdout), (status, ""), done.stderr)
        self.assertIn(f"hakmem: {self.trace}: ", done.stderr)
        self.assertEqual(glob.glob(self.trace + ".raw*"), [])
        return trace_file.read(self.trace)

    def assert_known(self, calls):
        """The program's own calls: those about blocks that ever had a size of 50,000 or more."""
        large = {call.block for call in calls if call.size and call.size > 50000}
        names = {}
        found = []
        for call in calls:
            if call.block in large:
                names.setdefault(call.block, KNOWN[len(found)][3])
                found.append((call.op, call.size, call.align, names[call.block]))
        self.assertEqual(found, KNOWN)

    def consistent(self, header, calls):
        """Every call is about a block that is alive; the header's peaks are the largest sums."""
        alive, total, peak_bytes, peak_blocks = {}, 0, 0, 0
        for call in calls:
            if call.op in ("realloc", "free"):
                total -= alive.pop(call.block)
            if call.op != "free":
                alive[call.block] = call.size
                total += call.size
            peak_bytes, peak_blocks = max(peak_bytes, total), max(peak_blocks, len(alive))
        self.assertEqual((header.peak_bytes, header.peak_blocks), (peak_bytes, peak_blocks))
        self.assertEqual({call.thread for call in calls}, set(range(header.n_threads)))

    def test_known_calls(self):
        header, calls = self.record("known")
        self.assertEqual((header.program.rstrip(b"\0"), header.flags, header.n_threads), (b"calls", 0, 1))
        self.assert_known(calls)
        self.consistent(header, calls)

    def test_ends_without_destructors(self):
        for mode, status in (("exit", 3), ("kill", 137)):
            self.assert_known(self.record(mode, status=status)[1])

    def threads(self, mode):
        header, calls = self.record(mode)
        self.consistent(header, calls)
        counts = collections.Counter((call.thread, call.size) for call in calls if call.op == "malloc" and call.size >= 200000)
        self.assertEqual(sorted(counts.values()), [ROUNDS] * THREADS)
        self.assertEqual({size for _, size in counts}, {200000 + 16 * k for k in range(THREADS)})
        made = {call.block: call.thread for call in calls if call.op == "malloc" and call.size >= 200000}
        frees = [call for call in calls if call.op == "free" and call.block in made]
        self.assertTrue(THREADS * ROUNDS - 64 <= len(frees) < THREADS * ROUNDS)
        self.assertGreater(sum(made[call.block] != call.thread for call in frees), 100)
        self.assertEqual({call.size for call in calls if call.op == "realloc" and call.block in made}, {210000})

    def test_threads_that_free_for_each_other(self):
        for _ in range(3):
            self.threads("threads")

    def test_descriptors_closed(self):
        self.threads("close")

    def test_threads_that_come_and_go(self):
        header, calls = self.record("short")
        self.consistent(header, calls)
        self.assertEqual(header.n_threads, SHORT_THREADS + 1)
        by_size = collections.Counter(call.size for call in calls if call.op == "malloc")
        self.assertEqual((by_size[300001], by_size[300017]), (SHORT_THREADS, SHORT_THREADS))
        self.assertEqual(sum(call.op == "malloc" and call.size == 300001 and call.thread > 0 for call in calls), SHORT_THREADS)

    def sizes(self, path):
        return [call.size for call in trace_file.read(path)[1] if call.size and call.size > 100000]

    def test_fork(self):
        self.record("fork")
        self.assertEqual(self.sizes(self.trace), [100011, 100022])
        self.assertEqual(glob.glob(self.trace + ".*"), [])

    def test_forked_children_too(self):
        self.record("fork", "--children")
        self.assertEqual(self.sizes(self.trace), [100011, 100022])
        (child,) = glob.glob(self.trace + ".[0-9]*")
        self.assertEqual(self.sizes(child), [100013, 100015])

    def test_programs_started_by_the_program(self):
        done = self.command("record", "-o", self.trace, "--children", "sh", "-c", f"{CALLS} known; true")
        self.assertEqual(done.returncode, 0, done.stderr)
        (child,) = glob.glob(self.trace + ".[0-9]*")
        self.assert_known(trace_file.read(child)[1])
        os.unlink(child)
        self.command("record", "-o", self.trace, "sh", "-c", f"{CALLS} known; true")
        self.assertEqual((glob.glob(self.trace + ".[0-9]*"), self.sizes(self.trace)), ([], []))

    def test_no_calls(self):
        header, calls = self.record("none")
        self.assertEqual((len(calls) < 20, header.flags), (True, 0))
        done = self.command("record", "-o", self.trace, "true")
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_first_calls(self):
        header, calls = self.record("threads", "--calls", "5000")
        self.assertEqual(header.flags, 1)
        self.assertTrue(3000 < len(calls) <= 5000, len(calls))
        self.consistent(header, calls)

    def test_default_name_and_info(self):
        done = self.command("record", "--", CALLS, "known")
        self.assertEqual(done.returncode, 0, done.stderr)
        header, calls = trace_file.read(os.path.join(self.folder, "calls.trace"))
        info = self.command("trace-info", "calls.trace")
        self.assertEqual((info.returncode, info.stderr), (0, ""))
        counts = collections.Counter(call.op for call in calls)
        for op in trace_file.OPS:
            self.assertRegex(info.stdout, rf"\n  {op} +{counts[op]}\n")
        self.assertRegex(info.stdout, rf"alive at most +{header.peak_bytes} bytes, {header.peak_blocks} blocks\n")

    def test_info_of_what_is_no_trace(self):
        self.record("known")
        with open(self.trace, "rb") as file:
            good = file.read()
        for name, bad in (("empty", b""), ("short", good[:60]), ("cut", good[:-1]), ("flipped", good[:140] + bytes([good[140] ^ 1]) + good[141:])):
            path = os.path.join(self.folder, name)
            with open(path, "wb") as file:
                file.write(bad)
            done = self.command("trace-info", path)
            self.assertEqual((done.returncode, done.stdout), (2, ""), name)
            self.assertIn(f"hakmem: {path}: ", done.stderr)

    def test_usage_and_failures(self):
        for arguments in ((), ("-o",), ("--calls", "x", "true"), ("--calls", "0", "true"), ("--walk", "true"), ("--",)):
            done = self.command("record", *arguments)
            self.assertEqual(done.returncode, 2, arguments)
            self.assertIn("usage: hakmem run", done.stderr)
        self.assertEqual(self.command("record", "no-such-program").returncode, 127)
        self.assertEqual(self.command("record", "true", HAK_RECORD_LIBRARY="/no/such").returncode, 125)
        self.assertEqual(self.command("record", "-o", "/no/such/folder/t", CALLS, "known").returncode, 125)
        self.assertEqual(self.command("trace-info", "/no/such").returncode, 2)
        self.assertEqual(self.command("record", "-o", self.trace, "sh", "-c", "exit 127").returncode, 127)
        self.assertTrue(os.path.exists(self.trace))


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]] + sys.argv[3:], verbosity=2)
