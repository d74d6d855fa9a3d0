"""real.py [-p LIBRARY | --allocator NAME] WORK [SCALE]: a real program does its work on an
allocator. Prints the throughput, and what the program used in the manner of `measure`, as a JSON
object after the word Used.

  --list      the works, and which of them cannot be done here, and why
  --output    prints what the work found out instead; it has to be the same under every allocator
  --whoami    which object serves malloc and free in a program that is started so, or in those of
              WORK
  --missing   prints why WORK cannot be done here, and exits 3

Without a library the program runs on glibc's malloc. Exit status: 0; 1 when a program failed; 2 for
a wrong command line; 3 when it is not installed.
"""

import argparse
import glob
import json
import os
import re
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

from box import Box, Failure
from works import WORKS

FOLDER = os.path.dirname(os.path.abspath(__file__))
NOT_INSTALLED = 3
BINDING = re.compile(
    r"binding file (\S+) \[0\] to (\S+\.so\S*) \[0\]: normal symbol `(malloc|free)'"
)
LIBRARIES = {
    "jemalloc": "libjemalloc.so.2",
    "mimalloc": "libmimalloc.so.2",
    "tbbmalloc": "libtbbmalloc_proxy.so.2",
    "tcmalloc": "libtcmalloc_minimal.so.4",
}


def default_library(allocator):
    """The library to preload for an allocator's name; None for glibc. Raises Failure if it is not
    installed."""
    if allocator == "glibc":
        return None
    if allocator == "hakmem":
        return os.path.join(FOLDER, "..", "..", "preload", "libhakmem.so")
    for folder in ("/usr/lib/x86_64-linux-gnu/", "/usr/lib/aarch64-linux-gnu/"):
        if os.path.exists(folder + LIBRARIES[allocator]):
            return folder + LIBRARIES[allocator]
    raise Failure(f"{LIBRARIES[allocator]} is not installed")


def owners(library, name):
    """{"malloc": path, "free": path} by the loader's own log of a small run. Raises Failure if two
    objects serve one of them."""
    found = {}
    with Box(library) as box:
        log = box.path("bindings")
        box.extra = {"LD_DEBUG": "bindings", "LD_DEBUG_OUTPUT": log}
        os.chmod(box.folder, 0o777)
        if name:
            WORKS[name].function(box, 1)
        else:
            box.run(["python3", "-c", "0"])
        for path in glob.glob(log + ".*"):
            with open(path, encoding="utf-8", errors="replace") as file:
                text = file.read()
            # `measure` and the shell before it are not preloaded, and the library may look for
            # libc's functions.
            if f" to {box.library} " in text:
                for bound in BINDING.finditer(text):
                    if bound.group(1) != box.library:
                        found.setdefault(bound.group(3), set()).add(
                            os.path.realpath(bound.group(2))
                        )
    for function, objects in found.items():
        if len(objects) > 1:
            raise Failure(f"{name}: {function} is served by {' and '.join(sorted(objects))}")
    return {function: objects.pop() for function, objects in found.items()}


def print_list():
    for name, one in WORKS.items():
        why = one.missing()
        print(f"{name:14} {one.text}" + (f"; skipped: {why}" if why else ""))


def command_line(arguments):
    parser = argparse.ArgumentParser(prog="real", usage=__doc__)
    parser.add_argument("-p", dest="library")
    parser.add_argument("--allocator", choices=["glibc", "hakmem", *LIBRARIES])
    for switch in ("list", "output", "whoami", "missing"):
        parser.add_argument("--" + switch, action="store_true")
    parser.add_argument("work", nargs="?", choices=list(WORKS))
    parser.add_argument("scale", nargs="?", type=int)
    options = parser.parse_args(arguments)
    if not (options.work or options.list or options.whoami) or (
        options.scale is not None and options.scale < 1
    ):
        parser.error("a work is wanted, and a scale of at least 1")
    return options


def do(options, library):
    """Does the work and prints the requested output."""
    one = WORKS[options.work]
    scale = options.scale or one.scale
    with Box(library) as box:
        told = one.function(box, scale)
        if options.output:
            print(told)
        else:
            print(
                f"Throughput = {scale / box.seconds:.4f} units/s [work={options.work} "
                f"scale={scale}] time={box.seconds:.3f}s"
            )
            print("Used " + json.dumps(box.used))


def main(arguments):
    options = command_line(arguments)
    if options.list:
        print_list()
        return 0
    if options.work and WORKS[options.work].missing():
        print(f"{options.work}: {WORKS[options.work].missing()}")
        return NOT_INSTALLED
    if options.missing:
        return 0
    try:
        library = options.library or default_library(options.allocator or "glibc")
        if options.whoami:
            for function, path in sorted(owners(library, options.work).items()):
                print(f"{function}: {path}")
        else:
            do(options, library)
    except Failure as error:
        sys.stderr.write(f"real: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
