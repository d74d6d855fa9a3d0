"""Pins the fast paths of malloc and free in the release library: their length, and what is not on
them.

path_trace single-steps them and says which instructions ran; objdump says what those are. The
counts have to be those in golden.txt, exactly: a shorter path is checked in too, so that it stays
so. On no path may there be a call, an atomic read-modify-write, a fence or a system call, and each
path has to be the same every time. README.md's tables, which say what each instruction is for, have
to name the instructions that are there.

golden_test.py --trace PROGRAM --library FILE --golden FILE --readme FILE [--show | --update FILE]
"""

import argparse
import os
import re
import subprocess
import sys

# What no fast path may hold, by the disassembler's text.
FORBIDDEN = [
    (r"^call", "a call"),
    (r"^lock\b", "an atomic read-modify-write"),
    (r"^xchg.*\(", "an atomic read-modify-write (xchg with memory)"),
    (r"^[lms]fence", "a fence"),
    (r"^(syscall|sysenter|int)\b", "a system call"),
    (r"^(rep|repz|repnz)\b(?!\s+ret)", "a string instruction"),
    (r"^(div|idiv)", "a division"),
]


def parse_trace(text):
    """path_trace's output: the object's path, and {name of the path: [offsets of one trace,
    ...]}."""
    library = None
    paths = {}
    for line in text.splitlines():
        name, *rest = line.split()
        if name == "object":
            library = rest[0]
        else:
            paths.setdefault(name, []).append([int(offset, 16) for offset in rest])
    return library, paths


def parse_disassembly(text):
    """objdump's output: {address: instruction}."""
    instructions = {}
    for line in text.splitlines():
        match = re.match(r"^\s*([0-9a-f]+):\t(.*)$", line)
        if match:
            instructions[int(match.group(1), 16)] = re.sub(r"\s+", " ", match.group(2)).strip()
    return instructions


def parse_golden(text):
    """golden.txt: {name of the path: (instructions, the most it may ever be)}."""
    golden = {}
    for line in text.splitlines():
        line = line.split("#")[0].split()
        if line:
            golden[line[0]] = (int(line[1]), int(line[2]))
    return golden


def parse_readme(text):
    """README.md: {name of the path: [the first word of each instruction in its table]}, a section
    "## NAME" a path."""
    tables = {}
    name = None
    for line in text.splitlines():
        heading = re.match(r"^## (.*)$", line)
        row = re.match(r"^\| `(\w+)", line)
        if heading:
            name = heading.group(1).strip("` ")
        elif row and name:
            tables.setdefault(name, []).append(row.group(1))
    return tables


def readme_problems(tables, paths, instructions):
    """Tables that do not name the instructions of their path. The order may differ: the compiler
    chooses it."""
    found = []
    for name, words in tables.items():
        real = (
            [instructions.get(offset, "?").split()[0] for offset in paths[name][0]]
            if name in paths
            else []
        )
        if sorted(words) != sorted(real):
            found.append(
                f"{name}: README.md has {' '.join(words)}\n{' ' * len(name)}  the path is "
                f"{' '.join(real)}"
            )
    return found


def forbidden(instruction):
    """The reason why a fast path may not hold this instruction; None if it may."""
    for pattern, name in FORBIDDEN:
        if re.search(pattern, instruction):
            return name
    return None


def problems(paths, instructions, golden):
    """Every way in which the traced paths are not what golden.txt says, a line each."""
    found = []
    for name in sorted(set(golden) | set(paths)):
        if name not in paths or name not in golden:
            found.append(f"{name}: " + ("not traced" if name not in paths else "not in golden.txt"))
            continue
        traces = paths[name]
        if any(trace != traces[0] for trace in traces):
            found.append(
                f"{name}: not the same path every time: {sorted(len(t) for t in traces)} "
                f"instructions"
            )
            continue
        count, limit = golden[name]
        if len(traces[0]) != count:
            found.append(f"{name}: {len(traces[0])} instructions, golden.txt says {count}")
        if len(traces[0]) > limit:
            found.append(f"{name}: {len(traces[0])} instructions, at most {limit} are allowed")
        if len(set(traces[0])) != len(traces[0]):
            found.append(f"{name}: a loop on the fast path")
        texts = [instructions.get(offset, "outside of the library") for offset in traces[0]]
        found += [
            f"{name}: {forbidden(text)} on the fast path: {text}"
            for text in texts
            if forbidden(text)
        ]
        if "outside of the library" in texts or not re.match(
            r"(repz )?ret", texts[-1] if texts else ""
        ):
            found.append(f"{name}: leaves the library, or does not end in a return")
    return found


def listing(paths, instructions):
    lines = []
    for name, traces in paths.items():
        lines.append(f"{name}: {len(traces[0])} instructions")
        lines += [
            f"  {n:3} {offset:8x}  {instructions.get(offset, '?')}"
            for n, offset in enumerate(traces[0], 1)
        ]
    return "\n".join(lines)


def updated(text, paths):
    """golden.txt's text with the counts of these paths."""
    lines = []
    for line in text.splitlines():
        match = re.match(r"^(\w+)(\s+)\d+(.*)$", line)
        if match and match.group(1) in paths:
            line = (
                f"{match.group(1)}{match.group(2)}{len(paths[match.group(1)][0])}{match.group(3)}"
            )
        lines.append(line)
    return "\n".join(lines) + "\n"


def output_of(*command):
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trace", required=True, help="path_trace, linked with the library")
    parser.add_argument("--library", required=True, help="libhakmem.so")
    parser.add_argument("--golden", required=True, help="golden.txt")
    parser.add_argument(
        "--readme", required=True, help="README.md with a table for each path that it explains"
    )
    parser.add_argument("--show", action="store_true", help="print the paths, check nothing")
    parser.add_argument(
        "--update", metavar="FILE", help="write the present counts to FILE, check nothing"
    )
    options = parser.parse_args()

    library, paths = parse_trace(output_of(options.trace))
    if os.path.realpath(library) != os.path.realpath(options.library):
        print(f"malloc is served by {library}, not by {options.library}")
        return 1
    instructions = parse_disassembly(
        output_of("objdump", "--disassemble", "--no-show-raw-insn", library)
    )
    print(listing(paths, instructions))
    with open(options.golden, encoding="utf-8") as file:
        golden_text = file.read()
    if options.show:
        return 0
    if options.update:
        with open(
            os.path.join(os.environ.get("BUILD_WORKING_DIRECTORY", ""), options.update), "w"
        ) as file:
            file.write(updated(golden_text, paths))
        return 0
    found = problems(paths, instructions, parse_golden(golden_text))
    with open(options.readme, encoding="utf-8") as file:
        found += readme_problems(parse_readme(file.read()), paths, instructions)
    print("\n" + ("\n".join(found) if found else "all as in golden.txt and README.md"))
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
