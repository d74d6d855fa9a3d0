"""Writes the list of functions in layout.ld again: those that small programs call.

usual_functions.py LIBRARY PROGRAM WORKLOADS   (./bazelw run //bench:usual_functions)

It runs some programs under callgrind with the library preloaded, and the programs of the file
WORKLOADS, which lie beside it, with little work. A function that more of them call stands further
in front: what most of those with threads call comes behind, and last what only workloads call.
"""
import collections
import json
import os
import re
import subprocess
import sys
import tempfile

LIBRARY, FEW_BLOCKS, WORKLOADS = (os.path.abspath(a) for a in sys.argv[1:4])
PROGRAMS = [
    ["/bin/true"],
    [FEW_BLOCKS],
    ["/bin/bash", "-c", ":"],
    ["/bin/ls", "/"],
    ["/usr/bin/perl", "-e", "1"],
]
# Few of these call them, or none, and many others do: programs of one thread that run longer.
FRONT = """
    calloc hak_calloc hak_plain_calloc first_calloc become_full hak_owner_list_limit
    realloc realloc_other slow_realloc plain_take own_refill move_own_any
    hak_remote_send_all hak_bank_n_empty hak_bank_release_empty relieve next_epoch
""".split()
RARE_PARTS = set()  # functions of which the part that the compiler thinks is rare was called
THREADED = [[FEW_BLOCKS, "threads"]]
# Other programs with threads call these; the last if one lives for a tick of the background thread.
THREADED_TOO = """
    hak_slab_put_every_second hak_depot_relieve_by hak_tc_shrink hak_theap_keeps_spans
""".split()
WORK_PART = 8  # of what a quick comparison does
LEAST_THREADS, LEAST_MANY = 12, 5  # workloads that call what lies in those parts
BEGIN, MIDDLE, MANY, END = (
    "    /* %s */\n" % s
    for s in ("usual_functions.py:", "with threads:", "with many blocks:", "end")
)
MAPPING = "    . = ALIGN(4096);\n    PROVIDE_HIDDEN(hak_code_%s = .);\n"  # for hak_os_part_code


def workloads():
    """Their command lines."""
    with open(WORKLOADS, encoding="utf-8") as stream:
        rows = json.load(stream)
    for row in rows:
        program = os.path.join(os.path.dirname(WORKLOADS), row["binary"] + "_glibc")
        work = max(1, row["work"]["quick"] // WORK_PART)
        yield [program, *row["args"].format(work=work, seed=1).split()]


def called(profile, library):
    """The library's functions in a file of callgrind's, whose names are numbered when they appear
    first."""
    names = {"ob": {}, "fn": {}}
    function, found = None, set()
    is_library = False
    for line in profile:
        entry = re.match(r"(c?)(ob|fn)=\((\d+)\)(?: (.*))?", line)
        if not entry:
            continue
        is_callee, kind, number, name = entry.groups()
        if name:
            names[kind][number] = name
        if not is_callee and kind == "ob":
            is_library = os.path.basename(names["ob"][number]) == library
        elif not is_callee and is_library:
            name = names["fn"][number]
            function = re.sub(r"['.].*", "", name)
            if re.fullmatch(r"[a-z]\w*", function):
                found.add(function)
            if name.split("'")[0].endswith(".cold"):
                RARE_PARTS.add(function)
    return found


def count_callers(programs):
    """function -> how many of the programs call it."""
    count = collections.Counter()
    for program in programs:
        with tempfile.NamedTemporaryFile("r", encoding="utf-8") as profile:
            subprocess.run(
                ["valgrind", "--tool=callgrind", "--callgrind-out-file=" + profile.name, *program],
                env={"PATH": "/usr/bin:/bin", "LD_PRELOAD": LIBRARY},
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=True,
            )
            found = called(profile, os.path.basename(LIBRARY))
        if not found:
            sys.exit("usual_functions.py: %s: nothing of the library was called" % program[0])
        count.update(found)
    return count


def split():
    """Functions of which the compiler has put a rare part elsewhere, which no program called."""
    symbols = subprocess.run(["nm", LIBRARY], stdout=subprocess.PIPE, text=True, check=True).stdout
    return set(re.findall(r" (\w+)(?:\.\w+)*\.cold", symbols)) - RARE_PARTS


def lines(names):
    """The sections of functions that are rarely called, such as those of the start, are named as
    those of rare parts, which stay behind."""
    is_split = split()
    return "".join(
        "    *(.text{1}.{0} .text{1}.{0}.*)\n    *(.rodata.{0}*)\n".format(
            name, "" if name in is_split else "*"
        )
        for name in names
    )


def main():
    path = os.path.join(os.environ.get("BUILD_WORKSPACE_DIRECTORY", "."), "preload/layout.ld")
    with open(path, encoding="utf-8") as stream:
        text = stream.read()
    front, rest = text.split(BEGIN)
    _, back = rest.split(END)
    small, threaded = count_callers(PROGRAMS), count_callers(THREADED)
    many = count_callers(workloads())

    def in_order(names):
        return sorted(names, key=lambda name: (name not in FRONT, -small[name], -many[name], name))

    usual = in_order({*small, *FRONT})
    rest = {*threaded, *(name for name in many if many[name] >= LEAST_MANY)}
    rest = in_order(rest.difference(usual))
    with_threads = [name for name in rest if name in threaded and many[name] >= LEAST_THREADS]
    with_threads += [name for name in THREADED_TOO if name not in {*usual, *with_threads}]
    with_many = [name for name in rest if name not in with_threads]
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(front + BEGIN + lines(usual))
        stream.write(MAPPING % "threads" + MIDDLE + lines(with_threads))
        stream.write(MAPPING % "many" + MANY + lines(with_many))
        stream.write(MAPPING % "rest" + END + back)


if __name__ == "__main__":
    main()
