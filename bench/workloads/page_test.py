"""README.md is what gen_page.py makes now; workloads.json describes the programs that there are."""

import glob
import json
import os
import re
import unittest

import gen_page

FOLDER = os.path.dirname(os.path.abspath(__file__))
KEYS = {"name", "binary", "threads", "unit", "args", "work", "text", "tags"}


def programs():
    return {os.path.basename(path)[:-2] for path in glob.glob(os.path.join(FOLDER, "wl_*.c"))}


class PageTest(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        with open(os.path.join(FOLDER, "workloads.json"), encoding="utf-8") as file:
            self.rows = json.load(file)

    def test_page(self):
        with open(os.path.join(FOLDER, "README.md"), encoding="utf-8") as file:
            self.assertEqual(
                file.read(), gen_page.page(),
                "run bench/workloads/gen_page.py > bench/workloads/README.md",
            )

    def test_heads(self):
        for program in programs():
            head = gen_page.comment(os.path.join(FOLDER, program + ".c"))
            self.assertTrue(re.match(rf"{program} [^:]*: \S", head[0]), head[0])
            self.assertTrue(any(line.startswith("Stresses: ") for line in head), program)
            self.assertIn("An operation is ", " ".join(head), program)

    def test_rows(self):
        names = [row["name"] for row in self.rows]
        self.assertEqual(len(names), len(set(names)))
        for row in self.rows:
            self.assertEqual(set(row), KEYS, row["name"])
            self.assertTrue(re.fullmatch(r"[a-z0-9_]+", row["name"]), row["name"])
            self.assertEqual(row["args"].count("{work}"), 1, row["name"])
            self.assertEqual(list(row["work"]), ["quick", "default", "full"], row["name"])
            amounts = list(row["work"].values())
            self.assertEqual(amounts, sorted(amounts), row["name"])
            self.assertGreaterEqual(row["threads"], 1)
            self.assertNotIn("|", row["text"])

    def test_every_program_is_used(self):
        self.assertEqual({row["binary"] for row in self.rows}, programs())


if __name__ == "__main__":
    unittest.main()
