"""What a consumer links defines hak_*, the malloc family and C++'s operators, and nothing else.

usage: names_test.py ARCHIVE...

Reads the symbol table of each archive (and of the intermediate code, under LTO). A name of ours is
public, that is declared in a public header, or hak_PREFIX_... with a prefix that the room's
BUILD.bazel states; so are inline functions in headers.
"""

import os
import re
import subprocess
import sys
import unittest

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
sys.path.insert(0, os.path.join(TOP, "tools"))
import gen_rooms
import rooms

PUBLIC_HEADERS = [
    "hakmem/hakmem.h",
    "superslab/superslab.h",
    "mid_mt/mid_mt.h",
    "tiny/tiny.h",
    "ace/ace.h",
]
MALLOC_FAMILY = """malloc calloc realloc free cfree reallocarray aligned_alloc memalign
    posix_memalign valloc pvalloc malloc_usable_size malloc_trim malloc_stats malloc_info mallinfo
    mallinfo2 mallopt free_sized free_aligned_sized""".split()
# C++'s operators new, new[], delete and delete[].
OPERATOR = re.compile(r"_Z(n[wa]|d[la])[A-Z]?\w*$")
# glibc's second names of the malloc family, for static programs.
LIBC_NAME = re.compile(r"__libc_(%s)$" % "|".join(MALLOC_FAMILY))
# What the C++ compiler writes into every object that catches, alike in all programs.
COMPILERS = {"DW.ref.__gxx_personality_v0"}
ARCHIVES = []


def public_names():
    found = set()
    for path in PUBLIC_HEADERS:
        found |= set(re.findall(r"\b(hak_\w+)\s*\(", rooms.read(path)))
    return found


def symbols(archive):
    """Names that the archive defines and other objects can see."""
    command = ["gcc-nm", "--defined-only", "--extern-only", archive]
    text = subprocess.run(
        command, check=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ).stdout
    return {
        line.split()[-1]
        for line in text.splitlines()
        if len(line.split()) >= 2 and not line.endswith(":")
    }


def complaint(name, room, public):
    """What is wrong with a name that a room defines; empty if nothing is."""
    if name in COMPILERS or name in public:
        return ""
    if room == "malloc" and (
        name in MALLOC_FAMILY or OPERATOR.match(name) or LIBC_NAME.match(name)
    ):
        return ""
    if not name.startswith("hak_"):
        return "may collide with a program's own name"
    if not any(
        name.startswith("hak_" + prefix) or name == "hak_" + prefix.rstrip("_")
        for prefix in gen_rooms.prefixes(room)
    ):
        return "has no prefix that %s/BUILD.bazel states" % room
    return ""


class NamesTest(unittest.TestCase):
    def test_archives(self):
        table, public, seen, wrong = rooms.table(), public_names(), set(), []
        for archive in ARCHIVES:
            room = rooms.room_of(archive, table)
            self.assertIsNotNone(room, archive)
            for name in symbols(archive):
                seen.add(name)
                if complaint(name, room, public):
                    wrong.append("%s in %s %s" % (name, archive, complaint(name, room, public)))
        self.assertEqual(wrong, [])
        self.assertGreater(len(seen), 30, "hardly a symbol was read")

    def test_what_headers_define_has_the_prefix_too(self):
        table, wrong, n = rooms.table(), [], 0
        for room in table:
            if not gen_rooms.prefixes(room):
                continue
            for path in rooms.source_files({room: None}):
                if path.endswith(".h"):
                    for name in re.findall(
                        r"^static (?:inline|HAK_\w+)\b[\w \*]*?[ \*](\w+)\(", rooms.read(path), re.M
                    ):
                        n += 1
                        if complaint(name, room, set()):
                            wrong.append("%s: %s %s" % (path, name, complaint(name, room, set())))
        self.assertEqual(wrong, [])
        self.assertGreater(n, 20)

    def test_a_bad_name_is_found(self):
        public = {"hak_malloc"}
        for name in ["options", "request", "hak_nobody", "malloc", "_Znwm", "__libc_malloc"]:
            self.assertNotEqual(complaint(name, "superslab", public), "", name)
        for name in ["hak_malloc", "hak_map_get"]:
            self.assertEqual(complaint(name, "superslab", public), "", name)


if __name__ == "__main__":
    ARCHIVES = sys.argv[1:]
    unittest.main(argv=sys.argv[:1])
