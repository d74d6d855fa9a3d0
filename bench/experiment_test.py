"""Tests of ab's modules: verdicts, the reading of disassemblies and callgrind's files, the page.
All inputs are made up."""

import copy
import unittest

import comparison_testing as made_up
from comparison import analysis, stats
from experiment import calls, code, judge, page

DISASSEMBLY = """
0000000000001000 <free>:
    1000:\tmov    0x1234(%rip),%rax        # 2238 <x>
    1007:\tcall   2000 <validate>
    100c:\tjne    1000 <free+0x10>
    100e:\tret
    100f:\tnop
0000000000002000 <validate>:
    2000:\tret
    2001:\tnopw   0x0(%rax,%rax,1)
"""

CALLGRIND = """
events: Ir
summary: 1000

ob=/usr/bin/program
fl=???
fn=main
0 100
cob=/some/where/libhakmem.so
cfn=free
calls=10 0
0 600
0 5

ob=/some/where/libhakmem.so
fn=free
0 200
cfn=validate
calls=9 0
0 400

fn=validate
0 300
cfn=validate
calls=2 0
0 50
cob=/lib/libc.so.6
cfn=memset
calls=1 0
0 100
"""


class ExpectationTest(unittest.TestCase):
    def test_ranges(self):
        self.assertEqual(judge.parse_expectation("+12%..+15%"), (0.12, 0.15))
        self.assertEqual(judge.parse_expectation("-2.5%..0%"), (-0.025, 0))
        for text in ("", "12", "12%", "15%..12%", "a%..b%", "+12%..+15", "-200%..0%"):
            with self.assertRaises(ValueError):
                judge.parse_expectation(text)

    def check(self, result, effect, interval, expected, words):
        found = judge.verdict(effect, *interval, expected)
        self.assertEqual(found[0], result, found)
        self.assertIn(words, found[1])

    def test_a_change_was_expected(self):
        gain = (0.12, 0.15)
        self.check("PASS", 0.13, (0.11, 0.16), gain, "lies in the expected range")
        self.check("PARTIAL", 0.05, (0.03, 0.07), gain, "less than expected")
        self.check("PARTIAL", 0.30, (0.25, 0.35), gain, "more than expected")
        self.check(
            "PARTIAL", 0.13, (-0.05, 0.30), gain, "undecided"
        )  # noise: neither shown nor excluded
        self.check("PARTIAL", 0.02, (-0.05, 0.13), gain, "undecided")
        self.check("FAIL", 0.01, (-0.02, 0.04), gain, "excluded")
        self.check("FAIL", -0.10, (-0.12, -0.08), gain, "other way")

    def test_a_loss_was_expected(self):
        loss = (-0.5, -0.2)
        self.check("PASS", -0.38, (-0.55, -0.25), loss, "lies in the expected range")
        self.check("PARTIAL", -0.10, (-0.12, -0.08), loss, "less than expected")
        self.check("PARTIAL", -0.60, (-0.65, -0.55), loss, "more than expected")
        self.check("FAIL", 0.30, (0.25, 0.35), loss, "other way")

    def test_nothing_was_expected(self):
        none = (-0.02, 0.02)
        self.check("PASS", 0.01, (-0.01, 0.03), none, "lies in the expected range")
        self.check("PASS", 0.01, (0.005, 0.015), none, "lies in the expected range")
        self.check("FAIL", 0.10, (0.05, 0.15), none, "is shown")
        self.check("PARTIAL", 0.05, (-0.05, 0.15), none, "undecided")


class CodeTest(unittest.TestCase):
    def test_parse(self):
        found = code.parse(DISASSEMBLY)
        self.assertEqual(
            found,
            {
                "free": ["mov (%rip),%rax", "call <validate>", "jne <free>", "ret"],
                "validate": ["ret"],
            },
        )

    def test_where_it_lies_makes_no_difference(self):
        moved = (
            DISASSEMBLY.replace("0x1234", "0x9876").replace("2238", "abcd").replace("2000", "3000")
        )
        self.assertFalse(code.Differences(code.parse(DISASSEMBLY), code.parse(moved)).any())

    def test_differences(self):
        a = code.parse(DISASSEMBLY)
        b = {"free": a["free"][1:], "other": ["ret"]}
        found = code.Differences(a, b)
        self.assertEqual(
            (found.changed, found.only_a, found.only_b, found.alike),
            (["free"], ["validate"], ["other"], 0),
        )
        text = judge.about_code("x", "y", found)
        for words in ("1 functions differ", "only in `x` (`validate`)", "only in `y` (`other`)"):
            self.assertIn(words, text)
        self.assertIn("same code", judge.about_code("x", "y", code.Differences(a, a)))

    def test_paths(self):
        self.assertEqual(
            judge.about_paths("x", "y", {"free": 25, "malloc": 14}, {"free": 157, "malloc": 14}),
            ["Instructions on the fast paths, `x` against `y`: `free` 25 against 157."],
        )
        self.assertIn("same length", judge.about_paths("x", "y", {"free": 25}, {"free": 25})[0])
        self.assertIn("not stepped", judge.about_paths("x", "y", None, {"free": 25})[0])


