#!/usr/bin/env python3
"""What leak checkers find in the programs of this folder, and what that costs: a Markdown table.

    compare.py --hakmem COMMAND [--requests N] [--rounds N]

COMMAND is an installed `hakmem`, or Bazel's (//preload:hakmem). Needs Debian's libjemalloc2 and
libjemalloc-dev (jeprof), google-perftools, heaptrack, valgrind, gcc (liblsan) and python3-dev; a
tool that is missing is left out. Time is processor time of the program and of all that it starts,
over that of the program under glibc: the median of the rounds, in random order. Memory is the peak
of the largest process.
"""

import argparse
import glob
import os
import random
import re
import shutil
import statistics
import subprocess
import sys
import tempfile

HERE = os.path.dirname(os.path.abspath(__file__))
LIBRARIES = "/usr/lib/%s-linux-gnu/" % os.uname().machine
# Name, command, and the function that loses memory. The last one loses nothing: it keeps it.
PROGRAMS = [
    ("C", ["./server"], "copy_header"),
    ("C++", ["./orders"], "answer"),
    ("Python", ["/usr/bin/python3", "server.py"], "copy_text"),
    ("C++, all of it reachable", ["./kept"], None),
]
UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20}
DECIMAL = {"": 1, "K": 1000, "M": 1000000}


def build(folder):
    for name in os.listdir(HERE):
        shutil.copy(os.path.join(HERE, name), folder)
    includes = subprocess.check_output(["python3-config", "--includes"], text=True).split()
    for command in (
        ["cc", "-O2", "-g", "-o", "server", "server.c"],
        ["c++", "-O2", "-g", "-o", "orders", "orders.cc"],
        ["c++", "-O2", "-g", "-o", "kept", "server.cc"],
        ["cc", "-O2", "-g", "-shared", "-fPIC", *includes, "-o", "parser.so", "parser.c"],
    ):
        subprocess.run(command, cwd=folder, check=True)


def number(text):
    return int(text.replace(",", ""))


def output_of(*command, folder):
    done = subprocess.run(
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=False,
        text=True,
        errors="replace",
    )
    return done.stdout


def newest(folder, pattern):
    files = glob.glob(os.path.join(folder, pattern))
    return max(files, key=os.path.getmtime) if files else None


# Each says, of a run's output, (bytes that are lost, the text that says where) or None.


def said_by_hakmem(output, folder, program):
    found = re.search(r"leaks of .*: ([\d.]+) ([KM]?)i?B in ", output)
    return (float(found.group(1)) * UNITS[found.group(2)], output) if found else None


def said_by_lsan(output, folder, program):
    found = re.search(r"SUMMARY: LeakSanitizer: (\d+) byte", output)
    return (number(found.group(1)), output) if found else None


def said_by_valgrind(output, folder, program):
    lost = [
        number(n) for n in re.findall(r"(?:definitely|indirectly) lost: ([\d,]+) bytes", output)
    ]
    return (sum(lost), output) if sum(lost) else None


def said_by_gperftools(output, folder, program):
    found = re.search(r"detected leaks of (\d+) bytes", output)
    return (number(found.group(1)), output) if found else None


def said_by_jemalloc(output, folder, program):
    found = re.search(r"Leak approximation summary: ~(\d+) bytes", output)
    heap = newest(folder, "jeprof.*.heap")
    if not found or not heap:
        return None
    return number(found.group(1)), output_of("jeprof", "--text", program, heap, folder=folder)


def said_by_heaptrack(output, folder, program):
    trace = newest(folder, "trace.*")
    shown = ["-l", "1", "-p", "0", "-a", "0", "-T", "0"]
    text = output_of("heaptrack_print", *shown, trace, folder=folder)
    found = re.search(r"total memory leaked: ([\d.]+)([KM]?)", text)
    return (float(found.group(1)) * DECIMAL[found.group(2)], text) if found else None


def preload(name, **environment):
    return dict(environment, LD_PRELOAD=LIBRARIES + name)


