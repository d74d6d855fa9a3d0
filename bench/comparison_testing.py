"""Shared by the tests of the comparison: workloads and runs that are made up."""

import json
import os

from comparison import analysis, table

FOLDER = os.path.dirname(os.path.abspath(__file__))
ABOUT = {
    "machine": {
        "cpu": "Some CPU",
        "cpus": 2,
        "kernel": "6.1",
        "compiler": "gcc </script>",
        "huge_pages": "madvise",
        "memory_mib": 1,
    },
    "noise": {"spins": 40, "spread": 0.01, "worst": 0.2, "median_ns": 1e6},
    "command": "./bazelw run //bench:compare",
    "served_by": {},
    "skipped": ["tbbmalloc: libtbbmalloc_proxy.so.2 is not installed"],
}


def workload(name="one", **more):
    row = {
        "name": name,
        "binary": "bench_" + name,
        "args": {"default": ["1", "{seed}"]},
        "text": "a <text> & more",
    }
    return table.Workload({**row, **more})


def run(ops_per_s, peak_kib=1000, **more):
    used = {
        "exit_kib": 500,
        "cpu_s": 0.1,
        "minor_faults": 10,
        "major_faults": 0,
        "interval_ms": 4,
        "resident_kib": [1, 2, 3],
    }
    return {
        "ops_per_s": ops_per_s,
        "peak_kib": peak_kib,
        "seed": 1,
        "mode": "default",
        **used,
        **more,
    }


def report(speeds=None, rounds=12, names=("one", "two"), peaks=None, **more):
    """A report of some workloads. speeds, peaks: {allocator: operations a second, KiB}."""
    speeds = speeds or {"hakmem": 1.2e7, "jemalloc": 1e7, "glibc": 6e6, "null": 5e7}
    workloads = [
        workload(name, threads=i + 1, tags=["scaling:family"]) for i, name in enumerate(names)
    ]
    results = {}
    for one in workloads:
        for allocator, speed in speeds.items():
            results[one.name, allocator] = [
                run(
                    speed * (1 + 0.001 * (i * 7 % 5)),
                    (peaks or {}).get(allocator, 1000),
                    latency_ns={
                        "p50": 20,
                        "p90": 30,
                        "p99": 90,
                        "p99.9": 500,
                        "p99.99": 4000,
                        "max": 90000,
                    },
                )
                for i in range(rounds)
            ]
    made = analysis.analyse(workloads, results, 6, **{**ABOUT, **more})
    return json.loads(json.dumps(made))  # as it is after a file


__all__ = ["ABOUT", "FOLDER", "report", "run", "workload"]
