"""The `hakmem` command: runs programs under the library, passes arguments and exit status on, and
names what is wrong.

command_test.py HAKMEM_COMMAND LIBRARY
"""
import os
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


class Rest(unittest.TestCase):
    def test_version_and_help(self):
        self.assertRegex(run("version").stdout, r"^hakmem \d+\.\d+\.\d+\n$")
        self.assertEqual(run("--version").stdout, run("version").stdout)
        self.assertIn("HAKMEM_LIBRARY", run("--help").stdout)
        self.assertEqual(run("path").stdout, os.path.realpath(LIBRARY) + "\n")

    def test_bad_usage(self):
        for arguments in ((), ("run",), ("run", "--"), ("walk", "true"), ("version", "x")):
            done = run(*arguments)
            self.assertEqual(done.returncode, 2, arguments)
            self.assertIn("usage: hakmem run", done.stderr)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]] + sys.argv[4:], verbosity=2)
