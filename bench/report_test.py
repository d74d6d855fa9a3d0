"""Tests of the HTML page: self-contained, well-formed, its data whole; and, with node, that its
script draws everything."""

import html.parser
import io
import json
import os
import re
import shutil
import subprocess
import tempfile
import unittest

import comparison_testing as made_up
from report import html as page

VOID = {"meta", "link", "img", "br", "hr", "input"}
# Enough of a document for page.js to run in: it keeps what is drawn, and counts it by name.
DOCUMENT = """
const counts = {}, texts = [];
class Node {
  constructor(name) {
    this.name = name; this.children = []; this.attributes = {}; this.dataset = {};
    this.listeners = {};
    counts[name] = (counts[name] || 0) + 1;
  }
  setAttribute(key, value) {
    if (/NaN|undefined|Infinity/.test(String(value)))
      throw new Error(`${this.name} ${key}=${value}`);
    this.attributes[key] = value;
  }
  getAttribute(key) { return this.attributes[key] === undefined ? null : this.attributes[key]; }
  removeAttribute(key) { delete this.attributes[key]; }
  append(...nodes) {
    for (const node of nodes) {
      if (typeof node === "string") texts.push(node);
      this.children.push(node);
    }
  }
  replaceChildren(...nodes) { this.children = nodes; }
  addEventListener(kind, f) { this.listeners[kind] = f; }
}
const byId = { data: { textContent: require("fs").readFileSync(process.argv[2], "utf8") },
  main: new Node("main"), theme: new Node("button") };
const tables = [];
global.document = { getElementById: (id) => byId[id], documentElement: new Node("html"),
  createElement: (name) => {
    const made = new Node(name);
    if (name === "tbody") tables.push(made);
    if (name === "th") (global.heads = global.heads || []).push(made);
    return made;
  },
  createElementNS: (space, name) => new Node(name),
  createDocumentFragment: () => new Node("fragment") };
global.location = { hash: "" };
require("vm").runInThisContext(require("fs").readFileSync(process.argv[3], "utf8"));
const column = (i) => tables[0].children.map((row) => row.children[i].children[0]);
const before = column(1);
const head = heads.filter((one) => one.children[0] === "allocator").pop();
head.listeners.click();
const sorted = column(1);
byId.theme.listeners.click();
const state = document.documentElement.dataset;
const { theme, drawn } = state;
console.log(JSON.stringify({ counts, texts, before, sorted, theme, drawn }));
"""


class Reader(html.parser.HTMLParser):
    """Checks that elements are closed in order, and keeps attributes and scripts."""

    def __init__(self):
        super().__init__()
        self.open, self.attributes, self.scripts, self.problems, self.ids = [], [], {}, [], []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append((tag, dict(attrs)))
        self.attributes += [(tag, name, value) for name, value in attrs]
        self.ids += [value for name, value in attrs if name == "id"]

    def handle_endtag(self, tag):
        if not self.open or self.open.pop()[0] != tag:
            self.problems.append(tag)

    def handle_data(self, data):
        if self.open and self.open[-1][0] == "script":
            kind = self.open[-1][1].get("type", "script")
            self.scripts[kind] = self.scripts.get(kind, "") + data


def read(report):
    file = io.StringIO()
    page.write(report, file)
    reader = Reader()
    reader.feed(file.getvalue())
    reader.close()
    return file.getvalue(), reader


class PageTest(unittest.TestCase):
    def test_well_formed(self):
        _, reader = read(made_up.report())
        self.assertEqual((reader.open, reader.problems), ([], []))
        self.assertEqual(sorted(reader.ids), ["data", "main", "theme", "verdict"])

    def test_loads_nothing(self):
        text, reader = read(made_up.report())
        self.assertEqual(
            [one for one in reader.attributes if one[1] in ("src", "href", "srcset", "action")], []
        )
        self.assertEqual(re.findall(r"@import|url\(|fetch\(|XMLHttpRequest|import\(", text), [])
        self.assertEqual(
            set(re.findall(r"https?://[^\s\"']+", text)), {"http://www.w3.org/2000/svg"}
        )

    def test_data(self):
        report = made_up.report()
        _, reader = read(report)
        found = json.loads(reader.scripts["application/json"])
        self.assertEqual(
            found["machine"], report["machine"]
        )  # with "</script>" in the compiler's name
        self.assertEqual(len(found["workloads"][0]["allocators"][0]["values"]), 12)

    def test_light_and_dark(self):
        style = page.read("page.css")
        self.assertIn('[data-theme="dark"]', style)
        self.assertIn("prefers-color-scheme", page.read("page.js"))


class ScriptTest(unittest.TestCase):
    def run_script(self, report):
        node = shutil.which("node")
        if not node and "NO_SKIP" not in os.environ:
            self.skipTest("SKIPPED: node is not installed (Debian: nodejs)")
        self.assertTrue(node, "node is not installed (Debian: nodejs)")
        with tempfile.TemporaryDirectory() as folder:
            paths = [os.path.join(folder, name) for name in ("document.js", "data.json")]
            for path, text in zip(paths, (DOCUMENT, page.data(report))):
                with open(path, "w", encoding="utf-8") as file:
                    file.write(text)
            script = os.path.join(page.FOLDER, "page.js")
            done = subprocess.run([node, *paths, script], capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stderr)
            return json.loads(done.stdout)

    def test_draws_everything(self):
        found = self.run_script(made_up.report())
        self.assertEqual(found["drawn"], "yes")
        # Scatter, two bar charts, one family of scaling, memory of two, latency of two.
        self.assertEqual(found["counts"]["svg"], 8)
        for title in (
            "Overview", "Workloads", "Scaling", "Memory over time", "Latency of single calls",
            "Table",
        ):
            self.assertIn(title, found["texts"])
        self.assertEqual(found["sorted"], sorted(found["before"]))
        self.assertNotEqual(found["sorted"], found["before"])
        self.assertEqual(found["theme"], "dark")

    def test_draws_little(self):
        report = made_up.report({"glibc": 1e6}, rounds=1, names=["one"])
        for row in report["workloads"][0]["allocators"]:
            del row["latency_ns"], row["settled_kib"]
            row["memory"]["kib"] = []
        report["noise"] = None
        self.assertEqual(self.run_script(report)["counts"]["svg"], 2)


if __name__ == "__main__":
    unittest.main()
