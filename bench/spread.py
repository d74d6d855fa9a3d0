"""spread: a comparison on many machines under Slurm: one job a workload and partition, the results
joined by machine.

spread --partition NAME... --out FOLDER [--bench NAME | --tag TAG]... [--quick | --runs N]: FOLDER
is one that all nodes share; the programs are copied into it. Each job measures one workload under
all allocators, alone on its node, as //bench:workload_NAME does. When no job is left, the jobs that
failed or were lost are named, and the others' results are joined as `merge` does. The same command
again starts only what has no result yet. Exit status: 0; 1 when a job has no result; 2 for a wrong
command line; 4 when there is no verdict.
"""

import argparse
import glob
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import time

import merge
from comparison import table

FOLDER = os.path.dirname(os.path.abspath(__file__))
NO_VERDICT = 4
POLL_S = 2.0
UNREACHABLE_S = 300  # for so long the controller may be away: it may be started again
JOB = """\
#!/bin/sh
# Measures one workload on one node; made by //bench:spread.
export TEST_UNDECLARED_OUTPUTS_DIR={folder}
cd {programs} && python3 compare.py --test-outputs {arguments}
echo $? >{folder}/status.new && mv {folder}/status.new {folder}/status
"""


class Usage(Exception):
    """The command line is wrong; the text says how."""


class Failure(Exception):
    """It cannot go on; the text says why."""


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise Usage(message)


def parser():
    made = Parser(prog="spread", description=__doc__.split("\n\n", maxsplit=1)[0])
    made.add_argument(
        "--partition", metavar="NAME", action="append", required=True,
        help="a partition of Slurm, of which each workload gets one node (may be given more than "
        "once)",
    )
    made.add_argument(
        "--out", metavar="FOLDER", required=True,
        help="where jobs and results go, on shared storage",
    )
    made.add_argument(
        "--bench", metavar="NAME", action="append", default=[],
        help="only this workload (may be given more than once; default: the core set)",
    )
    made.add_argument(
        "--tag", metavar="TAG", action="append", default=[],
        help="the workloads with this tag (may be given more than once)",
    )
    length = made.add_mutually_exclusive_group()
    length.add_argument("--quick", action="store_true", help="little work")
    length.add_argument("--runs", metavar="N", type=int, help="rounds, at least 6")
    made.add_argument(
        "--minutes", metavar="N", type=int, default=30,
        help="after which Slurm ends a job (default %(default)s)",
    )
    return made  # fmt: skip


def chosen(options, workloads):
    for name in options.bench:
        if name not in workloads:
            raise Usage(f"argument --bench: no workload {name}; there are {', '.join(workloads)}")
    tags = set(options.tag or ([] if options.bench else ["core"]))
    found = [one for one in workloads.values() if one.name in options.bench or tags & set(one.tags)]
    if not found:
        raise Usage(f"argument --tag: no workload has the tag {', '.join(sorted(tags))}")
    return [one.name for one in found]


class Job:
    """One workload on one partition. All that is known of it is in its folder, so that another call
    goes on where this one ended:

    id      its number, once it is submitted
    status  compare's exit status, once it has run to its end
    log     what it printed
    result.json, result.html
    """

    def __init__(self, out, partition, workload):
        self.name = f"{partition}/{workload}"
        self.partition, self.workload = partition, workload
        self.folder = os.path.join(out, "jobs", partition, workload)

    def read(self, name):
        try:
            with open(os.path.join(self.folder, name), encoding="utf-8") as file:
                return file.read().strip()
        except FileNotFoundError:
            return None

    def is_done(self):
        return self.read("status") == "0" and self.read("result.json") is not None

    def why_not(self):
        """What became of a job that is no longer in the queue and is not done."""
        status, number = self.read("status"), self.read("id")
        if status is None:
            return (
                f"lost: job {number} left the queue without an end (its node failed, or it was "
                f"cancelled or ran too long)"
            )
        lines = [line for line in (self.read("log") or "").splitlines() if line.strip()]
        return f"failed: exit status {status}: {lines[-1] if lines else 'no output'}"

    def submit(self, programs, arguments, minutes):
        if os.path.exists(self.folder):
            shutil.rmtree(self.folder)
        os.makedirs(self.folder)
        script = os.path.join(self.folder, "script")
        with open(script, "w", encoding="utf-8") as file:
            file.write(JOB.format(folder=shlex.quote(self.folder), programs=shlex.quote(programs),
                                  arguments=shlex.join(["--bench", self.workload, *arguments])))
        told = ask(
            "sbatch", "--parsable", "--exclusive", f"--partition={self.partition}",
            f"--job-name=hakmem-{self.workload}", f"--output={self.folder}/log",
            f"--time={minutes}", "--no-requeue", script,
        )
        if told.returncode != 0:
            raise Failure(f"{self.name}: sbatch: {told.stderr.strip()}")
        with open(os.path.join(self.folder, "id"), "w", encoding="utf-8") as file:
            file.write(told.stdout.split(";")[0].strip())


