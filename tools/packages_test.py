"""tools/packages: which packages a command line asks for, and what happens when some are missing.

The programs that it calls (dpkg-query, apt-get by sudo) are replaced by ones that note their
arguments.
"""

import os
import re
import subprocess
import sys
import tempfile
import unittest

FOLDER = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(FOLDER)
SCRIPT = os.path.join(FOLDER, "packages")
BUILD = """bazel-bootstrap bazel-platforms bazel-rules-cc bazel-rules-java bazel-skylib gcc g++
    python3""".split()
PEERS = ["libjemalloc-dev", "libmimalloc-dev", "libtcmalloc-minimal4"]


def printed(*arguments, cwd=TOP):
    """({packages that are needed}, {packages that are used})"""
    text = subprocess.run(
        ["sh", SCRIPT, "--print", *arguments],
        stdout=subprocess.PIPE, text=True, check=True, cwd=cwd, env=dict(os.environ, PWD=cwd),
    ).stdout
    rows = [line.split() for line in text.splitlines()]
    return tuple({name for how, name in rows if how == kind} for kind in ("needs", "uses"))


def bazel(line, cwd=TOP):
    return printed("bazel", *line.split(), cwd=cwd)


class Asked(unittest.TestCase):
    def test_the_library_needs_a_compiler_and_bazel(self):
        for line in (
            "build //preload:libhakmem.so",
            "build -c opt --config=asan //hakmem:malloc //preload:debug",
            "run //:install -- --prefix //bench/...",
            "run //preload:hakmem run //bench/...",
            "build //install:packages",
            "info",
            "shutdown",
            "--output_base=/x version",
            "build --//tools/config:variant=debug //preload:libhakmem.so",
        ):
            self.assertEqual(bazel(line), (set(BUILD), set()), line)

    def test_everything(self):
        whole = printed("all")
        self.assertGreater(len(whole[0]), 10)
        self.assertGreater(len(whole[1]), 15)
        for line in (
            "test //...",
            "build //...",
            "test --keep_going --test_env=NO_SKIP=1 -- //... -//bench/...",
            "coverage //...",
            "aquery deps(//...)",
            "some_new_command",
            "build --target_pattern_file=x",
        ):
            self.assertEqual(bazel(line), whole, line)

    def test_tests_of_a_folder(self):
        self.assertEqual(bazel("test //tiny/..."), (set(BUILD) | {"googletest"}, set()))
        self.assertEqual(bazel("build //tiny:all"), (set(BUILD) | {"googletest"}, set()))
        self.assertIn("spin", bazel("test //checks/...")[1])
        self.assertIn("spin", bazel("run //checks/model:check")[1])
        self.assertNotIn("spin", bazel("test //checks/names:all")[1])
        self.assertIn("redis-server", bazel("test //preload:redis_test")[1])
        self.assertNotIn("redis-server", bazel("run //preload:misuse")[1])

    def test_the_comparison(self):
        needed, used = bazel("run //bench:compare -- --quick")
        self.assertEqual(needed, set(BUILD + PEERS))
        self.assertLess({"sqlite3", "valgrind", "libtbbmalloc2"}, used)
        self.assertNotIn("chromium", used)
        self.assertIn("chromium", bazel("test //bench:screenshot_test")[1])

    def test_relative_to_where_one_stands(self):
        bench = os.path.join(TOP, "bench")
        for line in ("run :compare", "run compare:x", "build ..."):
            needed, _ = bazel(line, cwd=bench)
            self.assertLessEqual(set(PEERS), needed, line)
        self.assertEqual(bazel("build :x")[0], set(BUILD))

    def test_bad_usage(self):
        for arguments in ([], ["build"], ["--print"], ["real", "nothing"]):
            done = subprocess.run(["sh", SCRIPT, *arguments], stderr=subprocess.PIPE, text=True)
            self.assertEqual(done.returncode, 2, arguments)
            self.assertIn("usage: packages", done.stderr)


class Table(unittest.TestCase):
    def test_rows(self):
        with open(os.path.join(FOLDER, "packages.txt"), encoding="utf-8") as stream:
            rows = [line.split() for line in stream if line.strip() and line[0] != "#"]
        self.assertGreater(len(rows), 15)
        for where, how, *packages in rows:
            self.assertIn(how, ("needs", "uses"))
            self.assertTrue(packages)
            folder = re.search("//(.*)", where)
            if folder:
                self.assertTrue(os.path.isdir(os.path.join(TOP, folder.group(1))), where)

    def test_what_tests_need_is_in_the_table(self):
        """The packages that python_test's `needs` names, at the folder of its BUILD file."""
        n = 0
        for folder, folders, names in os.walk(TOP):
            folders[:] = [name for name in folders if not name.startswith(".")]
            if "BUILD.bazel" not in names:
                continue
            with open(os.path.join(folder, "BUILD.bazel"), encoding="utf-8") as stream:
                text = stream.read()
            # Of one test, or of a row of several tests, which is no assignment.
            row = r'\{\s*(?:"[a-z][\w.-]+": "[a-z][\w.+-]+",?\s*)+\}'
            for block in re.findall(r"(?:needs = |(?<!= ))" + row, text):
                for package in re.findall(r'": "([^"]+)"', block):
                    n += 1
                    label = "//%s:x_test" % os.path.relpath(folder, TOP)
                    self.assertIn(package, bazel("test " + label)[1], label)
        self.assertGreater(n, 20)


