"""What can be compared: the allocators, and the workloads as workloads.json describes them."""

import json
import os
import re

OURS = "hakmem"
LIMIT = "null"
MODES = ("quick", "default", "full")
FOLDER = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
TABLES = ("workloads.json", "workloads/workloads.json")


class Allocator:
    """How a program gets this allocator: linked into a binary with that suffix, or preloaded into one of `suffix`."""

    def __init__(self, served_by, suffix=None, preload=()):
        self.served_by = served_by  # the object that serves malloc must match this
        self.suffix = suffix
        self.preload = preload  # the first of these paths that is there


ALLOCATORS = {
    "hakmem": Allocator(r"/libhakmem\.so$"),
    "hakmem_static": Allocator(r"^static hakmem "),
    "jemalloc": Allocator(r"/libjemalloc\.so[.0-9]*$"),
    "mimalloc": Allocator(r"/libmimalloc\.so[.0-9]*$"),
    "tcmalloc": Allocator(r"/libtcmalloc(_minimal)?\.so[.0-9]*$"),
    "tbbmalloc": Allocator(
        r"/libtbbmalloc_proxy\.so[.0-9]*$",
        suffix="glibc",
        preload=[
            f"/usr/lib/{arch}-linux-gnu/libtbbmalloc_proxy.so.2" for arch in ("x86_64", "aarch64")
        ],
    ),
    "glibc": Allocator(r"/libc\.so\.6$"),
    LIMIT: Allocator(r"^static|/lib\w*null\w*\.so$"),
}
DEFAULT_ALLOCATORS = [name for name in ALLOCATORS if name != "hakmem_static"]


class Workload:
    """One row of a table of workloads."""

    def __init__(self, row):
        self.name = row["name"]
        self.binary = row["binary"]
        self.args = {mode: row["args"].get(mode, row["args"]["default"]) for mode in MODES}
        self.args = {mode: a.split() if isinstance(a, str) else [str(x) for x in a] for mode, a in self.args.items()}
        self.threads = row.get("threads", 1)
        self.unit = row.get("unit", "ops")
        self.text = row.get("text", "")
        self.tags = row.get("tags", [])

    def arguments(self, mode, seed):
        return [a.replace("{seed}", str(seed)).replace("{threads}", str(self.threads)) for a in self.args[mode]]

    def scaling(self):
        """The name of the family of which this is the point at so many threads; None for most."""
        return next((tag.split(":", 1)[1] for tag in self.tags if tag.startswith("scaling:")), None)


def load(paths=None):
    """All workloads by name. Raises ValueError for a name given twice or a row that lacks something."""
    if paths is None:
        paths = [path for path in (os.path.join(FOLDER, name) for name in TABLES) if os.path.exists(path)]
    found = {}
    for path in paths:
        with open(path, encoding="utf-8") as file:
            rows = json.load(file)
        for row in rows:
            try:
                workload = Workload(row)
            except KeyError as error:
                raise ValueError(f"{path}: {row.get('name', row)} lacks {error}") from None
            if workload.name in found or not re.fullmatch(r"[a-z0-9_.+-]+", workload.name):
                raise ValueError(f"{path}: {workload.name}: a name given twice, or one that is not lower case")
            found[workload.name] = workload
    return found


def binary(bin_dir, program, allocator):
    """The program's binary for this allocator: beside the others, or in the folder of the table that names it."""
    name = f"{program}_{ALLOCATORS[allocator].suffix or allocator}"
    beside = os.path.join(bin_dir, name)
    within = os.path.join(bin_dir, "workloads", name)
    return within if not os.path.exists(beside) and os.path.exists(within) else beside


def preload(allocator):
    """The library to preload; None if none is needed. Raises FileNotFoundError if none of the paths is there."""
    paths = ALLOCATORS[allocator].preload
    if not paths:
        return None
    for path in paths:
        if os.path.exists(path):
            return path
    raise FileNotFoundError(f"{os.path.basename(paths[0])} is not installed")
