"""The allocators, and the workloads as workloads.json describes them."""

import glob
import json
import os
import re

OURS = "hakmem"
LIMIT = "null"
MODES = ("quick", "default", "full")
UNKNOWN_GROWTH = 5.0  # of a row that does not say how much work it is
QUICK_TAG = "quick"  # the workloads that --quick measures when none is named
# a driver that preloads the allocator into programs of the system's; only --full, or by name or
# tag: they take long
REAL_TAG = "real"
FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TABLE = "workloads.json"  # in bench and in each of its folders that has one
LIBRARIES = (
    "/usr/lib/x86_64-linux-gnu/", "/usr/lib/aarch64-linux-gnu/", "/usr/lib64/", "/usr/lib/",
)


class Allocator:
    """How a program gets this allocator: linked into a binary with the allocator's name as suffix,
    or preloaded into the one that is linked with nothing but libc."""

    def __init__(self, served_by, library=None, linked=True, environment=None):
        self.served_by = served_by  # the object that serves malloc must match this
        # to preload: a path, absolute or in the workspace, or a file of the system's; None: there
        # is none
        self.library = library
        self.environment = environment or {}  # what programs under it are started with
        self.linked = linked  # whether there are binaries of it


ALLOCATORS = {
    "hakmem": Allocator(r"/libhakmem\.so(\.0)?$", "preload/libhakmem.so"),
    "hakmem_static": Allocator(r"^static hakmem "),
    "jemalloc": Allocator(r"/libjemalloc\.so[.0-9]*$", "libjemalloc.so.2"),
    "mimalloc": Allocator(r"/libmimalloc\.so[.0-9]*$", "libmimalloc.so.2"),
    "tcmalloc": Allocator(r"/libtcmalloc(_minimal)?\.so[.0-9]*$", "libtcmalloc_minimal.so.4"),
    "tbbmalloc": Allocator(
        r"/libtbbmalloc_proxy\.so[.0-9]*$", "libtbbmalloc_proxy.so.2", linked=False
    ),
    "glibc": Allocator(r"/libc\.so\.6$"),
    LIMIT: Allocator(r"^static|/lib\w*null\w*\.so$", "bench/null/libnull.so"),
}
BUILT_IN = tuple(ALLOCATORS)  # the others come from the command line
DEFAULT_ALLOCATORS = [name for name in ALLOCATORS if name != "hakmem_static"]


def ordered(names):
    """Allocators in the order of the table; those of other command lines come last."""
    known = [name for name in ALLOCATORS if name in names]
    return known + sorted(set(names) - set(known))


class Workload:
    """One row of a table of workloads. `folder`: where below bench the table and its programs
    lie."""

    def __init__(self, row, folder=""):
        self.row, self.folder = row, folder
        self.name = row["name"]
        self.binary = os.path.join(folder, row["binary"])
        self.args = {mode: words(row["args"], row.get("work", {}), mode) for mode in MODES}
        self.threads = row.get("threads", 1)
        self.unit = row.get("unit", "ops")
        self.text = row.get("text", "")
        self.tags = row.get("tags", [])
        self.is_driver = REAL_TAG in self.tags
        # A program that knows nothing of the comparison: every allocator is preloaded into it, and
        # a run is one operation. It runs in the user's folder.
        self.is_program, self.folder_to_run_in = False, None

    def arguments(self, mode, seed):
        return [
            a.replace("{seed}", str(seed)).replace("{threads}", str(self.threads))
            for a in self.args[mode]
        ]

    def growth(self, mode):
        """How many times the work of a quick run."""
        work = self.row.get("work")
        if self.is_program:
            return 1.0  # the same in every mode
        return work[mode] / work["quick"] if work else UNKNOWN_GROWTH

    def with_work(self, amount):
        """The same workload with this amount of work in every mode."""
        return Workload({**self.row, "work": dict.fromkeys(MODES, amount)}, self.folder)

    def scaling(self):
        """The name of the family of which this is the point at so many threads; None for most."""
        return next((tag.split(":", 1)[1] for tag in self.tags if tag.startswith("scaling:")), None)


def words(args, work, mode):
    """A row's arguments in a mode. args: one text or list for all modes, or one a mode; {work}: the
    mode's amount of work."""
    if isinstance(args, dict):
        args = args.get(mode, args["default"])
    args = args.split() if isinstance(args, str) else [str(one) for one in args]
    return [one.replace("{work}", str(work[mode] if "{work}" in one else "")) for one in args]


def tables():
    """All tables of workloads that there are: bench's own, then those of its folders."""
    found = [os.path.join(FOLDER, TABLE), *sorted(glob.glob(os.path.join(FOLDER, "*", TABLE)))]
    return [path for path in found if os.path.exists(path)]


def load(paths=None):
    """All workloads by name. Raises ValueError for a name given twice or a row that lacks
    something."""
    found = {}
    for path in tables() if paths is None else paths:
        folder = os.path.relpath(os.path.dirname(path), FOLDER) if paths is None else ""
        with open(path, encoding="utf-8") as file:
            rows = json.load(file)
        for row in rows:
            try:
                workload = Workload(row, "" if folder == "." else folder)
            except KeyError as error:
                raise ValueError(f"{path}: {row.get('name', row)} lacks {error}") from None
            if workload.name in found or not re.fullmatch(r"[a-z0-9_.+-]+", workload.name):
                raise ValueError(
                    f"{path}: {workload.name}: a name given twice, or one that is not lower case"
                )
            found[workload.name] = workload
    return found


class Place:
    """Where programs and libraries lie: bin_dir is the folder bench of a workspace. by_preload:
    every allocator that has a library is preloaded into the program that is linked with none,
    instead of being linked."""

    def __init__(self, bin_dir, by_preload=False):
        self.bin_dir = bin_dir
        self.by_preload = by_preload

    def is_preloaded(self, workload, allocator):
        one = ALLOCATORS[allocator]
        if workload.is_program:
            return one.library is not None
        return not workload.is_driver and (
            not one.linked or (self.by_preload and one.library is not None)
        )

    def binary(self, workload, allocator):
        """The workload's program for this allocator."""
        if workload.is_program:
            return workload.binary
        suffix = "glibc" if self.is_preloaded(workload, allocator) else allocator
        return os.path.join(self.bin_dir, f"{workload.binary}_{suffix}")

    def library(self, workload, allocator):
        """The library to preload; None if none is needed. Raises FileNotFoundError if it is not
        there."""
        return self.file(allocator) if self.is_preloaded(workload, allocator) else None

    def file(self, allocator):
        """An allocator's library."""
        name = ALLOCATORS[allocator].library
        if "/" in name:  # an absolute path stays what it is
            paths = [os.path.join(os.path.dirname(os.path.abspath(self.bin_dir)), name)]
        else:
            paths = [folder + name for folder in LIBRARIES]
        for path in paths:
            if os.path.exists(path):
                return path
        raise FileNotFoundError(f"{os.path.basename(name)} is not installed")
