"""hakmem built for another C library or processor: linked by -static, as a shared library,
preloaded; then the programs run on it.

cross_test.py musl|aarch64 [TESTS]
Runs in the folder of the sources. Without the compiler it says so and passes; tools/packages
installs it (groups test and cross).
"""
import glob
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

TARGET = sys.argv[1]
COMPILER, MACHINE = {
    "musl": ("musl-gcc", []),
    "aarch64": ("aarch64-linux-gnu-gcc", ["qemu-aarch64", "-L", "/usr/aarch64-linux-gnu"]),
}[TARGET]
PARTS = ["base", "limit", "superslab", "owner", "tiny", "mid_mt", "ace", "heap",
         "hakmem", "observe", "malloc"]
FLAGS = (
    "-DHAKMEM_INTERNAL=1 -std=c17 -D_GNU_SOURCE -fPIC -fvisibility=hidden "
    "-ftls-model=initial-exec -fno-builtin-malloc -fno-builtin-calloc "
    "-fno-builtin-realloc -fno-builtin-free -I. -Wall -Wextra -Werror -Wno-clobbered"
).split()
VARIANTS = {
    "release": ["-O2", "-DNDEBUG", "-DHAKMEM_BUILD_RELEASE=1", '-DHAKMEM_VARIANT="release"'],
    "tiny": [
        "-O1", "-DHAKMEM_TINY=1", "-DHAKMEM_DEBUG=1", "-DHAKMEM_VALIDATE=1",
        '-DHAKMEM_VARIANT="tiny"',
    ],
}
# C++'s operators need a C++ compiler, which neither toolchain has here.
NOT_C = {"malloc/new_delete.c", "malloc/late_symbol.c"}
NOT_IN_STRESS = ("malloc_malloc.c.o", "malloc_malloc_names.c.o", "malloc_libc_names.c.o")
PROGRAMS = ["early_late", "exhausted", "fork", "guest", "loading", "signals"]
# qemu-user: its own memory counts towards limits and peaks (5 MB a thread), it cannot fork when it
# has threads, knows neither seccomp nor ptrace, has a thread of its own, and /proc/self/exe is
# qemu.
NOT_EMULATED = {
    "exhausted": [
        "address_space", "data", "shrunk_blocks", "grown_blocks", "c_library", "mappings",
    ],
    "early_late": ["key_destructors", "many_threads"],
    "guest": [
        "sandbox", "sandbox_traced", "sandbox_threads", "sandbox_time", "cancel_traced",
        "alone_after_join", "background_of_first_thread",
    ],
    "signals": ["forks_in_handlers"],
    "fork": ["forks", "fork_in_fork", "fork_from_threads", "atfork_handlers", "vforks", "spawns"],
}


def run(*command, **environment):
    done = subprocess.run(
        [str(word) for word in command],
        env=dict({"PATH": "/usr/bin:/bin", "HOME": "/"}, **environment),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        timeout=300,
    )
    if done.returncode:
        raise AssertionError(done)
    return done.stdout


class Built:
    """All of one variant, in a folder of its own."""

    def __init__(self, folder, variant):
        self.folder, self.variant = folder, variant
        self.objects = [
            self.compile(source)
            for part in PARTS
            for source in sorted(set(glob.glob(part + "/*.c")) - NOT_C)
        ]
        self.library = self.path("libhakmem.so")
        run(
            COMPILER,
            "-shared",
            "-o",
            self.library,
            *self.objects,
            "-Wl,--version-script=preload/libhakmem.map",
            "-Wl,-z,nodelete"
        )
        self.plugin = self.path("plugin.so")
        run(
            COMPILER, "-O1", "-fPIC", "-fno-builtin", "-shared", "-o", self.plugin,
            "checks/survival/plugin.c",
        )

    def path(self, name):
        return os.path.join(self.folder, self.variant + "_" + name)

    def compile(self, source, *flags):
        output = self.path(source.replace("/", "_") + "".join(flags) + ".o")
        run(COMPILER, *FLAGS, *VARIANTS[self.variant], *flags, "-c", "-o", output, source)
        return output

    def link(self, name, how):
        output = self.path(name + "_" + how)
        program = self.compile(
            "checks/survival/%s.c" % name, "-fno-builtin", "-DNO_DLOPEN=%d" % (how == "static")
        )
        command = {
            "static": ["-static", "-no-pie", program, *self.objects],
            "shared": ["-pie", program, self.library, "-Wl,-rpath," + self.folder],
            "preload": ["-pie", program],
        }[how]
        run(COMPILER, "-pthread", "-o", output, *command)
        return output

    def run(self, program, how, *arguments):
        environment = {"SURVIVAL_PLUGIN": self.plugin, "HAKMEM_VERBOSE": "1"}
        preload = {"LD_PRELOAD": self.library} if how == "preload" else {}
        if MACHINE:
            return run(
                *MACHINE,
                *[word for item in preload.items() for word in ("-E", "%s=%s" % item)],
                program,
                *arguments,
                **environment
            )
        return run(program, *arguments, **environment, **preload)


class Cross(unittest.TestCase):
    def all_cases(self, variant, *ways):
        with tempfile.TemporaryDirectory() as folder:
            built = Built(folder, variant)
            for how in ways:
                for name in PROGRAMS:
                    if how == "static" and name == "loading":
                        continue
                    program = built.link(name, how)
                    cases = run(
                        *MACHINE, *(["-E", "LD_LIBRARY_PATH=" + folder] if MACHINE else []), program
                    ).split()
                    self.assertTrue(cases)
                    for case in cases:
                        if not (MACHINE and case in NOT_EMULATED.get(name, [])):
                            with self.subTest("%s %s %s %s" % (variant, how, name, case)):
                                self.assertEqual("survived\n", built.run(program, how, case))

    def test_preload(self):
        self.all_cases("release", "preload")

    def test_static(self):
        self.all_cases("release", "static")

    def test_tiny(self):
        self.all_cases("tiny", "shared")

    def stress(self, threads, steps, *machine):
        with tempfile.TemporaryDirectory() as folder:
            built = Built(folder, "tiny")
            program = os.path.join(folder, "stress")
            run(
                COMPILER,
                *FLAGS,
                *VARIANTS["tiny"],
                "-pthread",
                "-static",
                "-o",
                program,
                "checks/stress/hakmem_stress.c",
                *[name for name in built.objects if not name.endswith(NOT_IN_STRESS)]
            )
            self.assertIn(
                "hakmem_stress: ok",
                run(*machine, program, "--threads", threads, "--steps", steps),
            )

    def test_stress(self):
        self.stress("4", "5000", *MACHINE)

    @unittest.skipUnless(MACHINE, "the machine's own pages are what they are")
    def test_stress_64_kib_pages(self):
        self.stress("2", "2000", *MACHINE, "-p", "65536")


if __name__ == "__main__":
    missing = [
        tool for tool in [COMPILER, *MACHINE[:1]] if not shutil.which(tool, path="/usr/bin:/bin")
    ]
    if missing:
        print("SKIPPED: there is no %s here" % " and no ".join(missing))
        sys.exit("NO_SKIP" in os.environ)
    unittest.main(argv=sys.argv[:1] + sys.argv[2:], verbosity=2)
