"""What `./bazelw run //:install` puts in place works, and goes again without a trace.

install_test.py INSTALL_SCRIPT CASES
"""

import os
import re
import sys
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import layout  # noqa: E402
from installed import Installation, output, run, tree  # noqa: E402

SCRIPT = os.path.abspath(sys.argv[1]) if len(sys.argv) > 1 else ""
VERSION = layout.version()
SONAME = "libhakmem.so." + VERSION.split(".")[0]

# Fails unless hakmem serves malloc, and operator new.
PROGRAM = r"""
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <hakmem/hakmem.h>
#include <hakmem/hakmem.hpp>

int main()
{
    void *block = std::malloc(100);
    char *text = strdup("a string that libc allocates");
    std::string *object = new std::string(1000, 'x');
    std::pmr::memory_resource *resource = new hakmem::memory_resource;
    bool ours = hak_owns(block) && hak_owns(text) && hak_owns(object) && hak_owns(object->data());
    std::free(block);
    free(text);
    delete object;
    std::printf("%s %s %s\n", ours ? "hakmem" : "libc", hak_version(), hak_variant());
    return !ours || resource->allocate(10) == nullptr;
}
"""
# Never names malloc itself: libc does.
PLAIN = r"""
#include <stdio.h>
#include <string.h>
int hak_owns(const void *p) __attribute__((weak));

int main(void)
{
    char *text = strdup("a string");
    puts(hak_owns && hak_owns(text) ? "hakmem" : "libc");
    return 0;
}
"""
SAID = "hakmem %s release\n" % VERSION


