"""Planted bugs: memcheck finds them under the debug libhakmem.so, AddressSanitizer in a program
that links the debug hak_*.

planted_test.py PLANTED DEBUG_LIBRARY RELEASE_LIBRARY PLANTED_ASAN_DEBUG PLANTED_ASAN_RELEASE
"""
import os
import subprocess
import sys
import unittest

PLANTED, DEBUG, RELEASE, ASAN_DEBUG, ASAN_RELEASE = (
    os.path.abspath(path) for path in sys.argv[1:6]
)
BUGS = {
    "read_after_free": (r"Invalid read of size 1", r"0 bytes inside a block of size 40 free'd"),
    "read_after_free_and_malloc": (
        r"Invalid read of size 1", r"8 bytes inside a block of size 40 free'd",
    ),
    "write_after_free": (r"Invalid write of size 1", r"39 bytes inside a block of size 40 free'd"),
    "overflow_by_one": (r"Invalid write of size 1", r"0 bytes after a block of size 40 alloc'd"),
    "overflow_of_large": (
        r"Invalid write of size 1", r"0 bytes after a block of size 100,000 alloc'd",
    ),
    "overflow_after_realloc": (
        r"Invalid read of size 1", r"0 bytes after a block of size 20 alloc'd",
    ),
    "overflow_in_heap": (r"Invalid write of size 1", r"0 bytes after a block of size 40 alloc'd"),
    "overflow_after_heap_realloc": (
        r"Invalid read of size 1", r"0 bytes after a block of size 30 alloc'd",
    ),
    # There are blocks on both sides, of which Valgrind names the one that it comes to first.
    "overflow_in_batch": (
        r"Invalid read of size 1", r"(0 bytes after|24 bytes before) a block of size 40 alloc'd",
    ),
    "read_after_free_batch": (
        r"Invalid read of size 1", r"39 bytes inside a block of size 40 free'd",
    ),
}


def run(*command, **environment):
    done = subprocess.run(
        command, env=dict({"PATH": "/usr/bin:/bin"}, **environment), stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=100,
    )
    return done.returncode, done.stdout


def memcheck(library, case):
    # Else Valgrind puts its own malloc in the place of ours.
    return run(
        "valgrind", "-q", "--error-exitcode=99", "--soname-synonyms=somalloc=nouserintercepts",
        PLANTED, case, LD_PRELOAD=library,
    )


class Memcheck(unittest.TestCase):
    def test_finds_them(self):
        for case, (what, where) in BUGS.items():
            with self.subTest(case):
                status, text = memcheck(DEBUG, case)
                self.assertEqual(status, 99, text)
                self.assertRegex(text, what)
                self.assertRegex(text, where)
                self.assertRegex(text, r"planted\.c:")

    def test_reports_nothing_that_is_correct(self):
        self.assertEqual(memcheck(DEBUG, "correct"), (0, "end\n"))

    def test_freed_twice(self):
        self.assertRegex(memcheck(DEBUG, "twice")[1], "hakmem: block freed twice: 0x")

    def test_release_announces_nothing(self):
        self.assertEqual(memcheck(RELEASE, "overflow_by_one"), (0, "end\n"))


class Asan(unittest.TestCase):
    def test_finds_them(self):
        for case in BUGS:
            with self.subTest(case):
                status, text = run(ASAN_DEBUG, case, ASAN_OPTIONS="detect_leaks=0")
                self.assertNotEqual(status, 0)
                self.assertRegex(text, "ERROR: AddressSanitizer: use-after-poison")
                self.assertNotIn("end\n", text)

    def test_reports_nothing_that_is_correct(self):
        self.assertEqual(run(ASAN_DEBUG, "correct", ASAN_OPTIONS="detect_leaks=0"), (0, "end\n"))

    def test_freed_twice(self):
        self.assertRegex(
            run(ASAN_DEBUG, "twice", ASAN_OPTIONS="detect_leaks=0")[1],
            "hakmem: block freed twice: 0x",
        )

    def test_release_announces_nothing(self):
        self.assertEqual(
            run(ASAN_RELEASE, "overflow_by_one", ASAN_OPTIONS="detect_leaks=0"), (0, "end\n")
        )


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