class Missing(unittest.TestCase):
    """Fake programs: dpkg-query knows what $INSTALLED names; sudo installs what $KNOWN names."""

    PROGRAMS = {
        "dpkg-query": """shift 3
            for p in "$@"; do
                case " $(cat $STATE) " in *" $p "*) echo "installed $p" ;; esac
            done""",
        "id": "echo 1000",
        "sudo": """
            [ "$1" = sh ] || exit 0
            shift 4
            echo "$@" >>$CALLS
            for p in "$@"; do
                case " $KNOWN " in *" $p "*) ;; *) exit 100 ;; esac
            done
            echo "$(cat $STATE) $*" >$STATE""",
    }

    def packages(self, line, installed, known, can_install=True):
        with tempfile.TemporaryDirectory() as folder:
            for name, text in self.PROGRAMS.items():
                if name != "sudo" or can_install:
                    with open(folder + "/" + name, "w", encoding="utf-8") as stream:
                        stream.write("#!/bin/sh\n%s\n" % text)
                    os.chmod(folder + "/" + name, 0o755)
            for name in "cat dirname sh".split():
                os.symlink("/bin/" + name, folder + "/" + name)
            with open(folder + "/state", "w", encoding="utf-8") as stream:
                stream.write(" ".join(installed))
            open(folder + "/calls", "w").close()
            done = subprocess.run(
                ["/bin/sh", SCRIPT, "bazel", *line.split()],
                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=TOP,
                env={
                    "PATH": folder, "STATE": folder + "/state", "CALLS": folder + "/calls",
                    "KNOWN": " ".join(known),
                },
            )
            with open(folder + "/calls", encoding="utf-8") as stream:
                calls = [call.split() for call in stream.read().splitlines()]
        self.assertEqual(done.stdout, "")
        return done.returncode, done.stderr, calls

    LINE = "run //checks/model:check"

    def test_all_is_there(self):
        self.assertEqual(self.packages(self.LINE, BUILD + ["spin"], []), (0, "", []))

    def test_is_installed(self):
        status, said, calls = self.packages(self.LINE, BUILD[1:], BUILD + ["spin"])
        self.assertEqual((status, calls), (0, [[BUILD[0], "spin"]]))
        self.assertEqual(said, "packages: installing %s spin\n" % BUILD[0])

    def test_one_that_is_not_to_be_had_is_said_once(self):
        status, said, calls = self.packages(self.LINE, BUILD[1:], BUILD)
        self.assertEqual(status, 0)
        self.assertEqual(calls, [[BUILD[0], "spin"], [BUILD[0]], ["spin"]])
        self.assertEqual(
            re.findall("(?m)^packages: not.*$", said),
            ["packages: not installed, and what uses them is skipped: spin"],
        )

    def test_without_what_is_needed_it_fails(self):
        status, said, _ = self.packages(self.LINE, BUILD[1:], ["spin"])
        self.assertEqual(status, 1)
        self.assertIn("    apt-get install --no-install-recommends %s\n" % BUILD[0], said)

    def test_who_cannot_install(self):
        status, said, calls = self.packages(self.LINE, BUILD, [], can_install=False)
        self.assertEqual((status, calls), (0, []))
        self.assertEqual(said, "packages: not installed, and what uses them is skipped: spin\n")
        status, said, calls = self.packages(self.LINE, BUILD[1:], [], can_install=False)
        self.assertEqual((status, calls), (1, []))
        self.assertIn(BUILD[0], said)


class Needs(unittest.TestCase):
    """python.sh --needs: a test without its program."""

    def run_it(self, *needs, **environment):
        script = os.path.join(FOLDER, "python.sh")
        arguments = [word for need in needs for word in ("--needs", need)]
        with tempfile.NamedTemporaryFile("w", suffix=".py") as file:
            file.write("print('it ran')\n")
            file.flush()
            env = {k: v for k, v in os.environ.items() if k != "NO_SKIP"}
            done = subprocess.run(
                ["sh", script, *arguments, file.name],
                stdout=subprocess.PIPE, text=True, env=dict(env, **environment),
            )
        return done.returncode, done.stdout

    def test_runs_skips_and_fails(self):
        self.assertEqual(self.run_it(), (0, "it ran\n"))
        self.assertEqual(self.run_it("sh=dash", "cat=coreutils"), (0, "it ran\n"))
        said = "SKIPPED: no_such_program is not installed (Debian: that-package)\n"
        need = "no_such_program=that-package"
        self.assertEqual(self.run_it("sh=dash", need), (0, said))
        self.assertEqual(self.run_it(need, NO_SKIP="1"), (1, said))


if __name__ == "__main__":
    unittest.main()
