"""The page in headless Chromium, with a mouse: light and dark, 1,280 and 420 pixels wide.

The pictures are test outputs."""

import os
import subprocess
import sys
import tempfile
import unittest

REPORT, PROGRAM = map(os.path.abspath, sys.argv[1:3])
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "testing"))
import browser  # noqa: E402

WIDTHS = (1280, 420)

# Elements whose text does not fit, or that reach over the right edge. Names in the flame graph may
# be longer than their call is wide: a click shows them in full.
CUT_OFF = """[...document.querySelectorAll("body *")].filter((e) => {
    if (e.closest("#flames svg") || ["SCRIPT", "OPTION"].includes(e.tagName)) return false;
    const box = e.getBoundingClientRect();
    return box.width > 0 && (box.right > innerWidth + 0.5 || box.left < -0.5 ||
                             (e.scrollWidth > e.clientWidth + 1 && e.clientWidth > 0 &&
                              e instanceof HTMLElement &&
                              getComputedStyle(e).display !== "inline"));
}).map((e) => e.tagName + " " + e.id + " " + e.textContent.slice(0, 40))"""
FRAMES = "[...document.querySelectorAll('#flames g.frame')]"
FRAME = FRAMES + ".find((g) => g.textContent.includes('%s'))"
ROWS = "[...document.querySelectorAll('#table tbody tr')].map((r) => r.innerText)"


class PageTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = folder.name
        profiles = []
        for requests in ("10", "30"):
            profiles.append(os.path.join(cls.folder, requests))
            subprocess.run([PROGRAM, profiles[-1], requests], check=True)
        cls.pages = {
            name: os.path.join(cls.folder, name + ".html") for name in ("profile", "diff", "back")
        }
        for name, arguments in (
            ("profile", profiles[:1]),
            ("diff", ["--diff", *profiles]),
            ("back", ["--diff", *reversed(profiles)]),
        ):
            subprocess.run([REPORT, "--html", "-o", cls.pages[name], *arguments], check=True)
        cls.browser = browser.Browser()
        cls.addClassCleanup(cls.browser.close)

    def open(self, name, width=1280, theme="light"):
        self.browser.open(self.pages[name], width, fragment="theme=" + theme)
        self.addCleanup(lambda: self.assertEqual(self.browser.complaints, []))

    def text(self, name):
        return self.browser.evaluate(f"document.getElementById('{name}').innerText")

    def test_nothing_is_cut_off(self):
        pictures = os.environ.get("TEST_UNDECLARED_OUTPUTS_DIR", self.folder)
        for name in self.pages:
            for width in WIDTHS:
                for theme in ("light", "dark"):
                    self.open(name, width, theme)
                    self.assertEqual(self.browser.evaluate(CUT_OFF), [], (name, width))
                    self.browser.click("document.getElementById('functions')")
                    self.assertEqual(self.browser.evaluate(CUT_OFF), [], (name, width))
                    self.browser.picture(f"{pictures}/{name}_{width}_{theme}.png")

    def test_themes(self):
        self.open("profile")
        colours = set()
        for _ in range(2):
            colours.add(self.browser.evaluate("getComputedStyle(document.body).backgroundColor"))
            self.browser.click("document.getElementById('theme')")
        self.assertEqual(len(colours), 2)

    def test_it_loads_nothing(self):
        self.open("profile")
        loaded = self.browser.evaluate("performance.getEntriesByType('resource').length")
        self.assertEqual(loaded, 0)

    def test_sentence(self):
        self.open("profile")
        self.assertRegex(
            self.text("verdict"),
            r"cache_insert\(int\) \(self_profile\.cc:\d+\) has 90\.9 % of what is live: "
            r"9\.8 KiB of 10\.7 KiB\.",
        )
        self.open("diff")
        self.assertRegex(self.text("verdict"), r"live: \+21\.5 KiB .*cache_insert.*, \+19\.5 KiB\.")
        self.open("back")
        self.assertIn("No call site grew.", self.text("verdict"))

    def test_a_click_on_a_function_shows_it_alone(self):
        self.open("profile")
        self.assertEqual(self.browser.evaluate(FRAME % "cache_insert" + " !== undefined"), True)
        self.browser.click(FRAME % "make_list" + ".querySelector('rect')")
        self.browser.wait(FRAME % "cache_insert" + " === undefined")
        self.browser.wait(
            FRAME % "make_list" + ".querySelector('rect').getBoundingClientRect().width > 900"
        )
        self.assertRegex(self.text("details"), r"make_list.* self_profile\.cc:\d+ .*1000 B, 9\.1 %")
        self.browser.click("document.getElementById('reset')")
        self.browser.wait(FRAME % "cache_insert" + " !== undefined")

    def test_search_marks_functions(self):
        self.open("profile")
        self.browser.click("document.getElementById('search')")
        self.browser.call("Input.insertText", text="MAKE_list")
        self.browser.wait(
            "document.querySelectorAll('#flames rect[fill=\"var(--found)\"]').length === 1"
        )
        self.assertIn("1000 B in 1 places", self.text("details"))

    def test_the_table_is_sorted_by_a_click(self):
        self.open("profile")
        rows = self.browser.evaluate(ROWS)
        self.assertIn("cache_insert", rows[0])
        heading = "document.querySelectorAll('#table th button')[%d]"
        self.browser.click(heading % 1)
        self.assertEqual(self.browser.evaluate(ROWS), rows[::-1])
        self.browser.click("document.getElementById('functions')")
        rows = self.browser.evaluate(ROWS)
        self.assertRegex(rows[0], r"(?s)^main|serve")
        self.assertIn("100.0 %", rows[0])
        self.browser.click(heading % 0)
        names = [row.split("\n")[0] for row in self.browser.evaluate(ROWS)]
        folded = [name.casefold() for name in names]
        self.assertIn(folded.index("main"), range(len(folded)))
        self.assertEqual(set(names), {row.split("\n")[0] for row in rows})

    def test_a_row_marks_its_function(self):
        self.open("profile")
        self.browser.click("document.querySelector('#table tbody button')")
        self.browser.wait(
            "document.querySelectorAll('#flames rect[fill=\"var(--found)\"]').length === 1"
        )

    def test_another_field(self):
        self.open("profile")
        self.browser.evaluate(
            "(() => { const field = document.getElementById('field'); field.value = '3';"
            " field.dispatchEvent(new Event('change')); })()"
        )
        self.assertIn("of what is allocated", self.text("verdict"))
        self.assertTrue(any("parse_header" in row for row in self.browser.evaluate(ROWS)))

    def test_time_line(self):
        self.open("profile")
        self.assertEqual(self.browser.evaluate("document.querySelectorAll('#line path').length"), 5)
        box = self.browser.evaluate(
            "(() => { document.getElementById('line').scrollIntoView();"
            " const b = document.querySelector('#line svg').getBoundingClientRect();"
            " return [b.x, b.y, b.width, b.height]; })()"
        )
        self.browser.call(
            "Input.dispatchMouseEvent",
            type="mouseMoved",
            x=box[0] + box[2] - 14,
            y=box[1] + box[3] / 2,
        )
        self.browser.wait("document.getElementById('moment').textContent !== ''")
        self.assertEqual(self.text("moment"), "2.0 s: 10.7 KiB live, 109.4 KiB resident")

    def test_difference(self):
        self.open("diff")
        rows = self.browser.evaluate(ROWS)
        self.assertRegex(rows[0], r"(?s)cache_insert.*\+19\.5 KiB.*9\.8 KiB.*29\.3 KiB")
        self.assertIn("--grew", self.browser.evaluate(
            FRAME % "cache_insert" + ".querySelector('rect').getAttribute('fill')"))
        self.open("back")
        self.assertIn("--shrank", self.browser.evaluate(
            FRAME % "cache_insert" + ".querySelector('rect').getAttribute('fill')"))


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
