"""Heap profiles of a whole program: what is in them, when they are written, and that neither fork
nor dlopen nor threads that end stop the program.

profile_test.py LIBRARY SECURE_LIBRARY PROFILED_PROGRAM [CASES]
"""
import glob
import os
import re
import subprocess
import sys
import tempfile
import time
import unittest

LIBRARIES = [os.path.abspath(a) for a in sys.argv[1:3]]
PROGRAM = os.path.realpath(sys.argv[3])  # as the kernel names it
SMALL, LARGE = 3000 * 1000, 20 * 200000


def symbols(program):
    """(address, name) of functions, by nm, in order."""
    text = subprocess.run(["nm", "-n", program], stdout=subprocess.PIPE, text=True, check=True)
    rows = re.findall(r"(?m)^([0-9a-f]+) [tT] (\S+)$", text.stdout)
    return [(int(address, 16), name) for address, name in rows]


class Profile:
    def __init__(self, path):
        with open(path, encoding="utf-8") as stream:
            self.lines = stream.read().splitlines()
        self.head, self.stacks, self.maps, self.points = {}, [], [], 0
        for line in self.lines:
            word, _, rest = line.partition(" ")
            if word == "stack":
                numbers, _, addresses = rest.partition(":")
                values = [int(n) for n in numbers.split() if not n.startswith("tid=")]
                row = dict(zip(self.head["fields"].split(), values))
                row["tid"] = "tid=" in numbers
                row["addresses"] = [int(a, 16) for a in addresses.split()]
                self.stacks.append(row)
            elif word == "map":
                span, offset, build_id, name = rest.split(" ", 3)
                start, end = (int(n, 16) for n in span.split("-"))
                self.maps.append((start, end, int(offset, 16), build_id, name))
            elif word == "point":
                self.points += 1
            else:
                self.head[word] = rest

    def named(self, address):
        """The program's function that the address is in, or None."""
        for start, end, offset, _, name in self.maps:
            if start <= address < end and name == PROGRAM:
                within = address - start + offset
                # Text of these small programs lies where it lies in the file.
                below = [n for a, n in symbols(PROGRAM) if a <= within]
                return below[-1] if below else None
        return None

    def sum(self, field, function):
        return sum(
            row[field]
            for row in self.stacks
            if any(self.named(a - 1) == function for a in row["addresses"][:3])
        )

    def live(self, function):
        return self.sum("live_bytes", function)


