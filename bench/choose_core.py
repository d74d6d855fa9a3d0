"""choose_core: which workloads are the core set, by the recorded results.

choose_core [docs/results.md]: prints the best set that it finds, how well it and the workloads that
have the tag `core` now predict the whole, and for each allocator how well a set chosen without it
predicts it. comparison/core.py says how. It changes nothing: the tags are in the workloads.json
files.
"""

import os
import sys

from comparison import core, table

RESULTS = os.path.join(table.FOLDER, os.pardir, "docs", "results.md")
USAGE = "usage: choose_core [RESULTS.md]\n"


def about(whole, title, names):
    off, what = whole.worst(names)
    return (
        f"{title}: {', '.join(names)}\n  score {whole.score(names):.4f}: means off by "
        f"{whole.error(names):.1%}, at most {off:.1%} ({what}); mean distance to the nearest "
        f"{whole.cover(names):.3f}"
    )


def without(results, allocator):
    return {
        workload: {name: row for name, row in rows.items() if name != allocator}
        for workload, rows in results.items()
    }


def held_out(results, whole):
    """(allocator, error): how far a set that was chosen without an allocator is off for it."""
    for allocator in whole.allocators:
        names = core.Whole(without(results, allocator)).choose(starts=1)
        places = [whole.allocators.index(allocator) + i * len(whole.allocators) for i in (0, 1)]
        mean = whole.mean_of(names)
        yield allocator, max(abs(mean[i] - whole.mean[i]) for i in places)


def main(arguments):
    if len(arguments) > 1 or any(one.startswith("-") for one in arguments):
        sys.stderr.write(USAGE)
        return 2
    path = arguments[0] if arguments else RESULTS
    path = os.path.join(os.environ.get("BUILD_WORKING_DIRECTORY", ""), path)
    try:
        with open(path, encoding="utf-8") as file:
            results = core.recorded(file.read())
    except OSError as error:
        sys.stderr.write(f"choose_core: {path}: {error.strerror}\n{USAGE}")
        return 2
    whole = core.Whole(results)
    if len(whole.names) <= core.SIZE:
        sys.stderr.write(f"choose_core: {path}: no results of so many workloads\n{USAGE}")
        return 2
    print(f"{len(whole.names)} workloads, {', '.join(whole.allocators)}")
    now = [one.name for one in table.load().values() if core.TAG in one.tags]
    print(about(whole, "chosen", whole.choose()))
    if set(now) <= set(whole.names) and now:
        print(about(whole, "tagged", now))
    scores = whole.random_scores(core.SIZE)
    middle = scores[len(scores) // 2]
    print(f"of 1,000 sets drawn at random: best {scores[0]:.4f}, median {middle:.4f}")
    for allocator, off in held_out(results, whole):
        print(f"a set chosen without {allocator} is off by {off:.1%} for it")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
