"""A program that hardly allocates gains only so much resident memory under libhakmem.so, compared
with glibc's malloc.

memory_test.py LIBRARY PEAK_MEMORY_PROGRAM

Measured with the release library, medians of nine, gain in KiB of the peak (anonymous): true 560
(72), sleep 480 (112), python3 640 (330). About 330 KiB of the peak are the library's own file, of
which the kernel maps 64 KiB around each page that is touched; they are clean, and shared by all
processes. The page tables and other pages that are mapped in this way change the peak by up to 100
KiB from run to run.
"""
import os
import statistics
import subprocess
import sys
import unittest

LIBRARY, PEAK_MEMORY = (os.path.abspath(a) for a in sys.argv[1:3])
RUNS = 9
MOST_PEAK_KIB = 832
MOST_ANONYMOUS_KIB = 384


def used(command, preload):
    """(peak, anonymous) in KiB, medians."""
    environment = {"PATH": "/usr/bin:/bin"}
    if preload:
        environment["PRELOAD"] = LIBRARY
    rows = []
    for _ in range(RUNS):
        done = subprocess.run(
            [PEAK_MEMORY, *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        rows.append([int(n) for n in done.stdout.split()])
    return tuple(statistics.median(column) for column in zip(*rows))


class Memory(unittest.TestCase):
    def gains_little(self, command):
        without, under = used(command, False), used(command, True)
        peak, anonymous = under[0] - without[0], under[1] - without[1]
        print(
            "%s: peak %d -> %d KiB (+%d), anonymous %d -> %d KiB (+%d)"
            % (command[0], without[0], under[0], peak, without[1], under[1], anonymous),
            file=sys.stderr,
        )
        # A library that is loaded has pages: no gain at all means that something else was measured.
        self.assertGreater(peak, 0)
        self.assertLess(peak, MOST_PEAK_KIB)
        self.assertLess(anonymous, MOST_ANONYMOUS_KIB)
        return without[0]

    def test_true(self):
        self.assertLess(self.gains_little(["/bin/true"]), 4096)

    def test_idle(self):
        self.gains_little(["/bin/sleep", "0.01"])

    def test_python(self):
        self.gains_little(["/usr/bin/python3", "-c", "pass"])


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]] + sys.argv[3:], verbosity=2)
