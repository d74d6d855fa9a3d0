"""Runs every case of programs that are made with cases.h; each must survive.

run_cases_test.py LIBRARY PLUGIN brief|full PROGRAM... LIBRARY is preloaded; `-`: the programs have
hakmem linked in. PLUGIN is a library that they may open.
"""
import os
import subprocess
import sys
import unittest

LIBRARY, PLUGIN, LENGTH = sys.argv[1:4]
PROGRAMS = [os.path.abspath(path) for path in sys.argv[4:]]
ENVIRONMENT = {
    "PATH": "/usr/bin:/bin",
    "SURVIVAL_PLUGIN": os.path.abspath(PLUGIN),
    "HAKMEM_VERBOSE": "1",
}
if LENGTH == "full":
    ENVIRONMENT["SURVIVAL_FULL"] = "1"
if LIBRARY != "-":
    ENVIRONMENT["LD_PRELOAD"] = os.path.abspath(LIBRARY)


def case_test(program, case):
    def run(self):
        done = subprocess.run(
            [program, case],
            env=ENVIRONMENT,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            timeout=600,
        )
        self.assertEqual(
            (done.returncode, done.stdout.split("\n")[-2:]), (0, ["survived", ""]), done
        )
        # Whenever the first allocation was, the options are in force.
        self.assertRegex(done.stderr, r"^hakmem: active pid=\d+ version=\d.* verbose=1\n")

    return run


def main():
    cases = type("Cases", (unittest.TestCase,), {})
    for program in PROGRAMS:
        names = subprocess.run(
            [program], stdout=subprocess.PIPE, text=True, check=True
        ).stdout.split()
        assert names, program
        for case in names:
            setattr(
                cases, "test_%s_%s" % (os.path.basename(program), case), case_test(program, case)
            )
    suite = unittest.defaultTestLoader.loadTestsFromTestCase(cases)
    return 0 if unittest.TextTestRunner(verbosity=2).run(suite).wasSuccessful() else 1


if __name__ == "__main__":
    sys.exit(main())
