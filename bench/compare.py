"""compare: runs the same work under hakmem, jemalloc, mimalloc, tcmalloc and glibc, and says who was faster.

How it measures: in rounds. In each round every workload runs once under every allocator, the workloads and the
allocators in an order drawn at random, so that what else the machine does hits all of them alike. The runs of one
workload in one round share a seed and lie close together in time: they make the pairs that are compared. Before
anything is measured, each program has to prove which object serves its malloc and its free.
"""

import argparse
import csv
import json
import os
import platform
import random
import re
import subprocess
import sys
import time

import stats

# Each allocator's binaries have its name as their suffix; the object that serves malloc must match the pattern.
ALLOCATORS = {
    "hakmem": r"/libhakmem\.so$",
    "hakmem_static": r"^static hakmem ",
    "jemalloc": r"/libjemalloc\.so[.0-9]*$",
    "mimalloc": r"/libmimalloc\.so[.0-9]*$",
    "tcmalloc": r"/libtcmalloc(_minimal)?\.so[.0-9]*$",
    "glibc": r"/libc\.so\.6$",
}
DEFAULT_ALLOCATORS = ["hakmem", "jemalloc", "mimalloc", "tcmalloc", "glibc"]
OURS = "hakmem"

# Name, program, arguments ({n} is the number of operations a thread, or of blocks, and {seed} the round's), that
# number, and what it is in words.
WORKLOADS = {
    "random_mixed_256": (
        "bench_random_mixed",
        ["{n}", "256", "{seed}"],
        10_000_000,
        "one thread, 16 to 1,024 bytes, 256 slots",
    ),
    "random_mixed_100000": (
        "bench_random_mixed",
        ["{n}", "100000", "{seed}"],
        6_000_000,
        "one thread, 16 to 1,024 bytes, 100,000 slots",
    ),
    "mid_mt_gap": (
        "bench_mid_mt_gap",
        ["2", "{n}", "256", "{seed}"],
        5_000_000,
        "two threads, 1 to 8 KiB, 256 slots each",
    ),
    "prod_cons": (
        "bench_prod_cons",
        ["{n}", "64", "32", "{seed}"],
        1_000_000,
        "one thread allocates, another frees, 16 to 256 bytes",
    ),
}

# Many short rounds rather than few long ones: a virtual machine's processors are moved about by its host, and where two
# threads share data, that alone changes the speed by 4 times, for a second or two at a time. Pairs have to be closer.
DEFAULT_RUNS = 31
MIN_RUNS = 5  # fewer never count as a measurement
QUICK_RUNS = 5
QUICK_SHARE = 0.2  # of the operations
WARM_UP_SHARE = 0.05  # of the operations: the first round, which is thrown away and says how long the rest will take
BUDGET_S = 150.0  # without --runs, the measurement ends after the round that would pass this, but never before MIN_RUNS
RUN_LIMIT_S = 300  # one run that takes longer than this is taken for hung
FIRST_SEED = 42

OUTPUT = re.compile(r"^Throughput = ([0-9.]+) (M operations per second|ops/s)\b")


class Failure(Exception):
    """The measurement cannot go on; the text says why."""


class Usage(Exception):
    """The command line is wrong; the text says how."""


# Running one program


def binary(bin_dir, program, allocator):
    return os.path.join(bin_dir, f"{program}_{allocator}")


def parse_throughput(text):
    """Operations a second from a workload's output line; None when there is no such line."""
    match = OUTPUT.match(text)
    if not match:
        return None
    return float(match.group(1)) * (1e6 if match.group(2).startswith("M") else 1.0)


def run_once(bin_dir, workload, allocator, n, seed):
    """One measured run: throughput and what it used. Raises Failure when it fails in any way."""
    program, arguments, _, _ = WORKLOADS[workload]
    filled = [a.format(n=n, seed=seed) for a in arguments]
    read_end, write_end = os.pipe()
    with os.fdopen(read_end) as report:
        # The report has to arrive as descriptor 3: sh puts it there and becomes `measure`.
        command = ["/bin/sh", "-c", f'exec "$@" 3>&{write_end}', "sh", os.path.join(bin_dir, "measure")]
        command += [binary(bin_dir, program, allocator)] + filled
        start = time.monotonic()
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=RUN_LIMIT_S, pass_fds=[write_end])
        except subprocess.TimeoutExpired:
            raise Failure(f"{workload} under {allocator}: no end after {RUN_LIMIT_S} s") from None
        finally:
            os.close(write_end)
        wall_s = time.monotonic() - start
        used = report.read()
    throughput = parse_throughput(done.stdout)
    if done.returncode != 0 or throughput is None or not used:
        why = f"exit status {done.returncode}" if done.returncode else "no throughput line"
        raise Failure(f"{workload} under {allocator}: {why}\n{done.stdout}{done.stderr}".rstrip())
    return {"ops_per_s": throughput, "wall_s": wall_s, "seed": seed, **json.loads(used)}


