"""A report as text for people, as Markdown, CSV and JSON."""

import csv
import json

from comparison import machine, stats, table

EXPLANATION = f"""\
median: operations (malloc or free, or the workload's own unit) a second; then its bootstrap
interval of {stats.CONFIDENCE:.0%}. to best: the best median of a real allocator over this one.
peak, settled: resident memory at its most, and when the program ended (median of the runs).
faults: minor page faults. resident/live: peak over the bytes alive at the end of the work, if the
workload prints them. M instr.: millions of instructions of a run with the quick arguments, by
callgrind; the start of the process and waiting in a loop count too.
{table.LIMIT}: an allocator that does nothing, which is the limit and no competitor: what the
workload itself costs."""

PAIRS_EXPLANATION = f"""\
{table.OURS} against it: its throughput over the other's in the same round, median of the rounds;
in brackets the interval that holds the true median with a probability of {stats.CONFIDENCE:.0%} or
more. "not told apart": the bracket holds 1. Then the smallest difference that so many pairs with
this spread would have shown in {stats.POWER:.0%} of such measurements. One verdict in
{1 / (1 - stats.CONFIDENCE):.0f} between equals is wrong by chance: judge a whole table by its
geometric means."""


def percent(value):
    return "-" if value is None else f"{value * 100:.1f} %"


def mib(row, name):
    return f"{row[name]['median'] / 1024:.1f}" if name in row else "-"


def noise_line(report):
    noise = report.get("noise")
    if not noise:
        return "noise of the machine: not measured"
    return (
        "noise of the machine before: a fixed loop's time had a spread of "
        f"{percent(noise['spread'])} between the quartiles, "
        f"its worst of {noise['spins']} was {percent(noise['worst'])} above the median"
    )


def machine_lines(report):
    about = report["machine"]
    versions = ", ".join(
        f"{name} {version}" for name, version in about.get("versions", {}).items() if version
    )
    return [
        f"{machine.name(about)}, {about.get('compiler')}, huge pages: {about.get('huge_pages')}",
        *([versions] if versions else []),
        noise_line(report),
        f"repeat: {report.get('command')}",
        *[f"skipped: {why}" for why in report.get("skipped", [])],
    ]


def heading(part):
    warm = f"; the first {part['left_out']} left out as warm-up" if part["left_out"] else ""
    return (
        f"{part['workload']}: {part['text']}; {part['rounds']} runs each{warm}; "
        f"{part['mode']} arguments: {' '.join(part['arguments'])}"
    )


def pairs_text(row):
    pairs = row.get("ours_against_it")
    if not pairs:
        return ""
    effect = pairs["smallest_effect"]
    seen = f", sees {percent(effect)}" if effect is not None else ""
    return (
        f"{pairs['ratio']:.3f} ({pairs['low']:.3f} to {pairs['high']:.3f}) {pairs['verdict']}{seen}"
    )


def scale(rows):
    """(divisor, name) of the unit in which a workload's rows are printed: millions a second,
    thousands, or single ones."""
    most = max(row["throughput"]["median"] for row in rows)
    return next((one for one in ((1e6, "M/s"), (1e3, "k/s")) if most >= one[0]), (1.0, "1/s"))


def columns(rows):
    counted = ["M instr."] if any("instructions" in row for row in rows) else []
    return [
        "allocator", "median " + scale(rows)[1], "interval", "to best", "peak MiB", "settled",
        "CPU s", "faults", "resident/live",
    ] + counted


def cells(row, rows):
    speed, (unit, _) = row["throughput"], scale(rows)
    counted = (
        [f"{row['instructions'] / 1e6:.1f}" if "instructions" in row else "-"]
        if len(columns(rows)) > 9
        else []
    )
    return [
        row["allocator"],
        f"{speed['median'] / unit:.2f}",
        f"{speed['low'] / unit:.2f}-{speed['high'] / unit:.2f}",
        f"{row['to_best']:.3f}" if "to_best" in row else "limit",
        mib(row, "peak_kib"),
        mib(row, "settled_kib"),
        f"{row['cpu_s']['median']:.2f}" if "cpu_s" in row else "-",
        f"{row['minor_faults']['median']:.0f}" if "minor_faults" in row else "-",
        f"{row['fragmentation']['median']:.2f}" if "fragmentation" in row else "-",
        *counted,
    ]


OLD_COLUMNS = ["mean", "stdev", "without first", "best 3 of 5"]


def old_cells(row, rows):
    """The figures that older reports had, in the same unit."""
    speed, (unit, _) = row["throughput"], scale(rows)
    values = [speed["mean"], speed["stdev"], speed["mean_without_first"], speed["best_3_of_5"]]
    return ["-" if value is None else f"{value / unit:.2f}" for value in values]


def aligned(rows):
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    for row in rows:
        yield "  " + row[0].ljust(widths[0]) + "".join(
            cell.rjust(width + 2) for cell, width in zip(row[1:], widths[1:])
        )


def overall_rows(report):
    for name, one in report["overall"].items():
        verdicts = ", ".join(
            f"{count} {verdict}" for verdict, count in sorted(one["verdicts"].items())
        )
        cpu = f"{one['cpu_to_ours']:.3f}" if one.get("cpu_to_ours") else "-"
        yield [
            name, f"{one['time_to_ours']:.3f}", cpu, f"{one['peak_to_ours']:.3f}",
            str(one["workloads"]), verdicts,
        ]


MARKS = {"faster": "+", "slower": "-", "not told apart": "", "too few runs": "?"}
GLANCE_TITLE = (
    f"each workload at a glance: {table.OURS}'s throughput over each peer's (+ faster, - slower, "
    f"? too few runs, no mark: not told apart), the best real allocator's over {table.OURS}'s, "
    f"and {table.OURS}'s peak memory over the lowest"
)


