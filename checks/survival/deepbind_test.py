"""What docs/preloading.md says of RTLD_DEEPBIND: a process with such a library dies under a
preloaded malloc as soon as a block crosses, and does not with HAKMEM_LD_SAFE=2.

deepbind_test.py PROGRAM DEEP_LIBRARY LIBRARY...
"""
import os
import signal
import subprocess
import sys
import unittest

PROGRAM, DEEP, *LIBRARIES = [os.path.abspath(path) for path in sys.argv[1:]]


def run(case, library, **environment):
    return subprocess.run(
        [PROGRAM, DEEP, case],
        env={"PATH": "/usr/bin:/bin", "LD_PRELOAD": library, **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        timeout=60,
    )


class Deepbind(unittest.TestCase):
    def test_way_out(self):
        for library in LIBRARIES:
            for case in ("out", "in", "string"):
                with self.subTest(library=library, case=case):
                    done = run(case, library, HAKMEM_LD_SAFE="2")
                    self.assertEqual((done.returncode, done.stdout), (0, "survived\n"), done)

    def test_without_it(self):
        for library in LIBRARIES:
            if "/secure/" in library:
                continue  # libc may look before a block, where nothing may be touched
            for case, text in (
                ("out", "hakmem: invalid pointer "),
                ("in", "realloc(): invalid "),  # pointer, or what lies before it as a size
                ("string", "invalid pointer"),
            ):
                with self.subTest(library=library, case=case):
                    done = run(case, library)
                    self.assertEqual((done.returncode, done.stdout), (-signal.SIGABRT, ""), done)
                    self.assertIn(text, done.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
