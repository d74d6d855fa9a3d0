"""The answer in a sentence: which allocator is the fastest, which the smallest, by how much; or why
that cannot be said, and what to do.

Of each round one figure is made for each pair of allocators: the geometric mean over the workloads
of the one's time (or peak memory) over the other's in that round. These figures are a sample; its
interval is Student's, as each is a mean of many, or with few workloads the sign test's, which
assumes nothing. An allocator is named only if it is told apart from every other one; the intervals
are so wide (Bonferroni) that all of them hold together with the confidence that is stated. The
limit (table.LIMIT) takes no part.
"""

import functools
import math
from statistics import mean, stdev

from comparison import stats, table

FEWEST_ROUNDS = 3  # with less, an interval says nothing
# From so many workloads on, their mean is near enough to a normal distribution for Student's t.
MANY_WORKLOADS = 10
BUSY = 0.03  # spread between the quartiles of a fixed loop above which the machine is called busy
# "Cannot be told apart" is an answer if the interval is this narrow (greatest over least ratio);
# over a wider one the machine was too noisy to tell.
NARROW = 1.3
# What is compared -> (key of a run, whether small is good, adjective, what the others need more of)
MEASURES = {
    "time": ("ops_per_s", False, "fastest", "time"),
    "memory": ("peak_kib", True, "smallest", "memory at its peak"),
}


def student_cdf(t, freedom):
    """Probability that Student's t with so many degrees of freedom is at most t >= 0."""
    # Its integral by the substitution t = sqrt(freedom) * tan(angle): powers of a cosine.
    steps = 2000
    angle = math.atan(t / math.sqrt(freedom))
    width = angle / steps
    total = 1 + math.cos(angle) ** (freedom - 1)
    for i in range(1, steps):
        total += (4 if i % 2 else 2) * math.cos(i * width) ** (freedom - 1)
    factor = math.exp(math.lgamma((freedom + 1) / 2) - math.lgamma(freedom / 2))
    return 0.5 + factor / math.sqrt(math.pi) * total * width / 3


@functools.lru_cache(maxsize=None)
def student_quantile(p, freedom):
    """The t that is not passed with probability p > 0.5."""
    low, high = 0.0, 1.0
    while student_cdf(high, freedom) < p:
        high *= 2
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if student_cdf(middle, freedom) < p else (low, middle)
    return (low + high) / 2


def shared_parts(report):
    """(real allocators, the workloads that each of them was run at). Where a core set has rounds of
    its own, it alone gives the verdict."""
    judged = [part for part in report["workloads"] if not part.get("is_breadth")]
    seen = {row["allocator"] for part in judged for row in part["allocators"]}
    names = [name for name in table.ordered(seen) if name != table.LIMIT]
    parts = [
        part
        for part in judged
        if set(names) <= {row["allocator"] for row in part["allocators"]}
    ]
    return names, parts


def samples(parts, names, key, is_least):
    """{allocator: [logarithm of its geometric mean over the workloads, for each round]}; small is
    good. The rounds are those that no workload takes for warm-up."""
    first = max(part["left_out"] for part in parts)
    last = min(len(row["runs"]) for part in parts for row in part["allocators"])
    sign = 1 if is_least else -1
    found = {name: [] for name in names}
    rows = [{row["allocator"]: row for row in part["allocators"]} for part in parts]
    for i in range(first, last):
        for name in names:
            logs = [math.log(one[name]["runs"][i][key]) for one in rows]
            found[name].append(sign * mean(logs))
    return found


def interval(differences, n_workloads, confidence):
    """The interval of the mean (or median) of some differences of logarithms; None with too few."""
    n = len(differences)
    if n < FEWEST_ROUNDS:
        return None
    if n_workloads >= MANY_WORKLOADS:
        half = student_quantile((1 + confidence) / 2, n - 1) * stdev(differences) / math.sqrt(n)
        return mean(differences) - half, mean(differences) + half
    if stats.sign_rank(n, confidence) is None:
        return None
    return stats.median_interval(differences, confidence)


