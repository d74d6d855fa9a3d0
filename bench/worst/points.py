"""Runs the programs: every row, size and allocator, several times, within a time budget."""

import os
import re
import subprocess
import time

import growth
import rows
from comparison import table

KILL_S = 60  # besides the pause and the time that a program sets itself
GROWTH = 10  # how much longer the next size is taken to run
MEMORY_MARGIN = 1.3  # what has to be free for a run, over what it is known to need


class Failure(Exception):
    """Nothing can be measured; the text says why."""


class Point:
    """One row at one size under one allocator, alone or beside another thread: all its runs."""

    def __init__(self):
        self.runs = []  # what parse found, a run each
        self.seconds = 0.0  # the longest run
        self.done = 1.0  # the least share of its work that a run came to
        self.failure = ""  # of the last run that failed

    def measures(self):
        """{name: [Measured, one a run]}"""
        found = {}
        for run in self.runs:
            for name, one in run.items():
                found.setdefault(name, []).append(one)
        return found


def memory_free():
    """Bytes that can be used without swapping."""
    with open("/proc/meminfo", encoding="utf-8") as file:
        return int(re.search(r"^MemAvailable:\s*(\d+) kB", file.read(), re.MULTILINE)[1]) * 1024


class Runner:
    """Starts the programs, which lie in bench/worst, with the allocator preloaded."""

    def __init__(self, bin_dir):
        self.place = table.Place(bin_dir, by_preload=True)
        self.folder = os.path.join(bin_dir, "worst")

    def library(self, allocator):
        """What to preload; None for none. Raises FileNotFoundError."""
        return None if table.ALLOCATORS[allocator].library is None else self.place.file(allocator)

    def started(self, program, arguments, allocator, limit_s):
        library = self.library(allocator)
        return subprocess.run(
            [os.path.join(self.folder, program), *arguments],
            capture_output=True,
            text=True,
            timeout=limit_s,
            env={**os.environ, "LD_PRELOAD": library} if library else None,
        )

    def missing(self, allocator):
        """Why the allocator cannot be had here; None if it can."""
        try:
            self.library(allocator)
            return None
        except FileNotFoundError as error:
            return str(error)

    def check_owner(self, allocator):
        """The object that serves malloc. Raises Failure when it is not the allocator's."""
        done = self.started(rows.CONTROL.program, ["--whoami"], allocator, KILL_S)
        owners = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
        for function in ("malloc", "free"):
            owner = owners.get(function, "nothing")
            if not re.search(table.ALLOCATORS[allocator].served_by, owner):
                raise Failure(
                    f"{function} is served by {owner}, not by {allocator}: nothing was measured"
                )
        return owners["malloc"]

    def run(self, row, size, allocator, others, pause_ms, point):
        """One run, added to the point."""
        arguments = row.arguments(size, others, pause_ms)
        start = time.monotonic()
        try:
            done = self.started(row.program, arguments, allocator, rows.RUN_S + KILL_S)
            if done.returncode != 0:
                point.failure = (
                    done.stderr.strip().splitlines() or [f"exit status {done.returncode}"]
                )[-1]
            else:
                found, share = growth.parse(done.stdout)
                point.runs.append(found)
                point.done = min(point.done, share)
        except subprocess.TimeoutExpired:
            point.failure = f"no end after {rows.RUN_S + KILL_S} s"
        point.seconds = max(point.seconds, time.monotonic() - start)


class Plan:
    """All points that a measurement wants, and the order of a repeat: small sizes first, and of
    those what is quick first, so that a lack of time costs as few points as may be."""

    def __init__(self, chosen, allocators, max_bytes, n_sizes):
        self.points = {}  # (row name, allocator, others) -> {size: Point}
        # (row, size, the size before it or None, allocator, others): a list for each step in size.
        self.steps = []
        for index in range(rows.STEPS if n_sizes is None else n_sizes):
            self.steps.append([])
            for row in chosen:
                sizes = row.sizes(max_bytes)
                if index < len(sizes):
                    self.add(row, sizes[index], sizes[index - 1] if index else None, allocators)

    def add(self, row, size, before, allocators):
        for others in row.others:
            for allocator in row.allocators(allocators):
                self.points.setdefault((row.name, allocator, others), {})[size] = Point()
                self.steps[-1].append((row, size, before, allocator, others))

    def point(self, step):
        row, size, _, allocator, others = step
        return self.points[(row.name, allocator, others)][size]

    def expected_s(self, step):
        """How long a step may take: as before, or ten times the smaller size's time, up to where
        programs stop themselves."""
        row, size, before, allocator, others = step
        of_size = self.points[(row.name, allocator, others)]
        if of_size[size].seconds:
            return of_size[size].seconds
        return min(GROWTH * of_size[before].seconds, rows.RUN_S) if before else 0.0

    def ordered(self):
        """The steps of a repeat. What a smaller size took decides the order of the next."""
        for of_one_size in self.steps:
            yield from sorted(of_one_size, key=self.expected_s)


def why_not(plan, step, left_s):
    """Why a step is not to be run now; None if it is."""
    row, size = step[:2]
    if row.resident and memory_free() < size * row.resident * MEMORY_MARGIN:
        return "not enough memory"
    return "no time left" if plan.expected_s(step) > left_s else None


def measure(plan, runner, repeats, seconds, pause_ms, progress, clock=time.monotonic):
    """Runs the plan. Returns what was left out, as texts."""
    left_out, begin = {}, clock()
    n_steps = sum(len(of_one_size) for of_one_size in plan.steps)
    for repeat in range(repeats):
        for i, step in enumerate(plan.ordered()):
            row, size, _, allocator, others = step
            point, left_s = plan.point(step), seconds - (clock() - begin)
            where = f"{row.name} at {size:,} {row.unit}"
            why = "failed before" if point.failure else why_not(plan, step, left_s)
            if why:
                if not point.runs and not point.failure:
                    left_out.setdefault((where, why), {})[allocator] = True
                continue
            progress.show(
                f"repeat {repeat + 1} of {repeats}, {i + 1} of {n_steps}, "
                f"{max(left_s, 0):.0f} s left: {where} under {allocator}"
            )
            runner.run(row, size, allocator, others, pause_ms, point)
    progress.end()
    return [f"{where}: {why}: {', '.join(names)}" for (where, why), names in left_out.items()]
