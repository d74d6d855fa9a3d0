"""ab from end to end: real variants and programs, little work. No time is judged; all else is."""

import contextlib
import io
import os
import shutil
import tempfile
import unittest

import ab
from experiment import variants

FOLDER = os.path.dirname(os.path.abspath(__file__))
TWO = ["--a", "release", "--b", "release_validated"]
SHORT = ["--bin-dir", FOLDER, "--runs", "6", "--work", "20000", "--seed", "1"]


def run(*arguments):
    """Exit status, standard output, standard error."""
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        status = ab.main(list(arguments))
    return status, out.getvalue(), err.getvalue()


class AbTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def test_validation(self):
        out = os.path.join(self.folder, "page.md")
        names = ["--function", "hak_validate_free", "--function", "no_such_function"]
        status, text, err = run(
            *TWO, "--bench", "random_mixed", "--expect=-99%..+900%", *names, *SHORT, "--out", out
        )
        self.assertEqual(status, 0, err)
        with open(out, encoding="utf-8") as file:
            self.assertEqual(file.read() + "\n", text)
        self.assertIn("## random_mixed_256", text)
        self.assertRegex(text, r"only in `release_validated` \([^)]*`hak_validate_free`")
        self.assertRegex(text, r"`tiny_free` \d+ against \d{2,}")
        self.assertRegex(
            text,
            r"`hak_validate_free`: under `release` there is no such function .* "
            r"it is called [\d,]+ times",
        )
        self.assertIn("`no_such_function` is a function of neither library", text)
        self.assertRegex(
            text, r"under `release_validated`: \+\d+\.\d %\."
        )  # more instructions, whatever the time

    def test_the_expectation_decides_the_exit_status(self):
        # No change makes hakmem a thousand times as fast, and no noise that wide an interval.
        status, text, _ = run(*TWO, "--bench", "mid_mt_gap_1", "--expect=+99900%..+199900%", *SHORT)
        self.assertEqual(status, ab.FAILED_EXPECTATION)
        self.assertIn("**FAIL**", text)

    def test_the_same_on_both_sides(self):
        copy = os.path.join(self.folder, "libhakmem.so")
        shutil.copy(
            os.path.join(os.path.dirname(FOLDER), "preload", "release", "libhakmem.so"), copy
        )
        for other in ("release", copy):
            status, text, err = run(
                "--a", "release", "--b", other, "--bench", "random_mixed", *SHORT
            )
            self.assertEqual((status, text), (1, ""))
            self.assertIn("byte for byte", err)

    def test_a_library_that_is_not_what_it_is_called(self):
        folder = os.path.join(self.folder, "preload", "debug")
        os.makedirs(folder)
        shutil.copy(
            os.path.join(os.path.dirname(FOLDER), "preload", "release", "libhakmem.so"), folder
        )
        with self.assertRaisesRegex(variants.Refused, "says that it is release"):
            variants.Side("debug", self.folder)
        with self.assertRaisesRegex(variants.Refused, "is not there"):
            variants.Side("tiny", self.folder)

    def test_another_allocator(self):
        """On either side: refused in a sentence that says what to do instead."""
        foreign = os.path.join(FOLDER, "null", "libnull.so")
        for sides in ((foreign, "release"), ("release", foreign)):
            status, text, err = run(
                "--a", sides[0], "--b", sides[1], "--bench", "random_mixed", *SHORT
            )
            self.assertEqual((status, text), (1, ""))
            self.assertIn("libnull.so is no libhakmem.so: ", err)
            self.assertIn("//bench:compare -- --allocator hakmem --allocator NAME=", err)
            self.assertEqual(len(err.splitlines()), 1)

    def test_bad_arguments(self):
        for arguments in (
            [],
            [*TWO, "--bench", "nonsense"],
            [*TWO, "--bench", "random_mixed", "--expect", "12"],
            [*TWO, "--bench", "random_mixed", "--expect", "0%..1%", "--expect", "0%..1%"],
            [*TWO, "--bench", "random_mixed", "--runs", "5"],
            [*TWO, "--bench", "random_mixed", "--work", "0"],
            [*TWO, "--bench", "random_mixed", "--name", "a/b"],
        ):
            status, out, err = run(*arguments)
            self.assertEqual((status, out), (2, ""), arguments)
            self.assertIn("usage: ab", err)


if __name__ == "__main__":
    unittest.main()
