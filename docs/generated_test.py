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
PARTS = (
    "base limit superslab owner tiny mid_mt ace heap hakmem observe secure stack guard profile "
    "malloc"
).split()


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
            self.assertEqual(
                names, ["locks.md", "options.md", "size_classes.md", "stats.md", "verify.md"]
            )
            for name in names:
                with open(os.path.join(out, name)) as f:
                    self.assertEqual(f.read(), read("docs", name), "run tools/gen_docs.py")

    def test_no_row_is_lost(self):
        for page, table, macro in (
            ("locks.md", "lock_ranks.def", "LOCK_RANK"),
            ("options.md", "options.def", "OPTION"),
            ("stats.md", "stats.def", "(?:STAT|DERIVED)"),
            ("size_classes.md", "size_classes.def", "SIZE_CLASS"),
            ("verify.md", "verify.def", "VERIFY"),
        ):
            n_rows = len(re.findall(r"^%s\(" % macro, read("base", table), flags=re.M))
            self.assertGreater(n_rows, 0)
            # Without the two lines of the table's head.
            self.assertEqual(
                len(re.findall(r"^\|", read("docs", page), flags=re.M)) - 2, n_rows, page
            )


class InternalHeadersTest(unittest.TestCase):
    """A public header, which a consumer may include, includes only public ones; every other header
    begins with base/internal.h."""

    PUBLIC = {
        "base/attributes.h",
        "superslab/superslab.h",
        "ace/ace.h",
        "mid_mt/mid_mt.h",
        "tiny/tiny.h",
        "hakmem/hakmem.h",
        "hakmem/hakmem.hpp",
    }

    def test_headers(self):
        n_internal = 0
        for folder in PARTS:
            path = os.path.join(ROOT, folder)
            names = os.listdir(path) if os.path.isdir(path) else []
            names = [name for name in names if name.endswith((".h", ".hpp"))]
            for path in sorted("%s/%s" % (folder, name) for name in names):
                if path == "base/internal.h":
                    continue
                included = re.findall(r'^#include "(.*)"', read(path), flags=re.M)
                if path in self.PUBLIC:
                    self.assertLessEqual(
                        set(included), self.PUBLIC, "%s includes an internal header" % path
                    )
                else:
                    n_internal += 1
                    self.assertEqual(
                        included[:1], ["base/internal.h"],
                        "%s is internal, and does not say so first" % path,
                    )
        self.assertGreater(n_internal, 20)

    def test_the_parts_say_the_same(self):
        """public_hdrs of the BUILD files."""
        said = set()
        for folder in PARTS:
            path = os.path.join(ROOT, folder, "BUILD.bazel")
            text = read(path) if os.path.exists(path) else ""
            for names in re.findall(r"public_hdrs = \[(.*?)\]", text, flags=re.S):
                said |= {"%s/%s" % (folder, name) for name in re.findall(r'"(.*?)"', names)}
        self.assertEqual(said, self.PUBLIC)


class VerifierCodesTest(unittest.TestCase):
    """Each code of base/verify.def is returned at one place and planted by a test; no verifier
    returns a bare number."""

    def texts(self, ending):
        for folder in PARTS:
            for directory, _, names in os.walk(os.path.join(ROOT, folder)):
                for name in names:
                    if name.endswith(ending):
                        path = os.path.relpath(os.path.join(directory, name), ROOT)
                        yield path, read(path)

    def test_codes_are_unique(self):
        table = read("base", "verify.def")
        codes = [int(code) for code in re.findall(r"^VERIFY\(\w+, (\d+),", table, flags=re.M)]
        self.assertGreater(len(codes), 30)
        self.assertEqual(len(codes), len(set(codes)))
        self.assertNotIn(0, codes)

    def test_each_is_returned_once_and_planted(self):
        sources = dict(self.texts(".c"))
        tests = dict(self.texts("_test.cc"))
        for part in ("slab.c", "pool.c", "bank.c", "range.c", "control.c", "heap.c"):
            self.assertTrue([path for path in sources if path.endswith("/" + part)], part)
        for name in re.findall(r"^VERIFY\((\w+),", read("base", "verify.def"), flags=re.M):
            used = re.compile(r"\bVERIFY_%s\b" % name)
            places = [path for path, text in sources.items() for _ in used.findall(text)]
            self.assertEqual(len(places), 1, "%s is used in %s" % (name, places))
            self.assertTrue(
                [path for path, text in tests.items() if used.search(text)],
                "%s is planted by no test" % name,
            )

    def test_no_bare_numbers(self):
        n = 0
        for path, text in self.texts(".c"):
            if os.path.dirname(path) not in PARTS:
                continue
            # A function: its head at the margin, its body up to the next brace at the margin.
            function = r"^(?:static )?int (\w*verify\w*)\([^;{]*\)\n\{\n(.*?)^\}"
            for match in re.finditer(function, text, flags=re.S | re.M):
                n += 1
                for value in re.findall(r"(?:return|[?:=]) ([1-9][0-9]*);", match.group(2)):
                    self.fail("%s: %s gives %s" % (path, match.group(1), value))
        self.assertGreater(n, 10)


if __name__ == "__main__":
    unittest.main()
