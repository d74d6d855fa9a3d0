"""Other people's allocators, programs, traces and tables of workloads: what is taken, measured with
real programs, and each text that is refused."""

import contextlib
import glob
import io
import json
import os
import shutil
import stat
import subprocess
import tempfile
import unittest

import compare
from comparison import foreign, run, table

FOLDER = os.path.dirname(os.path.abspath(__file__))
PLACE = table.Place(FOLDER)
KNOWN = table.load()


class ForeignCase(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = os.path.realpath(folder.name)
        environment, allocators = dict(os.environ), dict(table.ALLOCATORS)
        self.addCleanup(lambda: (os.environ.clear(), os.environ.update(environment)))
        self.addCleanup(lambda: (table.ALLOCATORS.clear(), table.ALLOCATORS.update(allocators)))
        os.environ["BUILD_WORKING_DIRECTORY"] = self.folder
        # An allocator that is not in the table: a copy of one that is here.
        shutil.copy(PLACE.file("jemalloc"), os.path.join(self.folder, "libmine.so"))

    def write(self, name, text, is_program=False):
        path = os.path.join(self.folder, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text if isinstance(text, str) else json.dumps(text))
        if is_program:
            os.chmod(path, stat.S_IRWXU)
        return path

    def compare(self, *arguments):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = compare.main(["--bin-dir", FOLDER, *arguments])
        return status, out.getvalue(), err.getvalue()

    def refused(self, option, cases):
        """Each text of {text: words of the error} is a usage error."""
        for text, words in cases.items():
            status, out, err = self.compare(option, text)
            self.assertEqual((status, out), (2, ""), (text, err))
            self.assertIn(f"compare: argument {option}: ", err, text)
            self.assertIn(words, err, text)
            self.assertIn("usage: compare", err, text)


class AllocatorTest(ForeignCase):
    def test_refused(self):
        self.write("text.so", "no library")
        self.refused(
            "--allocator",
            {
                "nonsense": "no allocator nonsense; there are hakmem, ",
                "=libmine.so": "nothing is no name",
                "My=libmine.so": "My is no name",
                "jemalloc=libmine.so": "jemalloc is one of the allocators that are there",
                "mine=": "nothing is no file",
                "mine=no.so": "no.so is no file",
                "mine=.": "is no file",
                "mine=text.so": "no shared library for this machine",
                "mine=libmine.so,": "nothing is not VARIABLE=VALUE",
                "mine=libmine.so,A": "A is not VARIABLE=VALUE",
                "mine=libmine.so,1A=2": "1A=2 is not VARIABLE=VALUE",
                "mine=libmine.so,LD_PRELOAD=x": "LD_PRELOAD is the comparison's to set",
            },
        )
        status, _, err = self.compare("--allocator", "m=libmine.so", "--allocator", "m=libmine.so")
        self.assertEqual(status, 2)
        self.assertIn("m is given twice", err)

    def test_joins_the_others_or_the_named(self):
        for more, wanted in (
            ([], [*table.DEFAULT_ALLOCATORS, "mine"]),
            (["--allocator", "hakmem"], ["hakmem", "mine"]),
        ):
            config = compare.Config(["--allocator", "mine=libmine.so,A=1,B=x=y", *more], KNOWN)
            self.assertEqual(config.allocators, wanted)
            self.assertEqual(table.ALLOCATORS["mine"].environment, {"A": "1", "B": "x=y"})

    def test_measured(self):
        status, out, err = self.compare(
            "--allocator", "mine=libmine.so,MALLOC_CONF=narenas:1", "--allocator", "hakmem",
            "--quick", "--bench", "mid_mt_gap", "--json", "out.json",
        )  # fmt: skip
        self.assertIn(status, (0, compare.NO_VERDICT), err)
        self.assertRegex(out, r"(?m)^  mine ")
        with open(os.path.join(self.folder, "out.json"), encoding="utf-8") as file:
            report = json.load(file)
        self.assertEqual(report["served_by"]["mine"], os.path.join(self.folder, "libmine.so"))
        self.assertIn("mine", report["overall"])
        peers = [row["allocator"] for row in report["workloads"][0]["allocators"]]
        self.assertEqual(sorted(peers), ["hakmem", "mine"])

    def test_variables_reach_the_program(self):
        env = self.write("env", "#!/bin/sh\necho Throughput = $FACTOR.0 ops/s\n", is_program=True)
        name, one = foreign.allocator("mine=libmine.so,FACTOR=7", self.folder)
        table.ALLOCATORS[name] = one
        workload = foreign.program(env, self.folder, KNOWN)
        self.assertEqual(run.run_once(PLACE, workload, "mine", "quick", 1)["ops_per_s"], 7)

    def test_a_library_without_malloc(self):
        library = glob.glob("/lib/*-linux-gnu/libm.so.6")[0]
        shutil.copy(library, os.path.join(self.folder, "libm.so"))
        status, out, err = self.compare(
            "--allocator", "mine=libm.so", "--allocator", "hakmem", "--quick", "--bench", "latency"
        )
        self.assertEqual((status, out), (1, ""))
        self.assertIn("malloc is served by", err)
        self.assertIn("not by mine: nothing was measured", err)


class ProgramTest(ForeignCase):
    def test_refused(self):
        self.write("file", "")
        self.refused(
            "--program",
            {
                "": "an empty command",
                "no-such-program x": "no-such-program is no program",
                "./file": "./file is no program",
                "/": "/ is no program",
                "grep 'x": "No closing quotation",
            },
        )

    def test_words(self):
        one = foreign.program("/bin/echo 'a b' {} x{}y", self.folder, {"echo"})
        self.assertEqual((one.name, one.unit, one.is_program), ("echo_2", "runs", True))
        for mode in table.MODES:
            self.assertEqual(one.arguments(mode, 7), ["a b", "7", "x7y"])
        self.assertEqual(one.growth("default"), 1)

    def test_measured(self):
        self.write("words", "one\ntwo\n")
        status, out, err = self.compare(
            "--program", "sort words", "--program", "grep -c one words", "--runs", "8",
            "--allocator", "hakmem", "--allocator", "glibc", "--allocator", "mine=libmine.so",
        )  # fmt: skip
        self.assertIn(status, (0, compare.NO_VERDICT), err)
        for name in ("sort: sort words; ", "grep: grep -c one words; "):
            self.assertIn("\n" + name, out)
        for name in ("hakmem", "glibc", "mine"):
            self.assertEqual(out.count(f"\n  {name} "), 4 + (name != "hakmem"), (name, out))

    def test_fails(self):
        status, out, err = self.compare(
            "--program", "grep x /dev/null", "--runs", "8", "--allocator", "hakmem"
        )
        self.assertEqual((status, out), (1, ""))
        self.assertIn("grep under hakmem: exit status 1", err)

    def test_limit_and_linked_ones_are_left_out(self):
        one = foreign.program("/bin/true", self.folder, KNOWN)
        self.assertIn("frees nothing", run.missing(PLACE, one, "null"))
        self.assertIn("cannot be preloaded", run.missing(PLACE, one, "hakmem_static"))
        for allocator in ("hakmem", "jemalloc", "glibc"):
            self.assertIsNone(run.missing(PLACE, one, allocator), allocator)

    def test_what_no_library_reaches(self):
        source = self.write("own.c", "void *malloc(unsigned long n) { return (void *)(16 * n); }\n"
                            "int main(void) { return 0; }\n")  # fmt: skip
        for flags, words in (
            (["-static"], "is a static program"), (["-rdynamic"], "malloc of its own"),
        ):  # fmt: skip
            path = os.path.join(self.folder, "own")
            built = subprocess.run(["gcc", "-w", *flags, "-o", path, source], capture_output=True)
            if built.returncode != 0:
                self.assertIn("-static", flags)  # needs libc.a
                continue
            one = foreign.program("./own", self.folder, KNOWN)
            with self.assertRaisesRegex(run.Failure, words):
                run.check_owner(PLACE, one, "hakmem")

    def test_scripts_by_their_interpreter(self):
        for first in ("#!/usr/bin/env python3", "#!/usr/bin/env -S python3", "#!/bin/sh -e"):
            path = self.write("script", first + "\n", is_program=True)
            foreign.interpreter.cache_clear()
            found = os.path.basename(foreign.interpreter(path))
            self.assertTrue(found.startswith("python3" if "python3" in first else "dash"), found)
            self.assertIsNone(foreign.why_not_loaded(path, PLACE.file("hakmem")))


class WorkloadsTest(ForeignCase):
    def test_refused(self):
        row = {"name": "a", "binary": "bench_latency", "args": "1 2 {seed}"}
        rows = {
            "no.json": None, "text": "no JSON", "object": {}, "empty": [], "number": [1],
            "nameless": [{}], "twice": [row, row], "name": [{**row, "name": "A b"}],
            "key": [{**row, "colour": 1}], "none": [{"name": "a"}],
            "two": [{**row, "command": "ls"}], "binary": [{**row, "binary": "no"}],
            "args": [{"name": "a", "binary": "bench_latency"}],
            "work": [{**row, "args": "{work}", "work": {"quick": 1}}],
            "mode": [{**row, "work": {"slow": 1}}],
            "command": [{"name": "a", "command": "no-such"}],
            "trace": [{"name": "a", "trace": "no.trace"}], "tag": [{**row, "tags": ["real"]}],
        }  # fmt: skip
        for name, text in rows.items():
            if text is not None:
                self.write(name, text)
        self.refused(
            "--workloads",
            {
                "no.json": "No such file", "text": "no JSON", "object": "not a list",
                "empty": "not a list", "number": "a row is an object", "nameless": "a row is",
                "twice": "a name given twice", "name": "not a name", "key": "unknown key colour",
                "none": "one of binary, command, trace", "two": "one of binary, command, trace",
                "binary": "no program no; there are", "args": "a binary needs args",
                "work": "lack 'default'", "mode": "work has quick, default, full",
                "command": "no-such is no program", "trace": "no.trace is no file",
                "tag": "the tag real is for",
            },
        )  # fmt: skip

    def test_listed(self):
        self.write("mine.json", [{"name": "mine", "command": "ls {}", "text": "files",
                                  "tags": ["t"]}])  # fmt: skip
        arguments = ["--workloads", "mine.json", "--program", "sort x", "--list"]
        status, out, _ = self.compare(*arguments)
        self.assertEqual(status, 0)
        self.assertRegex(out, r"^mine +files \[t\]\nsort +sort x \[\]\n$")
        self.assertNotIn("sort", self.compare(*arguments, "--tag", "t")[1])

    def test_measured(self):
        trace = os.path.join(FOLDER, "replay", "traces", "gcc.trace")
        self.write(
            "mine.json",
            [
                {"name": "mine", "trace": os.path.relpath(trace, self.folder)},
                {"name": "fast", "binary": "workloads/wl_larson",
                 "args": "1 100 100 {work} 8 100 {seed}",
                 "work": {"quick": 2, "default": 3, "full": 3}},
                {"name": "listing", "command": "ls mine.json", "unit": "listings"},
            ],
        )  # fmt: skip
        status, out, err = self.compare(
            "--workloads", "mine.json", "--allocator", "hakmem", "--allocator", "glibc", "--quick"
        )
        self.assertIn(status, (0, compare.NO_VERDICT), err)
        for name in ("mine: ", "fast: ", "listing: "):
            self.assertIn("\n" + name, out)
        self.assertIn("--repeat 1 ", out)


if __name__ == "__main__":
    unittest.main()
