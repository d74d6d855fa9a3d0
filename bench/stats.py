"""The statistics of the comparison: medians, quartiles, and what pairs of runs say about two allocators.

Nothing here assumes that the times follow a normal distribution: on a machine that others use too they do not.
"""

import math

# How sure the interval of a median has to be. Five pairs reach 93.75 % from the least to the greatest, and no more.
CONFIDENCE = 0.93


def quantile(values, q):
    """The q-quantile (0 <= q <= 1) of a non-empty list, interpolated between neighbours (as R's type 7)."""
    ordered = sorted(values)
    position = q * (len(ordered) - 1)
    below = math.floor(position)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (position - below)


def median(values):
    return quantile(values, 0.5)


def summary(values):
    """Least, quartiles, median and greatest of a list, and its spread: the quartiles' distance over the median."""
    q1, mid, q3 = (quantile(values, q) for q in (0.25, 0.5, 0.75))
    return {
        "min": min(values),
        "q1": q1,
        "median": mid,
        "q3": q3,
        "max": max(values),
        "spread": (q3 - q1) / mid if mid else 0.0,
    }


def median_interval(values, confidence=CONFIDENCE):
    """The narrowest interval between two of the values, the k-th from below and the k-th from above, that holds the
    true median with at least this probability (the sign test turned round). With too few values: least to greatest."""
    ordered = sorted(values)
    n = len(ordered)
    k = 0
    outside = 0.0
    while k < (n - 1) // 2:
        # Chance that at most k of n values lie below the median, and the same above.
        outside += 2 * math.comb(n, k) / 2**n
        if 1 - outside < confidence:
            break
        k += 1
    k = max(k - 1, 0)
    return ordered[k], ordered[n - 1 - k]


def pair_ratios(ours, theirs):
    """Our throughput over theirs, run by run; the lists hold the same rounds in the same order."""
    if len(ours) != len(theirs):
        raise ValueError("pairs need lists of one length")
    return [a / b for a, b in zip(ours, theirs)]


def verdict(low, high):
    """What an interval of the ratio of our throughput to theirs says."""
    if low > 1:
        return "faster"
    if high < 1:
        return "slower"
    return "within the spread"


def against(ours, theirs):
    """Everything about ours against theirs: the ratio of each pair of runs, their median, its interval, the verdict."""
    ratios = pair_ratios(ours, theirs)
    low, high = median_interval(ratios)
    return {"ratio": median(ratios), "low": low, "high": high, "verdict": verdict(low, high), "pairs": ratios}
