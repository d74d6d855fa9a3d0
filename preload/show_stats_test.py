"""HAKMEM_SHOW_STATS: printed however the program ends, as far as that takes no signal from it; each
line with process and program; to a file if asked.

show_stats_test.py LIBRARY ENDS
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import unittest

LIBRARY, ENDS = (os.path.abspath(a) for a in sys.argv[1:3])
LINE = re.compile(r"hakmem: ([a-z_]+) = (-?\d+) [a-z]+ \((\d+) ends\)")


class ShowStats(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(dir=os.environ.get("TEST_TMPDIR"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def run_program(self, how, value="1", **more):
        env = {k: v for k, v in os.environ.items() if not k.startswith("HAKMEM_")}
        env.update(LD_PRELOAD=LIBRARY, HAKMEM_BACKGROUND="0", **more)
        if value is not None:
            env["HAKMEM_SHOW_STATS"] = value
        # No core files.
        return subprocess.run(
            ["sh", "-c", 'ulimit -c 0; exec "$0" "$1"', ENDS, how], env=env, capture_output=True,
            text=True, cwd=self.folder, check=False,
        )

    def rows(self, text):
        """{pid: {name: value}}"""
        found = {}
        for line in text.splitlines():
            match = LINE.fullmatch(line)
            if match:
                rows = found.setdefault(int(match.group(3)), {})
                self.assertNotIn(match.group(1), rows)
                rows[match.group(1)] = int(match.group(2))
            else:
                self.assertNotIn(" = ", line)
        return found

    def whole(self, text, is_at_end):
        (rows,) = self.rows(text).values()
        self.assertGreater(rows["superslabs"], 0)
        self.assertIn("failed_requests", rows)
        self.assertEqual("live_bytes" in rows, is_at_end)

    def test_ends_of_main_and_exit(self):
        for how, status in (("main", 3), ("exit", 4), ("quick_exit", 6)):
            done = self.run_program(how)
            self.assertEqual(done.returncode, status)
            self.whole(done.stderr, True)

    def test_fatal_signals(self):
        for how, number in (
            ("abort", signal.SIGABRT),
            ("fault", signal.SIGSEGV),
            ("abrt", signal.SIGABRT),
            ("segv", signal.SIGSEGV),
            ("bus", signal.SIGBUS),
            ("ill", signal.SIGILL),
            ("fpe", signal.SIGFPE),
            ("sys", signal.SIGSYS),
            ("term", signal.SIGTERM),
        ):
            done = self.run_program(how)
            self.assertEqual(done.returncode, -number, how)
            self.whole(done.stderr, False)

    def test_misuse(self):
        """Behind the line that names it."""
        done = self.run_program("misuse")
        self.assertEqual(done.returncode, -signal.SIGABRT)
        self.assertRegex(done.stderr.splitlines()[0], "^hakmem: invalid pointer")
        self.whole(done.stderr, False)

    def test_with_guards(self):
        """Both have a handler of SIGSEGV. Behind the report, once."""
        done = self.run_program("freed", HAKMEM_GUARD="1")
        self.assertEqual(done.returncode, -signal.SIGSEGV)
        self.assertRegex(done.stderr.splitlines()[0], "^hakmem: freed block (written|touched)")
        self.assertEqual([rows["guard_samples"] > 0 for rows in self.rows(done.stderr).values()],
                         [True])
        done = self.run_program("fault", HAKMEM_GUARD="1")
        self.assertEqual(done.returncode, -signal.SIGSEGV)
        self.assertEqual(len(self.rows(done.stderr)), 1)
        done = self.run_program("handled-segv", HAKMEM_GUARD="1")
        self.assertEqual((done.returncode, done.stderr), (7, ""))

    def test_where_it_cannot(self):
        for how, status in (
            ("_exit", 5),
            ("kill", -signal.SIGKILL),
            ("int", -signal.SIGINT),
            # The program's own handler, which leaves by _exit.
            ("handled-segv", 7),
            ("handled-term", 7),
        ):
            done = self.run_program(how)
            self.assertEqual((done.returncode, done.stderr), (status, ""), how)

    def test_what_the_program_ignores_stays_so(self):
        done = self.run_program("ignored-term")
        self.assertEqual(done.returncode, 0)
        self.whole(done.stderr, True)

    def test_a_signal_that_was_ignored_before(self):
        env = dict(os.environ, LD_PRELOAD=LIBRARY, HAKMEM_SHOW_STATS="1")
        done = subprocess.run(
            ["sh", "-c", 'trap "" TERM; exec "$0" term', ENDS], env=env, capture_output=True,
            text=True, check=False,
        )
        self.assertEqual(done.returncode, 0)

    def test_off(self):
        for value in (None, "0"):
            for how in ("main", "abort"):
                self.assertEqual(self.run_program(how, value).stderr, "")

    def test_forked_child(self):
        done = self.run_program("fork")
        self.assertEqual({int(n) for n in done.stdout.split()}, set(self.rows(done.stderr)))
        self.assertEqual(len(self.rows(done.stderr)), 2)

    def test_to_a_file(self):
        path = os.path.join(self.folder, "some file")
        for value, how in ((path, "main"), (path, "abort"), ("./some file", "moved")):
            done = self.run_program(how, value)
            self.assertEqual(done.stderr, "", how)
        with open(path, encoding="utf-8") as stream:
            self.assertEqual(len(self.rows(stream.read())), 3)
        self.assertEqual(os.stat(path).st_mode & 0o777, 0o600)

    def test_a_file_that_cannot_be_written(self):
        os.symlink("/dev/null", os.path.join(self.folder, "link"))
        for value in ("/no/such/folder/file", "./link"):
            done = self.run_program("main", value)
            self.assertEqual(done.returncode, 3)
            self.assertRegex(
                done.stderr, r"^hakmem: HAKMEM_SHOW_STATS: .*: cannot be written: errno \d+\n$")


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
