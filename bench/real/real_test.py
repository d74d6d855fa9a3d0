"""The driver of the real programs: which allocator serves them, what it prints, and what it does if
a program is missing or fails."""

import json
import os
import re
import subprocess
import sys
import unittest

FOLDER = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, FOLDER)

import box
import works

ALLOCATORS = {
    "glibc": r"/libc\.so\.6$",
    "hakmem": r"/libhakmem\.so(\.0)?$",
    "jemalloc": r"/libjemalloc\.so",
    "mimalloc": r"/libmimalloc\.so",
    "tcmalloc": r"/libtcmalloc_minimal\.so",
}
LINE = re.compile(
    r"Throughput = [0-9.]+ units/s \[work=(\w+) scale=(\d+)\] time=[0-9.]+s\nUsed (\{.*\})\n"
)


def real(allocator, *arguments):
    return subprocess.run(
        [os.path.join(FOLDER, "real_" + allocator), *arguments],
        capture_output=True,
        text=True,
        timeout=200,
    )


class RealTest(unittest.TestCase):
    def test_served_by(self):
        for allocator, pattern in ALLOCATORS.items():
            for work in ([], ["sqlite"], ["redis"]):
                told = dict(
                    line.split(": ")
                    for line in real(allocator, "--whoami", *work).stdout.splitlines()
                )
                self.assertEqual(sorted(told), ["free", "malloc"], (allocator, work))
                for path in told.values():
                    self.assertRegex(path, pattern)

    def test_pdf_without_times(self):
        """However Ghostscript has written the digest."""
        digests = (b"<39975F941282E312F9FBCBBAC570DE5B>", rb"(IU]uq\004Oz\026ia\006sC5\307\302)")
        texts = [
            works.without_times(b"(D:%d)\n/Size 57\n/ID [%s%s]\n>>\nstartxref\n" % (i, text, text))
            for i, text in enumerate(digests)
        ]
        self.assertEqual(texts[0], texts[1])
        self.assertIn(b"/Size 57", texts[0])

    def test_what_it_tells(self):
        for work in ("perl", "redis"):
            for allocator in ("glibc", "hakmem"):
                done = real(allocator, work, "1")
                self.assertEqual((done.returncode, done.stderr), (0, ""))
                told = LINE.fullmatch(done.stdout)
                self.assertTrue(told, done.stdout)
                self.assertEqual(told.groups()[:2], (work, "1"))
                used = json.loads(told.group(3))
                self.assertGreater(used["peak_kib"], 1000)
                self.assertGreater(used["user_s"] + used["system_s"], 0)

    def test_same_output(self):
        for work in ("git", "perl", "python", "python_malloc", "redis", "sqlite"):
            expected = real("glibc", "--output", work, "1")
            self.assertEqual((expected.returncode, expected.stderr), (0, ""), work)
            self.assertGreater(len(expected.stdout), 5)
            self.assertEqual(real("hakmem", "--output", work, "1").stdout, expected.stdout, work)

    def test_a_program_that_fails(self):
        with box.Box(None) as one:
            self.assertRaisesRegex(box.Failure, "exit status 3", one.run, ["sh", "-c", "exit 3"])
            self.assertRaisesRegex(box.Failure, "exit status 127", one.run, ["no-such-program"])
            self.assertRaisesRegex(
                box.Failure, "does not answer", one.server, ["false"], lambda: False
            )
            folder = one.folder
        self.assertFalse(os.path.exists(folder))

    def test_a_program_that_is_missing(self):
        one = works.Work(None, ["sh", "no-such-program"], "package", 1, "")
        self.assertEqual(one.missing(), "no-such-program not installed (Debian's package)")
        self.assertIsNone(works.WORKS["perl"].missing())
        self.assertEqual(real("glibc", "--missing", "perl").returncode, 0)

    def test_usage(self):
        for bad in ([], ["no_such_work"], ["perl", "0"], ["perl", "x"], ["--walk"]):
            done = real("glibc", *bad)
            self.assertEqual((done.returncode, done.stdout), (2, ""), bad)
        done = real("glibc", "--list")
        self.assertEqual([line.split()[0] for line in done.stdout.splitlines()], list(works.WORKS))

    def test_rows_and_page(self):
        with open(os.path.join(FOLDER, "workloads.json"), encoding="utf-8") as file:
            rows = json.load(file)
        self.assertEqual([row["name"] for row in rows], ["real_" + name for name in works.WORKS])
        for row, (name, one) in zip(rows, works.WORKS.items()):
            self.assertEqual(
                (row["binary"], row["args"], row["text"]), ("real", name + " {work}", one.text)
            )
            self.assertEqual(row["work"]["default"], one.scale)
        with open(os.path.join(FOLDER, "README.md"), encoding="utf-8") as file:
            page = file.read()
        for name, one in works.WORKS.items():
            self.assertIn(f"| {name} | {one.package} | {one.text} |\n", page)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
