"""A program that hardly allocates gains only so much resident memory under libhakmem.so, compared
with glibc's malloc.

memory_test.py LIBRARY PEAK_MEMORY_PROGRAM FEW_BLOCKS_PROGRAM

Measured with the release library, medians of nine, gain in KiB of the peak (anonymous): true 156
to 212 (28), ten blocks of ten sizes 344 to 364 (110), sleep 212 to 372 (84), python3 612 to 700
(290). 64 KiB of the peak are
the library's own file (layout.ld), which is clean and shared by all processes. That is with a file
in the page cache as the linker has written it: of one that was copied, the kernel may have larger
pieces, and maps 128 KiB for 64. Where the loader has put libc changes the peak by up to 100 KiB,
because the kernel maps 64 KiB of it around each page, too. On a busy machine, with all of the file
in larger pieces: true 264 to 352, ten blocks 596 to 696, sleep 408 to 524, python3 664 to 688.
"""
import os
import statistics
import subprocess
import sys
import unittest

LIBRARY, PEAK_MEMORY, FEW_BLOCKS = (os.path.abspath(a) for a in sys.argv[1:4])
RUNS = 9
# Of the peak, with both of these on top, and of what of it is anonymous.
MOST_KIB = {
    "true": (384, 64),
    "few_blocks": (768, 192),
    "sleep": (640, 160),
    "python3": (832, 384),
}


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
        most_peak, most_anonymous = MOST_KIB[os.path.basename(command[0])]
        self.assertLess(peak, most_peak)
        self.assertLess(anonymous, most_anonymous)
        return without[0]

    def test_true(self):
        self.assertLess(self.gains_little(["/bin/true"]), 4096)

    def test_a_program_that_never_allocates_has_no_heap(self):
        environment = {"LD_PRELOAD": LIBRARY, "HAKMEM_SHOW_STATS": "1"}
        for command, heaps in (["/bin/true"], 0), ([FEW_BLOCKS], 1):
            done = subprocess.run(
                command, env=environment, stderr=subprocess.PIPE, text=True, check=True
            )
            self.assertIn("hakmem: heaps = %d heaps" % heaps, done.stderr, command)

    def test_few_blocks(self):
        self.gains_little([FEW_BLOCKS])

    def test_idle(self):
        self.gains_little(["/bin/sleep", "0.01"])

    def test_python(self):
        self.gains_little(["/usr/bin/python3", "-c", "pass"])


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]] + sys.argv[4:], verbosity=2)
