"""Tests of spread.py with a scheduler that is made up: sbatch and squeue are scripts. slurm_test
has a real one."""

import contextlib
import io
import json
import os
import stat
import tempfile
import unittest

import comparison_testing as made_up
import spread

# Runs a job at once: what DOES says for the job's name.
SBATCH = """\
#!/bin/sh
for word; do case $word in
  --partition=*) partition=${word#*=};; --output=*) folder=${word#*=}; folder=${folder%/log};;
esac; done
number=$(($(cat "$FAKE/number" 2>/dev/null || echo 0) + 1)); echo $number >"$FAKE/number"
case $(cat "$FAKE/does/$partition" 2>/dev/null) in
  refuse) echo "no such partition" >&2; exit 1;;
  fail) echo "it went wrong" >"$folder/log"; echo 1 >"$folder/status";;
  lose) ;;
  stay) echo $number >>"$FAKE/queue";;
  *) cp "$FAKE/$partition.json" "$folder/result.json"; echo 0 >"$folder/status";;
esac
echo "$number;cluster"
"""
SQUEUE = """\
#!/bin/sh
[ -e "$FAKE/away" ] && exit 1
cat "$FAKE/queue" 2>/dev/null
: >"$FAKE/queue"
"""


class SpreadTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.out = os.path.join(self.folder, "out")
        environment, poll = dict(os.environ), spread.POLL_S
        self.addCleanup(lambda: (os.environ.clear(), os.environ.update(environment)))
        self.addCleanup(setattr, spread, "POLL_S", poll)
        spread.POLL_S = 0.01
        os.environ.update(FAKE=self.folder, PATH=f"{self.folder}:{os.environ['PATH']}",
                          BUILD_WORKING_DIRECTORY=self.folder)  # fmt: skip
        for name, text in (("sbatch", SBATCH), ("squeue", SQUEUE)):
            self.write(name, text)
            os.chmod(os.path.join(self.folder, name), stat.S_IRWXU)
        os.mkdir(os.path.join(self.folder, "does"))
        os.makedirs(os.path.join(self.out, "programs"))
        self.write("out/programs/complete", "")  # none are copied
        for partition in ("p", "q"):
            machine = {**made_up.ABOUT["machine"], "partition": partition}
            made = made_up.report({"hakmem": 3e7, "glibc": 1e7}, names=["latency"], machine=machine)
            self.write(partition + ".json", json.dumps(made))

    def write(self, name, text):
        with open(os.path.join(self.folder, name), "w", encoding="utf-8") as file:
            file.write(text)

    def spread(self, *arguments):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = spread.main(list(arguments))
        return status, out.getvalue(), err.getvalue()

    def two(self, *more):
        return self.spread(
            "--partition", "p", "--partition", "q", "--out", "out", "--bench", "latency", *more
        )

    def test_bad_arguments(self):
        good = ["--partition", "p", "--out", "out"]
        for arguments in (
            [], ["--partition", "p"], ["--out", "out"], [*good, "--bench", "nonsense"],
            [*good, "--tag", "nonsense"], [*good, "--runs", "5"], [*good, "--minutes", "0"],
            [*good, "--partition", "p"], ["--partition", "a b", "--out", "out"],
            [*good, "--quick", "--runs", "9"], [*good, "more"],
        ):  # fmt: skip
            status, out, err = self.spread(*arguments)
            self.assertEqual((status, out), (2, ""), arguments)
            self.assertIn("usage: spread", err)

    def test_all_done(self):
        status, out, err = self.two("--quick")
        self.assertEqual((status, err), (
            0, "spread: 2 jobs: 1 workloads on p, q; 0 are done, 0 are in the queue\n"
        ))  # fmt: skip
        self.assertEqual(out.count("hakmem is the fastest"), 3)
        self.assertIn("verdict on all 2 machines: ", out)
        path = os.path.join(self.out, "jobs", "q", "latency", "script")
        with open(path, encoding="utf-8") as file:
            script = file.read()
        self.assertIn("compare.py --test-outputs --bench latency --quick\n", script)
        self.assertIn("2 are done", self.two()[2])  # nothing is measured again

    def test_the_core_set_is_the_default(self):
        self.write("does/p", "lose")
        err = self.spread("--partition", "p", "--out", "out")[2]
        self.assertIn("15 jobs: 15 workloads on p", err)
        self.assertEqual(err.count(": lost: job "), 15)

    def test_failed_and_lost_are_named_and_run_again_alone(self):
        for does, words in (
            ("fail", "q/latency: failed: exit status 1: it went wrong"),
            ("lose", "q/latency: lost: job "),
        ):
            self.write("does/q", does)
            status, out, err = self.two()
            self.assertEqual(status, 1)
            self.assertIn("spread: " + words, err)
            self.assertIn("1 of 2 jobs have no result; again, for these alone: ./bazelw", err)
            self.assertIn("partition p: hakmem is the fastest", out)
            self.assertNotIn("all 2 machines", out)
        with open(os.path.join(self.folder, "number"), encoding="utf-8") as file:
            self.assertEqual(file.read(), "3\n")  # p's job once, q's twice
        os.remove(os.path.join(self.folder, "does", "q"))
        status, out, err = self.two()
        self.assertEqual(status, 0)
        self.assertIn("1 are done", err)
        self.assertIn("all 2 machines", out)

    def test_goes_on_with_jobs_that_are_in_the_queue(self):
        self.write("does/q", "stay")
        self.assertEqual(self.two()[0], 1)  # it has left the queue without an end
        self.write("queue", "2\n")  # but now it is there again
        self.assertIn("1 are done, 1 are in the queue", self.two()[2])
        with open(os.path.join(self.folder, "number"), encoding="utf-8") as file:
            self.assertEqual(file.read(), "2\n")

    def test_refusals_of_the_scheduler(self):
        self.write("does/p", "refuse")
        self.assertEqual(self.two()[::2], (1, (
            "spread: 2 jobs: 1 workloads on p, q; 0 are done, 0 are in the queue\n"
            "spread: p/latency: sbatch: no such partition\n"
        )))  # fmt: skip
        self.write("away", "")
        self.assertIn("controller does not answer", self.two()[2])
        os.remove(os.path.join(self.folder, "squeue"))
        os.environ["PATH"] = self.folder
        self.assertEqual(
            self.two()[::2], (1, "spread: squeue is not installed (Debian: slurm-client)\n")
        )

    def test_the_controller_may_be_away_for_a_while(self):
        now, answers = [0.0], [None, None, {"7"}, None, set()]

        def sleep(_seconds):
            now[0] += 100

        job = spread.Job(self.out, "p", "latency")
        os.makedirs(job.folder)
        self.write("out/jobs/p/latency/id", "7")
        self.addCleanup(setattr, spread, "queued", spread.queued)
        spread.queued = lambda: answers.pop(0)
        with contextlib.redirect_stderr(io.StringIO()):
            spread.wait([job], sleep, lambda: now[0])
        self.assertEqual(answers, [])
        spread.queued = lambda: None
        with self.assertRaisesRegex(spread.Failure, "goes on later"):
            spread.wait([job], sleep, lambda: now[0])


if __name__ == "__main__":
    unittest.main()
