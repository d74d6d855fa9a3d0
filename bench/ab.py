"""ab: an experiment between two variants of hakmem, the result against what was expected, and the
reason.

First it makes sure that there is something to measure: each library says which variant it is, the
disassembly differs, and the functions in question are called on the workload at all. Then it counts
instructions, and only then it takes times, in pairs of runs in random alternation. It prints a
page, and writes it to docs/experiments with --name or to --out. Exit status: 0; 1 if it refused or
something failed; 2 for a wrong command line; 3 if the result is FAIL.
"""

import argparse
import os
import random
import shlex
import sys

from comparison import analysis, machine, rounds, run, stats, table
from experiment import calls, code, judge, page, variants

DEFAULT_RUNS = 41
MIN_RUNS = 6
FAILED_EXPECTATION = 3
PREFIXES = ("bench_", "wl_", "")  # of a program that the command line names without


class Usage(Exception):
    """The command line is wrong; the text says how."""


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise Usage(message)


def parser():
    made = Parser(
        prog="ab", description=__doc__.split("\n\n", maxsplit=1)[0], epilog=__doc__.split("\n\n")[1]
    )
    made.add_argument(
        "--a", metavar="VARIANT", required=True,
        help="a variant, such as release, or the path of a libhakmem.so",
    )
    made.add_argument("--b", metavar="VARIANT", required=True, help="the other one")
    made.add_argument(
        "--bench", metavar="NAME", action="append", required=True,
        help="a workload (may be given more than once)",
    )
    made.add_argument(
        "--expect", metavar="RANGE", action="append", default=[],
        help="the expected change of throughput from A to B, such as +12%%..+15%%: one for all, "
        "or one a workload",
    )
    made.add_argument(
        "--function", metavar="NAME", action="append", default=[],
        help="a function that the experiment is about (may be given more than once)",
    )
    made.add_argument(
        "--runs", metavar="N", type=int, default=DEFAULT_RUNS,
        help="pairs of runs (default %(default)s)",
    )
    made.add_argument(
        "--work", metavar="N", type=int,
        help="the amount of work a run, instead of the workload's own",
    )
    made.add_argument(
        "--seed", metavar="N", type=int, help="draw the order of the runs from this seed"
    )
    made.add_argument("--title", metavar="TEXT", help="the page's title")
    made.add_argument(
        "--name", metavar="NAME", help="write the page to docs/experiments/NAME.md of the workspace"
    )
    made.add_argument("--out", metavar="FILE", help="write the page to FILE")
    made.add_argument(
        "--bin-dir", metavar="FOLDER", help="where the programs lie (default: beside this script)"
    )
    return made  # fmt: skip


def chosen(name, workloads):
    """A workload by its name, or the first one whose program has that name."""
    if name in workloads:
        return workloads[name]
    for one in workloads.values():
        if os.path.basename(one.binary) in [start + name for start in PREFIXES]:
            return one
    raise Usage(f"argument --bench: no workload {name}; there are {', '.join(workloads)}")


class Config:
    """The command line, checked."""

    def __init__(self, arguments):
        options = parser().parse_args(arguments)
        workloads = table.load()
        found = [chosen(name, workloads) for name in options.bench]
        if options.runs < MIN_RUNS:
            raise Usage(f"argument --runs: {options.runs} is less than {MIN_RUNS}")
        if options.work is not None and options.work < 1:
            raise Usage(f"argument --work: {options.work} is no amount of work")
        self.workloads = [one.with_work(options.work) for one in found] if options.work else found
        self.expected_texts = (
            options.expect * len(found)
            if len(options.expect) == 1
            else options.expect or [None] * len(found)
        )
        if len(self.expected_texts) != len(found):
            raise Usage("argument --expect: one for all, or as many as workloads")
        try:
            self.expected = [
                judge.parse_expectation(text) if text else None for text in self.expected_texts
            ]
        except ValueError as error:
            raise Usage(f"argument --expect: {error}") from None
        self.names = options.a, options.b
        self.functions = options.function
        self.runs = options.runs
        self.rng = random.Random(options.seed)
        self.bin_dir = os.path.abspath(
            options.bin_dir or os.path.dirname(os.path.abspath(__file__))
        )
        self.title = options.title or f"{options.a} against {options.b}"
        self.out = self.output(options)
        self.command = shlex.join(["./bazelw", "run", "//bench:ab", "--", *arguments])

    @staticmethod
    def output(options):
        if options.name:
            folder = os.environ.get("BUILD_WORKSPACE_DIRECTORY")
            if not folder or "/" in options.name:
                raise Usage(
                    "argument --name: a plain name, under `bazel run`; --out takes any path"
                )
            return os.path.join(folder, "docs", "experiments", options.name + ".md")
        return (
            os.path.join(os.environ.get("BUILD_WORKING_DIRECTORY", ""), options.out)
            if options.out
            else None
        )