class Install(unittest.TestCase):
    def test_bad_arguments(self):
        for arguments in (
            ["--walk"],
            ["--prefix"],
            ["--prefix", ""],
            ["somewhere"],
            ["--libdir", "/usr/lib"],
            ["--libdir", "../lib"],
            ["--pre", "/tmp"],
        ):
            done = run(SCRIPT, *arguments)
            self.assertEqual((done.returncode, done.stdout), (2, ""), arguments)
            self.assertIn("usage: install [--prefix DIR]", done.stderr)

    def test_help(self):
        said = output(SCRIPT, "--help")
        for word in ("--prefix", "--libdir", "--destdir", "--uninstall"):
            self.assertIn(word, said)

    def test_what_is_there(self):
        with Installation(SCRIPT) as there:
            found = tree(there.prefix)
            wanted = """bin/hakmem include/hakmem/hakmem.h include/hakmem/hakmem.hpp
                lib/libhakmem.so lib/libhakmem.a lib/pkgconfig/hakmem.pc
                lib/pkgconfig/hakmem-static.pc lib/cmake/hakmem/hakmemConfig.cmake
                lib/cmake/hakmem/hakmemConfigVersion.cmake lib/hakmem/installed.txt
                share/man/man1/hakmem.1 share/man/man3/hakmem.3 share/man/man3/hak_malloc.3
                share/man/man7/hakmem.7 share/bash-completion/completions/hakmem
                share/doc/hakmem/LICENSE share/doc/hakmem/CHANGELOG.md""".split()
            wanted += ["lib/" + SONAME, "lib/hakmem/debug/" + SONAME, "lib/libhakmem.so." + VERSION]
            for path in wanted:
                self.assertIn(path, found)
            self.assertNotIn("lib/hakmem/tiny", found)
            for path in found:
                whole = os.path.join(there.prefix, path)
                if os.path.islink(whole):
                    self.assertFalse(os.path.isabs(os.readlink(whole)), path)
                    self.assertTrue(os.path.exists(whole), path)
                elif os.path.isfile(whole):
                    programs = ("bin/hakmem", "lib/hakmem/hakmem-")
                    mode = 0o755 if path.startswith(programs) else 0o644
                    self.assertEqual(os.stat(whole).st_mode & 0o7777, mode, path)
                    self.assertGreater(os.path.getsize(whole), 0, path)
            self.assertEqual(os.readlink(there.libdir + "/libhakmem.so"), SONAME)

    def test_the_version_is_the_same_everywhere(self):
        with Installation(SCRIPT) as there:
            for path, pattern in (
                ("lib/pkgconfig/hakmem.pc", r"(?m)^Version: (.*)$"),
                ("lib/pkgconfig/hakmem-static.pc", r"(?m)^Version: (.*)$"),
                ("lib/cmake/hakmem/hakmemConfigVersion.cmake", r'PACKAGE_VERSION "(.*)"'),
                ("lib/cmake/hakmem/hakmemConfig.cmake", r"libhakmem\.so\.(\d+\.\d+\.\d+)"),
                ("share/man/man1/hakmem.1", r'TH .* "hakmem ([\d.]+)"'),
                ("share/man/man3/hakmem.3", r'TH .* "hakmem ([\d.]+)"'),
                ("share/man/man7/hakmem.7", r'TH .* "hakmem ([\d.]+)"'),
                ("share/doc/hakmem/CHANGELOG.md", r"## ([\d.]+)"),
            ):
                with open(os.path.join(there.prefix, path), encoding="utf-8") as stream:
                    self.assertEqual(re.search(pattern, stream.read()).group(1), VERSION, path)
            said = there.output(there.prefix + "/bin/hakmem", "version")
            self.assertEqual(said, "hakmem %s\n" % VERSION)

    def test_uninstall_leaves_nothing(self):
        with Installation(SCRIPT) as there:
            said = output(SCRIPT, "--prefix", there.prefix, "--uninstall")
            self.assertIn("removed", said)
            self.assertEqual(tree(there.prefix), [])
            done = run(SCRIPT, "--prefix", there.prefix, "--uninstall")
            self.assertEqual(done.returncode, 1)
            self.assertIn("nothing is installed there", done.stderr)

    def test_uninstall_keeps_what_is_not_its_own(self):
        with Installation(SCRIPT) as there:
            output(SCRIPT, "--prefix", there.prefix, "--uninstall")
            os.makedirs(there.prefix + "/share/empty")
            own = there.write("prefix/lib/other.so", "x")
            output(SCRIPT, "--prefix", there.prefix)
            inside = there.write("prefix/include/hakmem/mine.h", "x")
            output(SCRIPT, "--prefix", there.prefix, "--uninstall")
            kept = """include include/hakmem include/hakmem/mine.h lib lib/other.so share
                share/empty"""
            self.assertEqual(tree(there.prefix), sorted(kept.split()))
            self.assertTrue(os.path.exists(own) and os.path.exists(inside))

    def test_again_over_an_older_one(self):
        """A file that is no longer part goes; what runs on a library keeps it."""
        with Installation(SCRIPT) as there:
            library = there.libdir + "/libhakmem.so." + VERSION
            stale = there.write("prefix/lib/libhakmem.so.0.1.9", "x")
            with open(there.libdir + "/hakmem/installed.txt", "a", encoding="utf-8") as stream:
                stream.write("lib/libhakmem.so.0.1.9\n")
            before = tree(there.prefix)
            with open(library, "rb") as old:
                output(SCRIPT, "--prefix", there.prefix)
                self.assertNotEqual(os.fstat(old.fileno()).st_ino, os.stat(library).st_ino)
                self.assertEqual(os.fstat(old.fileno()).st_nlink, 0)
            self.assertFalse(os.path.exists(stale))
            self.assertEqual(
                tree(there.prefix), [path for path in before if not path.endswith("0.1.9")]
            )
            output(SCRIPT, "--prefix", there.prefix, "--uninstall")
            self.assertEqual(tree(there.prefix), [])

    def test_a_list_that_leaves_the_prefix_is_refused(self):
        with Installation(SCRIPT) as there:
            victim = there.write("victim", "x")
            for name in ("../victim", victim):
                there.write("prefix/lib/hakmem/installed.txt", name + "\n")
                done = run(SCRIPT, "--prefix", there.prefix, "--uninstall")
                self.assertEqual(done.returncode, 1)
                self.assertIn("victim", done.stderr)
            self.assertTrue(os.path.exists(victim))

    def test_destdir_and_libdir(self):
        arguments = ("--prefix", "/usr", "--libdir", "lib/x/y")
        with Installation(SCRIPT) as there:
            staged = there.folder + "/staged"
            output(SCRIPT, *arguments, "--destdir", staged)
            self.assertEqual(os.listdir(staged), ["usr"])
            with open(staged + "/usr/lib/x/y/pkgconfig/hakmem.pc", encoding="utf-8") as stream:
                text = stream.read()
            self.assertIn("prefix=/usr\nlibdir=${prefix}/lib/x/y\n", text)
            self.assertNotIn("staged", text)
            output(SCRIPT, *arguments, "--destdir", staged, "--uninstall")
            self.assertEqual(tree(staged), ["usr"])

    def test_cannot_be_written(self):
        with Installation(SCRIPT) as there:
            there.write("file", "x")
            done = run(SCRIPT, "--prefix", there.folder + "/file/below")
            self.assertEqual((done.returncode, done.stdout), (1, ""))
            self.assertRegex(done.stderr, r"^install: .*file.*\n$")


