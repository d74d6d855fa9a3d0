"""The statistics of the comparison: medians and their intervals, pairs of runs, verdicts, and the
smallest effect that could be seen.

Nothing here assumes that times follow a normal distribution (on a machine with other users they do
not), except for smallest_effect, which is a rule of thumb. Nothing is random: the bootstrap is
computed, not drawn.
"""

import math
from statistics import NormalDist, mean, stdev

CONFIDENCE = 0.95  # of every interval and verdict
POWER = 0.8  # of the smallest effect: seen in so many of such measurements
WARM_UP_PART = 3  # at most a third of the rounds is taken for warm-up
WARM_UP_DISTANCE = 5.0  # scaled median deviations from the later rounds, and
WARM_UP_LEAST = 0.02  # this far off as a ratio: smaller differences do no harm
MAD_TO_SIGMA = 1 / NormalDist().inv_cdf(
    0.75
)  # half of a normal distribution's values lie within that part of sigma
# Few values lie closer to their own median than to the true one: by what to multiply, for n = 2 to
# 9, from 400,000 simulated samples each; n / (n - 0.8) comes within 1 % for more values. stats_test
# simulates both again.
MAD_OF_FEW = {2: 1.196, 3: 1.487, 4: 1.360, 5: 1.218, 6: 1.189, 7: 1.137, 8: 1.127, 9: 1.100}


def quantile(values, q):
    """The q-quantile (0 <= q <= 1) of a non-empty list, interpolated between neighbours (as R's
    type 7)."""
    ordered = sorted(values)
    position = q * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def median(values):
    return quantile(values, 0.5)


def sigma(values):
    """A spread that a few outliers do not change: the median deviation from the median, scaled to a
    standard deviation."""
    n = len(values)
    middle = median(values)
    few = MAD_OF_FEW.get(n, n / (n - 0.8))
    return MAD_TO_SIGMA * few * median([abs(value - middle) for value in values])


def geometric_mean(values):
    return math.exp(mean(math.log(value) for value in values))


def binomial_at_most(k, n, p):
    """Probability of at most k successes in n tries."""
    return sum(math.comb(n, i) * p**i * (1 - p) ** (n - i) for i in range(k + 1))


def bootstrap_interval(values, confidence=CONFIDENCE):
    """The percentile bootstrap's interval of the median. For the middle of n drawn values the
    bootstrap's distribution is known: it is at most the k-th value with the probability that half
    or more of n draws are among the k smallest."""
    ordered = sorted(values)
    n = len(ordered)
    tail = (1 - confidence) / 2
    low = 0
    while low < n // 2 and 1 - binomial_at_most((n + 1) // 2 - 1, n, (low + 1) / n) <= tail:
        low += 1
    return ordered[low], ordered[n - 1 - low]


def sign_rank(n, confidence=CONFIDENCE):
    """How many values may lie on the wrong side of 1 at most, for n pairs to tell the sides apart;
    None: n is too small."""
    found = None
    for k in range((n + 1) // 2):
        if 2 * binomial_at_most(k, n, 0.5) > 1 - confidence:
            break
        found = k
    return found


def median_interval(values, confidence=CONFIDENCE):
    """The interval from the k-th value from below to the k-th from above that holds the true median
    with at least this probability, whatever the distribution (the sign test turned round). With too
    few values: least to greatest."""
    ordered = sorted(values)
    k = sign_rank(len(ordered), confidence) or 0
    return ordered[k], ordered[len(ordered) - 1 - k]


def smallest_effect(ratios, confidence=CONFIDENCE):
    """The smallest difference (0.03 is 3 %) that so many pairs with this spread would have shown in
    POWER of all cases, if the logarithms of the ratios are spread normally. None with too few
    pairs."""
    n = len(ratios)
    k = sign_rank(n, confidence)
    if k is None:
        return None
    low, high = 0.0, 0.5
    for _ in range(50):  # the chance of a pair on the wrong side at which POWER is just reached
        middle = (low + high) / 2
        low, high = (middle, high) if binomial_at_most(k, n, middle) >= POWER else (low, middle)
    wrong = max(low, 1e-12)
    return math.expm1(
        sigma([math.log(ratio) for ratio in ratios]) * NormalDist().inv_cdf(1 - wrong)
    )


def best_3_of_5(values, least=False):
    """Mean of the best three of the first five runs, as older reports had it; None with fewer
    runs."""
    if len(values) < 5:
        return None
    return mean(sorted(values[:5], reverse=not least)[:3])


def summary(values, least=False):
    """Everything printed about the runs of one allocator; `least`: small values are the good
    ones."""
    q1, middle, q3 = (quantile(values, q) for q in (0.25, 0.5, 0.75))
    low, high = bootstrap_interval(values)
    return {
        "min": min(values),
        "q1": q1,
        "median": middle,
        "q3": q3,
        "max": max(values),
        "low": low,
        "high": high,
        "spread": (q3 - q1) / middle if middle else 0.0,
        "mean": mean(values),
        "stdev": stdev(values) if len(values) > 1 else 0.0,
        "mean_without_first": mean(values[1:]) if len(values) > 1 else None,
        "best_3_of_5": best_3_of_5(values, least),
    }


def pair_ratios(ours, theirs):
    """Our value over theirs, run by run; the lists hold the same rounds in the same order."""
    if len(ours) != len(theirs):
        raise ValueError("pairs need lists of one length")
    return [a / b for a, b in zip(ours, theirs)]


def verdict(low, high, n):
    """The verdict, in words, of an interval of n ratios of our throughput to theirs."""
    if sign_rank(n) is None:
        return "too few runs"
    if low > 1:
        return "faster"
    if high < 1:
        return "slower"
    return "not told apart"


def against(ours, theirs):
    """Everything about ours against theirs: each pair's ratio, their median, its interval, the
    verdict, what could be seen."""
    ratios = pair_ratios(ours, theirs)
    low, high = median_interval(ratios)
    return {
        "ratio": median(ratios),
        "low": low,
        "high": high,
        "verdict": verdict(low, high, len(ratios)),
        "smallest_effect": smallest_effect(ratios),
        "pairs": ratios,
    }


def warm_up(series, least_left):
    """How many of the first rounds are warm-up. `series`: one list a allocator, each of one value a
    round. A round is compared to the second half of the rounds, by the median of all allocators, so
    that one bad run does not count."""
    n = len(series[0])
    later = [median(values[n // 2 :]) for values in series]
    offsets = [
        median([math.log(values[i] / base) for values, base in zip(series, later)])
        for i in range(n)
    ]
    limit = max(WARM_UP_LEAST, WARM_UP_DISTANCE * sigma(offsets[n // 2 :]))
    found = 0
    while found < n // WARM_UP_PART and n - found > least_left and abs(offsets[found]) > limit:
        found += 1
    return found
