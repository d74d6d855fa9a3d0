"""Tests of the HTML page's text: self-contained, well-formed, its data whole, its libraries those
that are described. screenshot_test opens it in a browser."""

import hashlib
import html.parser
import io
import json
import os
import re
import unittest

import comparison_testing as made_up
from report import html as page

VOID = {"meta", "link", "img", "br", "hr", "input"}


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
        self.assertEqual(re.findall(r"@import|url\([^#]|fetch\(|XMLHttpRequest|import\(", text), [])
        script = text.replace(page.read("vendor/charts.js"), "")
        self.assertEqual(
            set(re.findall(r"https?://[^\s\"']+", script)), {"http://www.w3.org/2000/svg"}
        )
        bundle = page.read("vendor/charts.js").split("*/", 1)[1]  # after the licences
        names = set(re.findall(r"https?://[^\s\"'`]+", bundle))
        self.assertEqual({name for name in names if "//www.w3.org/" not in name}, set())

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


class LibrariesTest(unittest.TestCase):
    """The bundle of libraries is the one that vendor/charts.json describes, licences and all."""

    def setUp(self):
        with open(os.path.join(page.FOLDER, "vendor", "charts.json"), encoding="utf-8") as file:
            self.about = json.load(file)
        self.bundle = page.read("vendor/charts.js")

    def test_checksum(self):
        raw = self.bundle.encode()
        self.assertEqual(hashlib.sha256(raw).hexdigest(), self.about["sha256"])
        self.assertEqual(len(raw), self.about["bytes"])

    def test_licences(self):
        head = self.bundle[: self.bundle.index("*/")]
        for name, one in self.about["packages"].items():
            self.assertIn(f"{name} {one['version']}", head)
            self.assertIn(one["license"], ("BSD-3-Clause", "ISC", "MIT", "Unlicense"), name)
        self.assertIn("Permission to use, copy, modify", head)

    def test_versions_are_those_that_are_asked_for(self):
        wanted = json.loads(page.read("vendor/package.json"))["dependencies"]
        locked = json.loads(page.read("vendor/package-lock.json"))["packages"]
        for name, version in wanted.items():
            self.assertEqual(self.about["packages"][name]["version"], version)
        for name, one in self.about["packages"].items():
            self.assertEqual(locked["node_modules/" + name]["version"], one["version"])
            self.assertRegex(locked["node_modules/" + name]["integrity"], "^sha512-")

    def test_can_stand_in_a_page(self):
        self.assertNotIn("</script", self.bundle.lower())
        self.assertNotIn("<!--", self.bundle)


if __name__ == "__main__":
    unittest.main()