def check_owner(bin_dir, program, allocator):
    """The object that serves malloc in this binary. Raises Failure when it is not that allocator's."""
    path = binary(bin_dir, program, allocator)
    try:
        done = subprocess.run([path, "--whoami"], capture_output=True, text=True, timeout=RUN_LIMIT_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failure(f"{path}: {error}") from None
    owners = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    for function in ("malloc", "free"):
        owner = owners.get(function, "nothing")
        if done.returncode != 0 or not re.search(ALLOCATORS[allocator], owner):
            raise Failure(f"{path}: {function} is served by {owner}, not by {allocator}: nothing was measured")
    return owners["malloc"]


# The rounds


class Progress:
    """One line on standard error, rewritten in place on a terminal, else repeated at most every ten seconds."""

    def __init__(self, stream=None):
        self.stream = stream if stream is not None else sys.stderr
        self.terminal = self.stream.isatty()
        self.last = None

    def show(self, text):
        now = time.monotonic()
        if self.terminal:
            self.stream.write("\r\x1b[K" + text)
        elif self.last is None or now - self.last >= 10:
            self.stream.write(text + "\n")
            self.last = now
        self.stream.flush()

    def end(self):
        if self.terminal:
            self.stream.write("\r\x1b[K")
            self.stream.flush()


class Plan:
    """How many rounds there will be, and how long the rest takes: from what was done so far."""

    def __init__(self, config, clock):
        self.clock = clock
        self.begin = clock()
        self.rounds = config.runs
        self.budget_s = config.budget_s
        self.runs_a_round = len(config.workloads) * len(config.allocators)
        self.share = config.share
        self.start = None
        self.round_s = None
        self.done = 0

    def warmed_up(self):
        """After the warm-up: a first guess of a round's time (too high, as a run's fixed costs are in it in full).
        Where even MIN_RUNS rounds would pass the budget by that guess, every run gets less work."""
        self.start = self.clock()
        self.round_s = (self.start - self.begin) / WARM_UP_SHARE
        if self.budget_s is not None and self.round_s * MIN_RUNS > self.budget_s:
            self.share *= self.budget_s / (self.round_s * MIN_RUNS)
            self.round_s = self.budget_s / MIN_RUNS

    def run_done(self):
        self.done += 1
        if self.done >= self.runs_a_round // 2:
            self.round_s = (self.clock() - self.start) / self.done * self.runs_a_round

    def enough(self):
        """Asked before each round: whether the rounds done are all that there will be."""
        done = self.done // self.runs_a_round
        if self.budget_s is not None and done > 0:
            fits = int((self.begin + self.budget_s - self.clock()) / self.round_s)
            self.rounds = min(self.rounds, max(MIN_RUNS, done + fits))
        return done >= self.rounds

    def text(self, workload, allocator):
        if self.start is None:
            return f"warming up: {workload} under {allocator}"
        now = self.clock()
        left = self.rounds * self.round_s - (now - self.start)
        if self.budget_s is not None and self.rounds > MIN_RUNS:
            left = min(left, self.begin + self.budget_s - now)
        done_rounds, in_round = divmod(self.done, self.runs_a_round)
        return (
            f"round {done_rounds + 1} of {self.rounds}, run {in_round + 1} of {self.runs_a_round}, "
            f"about {max(left, 0):.0f} s left: {workload} under {allocator}"
        )


def one_round(config, plan, share, seed, progress, run):
    """Runs every workload under every allocator once, in random order: {(workload, allocator): the run's result}."""
    results = {}
    for workload in config.rng.sample(config.workloads, len(config.workloads)):
        n = max(1, int(WORKLOADS[workload][2] * share))
        for allocator in config.rng.sample(config.allocators, len(config.allocators)):
            progress.show(plan.text(workload, allocator))
            results[workload, allocator] = {"n": n, **run(config.bin_dir, workload, allocator, n, seed)}
            if plan.start is not None:
                plan.run_done()
    return results


def measure(config, progress, run=run_once, clock=time.monotonic):
    """All rounds: {(workload, allocator): [a run's result for every round]}."""
    plan = Plan(config, clock)
    one_round(config, plan, plan.share * WARM_UP_SHARE, FIRST_SEED, progress, run)
    plan.warmed_up()
    results = {}
    seed = FIRST_SEED
    while not plan.enough():
        for key, result in one_round(config, plan, plan.share, seed, progress, run).items():
            results.setdefault(key, []).append(result)
        seed += 1
    progress.end()
    return results


# What comes out


def machine():
    """What the figures depend on, as far as it is easily known."""

    def first_match(path, pattern):
        try:
            with open(path, encoding="utf-8", errors="replace") as file:
                match = re.search(pattern, file.read(), re.MULTILINE)
                return match.group(1) if match else None
        except OSError:
            return None

    return {
        "cpu": first_match("/proc/cpuinfo", r"^model name\s*: (.*)$"),
        "cpus": len(os.sched_getaffinity(0)),
        "kernel": platform.release(),
        "huge_pages": first_match("/sys/kernel/mm/transparent_hugepage/enabled", r"\[(\w+)\]"),
        "load_average": os.getloadavg()[0],
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def analyse(config, results, owners):
    """Everything that is known after the measurement, as plain data: the JSON file's content."""
    report = {"machine": machine(), "served_by": owners, "workloads": []}
    for workload in config.workloads:
        program, arguments, _, text = WORKLOADS[workload]
        rows = []
        for allocator in config.allocators:
            runs = results[workload, allocator]
            row = {"allocator": allocator, "throughput": stats.summary([r["ops_per_s"] for r in runs])}
            row["peak_kib"] = stats.summary([r["peak_kib"] for r in runs])
            if OURS in config.allocators and allocator != OURS:
                ours = [r["ops_per_s"] for r in results[workload, OURS]]
                row["ours_against_it"] = stats.against(ours, [r["ops_per_s"] for r in runs])
            row["runs"] = runs
            rows.append(row)
        best = max(row["throughput"]["median"] for row in rows)
        for row in rows:
            row["to_best"] = best / row["throughput"]["median"]
        rows.sort(key=lambda row: row["to_best"])
        report["workloads"].append(
            {
                "workload": workload,
                "text": text,
                "program": program,
                "arguments": arguments,
                "n": rows[0]["runs"][0]["n"],
                "rounds": len(rows[0]["runs"]),
                "allocators": rows,
            }
        )
    return report


EXPLANATION = """\
median: million operations (malloc or free) a second. spread: between the quartiles, in percent of the median.
to best: the best median over this one. peak memory: of the whole process (ru_maxrss), median of the runs."""

PAIRS_EXPLANATION = f"""\
{OURS} against it: its throughput over the other's in the same round, median of the rounds; in brackets where the true
median lies with a probability of {stats.CONFIDENCE:.0%} or more. "within the spread": the bracket holds 1, so the difference
is not larger than the noise."""


def table(report):
    """The report as text for people."""
    lines = []
    any_pairs = False
    for part in report["workloads"]:
        with_pairs = any("ours_against_it" in row for row in part["allocators"])
        any_pairs = any_pairs or with_pairs
        lines.append(f"{part['workload']}: {part['text']}; {part['rounds']} runs each of n={part['n']}")
        lines.append(
            f"  {'allocator':<14}{'median':>12}{'spread':>9}{'to best':>9}{'peak memory':>13}"
            + (f"   {OURS} against it" if with_pairs else "")
        )
        for row in part["allocators"]:
            speed = row["throughput"]
            line = f"  {row['allocator']:<14}{speed['median'] / 1e6:>8.2f} M/s{speed['spread'] * 100:>7.1f} %"
            line += f"{row['to_best']:>9.3f}{row['peak_kib']['median'] / 1024:>9.1f} MiB"
            pairs = row.get("ours_against_it")
            if pairs:
                line += f"   {pairs['ratio']:.3f} ({pairs['low']:.3f} to {pairs['high']:.3f}) {pairs['verdict']}"
            lines.append(line)
        lines.append("")
    lines.append(EXPLANATION)
    if any_pairs:
        lines.append(PAIRS_EXPLANATION)
    return "\n".join(lines)


CSV_COLUMNS = [
    "workload", "allocator", "runs", "n",
    "ops_per_s_median", "ops_per_s_q1", "ops_per_s_q3", "ops_per_s_min", "ops_per_s_max", "spread",
    "to_best", "peak_kib_median", "peak_kib_max",
    "ours_ratio", "ours_ratio_low", "ours_ratio_high", "ours_verdict",
]  # fmt: skip


def write_csv(report, file):
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for part in report["workloads"]:
        for row in part["allocators"]:
            speed, pairs = row["throughput"], row.get("ours_against_it", {})
            writer.writerow(
                [part["workload"], row["allocator"], part["rounds"], part["n"]]
                + [speed[key] for key in ("median", "q1", "q3", "min", "max", "spread")]
                + [row["to_best"], row["peak_kib"]["median"], row["peak_kib"]["max"]]
                + [pairs.get(key, "") for key in ("ratio", "low", "high", "verdict")]
            )


def write_json(report, file):
    json.dump(report, file, indent=1)
    file.write("\n")


# The command line


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise Usage(message)


def parser():
    made = Parser(
        prog="compare",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=__doc__,
        epilog="workloads:\n"
        + "\n".join(f"  {name:<22}{entry[3]}" for name, entry in WORKLOADS.items())
        + "\n\nA relative FILE lies in the folder from which the command was given."
        "\nexit status: 0 measured, 1 a program failed or is served by the wrong allocator, 2 wrong arguments",
    )
    made.add_argument("--runs", metavar="N", type=int,
                      help=f"measure N rounds, at least {MIN_RUNS} (default: {DEFAULT_RUNS}, or as many as fit into"
                      f" {BUDGET_S:.0f} s, but at least {MIN_RUNS})")
    made.add_argument("--quick", action="store_true",
                      help=f"{QUICK_RUNS} rounds of a fifth of the work: to try it out, not to judge by")
    made.add_argument("--bench", metavar="NAME", action="append", choices=list(WORKLOADS),
                      help="only this workload (may be given more than once)")
    made.add_argument("--allocator", metavar="NAME", action="append", choices=list(ALLOCATORS),
                      help="only this allocator (may be given more than once); one of " + ", ".join(ALLOCATORS))
    made.add_argument("--json", metavar="FILE", help="write everything, each run included, to FILE as JSON")
    made.add_argument("--csv", metavar="FILE", help="write the table to FILE as CSV")
    made.add_argument("--seed", metavar="N", type=int, help="draw the order of the runs from this seed")
    made.add_argument("--bin-dir", metavar="FOLDER", help="where the programs lie (default: beside this script)")
    return made


class Config:
    """The command line, checked."""

    def __init__(self, arguments):
        options = parser().parse_args(arguments)
        if options.runs is not None and options.runs < MIN_RUNS:
            raise Usage(f"argument --runs: {options.runs} is less than {MIN_RUNS}")
        self.share = QUICK_SHARE if options.quick else 1.0
        self.runs = options.runs or (QUICK_RUNS if options.quick else DEFAULT_RUNS)
        self.budget_s = BUDGET_S if options.runs is None else None
        self.workloads = [name for name in WORKLOADS if not options.bench or name in options.bench]
        chosen = options.allocator or DEFAULT_ALLOCATORS
        self.allocators = [name for name in ALLOCATORS if name in chosen]
        self.rng = random.Random(options.seed)
        self.bin_dir = options.bin_dir or os.path.dirname(os.path.abspath(__file__))
        self.json, self.csv = (self.output(path) for path in (options.json, options.csv))

    @staticmethod
    def output(path):
        """An output file's path, made absolute; raises Usage at once, not after the measurement, if it cannot be written."""
        if path is None:
            return None
        path = os.path.join(os.environ.get("BUILD_WORKING_DIRECTORY", ""), path)
        try:
            with open(path, "a", encoding="utf-8"):
                return path
        except OSError as error:
            raise Usage(f"{path}: {error.strerror}") from None


def main(arguments, run=run_once, check=check_owner):
    try:
        config = Config(arguments)
    except Usage as error:
        sys.stderr.write(f"compare: {error}\n{parser().format_usage()}")
        return 2
    progress = Progress()
    try:
        owners = {}
        for program in {WORKLOADS[workload][0]: None for workload in config.workloads}:
            for allocator in config.allocators:
                owners[allocator] = check(config.bin_dir, program, allocator)
        report = analyse(config, measure(config, progress, run), owners)
    except Failure as error:
        progress.end()
        sys.stderr.write(f"compare: {error}\n")
        return 1
    except KeyboardInterrupt:
        progress.end()
        sys.stderr.write("compare: interrupted, nothing was written\n")
        return 130
    print(table(report))
    for path, write in ((config.json, write_json), (config.csv, write_csv)):
        if path:
            with open(path, "w", encoding="utf-8") as file:
                write(report, file)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
