"""The table and the plots of docs/ace_control.md, from replays; and the test that they are true.

replay_page.py ACE_REPLAY BINS_REPLAY --check|--update
"""
import os
import re
import shutil
import subprocess
import sys

ACE, BINS, MODE = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2]), sys.argv[3]
PATTERNS = ["steady", "burst_then_silence", "phase_change", "sawtooth"]
CURVES = (("adaptive", "#0a7d32"), ("keep nothing", "#c0392b"), ("keep all", "#2e6fdb"))
BEGIN, END = "<!-- replay table: begin -->\n", "<!-- replay table: end -->\n"
# How far adaptive may be from the best fixed setting, in time and in peak memory.
ALLOWED = 1.05
# Threads that sleep keep lists in their depots (heap/depot.h), whatever the limit of bins is: the
# settings' peaks are near each other, so that the best one is the fastest. In a change of phase the
# least time x peak is that of a small setting: the adaptive one is a fifth faster, for some peak.
ALLOWED_OF = {"idle_threads": 1.08, "phase_change": 1.08}
MIB = 1 << 20


def output(*command):
    """Addresses are not random: what lies beside what decides which freed ranges merge."""
    return subprocess.run(
        ["setarch", "-R"] + list(command), check=True, stdout=subprocess.PIPE, text=True
    ).stdout


def results():
    """pattern -> setting -> (seconds, peak MiB, mean MiB)"""
    table = {}
    for line in (output(ACE, "table") + output(BINS)).splitlines():
        pattern, setting, time, peak, mean = line.split()
        table.setdefault(pattern, {})[setting] = (
            float(time) / 1e6,
            float(peak) / MIB,
            float(mean) / MIB,
        )
    return table


def best_fixed(settings):
    """The fixed setting of the least time x peak."""
    return min((s for s in settings if s != "auto"), key=lambda s: settings[s][0] * settings[s][1])


def relative(settings, setting):
    best = settings[best_fixed(settings)]
    return settings[setting][0] / best[0], settings[setting][1] / best[1]


def page_table(table):
    out = [
        "| Pattern | Best fixed setting | Its time (s), peak and mean (MiB) "
        "| Adaptive | Time, peak over the best fixed |\n",
        "|---|---:|---:|---:|---:|\n",
    ]
    for pattern, settings in table.items():
        best = best_fixed(settings)
        out.append(
            "| %s | %s | %.2f, %.0f, %.0f | %.2f, %.0f, %.0f | %.2f, %.2f |\n"
            % ((pattern, best) + settings[best] + settings["auto"] + relative(settings, "auto"))
        )
    out.append("\nEach fixed setting, time and peak over the best one's:\n\n")
    names = [s for s in table[PATTERNS[0]] if s != "auto"]
    out.append("| Kept bytes | %s |\n|---|%s\n" % (" | ".join(PATTERNS), "---:|" * len(PATTERNS)))
    for name in names:
        out.append(
            "| %s | %s |\n"
            % (name, " | ".join("%.2f, %.2f" % relative(table[p], name) for p in PATTERNS))
        )
    return "".join(out)


def svg(pattern):
    """Committed and live bytes over time, drawn by gnuplot."""
    blocks = output(ACE, "curve", pattern).strip().split("\n\n\n")
    data = "".join(f"$c{i} << EOD\n{block}\nEOD\n" for i, block in enumerate(blocks))
    lines = ["$c0 using ($1/1000):2 linecolor rgb '#888888' title 'live'"] + [
        f"$c{i} using ($1/1000):3 linecolor rgb '{colour}' title '{name}'"
        for i, (name, colour) in enumerate(CURVES)
    ]
    script = (
        f"set terminal svg size 760,260 background rgb 'white'\n{data}"
        f"set title '{pattern.replace('_', ' ')}: committed MiB over seconds'\n"
        f"set key outside right\nset grid ytics\nset yrange [0:]\nset style data lines\n"
        f"plot {', '.join(lines)}\n"
    )
    if not shutil.which("gnuplot"):
        sys.exit("gnuplot is not installed (Debian: gnuplot-nox)")
    done = subprocess.run(["gnuplot"], input=script, capture_output=True, text=True)
    if done.returncode != 0:
        sys.exit("gnuplot: " + done.stderr.strip())
    return done.stdout


def check(docs):
    table = results()
    failures = []
    for pattern, settings in results().items():
        # What a thread leaves goes to the next one, or not, as one ends before the other begins.
        most = 0.01 if pattern == "idle_threads" else 0
        for setting, figures in settings.items():
            if any(abs(a - b) > most * b for a, b in zip(figures, table[pattern][setting])):
                failures.append("%s %s gives other figures the second time" % (pattern, setting))
    for pattern, settings in table.items():
        time, peak = relative(settings, "auto")
        if max(time, peak) > ALLOWED_OF.get(pattern, ALLOWED):
            failures.append(
                "%s: adaptive takes %.3f of the time and %.3f of the peak of the best fixed setting"
                % (pattern, time, peak)
            )
    for setting in table[PATTERNS[0]]:
        if setting != "auto" and all(max(relative(table[p], setting)) <= ALLOWED for p in PATTERNS):
            failures.append("the fixed setting %s is within 5 %% on all patterns" % setting)
    with open(os.path.join(docs, "ace_control.md")) as page:
        text = page.read()
    shown = text[text.index(BEGIN) + len(BEGIN) : text.index(END)]
    # The figures of another kernel differ a little in what lies beside what.
    numbers = [
        [float(x) for x in re.findall(r"\d+\.\d+|\d+", part)] for part in (shown, page_table(table))
    ]
    if len(numbers[0]) != len(numbers[1]) or any(
        abs(a - b) > 0.06 * max(a, b) + 0.02 for a, b in zip(*numbers)
    ):
        failures.append(
            "docs/ace_control.md is not what the replays give; "
            "run ./bazelw run //checks/ace_replay:update"
        )
    for pattern in PATTERNS:
        if not os.path.exists(os.path.join(docs, "ace_%s.svg" % pattern)):
            failures.append("docs/ace_%s.svg is missing" % pattern)
    for failure in failures:
        print(failure)
    return len(failures)


def update(docs):
    path = os.path.join(docs, "ace_control.md")
    with open(path) as page:
        text = page.read()
    text = text[: text.index(BEGIN) + len(BEGIN)] + page_table(results()) + text[text.index(END) :]
    with open(path, "w") as page:
        page.write(text)
    for pattern in PATTERNS:
        with open(os.path.join(docs, "ace_%s.svg" % pattern), "w") as picture:
            picture.write(svg(pattern))
    return 0


if __name__ == "__main__":
    if MODE == "--check":
        sys.exit(1 if check("docs") else 0)
    sys.exit(update(os.path.join(os.environ["BUILD_WORKSPACE_DIRECTORY"], "docs")))
