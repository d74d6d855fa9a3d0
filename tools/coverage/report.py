#!/usr/bin/env python3
"""report.py LCOV [--write FILE]: lines and branches that the tests reach, by folder, and those that
they do not reach, with the reason.

Reasons stand in reasons.txt, one a line: FILE TAB REGEX TAB REASON, for the lines of a file (a
pattern) that the regex finds. They do not change the figures: every line counts. With --write the
page goes to FILE. Fails if a folder is below the bounds, or if something that is not reached has no
reason.
"""

import argparse
import collections
import fnmatch
import os
import re
import sys

FOLDERS = "base limit superslab owner tiny mid_mt ace heap hakmem observe".split()
LEAST_LINES, LEAST_BRANCHES = 95.0, 85.0
HERE = os.path.dirname(os.path.abspath(__file__))
TOP = os.path.dirname(os.path.dirname(HERE))

Reason = collections.namedtuple("Reason", "file regex text")
Missed = collections.namedtuple("Missed", "file line what source why")


def read_reasons():
    with open(os.path.join(HERE, "reasons.txt")) as file:
        rows = [
            line.rstrip("\n").split("\t")
            for line in file
            if line.strip() and not line.startswith("#")
        ]
    return [Reason(name, re.compile(regex), text) for name, regex, text in rows]


def read_lcov(path):
    """{file: ({line: count}, {line: {group: [counts]}})}"""
    files = {}
    with open(path) as stream:
        for row in stream:
            key, _, value = row.strip().partition(":")
            if key == "SF":
                lines, branches = files.setdefault(value, ({}, {}))
            elif key == "DA":
                line, count = value.split(",")[:2]
                lines[int(line)] = int(count)
            elif key == "BRDA":
                line, group, _, count = value.split(",")
                branches.setdefault(int(line), {}).setdefault(group, []).append(int(count))
    return files


class Folder:
    def __init__(self):
        self.lines = self.lines_hit = self.branches = self.branches_hit = 0

    def percents(self):
        return 100.0 * self.lines_hit / max(self.lines, 1), 100.0 * self.branches_hit / max(
            self.branches, 1
        )


def statement(source, number):
    """The line, joined with the lines up to the statement's end, so that a macro that spans lines
    is seen from each of them."""
    start = number - 1
    while (
        start > 0
        and not re.search(r"[;{}]\s*(/\*.*\*/)?$", source[start - 1])
        and start > number - 4
    ):
        start -= 1
    return " ".join(line.strip() for line in source[start:number])


def survey(files, reasons):
    folders = {name: Folder() for name in FOLDERS}
    missed = []
    for name in sorted(files):
        folder = folders.get(name.split("/")[0])
        if folder is None or name.count("/") > 1:
            continue
        lines, branches = files[name]
        with open(os.path.join(TOP, name)) as file:
            source = file.read().split("\n")
        mine = [reason for reason in reasons if fnmatch.fnmatch(name, reason.file)]
        for number, count in sorted(lines.items()):
            text = statement(source, number)
            groups = branches.get(number, {})
            # A side that one compilation of the line reached is reached.
            counts = (
                max(groups.values(), key=lambda group: sum(1 for n in group if n) / len(group))
                if groups
                else []
            )
            n_missed = sum(1 for n in counts if not n) if count else 0
            why = next((reason.text for reason in mine if reason.regex.search(text)), None)
            folder.lines += 1
            folder.lines_hit += count > 0
            folder.branches += len(counts)
            folder.branches_hit += sum(1 for n in counts if n)
            if not count:
                missed.append(Missed(name, number, "line", source[number - 1].strip(), why))
            elif n_missed:
                what = "%d of %d branches" % (n_missed, len(counts))
                missed.append(Missed(name, number, what, source[number - 1].strip(), why))
    return folders, missed


def page(folders, missed, run):
    out = [
        "# Coverage\n",
        "Made by `tools/coverage/report.py`; `./bazelw run //tools/coverage:update` does it "
        "again.\n",
        "The run: %s.\n" % run,
    ]
    out.append("| Folder | Lines | reached | Branches | reached |\n|---|---|---|---|---|")
    for name, folder in folders.items():
        out.append("| %s | %d | %.1f %% | %d | %.1f %% |"
            % (name, folder.lines, folder.percents()[0], folder.branches, folder.percents()[1]))
    out.append("\n## Not reached\n\n| File | What | Source | Why |\n|---|---|---|---|")
    for one in missed:
        source = one.source.replace("|", "\\|").replace("`", "'")
        out.append(
            "| %s | %s | `%s` | %s |"
            % (one.file, one.what, source, one.why or "**no reason known**")
        )
    return "\n".join(out) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("lcov")
    parser.add_argument("--write")
    parser.add_argument(
        "--run", default="`./bazelw coverage` of the parts and preload, debug and tiny"
    )
    arguments = parser.parse_args()
    folders, missed = survey(read_lcov(arguments.lcov), read_reasons())
    text = page(folders, missed, arguments.run)
    if arguments.write:
        with open(arguments.write, "w") as file:
            file.write(text)
    else:
        print(text)
    low = [
        name
        for name, folder in folders.items()
        if folder.percents()[0] < LEAST_LINES or folder.percents()[1] < LEAST_BRANCHES
    ]
    if low:
        sys.exit("below the bounds: " + " ".join(low))
    unknown = ["%s:%d" % (one.file, one.line) for one in missed if not one.why]
    if unknown:
        sys.exit("not reached, and no reason in reasons.txt: " + " ".join(unknown))


if __name__ == "__main__":
    main()
