"""compare: runs the same work under hakmem, jemalloc, mimalloc, tcmalloc, tbbmalloc and glibc, and
says who was faster.

How it measures: in rounds, each with every workload under every allocator in random order, so that
pairs of runs can be compared. Before anything is measured, each program has to prove which object
serves its malloc and its free. Exit status: 0; 1 when something failed; 2 for a wrong command line;
3 for a regression against --baseline.
"""

import argparse
import os
import random
import shlex
import sys
import time

from comparison import analysis, baseline, machine, output, rounds, run, table
from report import html

DEFAULT_RUNS = 31
MIN_RUNS = 6  # fewer pairs cannot tell anything apart at this confidence
QUICK_RUNS = 6
BUDGET_S = {
    "quick": 45.0,
    "default": 520.0,
    "full": None,
}  # the measurement proper; checks before it take seconds
REGRESSION = 3
WRITERS = {
    "json": ("everything, each run included", output.write_json),
    "csv": ("the table", output.write_csv),
    "md": ("the tables as Markdown", output.write_markdown),
    "html": ("one page with pictures, which needs no network", html.write),
}


class Usage(Exception):
    """The command line is wrong; the text says how."""


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise Usage(message)


def parser(workloads):
    made = Parser(
        prog="compare",
        description="Runs the same work under several memory allocators, in turn, and prints who "
        "was faster by how much.",
        epilog="Workloads (--list says what they do): " + ", ".join(workloads) + ".",
    )
    length = made.add_mutually_exclusive_group()
    length.add_argument(
        "--quick", action="store_true",
        help="little work at some of the workloads, under a minute: to see that all runs",
    )
    length.add_argument(
        "--full", action="store_true",
        help="all the work and all rounds, real programs too, as long as it takes",
    )
    made.add_argument(
        "--runs", metavar="N", type=int,
        help=f"rounds, at least {MIN_RUNS}; default {DEFAULT_RUNS}, or as many as fit into "
        f"{BUDGET_S['default']:.0f} s",
    )
    made.add_argument(
        "--list", action="store_true", help="print the workloads and their tags, measure nothing"
    )
    made.add_argument(
        "--bench", metavar="NAME", action="append",
        help="only this workload (may be given more than once)",
    )
    made.add_argument(
        "--tag", metavar="TAG", action="append",
        help="only workloads with this tag (may be given more than once)",
    )
    made.add_argument(
        "--allocator",
        metavar="NAME",
        action="append",
        choices=list(table.ALLOCATORS),
        help="only this allocator (may be given more than once); one of "
        + ", ".join(table.ALLOCATORS),
    )
    for name, (what, _) in WRITERS.items():
        made.add_argument("--" + name, metavar="FILE", help=f"write {what}, to FILE")
    made.add_argument(
        "--test-outputs", action="store_true",
        help="write result.json and result.html to where a Bazel test leaves its outputs",
    )
    made.add_argument(
        "--baseline", metavar="FILE",
        help=f"compare with this earlier JSON file; exit status {REGRESSION} for a regression",
    )
    made.add_argument(
        "--tolerance", metavar="PERCENT", type=float, default=baseline.TOLERANCE * 100,
        help="how much worse than the baseline is still no regression (default %(default).0f)",
    )
    made.add_argument(
        "--preload", action="store_true",
        help="preload every allocator's library into one program, instead of a program linked "
        "with each",
    )
    made.add_argument(
        "--instructions", action="store_true",
        help="count instructions with callgrind too, once each",
    )
    made.add_argument(
        "--seed", metavar="N", type=int, help="draw the order of the runs from this seed"
    )
    made.add_argument(
        "--bin-dir", metavar="FOLDER", help="where the programs lie (default: beside this script)"
    )
    return made  # fmt: skip


