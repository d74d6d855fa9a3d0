"""merge: joins JSON results of compare, such as those that Bazel's tests left on many machines, by
machine.

merge FOLDER-OR-FILE... --out FOLDER: every result.json (also inside a test's outputs.zip) is read.
For each kind of machine one joined report is written, as JSON, Markdown, CSV and HTML; results of
different machines are never mixed. Of a workload that was measured twice on like machines, the
result with more rounds counts, and the other is named. verdicts.md has a verdict a machine, and one
over all: of each machine's workloads as if they were other workloads, each against the allocators
that ran beside it.
"""

import argparse
import json
import os
import re
import sys
import zipfile

from comparison import analysis, machine, output, verdict
from report import html

WRITERS = {
    "json": output.write_json,
    "md": output.write_markdown,
    "csv": output.write_csv,
    "html": html.write,
}
VERDICTS = "verdicts.md"


def results_in(path):
    """(where, report) of each result under a path: a JSON file, a zip file, or a folder of them."""
    if os.path.isdir(path):
        for folder, _, names in sorted(os.walk(path, followlinks=True)):
            for name in sorted(names):
                if name == "result.json" or name == "outputs.zip":
                    yield from results_in(os.path.join(folder, name))
    elif path.endswith(".zip"):
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                if os.path.basename(name) == "result.json":
                    yield f"{path}:{name}", json.loads(archive.read(name))
    else:
        with open(path, encoding="utf-8") as file:
            yield path, json.load(file)


def join(found):
    """({machine's name: joined report}, lines about what was left out)."""
    joined, notes = {}, []
    for where, report in found:
        if report.get("format") != analysis.FORMAT:
            notes.append(f"{where}: not of format {analysis.FORMAT}, left out")
            continue
        name = machine.name(report["machine"])
        into = joined.setdefault(name, {**report, "workloads": {}, "skipped": [], "results": []})
        into["results"].append(
            {
                "command": report.get("command"),
                "noise": report.get("noise"),
                "from": os.path.basename(where),
            }
        )
        into["skipped"] = sorted({*into["skipped"], *report.get("skipped", [])})
        into["served_by"] = {**into.get("served_by", {}), **report.get("served_by", {})}
        for part in report["workloads"]:
            other = into["workloads"].get(part["workload"])
            if other is not None:
                notes.append(
                    f"{part['workload']} was measured twice on {name}: the result with more "
                    f"rounds counts"
                )
            if other is None or part["rounds"] > other["rounds"]:
                into["workloads"][part["workload"]] = part
    for report in joined.values():
        report["workloads"] = list(report["workloads"].values())
        report["overall"] = analysis.overall(report["workloads"])
        if len(report["results"]) > 1:
            report["command"] = f"joined from {len(report['results'])} results"
            noises = [one["noise"] for one in report["results"] if one["noise"]]
            report["noise"] = max(noises, key=lambda noise: noise["spread"]) if noises else None
        report["verdict"] = verdict.of(report)
    return joined, notes


def over_all(joined):
    """The verdict over all machines: a pair of runs is always one machine's."""
    parts = [
        {**part, "workload": f"{part['workload']} on {name}", "is_breadth": False}
        for name, report in joined.items()
        for part in report["workloads"]
        if not part.get("is_breadth")
    ]
    noises = [report["noise"] for report in joined.values() if report.get("noise")]
    noise = max(noises, key=lambda one: one["spread"]) if noises else None
    return verdict.of({"workloads": parts, "noise": noise})


def verdict_rows(joined):
    """[(where, the sentence)]: each machine, then all."""
    rows = [(name, report["verdict"]["text"]) for name, report in joined.items()]
    return rows + [(f"all {len(rows)} machines", over_all(joined)["text"])] * (len(rows) > 1)


def write(joined, out):
    """All files of a merge."""
    os.makedirs(out, exist_ok=True)
    for name, report in joined.items():
        for ending, write_one in WRITERS.items():
            path = os.path.join(out, f"{file_name(name)}.{ending}")
            with open(path, "w", encoding="utf-8") as file:
                write_one(report, file)
    with open(os.path.join(out, VERDICTS), "w", encoding="utf-8") as file:
        file.write("# Verdicts\n")
        for where, text in verdict_rows(joined):
            file.write(f"\n## {where}\n\n{text}\n")


def file_name(machine_name):
    return re.sub(r"[^a-z0-9]+", "-", machine_name.lower()).strip("-")


def main(arguments):
    parser = argparse.ArgumentParser(
        prog="merge", description="Joins JSON results of compare by machine."
    )
    parser.add_argument(
        "paths", nargs="+", metavar="PATH",
        help="a JSON file, a zip file, or a folder that holds such",
    )
    parser.add_argument(
        "--out", required=True, metavar="FOLDER", help="where the joined reports go"
    )
    options = parser.parse_args(arguments)
    base = os.environ.get("BUILD_WORKING_DIRECTORY", "")
    try:
        found = [one for path in options.paths for one in results_in(os.path.join(base, path))]
        joined, notes = join(found)
        if joined:
            write(joined, os.path.join(base, options.out))
        for name, report in joined.items():
            print(
                f"{name}: {len(report['workloads'])} workloads from {len(report['results'])} "
                f"results"
            )
        for where, text in verdict_rows(joined) if joined else ():
            print(f"verdict on {where}: {text}")
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        sys.stderr.write(f"merge: {error}\n")
        return 1
    for note in notes:
        sys.stderr.write(f"merge: {note}\n")
    if not joined:
        sys.stderr.write("merge: no results found\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
