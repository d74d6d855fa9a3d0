"""compare: runs the same work under hakmem, jemalloc, mimalloc, tcmalloc, tbbmalloc and glibc, and
says who was faster.

How it measures: in rounds, each with every workload under every allocator in random order, so that
pairs of runs can be compared. Before anything is measured, each program has to prove which object
serves its malloc and its free. Exit status: 0; 1 when something failed; 2 for a wrong command line;
3 for a regression against --baseline; 4 when there is no verdict.
"""

import argparse
import os
import random
import shlex
import sys
import time

from comparison import (
    analysis, baseline, core, foreign, machine, output, rounds, run, table, verdict,
)
from report import html

DEFAULT_RUNS = 31
MIN_RUNS = 6  # fewer pairs cannot tell anything apart at this confidence
QUICK_RUNS = 8  # so many that even one workload under six allocators has a verdict
BUDGET_S = {
    "quick": 45.0,
    "default": 520.0,
    "full": None,
}  # the measurement proper; checks before it take seconds
# On a busy machine it takes longer, up to this, until there are the rounds that a verdict needs.
LIMIT_S = {"quick": 180.0, "default": 590.0, "full": None}
REGRESSION = 3
NO_VERDICT = 4
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
        help="little work at some of the workloads, about a minute: to see that all runs",
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
        "--allocator", metavar="NAME", action="append",
        help="only this allocator (may be given more than once), one of "
        + ", ".join(table.BUILT_IN)
        + "; or NAME=/path/lib.so[,VARIABLE=VALUE...]: another one, preloaded, beside those that "
        "are named, or beside all",
    )
    made.add_argument(
        "--program", metavar="COMMAND", action="append",
        help="a program of yours as a workload, into which every allocator is preloaded; {} in it "
        "becomes the round's seed (may be given more than once)",
    )
    made.add_argument(
        "--workloads", metavar="FILE",
        help="a table of workloads instead of bench's own, whose rows have a binary, a command or "
        "a trace",
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


def brought_workloads(options, workloads):
    """The workloads that there are: bench's, or those that the command line brings."""
    base = os.environ.get("BUILD_WORKING_DIRECTORY", "")
    found = {}
    if options.workloads:
        try:
            found = foreign.workloads(working_path(options.workloads), workloads)
        except foreign.Bad as error:
            raise Usage(f"argument --workloads: {error}") from None
    for text in options.program or []:
        try:
            one = foreign.program(text, base, {*workloads, *found})
        except foreign.Bad as error:
            raise Usage(f"argument --program: {error}") from None
        found[one.name] = one
    return found or workloads


def chosen_allocators(options):
    """(names in order, those asked for by name). Brings other people's into the table."""
    named, brought = [], []
    for text in options.allocator or []:
        if "=" not in text and text not in table.ALLOCATORS:
            raise Usage(
                f"argument --allocator: no allocator {text}; there are "
                f"{', '.join(table.BUILT_IN)}, or NAME=/path/lib.so"
            )
        if "=" not in text:
            named.append(text)
            continue
        try:
            name, one = foreign.allocator(text, os.environ.get("BUILD_WORKING_DIRECTORY", ""))
        except foreign.Bad as error:
            raise Usage(f"argument --allocator: {error}") from None
        if name in brought:
            raise Usage(f"argument --allocator: {name} is given twice")
        table.ALLOCATORS[name] = one
        brought.append(name)
    chosen = {*(named or table.DEFAULT_ALLOCATORS), *brought}
    return [name for name in table.ALLOCATORS if name in chosen], named + brought


def chosen_workloads(options, workloads):
    for name in options.bench or []:
        if name not in workloads:
            raise Usage(f"argument --bench: no workload {name}; there are {', '.join(workloads)}")
    is_ours = not (options.program or options.workloads)
    quick = options.quick and is_ours and not options.bench
    tags = options.tag or ([table.QUICK_TAG] if quick else [])
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
        self.limit_s = LIMIT_S[self.mode]
        self.workloads = chosen_workloads(options, brought_workloads(options, workloads))
        self.list = options.list
        self.allocators, self.asked_for = chosen_allocators(options)
        # With a choice of workloads, or all the time that it takes, every workload is as good as
        # the others.
        chose = options.bench or options.tag or options.program or options.workloads
        self.has_core = self.budget_s is not None and self.mode == "default" and not chose
        self.core, self.breadth = self.workloads, []
        self.divide()
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
        self.is_test = options.test_outputs
        self.command = shlex.join(
            ["./bazelw", "run", "//bench:compare", *(["--", *arguments] if arguments else [])]
        )

    def divide(self):
        """The core workloads, and the others."""
        core_set = [one for one in self.workloads if core.TAG in one.tags]
        self.core = core_set if self.has_core and core_set else self.workloads
        self.breadth = [one for one in self.workloads if one not in self.core]

    def core_pairs(self):
        return [pair for pair in self.pairs if pair[0] in self.core]

    def intention(self, now):
        """What will be done and how long it takes, in a sentence. now: time.time()."""
        n = len(self.core)
        names = [name for name in self.allocators if name != table.LIMIT]
        what = f"{n} {'core ' if self.breadth else ''}workload{'' if n == 1 else 's'}, each under "
        what += ", ".join(names)
        what += f" and {table.LIMIT}, the limit" if table.LIMIT in self.allocators else ""
        if self.budget_s is None:
            return f"{what}: {self.runs} rounds, as long as they take"
        end = time.strftime("%H:%M:%S", time.localtime(now + self.budget_s))
        core_s = self.budget_s * (rounds.CORE_PART if self.breadth else 1)
        what += f": as many rounds as fit into {core_s:.0f} s, {self.min_runs} to {self.runs}"
        if self.breadth:
            what += f"; then as many of {len(self.breadth)} other workloads as fit"
        return (
            f"{what}; ends by about {end} ({self.budget_s:.0f} s; on a busy machine at most "
            f"{self.limit_s:.0f} s)"
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
        self.divide()
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
    about = {
        "machine": machine.describe(config.allocators),
        "noise": noise,
        "command": config.command,
        "seed": config.seed,
        "served_by": owners,
        "skipped": skipped,
    }
    if config.breadth:
        about["core"] = [one.name for one in config.core]

    def tell(results):
        made = analysis.analyse(config.core, results, config.min_runs, **about)
        sys.stderr.write(f"compare: the core set is measured: {made['verdict']['text']}\n")

    sys.stderr.write(f"compare: {config.intention(time.time())}\n")
    results = rounds.measure(config, progress, tools.run_once, before_breadth=tell)
    report = analysis.analyse(config.workloads, results, config.min_runs, **about)
    measured_names = {name for name, _ in results}
    unmeasured = [one.name for one in config.breadth if one.name not in measured_names]
    if unmeasured:
        report["skipped"] = skipped + [
            f"{len(unmeasured)} workloads for which there was no time (--full has it): "
            + ", ".join(unmeasured)
        ]
    if config.instructions:
        count_instructions(config, report, tools, progress)
    return report


def judge_verdict(config, report):
    """The exit status by the verdict; says loudly that there is none. A test's results are for
    `merge`, which gives the verdict."""
    names, _ = verdict.shared_parts(report)
    if report["verdict"]["is_clear"] or (len(names) < 2 and len(config.allocators) < 2):
        return 0
    sys.stderr.write(f"\ncompare: NO VERDICT. {report['verdict']['text']}\n")
    return 0 if config.is_test else NO_VERDICT


def judge(config, report):
    """The exit status: by the baseline, if there is one."""
    if config.baseline is None:
        return judge_verdict(config, report)
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
