"""secure_price: what the secure variant costs over release, and what each of its parts does.

secure_price [--rounds N] [--work SIZE] [--only NAME,...] [--page FILE] PROGRAMS RELEASE SECURE:
PROGRAMS is the folder with the workloads' programs and `measure`; the others are two libhakmem.so.
Each round runs each workload under release, under secure, and under secure without each part, in
random order. A figure is the geometric mean of the workloads' ratios to release: the median of the
rounds, and the least and the most. --page writes the table into a page, between its marks
(docs/secure.md). Exit status: 0; 1 when a run failed; 2 for a wrong command line.
"""

import argparse
import json
import os
import random
import subprocess
import sys

from comparison import stats

HERE = os.path.dirname(os.path.abspath(__file__))
WORKLOADS = ["workloads.json", "workloads/workloads.json"]
BEGIN, END = "<!-- Written by bench/secure_price.py -->", "<!-- As far as here. -->"
LEAST_CPU_S = 0.001  # the clock's step; what is shorter is not told apart

# What is left out: the text, the settings, and what is lost then. The first is all of it.
PARTS = [
    ("nothing", {}, "-"),
    (
        "`HAKMEM_SECURE_QUARANTINE=0`",
        {"HAKMEM_SECURE_QUARANTINE": "0"},
        "freed small blocks come back at once, at random among those at hand",
    ),
    (
        "`HAKMEM_SECURE_GUARDS=0`",
        {"HAKMEM_SECURE_GUARDS": "0"},
        "small blocks' overflows of 64 KiB and more are found late, by a line",
    ),
    (
        "`HAKMEM_SECURE_LARGE_QUARANTINE=0`",
        {"HAKMEM_SECURE_LARGE_QUARANTINE": "0"},
        "addresses of large blocks come back at once; no pages are lent",
    ),
    (
        "`HAKMEM_SECURE_APART=0`",
        {"HAKMEM_SECURE_APART": "0"},
        "64 KiB that were blocks of one size class may serve another one later",
    ),
    (
        "all four",
        {
            "HAKMEM_SECURE_APART": "0",
            "HAKMEM_SECURE_QUARANTINE": "0",
            "HAKMEM_SECURE_GUARDS": "0",
            "HAKMEM_SECURE_LARGE_QUARANTINE": "0",
        },
        "all of the above",
    ),
]


def commands(programs, work, only):
    """Name of each workload -> its program and arguments, {seed} left open."""
    found = {}
    for path in WORKLOADS:
        with open(os.path.join(HERE, path), encoding="utf-8") as file:
            for row in json.load(file):
                if not only or row["name"] in only:
                    program = find(programs, row["binary"])
                    found[row["name"]] = [
                        program, *row["args"].replace("{work}", str(row["work"][work])).split()
                    ]
    return found


def find(programs, name):
    """In the folder, or below it."""
    for folder, _, files in os.walk(programs, followlinks=True):
        if os.path.basename(name) in files:
            return os.path.join(folder, os.path.basename(name))
    raise FileNotFoundError(f"{name} is not in {programs}")


def run(measure, library, settings, command):
    """CPU seconds and peak KiB of one run; what `measure` says comes as descriptor 3."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("HAKMEM_")}
    read_end, write_end = os.pipe()
    with os.fdopen(read_end) as report:
        try:
            subprocess.run(
                ["/bin/sh", "-c", f'exec "$@" 3>&{write_end}', "sh", measure, "-p", library]
                + command,
                env={**environment, **settings}, pass_fds=[write_end], check=True,
                stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL,
            )
        finally:
            os.close(write_end)
        used = json.loads(report.read())
    return max(used["user_s"] + used["system_s"], LEAST_CPU_S), used["peak_kib"]


def one_round(measure, release, secure, rows, seed):
    """For each part, the geometric means over the workloads of (CPU, peak) over release's."""
    ratios = [([], []) for _ in PARTS]
    for command in rows.values():
        command = [word.replace("{seed}", str(seed)) for word in command]
        sides = [("base", release, {})] + [
            (i, secure, settings) for i, (_, settings, _) in enumerate(PARTS)
        ]
        random.shuffle(sides)
        used = {name: run(measure, library, more, command) for name, library, more in sides}
        for i in range(len(PARTS)):
            for of in range(2):
                ratios[i][of].append(used[i][of] / used["base"][of])
    return [tuple(stats.geometric_mean(values) for values in part) for part in ratios]


def figure(values):
    return f"{stats.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def table(rounds, n_workloads):
    """The table's lines. rounds: what one_round returns, of each."""
    lines = [
        f"{n_workloads} workloads, {len(rounds)} rounds; the geometric mean over release's: the",
        "median of the rounds, and the least and the most.",
        "",
        "| Left out | CPU time | Peak | What is lost |",
        "|---|---|---|---|",
    ]
    for i, (text, _, lost) in enumerate(PARTS):
        cpu, peak = ([done[i][of] for done in rounds] for of in range(2))
        lines.append(f"| {text} | {figure(cpu)} | {figure(peak)} | {lost} |")
    return lines


def put(page, lines):
    """The page with these lines between its marks."""
    before, rest = page.split(BEGIN + "\n", 1)
    _, after = rest.split(END, 1)
    return before + BEGIN + "\n\n" + "\n".join(lines) + "\n\n" + END + after


def parser():
    made = argparse.ArgumentParser(prog="secure_price", description=__doc__.split("\n\n")[0])
    made.add_argument("programs", metavar="PROGRAMS")
    made.add_argument("release", metavar="RELEASE")
    made.add_argument("secure", metavar="SECURE")
    made.add_argument("--rounds", type=int, default=5)
    made.add_argument("--work", choices=["quick", "default", "full"], default="quick")
    made.add_argument("--only", metavar="NAME,...", type=lambda names: names.split(","))
    made.add_argument("--page", metavar="FILE")
    return made


def main(arguments):
    given = parser().parse_args(arguments)
    try:
        rows = commands(given.programs, given.work, given.only)
        measure = find(given.programs, "measure")
        rounds = [
            one_round(measure, given.release, given.secure, rows, seed + 1)
            for seed in range(given.rounds)
        ]
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        print(f"secure_price: {error}", file=sys.stderr)
        return 1
    lines = table(rounds, len(rows))
    print("\n".join(lines))
    if given.page:
        with open(given.page, encoding="utf-8") as file:
            text = put(file.read(), lines)
        with open(given.page, "w", encoding="utf-8") as file:
            file.write(text)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
