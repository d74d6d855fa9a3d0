"""layout.ld does what it says: what small programs run lies within the first 64 KiB of the release
library, what others run in parts of whole pages, what the loader writes lies together, and the
functions that it names exist.

layout_test.py LIBRARY LAYOUT
"""
import re
import subprocess
import sys
import unittest

LIBRARY, LAYOUT = sys.argv[1:3]
BLOCK = 64 << 10
PAGE = 4096


def output(*command):
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def symbols():
    """name -> address, of functions and variables; the first of those that share a name."""
    found = {}
    for line in output("nm", "--defined-only", LIBRARY).splitlines():
        address, _, name = line.split()
        found.setdefault(re.sub(r"\..*", "", name), int(address, 16))
    return found


def parts():
    """(type, address, bytes in memory, alignment) of the program headers."""
    rows = []
    for line in output("readelf", "--wide", "--program-headers", LIBRARY).splitlines():
        row = re.match(r" +([A-Z_]+) +0x\w+ (0x\w+) 0x\w+ 0x\w+ (0x\w+) .* (0x\w+)$", line)
        if row:
            kind, *numbers = row.groups()
            rows.append((kind, *(int(number, 16) for number in numbers)))
    return rows


class Layout(unittest.TestCase):
    def test_usual_functions_lie_in_front(self):
        with open(LAYOUT, encoding="utf-8") as stream:
            usual, with_threads, with_many = (
                re.findall(r"^    \*\(\.text\*?\.(\w+) ", part, re.M)
                for part in re.split(r"/\* with (?:threads|many blocks): \*/", stream.read())
            )
        found = symbols()
        part_of = [found["hak_code_" + part] for part in ("threads", "many", "rest", "end")]
        self.assertTrue(all(address % PAGE == 0 for address in part_of))
        threads, many, rest, end = part_of
        self.assertLess(threads, many)
        self.assertLess(rest, end)
        self.assertLess(many - threads, BLOCK)
        self.assertLess(rest - many, BLOCK)
        hint = "run ./bazelw run //bench:usual_functions; "
        for listed, first, bound in (
            (usual, 0, BLOCK),
            (with_threads, threads, many),
            (with_many, many, rest),
        ):
            self.assertGreater(len(listed), 50)
            gone = [name for name in listed if name not in found]
            elsewhere = [name for name in listed if not first <= found.get(name, first) < bound]
            self.assertLess(len(gone), len(listed) / 10, hint + "gone: %s" % gone)
            # Those that stand last are called by one of the programs.
            self.assertLess(len(elsewhere), len(listed) / 4, hint + "too far: %s" % elsewhere)
        for name in ("malloc", "free", "calloc", "hak_tc_refill", "hak_theap_acquire_first"):
            self.assertIn(name, usual)
            self.assertLess(found[name], BLOCK, name)

    def test_pages_that_are_written_are_few(self):
        found = symbols()
        loaded = [row for row in parts() if row[0] == "LOAD"]
        self.assertEqual(len(loaded), 2, "one mapping that is written, and one that is not")
        self.assertEqual([row[3] for row in loaded], [BLOCK, BLOCK])
        (relro,) = [row for row in parts() if row[0] == "GNU_RELRO"]
        first, last = relro[1] // PAGE, (relro[1] + relro[2] - 1) // PAGE
        self.assertEqual(first, last, "what is read-only once it is relocated is one page")
        large = min(found[name] for name in ("hak_owner_table", "hak_range_records"))
        self.assertLess(found["hak_stats"], large, "small variables stand before large ones")


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]] + sys.argv[3:], verbosity=2)
