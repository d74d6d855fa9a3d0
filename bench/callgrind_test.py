"""Counts instructions an operation, workload included, for hakmem and its peers; hakmem has to need
the fewest.

Valgrind's callgrind counts exactly, whatever else the machine does. Each program runs twice, with
different numbers of operations; the difference leaves out the start, first faults and first
refills. Only the measured loop counts (--toggle-collect). An operation is one malloc or one free.
"""

import argparse
import os
import re
import subprocess
import sys

# Name, program, its measured function, arguments ({n}: operations), what it is.
WORKLOADS = [
    (
        "random_mixed",
        "bench_random_mixed",
        "random_mixed_loop",
        ["{n}", "256", "42"],
        "16 to 1,024 bytes",
    ),
    ("mid", "bench_mid_mt_gap", "mid_mt_loop", ["1", "{n}", "256", "42"], "1 to 8 KiB, one thread"),
]
OURS = "hakmem"
PEERS = ["mimalloc", "tcmalloc", "jemalloc", "glibc"]
FEW, MANY = 50_000, 150_000


def collected(text):
    """The count in callgrind's closing lines; None when there is none."""
    match = re.search(r"Collected\s*:\s*(\d+)", text)
    return int(match.group(1)) if match else None


def instructions(program, function, arguments):
    command = [
        "valgrind", "--tool=callgrind", "--callgrind-out-file=/dev/null",
        f"--toggle-collect={function}",
    ]
    done = subprocess.run(command + [program] + arguments, capture_output=True, text=True)
    count = collected(done.stderr)
    if done.returncode != 0 or not count:
        raise RuntimeError(
            f"{' '.join(command + [program] + arguments)}: {done.returncode}\n{done.stderr}"
        )
    return count


def per_operation(bin_dir, workload, allocator):
    _, program, function, arguments, _ = workload
    path = os.path.join(bin_dir, f"{program}_{allocator}")
    few, many = (
        instructions(path, function, [a.format(n=n) for a in arguments]) for n in (FEW, MANY)
    )
    return (many - few) / (MANY - FEW)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--bin-dir", default=os.path.dirname(os.path.abspath(__file__)))
    parser.add_argument("--ours", default=OURS)
    options = parser.parse_args()
    failed = 0
    for workload in WORKLOADS:
        ours = per_operation(options.bin_dir, workload, options.ours)
        print(
            f"{workload[0]} ({workload[4]}), instructions an operation:\n  "
            f"{options.ours:<14}{ours:8.2f}",
            flush=True,
        )
        for peer in PEERS:
            theirs = per_operation(options.bin_dir, workload, peer)
            bad = ours >= theirs
            failed += bad
            print(
                f"  {peer:<14}{theirs:8.2f}{'   FAILED: hakmem needs more' if bad else ''}",
                flush=True,
            )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
