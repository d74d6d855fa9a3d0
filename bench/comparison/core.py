"""The core set: some workloads that stand for all, chosen by how well they predict the whole.

What is known of a workload is a row of docs/results.md: the time and the peak memory of each
allocator, as logarithms, less their mean over the allocators (how much work it is says nothing).
Two things make a set good. Its mean is near the mean of all workloads, for every allocator: the
sentence about the set is then the sentence about the whole. And every workload has one in the set
that is like it: the set's mean is not right by chance, for allocators that were not measured yet.
`score` adds the two, and `choose` looks for the set with the least, by exchanges of one workload
from several starts.
"""

import math
import random
import re

from comparison import table

SIZE = 15
TAG = "core"
# What the mean distance to the nearest of the set weighs against the error of the means, which many
# sets bring near zero. Of 0.3, 0.6, 1 and 2 it is the weight at which sets that were chosen without
# an allocator predict that one best (choose_core prints by how much).
COVER_WEIGHT = 1.0
STARTS = 4
LEAST_MIB = 0.05  # peaks are printed to a tenth
HEADING = re.compile(r"^## ([a-z0-9_.+-]+)$")
TO_BEST, PEAK = 3, 4  # columns of a workload's table


def recorded(text):
    """{workload: {allocator: (time, MiB at the peak)}} of a page like docs/results.md."""
    found, name = {}, None
    for line in text.splitlines():
        heading = HEADING.match(line)
        if heading:
            name = heading.group(1)
        cells = [cell.strip() for cell in line.strip().strip("|").split("|")]
        if name and len(cells) > PEAK and cells[0] in table.ALLOCATORS and cells[0] != table.LIMIT:
            found.setdefault(name, {})[cells[0]] = (
                float(cells[TO_BEST]), max(float(cells[PEAK]), LEAST_MIB)
            )
    return found


class Whole:
    """What was recorded of all workloads, as vectors: time, then memory, a number an allocator."""

    def __init__(self, results):
        names = {name for rows in results.values() for name in rows}
        self.allocators = [name for name in table.ALLOCATORS if name in names]
        self.vectors = {
            workload: self.vector(rows)
            for workload, rows in results.items()
            if set(self.allocators) <= set(rows)
        }
        self.names = list(self.vectors)
        self.mean = self.mean_of(self.names)
        self.distances = {
            a: {b: self.distance(self.vectors[a], self.vectors[b]) for b in self.names}
            for a in self.names
        }

    def vector(self, rows):
        found = []
        for measure in (0, 1):
            logs = [math.log(rows[name][measure]) for name in self.allocators]
            found += [one - sum(logs) / len(logs) for one in logs]
        return found

    @staticmethod
    def distance(a, b):
        return math.sqrt(sum((x - y) ** 2 for x, y in zip(a, b)) / len(a))

    def mean_of(self, names):
        return [
            sum(self.vectors[name][i] for name in names) / len(names)
            for i in range(2 * len(self.allocators))
        ]

    def error(self, names):
        """How far the set's geometric means are off the whole's, as a logarithm (0.01 is 1 %)."""
        return self.distance(self.mean_of(names), self.mean)

    def worst(self, names):
        """(how far, of what) for the allocator and measure that the set predicts worst."""
        off = [abs(a - b) for a, b in zip(self.mean_of(names), self.mean)]
        place = off.index(max(off))
        measure = ("time", "memory")[place // len(self.allocators)]
        return max(off), f"{self.allocators[place % len(self.allocators)]}'s {measure}"

    def cover(self, names):
        """The mean distance of a workload to the nearest one of the set."""
        return sum(min(self.distances[one][other] for other in names) for one in self.names) / len(
            self.names
        )

    def score(self, names):
        return self.error(names) + COVER_WEIGHT * self.cover(names)

    def improved(self, names, best):
        """(score, set) after the exchange of one workload that gains most; None if none gains."""
        found = None
        for i in range(len(names)):
            for other in self.names:
                if other not in names:
                    tried = names[:i] + [other] + names[i + 1 :]
                    score = self.score(tried)
                    if score < best - 1e-9:
                        best, found = score, (score, tried)
        return found

    def choose(self, size=SIZE, starts=STARTS):
        """The best set that several searches find: in the order of the table."""
        rng = random.Random(1)
        sets = []
        for _ in range(starts):
            names = rng.sample(self.names, size)
            step = (self.score(names), names)
            while step:
                last, step = step, self.improved(step[1], step[0])
            sets.append(last)
        chosen = min(sets)[1]
        return [name for name in self.names if name in chosen]

    def random_scores(self, size, tries=1000):
        """The scores of sets drawn at random, from the best."""
        rng = random.Random(2)
        return sorted(self.score(rng.sample(self.names, size)) for _ in range(tries))
