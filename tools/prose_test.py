"""prose.py finds lines that are too long, and words that are banned, in prose and nowhere else."""

import unittest

import prose

ROWS = prose.read_words("# a comment\n\nsomebody\tname who\nbut for\texcept for\n")
LONG = "x " * 60


def found(name, text):
    return [(line, word) for line, word, _ in prose.words(name, text, ROWS)]


class WordsTest(unittest.TestCase):
    def test_comments_of_c(self):
        text = 'int x; // somebody\n/* but\n   for */\nchar *s = "somebody /* but for */";\n'
        self.assertEqual(found("bench/x.c", text), [(1, "somebody"), (2, "but for")])

    def test_neighbouring_comment_lines_are_one_text(self):
        self.assertEqual(found("bench/x.c", "// all but\n// for one\n"), [(1, "but for")])
        self.assertEqual(found("bench/x.py", "# all but\n# for one\n"), [(1, "but for")])
        self.assertEqual(found("bench/x.sh", "# all but\n# for one\n"), [(1, "but for")])

    def test_python(self):
        text = '"""Somebody."""\nx = "somebody"\n\n\n'
        text += 'def f():\n    """but for"""\n    g("but for")\n'
        self.assertEqual(found("bench/x.py", text), [(1, "Somebody"), (6, "but for")])

    def test_markdown(self):
        text = "somebody\n\n    somebody\n\n`somebody` but\nfor\n\n| a | somebody |\n"
        self.assertEqual(found("x.md", text), [(1, "somebody"), (5, "but for"), (8, "somebody")])

    def test_tables(self):
        text = '/* but for */\nROW(a, "all but "\n       "for", "b")\nROW(somebody, "c")\n'
        self.assertEqual(found("bench/x.def", text), [(1, "but for"), (2, "but for")])
        self.assertEqual(found("x.json", '{"text": "somebody", "x": "but for"}'), [(1, "somebody")])

    def test_parts_of_words_are_no_words(self):
        self.assertEqual(found("x.md", "Butfor, somebodys.\n"), [])

    def test_the_list(self):
        rows = prose.default_words()
        self.assertGreater(len(rows), 10)
        for pattern, advice in rows:
            self.assertTrue(advice, pattern.pattern)
        texts = ["gave every page\nback", "Told.", "the user heap", "seldom", "heaps of their own"]
        for text in texts:
            self.assertEqual(len(prose.words("x.md", text, rows)), 1, text)
        for text in ("not told apart", "clang-tidy", "unfolded", "dearth", "give it"):
            self.assertEqual(prose.words("x.md", text, rows), [], text)


class ColumnsTest(unittest.TestCase):
    def test_lines(self):
        text = "y" * 100 + "\n" + LONG + "\n"
        for name in ("x.c", "x.py", "x.bzl", "BUILD.bazel", "x.sh", "x/y.md", "tools/presubmit"):
            self.assertEqual(prose.columns(name, text), [2], name)

    def test_rows_of_tables_and_links(self):
        self.assertEqual(prose.columns("x.md", "| " + LONG + "|"), [])
        self.assertEqual(prose.columns("x.c", "| " + LONG + "|"), [1])
        self.assertEqual(prose.columns("x.md", "see [page](" + "y" * 100 + ")"), [])
        self.assertEqual(prose.columns("x.c", "// https://" + "y" * 100), [])
        self.assertEqual(prose.columns("x.md", "see [page](y) " + LONG), [1])
        self.assertEqual(prose.columns("x.def", "ROW(" + LONG), [])


class FilesTest(unittest.TestCase):
    def test_what_is_checked(self):
        for name in ("README.md", "bench/x.c", "tools/presubmit", "base/options.def", "bazelw"):
            self.assertTrue(prose.is_checked(name), name)
        for name in ("docs/results.md", "docs/stats.md", "x.svg", "base/size_classes.def"):
            self.assertFalse(prose.is_checked(name), name)


if __name__ == "__main__":
    unittest.main()
