"""Each variant's libhakmem.so: is the variant that it says, needs libc alone, exports only what it
may, is bound to malloc.

variants_test.py VARIANT=LIBRARY...
"""

import os
import re
import subprocess
import sys
import tempfile
import unittest

LIBRARIES = {}

# Everything that a libhakmem.so may export.
ALLOWED = [
    r"hak_[a-z_]+",
    r"malloc|calloc|realloc|free|cfree|reallocarray|recallocarray|free_sized|free_aligned_sized",
    r"aligned_alloc|posix_memalign|memalign|valloc|pvalloc",
    r"malloc_usable_size|malloc_trim|malloc_stats|malloc_info|mallopt|mallinfo2?",
    r"malloc_(get|set)_state|__malloc_hook|__free_hook|__realloc_hook|__memalign_hook",
    r"__libc_(malloc|calloc|realloc|free|memalign|valloc|pvalloc|cfree)|__posix_memalign",
    r"_Zn[wa][mj](St11align_val_t)?(RKSt9nothrow_t)?",
    r"_Zd[la]Pv[mj]?(St11align_val_t)?(RKSt9nothrow_t)?",
]
# The names that it must export: without one of these, some blocks come from libc, and hakmem frees
# them.
REQUIRED = """malloc calloc realloc free aligned_alloc posix_memalign memalign valloc pvalloc
    reallocarray malloc_usable_size
    _Znwm _Znam _ZdlPv _ZdaPv _ZdlPvm _ZdaPvm
    _ZnwmRKSt9nothrow_t _ZnamRKSt9nothrow_t _ZdlPvRKSt9nothrow_t _ZdaPvRKSt9nothrow_t
    _ZnwmSt11align_val_t _ZnamSt11align_val_t
    _ZnwmSt11align_val_tRKSt9nothrow_t _ZnamSt11align_val_tRKSt9nothrow_t
    _ZdlPvSt11align_val_t _ZdaPvSt11align_val_t _ZdlPvmSt11align_val_t _ZdaPvmSt11align_val_t
    _ZdlPvSt11align_val_tRKSt9nothrow_t _ZdaPvSt11align_val_tRKSt9nothrow_t
    hak_malloc hak_calloc hak_realloc hak_free hak_aligned_alloc hak_posix_memalign hak_memalign
    hak_usable_size hak_free_sized hak_free_aligned_sized hak_malloc_at_least hak_rezalloc
    hak_malloc_batch hak_free_batch
    hak_heap_create hak_heap_destroy hak_heap_malloc hak_heap_calloc hak_heap_aligned_alloc
    hak_heap_realloc hak_heap_walk hak_walk hak_hooks_set
    free_sized free_aligned_sized malloc_trim malloc_info malloc_stats mallopt mallinfo mallinfo2
    cfree
    hak_super_lookup hak_variant hak_version hak_verify""".split()

ASK = """
import ctypes
program = ctypes.CDLL(None)
program.hak_variant.restype = ctypes.c_char_p
print(program.hak_variant().decode())
"""


def output(*command, **environment):
    return subprocess.run(
        command, check=True, stdout=subprocess.PIPE, text=True, env=dict(os.environ, **environment)
    ).stdout


def exported(library):
    names = []
    for line in output("readelf", "--dyn-syms", "--wide", library).splitlines():
        fields = line.split()
        if (
            len(fields) >= 8
            and fields[0].endswith(":")
            and fields[6] != "UND"
            and fields[4] in ("GLOBAL", "WEAK")
        ):
            names.append(fields[7])
    return names


def in_each_variant(test):
    def run(self):
        self.assertGreater(len(LIBRARIES), 1)
        for variant, library in LIBRARIES.items():
            with self.subTest(variant=variant):
                test(self, variant, library)

    return run


class VariantsTest(unittest.TestCase):
    @in_each_variant
    def test_is_the_variant_that_it_is_called(self, variant, library):
        self.assertEqual(variant, output(sys.executable, "-c", ASK, LD_PRELOAD=library).strip())

    @in_each_variant
    def test_needs_libc_alone(self, _, library):
        needed = re.findall(r"\(NEEDED\).*\[(.*)\]", output("readelf", "-d", library))
        self.assertEqual(
            ["libc.so.6"], [name for name in needed if not name.startswith("ld-linux")]
        )

    @in_each_variant
    def test_exports(self, _, library):
        names = exported(library)
        allowed = re.compile("|".join(ALLOWED))
        self.assertEqual(
            [], [name for name in names if not allowed.fullmatch(name)], "exported, but not allowed"
        )
        self.assertEqual([], [name for name in REQUIRED if name not in names], "not exported")

    # A version on our symbols would leave every program on libc's malloc@GLIBC_2.2.5, and nothing
    # would look wrong.
    @in_each_variant
    def test_malloc_is_bound_to_it(self, _, library):
        with tempfile.TemporaryDirectory() as folder:
            output(
                "perl", "-e", "1", LD_PRELOAD=library, LD_DEBUG="bindings",
                LD_DEBUG_OUTPUT=folder + "/bindings",
            )
            text = ""
            for name in os.listdir(folder):
                with open(os.path.join(folder, name)) as stream:
                    text += stream.read()
        for symbol in ("malloc", "free", "calloc", "realloc"):
            targets = re.findall(
                r"binding file .* \[0\] to (\S+) \[0\]: normal symbol `%s'" % symbol, text
            )
            self.assertTrue(targets, symbol)
            self.assertEqual(
                {"libhakmem.so"}, {os.path.basename(target) for target in targets}, symbol
            )


if __name__ == "__main__":
    for argument in sys.argv[1:]:
        name, _, path = argument.partition("=")
        LIBRARIES[name] = os.path.abspath(path)
    del sys.argv[1:]
    unittest.main()
