"""The comparison with an earlier report, for regression checks: hakmem's lead over each peer then
and now.

Absolute times differ from day to day and from machine to machine. The comparison is of hakmem's
ratio to each peer that both reports measured; a regression is claimed only where the intervals of
both ratios lie apart, by more than the tolerance, and most of the peers say so. Peak memory hardly
swings: there the medians are compared."""

import json

from comparison import stats, table

TOLERANCE = 0.05


class Mismatch(Exception):
    """The two reports have nothing in common, or one is no report."""


def load(path):
    try:
        with open(path, encoding="utf-8") as file:
            report = json.load(file)
        if not isinstance(report, dict) or "workloads" not in report:
            raise ValueError("no report of compare")
        return report
    except (OSError, ValueError) as error:
        raise Mismatch(f"{path}: {error}") from None


def rows_of(report):
    return {
        part["workload"]: {row["allocator"]: row for row in part["allocators"]}
        for part in report["workloads"]
    }


def time_change(then, now, tolerance):
    """(change, regressed) of hakmem's throughput against its peers; None without a common peer."""
    changes, slower = [], 0
    for name in then.keys() & now.keys() - {table.OURS, table.LIMIT}:
        a, b = then[name].get("ours_against_it"), now[name].get("ours_against_it")
        if a and b:
            changes.append(b["ratio"] / a["ratio"])
            enough = (
                stats.sign_rank(len(a["pairs"])) is not None
                and stats.sign_rank(len(b["pairs"])) is not None
            )
            slower += enough and b["high"] < a["low"] * (1 - tolerance)
    if not changes:
        return None
    return stats.median(changes) - 1, slower * 2 > len(changes)


def compare(then, now, tolerance=TOLERANCE):
    """(lines, number of regressions). Raises Mismatch when there is nothing to compare."""
    lines, regressions, compared = [], 0, 0
    old, new = rows_of(then), rows_of(now)
    modes = {part["workload"]: part.get("arguments") for part in then["workloads"]}
    for part in now["workloads"]:
        name = part["workload"]
        if name not in old or table.OURS not in old[name] or table.OURS not in new[name]:
            continue
        if modes[name] != part["arguments"]:
            lines.append(f"{name}: other arguments than in the baseline, not compared")
            continue
        found = time_change(old[name], new[name], tolerance)
        peak = (
            new[name][table.OURS]["peak_kib"]["median"]
            / old[name][table.OURS]["peak_kib"]["median"]
            - 1
        )
        compared += 1
        words = []
        if found:
            words.append(
                f"speed against the peers {found[0]:+.1%}{' REGRESSION' if found[1] else ''}"
            )
            regressions += found[1]
        worse = peak > tolerance
        words.append(f"peak memory {peak:+.1%}{' REGRESSION' if worse else ''}")
        regressions += worse
        lines.append(f"{name}: " + ", ".join(words))
    if not compared:
        raise Mismatch(
            "the baseline has no workload with the same arguments in common with this run"
        )
    return lines, regressions