def ranked(report, measure):
    """All about one measure: plain data, for the JSON file."""
    key, is_least, *_ = MEASURES[measure]
    names, parts = shared_parts(report)
    found = {"workloads": len(parts), "rounds": 0, "others": {}}
    if not parts or len(names) < 2:
        return {**found, "best": names[0] if names else None}
    series = samples(parts, names, key, is_least)
    found["rounds"] = len(series[names[0]])
    if not found["rounds"]:
        return {**found, "best": None}
    middle = mean if len(parts) >= MANY_WORKLOADS else stats.median
    best = min(names, key=lambda name: middle(series[name]))
    confidence = 1 - (1 - stats.CONFIDENCE) / (len(names) - 1)
    for name in sorted(names, key=lambda name: middle(series[name])):
        if name != best:
            differences = [b - a for a, b in zip(series[best], series[name])]
            limits = interval(differences, len(parts), confidence)
            found["others"][name] = {
                "ratio": math.exp(middle(differences)),
                "low": math.exp(limits[0]) if limits else None,
                "high": math.exp(limits[1]) if limits else None,
            }
    return {**found, "best": best}


def more(value):
    """A ratio as what is more: 1.123 is `12.3 %`, 2.5 is `2.5 times`."""
    return f"{value:.2f} times" if value >= 2 else f"{(value - 1) * 100:.1f} %"


def clause(measure, one):
    """(words, whether they are a verdict) for a measure; without a stop. That some cannot be told
    apart is one."""
    _, _, adjective, what = MEASURES[measure]
    others = one["others"]
    if not others:
        return "", False
    if any(other["low"] is None for other in others.values()):
        rounds = "1 round is" if one["rounds"] == 1 else f"{one['rounds']} rounds are"
        return f"no verdict on {measure}: {rounds} too few", False
    near = [name for name, other in others.items() if other["low"] <= 1]
    if near:
        other = others[near[0]]
        names = " and ".join([", ".join([one["best"], *near[:-1]]), near[-1]])
        span = f"{other['low']:.3f} to {other['high']:.3f}"
        if other["high"] / other["low"] > NARROW:
            return f"no verdict on {measure}: {names} are within the noise ({span})", False
        return f"{names} cannot be told apart in {measure} ({span})", True
    name, other = next(iter(others.items()))
    if other["ratio"] >= 2:
        by = f"{name} needs {other['ratio']:.2f} times its {what}"
    else:
        by = f"{name}, the next, needs {more(other['ratio'])} more {what}"
    span = f"{more(other['low'])} to {more(other['high'])}"
    return f"{one['best']} is the {adjective}: {by} ({span})", True


def advice(report):
    noise = report.get("noise") or {}
    busy = noise.get("spread", 0) > BUSY
    why = f"this machine is busy (a fixed loop spreads by {noise['spread']:.0%}): " if busy else ""
    return (
        f"{why}measure on an idle machine, longer (--runs 12, --full), or fewer workloads (--tag)"
    )


def of(report):
    """{"text": the sentence, "is_clear": whether both measures have a verdict, "time": ...,
    "memory": ...}."""
    found = {measure: ranked(report, measure) for measure in MEASURES}
    names, parts = shared_parts(report)
    if len(names) < 2:
        alone = names[0] if names else "the limit"
        text = f"Only {alone} was measured: there is nothing to compare."
        return {"text": text, "is_clear": False, **found}
    if not parts:
        text = "No verdict: there is no workload that every allocator was run at."
        return {"text": text, "is_clear": False, **found}
    clauses = [clause(measure, one) for measure, one in found.items()]
    is_clear = all(found_one for _, found_one in clauses)
    words = "; ".join(text for text, _ in clauses)
    text = "No" + words[2:] if words.startswith("no verdict") else words  # else a name comes first
    rounds = found["time"]["rounds"]
    core = "core " if any(part.get("is_breadth") is False for part in parts) else ""
    core = core if any(part.get("is_breadth") for part in report["workloads"]) else ""
    over = f"{len(parts)} {core}workload{'' if len(parts) == 1 else 's'}, "
    over += f"{rounds} round{'' if rounds == 1 else 's'}"
    text = f"{text} ({over}, {stats.CONFIDENCE:.0%} confidence)."
    if not is_clear:
        text += f" {advice(report)[0].upper()}{advice(report)[1:]}."
    return {"text": text, "is_clear": is_clear, **found}
