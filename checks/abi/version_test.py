"""The version is stated in hakmem/hakmem.h; whatever else names it says the same.

version_test.py HAKMEM_COMMAND LIBRARY

What is installed (hakmem.pc, CMake's files, packages, manual pages) is looked at by //install's
tests.
"""

import ctypes
import os
import re
import subprocess
import sys
import unittest

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
sys.path.insert(0, os.path.join(TOP, "tools"))
import public_header  # noqa: E402

COMMAND, LIBRARY = (os.path.abspath(path) for path in sys.argv[1:3])
VERSION = public_header.version(public_header.read(TOP))


def read(name):
    with open(os.path.join(TOP, name), encoding="utf-8") as stream:
        return stream.read()


class VersionTest(unittest.TestCase):
    def test_command(self):
        for argument in ("version", "--version", "-V"):
            said = subprocess.check_output([COMMAND, argument], text=True)
            self.assertEqual("hakmem %s\n" % VERSION, said)

    def test_library(self):
        version = ctypes.CDLL(LIBRARY).hak_version
        version.restype = ctypes.c_char_p
        self.assertEqual(VERSION, version().decode())

    def test_sonames(self):
        recorder = os.path.join(TOP, "trace", "libhakmem_record.so")
        for path, stem in ((LIBRARY, "libhakmem"), (recorder, "libhakmem_record")):
            said = subprocess.check_output(["readelf", "-d", path], text=True)
            name = "%s.so.%s" % (stem, VERSION.split(".")[0])
            self.assertIn("Library soname: [%s]" % name, said)

    def test_module(self):
        said = re.findall(r'(?m)^    version = "(.*)",$', read("MODULE.bazel"))
        self.assertEqual([VERSION], said)

    def test_changelog(self):
        """The first entry is this version's."""
        self.assertEqual(VERSION, re.findall(r"(?m)^## ([\d.]+)", read("CHANGELOG.md"))[0])


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
