"""spread under a real Slurm of its own: one node, two partitions, real programs. A job that fails
and one that is cancelled are named, and run again alone. Needs root for Slurm's daemons."""

import contextlib
import io
import json
import os
import subprocess
import tempfile
import threading
import time
import unittest

import merge
import slurm_testing
import spread


@unittest.skipUnless(
    not slurm_testing.missing() or "NO_SKIP" in os.environ, f"SKIPPED: {slurm_testing.missing()}"
)
class SlurmTest(unittest.TestCase):
    def setUp(self):
        self.assertIsNone(slurm_testing.missing())
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name
        self.out = os.path.join(self.folder, "out")
        slurm_folder = os.path.join(self.folder, "slurm")
        os.mkdir(slurm_folder)
        self.slurm = slurm_testing.Slurm(slurm_folder).__enter__()
        self.addCleanup(self.slurm.__exit__)
        environment = dict(os.environ)
        self.addCleanup(lambda: (os.environ.clear(), os.environ.update(environment)))
        os.environ.update(self.slurm.environment)
        # Python imports modules from where they really lie; the programs are beside this test.
        self.addCleanup(setattr, spread, "FOLDER", spread.FOLDER)
        spread.FOLDER = os.path.dirname(os.path.abspath(__file__))

    def spread(self, *more):
        """Exit status, standard output, standard error."""
        out, err = io.StringIO(), io.StringIO()
        arguments = ["--partition", "first", "--partition", "second", "--out", self.out, "--quick"]
        for name in ("mid_mt_gap", "random_mixed_256"):
            arguments += ["--bench", name]
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = spread.main([*arguments, *more])
        return status, out.getvalue(), err.getvalue()

    def ids(self):
        """{partition/workload: its job's number}."""
        found = {}
        for where, _, names in os.walk(os.path.join(self.out, "jobs")):
            if "id" in names:
                with open(os.path.join(where, "id"), encoding="utf-8") as file:
                    key = os.path.relpath(where, os.path.join(self.out, "jobs"))
                    found[key] = file.read()
        return found

    def cancel(self, name):
        """Cancels a job as soon as it is submitted."""
        end = time.monotonic() + 120
        while name not in self.ids() or not self.ids()[name]:
            if time.monotonic() > end:
                return
            time.sleep(0.05)
        subprocess.run(["scancel", self.ids()[name]], check=True)

    def test_two_partitions(self):
        # What is not there at one moment fails one job; another is cancelled while it waits.
        programs = spread.put_programs(self.out)
        broken = os.path.join(programs, "bench_mid_mt_gap_hakmem")
        os.rename(broken, broken + ".away")
        thread = threading.Thread(target=self.cancel, args=("second/random_mixed_256",))
        thread.start()
        status, out, err = self.spread()
        thread.join()
        self.assertEqual(status, 1, err)
        for name in ("first/mid_mt_gap", "second/mid_mt_gap"):
            self.assertRegex(err, f"spread: {name}: failed: exit status 1: .*is not there")
        lost = "second/random_mixed_256"
        self.assertIn(f"spread: {lost}: lost: job {self.ids()[lost]} left the queue", err)
        self.assertIn("spread: 3 of 4 jobs have no result; again, for these alone: ./bazelw", err)
        self.assertIn("partition first", out)
        before = self.ids()

        os.rename(broken + ".away", broken)
        status, out, err = self.spread()
        self.assertIn(status, (0, spread.NO_VERDICT), err)  # it depends on the machine's noise
        self.assertIn("4 jobs: 2 workloads on first, second; 1 are done, 0 are in the queue", err)
        after = self.ids()
        self.assertEqual(
            [name for name in before if before[name] == after[name]], ["first/random_mixed_256"]
        )
        for where in ("partition first: ", "partition second: ", "all 2 machines: "):
            self.assertEqual(out.count(where), 1, out)
        files = sorted(os.listdir(os.path.join(self.out, "joined")))
        self.assertEqual(len(files), 2 * len(merge.WRITERS) + 1, files)
        for name in files:
            if name.endswith(".json"):
                with open(os.path.join(self.out, "joined", name), encoding="utf-8") as file:
                    report = json.load(file)
                self.assertEqual(
                    sorted(part["workload"] for part in report["workloads"]),
                    ["mid_mt_gap", "random_mixed_256"],
                )
                self.assertRegex(name, f"partition-{report['machine']['partition']}.json$")

    def test_unknown_partition(self):
        status, out, err = self.spread("--partition", "third")
        self.assertEqual((status, out), (1, ""))
        self.assertIn("spread: third/random_mixed_256: sbatch: ", err)
        self.assertIn("nvalid partition", err)


if __name__ == "__main__":
    unittest.main()
