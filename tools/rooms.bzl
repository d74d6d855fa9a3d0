"""The rooms: every folder, what it is in a sentence, and which others it may name.

From this table come the visibility of each part (seen_by), tools/rooms_test.py (no include and no
Bazel label goes against an arrow, every arrow is used, none has its reverse), and the lists in the
READMEs (tools/gen_rooms.py). //:arrows_test proves the same of the library's parts from Bazel's own
graph. A room may only name rooms that stand above it here. Tests may name whatever they test with.
"""

# Valid Python too, which tools/rooms.py makes use of.
_BASE = ["base"]
_SLABS = ["base", "limit", "superslab"]
_POOL = ["base", "superslab", "owner"]

# folder -> (sentence, rooms that it may name)
ROOMS = {
    "docs": (
        "pages for people: the design, what was measured, what is generated from the tables",
        [],
    ),
    "base": ("what knows nothing of allocating", []),
    "stack": ("the call stack of a thread, and a table of stacks", _BASE),
    "limit": ("the memory limit, and why a request failed", _BASE),
    "superslab": (
        "regions of 2 MiB, what is cut from them, and the pointer map",
        ["base", "limit"],
    ),
    "owner": ("whoever slabs belong to, and the slabs of each", ["base", "superslab"]),
    "tiny": ("the pool for blocks of up to 1 KiB", _POOL),
    "mid_mt": ("the pool for blocks of more than 1 KiB and up to 32 KiB", _POOL),
    "ace": ("blocks above 32 KiB, and how much freed memory is worth keeping", _SLABS),
    "heap": (
        "heaps of threads: the thread cache, remote free, and the background thread",
        _SLABS + ["owner", "tiny", "mid_mt", "ace"],
    ),
    "hakmem": (
        "the public interface: fast paths, a table of entry points, the plain functions behind it",
        _SLABS + ["owner", "ace", "heap"],
    ),
    "observe": (
        "layers that observe calls: hooks, and notes to memcheck and AddressSanitizer",
        ["base", "superslab", "heap", "hakmem"],
    ),
    "secure": (
        "the secure variant: a layer that checks blocks and guards them",
        ["base", "limit", "superslab", "heap", "hakmem", "stack"],
    ),
    "guard": (
        "guarded sampling: a layer that lays one in N blocks between pages that fault",
        ["base", "limit", "superslab", "heap", "hakmem", "stack"],
    ),
    "profile": (
        "the heap profile: which call sites hold the memory",
        ["base", "superslab", "heap", "hakmem", "stack"],
    ),
    "malloc": (
        "the names of malloc, of glibc's additions to it and of C++'s operators, over hak_*",
        ["base", "superslab", "heap", "hakmem"],
    ),
    "command": ("what the subcommands of the `hakmem` command share", ["hakmem"]),
    "trace": ("the recorder of a program's calls, and its format", ["base", "hakmem", "command"]),
    "ask": (
        "asks a running process, or a core file, for its statistics",
        ["base", "owner", "ace", "hakmem", "command"],
    ),
    "report": ("what heap profiles say, as text, as a page, and for pprof", ["command", "ask"]),
    "advise": (
        "which setting or allocator would need less time or memory: a program's calls, played",
        ["command", "trace"],
    ),
    "preload": (
        "`libhakmem.so`, and the `hakmem` command",
        ["docs", "hakmem", "malloc", "command", "trace", "ask", "report", "advise"],
    ),
    "checks": ("everything that attacks the library from outside of its parts", []),
    "checks/abi": ("the binary interface and the version, against what is stated", []),
    "checks/bins_replay": ("thread caches of threads that sleep", ["base", "hakmem"]),
    "checks/ace_replay": (
        "the controller's choices, pattern by pattern, held against fixed ones",
        ["base", "superslab", "ace", "docs", "checks/bins_replay"],
    ),
    "checks/fuzz": ("the public interface, driven by bytes", ["base", "hakmem"]),
    "checks/model": ("the protocols between threads, for Spin", []),
    "checks/names": ("nothing of ours in other people's namespace", ["hakmem"]),
    "checks/stress": ("threads against an oracle", ["base", "superslab", "hakmem"]),
    "checks/surface": (
        "the edges of the malloc surface, as one table",
        ["hakmem", "preload", "docs"],
    ),
    "checks/survival": (
        "programs that use malloc where allocators break",
        _SLABS + [
            "owner",
            "tiny",
            "mid_mt",
            "ace",
            "heap",
            "hakmem",
            "observe",
            "secure",
            "stack",
            "guard",
            "profile",
            "malloc",
            "preload",
        ],
    ),
    "bench/experiment": ("how an experiment looks at code, calls and time, in that order", []),
    "bench/comparison": ("how the comparison runs, counts and judges", []),
    "bench/report": ("the comparison's page", []),
    "bench/null": ("an allocator that does nothing: the limit of what can be had", []),
    "bench/common": (
        "what all benchmarks link, and what measures them",
        ["hakmem", "preload", "bench/null"],
    ),
    "bench/golden": ("the instructions of the fast paths, named and pinned", ["bench/common"]),
    "bench/real": ("real programs under each allocator", ["preload", "bench/common"]),
    "bench/replay": ("recorded calls of real programs, played again", ["trace", "bench/common"]),
    "install": (
        "what an installation consists of, how it is put in place, and Debian packages of it",
        ["base", "hakmem", "trace", "report", "preload", "bench/replay"],
    ),
    "bench/workloads": ("small programs that each do one thing to malloc", ["bench/common"]),
    "bench": (
        "the comparison of hakmem with its peers",
        [
            "docs",
            "preload",
            "bench/null",
            "bench/common",
            "bench/golden",
            "bench/real",
            "bench/replay",
            "bench/workloads",
        ],
    ),
    "bench/worst": (
        "the longest calls and stalls, and what grows with the heap",
        ["preload", "bench/common", "bench"],
    ),
    "examples": (
        "programs, projects and workspaces that use hakmem as a user would",
        _SLABS + [
            "owner",
            "tiny",
            "mid_mt",
            "ace",
            "heap",
            "hakmem",
            "observe",
            "secure",
            "stack",
            "guard",
            "profile",
            "malloc",
            "install",
        ],
    ),
    "examples/workspace": (
        "a workspace that links hakmem, and its parts alone",
        ["superslab", "tiny", "mid_mt", "ace", "hakmem"],
    ),
}

def seen_by(room):
    """The visibility of a room's library: the root, for consumers, and the rooms that may name it.

    Args:
      room: the folder.

    Returns:
      A list for `visibility`.
    """
    others = [other for other, row in ROOMS.items() if room in row[1]]
    return ["//:__pkg__"] + ["//%s:__pkg__" % other for other in others]
