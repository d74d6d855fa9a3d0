"""Draws the series with gnuplot: as text for the terminal, or a page of panels as SVG."""

import dataclasses
import shutil
import subprocess

import growth
from comparison import table

TEXT_SIZE = "100,22"
PANEL_WIDTH, PANEL_HEIGHT, COLUMNS = 520, 340, 3
COLOURS = {
    "hakmem": "#d9480f",
    "jemalloc": "#1c7ed6",
    "mimalloc": "#2f9e44",
    "tcmalloc": "#9c36b5",
    "tbbmalloc": "#0c8599",
    "glibc": "#868e96",
}
TIMES = ("ns", "median_ns")
COMMON = "set logscale xy\nset key outside right\nset format '%.0s%c'\nset grid\n"


@dataclasses.dataclass
class Panel:
    """One picture: a measure of a row, a line an allocator."""

    title: str
    x_name: str
    y_name: str
    # {allocator: [(size, value)]}, without what is not above zero: both axes are logarithmic.
    lines: dict
    is_text: bool = False  # whether the terminal shows it too

    def commands(self):
        data = "\n".join(
            f"$d{i} << EOD\n" + "\n".join(f"{x} {y:g}" for x, y in points) + "\nEOD"
            for i, points in enumerate(self.lines.values())
        )
        plots = ", ".join(
            f"$d{i} with linespoints linewidth {2 if name == table.OURS else 1} "
            f"linecolor rgb '{COLOURS[name]}' title '{name}'"
            for i, name in enumerate(self.lines)
        )
        return (
            f"{data}\nset title '{self.title}' noenhanced\nset xlabel '{self.x_name}'\n"
            f"set ylabel '{self.y_name}'\nplot {plots}\n"
        )


def is_main(one):
    """Whether a series is drawn even if no allocator's is marked."""
    return one["unit"] not in TIMES or one["measure"] in (growth.LONGEST, "stall")


def title_of(one):
    return f"{one['row']}: {one['measure']}{' +1' if one['others'] else ''}"


def panels_of(row, all_series):
    """The pictures of a row: the longest call, stalls, values, and of whatever else is marked for
    one allocator, those of all."""
    mine = [one for one in all_series if one["row"] == row.name]
    marked = {title_of(one) for one in mine if one["mark"]}
    found = {}
    for one in mine:
        title, is_time = title_of(one), one["unit"] in TIMES
        factor = 1e-3 if is_time else 1.0
        points = [(v["size"], v["value"] * factor) for v in one["values"] if v["value"] > 0]
        if not points or not (is_main(one) or title in marked):
            continue
        y_name = "us" if is_time else one["unit"]
        panel = found.setdefault(title, Panel(title, row.unit, y_name, {}))
        panel.lines[one["allocator"]] = points
    for title in text_titles(mine):
        if title in found:
            found[title].is_text = True
    return list(found.values())


def text_titles(mine):
    """Which of a row's pictures the terminal shows: the main ones of ours that are marked; where
    none is, the one that grows most."""
    marked = [one for one in mine if one["mark"] and one["allocator"] == table.OURS]
    main = [one for one in marked if is_main(one)]
    steepest = sorted(marked, key=lambda one: -(one["exponent"] or 0.0))[:1]
    return [title_of(one) for one in main or steepest]


def panels(chosen, all_series):
    return [panel for row in chosen for panel in panels_of(row, all_series)]


def is_there():
    return shutil.which("gnuplot") is not None


def gnuplot(script):
    """What gnuplot writes. Raises OSError if it cannot draw."""
    done = subprocess.run(["gnuplot"], input=script, capture_output=True, text=True)
    if done.returncode != 0:
        raise OSError(f"gnuplot: {done.stderr.strip()}")
    return done.stdout


def as_text(chosen, all_series):
    """What is marked of ours, one picture each."""
    wanted = [panel.commands() for panel in panels(chosen, all_series) if panel.is_text]
    return (
        gnuplot(f"set terminal dumb size {TEXT_SIZE}\n{COMMON}" + "".join(wanted)) if wanted else ""
    )


def as_svg(chosen, all_series):
    """All rows, a panel a measure."""
    drawn = [panel.commands() for panel in panels(chosen, all_series)]
    lines = max(1, (len(drawn) + COLUMNS - 1) // COLUMNS)
    size = f"{PANEL_WIDTH * COLUMNS},{PANEL_HEIGHT * lines}"
    return gnuplot(
        f"set terminal svg size {size} dynamic background rgb 'white'\n{COMMON}"
        f"set multiplot layout {lines},{COLUMNS}\n" + "".join(drawn) + "unset multiplot\n"
    )
