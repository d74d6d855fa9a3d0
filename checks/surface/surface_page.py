"""docs/malloc_surface.md: what each call of the malloc surface does under hakmem and under glibc.

surface_page.py --check|--update PROGRAM VARIANT=LIBRARY...

Runs the table of cases under glibc and under each library. --check: under each library every case
does what it should, and the page is what the release library and glibc give now. --update writes
the page.
"""

import os
import subprocess
import sys
import unittest
import xml.etree.ElementTree

PROGRAM = ""
LIBRARIES = {}
PAGE = os.path.join("docs", "malloc_surface.md")
GLIBC = "2.36"

MADE = "./bazelw run //checks/surface:update from checks/surface/malloc_surface.cc"
HEAD = f"""<!-- Made by {MADE}; do not edit. -->

# The malloc surface

What each call does at the edges of its rules: the same program, run under hakmem and under glibc
%s with libstdc++ 12. If a standard leaves a choice, hakmem does as glibc does, because that is what
programs were tested on. `-` in the last column: the same. `//checks/surface:surface_test` runs
every case under each variant.

| Call | Rule | hakmem | glibc |
|---|---|---|---|
"""

TAIL = """
Where the two differ:

"""


def rows(library):
    """(call, rule, should, did, why hakmem differs) of each case."""
    environment = dict(os.environ)
    environment.pop("LD_PRELOAD", None)
    if library:
        environment["LD_PRELOAD"] = library
    result = subprocess.run(
        [PROGRAM], check=True, stdout=subprocess.PIPE, text=True, env=environment
    )
    return [line.split("\t") for line in result.stdout.splitlines()]


def page():
    out = HEAD % GLIBC
    differ = ""
    for (call, rule, _, ours, why), (_, _, _, theirs, _) in zip(
        rows(LIBRARIES["release"]), rows(None)
    ):
        out += "| `%s` | %s | %s | %s |\n" % (call, rule, ours, "-" if ours == theirs else theirs)
        if ours != theirs:
            differ += "- `%s`: %s\n" % (call, why)
    return out + TAIL + differ


def libc():
    return os.confstr("CS_GNU_LIBC_VERSION") or ""


class SurfaceTest(unittest.TestCase):
    maxDiff = None

    def test_every_case_does_what_it_should(self):
        self.assertGreater(len(LIBRARIES), 1)
        for variant, library in LIBRARIES.items():
            for call, _, should, did, _ in rows(library):
                with self.subTest(variant=variant, call=call):
                    self.assertEqual(should, did)

    def test_the_program_can_tell_allocators_apart(self):
        self.assertNotEqual(
            [row[3] for row in rows(None)], [row[3] for row in rows(LIBRARIES["release"])]
        )

    def test_each_difference_has_its_reason(self):
        for (call, _, _, ours, why), (_, _, _, theirs, _) in zip(
            rows(LIBRARIES["release"]), rows(None)
        ):
            if ours != theirs:
                self.assertTrue(why, call)

    def test_the_page_is_up_to_date(self):
        if libc() != "glibc " + GLIBC:
            self.skipTest("the page tells of glibc %s, this is %s" % (GLIBC, libc()))
        with open(PAGE) as stream:
            self.assertEqual(page(), stream.read(), "run ./bazelw run //checks/surface:update")

    def test_malloc_info_is_well_formed(self):
        for variant, library in LIBRARIES.items():
            with self.subTest(variant=variant):
                text = subprocess.run(
                    [PROGRAM, "--info"],
                    check=True,
                    stdout=subprocess.PIPE,
                    text=True,
                    env={"LD_PRELOAD": library},
                ).stdout
                root = xml.etree.ElementTree.fromstring(text)
                self.assertEqual("malloc", root.tag)
                free = sum(int(size.get("count")) for size in root.findall("heap/sizes/size"))
                total = sum(
                    int(each.get("count"))
                    for each in root.findall("total")
                    if each.get("type") != "mmap"
                )
                self.assertEqual(free, total)
                mapped = [each for each in root.findall("total") if each.get("type") == "mmap"][0]
                self.assertEqual("1", mapped.get("count"))
                self.assertGreaterEqual(int(mapped.get("size")), 64 << 20)


if __name__ == "__main__":
    mode, PROGRAM = sys.argv[1], os.path.abspath(sys.argv[2])
    LIBRARIES = {
        name: os.path.abspath(path)
        for name, _, path in (argument.partition("=") for argument in sys.argv[3:])
    }
    if mode == "--update":
        text = page()
        os.chdir(os.environ["BUILD_WORKSPACE_DIRECTORY"])
        with open(PAGE, "w") as stream:
            stream.write(text)
    else:
        unittest.main(argv=sys.argv[:1])
