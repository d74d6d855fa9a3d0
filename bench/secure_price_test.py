"""Tests of secure_price.py: what is run with which settings, the figures, and the page."""

import contextlib
import io
import os
import stat
import tempfile
import unittest

import secure_price

# Takes the CPU time that the setting and the library's name say, on descriptor 3.
MEASURE = """\
#!/bin/sh
case $2 in
  */release.so) cpu=0.010 peak=1000;;
  *) cpu=0.030 peak=1100; [ "$HAKMEM_SECURE_QUARANTINE" = 0 ] && cpu=0.020
     [ "$HAKMEM_SECURE_GUARDS" = 0 ] && peak=1050;;
esac
echo "$*" >>"$(dirname "$0")/log"
echo "{\\"user_s\\": $cpu, \\"system_s\\": 0, \\"peak_kib\\": $peak}" >&3
"""


class SecurePriceTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        for name in ["measure", "bench_random_mixed", "wl_realloc"]:
            path = os.path.join(self.folder, name)
            with open(path, "w", encoding="utf-8") as file:
                file.write(MEASURE)
            os.chmod(path, os.stat(path).st_mode | stat.S_IXUSR)

    def call(self, *more):
        said = io.StringIO()
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            status = secure_price.main(
                [self.folder, "/x/release.so", "/x/secure.so", "--rounds", "3", *more]
            )
        return status, said.getvalue()

    def test_figures(self):
        status, said = self.call("--only", "random_mixed_256,realloc_byte")
        self.assertEqual(status, 0, said)
        self.assertIn("2 workloads, 3 rounds", said)
        self.assertIn("| nothing | 3.00 (3.00 to 3.00) | 1.10 (1.10 to 1.10) | - |", said)
        self.assertIn("| `HAKMEM_SECURE_QUARANTINE=0` | 2.00 (2.00 to 2.00) | 1.10 ", said)
        self.assertIn("| all four | 2.00 (2.00 to 2.00) | 1.05 (1.05 to 1.05) |", said)
        with open(os.path.join(self.folder, "log"), encoding="utf-8") as file:
            runs = file.read().splitlines()
        self.assertEqual(len(runs), 2 * 3 * (1 + len(secure_price.PARTS)))
        self.assertEqual(sum("256 3" in run for run in runs), 1 + len(secure_price.PARTS), "seed 3")

    def test_page(self):
        page = os.path.join(self.folder, "page.md")
        text = f"a\n{secure_price.BEGIN}\nold\n{secure_price.END}\nb\n"
        with open(page, "w", encoding="utf-8") as file:
            file.write(text)
        self.assertEqual(self.call("--only", "random_mixed_256", "--page", page)[0], 0)
        with open(page, encoding="utf-8") as file:
            lines = file.read().splitlines()
        self.assertEqual([lines[0], lines[-1]], ["a", "b"])
        self.assertNotIn("old", lines)
        self.assertIn("| Left out | CPU time | Peak | What is lost |", lines)

    def test_a_program_that_is_not_there(self):
        status, said = self.call("--only", "sh6")
        self.assertEqual(status, 1)
        self.assertIn("wl_batches is not in", said)


if __name__ == "__main__":
    unittest.main()
