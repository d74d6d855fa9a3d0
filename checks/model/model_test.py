"""model_test.py small MODEL...|large|NAME...: checks the models (*.pml) by Spin, each
configuration exhaustively, and that each model finds every broken protocol (BREAK_...). `small`,
of the models named, is in the suite, `large` by hand; NAMEs are of one configuration or mutation
each.

Prints the number of states; fails if a search does not end, finds an error, or finds none in a
broken protocol.
"""

import os
import re
import subprocess
import sys
import tempfile

FOLDER = os.path.dirname(os.path.abspath(__file__))
REMOTE_FREE = "remote_free"
LOOKUP = "lookup"
MAP = "map"

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
    # as three_threads: nothing hangs on the order in which threads begin
    "three_threads_in_any_order": "-DFINE=0 -DN_THREADS=3 -DN_OPS=1 -DN_BLOCKS=1 -DIN_ORDER=0",
}

LOOKUPS = {"lookup": "-DN_CHANGES=2"}
LARGE_LOOKUPS = {"lookup_three_changes": "-DN_CHANGES=3"}
MAPS = {"map": "", "map_misuse": "-DMISUSE"}
LONG = set(LARGE) | set(LARGE_LOOKUPS)

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

# What the suite searches of each model, and what by hand, and the mutations of both.
CONFIGURATIONS = {
    REMOTE_FREE: (SMALL, LARGE),
    LOOKUP: (LOOKUPS, LARGE_LOOKUPS),
    MAP: (MAPS, {}),
}
MUTATIONS = {
    REMOTE_FREE: (SMALL_MUTATIONS, LARGE_MUTATIONS),
    LOOKUP: (LOOKUP_MUTATIONS, {}),
    MAP: (MAP_MUTATIONS, {}),
}

GCC = ["gcc", "-w", "-DSAFETY", "-DVECTORSZ=2048", "-DMEMLIM=8000"]
# Compiling Spin's program so takes longer than the small searches, and half of the memory a third
# more of the time.
GCC_LONG = ["-O2", "-DCOLLAPSE"]


def named(of_models, models=(REMOTE_FREE, LOOKUP, MAP), which=(0, 1)):
    return {name: (m, d) for m in models for i in which for name, d in of_models[m][i].items()}


def search(model, defines, folder, optimise):
    """Returns (states, errors, what was wrong); errors is None if the search did not end."""
    commands = [
        ["spin", "-a"] + defines.split() + [os.path.join(FOLDER, model + ".pml")],
        GCC + optimise + ["-o", "pan", "pan.c"],
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


def is_right(name, model, defines, must_fail):
    with tempfile.TemporaryDirectory() as folder:
        if must_fail:
            defines += " -DBREAK_" + name
        states, errors, message = search(
            model, defines, folder, GCC_LONG if name in LONG else ["-O0"]
        )
    right = errors is not None and (errors > 0) == must_fail
    verdict = "as it should" if right else "NOT AS IT SHOULD"
    what = "did not end" if errors is None else "finds: " + message if errors else "holds"
    print("%-26s %10d states, %s %s" % (name, states, what, "" if right else verdict), flush=True)
    return right


def main():
    what, models, which = sys.argv[1:], tuple(CONFIGURATIONS), (0, 1)
    if what[:1] == ["small"]:
        models, which = tuple(what[1:]), (0,)
    if not what or not models or set(models) - set(CONFIGURATIONS):
        sys.exit(__doc__)
    for model in models:
        with open(os.path.join(FOLDER, model + ".pml")) as file:
            of_model = set(re.findall(r"BREAK_([A-Z_]+[A-Z])", file.read()))
        in_table = set(named(MUTATIONS, [model]))
        if of_model != in_table:
            sys.exit("%s and the test name other mutations: %s" % (model, of_model ^ in_table))
    configurations = named(CONFIGURATIONS, models, which)
    mutations = named(MUTATIONS, models, which)
    known = {**configurations, **mutations}
    if what[0] in ("small", "large"):
        what = list(known)
    unknown = set(what) - set(known)
    if unknown:
        sys.exit("%sunknown: %s" % (__doc__, sorted(unknown)))
    wrong = [name for name in what if not is_right(name, *known[name], name in mutations)]
    sys.exit("wrong: " + " ".join(wrong) if wrong else 0)


if __name__ == "__main__":
    main()
