"""bench_binaries: one workload linked with every allocator."""

load("@rules_cc//cc:defs.bzl", "cc_binary", "cc_library")

# Name of the allocator (as in compare.py) -> what to link. None: nothing, so that libc's malloc
# serves. All are shared objects, hakmem too, so that none has the advantage of direct calls.
ALLOCATORS = {
    "hakmem": "//bench/common:hakmem_shared",
    "jemalloc": "@jemalloc//:jemalloc",
    "mimalloc": "@mimalloc//:mimalloc",
    "tcmalloc": "@tcmalloc//:tcmalloc",
    "glibc": None,
    "null": "//bench/null:null_shared",
}

# -O2 whatever the compilation mode; the compiler must not know what malloc and free do, or it drops
# pairs of them.
BENCH_COPTS = [
    "-std=c17",
    "-D_GNU_SOURCE",
    "-O2",
    "-Wall",
    "-Wextra",
    "-fno-builtin-malloc",
    "-fno-builtin-calloc",
    "-fno-builtin-realloc",
    "-fno-builtin-free",
]

# What replaces malloc cannot be sanitized; what is counted or timed must not be instrumented.
TAGS = [
    "no-coverage",
    "no-sanitizer",
]

def bench_binaries(name, srcs, deps = []):
    """Declares NAME_hakmem, NAME_jemalloc, ..., NAME_hakmem_static, and a filegroup NAME of all.

    Args:
      name: the program's name without the allocator.
      srcs: its sources.
      deps: what they need besides bench_common.h.
    """

    # Compiled once, linked with each.
    cc_library(
        name = name + "_objects",
        srcs = srcs,
        copts = BENCH_COPTS,
        linkstatic = True,
        tags = TAGS,
        deps = deps + ["//bench/common:bench_common"],
        alwayslink = True,
    )
    common = {
        "linkopts": ["-pthread"],
        "tags": TAGS,
    }
    for allocator, library in ALLOCATORS.items():
        cc_binary(
            name = name + "_" + allocator,
            deps = [":" + name + "_objects"] + ([library] if library else []),
            **common
        )
    cc_binary(
        name = name + "_hakmem_static",
        malloc = "//hakmem:malloc",
        deps = [":" + name + "_objects"],
        **common
    )
    native.filegroup(
        name = name,
        srcs = [name + "_" + allocator for allocator in ALLOCATORS] + [name + "_hakmem_static"],
        tags = TAGS,
        visibility = ["//bench:__subpackages__"],
    )
