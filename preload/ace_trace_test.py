"""The lines of HAKMEM_ACE_TRACE, from a program that makes allocations fail for real; and
docs/allocation_failed.md, whose output is that of this test.

ace_trace_test.py LIBRARY TEST_ACE_TRACE PAGE HAKMEM_COMMAND
"""
import os
import re
import subprocess
import sys
import unittest

LIBRARY, PROGRAM, PAGE, COMMAND = (os.path.abspath(a) for a in sys.argv[1:5])

# case -> options
CASES = {
    "threshold": {"HAKMEM_WMAX_MID": "1.01", "HAKMEM_WMAX_LARGE": "1.01"},
    "exhaustion": {"HAKMEM_LIMIT_HARD": "64m"},
    "mapfail": {},
    "fork": {},
    "signal": {},
    "fallback": {"HAKMEM_LIMIT_HARD": "64m", "HAKMEM_LD_SAFE": "1"},
}


def run(case, trace="1", **options):
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HAKMEM_")}
    environment.update(CASES[case], LD_PRELOAD=LIBRARY, HAKMEM_ACE_TRACE=trace, **options)
    return subprocess.run(
        [PROGRAM, case],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        check=True,
    )


class Trace(unittest.TestCase):
    def test_threshold(self):
        done = run("threshold")
        self.assertEqual(done.stdout, "OK\n", "a failed step is no failed request")
        self.assertEqual(done.stderr, "[ACE-FAIL] Threshold  size=33792 class=40960 wmax=1.01\n")

    def test_exhaustion(self):
        done = run("exhaustion")
        lines = done.stderr.splitlines()
        self.assertEqual(done.stdout, "NULL\n")
        self.assertEqual(len(lines), 3, done.stderr)
        for line in lines[:2]:
            found = re.fullmatch(
                r"\[ACE-FAIL\] Exhaustion size=1048576 class=1048576 pool_bytes=(\d+) "
                r"limit=67108864",
                line,
            )
            self.assertTrue(found, line)
            self.assertGreater(int(found.group(1)), 60 << 20)
            self.assertLessEqual(int(found.group(1)), 64 << 20)
        self.assertEqual(
            lines[2],
            "[ACE-FAIL] Request    size=1000000 align=1 path=Exhaustion,Reclaim,Exhaustion",
        )

    def map_fails(self, case):
        done = run(case)
        lines = done.stderr.splitlines()
        self.assertEqual(done.stdout, "NULL\n")
        for line in lines[:2]:
            found = re.fullmatch(
                r"\[ACE-FAIL\] MapFail    size=\d+ errno=12 \(ENOMEM\) mapped=(\d+) vma=(\d+) "
                r"rlimit_as=(\d+)",
                line,
            )
            self.assertTrue(found, line)
            mapped, vma, limit = map(int, found.groups())
            self.assertGreater(mapped, 30 << 20)
            self.assertTrue(5 < vma < 1000, line)
            self.assertLess(mapped, limit)
        self.assertEqual(
            lines[2:], ["[ACE-FAIL] Request    size=5000000 align=1 path=MapFail,Reclaim,MapFail"]
        )

    def test_map_fail(self):
        self.map_fails("mapfail")

    def test_in_a_forked_child(self):
        self.map_fails("fork")

    def test_in_a_signal_handler(self):
        done = run("signal")
        self.assertEqual(done.stdout, "NULL\n")
        self.assertIn("[ACE-FAIL] MapFail    size=5497558138880 errno=12 (ENOMEM)", done.stderr)
        self.assertIn("[ACE-FAIL] Request    size=5497558138880 align=1 path=MapFail", done.stderr)

    def test_fallback(self):
        done = run("fallback")
        self.assertEqual(done.stdout, "OK\n")
        self.assertIn("[ACE-FAIL] Fallback   size=100000000 reason=HAKMEM_LD_SAFE=1\n", done.stderr)
        self.assertNotIn("Request", done.stderr)

    def test_without_the_trace_only_counters(self):
        for case in CASES:
            with self.subTest(case):
                self.assertEqual(run(case, trace="0").stderr, "")
        counters = run("exhaustion", trace="0", HAKMEM_SHOW_STATS="1").stderr
        self.assertIn("hakmem: fail_exhaustion = 2 steps (", counters)
        self.assertIn("hakmem: failed_requests = 1 requests (", counters)

    def test_wrong_usage(self):
        done = subprocess.run([PROGRAM, "nonsense"], stderr=subprocess.PIPE, text=True, check=False)
        self.assertEqual(done.returncode, 2)
        self.assertTrue(done.stderr.startswith("usage: "))


