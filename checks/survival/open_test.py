"""libhakmem.so opened by a process that is running: its static thread-local storage is small, and
hak_* works beside libc's malloc.

open_test.py OPEN_HAKMEM_PROGRAM LIBRARY...
"""
import os
import re
import subprocess
import sys
import unittest

PROGRAM, *LIBRARIES = (os.path.abspath(path) for path in sys.argv[1:])
# glibc keeps 512 bytes for the static thread-local storage of all libraries that are opened later
# (rtld.optional_static_tls). Samplers (profile, guard, stack) have 80 of ours.
MOST_BYTES = 216
# Debug builds keep the locks that a thread holds there, and what it does under each.
MOST_BYTES_DEBUG = 272


class Open(unittest.TestCase):
    def test_static_tls_is_small(self):
        for library in LIBRARIES:
            with self.subTest(library):
                text = subprocess.run(
                    ["readelf", "-lW", library], stdout=subprocess.PIPE, text=True, check=True
                ).stdout
                size = int(
                    re.search(r"^ +TLS( +0x[0-9a-f]+){4} +(0x[0-9a-f]+)", text, re.M).group(2), 16
                )
                counts = "/debug/" in library or "/tiny/" in library
                self.assertLessEqual(size, MOST_BYTES_DEBUG if counts else MOST_BYTES)

    def test_opened_by_a_running_process(self):
        for library in LIBRARIES:
            with self.subTest(library):
                done = subprocess.run(
                    [PROGRAM, library],
                    env={},
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    text=True,
                    timeout=100,
                )
                self.assertEqual((done.returncode, done.stdout), (0, "survived\n"))


if __name__ == "__main__":
    assert LIBRARIES
    unittest.main(argv=sys.argv[:1], verbosity=2)
