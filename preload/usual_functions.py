"""Writes the list of functions in layout.ld again: those that small programs call.

usual_functions.py LIBRARY PROGRAM   (./bazelw run //preload:usual_functions)

It runs some programs under callgrind with the library preloaded. A function that more of them call
stands further in front: what those with threads alone call comes last.
"""
import collections
import os
import re
import subprocess
import sys
import tempfile

LIBRARY, FEW_BLOCKS = (os.path.abspath(a) for a in sys.argv[1:3])
PROGRAMS = [
    ["/bin/true"],
    [FEW_BLOCKS],
    ["/bin/bash", "-c", ":"],
    ["/bin/ls", "/"],
    ["/usr/bin/perl", "-e", "1"],
]
THREADED = [[FEW_BLOCKS, "threads"]]
BEGIN, MIDDLE, END = ("    /* %s */\n" % s for s in ("usual_functions.py:", "with threads:", "end"))


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
            function = re.sub(r"['.].*", "", names["fn"][number])
            if re.fullmatch(r"[a-z]\w*", function):
                found.add(function)
    return found


def functions(programs):
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
    return sorted(count, key=lambda name: (-count[name], name))


def lines(names):
    return "".join(
        "    *(.text*.{0} .text.{0}.*)\n    *(.rodata.{0}*)\n".format(name) for name in names
    )


def main():
    path = os.path.join(os.environ.get("BUILD_WORKSPACE_DIRECTORY", "."), "preload/layout.ld")
    with open(path, encoding="utf-8") as stream:
        text = stream.read()
    front, rest = text.split(BEGIN)
    _, back = rest.split(END)
    usual = functions(PROGRAMS)
    with_threads = [name for name in functions(THREADED) if name not in usual]
    with open(path, "w", encoding="utf-8") as stream:
        stream.write(front + BEGIN + lines(usual) + MIDDLE + lines(with_threads) + END + back)


if __name__ == "__main__":
    main()
