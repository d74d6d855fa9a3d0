"""`hakmem leaks`: what it says, and its exit statuses, however the program ends.

leaks_command_test.py COMMAND LOST_PROGRAM LIBRARY...
"""

import os
import re
import signal
import subprocess
import sys
import tempfile
import unittest

COMMAND, PROGRAM, *LIBRARIES = map(os.path.abspath, sys.argv[1:])
PROGRAM = os.path.realpath(PROGRAM)  # as the kernel names it
BLOCKS, MISSED = 30, 3  # something may seem to point to a few of them


class LeaksTest(unittest.TestCase):
    maxDiff = None

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = os.path.realpath(folder.name)
        self.temporary = os.path.join(self.folder, "tmp")
        os.mkdir(self.temporary)

    def execute(self, *command, library=LIBRARIES[0], **environment):
        env = dict(os.environ, HAKMEM_LIBRARY=library, TMPDIR=self.temporary, **environment)
        return subprocess.run(
            command,
            cwd=self.folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            check=False,
            text=True,
        )

    def leaks(self, *arguments, **how):
        done = self.execute(COMMAND, "leaks", *arguments, **how)
        self.assertEqual(os.listdir(self.temporary), [], "it leaves nothing behind")
        return done

    def write(self, name, text):
        path = os.path.join(self.folder, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        return path

    def read(self, name):
        with open(os.path.join(self.folder, name), encoding="utf-8") as file:
            return file.read()

    def says_some(self, text, when="at exit"):
        """The report of mode `some`."""
        head = re.match(r"leaks of %s, pid \d+, (.*): \S+ KiB in (\d+) blocks\n" % PROGRAM, text)
        self.assertTrue(head, text)
        self.assertEqual(head.group(1), when)
        self.assertLessEqual(int(head.group(2)), 2 * BLOCKS)
        self.assertGreaterEqual(int(head.group(2)), 2 * (BLOCKS - MISSED))
        self.assertRegex(text, r"(?m)^ +\S+ KiB +\d+ +\S+ K?i?B +\d+  lose_some lost\.c:\d+$")
        self.assertRegex(
            text,
            r"(?m)^    lose_some .*\n    lose .*\n    main .*\n"
            r"  and .* to which only these lead:\n    .*: lose_inner lost\.c:\d+$",
        )

    def test_in_each_variant(self):
        for library in LIBRARIES:
            with self.subTest(library=library):
                done = self.leaks(PROGRAM, "some", library=library)
                self.assertEqual(done.returncode, 23, done.stderr)
                self.says_some(done.stderr)
                self.assertEqual(done.stdout, "")
                done = self.leaks(PROGRAM, "none", library=library)
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assertRegex(done.stderr, r"^no leaks of %s, pid \d+, at exit\n$" % PROGRAM)

    def test_statuses(self):
        for arguments, status, line in (
            ((PROGRAM, "status", "0"), 23, None),
            ((PROGRAM, "status", "5"), 5, None),
            ((PROGRAM, "status", "23"), 23, "hakmem: 23 is the program's own exit status"),
            ((PROGRAM, "status", "125"), 125, "hakmem: 125 is the program's own exit status"),
            (("--exit-status", "5", PROGRAM, "some"), 5, None),
            (("--exit-status", "0", PROGRAM, "some"), 0, None),
            (
                ("--exit-status=5", PROGRAM, "status", "5"),
                5,
                "hakmem: 5 is the program's own exit status",
            ),
            ((PROGRAM, "quick_exit"), 23, None),
            (("--", PROGRAM, "none"), 0, None),
        ):
            with self.subTest(arguments=arguments):
                done = self.leaks(*arguments)
                self.assertEqual(done.returncode, status, done.stderr)
                own = [l for l in done.stderr.splitlines() if "own exit status" in l]
                self.assertEqual(own, [line] if line else [])
                if "none" not in arguments:
                    self.says_some(done.stderr)

    def test_without_a_report(self):
        for arguments, status in (((PROGRAM, "_exit"), 125), ((PROGRAM, "kill", "9"), 137)):
            done = self.leaks(*arguments)
            self.assertEqual(done.returncode, status)
            self.assertIn("the program left no report", done.stderr)

    def test_signals_that_end_it(self):
        for number in (signal.SIGTERM, signal.SIGINT):
            done = self.leaks(PROGRAM, "kill", str(int(number)))
            self.assertEqual(done.returncode, 128 + number, done.stderr)
            self.says_some(done.stderr, "by signal")
        # The program's own handler is what happens.
        done = self.leaks(PROGRAM, "handled")
        self.assertEqual(done.returncode, 7)

    def test_files(self):
        done = self.leaks("-o", "a b", PROGRAM, "some")
        self.assertEqual((done.returncode, done.stderr), (23, "hakmem: a b\n"))
        self.says_some(self.read("a b"))
        done = self.leaks("-o", "-", PROGRAM, "some")
        self.assertEqual(done.stderr, "")
        self.says_some(done.stdout)
        done = self.leaks("--raw", "-o", "raw", PROGRAM, "some")
        self.assertEqual((done.returncode, done.stderr), (23, "hakmem: raw\n"))
        done = self.execute(COMMAND, "report", "raw")
        self.assertEqual(done.returncode, 3, done.stderr)
        self.says_some(done.stdout)
        done = self.execute(COMMAND, "report", "--folded", "raw")
        self.assertEqual(done.returncode, 0)
        self.assertRegex(done.stdout, r"^main;lose;lose_some \d+\n$")
        done = self.execute(COMMAND, "diff", "raw", "raw")
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_suppressions(self):
        known = self.write("known", "# all of it\nleak:lose_some\nleak:nothing_of_that\n")
        done = self.leaks("--suppressions", known, PROGRAM, "some")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(
            done.stderr,
            r"^no leaks of .*\nsuppressed: \S+ KiB in \d+ blocks, 1 stack, by leak:lose_some\n$",
        )
        known = self.write("known", "leak:another\n")
        done = self.leaks("--suppressions", known, PROGRAM, "some")
        self.assertEqual(done.returncode, 23)
        self.says_some(done.stderr)
        known = self.write("known", "lose_some\n")
        done = self.leaks("--suppressions", known, PROGRAM, "some")
        self.assertEqual(done.returncode, 125)
        self.assertIn("known: line 1: not `leak:PATTERN`", done.stderr)

    def test_bad_usage(self):
        for arguments in (
            (),
            ("--exit-status", "256", PROGRAM),
            ("--exit-status", "x", PROGRAM),
            ("--rows", "0", PROGRAM),
            ("--raw", PROGRAM),
            ("-o", "", PROGRAM),
            ("--suppressions", "none", PROGRAM),
        ):
            done = self.leaks(*arguments)
            self.assertEqual(done.returncode, 2, arguments)
            self.assertIn("hakmem: leaks: ", done.stderr)
        self.assertEqual(self.leaks("./no_such_program").returncode, 127)

    def test_children(self):
        done = self.leaks(PROGRAM, "fork")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stderr, "^no leaks of .*\nhakmem: 1 other process ran: ")
        done = self.leaks("--children", "-o", "all", PROGRAM, "fork")
        self.assertEqual(done.returncode, 23, done.stderr)
        (child,) = [name for name in os.listdir(self.folder) if name.startswith("all.")]
        self.says_some(self.read(child))
        self.assertTrue(self.read("all").startswith("no leaks of "))

    def test_the_option_alone(self):
        library = LIBRARIES[0]
        for variables in ({}, {"HAKMEM_LEAKS": "raw"}):
            done = self.execute(PROGRAM, "ask", LD_PRELOAD=library, **variables)
            error, size = map(int, done.stdout.split())
            if variables:
                self.assertEqual(error, 0)
                self.assertLessEqual(size, BLOCKS * 1050)
                self.assertGreaterEqual(size, (BLOCKS - MISSED) * 1050)
            else:
                self.assertEqual(error, 22)  # EINVAL
        (name,) = [name for name in os.listdir(self.folder) if name.startswith("raw")]
        self.assertRegex(name, r"^raw\.\d+\.1$")
        self.assertTrue(self.read(name).startswith("hakmem-profile 1\n"))
        done = self.execute(
            PROGRAM, "some", LD_PRELOAD=library, HAKMEM_LEAKS=self.folder + "/no/where"
        )
        self.assertEqual(done.returncode, 0)
        self.assertRegex(
            done.stderr, r"^hakmem: leaks not written to .*/no/where\.\d+\.1: errno 2\n"
        )

    def test_signals_while_it_runs(self):
        done = self.execute(
            PROGRAM,
            "signals",
            LD_PRELOAD=LIBRARIES[0],
            HAKMEM_LEAKS="raw.%n",
            HAKMEM_LEAKS_SIGNAL=str(int(signal.SIGUSR2)),
        )
        self.assertEqual((done.returncode, done.stdout), (0, "it goes on\n"))
        # One that is made while another is being made is refused, and says so.
        for line in done.stderr.splitlines():
            self.assertRegex(line, r"^hakmem: leaks not written to raw\.\d+: errno 16$")
        made = [name for name in os.listdir(self.folder) if name.startswith("raw.")]
        self.assertGreaterEqual(len(made), 2)
        for name in made:
            done = self.execute(COMMAND, "report", name)
            self.assertEqual(done.returncode, 3, name)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