def tools(hakmem):
    """(name, what it calls lost, command before the program, environment, said_by_...)."""
    gperftools = preload("libtcmalloc.so.4", HEAPCHECK="normal", PPROF_PATH="/usr/bin/google-pprof")
    options = "prof:true,prof_leak:true,prof_final:true,lg_prof_sample:0,prof_prefix:jeprof"
    every = [
        ("hakmem leaks", "unreachable", [hakmem, "leaks"], {}, said_by_hakmem),
        ("LeakSanitizer (gcc), preloaded", "unreachable", [], preload("liblsan.so.0"),
         said_by_lsan),
        ("gperftools, `HEAPCHECK=normal`", "unreachable", [], gperftools, said_by_gperftools),
        ("valgrind memcheck", "unreachable", ["valgrind", "--leak-check=full"], {},
         said_by_valgrind),
        ("jemalloc, `prof_leak`, every allocation", "not freed", [],
         preload("libjemalloc.so.2", MALLOC_CONF=options), said_by_jemalloc),
        ("heaptrack", "not freed", ["heaptrack", "-o", "trace"], {}, said_by_heaptrack),
    ]
    for tool in every:
        library = tool[3].get("LD_PRELOAD")
        if (library and os.path.exists(library)) or (tool[2] and shutil.which(tool[2][0])):
            yield tool
        else:
            print("left out: %s" % tool[0], file=sys.stderr)


def run(command, environment, folder):
    """(output, seconds of processor, KiB)."""
    with tempfile.TemporaryFile("w+", errors="replace") as out:
        process = subprocess.Popen(
            command, cwd=folder, env=dict(os.environ, **environment), stdout=out,
            stderr=subprocess.STDOUT,
        )
        _, _, usage = os.wait4(process.pid, 0)
        process.returncode = 0
        out.seek(0)
        return out.read(), usage.ru_utime + usage.ru_stime, usage.ru_maxrss


def measure(tool, program, requests, rounds, folder):
    """Amount said, whether the function is named, times and memory; None: nothing was said."""
    _, command, function = program
    said, seconds, memory = None, [], []
    for _ in range(rounds):
        output, time, peak = run(tool[2] + command + [str(requests)], tool[3], folder)
        seconds.append(time)
        memory.append(peak)
        said = tool[4](output, folder, command[0]) if tool[4] else None
    return {
        "said": said[0] if said else 0,
        "named": bool(said and function and function in said[1]),
        "seconds": seconds,
        "memory": max(memory),
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hakmem", required=True)
    parser.add_argument("--requests", type=int, default=50000)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        build(folder)
        plain = ("glibc", "", [], {}, None)
        pairs = [(t, p) for t in [plain, *tools(os.path.abspath(options.hakmem))] for p in PROGRAMS]
        results = {(t[0], p[0]): [] for t, p in pairs}
        for _ in range(options.rounds):
            random.shuffle(pairs)
            for tool, program in pairs:
                one = measure(tool, program, options.requests, 1, folder)
                results[tool[0], program[0]].append(one)
        show(results, [plain, *tools(os.path.abspath(options.hakmem))])


def show(results, shown):
    base = {
        p[0]: statistics.median(r["seconds"][0] for r in results["glibc", p[0]]) for p in PROGRAMS
    }
    print("| | Lost is what is | Program | Said to be lost | Line named | Time | Memory |")
    print("|---|---|---|---|---|---|---|")
    for tool in shown[1:] + shown[:1]:
        for i, program in enumerate(PROGRAMS):
            rows = results[tool[0], program[0]]
            said = statistics.median(r["said"] for r in rows)
            named = "" if not program[2] else "yes" if all(r["named"] for r in rows) else "no"
            time = statistics.median(r["seconds"][0] for r in rows) / base[program[0]]
            memory = max(r["memory"] for r in rows) / 1024
            print(
                "| %s | %s | %s | %s | %s | %.1f | %.0f MiB |"
                % (
                    "no tool: glibc" if tool is shown[0] else tool[0] if i == 0 else "",
                    tool[1] if i == 0 else "",
                    program[0],
                    "" if tool is shown[0] else "%.1f MB" % (said / 1e6) if said else "nothing",
                    "" if tool is shown[0] else named,
                    time,
                    memory,
                )
            )


if __name__ == "__main__":
    main()