def without_numbers(text):
    """The text without the figures that differ from machine to machine."""
    return re.sub(r"\b(mapped|vma|rlimit_as|pool_bytes)=\d+", r"\1=N", text)


def committed(lines):
    return [int(n) for line in lines for n in re.findall(r"\bpool_bytes=(\d+)", line)]


class Page(unittest.TestCase):
    def test_each_output_on_the_page_is_real(self):
        with open(PAGE) as page:
            shown = re.findall(r"    \$ (.*?)test_ace_trace (\w+)\n((?:    .*\n)+)", page.read())
        shown = [row for row in shown if row[1] != "hoard"]
        self.assertEqual({case for _, case, _ in shown}, set(CASES) - {"fork", "signal"})
        for before, case, output in shown:
            for name, value in CASES[case].items():
                self.assertIn("%s=%s " % (name, value), before)
            lines = [line.strip() for line in output.splitlines()]
            done = run(case)
            real = (done.stderr + done.stdout).splitlines()
            self.assertEqual(list(map(without_numbers, lines)), list(map(without_numbers, real)))
            # What was committed depends on hakmem, and on the machine by a slab or two.
            for on_page, now in zip(committed(lines), committed(real)):
                self.assertAlmostEqual(on_page, now, delta=4 << 16, msg=case)


def shape(line):
    """The line without its figures, which differ from machine to machine, and its spaces."""
    return " ".join(re.sub(r"\d[\d.]*( [KMG]?i?B)?", "N", line).split())


class WhoHoldsTheMemory(unittest.TestCase):
    def setUp(self):
        environment = {k: v for k, v in os.environ.items() if not k.startswith("HAKMEM_")}
        environment.update(LD_PRELOAD=LIBRARY, HAKMEM_LIMIT_HARD="64m")
        self.child = subprocess.Popen(
            [PROGRAM, "hoard"], env=environment, stdout=subprocess.PIPE, text=True
        )
        self.addCleanup(self.child.stdout.close)
        self.addCleanup(self.child.wait)
        self.addCleanup(self.child.kill)
        self.assertEqual(self.child.stdout.readline(), "NULL\n")

    def ask(self, command):
        """The lines that a shell prints for a line of the page."""
        folder = os.path.dirname(COMMAND)
        environment = dict(os.environ, PATH=folder + ":" + os.environ["PATH"])
        environment.pop("BUILD_WORKING_DIRECTORY", None)
        done = subprocess.run(
            ["sh", "-c", command.replace("$!", str(self.child.pid))], env=environment,
            capture_output=True, text=True, check=False,
        )
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return done.stdout.splitlines()

    def test_the_outputs_on_the_page_are_real(self):
        with open(PAGE) as page:
            shown = re.findall(r"    \$ (hakmem .*)\n((?:    [^$].*\n|\n(?=     ))+)", page.read())
        self.assertEqual(len(shown), 2)
        for command, output in shown:
            self.assertEqual(
                [shape(line) for line in output.rstrip("\n").split("\n")],
                [shape(line) for line in self.ask(command)], command,
            )

    def test_it_names_the_holders(self):
        """Two sizes of blocks hold nearly all that the limit allows."""
        lines = [line.split() for line in self.ask("hakmem top -n 1 $!")]
        rows = [line for line in lines if len(line) > 5 and line[1] in ("B", "MiB")]
        sizes = [" ".join(line[:2]) for line in rows]
        self.assertEqual(sizes[:2], ["1.0 MiB", "512 B"])
        self.assertEqual(rows[1][4], "60000")
        self.assertGreater(float(rows[0][2]) + float(rows[1][2]), 55)


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
