"""From the runs to series: a measure's value at each size, its growth exponent, its mark."""

import dataclasses
import math
import re

EXPONENT = 0.3  # what grows faster than size^0.3 is marked
LAST_POINTS = 3  # a late rise counts as much as one over all sizes
PAUSE_MARGIN = 1.5  # a call has to be so much longer than the machine's own longest pause
# A value below its unit's floor counts as the floor: what is so small may grow. Nanoseconds: of
# single longest calls, of medians.
FLOORS = {"ns": 100e3, "median_ns": 2e3, "KiB": 4096.0}
OTHER_FLOOR = 16.0
# Never marked: how much malloc_trim does is the heap's size (what it holds up is the stall), and
# pages say how much was asked for.
NOT_MARKED = ("malloc_trim", "malloc_trim median")
NOT_MARKED_UNITS = ("pages",)
LONGEST = "longest"
# Proportional to what they return or look at, or no call of the allocator's: not part of the
# longest call.
NOT_LONGEST = ("stall", "pause", "malloc_trim", "hak_heap_walk", "fork")
CALLS = re.compile(r"calls (\S+) (\d+) (\d+) (\d+)")
VALUE = re.compile(r"value (\S+) (-?[0-9.]+) (\S+)(?: (-?[0-9.]+))?")
UNFINISHED = re.compile(r"unfinished ([0-9.]+)")


@dataclasses.dataclass(frozen=True)
class Measured:
    """One measure of one run."""

    value: float
    unit: str
    limit: float = None  # above it the value is wrong at any size
    what: str = ""  # of the longest call: whose it was


def parse(text):
    """({name: Measured}, share done) of a program's output. Raises ValueError for other lines."""
    found, done = {}, 1.0
    for line in text.splitlines():
        if match := CALLS.fullmatch(line):
            found[match[1]] = Measured(float(match[2]), "ns")
            found[match[1] + " median"] = Measured(float(match[3]), "median_ns")
        elif match := VALUE.fullmatch(line):
            found[match[1]] = Measured(
                float(match[2]), match[3], float(match[4]) if match[4] else None
            )
        elif match := UNFINISHED.fullmatch(line):
            done = min(done, float(match[1]))
        else:
            raise ValueError(f"no line of measures: {line}")
    calls = [
        (one.value, name)
        for name, one in found.items()
        if one.unit == "ns" and name not in NOT_LONGEST
    ]
    if calls:
        value, name = max(calls)
        found[LONGEST] = Measured(value, "ns", what=name)
    return found, done


def least(runs):
    """Of a measure in several runs: the least time (a real stall repeats), else the middle."""
    ordered = sorted(runs, key=lambda one: one.value)
    return ordered[0] if ordered[0].unit in ("ns", "median_ns") else ordered[len(ordered) // 2]


def slope(points):
    """The slope of the least-squares line through (x, y)."""
    n = len(points)
    mean_x, mean_y = sum(x for x, _ in points) / n, sum(y for _, y in points) / n
    spread = sum((x - mean_x) ** 2 for x, _ in points)
    return sum((x - mean_x) * (y - mean_y) for x, y in points) / spread if spread else 0.0


def exponent(points, floor):
    """The growth exponent of [(size, value)]: slope of log value over log size, of all or of the
    last three points, whichever is more. None of fewer than two sizes."""
    if len(points) < 2:
        return None
    logs = [(math.log(size), math.log(max(value, floor))) for size, value in points]
    return max(slope(logs), slope(logs[-LAST_POINTS:]))


def floor_of(unit, pause_ns=0.0):
    """What values have to pass. pause_ns: the machine's own longest pause in as long a run."""
    floor = FLOORS.get(unit, OTHER_FLOOR)
    return max(floor, PAUSE_MARGIN * pause_ns) if unit == "ns" else floor


def judge(points, unit, limits=(), pause_ns=0.0):
    """(exponent, mark) of [(size, value)]: the mark is "", "GROWS" or, where limits are given (one
    a point), "WRONG"."""
    floor = floor_of(unit, pause_ns)
    grown = exponent(points, floor)
    if any(limit is not None for limit in limits):
        wrong = any(
            limit is not None and value > limit for (_, value), limit in zip(points, limits)
        )
        return grown, "WRONG" if wrong else ""
    grows = grown is not None and grown > EXPONENT and points[-1][1] > floor
    return grown, "GROWS" if grows else ""


def pause_in(control, seconds):
    """The machine's own longest pause in a run of so many seconds. control: [(ms, pause_ns)]."""
    longer = [pause for ms, pause in sorted(control) if ms >= seconds * 1000]
    return longer[0] if longer else max((pause for _, pause in control), default=0.0)


def series_of(points, control):
    """All series: a list of dicts, plain data. points: {(row, allocator, others): {size: Point}};
    control: {others: [(ms, pause_ns)]}."""
    made = []
    for (row, allocator, others), of_size in points.items():
        names = dict.fromkeys(name for point in of_size.values() for name in point.measures())
        seconds = max((point.seconds for point in of_size.values()), default=0.0)
        pause = pause_in(control.get(others, []), seconds)
        for name in names:
            values = {
                size: least(found)
                for size, point in sorted(of_size.items())
                if (found := point.measures().get(name))
            }
            unit = next(iter(values.values())).unit
            pairs = [(size, one.value) for size, one in values.items()]
            is_judged = name not in NOT_MARKED and unit not in NOT_MARKED_UNITS
            grown, mark = judge(pairs, unit, [one.limit for one in values.values()], pause)
            made.append(
                {
                    "row": row,
                    "allocator": allocator,
                    "others": others,
                    "measure": name,
                    "unit": unit,
                    "exponent": grown,
                    "mark": mark if is_judged else "",
                    "floor": floor_of(unit, pause),
                    "values": [
                        {
                            "size": size,
                            "value": one.value,
                            "limit": one.limit,
                            "what": one.what,
                            "repeats": len(of_size[size].measures()[name]),
                            "done": of_size[size].done,
                        }
                        for size, one in values.items()
                    ],
                }
            )
    return made
