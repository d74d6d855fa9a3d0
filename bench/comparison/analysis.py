"""From the runs to everything that is printed: plain data, the content of the JSON file."""

from comparison import stats, table, verdict

FORMAT = 2
# Name in a row -> name in a run; of all of these less is better. Absent where no run has it.
USED = {
    "peak_kib": "peak_kib",
    "settled_kib": "exit_kib",
    "cpu_s": "cpu_s",
    "minor_faults": "minor_faults",
    "major_faults": "major_faults",
    "fragmentation": "fragmentation",
}


def kept_rounds(runs_of, least_left):
    """How many rounds of a workload are left out as warm-up. runs_of: {allocator: its runs}."""
    series = [[run["ops_per_s"] for run in runs] for runs in runs_of.values()]
    return stats.warm_up(series, least_left)


def latency(runs):
    """Each percentile's median over the runs; None where the workload times no single calls."""
    told = [run["latency_ns"] for run in runs if "latency_ns" in run]
    return {name: stats.median([one[name] for one in told]) for name in told[0]} if told else None


def row_of(allocator, runs, all_runs, ours):
    """All about one allocator at one workload."""
    row = {"allocator": allocator, "throughput": stats.summary([run["ops_per_s"] for run in runs])}
    for name, key in USED.items():
        values = [run[key] for run in runs if key in run]
        if len(values) == len(runs):
            row[name] = stats.summary(values, least=True)
    if latency(runs):
        row["latency_ns"] = latency(runs)
    # The limit is no competitor.
    if ours is not None and allocator not in (table.OURS, table.LIMIT):
        row["ours_against_it"] = stats.against(
            [run["ops_per_s"] for run in ours], [run["ops_per_s"] for run in runs]
        )
        row["ours_peak_ratio"] = stats.median(
            [a["peak_kib"] / b["peak_kib"] for a, b in zip(ours, runs)]
        )
        if all(run.get("cpu_s") for run in [*ours, *runs]):
            row["ours_cpu_ratio"] = stats.median(
                [a["cpu_s"] / b["cpu_s"] for a, b in zip(ours, runs)]
            )
    middle = min(runs, key=lambda run: abs(run["ops_per_s"] - row["throughput"]["median"]))
    row["memory"] = {
        "interval_ms": middle.get("interval_ms"),
        "kib": middle.get("resident_kib", []),
    }
    # The samples of one run are enough; the others' would be most of the file.
    row["runs"] = [
        {key: value for key, value in run.items() if key != "resident_kib"} for run in all_runs
    ]
    return row


def part_of(workload, runs_of, min_runs):
    left_out = kept_rounds(runs_of, min_runs)
    kept = {allocator: runs[left_out:] for allocator, runs in runs_of.items()}
    rows = [row_of(name, kept[name], runs_of[name], kept.get(table.OURS)) for name in runs_of]
    real = [row["throughput"]["median"] for row in rows if row["allocator"] != table.LIMIT]
    best = max(real, default=None)
    limit = next(
        (row["throughput"]["median"] for row in rows if row["allocator"] == table.LIMIT), None
    )
    for row in rows:
        if row["allocator"] != table.LIMIT:
            row["to_best"] = best / row["throughput"]["median"]
            if limit:
                row["to_limit"] = limit / row["throughput"]["median"]
    # The limit comes last, with no place among the others.
    rows.sort(key=lambda row: row.get("to_best", float("inf")))
    mode = next(iter(runs_of.values()))[0]["mode"]
    return {
        "workload": workload.name,
        "text": workload.text,
        "binary": workload.binary,
        "arguments": workload.args[mode],
        "mode": mode,
        "threads": workload.threads,
        "unit": workload.unit,
        "tags": workload.tags,
        "scaling": workload.scaling(),
        "rounds": len(next(iter(kept.values()))),
        "left_out": left_out,
        "allocators": rows,
    }


def overall(parts):
    """For each allocator the geometric means over the workloads that it and hakmem share of its
    time, CPU time and peak memory over hakmem's (above 1: hakmem is ahead), and how often which
    verdict was given."""
    found = {}
    for part in parts:
        for row in part["allocators"]:
            pairs = row.get("ours_against_it")
            if not pairs:
                continue
            one = found.setdefault(
                row["allocator"], {"time": [], "cpu": [], "memory": [], "verdicts": {}}
            )
            one["time"].append(pairs["ratio"])
            one["cpu"] += [1 / row["ours_cpu_ratio"]] if "ours_cpu_ratio" in row else []
            one["memory"].append(1 / row["ours_peak_ratio"])
            one["verdicts"][pairs["verdict"]] = one["verdicts"].get(pairs["verdict"], 0) + 1
    return {
        name: {
            "workloads": len(one["time"]),
            "time_to_ours": stats.geometric_mean(one["time"]),
            "cpu_to_ours": stats.geometric_mean(one["cpu"]) if one["cpu"] else None,
            "peak_to_ours": stats.geometric_mean(one["memory"]),
            "verdicts": one["verdicts"],
        }
        for name, one in found.items()
    }


def analyse(workloads, results, min_runs, **about):
    """The whole report. `about`: machine, noise, command, served_by, skipped."""
    parts = []
    for workload in workloads:
        runs_of = {name: runs for (one, name), runs in results.items() if one == workload.name}
        if runs_of:
            parts.append(part_of(workload, runs_of, min_runs))
    core = about.get("core")
    for part in parts:
        part["is_breadth"] = core is not None and part["workload"] not in core
    report = {
        "format": FORMAT,
        "confidence": stats.CONFIDENCE,
        **about,
        "overall": overall(parts),
        "workloads": parts,
    }
    return {"verdict": verdict.of(report), **report}
