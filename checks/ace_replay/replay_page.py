"""The table and the plots of docs/ace_control.md, from replays; and the test that they are true.

replay_page.py ACE_REPLAY BINS_REPLAY --check|--update
"""
import os
import re
import subprocess
import sys

ACE, BINS, MODE = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2]), sys.argv[3]
PATTERNS = ["steady", "burst_then_silence", "phase_change", "sawtooth"]
BEGIN, END = "<!-- replay table: begin -->\n", "<!-- replay table: end -->\n"
# How far adaptive may be from the best fixed setting, in time and in peak memory.
ALLOWED = 1.05
# Threads that sleep keep lists in their depots (heap/depot.h), whatever the limit of bins is: the
# settings' peaks are near each other, so that the best one is the fastest.
ALLOWED_OF = {"idle_threads": 1.08}
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
    """Committed and live bytes over time, as a picture of its own."""
    curves = [
        [tuple(map(float, l.split())) for l in block.splitlines()]
        for block in output(ACE, "curve", pattern).strip().split("\n\n\n")
    ]
    width, height, left, bottom = 760, 260, 60, 40
    end = max(c[-1][0] for c in curves)
    top = max(p[2] for c in curves for p in c) * 1.1
    lines = [("live", "#888888", [(p[0], p[1]) for p in curves[0]])]
    for name, color, curve in zip(
        ("adaptive", "keep nothing", "keep all"), ("#0a7d32", "#c0392b", "#2e6fdb"), curves
    ):
        lines.append((name, color, [(p[0], p[2]) for p in curve]))
    out = [
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" '
        'font-family="sans-serif" font-size="12">\n'
        % (width, height)
    ]
    out.append(
        '<rect width="100%%" height="100%%" fill="#ffffff"/>\n'
        '<text x="%d" y="16">%s: committed MiB over seconds</text>\n'
        % (left, pattern.replace("_", " "))
    )

    def place(ms, mib):
        return left + ms / end * (width - left - 130), height - bottom - mib / top * (
            height - bottom - 30
        )

    for i in range(5):
        x, y = place(end * i / 4, top * i / 4)
        out.append(
            '<text x="%.0f" y="%d" text-anchor="middle">%.1f</text>'
            % (x, height - bottom + 16, end * i / 4000)
        )
        out.append(
            '<text x="%d" y="%.0f" text-anchor="end">%.0f</text>\n' % (left - 6, y + 4, top * i / 4)
        )
        out.append(
            '<line x1="%d" x2="%d" y1="%.1f" y2="%.1f" stroke="#dddddd"/>\n'
            % (left, width - 130, y, y)
        )
    for i, (name, color, points) in enumerate(lines):
        path = " ".join("%.1f,%.1f" % place(*p) for p in points)
        out.append(
            '<polyline fill="none" stroke="%s" stroke-width="1.3" points="%s"/>\n' % (color, path)
        )
        out.append(
            '<text x="%d" y="%d" fill="%s">%s</text>\n' % (width - 120, 40 + 18 * i, color, name)
        )
    return "".join(out) + "</svg>\n"


def check(docs):
    table = results()
    assert results() == table, "a replay gives other figures the second time"
    failures = []
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
