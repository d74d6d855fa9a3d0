"""Wrong pointers, wrong options and impossible requests under a libhakmem.so: one line that names
what is wrong, or NULL.

misuse_test.py LIBRARY MISUSE_PROGRAM
"""
import os
import re
import signal
import subprocess
import sys
import unittest

LIBRARY, MISUSE = (os.path.abspath(a) for a in sys.argv[1:3])
NOT_OURS = r"invalid pointer freed \(not allocated by hakmem\)"
NO_START = r"invalid pointer freed \(not the start of a block\)"
TWICE = r"block freed twice(, or invalid pointer freed \(in free memory\))?"


def run(case, **options):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HAKMEM_")}
    environment.update(options, LD_PRELOAD=LIBRARY)
    return subprocess.run(
        [MISUSE, case],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        timeout=50,
    )


class Aborts(unittest.TestCase):
    def aborts(self, case, reason):
        done = run(case)
        self.assertEqual(done.returncode, -signal.SIGABRT, done)
        pointer = done.stdout.split()[-1]
        self.assertRegex(done.stderr, r"\Ahakmem: %s: %s( \([^\n]*\))?\n\Z" % (reason, pointer))

    def test_not_ours(self):
        for case in ("stack", "static", "wild", "not_canonical", "high"):
            with self.subTest(case):
                self.aborts("free_" + case, NOT_OURS)

    def test_interior(self):
        for case in (
            "small_interior", "small_unaligned", "mid_interior", "span_interior", "range_interior",
        ):
            with self.subTest(case):
                self.aborts("free_" + case, NO_START)

    def test_twice(self):
        for case in ("small", "mid", "span", "range"):
            with self.subTest(case):
                self.aborts(
                    "free_twice_" + case, TWICE if case != "range" else TWICE + "|" + NOT_OURS
                )

    def test_realloc(self):
        done = run("realloc_wild")
        self.assertEqual(done.returncode, -signal.SIGABRT, done)
        self.assertEqual(done.stderr, "hakmem: invalid pointer given to realloc: 0x12345670\n")


class Survives(unittest.TestCase):
    def survives(self, case, **options):
        done = run(case, **options)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "survived\n", ""))

    def test_nothing(self):
        self.survives("nothing")

    def test_out_of_memory(self):
        self.survives("out_of_memory")

    def test_too_large(self):
        self.survives("too_large")

    def test_fork_among_threads(self):
        self.survives("fork")

    def test_others_have_filled_the_list_of_fork_handlers(self):
        for options in {}, {"HAKMEM_GUARD": "3"}, {"HAKMEM_GUARD": "5000"}:
            self.survives("handlers", **options)

    def test_bad_usage(self):
        self.assertEqual(run("no such case").returncode, 2)


class Options(unittest.TestCase):
    def complaint(self, **options):
        done = run("nothing", **options)
        self.assertEqual((done.returncode, done.stdout), (0, "survived\n"))
        return done.stderr

    def test_malformed_value(self):
        self.assertEqual(
            self.complaint(HAKMEM_SHOW_STATS="maybe"),
            "hakmem: HAKMEM_SHOW_STATS='maybe' is not allowed: 0, 1, off, on, no, yes, false or "
            "true, or a file's path, with a slash; using 0\n",
        )

    def test_value_out_of_range(self):
        text = self.complaint(HAKMEM_PURGE_DELAY_MS="99999999999999999999")
        self.assertRegex(
            text,
            r"^hakmem: HAKMEM_PURGE_DELAY_MS='9+' is not allowed: a number from 0 to 3600000 ms; "
            r"using \d+\n$",
        )

    def test_unknown_name(self):
        text = self.complaint(HAKMEM_PURGE_DELAY="1")
        self.assertRegex(
            text,
            r"^hakmem: unknown option 'HAKMEM_PURGE_DELAY=1' ignored; allowed:.* "
            r"HAKMEM_PURGE_DELAY_MS.*\n$",
        )

    def test_good_values_say_nothing(self):
        self.assertEqual(
            self.complaint(
                HAKMEM_PURGE_DELAY_MS="0", HAKMEM_BIN_BYTES="4k", HAKMEM_SHOW_STATS="no"
            ),
            "",
        )

    def test_show_stats(self):
        self.assertTrue(
            re.search(
                r"^hakmem: superslabs = [1-9]\d* superslabs \(\d+ misuse\)$",
                self.complaint(HAKMEM_SHOW_STATS="1"), re.M,
            )
        )


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]] + sys.argv[3:], verbosity=2)