class Profiles(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.file = os.path.join(self.folder.name, "heap profile")

    def run_it(self, mode, library=LIBRARIES[0], file=None, **environment):
        """The paths of the profiles."""
        done = subprocess.run(
            [PROGRAM, mode],
            env=dict(
                {
                    "PATH": "/usr/bin:/bin",
                    "LD_PRELOAD": library,
                    "HAKMEM_PROFILE": file or self.file,
                    "HAKMEM_PROFILE_RATE": "0",
                },
                **{"HAKMEM_PROFILE_" + k: str(v) for k, v in environment.items()},
            ),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            timeout=120,
        )
        self.stderr = done.stderr
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(glob.glob(self.folder.name + "/*.tmp"), [], "what was begun is whole")
        return sorted(glob.glob(self.folder.name + "/*"))

    def test_at_exit(self):
        for library in LIBRARIES:
            with self.subTest(library=library):
                (path,) = self.run_it("leak", library, PERIOD=16384)
                self.assertRegex(path, r"/heap profile\.\d+\.1$")
                profile = Profile(path)
                self.assertEqual(profile.lines[0], "hakmem-profile 1")
                self.assertEqual(profile.lines[-1], "end")
                self.assertEqual(profile.head["reason"], "exit")
                self.assertEqual(profile.head["program"], PROGRAM)
                self.assertGreater(profile.points, 0)
                self.assertTrue(any(m[4] == PROGRAM for m in profile.maps))
                self.assertTrue(all(re.fullmatch("-|[0-9a-f]{8,64}", m[3]) for m in profile.maps))
                # Five standard deviations: 13 and 5 % of them, and what a size class adds.
                self.assertAlmostEqual(profile.live("keep_small") / SMALL, 1, delta=0.45)
                self.assertAlmostEqual(profile.live("keep_large") / LARGE, 1, delta=0.15)
                os.remove(path)

    def test_at_quick_exit(self):
        (path,) = self.run_it("quick", PERIOD=16384)
        profile = Profile(path)
        self.assertEqual(profile.head["reason"], "exit")
        self.assertGreater(profile.live("keep_large"), LARGE / 2)

    def test_nothing_is_said_of_a_program_that_allocates_nothing(self):
        for library in LIBRARIES:
            with self.subTest(library=library):
                self.run_it("nothing", library)
                self.assertEqual(self.stderr, "")

    def test_names(self):
        path = os.path.join(self.folder.name, "x%%-%p-%n-%p.prof")
        (path,) = self.run_it("leak", file=path)
        self.assertRegex(path, r"/x%-(\d+)-1-\1\.prof$")

    def test_off(self):
        self.assertEqual(self.run_it("leak", EXIT=0), [])

    def test_signal(self):
        paths = self.run_it("signal", SIGNAL=12, PERIOD=16384)
        self.assertEqual([Profile(p).head["reason"] for p in paths], ["signal", "exit"])
        self.assertGreater(Profile(paths[0]).live("keep_small"), SMALL / 2)

    def test_growth(self):
        paths = self.run_it("grow", GROWTH="16m", EXIT=0)
        self.assertIn(len(paths), (3, 4, 5))
        self.assertEqual({Profile(p).head["reason"] for p in paths}, {"growth"})

    def test_interval(self):
        begun = time.monotonic()
        paths = self.run_it("seconds", INTERVAL=1, PERIOD=2000)
        most = int(time.monotonic() - begun)
        reasons = [Profile(p).head["reason"] for p in paths]
        self.assertEqual(sorted(set(reasons)), ["exit", "interval"])
        self.assertEqual(reasons.count("exit"), 1)
        self.assertLessEqual(reasons.count("interval"), most)

    def test_threads(self):
        (path,) = self.run_it("threads", PERIOD=65536, THREADS=1)
        self.assertTrue(all(row["tid"] for row in Profile(path).stacks))
        (path,) = [p for p in self.run_it("threads", PERIOD=1000) if p != path]
        profile = Profile(path)
        self.assertFalse(any(row["tid"] for row in profile.stacks))
        self.assertLess(profile.live("churn"), 300000, "all was freed")

    def test_libraries(self):
        self.assertEqual(len(self.run_it("libraries", PERIOD=500)), 1)

    def test_threads_that_ask_for_their_stack(self):
        for library in LIBRARIES:
            with self.subTest(library=library):
                (path,) = self.run_it("stacks", library, PERIOD=1)
                os.remove(path)

    def test_fork(self):
        for library in LIBRARIES:
            with self.subTest(library=library):
                paths = self.run_it("fork", library, PERIOD=2000)
                self.assertEqual(len(paths), 21, "each child has written one")
                for path in paths:
                    self.assertEqual(Profile(path).lines[-1], "end")
                    os.remove(path)

    def test_exec(self):
        (path,) = self.run_it("exec", PERIOD=16384)
        self.assertGreater(Profile(path).live("keep_small"), SMALL / 2)

    def test_leaks_beside_guard_and_profile(self):
        for library in LIBRARIES:
            for guard in "0", "20":
                with self.subTest(library=library, guard=guard):
                    report = os.path.join(self.folder.name, "leaks")
                    done = subprocess.run(
                        [PROGRAM, "lose"],
                        env={
                            "LD_PRELOAD": library,
                            "HAKMEM_LEAKS": report,
                            "HAKMEM_PROFILE": self.file,
                            "HAKMEM_PROFILE_PERIOD": "10000",
                            "HAKMEM_GUARD": guard,
                        },
                        stderr=subprocess.PIPE,
                        text=True,
                        timeout=120,
                        check=False,
                    )
                    self.assertEqual((done.returncode, done.stderr), (0, ""))
                    (path,) = glob.glob(report + ".*")
                    leaks = Profile(path)
                    self.assertEqual(leaks.lines[-1], "end")
                    # A word may look like a pointer; guarded blocks are not reported (leaks.md).
                    least = 990 if guard == "0" else 900
                    lost = leaks.sum("direct_objects", "lose_one")
                    self.assertTrue(least <= lost <= 1000, lost)
                    self.assertEqual(leaks.sum("direct_objects", "keep_small"), 0)
                    (path,) = glob.glob(self.file + ".*")
                    live = Profile(path).live("lose_one")
                    # Five standard deviations: 10 % of a million bytes each, and the class.
                    self.assertAlmostEqual(live / 1000000, 1, delta=0.6)
                    for name in glob.glob(self.folder.name + "/*"):
                        os.remove(name)

    def test_refused(self):
        self.assertEqual(self.run_it("leak", file="/nonexistent/folder/file"), [])
        self.assertRegex(
            self.stderr,
            r"hakmem: heap profile not written to /nonexistent/folder/file\.\d+\.1: errno 2\n",
        )


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1] + sys.argv[4:])
