#!/usr/bin/python3
"""Merges coverage into one lcov file, in the two places where Bazel asks for it.

After a test; DIR holds gcov's *.gcov.json.gz and *.dat files:
  lcov_merger --coverage_dir=DIR --output_file=FILE ...
After all tests; LIST names lcov files, one a line:
  lcov_merger --reports_file=LIST --output_file=FILE ...
"""

import argparse
import collections
import glob
import gzip
import json
import os


class Coverage:
    """Execution counts by file: lines {file: {line: count}}, functions {file: {name: [line,
    count]}}, and branches {file: {(line, group, number): count}}.

    A line that was compiled more than once (variants, inline functions) may have more branches in
    one place than in another. Compilations with equally many are added; each number of branches is
    a group.
    """

    def __init__(self):
        self.lines = collections.defaultdict(lambda: collections.defaultdict(int))
        self.functions = collections.defaultdict(dict)
        self.branches = collections.defaultdict(lambda: collections.defaultdict(int))

    def add_function(self, file, name, line, count):
        known = self.functions[file].setdefault(name, [line, 0])
        known[1] += count

    def read_gcov(self, path):
        with gzip.open(path, "rt") as stream:
            data = json.load(stream)
        for file in data["files"]:
            name = file["file"]
            if name.startswith(("/", "external/", "testing/")) or name.endswith("_test.cc"):
                continue  # not ours, or what tests
            for line in file["lines"]:
                self.lines[name][line["line_number"]] += line["count"]
                branches = line.get("branches", [])
                for number, branch in enumerate(branches):
                    self.branches[name][line["line_number"], len(branches), number] += branch[
                        "count"
                    ]
            for function in file["functions"]:
                self.add_function(
                    name, function["name"], function["start_line"], function["execution_count"]
                )

    def read_lcov(self, path):
        file = None
        starts = {}
        with open(path) as stream:
            for row in stream:
                key, _, value = row.strip().partition(":")
                if key == "SF":
                    file, starts = value, {}
                elif key == "DA":
                    line, count = value.split(",")[:2]
                    self.lines[file][int(line)] += int(count)
                elif key == "BRDA":
                    line, group, number, count = value.split(",")
                    self.branches[file][int(line), int(group), int(number)] += (
                        0 if count == "-" else int(count)
                    )
                elif key == "FN":
                    line, name = value.split(",", 1)
                    starts[name] = int(line)
                elif key == "FNDA":
                    count, name = value.split(",", 1)
                    self.add_function(file, name, starts.get(name, 0), int(count))

    def write(self, path):
        with open(path, "w") as out:
            for file in sorted(self.lines):
                out.write("SF:%s\n" % file)
                functions = sorted(self.functions[file].items(), key=lambda item: item[1][0])
                for name, (line, _) in functions:
                    out.write("FN:%d,%s\n" % (line, name))
                for name, (_, count) in functions:
                    out.write("FNDA:%d,%s\n" % (count, name))
                out.write(
                    "FNF:%d\nFNH:%d\n" % (len(functions), sum(1 for _, f in functions if f[1]))
                )
                branches = self.branches[file]
                for at in sorted(branches):
                    out.write("BRDA:%d,%d,%d,%d\n" % (at + (branches[at],)))
                out.write(
                    "BRF:%d\nBRH:%d\n" % (len(branches), sum(1 for n in branches.values() if n))
                )
                lines = self.lines[file]
                for line in sorted(lines):
                    out.write("DA:%d,%d\n" % (line, lines[line]))
                out.write(
                    "LH:%d\nLF:%d\nend_of_record\n"
                    % (sum(1 for n in lines.values() if n), len(lines))
                )


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--coverage_dir")
    parser.add_argument("--reports_file")
    parser.add_argument("--output_file", required=True)
    arguments, _ = parser.parse_known_args()
    coverage = Coverage()
    if arguments.coverage_dir:
        for path in glob.glob(
            os.path.join(arguments.coverage_dir, "**", "*.gcov.json.gz"), recursive=True
        ):
            coverage.read_gcov(path)
        for path in glob.glob(os.path.join(arguments.coverage_dir, "**", "*.dat"), recursive=True):
            coverage.read_lcov(path)
    if arguments.reports_file:
        with open(arguments.reports_file) as stream:
            for path in stream.read().split():
                coverage.read_lcov(path)
    coverage.write(arguments.output_file)


if __name__ == "__main__":
    main()
