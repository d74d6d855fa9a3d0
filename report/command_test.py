"""`hakmem profile`, `report` and `diff`, with a program that writes its profile itself."""

import glob
import os
import signal
import subprocess
import sys
import tempfile
import unittest

COMMAND, PROGRAM, EMPTY = map(os.path.abspath, sys.argv[1:4])


class CommandTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = os.path.realpath(folder.name)
        self.temporary = os.path.join(self.folder, "tmp")
        os.mkdir(self.temporary)

    def run_command(self, *arguments, **environment):
        env = dict(os.environ, HAKMEM_LIBRARY=EMPTY, TMPDIR=self.temporary, **environment)
        env.pop("HAKMEM_PROFILE", None)
        done = subprocess.run(
            [COMMAND, *arguments],
            cwd=self.folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            check=False,
            text=True,
        )
        self.assertEqual(os.listdir(self.temporary), [], "it leaves nothing behind")
        return done

    def read(self, name):
        with open(os.path.join(self.folder, name), "rb") as file:
            return file.read()

    def raw(self, name, requests):
        path = os.path.join(self.folder, name)
        subprocess.run([PROGRAM, path, requests], check=True)
        return path

    def test_profile_formats(self):
        for option, name, begin in (
            ((), "self_profile.html", b"<!DOCTYPE html>"),
            (("--html",), "self_profile.html", b"<!DOCTYPE html>"),
            (("--pprof",), "self_profile.pb.gz", b"\x1f\x8b"),
            (("--folded",), "self_profile.folded", b"main;"),
            (("--heap",), "self_profile.heap", b"heap profile: "),
            (("--raw",), "self_profile.profile", b"hakmem-profile 1\n"),
            (("-o", "a b"), "a b", b"<!DOCTYPE html>"),
            (("--raw", "-o", "r"), "r", b"hakmem-profile 1\n"),
        ):
            done = self.run_command("profile", *option, PROGRAM)
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertEqual(done.stderr, "hakmem: %s\n" % name)
            self.assertTrue(self.read(name).startswith(begin), name)
            os.unlink(os.path.join(self.folder, name))

    def test_profile_as_text(self):
        done = self.run_command("profile", "--text", "--rows", "1", PROGRAM)
        self.assertEqual((done.returncode, done.stdout), (0, ""))
        self.assertRegex(done.stderr, r"(?s)^heap profile of .*cache_insert")
        self.assertIn("more call sites", done.stderr)
        done = self.run_command("profile", "--folded", "-o", "-", "--by", "live_objects", PROGRAM)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertRegex(done.stdout, r"cache_insert\(int\) 10\n")

    def test_a_file_of_errors_is_kept(self):
        path = os.path.join(self.folder, "errors")
        env = dict(os.environ, HAKMEM_LIBRARY=EMPTY, TMPDIR=self.temporary)
        with open(path, "w", encoding="utf-8") as file:
            file.write("before\n")
            file.flush()
            script = 'echo during >&2; exec "$0"'
            subprocess.run(
                [COMMAND, "profile", "--text", "sh", "-c", script, PROGRAM],
                check=True,
                env=env,
                stderr=file,
            )
        self.assertRegex(self.read("errors").decode(), r"^before\nduring\nheap profile of ")

    def test_options_reach_the_library(self):
        script = 'echo $HAKMEM_PROFILE_PERIOD,$HAKMEM_PROFILE_INTERVAL >&2; exec "$0"'
        arguments = ("--period", "4096", "--interval", "9", "sh", "-c", script, PROGRAM)
        done = self.run_command("profile", "-o", "x", *arguments)
        self.assertEqual((done.returncode, done.stderr), (0, "4096,9\nhakmem: x\n"))

    def test_exit_status_is_the_programs(self):
        for script, status in (("exit 3", 3), ("kill -9 $$", 128 + signal.SIGKILL)):
            done = self.run_command("profile", "sh", "-c", "%s; %s" % (PROGRAM, script))
            self.assertEqual(done.returncode, status)
        done = self.run_command("profile", "true")
        self.assertEqual(done.returncode, 125)
        self.assertIn("hakmem: profile: the program left no profile", done.stderr)
        done = self.run_command("profile", "no-such-program")
        self.assertEqual(done.returncode, 127)
        self.assertNotIn("left no profile", done.stderr)

    def test_children(self):
        script = 'HAKMEM_PROFILE=$HAKMEM_PROFILE.1 "$0"; exec "$0"'
        arguments = ("--folded", "-o", "x", "sh", "-c", script, PROGRAM)
        done = self.run_command("profile", *arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("1 other process ran: --children keeps their profiles too", done.stderr)
        self.assertEqual(glob.glob(self.folder + "/x*"), [self.folder + "/x"])
        done = self.run_command("profile", "--children", *arguments)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(len(glob.glob(self.folder + "/x.*")), 1)
        self.assertEqual(self.read("x"), self.read(glob.glob(self.folder + "/x.*")[0]))

    def test_report_and_diff(self):
        small, large = self.raw("small one", "10"), self.raw("large", "30")
        done = self.run_command("report", small)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertIn("10.7 KiB live", done.stdout)
        done = self.run_command("diff", "small one", "large")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertIn("+19.5 KiB", done.stdout)
        done = self.run_command("diff", "--html", "-o", "page", small, large)
        self.assertEqual((done.returncode, done.stdout, done.stderr), (0, "", ""))
        self.assertTrue(self.read("page").startswith(b"<!DOCTYPE html>"))

    def test_refusals(self):
        for arguments, status, line in (
            (("profile",), 2, "hakmem: profile: needs a program"),
            (("profile", "--period", "x", "true"), 2, "--period"),
            (("profile", "-o", "", "true"), 2, "hakmem: profile: '-o' needs a file"),
            (("report",), 2, "hakmem: report: needs one profile"),
            (("report", "a", "b"), 2, "hakmem: report: needs one profile"),
            (("diff", "a"), 2, "hakmem: diff: needs two profiles"),
            (("report", "/no/such"), 1, "/no/such: No such file or directory"),
        ):
            done = self.run_command(*arguments)
            self.assertEqual(done.returncode, status, done.stderr)
            self.assertIn(line, done.stderr)
        for arguments in (("report", "x"), ("profile", PROGRAM)):
            done = self.run_command(*arguments, HAK_REPORT_PROGRAM="/no/such")
            self.assertEqual(done.returncode, 125)
            self.assertIn("HAK_REPORT_PROGRAM names no file: '/no/such'", done.stderr)
        os.rmdir(self.temporary)
        os.mkdir(self.temporary)
        done = self.run_command("profile", "-o", "/no/such/page", PROGRAM)
        self.assertEqual(done.returncode, 125)
        self.assertIn("/no/such/page: No such file or directory", done.stderr)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
