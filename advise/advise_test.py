"""`hakmem advise`: a program is recorded and played under what is installed; what is refused; the
page in headless Chromium."""

import os
import subprocess
import sys
import tempfile
import unittest

COMMAND, REPLAY = map(os.path.abspath, sys.argv[1:3])
HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(HERE, "..", "testing"))
import browser  # noqa: E402

# A program that works a moment, so that there is something to play.
WORK = "x = [[str(i) for i in range(1000)] for _ in range(20)]"
ROWS = ["HAKMEM_PURGE_DELAY_MS=0", "HAKMEM_BIN_ADAPT=0", "glibc"]
CUT_OFF = """[...document.querySelectorAll("body *")].filter((e) => {
    const box = e.getBoundingClientRect();
    return box.width > 0 && (box.right > innerWidth + 0.5 || box.left < -0.5 ||
        (e.scrollWidth > e.clientWidth + 1 && getComputedStyle(e).display !== "inline" &&
         !e.classList.contains("scale")));
}).map((e) => e.tagName + " " + e.textContent.slice(0, 40))"""


class AdviseTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.temporary = os.path.join(self.folder, "tmp")
        os.mkdir(self.temporary)

    def advise(self, *arguments, **environment):
        env = dict(os.environ, TMPDIR=self.temporary, HAK_REPLAY_PROGRAM=REPLAY)
        env.update(environment)
        done = subprocess.run(
            [COMMAND, "advise", *arguments],
            cwd=self.folder,
            env=env,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            check=False,
            text=True,
        )
        self.assertEqual(os.listdir(self.temporary), [], "it leaves nothing behind")
        return done

    def record(self):
        path = os.path.join(self.folder, "my.trace")
        subprocess.run(
            [COMMAND, "record", "-o", path, sys.executable, "-c", WORK],
            check=True,
            stderr=subprocess.DEVNULL,
        )
        return path

    def test_a_program(self):
        done = self.advise("--rounds", "9", sys.executable, "-c", WORK)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertRegex(done.stdout, r"^\S*python\S*: \d+ calls of 1 thread, at most .* alive; 9 ")
        for kind in ("Time", "Peak memory", "Resident memory"):
            self.assertRegex(done.stdout, r"(?m)^%s: (nothing|\S+ would) need" % kind)
        for row in ROWS:
            self.assertRegex(
                done.stdout,
                r"(?m)^%s +(?:[+-]\d+\.\d %% \([+-]\d+\.\d to [+-]\d+\.\d\)\s*){3}$" % row,
            )
        self.assertRegex(done.stdout, r"(?m)^hakmem +[\d.]+ (ms|s) +[\d.]+ \w+B +[\d.]+ \w+B$")
        self.assertIn("nor the time that passes there", done.stdout)

    def test_a_trace(self):
        self.record()
        done = self.advise("--rounds", "6", "--trace", "my.trace")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("too few rounds to say", done.stdout)

    def test_the_program_s_status_is_not_ours(self):
        done = self.advise("--rounds", "6", sys.executable, "-c", WORK + "; raise SystemExit(3)")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("the program ended with status 3", done.stderr)

    def test_settings_of_the_caller_do_not_count(self):
        done = self.advise("--rounds", "6", "--trace", self.record(), HAKMEM_VERBOSE="1")
        self.assertEqual(done.returncode, 0, done.stderr)
        # The command itself may say so; dozens of replays do not.
        self.assertLessEqual(done.stderr.count("hakmem: active"), 1)

    def test_refusals(self):
        broken = os.path.join(self.folder, "broken")
        with open(broken, "wb") as file:
            file.write(b"no trace at all" * 100)
        for arguments, status, line in (
            ((), 2, "hakmem: advise: needs a program, or --trace"),
            (("--trace", "x", "true"), 2, "takes a program or --trace, not both"),
            (("--rounds", "5", "true"), 2, "--rounds"),
            (("--rounds", "100", "true"), 2, "'--rounds' takes at most 99"),
            (("--seconds", "x", "true"), 2, "--seconds"),
            (("--trace", "/no/such"), 2, "/no/such: No such file or directory"),
            (("--trace", broken), 2, broken + ": "),
            (("no-such-program",), 127, "no-such-program: not found"),
        ):
            done = self.advise(*arguments)
            self.assertEqual(done.returncode, status, (arguments, done.stderr))
            self.assertIn(line, done.stderr)
            self.assertEqual(done.stdout, "")
        trace = self.record()
        done = self.advise("--trace", trace, HAK_REPLAY_PROGRAM="/no/such")
        self.assertEqual(done.returncode, 125 if not self.built_beside() else 0)
        done = self.advise("--trace", trace, HAKMEM_LIBRARY=REPLAY)
        self.assertEqual(done.returncode, 125)
        self.assertIn("hakmem: advise: hakmem: ", done.stderr)
        done = self.advise("--rounds", "6", "-o", "/no/such/file", "--trace", trace)
        self.assertEqual(done.returncode, 1)
        self.assertIn("/no/such/file: No such file or directory", done.stderr)

    def built_beside(self):
        command = os.path.realpath(COMMAND)
        beside = os.path.join(os.path.dirname(command), "../bench/replay/replay_glibc")
        return os.path.exists(beside)

    def test_page(self):
        trace = self.record()
        done = self.advise("--rounds", "9", "--html", "--trace", trace)
        self.assertEqual((done.returncode, done.stdout), (0, ""), done.stderr)
        page = os.path.join(self.folder, "my.trace.advice.html")
        driver = browser.Browser()
        self.addCleanup(driver.close)
        for width in (1280, 420):
            for theme in ("light", "dark"):
                driver.call(
                    "Emulation.setEmulatedMedia",
                    features=[{"name": "prefers-color-scheme", "value": theme}],
                )
                driver.open(page, width, drawn="document.querySelectorAll('section').length === 3")
                self.assertEqual(driver.evaluate(CUT_OFF), [], width)
                rows = driver.evaluate("document.querySelectorAll('.row').length")
                self.assertEqual(rows % 3, 0)
                self.assertGreaterEqual(rows, 3 * 8)
                pictures = os.environ.get("TEST_UNDECLARED_OUTPUTS_DIR", self.folder)
                driver.picture(f"{pictures}/advice_{width}_{theme}.png")
        self.assertEqual(driver.evaluate("performance.getEntriesByType('resource').length"), 0)
        with open(page, encoding="utf-8") as file:
            self.assertNotIn("<script", file.read())


if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1])
