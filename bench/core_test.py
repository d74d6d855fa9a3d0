"""The core set: it predicts the recorded results of all workloads, and the search finds what is
there to be found."""

import contextlib
import io
import os
import tempfile
import unittest

import choose_core
import comparison_testing as made_up
from comparison import core, table

# What is allowed of the tagged set, by docs/results.md: a newly recorded page may cost a little.
MOST_ERROR = 0.03  # of a geometric mean of any allocator
MOST_ABOVE_BEST = 1.15  # its score over that of the best set that the search finds


def recorded():
    with open(choose_core.RESULTS, encoding="utf-8") as file:
        return core.recorded(file.read())


def tagged():
    return [one for one in table.load().values() if core.TAG in one.tags]


class TaggedSetTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.whole = core.Whole(recorded())
        cls.names = [one.name for one in tagged()]

    def test_is_recorded(self):
        self.assertEqual(len(self.names), core.SIZE)
        self.assertLessEqual(set(self.names), set(self.whole.names))
        self.assertGreater(len(self.whole.names), 3 * core.SIZE)
        self.assertGreaterEqual(len(self.whole.allocators), 6)
        self.assertFalse(any(one.is_driver for one in tagged()))

    def test_predicts_the_whole(self):
        off, what = self.whole.worst(self.names)
        self.assertLess(off, MOST_ERROR, what)

    def test_is_near_the_best(self):
        best = self.whole.score(self.whole.choose(starts=2))
        self.assertLess(self.whole.score(self.names), best * MOST_ABOVE_BEST)

    def test_chance_finds_none_as_good(self):
        self.assertLess(self.whole.score(self.names), self.whole.random_scores(core.SIZE)[0])

    def test_what_is_written_about_it(self):
        """bench/README.md states how far the set is off."""
        with open(os.path.join(made_up.FOLDER, "README.md"), encoding="utf-8") as file:
            text = " ".join(file.read().split())
        off, what = self.whole.worst(self.names)
        self.assertIn(f"off by {self.whole.error(self.names):.1%}, at most by {off:.1%}", text)
        self.assertIn(f"({what})", text)


class SearchTest(unittest.TestCase):
    def rows(self, **kinds):
        """Workloads of kinds: {kind: ((time of b over a's), how many)}."""
        return {
            f"{kind}{i}": {"hakmem": (1.0, 10), "glibc": (ratio * 1.001**i, 10)}
            for kind, (ratio, n) in kinds.items()
            for i in range(n)
        }

    def test_takes_of_each_kind(self):
        whole = core.Whole(self.rows(slow=(4, 10), fast=(0.5, 10), equal=(1, 10)))
        names = whole.choose(size=3)
        self.assertEqual(sorted(name[:4] for name in names), ["equa", "fast", "slow"])
        self.assertLess(whole.error(names), 0.01)

    def test_all_is_exact(self):
        whole = core.Whole(self.rows(slow=(4, 3), fast=(0.5, 2)))
        self.assertAlmostEqual(whole.score(whole.names), 0)

    def test_reads_tables(self):
        text = "| glibc | 1 | x | 9.9 | 9 |\n## one\n\n"
        text += "| allocator | median | i | to best | peak |\n"
        text += "| hakmem | 5 | 4-6 | 1.000 | 2.5 |\n| null | 9 | 8-9 | limit | 1.0 |\n"
        text += "| glibc | 4 | 3-5 | 1.250 | 0.0 |\n"
        found = core.recorded(text)
        self.assertEqual(found, {"one": {"hakmem": (1.0, 2.5), "glibc": (1.25, core.LEAST_MIB)}})

    def test_a_workload_that_an_allocator_lacks_is_left_out(self):
        rows = self.rows(slow=(4, 3))
        del rows["slow1"]["glibc"]
        self.assertEqual(core.Whole(rows).names, ["slow0", "slow2"])


class ToolTest(unittest.TestCase):
    def run_tool(self, *arguments):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = choose_core.main(list(arguments))
        return status, out.getvalue(), err.getvalue()

    def test_prints_all(self):
        status, out, err = self.run_tool()
        self.assertEqual((status, err), (0, ""))
        for word in ("chosen: ", "tagged: ", "drawn at random", "chosen without glibc is off by"):
            self.assertIn(word, out)
        names = ", ".join(one.name for one in tagged())
        self.assertIn(f"tagged: {names}\n", out)

    def test_bad_arguments(self):
        with tempfile.NamedTemporaryFile("w", suffix=".md") as file:
            for arguments in (["a", "b"], ["--help"], ["no/such/file"], ["."], [file.name]):
                status, out, err = self.run_tool(*arguments)
                self.assertEqual((status, out), (2, ""), arguments)
                self.assertIn("usage: choose_core", err)


if __name__ == "__main__":
    unittest.main()
