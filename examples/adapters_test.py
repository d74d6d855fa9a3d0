"""The examples that use an installed hakmem do what they say.

adapters_test.py INSTALL_SCRIPT CASES
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import unittest

FOLDER = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(FOLDER, "..", "install"))
from installed import Installation, output, run  # noqa: E402

SCRIPT = os.path.abspath(sys.argv[1])


class Example(unittest.TestCase):
    """A copy of one example's folder, beside an installation."""

    name = ""

    def setUp(self):
        self.there = Installation(SCRIPT).__enter__()
        self.addCleanup(self.there.__exit__)
        self.folder = os.path.join(self.there.folder, "example")
        if self.name:
            shutil.copytree(os.path.join(FOLDER, self.name), self.folder)

    def output(self, *command, **environment):
        environment = dict(self.there.environment, **environment)
        return output(*command, env=environment, cwd=self.folder)

    def read(self, name):
        with open(os.path.join(FOLDER, self.name, name), encoding="utf-8") as stream:
            return stream.read()


class CMake(Example):
    name = "cmake"

    def test_both_programs(self):
        self.output("cmake", "-S", ".", "-B", "build")
        self.output("cmake", "--build", "build")
        for program in ("program", "program_static"):
            said = self.output("build/" + program)
            self.assertEqual(said, "malloc is served by hakmem\n")


class PkgConfig(Example):
    name = "pkg_config"

    def test_both_programs(self):
        self.output("make")
        for program in ("program", "program_static"):
            said = self.output("./" + program, LD_LIBRARY_PATH=self.there.libdir)
            self.assertEqual(said, "sum 499500; malloc is served by hakmem\n")


class MemoryResource(Example):
    name = "memory_resource"

    def test_program(self):
        paths = ["-I" + self.there.prefix + "/include", "-L" + self.there.libdir, "-lhakmem"]
        compiler = ["g++", "-std=c++17", "-Wall", "-Werror", "program.cc", "-o", "program"]
        self.output(*compiler, *paths)
        for variant in ("", "/hakmem/release_validated", "/hakmem/debug"):
            said = self.output("./program", LD_LIBRARY_PATH=self.there.libdir + variant)
            self.assertEqual(said, "served by hakmem, 0 blocks left\n")


class Rust(Example):
    name = "rust"
    SAID = "served by hakmem, sum 299970000\n"

    def test_shared(self):
        self.output(
            "/usr/bin/rustc", "-O", "program.rs", "-L", "native=" + self.there.libdir,
            "-l", "hakmem",
        )
        for variant in ("", "/hakmem/release_validated", "/hakmem/debug"):
            said = self.output("./program", LD_LIBRARY_PATH=self.there.libdir + variant)
            self.assertEqual(said, self.SAID)

    def test_taken_into_the_program(self):
        archive = self.there.libdir + "/libhakmem.a"
        # Behind it once more libc, which rustc puts in front.
        arguments = ["-C", "link-arg=" + archive, "-C", "link-arg=-lc"]
        self.output("/usr/bin/rustc", "-O", "program.rs", *arguments)
        self.assertNotIn("libhakmem", self.output("readelf", "-d", "program"))
        self.assertEqual(self.output("./program"), self.SAID)


class Python(Example):
    name = "python_and_node"

    def test_same_output(self):
        plain, served_by = self.output("/usr/bin/python3", "work.py").split()
        self.assertEqual(served_by, "libc")
        for more in ({}, {"PYTHONMALLOC": "malloc"}):
            said = self.output("hakmem", "run", "/usr/bin/python3", "work.py", **more).split()
            self.assertEqual(said, [plain, "hakmem"])


class Node(Example):
    name = "python_and_node"

    def test_same_output(self):
        plain = self.output("node", "work.js")
        done = run(
            "hakmem", "run", "node", "work.js", cwd=self.folder,
            env=dict(self.there.environment, HAKMEM_SHOW_STATS="1"),
        )
        self.assertEqual((done.returncode, done.stdout), (0, plain))
        self.assertRegex(done.stderr, r"hakmem: superslabs = [1-9]")


class Docker(Example):
    """What the Dockerfile's instructions say, done by hand."""

    name = "docker"
    INSTRUCTIONS = "FROM COPY WORKDIR RUN ENV CMD".split()

    def stages(self):
        found = []
        text = re.sub(r"(?m)^#.*\n", "", self.read("Dockerfile")).replace("\\\n", " ")
        for line in text.splitlines():
            if line:
                word, rest = line.split(" ", 1)
                self.assertIn(word, self.INSTRUCTIONS)
                if word == "FROM":
                    found.append([])
                found[-1].append((word, rest))
        return found

    def test_instructions(self):
        build, final = self.stages()
        stage = build[0][1].split(" AS ")[1]
        (command,) = [shlex.split(rest) for word, rest in build if word == "RUN"]
        self.assertEqual(command[:4], ["./bazelw", "run", "//:install", "--"])
        self.assertEqual(command[4], "--prefix")
        prefix = command[5]
        output(SCRIPT, *command[4:], "--destdir", self.folder + "/image")
        copied = [rest.split() for word, rest in final if word == "COPY"]
        self.assertEqual(copied, [["--from=" + stage, prefix, prefix]])
        environment = dict(rest.split("=", 1) for word, rest in final if word == "ENV")
        library = self.folder + "/image" + environment["LD_PRELOAD"]
        self.assertTrue(os.path.isfile(library))
        self.assertEqual(environment["PATH"], prefix + "/bin:$PATH")
        preloaded = {"LD_PRELOAD": library, "HAKMEM_LIMIT_HARD": environment["HAKMEM_LIMIT_HARD"]}
        done = run("/bin/ls", "/", env=preloaded)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        (shown,) = [rest for word, rest in final if word == "CMD"]
        words = re.findall('"(.*?)"', shown)
        program = self.folder + "/image" + prefix + "/bin/" + words[0]
        self.assertIn("usage: hakmem run", output(program, *words[1:], env=preloaded))


class Systemd(Example):
    name = "systemd"

    def test_library_is_where_it_is_installed(self):
        """By default."""
        output(SCRIPT, "--destdir", self.folder + "/image")
        (library,) = re.findall("LD_PRELOAD=(.*)", self.read("hakmem.conf"))
        self.assertTrue(os.path.isfile(self.folder + "/image" + library), library)

    def test_unit_is_well_formed(self):
        for broken in (False, True):
            with tempfile.TemporaryDirectory() as folder:
                shutil.copy(self.folder + "/example.service", folder)
                os.mkdir(folder + "/example.service.d")
                text = self.read("hakmem.conf")
                if broken:  # the test itself: what is wrong would be seen
                    text = text.replace("Environment=LD", "Enviroment=LD")
                with open(folder + "/example.service.d/hakmem.conf", "w") as stream:
                    stream.write(text)
                done = subprocess.run(
                    ["systemd-analyze", "verify", "--man=no", "--recursive-errors=no",
                     folder + "/example.service"],
                    stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                    env={"PATH": "/usr/bin:/bin", "SYSTEMD_UNIT_PATH": folder + ":",
                         "LANG": "C.UTF-8"},
                )
                said = [line for line in done.stdout.splitlines() if "example.service" in line]
                self.assertEqual(any("Enviroment" in line for line in said), broken, done.stdout)
                if not broken:
                    self.assertEqual((done.returncode, said), (0, []), done.stdout)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]] + sys.argv[2:], verbosity=2)
