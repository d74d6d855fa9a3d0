"""The `hakmem` command: runs programs under the library, passes arguments and exit status on, and
names what is wrong.

command_test.py HAKMEM_COMMAND LIBRARY
"""
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

COMMAND, LIBRARY, SECURE = (os.path.abspath(a) for a in sys.argv[1:4])


def run(*arguments, **options):
    environment = dict(os.environ, **options)
    environment.pop("BUILD_WORKING_DIRECTORY", None)
    return subprocess.run(
        [COMMAND, *arguments],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


class Run(unittest.TestCase):
    def test_program_runs_on_hakmem(self):
        done = run("run", "python3", "-c", "import os; print(os.environ['LD_PRELOAD'])",
                   HAKMEM_SHOW_STATS="1", HAKMEM_LIBRARY=LIBRARY)
        self.assertEqual((done.returncode, done.stdout.strip()), (0, os.path.realpath(LIBRARY)))
        self.assertIn("hakmem: superslabs = ", done.stderr)

    def test_library_is_found_without_help(self):
        done = run("run", "--", "sh", "-c", "echo $LD_PRELOAD")
        self.assertEqual((done.returncode, done.stdout.strip()), (0, os.path.realpath(LIBRARY)))

    def test_guard(self):
        done = run("run", "--guard", "sh", "-c", "echo $HAKMEM_GUARD")
        self.assertEqual((done.returncode, done.stdout), (0, "on\n"), done.stderr)
        done = run("run", "--guard", "sh", "-c", "echo $HAKMEM_GUARD", HAKMEM_GUARD="300")
        self.assertEqual((done.returncode, done.stdout), (0, "300\n"), done.stderr)

    def test_secure(self):
        done = run("run", "--secure", "--", "sh", "-c", "echo $LD_PRELOAD")
        self.assertEqual((done.returncode, done.stdout.strip()), (0, os.path.realpath(SECURE)))
        done = run("run", "--secure", "sh", "-c", "echo $LD_PRELOAD", HAKMEM_SECURE_LIBRARY=LIBRARY)
        self.assertEqual((done.returncode, done.stdout.strip()), (0, os.path.realpath(LIBRARY)))
        done = run("run", "--secure")
        self.assertEqual(done.returncode, 2)

    def test_earlier_preloads_stay(self):
        done = run("run", "env", LD_PRELOAD="libm.so.6")
        self.assertIn("LD_PRELOAD=%s:libm.so.6\n" % os.path.realpath(LIBRARY), done.stdout)

    def test_arguments_and_status_are_passed_on(self):
        done = run("run", "sh", "-c", 'echo "$1|$2"; exit 7', "sh", "a b", "")
        self.assertEqual((done.returncode, done.stdout), (7, "a b|\n"))

    def test_not_found(self):
        for name in ("no-such-program", "/no/such/program"):
            done = run("run", name)
            self.assertEqual(done.returncode, 127)
            self.assertIn(name, done.stderr)

    def test_cannot_be_run(self):
        with tempfile.NamedTemporaryFile() as plain:
            done = run("run", plain.name)
            self.assertEqual(done.returncode, 126)
            self.assertIn(plain.name, done.stderr)

    def test_not_executable_in_path(self):
        with tempfile.TemporaryDirectory() as folder:
            open(folder + "/plain", "w").close()
            done = run("run", "plain", PATH=folder)
            self.assertEqual(done.returncode, 126)
            self.assertIn(folder + "/plain", done.stderr)

    def test_no_library(self):
        for arguments in (("run", "true"), ("path",)):
            done = run(*arguments, HAKMEM_LIBRARY="/no/such/library")
            self.assertEqual(done.returncode, 125)
            self.assertIn("HAKMEM_LIBRARY names no file: '/no/such/library'", done.stderr)

    def test_library_of_the_callers_runfiles(self):
        with tempfile.TemporaryDirectory() as folder:
            os.makedirs(folder + "/hakmem/preload")
            os.symlink(LIBRARY, folder + "/hakmem/preload/libhakmem.so")
            copy = folder + "/command"
            shutil.copy(COMMAND, copy)
            env = {"PATH": os.environ["PATH"], "RUNFILES_DIR": folder}
            self.assertEqual(
                subprocess.check_output([copy, "path"], env=env, text=True).strip(),
                os.path.realpath(LIBRARY),
            )
            del env["RUNFILES_DIR"]
            self.assertEqual(
                subprocess.run([copy, "path"], env=env, stderr=subprocess.DEVNULL).returncode, 125
            )

    def test_relative_names_mean_the_users_folder(self):
        with tempfile.TemporaryDirectory() as folder:
            os.symlink(LIBRARY, folder + "/lib.so")
            with open(folder + "/script", "w") as f:
                f.write("#!/bin/sh\npwd -P\n")
            os.chmod(folder + "/script", 0o755)
            env = dict(os.environ, BUILD_WORKING_DIRECTORY=folder, HAKMEM_LIBRARY="lib.so")
            self.assertEqual(
                subprocess.check_output(
                    [COMMAND, "run", "./script"], env=env, cwd="/", text=True
                ).strip(),
                os.path.realpath(folder),
            )
            env["BUILD_WORKING_DIRECTORY"] = folder + "/none"
            self.assertEqual(
                subprocess.run(
                    [COMMAND, "run", "true"], env=env, stderr=subprocess.DEVNULL
                ).returncode,
                126,
            )

    def test_static_program_is_named(self):
        with tempfile.TemporaryDirectory() as folder:
            source, program = folder + "/s.c", folder + "/s"
            with open(source, "w") as f:
                f.write("int main(void) { return 3; }\n")
            subprocess.run(["gcc", "-static", "-o", program, source], check=True)
            done = run("run", program)
            self.assertEqual(done.returncode, 3)
            self.assertIn("statically linked", done.stderr)


    def test_verbose(self):
        """The library itself says that it is active, and in which process."""
        version = run("version").stdout.split()[1]
        for option in ("-v", "--verbose"):
            done = run("run", option, "sh", "-c", "echo $$")
            self.assertEqual(done.returncode, 0)
            self.assertRegex(
                done.stderr, r"^hakmem: active pid=%d version=%s variant=release [^\n]*\n$"
                % (int(done.stdout), re.escape(version)))
        done = run("run", "-v", "--secure", "true")
        self.assertIn(" variant=secure ", done.stderr)
        self.assertEqual(run("run", "true").stderr, "")

    def test_the_programs_status_is_not_ours(self):
        """Status 2 of a program is no bad usage, and its options are no options of ours."""
        with tempfile.TemporaryDirectory() as folder:
            for words in (("run",), ("record", "-o", folder + "/t")):
                for status in (2, 125, 126, 127):
                    done = run(*words, "sh", "-c", "exit %d" % status)
                    self.assertEqual(done.returncode, status)
                    self.assertNotIn("usage", done.stderr)
                done = run(*words, "echo", "--help", "-V", "--secure")
                self.assertEqual((done.returncode, done.stdout), (0, "--help -V --secure\n"))

    def test_a_path_with_spaces_and_colons(self):
        for name in ("a b", "a:b"):
            with tempfile.TemporaryDirectory() as folder:
                there = os.path.join(os.path.realpath(folder), name)
                os.makedirs(there)
                library, program = there + "/libhakmem.so", there + "/my program"
                shutil.copy(LIBRARY, library)
                os.symlink(shutil.which("sh"), program)
                place = {"XDG_RUNTIME_DIR": folder, "HAKMEM_LIBRARY": library}
                script = 'echo "$LD_PRELOAD"; exec sh -c "echo \\$LD_PRELOAD"'
                done = run("run", "-v", program, "-c", script, **place)
                links = done.stdout.split()
                self.assertEqual((len(links), len(set(links))), (2, 1), done.stderr)
                self.assertEqual(os.path.realpath(links[0]), library)
                self.assertEqual(done.stderr.count("hakmem: active pid="), 2)
                self.assertEqual(os.stat(os.path.dirname(links[0])).st_mode & 0o777, 0o700)
                # Again, and where no link can be made.
                self.assertEqual(run("run", "true", **place).returncode, 0)
                self.assertEqual(len(os.listdir(folder + "/hakmem")), 1)
                shutil.rmtree(folder + "/hakmem")
                open(folder + "/hakmem", "w").close()
                done = run("run", "true", **place)
                self.assertEqual(done.returncode, 125)
                self.assertRegex(done.stderr, r"^hakmem: LD_PRELOAD cannot name '.*\n$")


class Rest(unittest.TestCase):
    def test_version_and_help(self):
        self.assertRegex(run("version").stdout, r"^hakmem \d+\.\d+\.\d+\n$")
        for option in ("--version", "-V"):
            self.assertEqual(run(option).stdout, run("version").stdout)
        self.assertIn("HAKMEM_LIBRARY", run("--help").stdout)
        self.assertEqual(run("-h").stdout, run("--help").stdout)
        self.assertEqual(run("help").stdout, run("--help").stdout)
        self.assertEqual(run("path").stdout, os.path.realpath(LIBRARY) + "\n")

    def subcommands(self):
        usage = run("--help").stdout.split("\n\n")[0]
        return re.findall(r"hakmem ([a-z-]+)", usage)

    def test_each_has_help(self):
        self.assertGreater(len(self.subcommands()), 5)
        for name in self.subcommands():
            for arguments in ((name, "--help"), (name, "-h"), ("help", name)):
                done = run(*arguments)
                self.assertEqual((done.returncode, done.stderr), (0, ""))
                self.assertTrue(done.stdout.startswith("usage: hakmem %s" % name), arguments)
                self.assertLessEqual(max(map(len, done.stdout.split("\n"))), 100, arguments)

    def test_bad_usage(self):
        for arguments in ((), ("walk", "true"), ("--walk",), ("-x", "run"), ("--help", "x")):
            done = run(*arguments)
            self.assertEqual((done.returncode, done.stdout), (2, ""), arguments)
            self.assertIn("usage: hakmem run", done.stderr)
        for arguments in (
            ("run",),
            ("run", "--"),
            ("run", "--walk", "true"),
            ("record",),
            ("record", "-o"),
            ("record", "-o", "", "true"),
            ("record", "--calls"),
            ("record", "--calls", "0", "true"),
            ("record", "--calls", "-1", "true"),
            ("record", "--calls", "5x", "true"),
            ("trace-info",),
            ("trace-info", "a", "b"),
            ("version", "x"),
            ("path", "x"),
            ("path", "-x"),
            ("help", "walk"),
            ("help", "run", "path"),
            ("help", "--completion", "run"),
        ):
            done = run(*arguments)
            self.assertEqual((done.returncode, done.stdout), (2, ""), arguments)
            self.assertRegex(
                done.stderr, r"^hakmem: %s: .*\nusage: hakmem %s" % (arguments[0], arguments[0]))
        self.assertEqual(run("run", "true", BUILD_WORKING_DIRECTORY="").returncode, 0)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]] + sys.argv[4:], verbosity=2)
