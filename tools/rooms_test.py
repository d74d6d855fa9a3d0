"""The layout is the architecture: every folder is a room of tools/rooms.bzl, and names only the
rooms that its row allows.

An include and a Bazel label are arrows. Each arrow of the table exists, no other does, and none has
its reverse. The READMEs of the rooms hold the lists that tools/gen_rooms.py makes.
"""

import os
import re
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import gen_rooms
import rooms


class RoomsTest(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        self.table = rooms.table()
        self.arrows = rooms.arrows(self.table)

    def test_each_package_is_a_room(self):
        packages = {
            os.path.dirname(path)
            for path in rooms.source_files(self.table)
            if os.path.basename(path) == "BUILD.bazel"
        }
        self.assertGreater(len(packages), 20)
        for room in sorted(packages):
            self.assertIn(room, self.table, "tools/rooms.bzl has no row for it")
        for room in self.table:
            self.assertTrue(
                os.path.exists(rooms.at(os.path.join(room, "README.md"))),
                room + " has no README.md",
            )

    def test_no_arrow_but_those_of_the_table(self):
        for (room, target), place in sorted(self.arrows.items()):
            self.assertIn(
                target, self.table[room][1], "%s: %s may not name %s" % (place, room, target)
            )

    def test_each_arrow_of_the_table_exists(self):
        for room, (_, targets) in self.table.items():
            for target in targets:
                self.assertIn(
                    (room, target),
                    self.arrows,
                    "%s does not name %s: strike it out" % (room, target),
                )

    def test_no_arrow_has_its_reverse(self):
        order = list(self.table)
        for room, (_, targets) in self.table.items():
            for target in targets:
                self.assertIn(target, self.table, "%s: no such room" % target)
                self.assertLess(
                    order.index(target), order.index(room), "%s stands below %s" % (target, room)
                )
                self.assertNotIn(
                    room, self.table[target][1], "%s and %s name each other" % (room, target)
                )

    def test_a_wrong_arrow_is_found(self):
        """The test itself: an include and a label against the arrows are seen."""
        with tempfile.TemporaryDirectory() as top:
            for path, text in [
                ("low/a.c", '#include "high/b.h"\n'),
                ("high/BUILD.bazel", 'cc_library(\n    deps = ["//low"],\n)\n'),
            ]:
                os.makedirs(os.path.join(top, os.path.dirname(path)), exist_ok=True)
                with open(os.path.join(top, path), "w") as stream:
                    stream.write(text)
            saved, rooms.TOP = rooms.TOP, top
            try:
                found = rooms.arrows({"low": ("", []), "high": ("", ["low"])})
            finally:
                rooms.TOP = saved
            self.assertEqual(
                found, {("low", "high"): "low/a.c:1", ("high", "low"): "high/BUILD.bazel:2"}
            )

    def test_readmes_of_the_library_hold_what_is_generated(self):
        made = [room for room in self.table if gen_rooms.prefixes(room)]
        self.assertGreater(len(made), 8)
        for room in made:
            path = os.path.join(room, "README.md")
            text = rooms.read(path)
            self.assertEqual(
                gen_rooms.renewed(room, text, self.table), text, "run tools/gen_rooms.py: " + path
            )

    def test_readmes_name_files_that_exist(self):
        """`x.c` in a room's README is a file of this repository."""
        n = 0
        names = {os.path.basename(path) for path in rooms.source_files(self.table)}
        for room in self.table:
            text = rooms.read(os.path.join(room, "README.md"))
            for name in re.findall(r"`([\w.]+\.(?:c|h|cc|py|sh|def|map|bzl|pml))`", text):
                n += 1
                self.assertIn(name, names, "%s/README.md names a file that is not there" % room)
        self.assertGreater(n, 100)

    def test_script_runs(self):
        script = os.path.join(rooms.TOP, "tools", "gen_rooms.py")
        result = subprocess.run(
            [sys.executable, "-B", script, "--check"], stdout=subprocess.PIPE, text=True
        )
        self.assertEqual((result.returncode, result.stdout), (0, ""))


if __name__ == "__main__":
    unittest.main()
