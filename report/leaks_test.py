"""docs/profiling.md, docs/leaks.md: each command runs, and prints what the page says, whatever the
numbers are.

In a block `console`, a line that begins with `$ ` is a command. What follows is what it prints:
the lines in this order, `...` for any lines between them. Numbers stand for numbers. The first
call site is also held against what the programs know that they leaked.

leaks_test.py COMMAND REPLAY_PROGRAM PAGE...
"""

import glob
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

COMMAND, REPLAY, *PAGES = map(os.path.abspath, sys.argv[1:])
LEAKS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "leaks")
MOST_OFF = 0.9  # of an estimate from 20 samples: four standard deviations
TRIES = 3  # all of them are as far off only beyond six
MOST_MISSED = 0.01  # of what is counted: a few blocks that something seems to point to


def blocks(text):
    """[(command, [lines])] of all blocks."""
    found = []
    for block in re.findall(r"(?ms)^```console\n(.*?)^```$", text):
        for line in block.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


def pattern(line):
    """A regular expression for a line of the page."""
    words = re.split(r"(\d+(?:\.\d+)?|\./|\.\.\.)", " ".join(line.split()))
    parts = []
    for word in words:
        if re.fullmatch(r"\d+(\.\d+)?", word):
            parts.append(r"\d+(?:\.\d+)?")
        elif word == "./":
            parts.append(r"\S*")
        elif word == "...":
            parts.append(".*")
        else:
            # Units change with the number.
            parts.append(re.sub(r"(Ki|Mi)B", "[KM]iB", re.escape(word)))
    return "".join(parts)


def run(command, folder, env):
    return subprocess.run(
        command,
        shell=True,
        cwd=folder,
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
        text=True,
    )


def off_by(output):
    """By which part the first call site of a profile differs from what the program says that it
    leaked; 0 where there is no such number."""
    found = re.match(r"(?s)(\d+)\n.*? live +share +blocks .*?\n +([\d.]+) MiB ", output)
    if not found:
        return 0
    leaked, seen = int(found.group(1)), float(found.group(2)) * (1 << 20)
    return abs(seen - leaked) / leaked


class PageTest(unittest.TestCase):
    maxDiff = None

    def test_commands(self):
        for page in PAGES:
            with self.subTest(page=page):
                self.run_page(page)

    def run_page(self, page):
        with open(page, encoding="utf-8") as file:
            commands = blocks(file.read())
        self.assertGreater(len(commands), 10)
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        for name in os.listdir(LEAKS):
            shutil.copy(os.path.join(LEAKS, name), folder.name)
        os.mkdir(folder.name + "/bin")
        os.symlink(COMMAND, folder.name + "/bin/hakmem")
        env = dict(os.environ, HAK_REPLAY_PROGRAM=REPLAY)
        # Python and its headers from the same place.
        env["PATH"] = folder.name + "/bin:/usr/bin:" + env["PATH"]
        for command, wanted in commands:
            if "python3" in command and not glob.glob("/usr/include/python3*/Python.h"):
                print("SKIPPED: %s: no Python.h (Debian: python3-dev)" % command)
                continue
            done = run(command, folder.name, env)
            for _ in range(TRIES - 1):
                if off_by(done.stdout) < MOST_OFF:
                    break
                done = run(command, folder.name, env)
            with self.subTest(command=command):
                self.assertEqual(done.returncode, 0, done.stdout)
                self.holds(done.stdout, wanted)
                self.assertLess(off_by(done.stdout), MOST_OFF, done.stdout)
                self.lost(done.stdout)

    def holds(self, output, wanted):
        lines = [" ".join(line.split()) for line in output.splitlines()]
        at = 0
        for line in filter(str.strip, wanted):
            if line == "...":
                continue
            expected = pattern(line)
            found = [i for i in range(at, len(lines)) if re.fullmatch(expected, lines[i])]
            self.assertTrue(found, "not printed: %r\n%s" % (line, output))
            at = found[0] + 1

    def lost(self, output):
        """So much is lost of what the program says, and the first call site begins it."""
        found = re.match(
            r"(?s)(\d+)\nleaks of [^\n]*: ([\d.]+) MiB in .*?\n +lost +blocks +with them +blocks  "
            r"call site\n +([\d.]+) [KM]iB ",
            output,
        )
        if found:
            leaked, seen = int(found.group(1)), float(found.group(2)) * (1 << 20)
            self.assertGreater(seen, leaked * (1 - MOST_MISSED), output)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
