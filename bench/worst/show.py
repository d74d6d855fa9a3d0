"""The series as text: one table a row, the peers beside hakmem at each measure."""

import growth
import rows

DIGITS = 3
SCALES = {
    "ns": ((1e9, "s"), (1e6, "ms"), (1e3, "us"), (1, "ns")),
    "KiB": ((1 << 20, "GiB"), (1 << 10, "MiB"), (1, "KiB")),
    "bytes": ((1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB"), (1, "B")),
}
SCALES["median_ns"] = SCALES["ns"]
EXPLANATION = f"""\
Times are those of single calls: the longest of a run, and of the repeats the least, since a stall
that is real repeats. "longest" is the longest of all functions but malloc_trim and the walk, with
its name; "stall" the longest pair of malloc and free of a second thread; "median" that of one
function's calls; "+1" beside a second thread. growth: the slope of log value over log size, of all
or of the last {growth.LAST_POINTS} sizes; values below the floor count as the floor.
GROWS: above {growth.EXPONENT}, and the last value above the floor, for times at least
{growth.FLOORS['ns'] / 1e3:.0f} us and {growth.PAUSE_MARGIN} of the machine's own pauses (control),
for medians {growth.FLOORS['median_ns'] / 1e3:.0f} us. WRONG: above a limit that holds at any size.
>: the work was not done in {rows.RUN_S} s. xN: fewer repeats."""


def number(value, unit):
    """A value with three digits and its unit."""
    for factor, name in SCALES.get(unit, ((1, ""),)):
        if abs(value) >= factor or factor == 1:
            scaled = value / factor
            is_whole = abs(scaled) >= 100 or scaled == int(scaled)
            return f"{scaled:{'.0f' if is_whole else f'.{DIGITS}g'}} {name}".strip()
    return str(value)


def size_text(size, unit):
    return number(size, "bytes") if unit == "bytes" else f"{size:,} {unit}"


def value_text(one, unit, repeats):
    text = (">" if one["done"] < 1 else "") + number(one["value"], unit)
    return text + (f" x{one['repeats']}" if one["repeats"] < repeats else "")


def is_shown(series, everything):
    """By default the longest call, stalls, values and marks; with everything every function."""
    return (
        everything
        or bool(series["mark"])
        or series["measure"] in (growth.LONGEST, "stall", "pause", "fork median")
        or series["unit"] not in ("ns", "median_ns")
    )


def line_of(series, sizes, repeats):
    values = {one["size"]: one for one in series["values"]}
    last = series["values"][-1]
    name = (
        series["measure"]
        + (f" ({last['what']})" if last["what"] else "")
        + (" +1" if series["others"] else "")
    )
    grown = "-" if series["exponent"] is None else f"{series['exponent']:.2f}"
    cells = [
        value_text(values[size], series["unit"], repeats) if size in values else "-"
        for size in sizes
    ]
    return [series["allocator"], name, *cells, grown, series["mark"]]


def aligned(lines):
    """Columns: the first two to the left, numbers to the right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  "
        + "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths))
        ).rstrip()
        for line in lines
    )


def row_text(row, all_series, repeats, everything):
    mine = [one for one in all_series if one["row"] == row.name]
    shown = [one for one in mine if is_shown(one, everything)]
    # A measure that is marked for one stands there for all.
    marked = {(one["measure"], one["others"]) for one in shown}
    shown = [one for one in mine if (one["measure"], one["others"]) in marked]
    order = list(dict.fromkeys((one["measure"], one["others"]) for one in shown))
    order.sort(key=lambda key: (key[0] != growth.LONGEST, key[0] != "stall"))
    shown.sort(key=lambda one: order.index((one["measure"], one["others"])))
    sizes = sorted({value["size"] for one in mine for value in one["values"]})
    if not shown:
        return f"{row.name}: {row.text}\n  nothing was measured"
    heading = ["allocator", "measure", *[size_text(size, row.unit) for size in sizes], "growth", ""]
    return f"{row.name}: {row.text}\n" + aligned(
        [heading, *[line_of(one, sizes, repeats) for one in shown]]
    )


def marks(all_series):
    """How many series of each allocator are marked."""
    found = {}
    for one in all_series:
        counts = found.setdefault(one["allocator"], {"GROWS": 0, "WRONG": 0, "": 0})
        counts[one["mark"]] += 1
    return "\n".join(
        f"{name}: {counts['GROWS']} of {sum(counts.values())} measures grow, "
        f"{counts['WRONG']} above a limit"
        for name, counts in found.items()
    )


def text(report, chosen, everything):
    parts = [row_text(row, report["series"], report["repeats"], everything) for row in chosen]
    notes = [f"failed: {one}" for one in report["failures"]] + [
        f"left out: {one}" for one in report["left_out"]
    ]
    return (
        "\n\n".join([*parts, "\n".join(notes)] if notes else parts)
        + f"\n\n{marks(report['series'])}\n\n{EXPLANATION}"
    )