def take_times(config, place, workload, names, progress):
    """({side: its runs}, first rounds that are warm-up): pairs of runs, in random order within each
    pair."""
    results = {name: [] for name in names}
    for i in range(config.runs + 1):
        for name in config.rng.sample(names, 2):
            progress.show(f"{workload.name}: pair {i} of {config.runs}")
            result = run.run_once(place, workload, name, "default", rounds.FIRST_SEED + i)
            if i > 0:  # the first pair only brings programs and files into memory
                results[name].append({**result, "mode": "default"})
    progress.end()
    left_out = stats.warm_up(
        [[one["ops_per_s"] for one in runs] for runs in results.values()], MIN_RUNS
    )
    return results, left_out


def examine(config, place, sides, workload, expected, expected_text, facts, progress):
    """One workload: instructions, functions, times, verdict, reasons."""
    a, b = (side.name for side in sides)
    program, *counted = run.command_of(place, workload, a, "quick", rounds.FIRST_SEED)
    progress.show(f"{workload.name}: counting instructions")
    profiles = [calls.profile(program, counted, side.library) for side in sides]
    results, left_out = take_times(config, place, workload, [a, b], progress)
    kept = {name: runs[left_out:] for name, runs in results.items()}
    pairs = stats.against(
        [one["ops_per_s"] for one in kept[b]], [one["ops_per_s"] for one in kept[a]]
    )
    result, why = None, None
    if expected:
        result, why = judge.verdict(
            pairs["ratio"] - 1, pairs["low"] - 1, pairs["high"] - 1, expected
        )
    reasons = [
        judge.about_instructions(a, b, *profiles), judge.about_time(*profiles, pairs["ratio"]),
    ]
    reasons += [
        judge.about_function(name, a, b, facts["code"], profiles) for name in config.functions
    ]
    reasons.append(
        f"The library's own functions are {profiles[0].library_share() * 100:.1f} % of the run's "
        f"instructions under `{a}` and "
        f"{profiles[1].library_share() * 100:.1f} % under `{b}`; the rest is the workload."
    )
    return {
        "name": workload.name,
        "text": workload.text,
        "command": " ".join([os.path.basename(workload.binary), *workload.args["default"]]),
        "counted": " ".join([os.path.basename(workload.binary), *counted]),
        "a": a,
        "b": b,
        "expected_text": expected_text,
        "result": result,
        "why": why,
        "pairs": pairs,
        "profiles": profiles,
        "code": facts["code"],
        "functions": judge.suspects(facts["code"], profiles, config.functions),
        "reasons": reasons,
        "rows": [analysis.row_of(name, kept[name], results[name], None) for name in (a, b)],
        "runs": len(kept[a]),
        "left_out": left_out,
    }


def experiment(config, progress):
    """Everything that the page is made of. Raises Refused or Failure."""
    workspace = os.path.dirname(config.bin_dir)
    base = os.environ.get("BUILD_WORKING_DIRECTORY", "")
    sides = [variants.Side(name, workspace, base) for name in config.names]
    variants.check_that_they_differ(*sides)
    names = [side.name for side in sides]
    place = variants.Place(config.bin_dir, sides)
    disassembly = [code.functions(side.library) for side in sides]
    trace = os.path.join(config.bin_dir, "golden", "path_trace")
    paths = [code.fast_paths(trace, side.library) for side in sides]
    facts = {"code": disassembly}
    code_lines = [
        judge.about_code(*names, code.Differences(*disassembly)),
        *judge.about_paths(*names, *paths),
    ]
    noise = run.noise(place)
    parts = [
        examine(config, place, sides, workload, expected, text, facts, progress)
        for workload, expected, text in zip(
            config.workloads, config.expected, config.expected_texts
        )
    ]
    return {
        "title": config.title,
        "a": names[0],
        "b": names[1],
        "machine": machine.describe([]),
        "noise": noise,
        "command": config.command,
        "code_lines": code_lines,
        "workloads": parts,
    }


def written(path, made):
    """The page, written to path if there is one; the section that was written by hand into an
    earlier page is kept."""
    old = ""
    if path and os.path.exists(path):
        with open(path, encoding="utf-8") as file:
            old = file.read()
    text = page.page(made, old)
    if path:
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
    return text


def main(arguments):
    try:
        config = Config(arguments)
    except Usage as error:
        sys.stderr.write(f"ab: {error}\n{parser().format_usage()}")
        return 2
    progress = rounds.Progress()
    try:
        made = experiment(config, progress)
        print(written(config.out, made))
    except (variants.Refused, run.Failure, OSError) as error:
        progress.end()
        sys.stderr.write(f"ab: {error}\n")
        return 1
    except KeyboardInterrupt:
        progress.end()
        sys.stderr.write("ab: interrupted, nothing was written\n")
        return 130
    return FAILED_EXPECTATION if any(one["result"] == "FAIL" for one in made["workloads"]) else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