class CallsTest(unittest.TestCase):
    def test_parse(self):
        found = calls.parse(CALLGRIND)
        self.assertEqual(found.total, 1000)
        self.assertEqual(sorted(found.functions), ["free", "validate"])  # the library's alone
        self.assertEqual(
            (found.calls("free"), found.own("free"), found.share("free")), (10, 200, 0.6)
        )
        # What it calls of itself is counted once, what it calls in libc too.
        self.assertEqual(
            (found.calls("validate"), found.own("validate"), found.share("validate")),
            (11, 300, 0.4),
        )
        self.assertEqual(found.library_share(), 0.5)
        self.assertEqual((found.calls("main"), found.share("main")), (0, 0))


class ReasonsTest(unittest.TestCase):
    def profile(self, total, **functions):
        made = {}
        for name, (own, n) in functions.items():
            made[name] = calls.Function()
            made[name].own = made[name].inclusive = own
            made[name].calls = n
        return calls.Profile(total, made)

    def test_a_function_that_is_on_the_path(self):
        profiles = self.profile(100), self.profile(200, f=(80, 7))
        text = judge.about_function("f", "x", "y", ({"f": []}, {"f": []}), profiles)
        self.assertIn("under `x` it is there and never called", text)
        self.assertIn("under `y` it is called 7 times and takes, with what it calls, 40.0 %", text)

    def test_a_function_that_the_compiler_dropped(self):
        profiles = self.profile(100), self.profile(100)
        self.assertIn("inlined or dropped", judge.about_function("f", "x", "y", ({}, {}), profiles))
        self.assertIn(
            "under `x` there is no such function",
            judge.about_function("f", "x", "y", ({}, {"f": []}), profiles),
        )
        self.assertIn("not on this workload's path", judge.about_instructions("x", "y", *profiles))
        self.assertIn(
            "+100.0 %", judge.about_instructions("x", "y", profiles[0], self.profile(200))
        )
        self.assertIn(
            "takes +25.0 % for +100.0 %", judge.about_time(profiles[0], self.profile(200), 0.8)
        )

    def test_suspects(self):
        profiles = self.profile(1000, a=(10, 1), b=(500, 1), c=(5, 1)), self.profile(
            1000, a=(60, 1), b=(100, 1), c=(5, 1)
        )
        self.assertEqual(judge.suspects(({}, {}), profiles, ["c", "gone"]), ["c", "b", "a"])
        self.assertEqual(judge.suspects(({}, {}), profiles, [], most=1), ["b"])


def experiment():
    """One with one workload, all made up."""
    runs = {
        name: [made_up.run(speed + i) for i in range(12)]
        for name, speed in (("x", 1e7), ("y", 0.5e7))
    }
    profiles = calls.parse(CALLGRIND), calls.parse(
        CALLGRIND.replace("summary: 1000", "summary: 1500")
    )
    one = {
        "name": "mixed", "text": "a text", "command": "bench_mixed 1", "counted": "bench_mixed 2",
        "a": "x", "b": "y", "expected_text": "-60%..-40%", "result": "PASS", "why": "because",
        "left_out": 1, "runs": 12,
        "pairs": stats.against(
            [run["ops_per_s"] for run in runs["y"]], [run["ops_per_s"] for run in runs["x"]]
        ),
        "profiles": profiles, "code": (code.parse(DISASSEMBLY), {}), "functions": ["free"],
        "reasons": ["a reason."],
        "rows": [analysis.row_of(name, runs[name], runs[name], None) for name in ("x", "y")],
    }  # fmt: skip
    about = {key: made_up.ABOUT[key] for key in ("machine", "noise")}
    return {
        **about,
        "title": "A title",
        "a": "x",
        "b": "y",
        "command": "ab -- x",
        "code_lines": ["code"],
        "workloads": [one],
    }


class PageTest(unittest.TestCase):
    def test_everything_is_there(self):
        text = page.page(experiment())
        for words in (
            "# A title", "| A | `x` |", "Some CPU", "a spread of 1.0 %", "`ab -- x`", "- code",
            "**PASS**: because", "- a reason.", "| mixed | -60%..-40% | -50.0 % (",
            "`y` is slower; so many runs would have seen 0.0 %", "| +50.0 % | PASS |",
            "12 pairs of runs, the first 1 left out as warm-up",
            "| `free` | 4 / none | 10 | 10 | 200 | 200 | 60.0 % | 40.0 % |",
            "| A `x` | 10.00 | ",
        ):  # fmt: skip
            self.assertIn(words, text)
        widths = {}
        for line in text.splitlines():
            if line.startswith("|"):
                widths.setdefault(line.count("|"), []).append(line)
        self.assertTrue(all(len(lines) > 1 for lines in widths.values()))

    def test_without_expectation(self):
        made = copy.deepcopy(experiment())
        made["workloads"][0].update(expected_text=None, result=None, why=None)
        text = page.page(made)
        self.assertNotIn("PASS", text)
        self.assertIn("Measured -50.0 %", text)

    def test_what_people_wrote_is_kept(self):
        old = page.page(experiment()).replace(
            "## Results", "## In words\n\nSome words,\n\nand more.\n\n## Results"
        )
        text = page.page(experiment(), old)
        self.assertEqual(text, old)
        self.assertEqual(text.count("Some words"), 1)
        self.assertNotIn("In words", page.page(experiment()))


if __name__ == "__main__":
    unittest.main()