class Programs(unittest.TestCase):
    """Linked by hand, and preloaded."""

    @classmethod
    def setUpClass(cls):
        cls.there = Installation(SCRIPT).__enter__()
        cls.addClassCleanup(cls.there.__exit__)
        cls.there.write("program.cc", PROGRAM)
        cls.there.write("plain.c", PLAIN)

    def test_shared(self):
        paths = ["-I" + self.there.prefix + "/include", "-L" + self.there.libdir]
        compiler = ["g++", "-std=c++17", *paths]
        self.there.output(*compiler, "program.cc", "-o", "shared", "-lhakmem")
        needed = self.there.output("readelf", "-d", "shared")
        self.assertIn("Shared library: [%s]" % SONAME, needed)
        said = self.there.output("./shared", LD_LIBRARY_PATH=self.there.libdir)
        self.assertEqual(said, SAID)
        # The same program on another variant: they have one soname.
        debug = self.there.libdir + "/hakmem/debug"
        said = self.there.output("./shared", LD_LIBRARY_PATH=debug)
        self.assertEqual(said, SAID.replace("release", "debug"))

    def test_linked_into_the_program(self):
        archive = self.there.libdir + "/libhakmem.a"
        undefined = "-Wl,--undefined=hak_malloc"
        for options in ([], ["-static"]):
            compiler = ["gcc", *options, undefined]
            self.there.output(*compiler, "plain.c", "-o", "plain", archive, "-pthread")
            self.assertEqual(self.there.output("./plain"), "hakmem\n", options)
            compiler = ["g++", *options, "-std=c++17", "-I" + self.there.prefix + "/include"]
            self.there.output(*compiler, "program.cc", "-o", "program", archive, "-pthread")
            self.assertEqual(self.there.output("./program"), SAID, options)

    def test_preloaded(self):
        self.there.output("gcc", "plain.c", "-o", "preloaded")
        self.assertEqual(self.there.output("./preloaded"), "libc\n")
        variants = sorted(os.listdir(self.there.libdir + "/hakmem"))
        folders = [self.there.libdir]
        folders += [
            "%s/hakmem/%s" % (self.there.libdir, name)
            for name in variants
            if os.path.isdir("%s/hakmem/%s" % (self.there.libdir, name))
        ]
        self.assertGreater(len(folders), 2)
        for folder in folders:
            library = folder + "/" + SONAME
            self.assertEqual(self.there.output("./preloaded", LD_PRELOAD=library), "hakmem\n")


