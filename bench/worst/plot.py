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
    is_text: bool = False  # whether it is drawn in the terminal too: ours is marked

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


def panels_of(row, all_series):
    """The pictures of a row: the longest call, stalls, values, and whatever else is marked."""
    found = {}
    for one in all_series:
        is_time, is_main = one["unit"] in TIMES, one["measure"] in (growth.LONGEST, "stall")
        points = [
            (v["size"], v["value"] / (1e3 if is_time else 1))
            for v in one["values"]
            if v["value"] > 0
        ]
        if one["row"] != row.name or not points or (is_time and not is_main and not one["mark"]):
            continue
        title = f"{row.name}: {one['measure']}{' +1' if one['others'] else ''}"
        panel = found.setdefault(
            title, Panel(title, row.unit, "us" if is_time else one["unit"], {})
        )
        panel.lines[one["allocator"]] = points
        panel.is_text |= (
            bool(one["mark"]) and one["allocator"] == table.OURS and (is_main or not is_time)
        )
    return list(found.values())


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