def glance_rows(report):
    """One row a workload: where hakmem stands."""
    peers = table.ordered(report["overall"])
    yield ["workload", *peers, "best", "to best", "peak to lowest"]
    for part in report["workloads"]:
        rows = {row["allocator"]: row for row in part["allocators"]}
        if table.OURS not in rows:
            continue
        pairs = [rows[name].get("ours_against_it") if name in rows else None for name in peers]
        told = [
            "-" if one is None else f"{one['ratio']:.2f}{MARKS[one['verdict']]}" for one in pairs
        ]
        real = [row for name, row in rows.items() if name != table.LIMIT]
        best = min(real, key=lambda row: row["to_best"])["allocator"]
        peak = rows[table.OURS]["peak_kib"]["median"] / min(
            row["peak_kib"]["median"] for row in real
        )
        yield [part["workload"], *told, best, f"{rows[table.OURS]['to_best']:.2f}", f"{peak:.2f}"]


OVERALL_COLUMNS = ["allocator", "time", "CPU time", "peak memory", "workloads", f"{table.OURS} is"]
OVERALL_TITLE = f"geometric means over {table.OURS}'s (above 1: {table.OURS} is ahead)"


def text(report):
    lines = [report["verdict"]["text"], "", *machine_lines(report), ""]
    for part in report["workloads"]:
        rows = part["allocators"]
        lines.append(heading(part))
        pairs = [f"{table.OURS} against it"] + [pairs_text(row) for row in rows]
        body = aligned([columns(rows)] + [cells(row, rows) for row in rows])
        lines += [
            f"{line}   {pair}".rstrip() if any(pairs[1:]) else line
            for line, pair in zip(body, pairs)
        ]
        lines += list(
            aligned(
                [["allocator", *OLD_COLUMNS]]
                + [[row["allocator"], *old_cells(row, rows)] for row in rows]
            )
        )
        for row in rows:
            if "latency_ns" in row:
                lines.append(
                    f"  {row['allocator']}: "
                    + ", ".join(f"{k} {v:.0f} ns" for k, v in row["latency_ns"].items())
                )
        lines.append("")
    if report["overall"]:
        lines += [GLANCE_TITLE, *aligned(list(glance_rows(report))), ""]
        lines += [OVERALL_TITLE, *aligned([OVERALL_COLUMNS, *overall_rows(report)]), ""]
    lines.append(EXPLANATION)
    if report["overall"]:
        lines.append(PAIRS_EXPLANATION)
    return "\n".join(lines)


def markdown_table(rows):
    yield "| " + " | ".join(rows[0]) + " |"
    yield "|---" + "|---:" * (len(rows[0]) - 1) + "|"
    for row in rows[1:]:
        yield "| " + " | ".join(row) + " |"


def write_markdown(report, file):
    date = [f"date: {report['machine'].get('date')}"]
    lines = (
        ["# Comparison of allocators", "", report["verdict"]["text"], ""]
        + [f"- {line}" for line in machine_lines(report) + date]
        + [""]
    )
    if report["overall"]:
        lines += [
            "## Overall",
            "",
            OVERALL_TITLE,
            "",
            *markdown_table([OVERALL_COLUMNS, *overall_rows(report)]),
            "",
        ]
        lines += [GLANCE_TITLE, "", *markdown_table(list(glance_rows(report))), ""]
    for part in report["workloads"]:
        rows = part["allocators"]
        made = [cells(row, rows) + old_cells(row, rows) + [pairs_text(row)] for row in rows]
        lines += [f"## {part['workload']}", "", heading(part), ""]
        lines += [
            *markdown_table([columns(rows) + OLD_COLUMNS + [f"{table.OURS} against it"], *made]),
            "",
        ]
    file.write(
        "\n".join(lines + ["## What the columns say", "", EXPLANATION, "", PAIRS_EXPLANATION])
        + "\n"
    )


SPEED = [
    "median", "low", "high", "q1", "q3", "min", "max", "spread", "mean", "stdev",
    "mean_without_first", "best_3_of_5",
]
USED = ["peak_kib", "settled_kib", "cpu_s", "minor_faults", "major_faults", "fragmentation"]
PAIRS = ["ratio", "low", "high", "verdict", "smallest_effect"]
PERCENTILES = ["p50", "p90", "p99", "p99.9", "p99.99", "max"]
CSV_COLUMNS = (
    ["workload", "allocator", "threads", "runs", "left_out"]
    + ["ops_per_s_" + name for name in SPEED]
    + ["to_best", "to_limit"]
    + USED
    + ["instructions"]
    + ["latency_ns_" + name for name in PERCENTILES]
    + ["ours_" + name for name in PAIRS]
    + ["machine"]
)


def write_csv(report, file):
    writer = csv.writer(file, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for part in report["workloads"]:
        for row in part["allocators"]:
            pairs, latency = row.get("ours_against_it", {}), row.get("latency_ns", {})
            values = [
                part["workload"], row["allocator"], part["threads"], part["rounds"],
                part["left_out"],
            ]
            values += [row["throughput"][name] for name in SPEED] + [
                row.get("to_best"), row.get("to_limit"),
            ]
            values += [row.get(name, {}).get("median") for name in USED] + [row.get("instructions")]
            values += [latency.get(name) for name in PERCENTILES] + [
                pairs.get(name) for name in PAIRS
            ]
            values.append(machine.name(report["machine"]))
            writer.writerow(["" if value is None else value for value in values])


def write_json(report, file):
    json.dump(report, file, indent=1)
    file.write("\n")