class Command(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.there = Installation(SCRIPT).__enter__()
        cls.addClassCleanup(cls.there.__exit__)

    def test_finds_its_library(self):
        library = "%s/libhakmem.so.%s" % (self.there.libdir, VERSION)
        self.assertEqual(self.there.output("hakmem", "path"), library + "\n")
        said = self.there.output("hakmem", "run", "sh", "-c", "echo $LD_PRELOAD")
        self.assertEqual(said, library + "\n")

    def test_records(self):
        self.there.output("hakmem", "record", "-o", "my.trace", "sh", "-c", "exit 0")
        self.assertIn("calls", self.there.output("hakmem", "trace-info", "my.trace"))

    def test_debians_folder(self):
        machine = output("gcc", "-print-multiarch").strip() or "x86_64-linux-gnu"
        with Installation(SCRIPT, "--libdir", "lib/" + machine) as there:
            library = "%s/%s/libhakmem.so.%s" % (there.libdir, machine, VERSION)
            self.assertEqual(there.output("hakmem", "path"), library + "\n")
            there.output("hakmem", "record", "-o", "my.trace", "sh", "-c", "exit 0")

    def complete(self, *words):
        """What bash offers for the last word."""
        script = 'source "$0"; COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); _hakmem\n'
        script += 'printf "%s\\n" "${COMPREPLY[@]}"'
        path = self.there.prefix + "/share/bash-completion/completions/hakmem"
        return self.there.output("bash", "-euc", script, path, *words).split()

    def test_completion(self):
        self.there.write("some file", "x")
        self.there.write("trace-of-mine", "x")
        self.assertEqual(self.complete("hakmem", "rec"), ["record"])
        self.assertEqual(self.complete("hakmem", "record", "--ch"), ["--children"])
        self.assertEqual(self.complete("hakmem", "record", "--calls", "5", "-"),
                         "--output --calls --children --help".split())
        self.assertEqual(self.complete("hakmem", "help", "rec"), ["record"])
        self.assertEqual(self.complete("hakmem", "record", "-o", "trace-o"), ["trace-of-mine"])
        self.assertEqual(self.complete("hakmem", "trace-info", "trace-o"), ["trace-of-mine"])
        self.assertIn("readelf", self.complete("hakmem", "run", "reade"))
        self.assertIn("readelf", self.complete("hakmem", "record", "-o", "x", "--", "reade"))
        self.assertEqual(self.complete("hakmem", "run", "cat", "trace-o"), ["trace-of-mine"])
        self.assertEqual(self.complete("hakmem", "path", ""), [])

    def test_completion_offers_every_command(self):
        """Those that the usage names, and each one's options."""
        usage = self.there.output("hakmem", "help").split("\n\n")[0]
        commands = re.findall(r"hakmem ([a-z-]+)", usage)
        self.assertGreater(len(commands), 4)
        self.assertEqual(commands + ["--version", "--help"], self.complete("hakmem", ""))
        for name in commands:
            said = self.there.output("hakmem", name, "--help")
            options = re.findall(r"(?m)^  (?:-., )?(--[a-z-]+)", said)
            self.assertEqual(options, self.complete("hakmem", name, "-"), name)


class PkgConfig(unittest.TestCase):
    def test_both_ways(self):
        with Installation(SCRIPT) as there:
            there.write("program.cc", PROGRAM)
            for name, shared in (("hakmem", True), ("hakmem-static", False)):
                said = there.output("pkg-config", "--modversion", name)
                self.assertEqual(said, VERSION + "\n")
                flags = there.output("pkg-config", "--cflags", "--libs", name).split()
                there.output("g++", "-std=c++17", "program.cc", "-o", "program", *flags)
                needed = there.output("readelf", "-d", "program")
                self.assertEqual("[%s]" % SONAME in needed, shared)
                environment = {"LD_LIBRARY_PATH": there.libdir} if shared else {}
                self.assertEqual(there.output("./program", **environment), SAID)


class CMake(unittest.TestCase):
    LISTS = """
cmake_minimum_required(VERSION 3.13)
project(consumer CXX)
set(CMAKE_CXX_STANDARD 17)
find_package(hakmem %s REQUIRED)
foreach(way hakmem static)
  add_executable(${way}_program program.cc)
  target_link_libraries(${way}_program PRIVATE hakmem::${way})
endforeach()
add_executable(all_static program.cc)
target_link_libraries(all_static PRIVATE hakmem::static -static)
"""

    def configure(self, there, wanted):
        there.write("source/program.cc", PROGRAM)
        there.write("source/CMakeLists.txt", self.LISTS % wanted)
        return run(
            "cmake", "-S", "source", "-B", "build", env=there.environment, cwd=there.folder
        )

    def test_each_target(self):
        machine = output("gcc", "-print-multiarch").strip()
        with Installation(SCRIPT, "--libdir", "lib/" + machine) as there:
            done = self.configure(there, "0.2")
            self.assertEqual(done.returncode, 0, done.stderr)
            there.output("cmake", "--build", "build")
            for name in ("hakmem_program", "static_program", "all_static"):
                self.assertEqual(there.output("build/" + name), SAID)
            needed = there.output("readelf", "-d", "build/hakmem_program")
            self.assertIn("[%s]" % SONAME, needed)
            # It may be moved as a whole.
            os.rename(there.prefix, there.folder + "/moved")
            there.environment["CMAKE_PREFIX_PATH"] = there.folder + "/moved"
            there.output("rm", "-r", "build")
            done = self.configure(there, "0.2")
            self.assertEqual(done.returncode, 0, done.stderr)
            there.output("cmake", "--build", "build", "--target", "static_program")

    def test_versions(self):
        major, minor, patch = map(int, VERSION.split("."))
        for wanted, found in (
            ("", True),
            ("%d.%d" % (major, minor), True),
            (VERSION + " EXACT", True),
            ("%d.%d" % (major, minor + 1), False),
            ("%d.0" % (major + 1), False),
            ("%d.%d.%d EXACT" % (major, minor, patch + 1), False),
        ):
            with Installation(SCRIPT) as there:
                done = self.configure(there, wanted)
                self.assertEqual(done.returncode == 0, found, wanted + done.stderr)
                if not found:
                    self.assertIn("hakmem", done.stderr)


class Manual(unittest.TestCase):
    def test_pages(self):
        with Installation(SCRIPT) as there:
            for page in ("man1/hakmem.1", "man3/hakmem.3", "man7/hakmem.7", "man3/hak_free.3"):
                path = there.prefix + "/share/man/" + page
                done = run(
                    "man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", path, env=there.environment
                )
                self.assertEqual((done.returncode, done.stderr), (0, ""), page)
                text = re.sub(".\b", "", done.stdout)
                self.assertIn("SEE ALSO", text)
                if page == "man7/hakmem.7":
                    self.assertIn("HAKMEM_LIMIT_HARD", text)
                    self.assertNotIn("`", text)
                if page.startswith("man3"):
                    for name in ("hak_heap_walk", "struct hak_hooks {", "pkg-config --cflags"):
                        self.assertIn(name, text)

    def test_the_command_page_names_every_command(self):
        with Installation(SCRIPT) as there:
            text = there.output("man", "-E", "UTF-8", "-l", "-Tutf8",
                                there.prefix + "/share/man/man1/hakmem.1")
            text = re.sub(".\b", "", text)
            usage = there.output("hakmem", "help").split("\n\n")[0]
            words = set(re.findall(r"hakmem ([a-z-]+)|(--[a-z]+)", usage))
            words = {word for pair in words for word in pair if word}
            self.assertGreater(len(words), 6)
            for word in words:
                self.assertIn(word, text)

    def test_each_subcommand_has_a_page(self):
        """It says what --help says."""
        with Installation(SCRIPT) as there:
            usage = there.output("hakmem", "help").split("\n\n")[0]
            for name in re.findall(r"hakmem ([a-z-]+)", usage):
                page = "%s/share/man/man1/hakmem-%s.1" % (there.prefix, name)
                done = run("man", "--warnings", "-E", "UTF-8", "-l", "-Tutf8", page,
                           env=there.environment)
                self.assertEqual((done.returncode, done.stderr), (0, ""), name)
                # Without hyphens at the ends of lines, and all in one line.
                text = re.sub(".\b", "", done.stdout)
                text = " ".join(re.sub("\u2010\n *", "", text).split())
                said = there.output("hakmem", name, "--help")
                about = said.split("\n\n")[1:-1] + re.findall(r"(--[a-z-]+)", said)
                for words in about:
                    self.assertIn(" ".join(words.split()), text, name)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]] + sys.argv[2:], verbosity=2)
