"""The page of an experiment, as Markdown. A section "## In words" of an earlier page, which is
written by hand, is kept."""

import re

from comparison import machine, output
from experiment import judge

IN_WORDS = re.compile(r"^## In words\n.*?(?=^## |\Z)", re.DOTALL | re.MULTILINE)
HEAD = """\
# {title}

Written by `//bench:ab`. The effect is the change of throughput from A to B, the median over pairs
of runs in random alternation; its interval holds the true median with a probability of 95 % or
more.

| | |
|---|---|
| A | `{a}` |
| B | `{b}` |
| machine | {machine}, {compiler}, huge pages: {huge_pages} |
| noise | {noise} |
| date | {date} |
| repeat | `{command}` |
"""


def measured_text(one):
    pairs = one["pairs"]
    effect = pairs["smallest_effect"]
    seen = f"; so many runs would have seen {effect * 100:.1f} %" if effect is not None else ""
    return (
        f"{judge.signed(pairs['ratio'] - 1)} ({judge.signed(pairs['low'] - 1)} to "
        f"{judge.signed(pairs['high'] - 1)}), "
        f"`{one['b']}` is {pairs['verdict']}{seen}"
    )


def summary_rows(experiment):
    yield ["workload", "expected", "measured", "instructions", "result"]
    for one in experiment["workloads"]:
        change = one["profiles"][1].total / one["profiles"][0].total - 1
        expected = one["expected_text"] or "-"
        yield [
            one["name"], expected, measured_text(one), judge.signed(change), one["result"] or "-",
        ]


def function_rows(one):
    a, b = one["profiles"]
    code_a, code_b = one["code"]
    yield [
        "function", "code of A, B", "calls A", "calls B", "own instructions A",
        "own instructions B", "of the run A", "of the run B",
    ]
    for name in one["functions"]:
        sizes = [str(len(code[name])) if name in code else "none" for code in (code_a, code_b)]
        row = [f"`{name}`", " / ".join(sizes)] + [f"{p.calls(name):,}" for p in (a, b)]
        yield row + [f"{p.own(name):,}" for p in (a, b)] + [
            f"{p.share(name) * 100:.1f} %" for p in (a, b)
        ]


def time_rows(one):
    rows = one["rows"]
    unit, name = output.scale(rows)
    yield ["", "median " + name, "interval", *output.OLD_COLUMNS, "CPU s", "peak MiB"]
    for side, row in zip("AB", rows):
        speed = row["throughput"]
        head = [
            f"{side} `{row['allocator']}`", f"{speed['median'] / unit:.2f}",
            f"{speed['low'] / unit:.2f}-{speed['high'] / unit:.2f}",
        ]
        yield [
            *head, *output.old_cells(row, rows), f"{row['cpu_s']['median']:.3f}",
            output.mib(row, "peak_kib"),
        ]


def workload_section(one):
    lines = [f"## {one['name']}", "", f"{one['text']}: `{one['command']}`", ""]
    if one["result"]:
        lines += [
            f"**{one['result']}**: {one['why']}. Expected {one['expected_text']}, measured "
            f"{measured_text(one)}.",
            "",
        ]
    else:
        lines += [f"Measured {measured_text(one)}.", ""]
    lines += [f"- {reason}" for reason in one["reasons"]] + [""]
    warm = f", the first {one['left_out']} left out as warm-up" if one["left_out"] else ""
    lines += [
        f"Times, {one['runs']} pairs of runs{warm}:", "",
        *output.markdown_table(list(time_rows(one))), "",
    ]
    lines += [
        f"Functions of the library by callgrind, in a run with `{one['counted']}`; code is the",
        "number of instructions in the disassembly, the last columns are the function with all",
        "that it calls:",
        "",
        *output.markdown_table(list(function_rows(one))),
        "",
    ]
    return lines


def kept_words(old):
    """The hand-written section of an earlier page, or nothing."""
    match = IN_WORDS.search(old)
    return match.group(0).rstrip().splitlines() + [""] if match else []


def page(experiment, old=""):
    about = experiment["machine"]
    head = HEAD.format(
        title=experiment["title"],
        a=experiment["a"],
        b=experiment["b"],
        machine=machine.name(about),
        compiler=about.get("compiler"),
        huge_pages=about.get("huge_pages"),
        noise=output.noise_line(experiment),
        date=about.get("date"),
        command=experiment["command"],
    )
    lines = [
        head,
        *kept_words(old),
        "## Results",
        "",
        *output.markdown_table(list(summary_rows(experiment))),
        "",
    ]
    lines += ["## The code", "", *[f"- {line}" for line in experiment["code_lines"]], ""]
    for one in experiment["workloads"]:
        lines += workload_section(one)
    return "\n".join(lines).rstrip() + "\n"
