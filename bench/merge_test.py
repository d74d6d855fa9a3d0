"""Tests of merge.py: results are joined by machine, never across machines, from files, folders and
zip files."""

import contextlib
import io
import json
import os
import re
import tempfile
import unittest
import zipfile

import comparison_testing as made_up
import merge


class MergeTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = folder.name

    def put(self, place, report):
        path = os.path.join(self.folder, "in", place)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        if path.endswith(".zip"):
            with zipfile.ZipFile(path, "w") as archive:
                archive.writestr("result.json", json.dumps(report))
        else:
            with open(path, "w", encoding="utf-8") as file:
                json.dump(report, file)

    def merge(self):
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = merge.main(
                [os.path.join(self.folder, "in"), "--out", os.path.join(self.folder, "out")]
            )
        folder = os.path.join(self.folder, "out")
        return status, sorted(os.listdir(folder)) if os.path.isdir(folder) else [], err.getvalue()

    def joined(self, name):
        with open(os.path.join(self.folder, "out", name), encoding="utf-8") as file:
            return json.load(file)

    def test_by_machine(self):
        other = {**made_up.ABOUT["machine"], "cpus": 64}
        self.put("a/test.outputs/outputs.zip", made_up.report(names=["one"]))
        self.put("b/result.json", made_up.report({"hakmem": 3e7, "glibc": 1e7}, names=["two"]))
        self.put("c/result.json", made_up.report(names=["one"], machine=other))
        status, files, err = self.merge()
        self.assertEqual((status, err), (0, ""))
        small, large = "some-cpu-2-cpus-linux-6-1", "some-cpu-64-cpus-linux-6-1"
        self.assertEqual(
            files, sorted(
                [f"{name}.{ending}" for name in (small, large) for ending in merge.WRITERS]
                + [merge.VERDICTS]
            ),
        )
        report = self.joined(small + ".json")
        self.assertEqual([part["workload"] for part in report["workloads"]], ["one", "two"])
        self.assertEqual(report["overall"]["glibc"]["workloads"], 2)
        self.assertAlmostEqual(report["overall"]["glibc"]["time_to_ours"], 6**0.5, 2)
        self.assertEqual(report["overall"]["jemalloc"]["workloads"], 1)
        self.assertEqual(len(self.joined(large + ".json")["workloads"]), 1)

    def test_verdicts(self):
        """One a machine, and one over all: slow machines do not weigh more."""
        speeds = ({"hakmem": 3e7, "glibc": 1e7}, {"hakmem": 1.1e6, "glibc": 1e6})
        for i, partition in enumerate(("first", "second")):
            machine = {**made_up.ABOUT["machine"], "partition": partition}
            self.put(f"{i}/result.json", made_up.report(speeds[i], machine=machine))
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            status = merge.main([self.folder, "--out", os.path.join(self.folder, "out")])
        self.assertEqual(status, 0)
        with open(os.path.join(self.folder, "out", merge.VERDICTS), encoding="utf-8") as file:
            text = file.read()
        headings = re.findall("(?m)^## (.*)$", text)
        where = "Some CPU, 2 CPUs, Linux 6.1, partition "
        self.assertEqual(headings, [where + "first", where + "second", "all 2 machines"])
        sentences = re.findall("(?m)^hakmem is the fastest: glibc.*$", text)
        self.assertEqual(len(sentences), 3)
        self.assertIn("needs 3.00 times its time", sentences[0])
        self.assertIn("needs 10.0 % more time", sentences[1])
        self.assertIn("needs 81.7 % more time", sentences[2])  # sqrt(3 * 1.1)
        self.assertIn("(4 workloads, 12 rounds", sentences[2])
        for sentence in sentences:
            self.assertIn(": " + sentence, out.getvalue())

    def test_twice(self):
        self.put("a/result.json", made_up.report(names=["one"], rounds=8))
        self.put("b/result.json", made_up.report(names=["one"], rounds=12))
        status, files, err = self.merge()
        self.assertEqual(status, 0)
        self.assertIn("measured twice", err)
        self.assertEqual(self.joined(files[2])["workloads"][0]["rounds"], 12)

    def test_nothing(self):
        os.mkdir(os.path.join(self.folder, "in"))
        self.assertEqual(self.merge()[0], 1)
        self.put("a/result.json", {"format": 1})
        status, _, err = self.merge()
        self.assertEqual(status, 1)
        self.assertIn("left out", err)


if __name__ == "__main__":
    unittest.main()
