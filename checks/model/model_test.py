"""model_test.py small|large|NAME...: checks the models (*.pml) by Spin, each configuration
exhaustively, and that each model finds every broken protocol (BREAK_...). `small` is in the suite,
`large` by hand; NAMEs are of one configuration or mutation each.

Prints the number of states; fails if a search does not end, finds an error, or finds none in a
broken protocol.
"""

import os
import re
import subprocess
import sys
import tempfile

FOLDER = os.path.dirname(os.path.abspath(__file__))
REMOTE_FREE = os.path.join(FOLDER, "remote_free.pml")
LOOKUP = os.path.join(FOLDER, "lookup.pml")
MAP = os.path.join(FOLDER, "map.pml")

# A sequence on data that only a lock's holder may touch is one step (FINE=0). `fine` shows for the
# smallest configurations that this hides nothing, and each such step asserts that its thread holds
# the lock.
SMALL = {
    "fine": "",
    "allocated": "-DFINE=0 -DALLOCATED=1",
    "full_inbox_and_trim": "-DFINE=0 -DWITH_FULL_INBOX=1 -DWITH_TRIM=1 -DALLOCATED=1",
    "lives_and_late_frees": "-DFINE=0 -DN_LIVES=2 -DN_OPS=1 -DWITH_LATE_FREE=1",
    "two_slabs": "-DFINE=0 -DN_SLABS=2 -DALLOCATED=1",
    "fork": "-DFINE=0 -DWITH_FORK=1 -DN_OPS=1 -DN_BLOCKS=1",
    "fine_allocated": "-DALLOCATED=1",
    "three_blocks": "-DFINE=0 -DN_BLOCKS=3 -DALLOCATED=1 -DWITH_FULL_INBOX=1",
    "two_slabs_fresh": "-DFINE=0 -DN_SLABS=2 -DN_OPS=3",
    "three_threads": "-DFINE=0 -DN_THREADS=3 -DN_OPS=1 -DN_BLOCKS=1",
}
LARGE = {
    "two_blocks_fork": "-DFINE=0 -DWITH_FORK=1 -DN_OPS=1",
    "fork_allocated": "-DFINE=0 -DWITH_FORK=1 -DN_OPS=1 -DALLOCATED=1",
    "fork_two_operations": "-DFINE=0 -DWITH_FORK=1",
    "three_threads_allocated": "-DFINE=0 -DN_THREADS=3 -DN_OPS=1 -DN_BLOCKS=1 -DALLOCATED=1",
    "three_threads_two_blocks": "-DFINE=0 -DN_THREADS=3 -DN_OPS=1 -DALLOCATED=1",
}

LOOKUPS = {"lookup": "-DN_CHANGES=2"}
MAPS = {"map": "", "map_misuse": "-DMISUSE"}
LONG = set(LARGE) | {"three_threads", "lookup", "map", "map_misuse"}

# The mutations, and the configuration in which Spin must find each.
SMALL_MUTATIONS = {
    "UNLOCK_FORGETS_STRAYS": "-DFINE=0 -DALLOCATED=1",
    "PUT_WITHOUT_LOOKING": "-DFINE=0 -DALLOCATED=1",
    "PUSH_BY_STORE": "-DFINE=0 -DALLOCATED=1 -DWITH_FULL_INBOX=1",
    "STATE_BEFORE_PUSH": "-DFINE=0 -DALLOCATED=1",
    "LOOK_BEFORE_ORPHAN": "-DFINE=0 -DALLOCATED=1",
    "COLLECT_BEFORE_ORPHAN": "-DFINE=0 -DALLOCATED=1",
    "COLLECT_WITHOUT_LOCK": "-DFINE=0 -DALLOCATED=1",
    "FORK_FORGETS_HEAPS": "-DFINE=0 -DWITH_FORK=1 -DN_OPS=1 -DN_BLOCKS=1",
    "FORK_WITHOUT_GATE": "-DFINE=0 -DWITH_FORK=1 -DN_OPS=1 -DN_BLOCKS=1",
    "FORK_KEEPS_COUNT": "-DFINE=0 -DWITH_FORK=1 -DN_OPS=1 -DN_BLOCKS=1",
}
LARGE_MUTATIONS = {
    "ADOPT_WITHOUT_LOCK": "-DFINE=0 -DN_LIVES=2 -DN_OPS=1",
    "ADOPT_SLAB_WITHOUT_LOCK": "-DFINE=0",
    "DRAIN_TWICE": "-DFINE=0 -DALLOCATED=1",
    "MOVE_WITHOUT_TARGET_LOCK": "-DFINE=0 -DALLOCATED=1",
    "ORPHAN_BY_TRY": "-DFINE=0 -DALLOCATED=1",
    "REFILL_WITHOUT_LOCK": "-DFINE=0",
    "TAKE_WITHOUT_EXCHANGE": "-DALLOCATED=1",
}

