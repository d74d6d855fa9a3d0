"""Everything that is generated and checked in is what its generator makes now.

The pages of docs/ (tools/gen_docs.py), base/size_classes.def and base/size_class_of.def
(tools/gen_size_classes.py, with the arguments that the table's first line names). A page's rows are
also counted against the table that they come from.
"""
import os
import re
import subprocess
import sys
import tempfile
import unittest

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")


def read(*path):
    with open(os.path.join(ROOT, *path)) as f:
        return f.read()


def run(script, *args):
    """The output of a generator."""
    command = [sys.executable, "-B", os.path.join(ROOT, "tools", script)] + list(args)
    return subprocess.run(
        command, check=True, stdout=subprocess.PIPE, universal_newlines=True
    ).stdout


class GeneratedTest(unittest.TestCase):
    maxDiff = None

    def generator_arguments(self):
        match = re.search(
            r"gen_size_classes\.py((?: --[a-z-]+ [0-9]+)*);", read("base", "size_classes.def")
        )
        self.assertTrue(match, "the first line of size_classes.def names the generator")
        return match.group(1).split()

    def test_size_classes(self):
        made = run("gen_size_classes.py", *self.generator_arguments())
        self.assertEqual(
            made, read("base", "size_classes.def"),
            "run tools/gen_size_classes.py > base/size_classes.def",
        )

    def test_class_of_each_request(self):
        made = run("gen_size_classes.py", "--map", *self.generator_arguments())
        self.assertEqual(
            made, read("base", "size_class_of.def"),
            "run tools/gen_size_classes.py --map > base/size_class_of.def",
        )

    def test_pages(self):
        with tempfile.TemporaryDirectory() as out:
            run("gen_docs.py", "--root", ROOT, "--out", out)
            names = sorted(os.listdir(out))
            self.assertEqual(names, ["options.md", "size_classes.md", "stats.md"])
            for name in names:
                with open(os.path.join(out, name)) as f:
                    self.assertEqual(f.read(), read("docs", name), "run tools/gen_docs.py")

    def test_no_row_is_lost(self):
        for page, table, macro in (
            ("options.md", "options.def", "OPTION"),
            ("stats.md", "stats.def", "STAT"),
            ("size_classes.md", "size_classes.def", "SIZE_CLASS"),
        ):
            n_rows = len(re.findall(r"^%s\(" % macro, read("base", table), flags=re.M))
            self.assertGreater(n_rows, 0)
            # Without the two lines of the table's head.
            self.assertEqual(
                len(re.findall(r"^\|", read("docs", page), flags=re.M)) - 2, n_rows, page
            )


if __name__ == "__main__":
    unittest.main()