def chosen_workloads(options, workloads):
    for name in options.bench or []:
        if name not in workloads:
            raise Usage(f"argument --bench: no workload {name}; there are {', '.join(workloads)}")
    tags = options.tag or ([table.QUICK_TAG] if options.quick and not options.bench else [])
    everything = options.full or options.bench or options.tag
    found = [
        one
        for one in workloads.values()
        if (not options.bench or one.name in options.bench)
        and (not tags or set(one.tags) & set(tags))
        and (everything or not one.is_driver)
    ]
    if not found:
        raise Usage("no workload has such a tag")
    return found


def listing(workloads):
    return "\n".join(f"{one.name:<20} {one.text} [{', '.join(one.tags)}]" for one in workloads)


def working_path(path):
    """A path of the command line: under `bazel run` it is meant from where the user is."""
    return os.path.join(os.environ.get("BUILD_WORKING_DIRECTORY", ""), path)


def writable(path):
    """An output file's path, made absolute; raises Usage at once, not after the measurement, if it
    cannot be written."""
    path = working_path(path)
    is_new = not os.path.exists(path)
    try:
        with open(path, "a", encoding="utf-8"):
            pass
        if is_new:
            os.remove(path)  # an interrupted measurement leaves nothing
        return path
    except OSError as error:
        raise Usage(f"{path}: {error.strerror}") from None


class Config:
    """The command line, checked."""

    def __init__(self, arguments, workloads):
        options = parser(workloads).parse_args(arguments)
        if options.runs is not None and options.runs < MIN_RUNS:
            raise Usage(f"argument --runs: {options.runs} is less than {MIN_RUNS}")
        self.mode = "quick" if options.quick else "full" if options.full else "default"
        self.runs = options.runs or (QUICK_RUNS if options.quick else DEFAULT_RUNS)
        self.min_runs = MIN_RUNS
        self.budget_s = BUDGET_S[self.mode] if options.runs is None else None
        self.workloads = chosen_workloads(options, workloads)
        self.list = options.list
        chosen = options.allocator or table.DEFAULT_ALLOCATORS
        self.asked_for = options.allocator or []
        self.allocators = [name for name in table.ALLOCATORS if name in chosen]
        self.pairs = [
            (workload, allocator) for workload in self.workloads for allocator in self.allocators
        ]
        self.rng = random.Random(options.seed)
        self.seed = options.seed
        self.instructions = options.instructions
        self.place = table.Place(
            options.bin_dir or os.path.dirname(os.path.abspath(__file__)), options.preload
        )
        self.tolerance = options.tolerance / 100
        self.baseline = baseline.load(working_path(options.baseline)) if options.baseline else None
        self.files = self.outputs(options)
        self.command = shlex.join(
            ["./bazelw", "run", "//bench:compare", *(["--", *arguments] if arguments else [])]
        )

    @staticmethod
    def outputs(options):
        found = [
            (name, writable(path))
            for name, path in ((n, getattr(options, n)) for n in WRITERS)
            if path
        ]
        if options.test_outputs:
            folder = os.environ.get("TEST_UNDECLARED_OUTPUTS_DIR")
            if not folder:
                raise Usage(
                    "--test-outputs is for Bazel tests: TEST_UNDECLARED_OUTPUTS_DIR is not set"
                )
            found += [
                (name, writable(os.path.join(folder, "result." + name)))
                for name in ("json", "html")
            ]
        return found

    def drop(self, missing):
        """Leaves out what is not there, and says why: lines. Raises Failure where nothing or
        hakmem's own is missing."""
        kept, left_out = [], []
        for workload, allocator in self.pairs:
            why = missing(self.place, workload, allocator)
            if (
                why
                and not workload.is_driver
                and (allocator == table.OURS or allocator in self.asked_for)
            ):
                raise run.Failure(f"{workload.name} under {allocator}: {why}")
            if why:
                left_out.append((workload, allocator, why))
            else:
                kept.append((workload, allocator))
        if not kept:
            raise run.Failure(
                f"nothing to measure: {left_out[0][0].name} under {left_out[0][1]}: "
                f"{left_out[0][2]}"
            )
        self.pairs = kept
        self.workloads = [
            one for one in self.workloads if any(workload is one for workload, _ in kept)
        ]
        self.allocators = [
            name for name in self.allocators if any(allocator == name for _, allocator in kept)
        ]
        return self.told(left_out)

    def told(self, left_out):
        """One line for each workload that cannot be done at all, one for each allocator that some
        others lack."""
        lines, of_allocator = {}, {}
        for workload, allocator, why in left_out:
            if workload in self.workloads:
                of_allocator.setdefault(allocator, []).append(why)
            else:
                lines.setdefault(workload.name, f"{workload.name}: {why}")
        for allocator, whys in of_allocator.items():
            lines[allocator] = f"{allocator}: {whys[0]}" + (
                f" (and at {len(whys) - 1} more workloads)" if len(whys) > 1 else ""
            )
        return list(lines.values())