LOOKUP_MUTATIONS = {
    "BELIEVES_NUMBER": "",
    "BELIEVES_INDEX": "",
    "BELIEVES_RANGE": "",
    "DOES_NOT_LOOK_AGAIN": "",
    "FORGETS_VERSION": "",
}

MAP_MUTATIONS = {
    "ARRAY_BEFORE_LEAF": "",
    "SETS_WITHOUT_FENCE": "",
    "FILLS_BY_STORE": "-DMISUSE",
    "FILLS_WITHOUT_LOOKING": "-DMISUSE",
}

GCC = ["gcc", "-w", "-DSAFETY", "-DCOLLAPSE", "-DVECTORSZ=2048", "-DMEMLIM=8000"]


def model_of(name):
    for model, names in (
        (LOOKUP, {**LOOKUPS, **LOOKUP_MUTATIONS}),
        (MAP, {**MAPS, **MAP_MUTATIONS}),
    ):
        if name in names:
            return model
    return REMOTE_FREE


def search(model, defines, folder, optimise):
    """Returns (states, errors, what was wrong); errors is None if the search did not end."""
    commands = [
        ["spin", "-a"] + defines.split() + [model],
        GCC + [optimise, "-o", "pan", "pan.c"],
        ["./pan", "-m2000000"],
    ]
    for command in commands:
        run = subprocess.run(
            command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        if run.returncode and command[0] != "./pan":
            return 0, None, run.stdout
    states = re.search(r"(\d+) states, stored", run.stdout)
    errors = re.search(r"errors: (\d+)", run.stdout)
    if not states or not errors or "too small" in run.stdout or "out of memory" in run.stdout:
        return 0, None, run.stdout
    message = re.search(r"pan:1: (.*)", run.stdout)
    return int(states.group(1)), int(errors.group(1)), message.group(1) if message else ""


def is_right(name, defines, must_fail):
    with tempfile.TemporaryDirectory() as folder:
        if must_fail:
            defines += " -DBREAK_" + name
        # Compiling Spin's program with -O2 takes longer than the small searches.
        model = model_of(name)
        states, errors, message = search(model, defines, folder, "-O2" if name in LONG else "-O0")
    right = errors is not None and (errors > 0) == must_fail
    verdict = "as it should" if right else "NOT AS IT SHOULD"
    what = "did not end" if errors is None else "finds: " + message if errors else "holds"
    print("%-26s %10d states, %s %s" % (name, states, what, "" if right else verdict), flush=True)
    return right


def main():
    configurations = dict(SMALL, **LARGE, **LOOKUPS, **MAPS)
    mutations = dict(SMALL_MUTATIONS, **LARGE_MUTATIONS, **LOOKUP_MUTATIONS, **MAP_MUTATIONS)
    for model, of_model in (
        (REMOTE_FREE, set(SMALL_MUTATIONS) | set(LARGE_MUTATIONS)),
        (LOOKUP, set(LOOKUP_MUTATIONS)),
        (MAP, set(MAP_MUTATIONS)),
    ):
        with open(model) as file:
            named = set(re.findall(r"BREAK_([A-Z_]+[A-Z])", file.read()))
        if named != of_model:
            sys.exit("%s and the test name other mutations: %s" % (model, sorted(named ^ of_model)))
    what = sys.argv[1:]
    is_small = what == ["small"]
    if is_small or what == ["large"]:
        what = list(dict(SMALL, **LOOKUPS, **MAPS) if is_small else configurations) + list(
            dict(SMALL_MUTATIONS, **LOOKUP_MUTATIONS, **MAP_MUTATIONS) if is_small else mutations
        )
    unknown = set(what) - set(configurations) - set(mutations)
    if not what or unknown:
        sys.exit("%sunknown: %s" % (__doc__, sorted(unknown)))
    wrong = [
        name
        for name in what
        if not is_right(
            name, configurations.get(name) or mutations.get(name, ""), name in mutations
        )
    ]
    sys.exit("wrong: " + " ".join(wrong) if wrong else 0)


if __name__ == "__main__":
    main()
