"""The outputs of real programs under libhakmem.so are those under glibc's malloc, and libhakmem.so
serves them. Names what is not installed; fails if that is every program.

same_output_test.py [LIBRARY]: another variant of it.
"""

import os
import sys
import unittest

FOLDER = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, FOLDER)

import real
from box import Box
from works import WORKS

LIBRARY = os.path.abspath(sys.argv[1]) if sys.argv[1:] else real.default_library("hakmem")

# Of CPython's own tests, those that depend neither on the machine nor on the network; a run each
# line.
PYTHON_TESTS = """
list dict set bytes gc json thread threading array ast asyncgen base64 binascii bisect bool buffer
builtin bz2 class cmath code codecs collections compile complex contextlib copy coroutines csv
ctypes dataclasses datetime
decimal deque difflib enum exceptions extcall float fractions frozen functools generators grammar
hashlib heapq hmac htmlparser int io itertools iter long
lzma marshal math memoryio memoryview mmap opcodes operator ordered_dict pickle pickletools pprint
property queue random re sqlite3 sort statistics str string struct super
syntax textwrap tokenize traceback tuple typing unicodedata userdict weakref xml_etree xml_etree_c
zipfile zlib
"""


def output(library, work, scale):
    with Box(library) as box:
        return WORKS[work].function(box, scale)


class SameOutputTest(unittest.TestCase):
    def check(self, name):
        one = WORKS[name]
        if one.missing():
            self.skipTest(one.missing())
        self.assertEqual(
            real.owners(LIBRARY, name), dict.fromkeys(("free", "malloc"), os.path.realpath(LIBRARY))
        )
        expected = output(None, name, one.scale)
        self.assertTrue(expected.strip())
        self.assertEqual(output(LIBRARY, name, one.scale), expected)

    def test_pythons_own_suite(self):
        """Lists, dictionaries, threads, JSON and more, as CPython tests them."""
        with Box(LIBRARY) as box:
            if "rror" in box.helper(["python3", "-c", "import test.test_json"], check=False):
                self.skipTest("Python's own tests not installed (Debian's libpython3.11-testsuite)")
        for names in PYTHON_TESTS.strip().splitlines():
            suite = ["test_" + name for name in names.split()]
            with self.subTest(names), Box(LIBRARY) as box:
                self.assertIn(
                    "Tests result: SUCCESS",
                    box.run(["python3", "-m", "test", "-q", *suite], PYTHONMALLOC="malloc"),
                )

    def test_enough_is_installed(self):
        self.assertTrue(any(not one.missing() for one in WORKS.values()))


for work_name in WORKS:
    setattr(SameOutputTest, "test_" + work_name, lambda self, name=work_name: self.check(name))

if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