class Tools:
    """Starts processes; tests put fakes here."""

    run_once = staticmethod(run.run_once)
    check_owner = staticmethod(run.check_owner)
    missing = staticmethod(run.missing)
    noise = staticmethod(run.noise)
    instructions = staticmethod(run.instructions)


def prove_binding(config, tools):
    """{allocator: the object that serves malloc}, after every binary was asked."""
    owners, asked = {}, set()
    for workload, allocator in config.pairs:
        if (workload.binary, allocator) not in asked:
            owners[allocator] = tools.check_owner(config.place, workload, allocator)
            asked.add((workload.binary, allocator))
    return owners


def count_instructions(config, report, tools, progress, clock=time.monotonic):
    workloads = {one.name: one for one in config.workloads}
    todo = [
        (workloads[part["workload"]], row)
        for part in report["workloads"]
        for row in part["allocators"]
    ]
    begin = clock()
    for done, (workload, row) in enumerate(todo):
        left = f", about {(clock() - begin) / done * (len(todo) - done):.0f} s left" if done else ""
        progress.show(
            f"counting instructions, {done + 1} of {len(todo)}{left}: {workload.name} under "
            f"{row['allocator']}"
        )
        counted = tools.instructions(config.place, workload, row["allocator"], rounds.FIRST_SEED)
        if counted is not None:
            row["instructions"] = counted
    progress.end()


def measured(config, progress, tools):
    """The whole report."""
    skipped = config.drop(tools.missing)
    for why in skipped:
        sys.stderr.write(f"compare: skipped {why}\n")
    owners = prove_binding(config, tools)
    noise = tools.noise(config.place)
    results = rounds.measure(config, progress, tools.run_once)
    report = analysis.analyse(
        config.workloads,
        results,
        config.min_runs,
        machine=machine.describe(config.allocators),
        noise=noise,
        command=config.command,
        seed=config.seed,
        served_by=owners,
        skipped=skipped,
    )
    if config.instructions:
        count_instructions(config, report, tools, progress)
    return report


def judge(config, report):
    """The exit status by the baseline, if there is one."""
    if config.baseline is None:
        return 0
    lines, regressions = baseline.compare(config.baseline, report, config.tolerance)
    print("\nagainst the baseline:\n  " + "\n  ".join(lines))
    print(
        f"{regressions} regression{'' if regressions == 1 else 's'} of more than "
        f"{config.tolerance:.1%}"
    )
    return REGRESSION if regressions else 0


def main(arguments, tools=Tools, workloads=None):
    workloads = workloads if workloads is not None else table.load()
    try:
        config = Config(arguments, workloads)
    except (Usage, baseline.Mismatch) as error:
        sys.stderr.write(f"compare: {error}\n{parser(workloads).format_usage()}")
        return 2
    if config.list:
        print(listing(config.workloads))
        return 0
    progress = rounds.Progress()
    try:
        report = measured(config, progress, tools)
        print(output.text(report))
        for name, path in config.files:
            with open(path, "w", encoding="utf-8") as file:
                WRITERS[name][1](report, file)
        return judge(config, report)
    except (run.Failure, baseline.Mismatch) as error:
        progress.end()
        sys.stderr.write(f"compare: {error}\n")
        return 1
    except KeyboardInterrupt:
        progress.end()
        sys.stderr.write("compare: interrupted, nothing was written\n")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
