"""The page in a real browser: headless Chromium opens it wide and narrow, light and dark, clicks
what can be clicked, and measures where everything lies. The pictures are test outputs.
"""

import json
import os
import sys
import tempfile
import time
import unittest

import comparison_testing as made_up
from report import html as page

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "testing"))
import browser  # noqa: E402

SMALLEST_PICTURE = 30_000  # bytes; an empty page is a tenth of that
WIDTHS = (1280, 420)
SPEEDS = {
    "hakmem": 1.2e7, "jemalloc": 1e7, "mimalloc": 1.15e7, "tcmalloc": 1.18e7, "tbbmalloc": 4e6,
    "glibc": 6e6, "theirs": 1.19e7, "null": 5e7,
}  # fmt: skip
PEAKS = {"hakmem": 1100, "tcmalloc": 1120, "theirs": 1105, "mimalloc": 1300, "glibc": 1000}

# All that reaches out of the window, or out of its picture, unless it can be scrolled to.
CUT_OFF = """
const found = [], most = document.documentElement.clientWidth;
if (document.documentElement.scrollWidth > most) found.push("the page scrolls sideways");
const top = document.querySelector("dialog[open]") || document.body;
for (const one of top.querySelectorAll("*")) {
  const box = one.getBoundingClientRect();
  if (!box.width || !box.height || one.closest(".scroll *, [aria-hidden]")) continue;
  const name = `${one.tagName} ${one.textContent.slice(0, 30)} ${box.left} ${box.right}`;
  if (box.left < -0.5 || box.right > most + 0.5) found.push(name);
  const card = one.closest(".card, dialog"), frame = card && card.getBoundingClientRect();
  if (frame && (box.left < frame.left - 0.5 || box.right > frame.right + 0.5)) found.push(name);
  if (one.scrollWidth > one.clientWidth + 1 && /hidden|clip/.test(getComputedStyle(one).overflowX))
    found.push(name + " hides");
}
return found;
"""
# Names of dots that lie on a dot or on another name.
COVERED = """
const names = [...document.querySelectorAll("svg text.name")], found = [];
const boxes = names.map((one) => one.getBoundingClientRect());
const dots = [...names[0].closest("svg").querySelectorAll("circle")];
const frame = names[0].closest("svg").getBoundingClientRect();
const meet = (a, b) => a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom;
names.forEach((one, i) => {
  for (const dot of dots)
    if (meet(boxes[i], dot.getBoundingClientRect())) found.push(one.textContent + " on a dot");
  for (let j = 0; j < i; j++)
    if (meet(boxes[i], boxes[j])) found.push(one.textContent + " on " + names[j].textContent);
  if (boxes[i].left < frame.left || boxes[i].right > frame.right) found.push(one.textContent);
});
return [names.length, dots.length, found];
"""
COLUMN = """
const rows = [...document.querySelectorAll("#heat tbody tr")];
return rows.map((row) => row.cells[arguments[0]].dataset.sort);
"""
COLOURS = """
const found = {};
for (const one of document.querySelectorAll(".swatch"))
  (found[one.dataset.of] = found[one.dataset.of] || []).push(getComputedStyle(one).backgroundColor);
return Object.fromEntries(Object.entries(found).map(([name, all]) => [name, [...new Set(all)]]));
"""


def report(n_workloads=30):
    made = made_up.report(
        SPEEDS, names=[f"a_workload_with_a_name_{i}" for i in range(n_workloads)], peaks=PEAKS,
        core=[f"a_workload_with_a_name_{i}" for i in range(15)],
    )
    for i, part in enumerate(made["workloads"]):  # every row another order
        part["scaling"] = "family" if i < 4 else None
        for j, row in enumerate(part["allocators"]):
            if "to_best" in row:
                row["to_best"] = 1 + (i * 7 + j * 5) % 11 / 7
    return made


class ScreenshotTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = folder.name
        cls.path = os.path.join(cls.folder, "page.html")
        with open(cls.path, "w", encoding="utf-8") as file:
            page.write(report(), file)
        cls.browser = browser.Browser()
        cls.addClassCleanup(cls.browser.close)

    def load(self, width=1280, height=900, fragment="theme=light", path=None):
        self.browser.open(path or self.path, width, height, fragment)
        self.assertEqual(self.browser.complaints, [])

    def click(self, selector):
        self.browser.click(f"document.querySelector({json.dumps(selector)})")

    def test_pictures(self):
        pictures = []
        folder = os.environ.get("TEST_UNDECLARED_OUTPUTS_DIR", self.folder)
        for theme in ("light", "dark"):
            for width in WIDTHS:
                self.load(width, fragment="theme=" + theme)
                path = os.path.join(folder, f"{theme}_{width}.png")
                self.browser.picture(path)
                with open(path, "rb") as file:
                    pictures.append(file.read())
        for picture in pictures:
            self.assertEqual(picture[:8], b"\x89PNG\r\n\x1a\n")
            self.assertGreater(len(picture), SMALLEST_PICTURE)
        self.assertEqual(len(set(pictures)), len(pictures))

    def test_nothing_is_cut_off(self):
        for width in WIDTHS:
            self.load(width)
            self.assertEqual(self.browser.run(CUT_OFF), [], width)
            self.click("#heat .open")
            self.assertEqual(self.browser.run(CUT_OFF), [], width)

    def test_no_name_is_covered(self):
        for width in WIDTHS:
            self.load(width)
            self.assertEqual(self.browser.run(COVERED), [7, 7, []], width)

    def test_sorts(self):
        self.load()
        before = self.browser.run(COLUMN, 6)
        for direction, is_reverse in (("ascending", False), ("descending", True)):
            self.click('#heat th[data-allocator="glibc"]')
            self.browser.wait(f"!!document.querySelector('#heat th[aria-sort={direction}]')")
            wanted = sorted(map(float, before), reverse=is_reverse)
            self.wait_for_column(6, wanted)
        self.assertNotEqual(list(map(float, before)), wanted)
        self.browser.run("document.querySelector('#table th:nth-child(3)').focus()")
        self.browser.press("Enter")
        self.browser.wait("!!document.querySelector('#table th:nth-child(3)[aria-sort]')")

    def wait_for_column(self, column, wanted):
        """The library sorts a moment after the click."""
        for _ in range(1200):
            found = list(map(float, self.browser.run(COLUMN, column)))
            if found == wanted:
                return
            time.sleep(0.05)
        self.assertEqual(found, wanted)

    def test_time_and_memory(self):
        self.load()
        time = self.browser.run(COLUMN, 1)
        self.click('button[data-measure="memory"]')
        memory = self.browser.run(COLUMN, 1)
        self.assertEqual(set(map(float, memory)), {1.1})
        self.assertNotEqual(time, memory)
        shown = "return document.querySelector('[aria-pressed=true]').textContent"
        self.assertEqual(self.browser.run(shown), "memory")
        self.click('button[data-measure="time"]')
        self.assertEqual(self.browser.run(COLUMN, 1), time)

    def test_colours_stay(self):
        self.load()
        before = self.browser.run(COLOURS)
        self.assertEqual(len(before), len(SPEEDS))
        self.click('#heat th[data-allocator="glibc"]')
        self.click('button[data-measure="memory"]')
        self.click("#heat .open")
        after = self.browser.run(COLOURS)
        self.assertEqual(before, after)
        every = [colour for found in after.values() for colour in found]
        self.assertEqual(len(every), len(SPEEDS))
        self.assertEqual(len(set(every)), len(SPEEDS))

    def test_opens_a_workload(self):
        self.load()
        self.click("#heat tbody tr:nth-child(3) .open")
        titles = "return [...document.querySelectorAll('dialog h3')].map((x) => x.textContent)"
        self.assertEqual(
            self.browser.run(titles), ["Runs", "Memory over time", "Latency of single calls"]
        )
        name = "return document.querySelector('dialog[open] h2').textContent"
        self.assertEqual(self.browser.run(name), "a_workload_with_a_name_2")
        # A dot for each run of each real allocator; the limit is a dashed line in all three.
        dots = "return document.querySelectorAll('dialog .card:first-child circle').length"
        self.assertEqual(self.browser.run(dots), 12 * (len(SPEEDS) - 1))
        dashed = "return document.querySelectorAll('dialog [stroke-dasharray]').length"
        self.assertEqual(self.browser.run(dashed), 2)  # at the runs it is too far away
        folder = os.environ.get("TEST_UNDECLARED_OUTPUTS_DIR", self.folder)
        self.browser.picture(os.path.join(folder, "workload.png"), is_whole=False)
        fragment = self.browser.run("return location.hash")
        self.browser.press("Escape")
        self.browser.wait("!document.querySelector('dialog[open]')")
        self.assertEqual(self.browser.run("return location.hash"), "")
        self.load(fragment=fragment[1:])  # a link to a workload
        self.assertEqual(self.browser.run(name), "a_workload_with_a_name_2")
        self.click("dialog .close")
        self.browser.wait("!document.querySelector('dialog[open]')")

    def test_theme(self):
        self.load()
        back = "return getComputedStyle(document.body).backgroundColor"
        light = self.browser.run(back)
        self.click("#theme")
        self.assertNotEqual(self.browser.run(back), light)

    def test_print(self):
        self.load(fragment="theme=dark")
        self.browser.call("Emulation.setEmulatedMedia", media="print")
        try:
            found = self.browser.run(
                "return [getComputedStyle(document.body).backgroundColor, "
                "getComputedStyle(document.querySelector('#theme')).display]"
            )
        finally:
            self.browser.call("Emulation.setEmulatedMedia", media="")
        self.assertEqual(found, ["rgb(255, 255, 255)", "none"])
        made = self.browser.pdf()
        self.assertEqual(made[:5], b"%PDF-")
        self.assertLess(made.count(b"/Type /Page\n"), 12)

    def test_draws_little(self):
        """One allocator, one run, no latencies, no memory over time."""
        little = made_up.report({"glibc": 1e6}, rounds=1, names=["one"])
        for row in little["workloads"][0]["allocators"]:
            del row["latency_ns"], row["settled_kib"]
            row["memory"]["kib"] = []
        little["noise"] = None
        path = os.path.join(self.folder, "little.html")
        with open(path, "w", encoding="utf-8") as file:
            page.write(little, file)
        self.load(path=path)
        self.click("#heat .open")
        count = "return document.querySelectorAll('dialog svg').length"
        self.assertEqual(self.browser.run(count), 1)
        self.assertEqual(self.browser.complaints, [])


if __name__ == "__main__":
    unittest.main()
