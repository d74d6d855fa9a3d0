"""worst: the longest single call and stall of another thread, at heaps growing by 10, by allocator.

Exit status: 0; 1 when nothing could be measured; 2 for a wrong command line.
"""

import argparse
import json
import os
import re
import sys

FOLDER = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.dirname(FOLDER))

import growth
import plot
import points
import rows
import show
from comparison import machine, rounds, table

FORMAT = 1
REPEATS = 3
SECONDS = 600
MEMORY_SHARE = 0.45  # of the free memory, by default
ALLOCATORS = [
    name
    for name, one in table.ALLOCATORS.items()
    if one.library is not None and name != table.LIMIT or name == "glibc"
]
DEFAULT_ALLOCATORS = [name for name in ALLOCATORS if name != "tbbmalloc"]
SUFFIXES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
LEAST_BYTES = 1 << 20


class Usage(Exception):
    """The command line is wrong; the text says how."""


class Parser(argparse.ArgumentParser):
    def error(self, message):
        raise Usage(message)


def size(text):
    match = re.fullmatch(r"([0-9]+)([kmg]?)", text.lower())
    if (
        not match
        or not LEAST_BYTES <= (value := int(match[1]) * SUFFIXES[match[2]]) <= rows.MAX_BYTES
    ):
        raise argparse.ArgumentTypeError(f"{text} is no size from 1m to 8g")
    return value


def from_one(text):
    if not re.fullmatch(r"[1-9][0-9]{0,5}", text):
        raise argparse.ArgumentTypeError(f"{text} is no number from 1 to 999999")
    return int(text)


def parser():
    made = Parser(
        prog="worst",
        description="The longest single calls and stalls at heaps growing by 10, and what grows.",
        epilog="Rows (--list says what they do): " + ", ".join(row.name for row in rows.ALL) + ".",
    )
    made.add_argument("--list", action="store_true", help="print the rows, measure nothing")
    made.add_argument(
        "--row",
        metavar="NAME",
        action="append",
        choices=[row.name for row in rows.ALL],
        help="only this row (may be given more than once)",
    )
    made.add_argument(
        "--allocator",
        metavar="NAME",
        action="append",
        choices=ALLOCATORS,
        help="only this allocator (may be given more than once); one of " + ", ".join(ALLOCATORS),
    )
    made.add_argument(
        "--max-bytes",
        metavar="BYTES",
        type=size,
        help="the largest heap, 1m to 8g; default 8g or what the free memory allows",
    )
    made.add_argument(
        "--seconds",
        metavar="N",
        type=from_one,
        default=SECONDS,
        help="no run begins that is not expected to end within so long (default %(default)s)",
    )
    made.add_argument(
        "--repeats",
        metavar="N",
        type=from_one,
        default=REPEATS,
        help="runs of each point (default %(default)s)",
    )
    made.add_argument(
        "--sizes",
        metavar="N",
        type=from_one,
        help=f"only the N smallest sizes of each row (default {rows.STEPS})",
    )
    made.add_argument(
        "--pause-ms",
        metavar="N",
        type=from_one,
        help="how long a program waits for freed memory to fall due",
    )
    made.add_argument(
        "--all",
        action="store_true",
        help="print every function and every median, not only what is marked",
    )
    made.add_argument("--json", metavar="FILE", help="write everything to FILE")
    made.add_argument("--svg", metavar="FILE", help="draw all rows to FILE (needs gnuplot)")
    made.add_argument(
        "--bin-dir",
        metavar="FOLDER",
        default=os.path.dirname(FOLDER),
        help="the folder bench of the built programs",
    )
    return made


def output_path(path):
    """An output file's path, from where the user is. Raises Usage at once, not after the
    measurement, if it cannot be written."""
    if path is None:
        return None
    path = os.path.join(os.environ.get("BUILD_WORKING_DIRECTORY", ""), path)
    is_new = not os.path.exists(path)
    try:
        with open(path, "a", encoding="utf-8"):
            pass
        if is_new:
            os.remove(path)
        return path
    except OSError as error:
        raise Usage(f"{path}: {error.strerror}") from None


def checked(arguments):
    options = parser().parse_args(arguments)
    options.rows = [row for row in rows.ALL if not options.row or row.name in options.row]
    options.allocators = [
        name for name in ALLOCATORS if name in (options.allocator or DEFAULT_ALLOCATORS)
    ]
    options.json, options.svg = output_path(options.json), output_path(options.svg)
    if options.svg and not plot.is_there():
        raise Usage("argument --svg: gnuplot is not installed")
    if options.max_bytes is None:
        options.max_bytes = max(
            LEAST_BYTES, min(rows.MAX_BYTES, int(points.memory_free() * MEMORY_SHARE))
        )
    if not any(row.allocators(options.allocators) for row in options.rows):
        raise Usage("none of these allocators has such a row")
    return options


def measured(options, runner, progress):
    """The whole report, plain data."""
    skipped = [f"{name}: {why}" for name in options.allocators if (why := runner.missing(name))]
    allocators = [name for name in options.allocators if not runner.missing(name)]
    owners = {name: runner.check_owner(name) for name in allocators}
    plan = points.Plan([rows.CONTROL], ["glibc"], options.max_bytes, options.sizes)
    points.measure(plan, runner, options.repeats, options.seconds, options.pause_ms, progress)
    control_series = growth.series_of(plan.points, {})
    control = {
        one["others"]: [(v["size"], v["value"]) for v in one["values"]]
        for one in control_series
        if one["measure"] == "pause"
    }
    plan = points.Plan(options.rows, allocators, options.max_bytes, options.sizes)
    left_out = points.measure(
        plan, runner, options.repeats, options.seconds, options.pause_ms, progress
    )
    failures = [
        f"{row} at {at} under {allocator}: {point.failure}"
        for (row, allocator, _), of_size in plan.points.items()
        for at, point in of_size.items()
        if point.failure
    ]
    # The control is no allocator's, and nothing of it is to be marked.
    series = [{**one, "allocator": "-", "mark": ""} for one in control_series] + growth.series_of(
        plan.points, control
    )
    return {
        "format": FORMAT,
        "machine": machine.describe(allocators),
        "served_by": owners,
        "skipped": skipped,
        "max_bytes": options.max_bytes,
        "repeats": options.repeats,
        "seconds": options.seconds,
        "failures": failures,
        "left_out": left_out,
        "series": series,
    }


def show_all(options, report):
    chosen = [rows.CONTROL, *options.rows]
    print(show.text(report, chosen, options.all))
    if plot.is_there():
        print(plot.as_text(options.rows, report["series"]), end="")
    else:
        print("not drawn: gnuplot is not installed")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump(report, file, indent=1)
    if options.svg:
        with open(options.svg, "w", encoding="utf-8") as file:
            file.write(plot.as_svg(options.rows, report["series"]))


def main(arguments, make_runner=points.Runner):
    try:
        options = checked(arguments)
    except Usage as error:
        sys.stderr.write(f"worst: {error}\n{parser().format_usage()}")
        return 2
    if options.list:
        print("\n".join(f"{row.name:<16} {row.text} [{row.unit}]" for row in options.rows))
        return 0
    progress = rounds.Progress()
    try:
        show_all(options, measured(options, make_runner(options.bin_dir), progress))
        return 0
    except (points.Failure, OSError, ValueError) as error:
        progress.end()
        sys.stderr.write(f"worst: {error}\n")
        return 1
    except KeyboardInterrupt:
        progress.end()
        sys.stderr.write("worst: interrupted, nothing was written\n")
        return 130


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