def ask(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=120)
    except FileNotFoundError:
        raise Failure(f"{command[0]} is not installed (Debian: slurm-client)") from None
    except subprocess.TimeoutExpired:
        return subprocess.CompletedProcess(command, 1, "", "no answer")


def queued():
    """The numbers of all jobs that wait or run; None when the controller does not answer."""
    told = ask("squeue", "--noheader", "--format=%i")
    return set(told.stdout.split()) if told.returncode == 0 else None


def wait(jobs, sleep=time.sleep, clock=time.monotonic):
    """Until none of the jobs is in the queue."""
    answered, last = clock(), None
    while True:
        found = queued()
        if found is None and clock() - answered > UNREACHABLE_S:
            raise Failure("Slurm's controller does not answer; the same command goes on later")
        if found is not None:
            answered = clock()
            left = [job for job in jobs if job.read("id") in found]
            if not left:
                return
            if len(left) != last:
                sys.stderr.write(f"spread: {len(left)} of {len(jobs)} jobs left\n")
                last = len(left)
        sleep(POLL_S)


def put_programs(out):
    """Copies what the jobs run to where all nodes see it, whole files instead of links."""
    to = os.path.join(out, "programs")
    if not os.path.exists(os.path.join(to, "complete")):
        shutil.rmtree(to, ignore_errors=True)
        root = os.path.dirname(FOLDER)
        for name in ("bench", "preload"):
            shutil.copytree(os.path.join(root, name), os.path.join(to, name))
        # The programs find their shared libraries beside where Bazel built them.
        measure = os.path.realpath(os.path.join(FOLDER, "common", "measure"))
        built = os.path.dirname(os.path.dirname(os.path.dirname(measure)))
        for path in glob.glob(os.path.join(built, "_solib*")):
            shutil.copytree(path, os.path.join(to, os.path.basename(path)))
        with open(os.path.join(to, "complete"), "w", encoding="utf-8"):
            pass
    return os.path.join(to, "bench")


def joined(jobs, out):
    """Joins the results; the exit status by the verdict over all."""
    found = []
    for job in jobs:
        path = os.path.join(job.folder, "result.json")
        if job.is_done():
            with open(path, encoding="utf-8") as file:
                found.append((path, json.load(file)))
    if not found:
        return 0
    reports, notes = merge.join(found)
    merge.write(reports, os.path.join(out, "joined"))
    for note in notes:
        sys.stderr.write(f"spread: {note}\n")
    for where, text in merge.verdict_rows(reports):
        print(f"verdict on {where}: {text}")
    if merge.over_all(reports)["is_clear"]:
        return 0
    sys.stderr.write("spread: NO VERDICT over all: see above for what to do\n")
    return NO_VERDICT


def measured(options, names, command):
    base = os.environ.get("BUILD_WORKING_DIRECTORY", "")
    out = os.path.abspath(os.path.join(base, options.out))
    jobs = [Job(out, partition, name) for partition in options.partition for name in names]
    in_queue = queued()
    if in_queue is None:
        raise Failure("Slurm's controller does not answer (squeue)")
    os.makedirs(out, exist_ok=True)
    programs = put_programs(out)
    arguments = ["--quick"] if options.quick else []
    arguments += ["--runs", str(options.runs)] if options.runs else []
    todo = [job for job in jobs if not job.is_done()]
    new = [job for job in todo if job.read("id") not in in_queue]
    sys.stderr.write(
        f"spread: {len(jobs)} jobs: {len(names)} workloads on {', '.join(options.partition)}; "
        f"{len(jobs) - len(todo)} are done, {len(todo) - len(new)} are in the queue\n"
    )
    for job in new:
        job.submit(programs, arguments, options.minutes)
    wait(todo)
    status = joined(jobs, out)
    bad = [job for job in jobs if not job.is_done()]
    for job in bad:
        sys.stderr.write(f"spread: {job.name}: {job.why_not()}\n")
    if bad:
        sys.stderr.write(f"spread: {len(bad)} of {len(jobs)} jobs have no result; again, for these "
                         f"alone: {command}\n")  # fmt: skip
    return 1 if bad else status


def main(arguments):
    command = shlex.join(["./bazelw", "run", "//bench:spread", "--", *arguments])
    try:
        options = parser().parse_args(arguments)
        if options.runs is not None and options.runs < 6:
            raise Usage(f"argument --runs: {options.runs} is less than 6")
        if options.minutes < 1:
            raise Usage(f"argument --minutes: {options.minutes} is no time")
        for name in options.partition:
            if not re.fullmatch(r"[A-Za-z0-9_.-]+", name) or options.partition.count(name) > 1:
                raise Usage(f"argument --partition: {name}: a name, each once")
        names = chosen(options, table.load())
    except Usage as error:
        sys.stderr.write(f"spread: {error}\n{parser().format_usage()}")
        return 2
    try:
        return measured(options, names, command)
    except (Failure, OSError) as error:
        sys.stderr.write(f"spread: {error}\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("spread: interrupted; the jobs go on, and so does the same command\n")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
