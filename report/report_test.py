"""hakmem-report: the profile of a program whose memory is known, in each format; pprof's and
gperftools' own programs read what it writes; what it refuses; the checked-in bundle."""

import collections
import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import unittest

REPORT, PROGRAM, STRIPPED = map(os.path.abspath, sys.argv[1:4])
HERE = os.path.dirname(os.path.abspath(__file__))
FORMATS = ("text", "html", "pprof", "folded", "heap")


def run(*arguments, **kwargs):
    return subprocess.run(
        [REPORT, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        check=False,
        text=kwargs.pop("text", True),
        **kwargs,
    )


class WithProfiles(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        cls.folder = folder.name
        cls.small = cls.write("small", "10")
        cls.large = cls.write("large", "30")

    @classmethod
    def write(cls, name, requests, program=PROGRAM):
        path = os.path.join(cls.folder, name)
        subprocess.run([program, path, requests], check=True)
        return path

    def made(self, *arguments, **kwargs):
        done = run(*arguments, **kwargs)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(len(done.stderr), 0, done.stderr)
        return done.stdout


class Formats(WithProfiles):
    def test_text(self):
        text = self.made(self.small)
        self.assertRegex(
            text, r"\n +9\.8 KiB +90\.9 % +10  .*::cache_insert\(int\) self_profile\.cc:\d+\n"
        )
        self.assertIn("10.7 KiB live, 4.0 MiB resident", text)
        self.assertNotIn("_start", text)
        text = self.made("--by", "allocated_bytes", self.small)
        self.assertRegex(text, r"\n +2\.9 KiB +20\.0 % +10  .*parse_header self_profile\.cc:\d+\n")
        # The template's own lines are the library's, and stand in the stack.
        self.assertRegex(text, r"\n    std::vector<.*::push_back stl_vector\.h:\d+\n")

    def test_folded(self):
        sums = collections.Counter()
        for line in self.made("--folded", self.small).splitlines():
            stack, value = line.rsplit(" ", 1)
            self.assertEqual(stack.split(";")[0], "main")
            self.assertIn("serve", stack.split(";")[1])
            sums["make_list" if "make_list" in stack else "cache_insert"] += int(value)
        self.assertEqual(sums, {"cache_insert": 10000, "make_list": 1000})
        text = self.made("--folded", "--by", "allocated_objects", self.small)
        self.assertIn("parse_header 10\n", text)  # inlined, a frame of its own

    def test_stripped(self):
        """Without debug information: the dynamic symbols, no lines."""
        text = self.made(self.write("stripped", "10", STRIPPED))
        self.assertIn(" main (self_profile_stripped)", text)
        self.assertNotIn("self_profile.cc", text)
        self.assertNotIn("no names", text)

    def test_another_build(self):
        copy = os.path.join(self.folder, "program")
        shutil.copy(PROGRAM, copy)
        path = self.write("copy", "10", copy)
        os.unlink(copy)
        shutil.copy(STRIPPED, copy)
        text = self.made(path)
        self.assertIn("no names: %s: another build than the profile's" % copy, text)
        self.assertRegex(text, r"program\+0x[0-9a-f]+\n")
        os.unlink(copy)
        self.assertIn("no names: %s: No such file" % copy, self.made(path))

    def test_difference(self):
        text = self.made("--diff", self.small, self.large)
        self.assertRegex(text, r" 9\.8 KiB +29\.3 KiB +\+19\.5 KiB  .*cache_insert")
        self.assertRegex(text, r"\n\+19\.5 KiB\n    .*cache_insert")
        text = self.made("--diff", "--folded", self.large, self.small)
        self.assertRegex(text, r"cache_insert\(int\) 30000 10000\n")

    def test_cut_off(self):
        path = os.path.join(self.folder, "cut")
        with open(self.small, encoding="utf-8") as file:
            lines = file.read().split("\npoint")[0]
        with open(path, "w", encoding="utf-8") as file:
            file.write(lines)
        self.assertIn("the file was cut off", self.made(path))

    def test_output_file(self):
        path = os.path.join(self.folder, "out")
        for name in FORMATS:
            self.assertEqual(self.made("--" + name, "-o", path, self.small), "")
            with open(path, "rb") as file:
                self.assertEqual(file.read(), self.made("--" + name, self.small, text=False))


class Pprof(WithProfiles):
    """The programs of Debian's packages golang-go and google-perftools."""

    def pprof(self, *arguments):
        environment = dict(
            os.environ, HOME=self.folder, PPROF_TMPDIR=self.folder, GOFLAGS="", GOTOOLCHAIN="local"
        )
        return subprocess.run(
            ["go", "tool", "pprof", "-symbolize=none", *arguments],
            env=environment,
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            check=True,
            text=True,
        ).stdout

    def profile(self, *arguments):
        path = os.path.join(self.folder, "profile.pb.gz")
        self.made("--pprof", "-o", path, *arguments)
        return path

    def test_top(self):
        path = self.profile(self.small)
        with gzip.open(path) as file:
            self.assertGreater(len(file.read()), 500)
        text = self.pprof("-top", path)
        self.assertIn("Type: inuse_space", text)
        self.assertIn("100% of 11000B total", text)
        self.assertRegex(text, r"\n +10000B 90\.91% .*cache_insert")

    def test_other_values(self):
        path = self.profile(self.small)
        totals = {"alloc_space": "15000B", "alloc_objects": "40", "inuse_objects": "20"}
        for kind, total in totals.items():
            text = self.pprof("-top", "-sample_index=" + kind, path)
            self.assertRegex(text, r" of %s total" % total)

    def test_lines_mappings_and_times(self):
        text = self.pprof("-raw", self.profile(self.small))
        self.assertRegex(text, r"parse_header .*self_profile\.cc:\d+")
        mapping = r"\n1: 0x[0-9a-f]+/0x[0-9a-f]+/0x[0-9a-f]+ \S*self_profile [0-9a-f]{40} "
        self.assertRegex(text, mapping)
        self.assertIn("Period: 524288", text)
        self.assertRegex(text, r"Duration: 2s?\n")

    def test_difference(self):
        text = self.pprof("-top", self.profile("--diff", self.small, self.large))
        self.assertIn("of 21.48kB total", text)
        text = self.pprof("-top", self.profile("--diff", self.large, self.small))
        self.assertIn("-19.53kB", text)

    def test_google_pprof(self):
        path = os.path.join(self.folder, "profile.heap")
        self.made("--heap", "-o", path, self.small)
        done = subprocess.run(
            ["google-pprof", "--text", "--show_bytes", PROGRAM, path],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            check=True,
            text=True,
        )
        self.assertRegex(done.stdout, r"Total: 11000 B")
        self.assertRegex(done.stdout, r"\n +10000 +90\.9% .*cache_insert")


class Refusals(WithProfiles):
    def test_usage(self):
        for arguments, line in (
            ((), "one profile is needed"),
            ((self.small, self.large), "one profile is needed"),
            (("--diff", self.small), "--diff needs two profiles"),
            (("--diff", "--heap", self.small, self.large), "--heap shows one profile"),
            (("--nonsense", self.small), "'--nonsense' is not understood"),
            (("--rows", "0", self.small), "--rows takes 1 to 1000000, not '0'"),
            (("--rows", "x", self.small), "--rows takes 1 to 1000000, not 'x'"),
            (("--by", "size", self.small), "'size' is no field of the profile; it has live_ob"),
        ):  # fmt: skip
            done = run(*arguments)
            self.assertEqual(done.returncode, 2, arguments)
            self.assertIn(line, done.stderr)
            self.assertIn("\nusage: hakmem-report ", done.stderr)
            self.assertEqual(done.stdout, "")

    def test_files(self):
        bad = os.path.join(self.folder, "bad")
        with open(bad, "w", encoding="utf-8") as file:
            file.write("hakmem-profile 1\nfields live_bytes\nstack x : 0x1\nend\n")
        for arguments, line in (
            (("/no/such",), "/no/such: No such file or directory"),
            ((self.folder,), ": Is a directory"),
            ((PROGRAM,), ": not a heap profile of hakmem"),
            ((bad,), bad + ": line 3: 'x' is no number"),
            (("--diff", self.small, bad), bad + ": line 3: 'x' is no number"),
            (("-o", "/no/such/file", self.small), "/no/such/file: No such file or directory"),
            (("-o", "/dev/full", self.small), "/dev/full: No space left on device"),
        ):
            done = run(*arguments)
            self.assertEqual(done.returncode, 1, arguments)
            self.assertIn(line, done.stderr)

    def test_help(self):
        done = run("--help")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        for name in FORMATS:
            self.assertIn("--" + name, done.stdout)


class Bundle(unittest.TestCase):
    def test_is_what_was_made(self):
        """Sums, and that each package in it is in the lock file and has its license there."""
        folder = os.path.join(HERE, "bundle")
        with open(os.path.join(folder, "SHA256SUMS"), encoding="ascii") as file:
            sums = dict(reversed(line.split()) for line in file)
        self.assertIn("bundle.min.js", sums)
        for name, wanted in sums.items():
            with open(os.path.join(folder, name), "rb") as file:
                self.assertEqual(hashlib.sha256(file.read()).hexdigest(), wanted, name)
        with open(os.path.join(folder, "package-lock.json"), encoding="utf-8") as file:
            locked = set(re.findall(r'"node_modules/((?:d3-\S+?|internmap))"', file.read()))
        with open(os.path.join(folder, "licenses.txt"), encoding="utf-8") as file:
            self.assertEqual(set(re.findall(r"(?m)^==== (\S+) ", file.read())), locked)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
