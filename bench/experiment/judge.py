"""The verdict: what was measured against what was expected, and the reasons, from facts alone."""

import re

EXPECTATION = re.compile(r"^([+-]?\d+(?:\.\d+)?)%\.\.([+-]?\d+(?:\.\d+)?)%$")
SAME_INSTRUCTIONS = 0.001  # totals that differ by less come from the start of the process


def parse_expectation(text):
    """'+12%..+15%' as (0.12, 0.15): the change of throughput from A to B. Raises ValueError."""
    match = EXPECTATION.match(text)
    if not match:
        raise ValueError(f"{text}: like +12%..+15% or -2%..+2% is wanted")
    low, high = (float(part) / 100 for part in match.groups())
    if low > high or low <= -1:
        raise ValueError(f"{text}: from the smaller to the greater, above -100%")
    return low, high


def verdict(effect, low, high, expected):
    """(PASS, PARTIAL or FAIL, why). effect: the measured change, low and high: its interval;
    expected: (low, high).

    PASS     the measured change is in the expected range; if that leaves out 0, the interval does
             too
    FAIL     the interval and the range are apart, and the expected direction is not shown (or, if
             no change is expected, a change is shown)
    PARTIAL  all else: the right direction but another size, or too much noise to say."""
    wants_none = expected[0] <= 0 <= expected[1]
    shows = 1 if low > 0 else -1 if high < 0 else 0
    wanted = 0 if wants_none else 1 if expected[0] > 0 else -1
    apart = high < expected[0] or low > expected[1]
    if expected[0] <= effect <= expected[1] and (wants_none or shows == wanted):
        return "PASS", "the measured change lies in the expected range"
    if wants_none and apart:
        return "FAIL", "no change was expected, and one is shown"
    if wanted and shows == -wanted:
        return "FAIL", "the change goes the other way"
    if wanted and shows == 0 and apart:
        return "FAIL", "no change is told apart from none, and the expected one is excluded"
    if shows == 0 or wants_none:
        return "PARTIAL", "undecided: the interval holds both the expected change and none"
    less = abs(effect) < min(abs(expected[0]), abs(expected[1]))
    return "PARTIAL", f"the expected direction, but {'less' if less else 'more'} than expected"


def signed(share):
    return f"{share * 100:+.1f} %"


def about_code(a, b, differences):
    if not differences.any():
        return "The compiler made the same code of both: no difference in time can come from it."
    parts = [f"{len(differences.changed)} functions differ", f"{differences.alike} are alike"]
    for names, side in ((differences.only_a, a), (differences.only_b, b)):
        if names:
            parts.append(
                f"{len(names)} are only in `{side}` "
                f"({', '.join('`%s`' % name for name in names[:8])})"
            )
    return "The compiler did not drop the difference: " + ", ".join(parts) + "."


def about_paths(a, b, paths_a, paths_b):
    """Lines about the fast paths that differ in length."""
    if not paths_a or not paths_b:
        return ["The fast paths were not stepped through (that needs x86-64)."]
    both = [name for name in paths_a if name in paths_b]
    changed = [
        f"`{name}` {paths_a[name]} against {paths_b[name]}"
        for name in both
        if paths_a[name] != paths_b[name]
    ]
    if not changed:
        return ["The fast paths of malloc and free have the same length in both."]
    return [f"Instructions on the fast paths, `{a}` against `{b}`: " + ", ".join(changed) + "."]


def about_instructions(a, b, profile_a, profile_b):
    change = profile_b.total / profile_a.total - 1
    counts = f"{profile_a.total:,} instructions under `{a}` and {profile_b.total:,} under `{b}`"
    text = f"The run executes {counts}: {signed(change)}."
    if abs(change) < SAME_INSTRUCTIONS:
        text += " That is the same: the difference is not on this workload's path."
    return text


def about_time(profile_a, profile_b, ratio):
    """How the time follows the instructions; ratio: throughput of B over A's."""
    more = profile_b.total / profile_a.total - 1
    return f"Time: a run takes {signed(1 / ratio - 1)} for {signed(more)} instructions."


def about_function(name, a, b, code, profiles):
    """The facts about one requested function. code, profiles: of A and of B."""
    if name not in code[0] and name not in code[1]:
        return (
            f"`{name}` is a function of neither library: the compiler inlined or dropped it, so "
            "that a profile cannot blame it."
        )
    parts = []
    for side, functions, profile in ((a, code[0], profiles[0]), (b, code[1], profiles[1])):
        if name not in functions:
            parts.append(f"under `{side}` there is no such function (inlined or dropped)")
        elif not profile.calls(name):
            parts.append(f"under `{side}` it is there and never called on this workload")
        else:
            parts.append(
                f"under `{side}` it is called {profile.calls(name):,} times and takes, with what "
                f"it calls, "
                f"{profile.share(name) * 100:.1f} % of the run's instructions"
            )
    return f"`{name}`: " + "; ".join(parts) + "."


def suspects(code, profiles, wanted, most=8):
    """The functions to show: those asked for, then those whose own instructions differ most."""
    names = set(profiles[0].functions) | set(profiles[1].functions)
    change = {name: abs(profiles[1].own(name) - profiles[0].own(name)) for name in names}
    limit = max(profiles[0].total, profiles[1].total) * SAME_INSTRUCTIONS
    found = [name for name in wanted if name in names or name in code[0] or name in code[1]]
    found += [
        name
        for name in sorted(names, key=change.get, reverse=True)
        if change[name] > limit and name not in wanted
    ]
    return found[: max(most, len(wanted))]

