"""hakmem record: what a program is known to call is in the trace, in its order, whatever
way the program ends.

record_test.py HAKMEM_COMMAND CALLS_PROGRAM
"""

import collections
import glob
import os
import shutil
import subprocess
import sys
import tempfile
import unittest

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import trace_file

COMMAND, CALLS = (os.path.abspath(a) for a in sys.argv[1:3])

# The calls of mode `known`, of which calls.c is the other copy: operation, size, alignment, and a
# name for the block.
KNOWN = [
    ("malloc", 100001, 1, "a"), ("calloc", 120003, 1, "b"), ("aligned", 100005, 64, "d"),
    ("aligned", 100003, 4096, "c"), ("realloc", 300007, 1, "a"), ("free", None, 1, "b"),
    ("malloc", 100007, 1, "e"), ("aligned", 128128, 128, "f"), ("malloc", 110077, 1, "g"),
    ("free", None, 1, "d"), ("free", None, 1, "a"), ("realloc", 50021, 1, "e"),
    ("free", None, 1, "f"), ("free", None, 1, "g"),
]  # fmt: skip
SHORT_THREADS, THREADS, ROUNDS = 300, 4, 20000
RAW_MAGIC, RAW_CHUNK = 0x315741524B4148, 65536  # raw.h's


class RecordTest(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(dir=os.environ.get("TEST_TMPDIR"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.trace = os.path.join(self.folder, "t.trace")

    def command(self, *arguments, **more):
        env = {**os.environ, **more}
        env.pop("BUILD_WORKING_DIRECTORY", None)
        return subprocess.run(
            [COMMAND, *arguments], env=env, capture_output=True, text=True, cwd=self.folder
        )

    def record(self, mode, *options, status=0):
        done = self.command("record", "-o", self.trace, *options, CALLS, mode)
        self.assertEqual((done.returncode, done.stdout), (status, ""), done.stderr)
        self.assertIn(f"hakmem: {self.trace}: ", done.stderr)
        self.assertEqual(glob.glob(self.trace + ".raw*"), [])
        return trace_file.read(self.trace)

    def assert_known(self, calls):
        """The program's own calls: those about blocks that ever had a size of 50,000 or more."""
        large = {call.block for call in calls if call.size and call.size > 50000}
        names = {}
        found = []
        for call in calls:
            if call.block in large:
                names.setdefault(call.block, KNOWN[len(found)][3])
                found.append((call.op, call.size, call.align, names[call.block]))
        self.assertEqual(found, KNOWN)

    def consistent(self, header, calls):
        """Every call is about a block that is alive; the header's peaks are the largest sums."""
        alive, total, peak_bytes, peak_blocks = {}, 0, 0, 0
        for call in calls:
            if call.op in ("realloc", "free"):
                total -= alive.pop(call.block)
            if call.op != "free":
                alive[call.block] = call.size
                total += call.size
            peak_bytes, peak_blocks = max(peak_bytes, total), max(peak_blocks, len(alive))
        self.assertEqual((header.peak_bytes, header.peak_blocks), (peak_bytes, peak_blocks))
        self.assertEqual({call.thread for call in calls}, set(range(header.n_threads)))

    def test_known_calls(self):
        header, calls = self.record("known")
        self.assertEqual(
            (header.program.rstrip(b"\0"), header.flags, header.n_threads), (b"calls", 0, 1)
        )
        self.assert_known(calls)
        self.consistent(header, calls)

    def test_ends_without_destructors(self):
        for mode, status in (("exit", 3), ("kill", 137)):
            self.assert_known(self.record(mode, status=status)[1])

    def threads(self, mode):
        header, calls = self.record(mode)
        self.consistent(header, calls)
        counts = collections.Counter(
            (call.thread, call.size)
            for call in calls
            if call.op == "malloc" and call.size >= 200000
        )
        self.assertEqual(sorted(counts.values()), [ROUNDS] * THREADS)
        self.assertEqual({size for _, size in counts}, {200000 + 16 * k for k in range(THREADS)})
        made = {
            call.block: call.thread for call in calls if call.op == "malloc" and call.size >= 200000
        }
        frees = [call for call in calls if call.op == "free" and call.block in made]
        self.assertTrue(THREADS * ROUNDS - 64 <= len(frees) < THREADS * ROUNDS)
        self.assertGreater(sum(made[call.block] != call.thread for call in frees), 100)
        self.assertEqual(
            {call.size for call in calls if call.op == "realloc" and call.block in made}, {210000}
        )

    def test_threads_that_free_for_each_other(self):
        for _ in range(3):
            self.threads("threads")

    def test_descriptors_closed(self):
        self.threads("close")

    def test_threads_that_come_and_go(self):
        header, calls = self.record("short")
        self.consistent(header, calls)
        self.assertEqual(header.n_threads, SHORT_THREADS + 1)
        by_size = collections.Counter(call.size for call in calls if call.op == "malloc")
        self.assertEqual((by_size[300001], by_size[300017]), (SHORT_THREADS, SHORT_THREADS))
        self.assertEqual(
            sum(call.op == "malloc" and call.size == 300001 and call.thread > 0 for call in calls),
            SHORT_THREADS,
        )

    def sizes(self, path):
        return [call.size for call in trace_file.read(path)[1] if call.size and call.size > 100000]

    def test_fork(self):
        self.record("fork")
        self.assertEqual(self.sizes(self.trace), [100011, 100022])
        self.assertEqual(glob.glob(self.trace + ".*"), [])

    def test_forked_children_too(self):
        self.record("fork", "--children")
        self.assertEqual(self.sizes(self.trace), [100011, 100022])
        (child,) = glob.glob(self.trace + ".[0-9]*")
        self.assertEqual(self.sizes(child), [100013, 100015])

    def test_programs_started_by_the_program(self):
        done = self.command(
            "record", "-o", self.trace, "--children", "sh", "-c", f"{CALLS} known; true"
        )
        self.assertEqual(done.returncode, 0, done.stderr)
        (child,) = glob.glob(self.trace + ".[0-9]*")
        self.assert_known(trace_file.read(child)[1])
        os.unlink(child)
        self.command("record", "-o", self.trace, "sh", "-c", f"{CALLS} known; true")
        self.assertEqual((glob.glob(self.trace + ".[0-9]*"), self.sizes(self.trace)), ([], []))

    def test_no_calls(self):
        header, calls = self.record("none")
        self.assertEqual((len(calls) < 20, header.flags), (True, 0))
        done = self.command("record", "-o", self.trace, "true")
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_first_calls(self):
        header, calls = self.record("threads", "--calls", "5000")
        self.assertEqual(header.flags, 1)
        self.assertTrue(3000 < len(calls) <= 5000, len(calls))
        self.consistent(header, calls)

    def test_default_name_and_info(self):
        done = self.command("record", "--", CALLS, "known")
        self.assertEqual(done.returncode, 0, done.stderr)
        header, calls = trace_file.read(os.path.join(self.folder, "calls.trace"))
        info = self.command("trace-info", "calls.trace")
        self.assertEqual((info.returncode, info.stderr), (0, ""))
        counts = collections.Counter(call.op for call in calls)
        for op in trace_file.OPS:
            self.assertRegex(info.stdout, rf"\n  {op} +{counts[op]}\n")
        self.assertRegex(
            info.stdout, rf"alive at most +{header.peak_bytes} bytes, {header.peak_blocks} blocks\n"
        )

    def test_info_of_what_is_no_trace(self):
        self.record("known")
        with open(self.trace, "rb") as file:
            good = file.read()
        for name, bad in (
            ("empty", b""),
            ("short", good[:60]),
            ("cut", good[:-1]),
            ("flipped", good[:140] + bytes([good[140] ^ 1]) + good[141:]),
        ):
            path = os.path.join(self.folder, name)
            with open(path, "wb") as file:
                file.write(bad)
            done = self.command("trace-info", path)
            self.assertEqual((done.returncode, done.stdout), (2, ""), name)
            self.assertIn(f"hakmem: {path}: ", done.stderr)

    def no_leftovers(self, path):
        self.assertEqual(
            [
                name
                for name in os.listdir(os.path.dirname(path))
                if name.startswith(os.path.basename(path) + ".")
            ],
            [],
        )

    def test_names_of_all_kinds(self):
        for name in ("a b  c", "[0-9]*?", "x.raw", "{a,b}~", "new\nline", "$(id)"):
            folder = os.path.join(self.folder, "in " + name)
            os.mkdir(folder)
            program = os.path.join(folder, "calls " + name)
            shutil.copy(CALLS, program)
            trace = os.path.join(folder, name)
            done = self.command("record", "-o", trace, "--children", program, "fork")
            self.assertEqual(done.returncode, 0, (name, done.stderr))
            self.assertEqual(self.sizes(trace), [100011, 100022])
            children = [found for found in os.listdir(folder) if found.startswith(name + ".")]
            self.assertEqual(len(children), 1, children)
            self.assertEqual(self.sizes(os.path.join(folder, children[0])), [100013, 100015])
            self.assertEqual(self.command("trace-info", trace).returncode, 0)

    def test_nothing_is_followed(self):
        """A link at any name that is written to: what is behind it stays, and nothing is recorded
        through it."""
        victim = os.path.join(self.folder, "victim")
        for at in ("", ".raw", ".new"):
            with open(victim, "w", encoding="ascii") as file:
                file.write("precious")
            os.symlink(victim, self.trace + at)
            done = self.command("record", "-o", self.trace, CALLS, "known")
            with open(victim, encoding="ascii") as file:
                self.assertEqual(file.read(), "precious", at)
            if at == "":
                self.assertEqual(done.returncode, 125)
                self.assertEqual(done.stderr, f"hakmem: record: {self.trace}: is a symbolic link\n")
                os.unlink(self.trace)
            else:
                self.assertEqual(done.returncode, 0, done.stderr)
                self.assert_known(trace_file.read(self.trace)[1])
                os.unlink(self.trace)
            self.no_leftovers(self.trace)

    def test_link_in_a_sticky_folder(self):
        """Another user has put links where recordings would lie, in a folder in which they cannot
        be removed."""
        if os.geteuid() != 0:
            self.skipTest("needs two users")
        shared = tempfile.mkdtemp(dir="/tmp")
        self.addCleanup(shutil.rmtree, shared, ignore_errors=True)
        os.chmod(shared, 0o1777)
        victim = os.path.join(shared, "victim")
        with open(victim, "w", encoding="ascii") as file:
            file.write("precious")
        try:
            os.chown(victim, 65534, 65534)
        except OSError:
            self.skipTest("there is one user here")
        os.chown(shared, 1, 1)
        trace = os.path.join(shared, "t.trace")
        os.symlink(victim, trace + ".raw")
        os.chown(trace + ".raw", 1, 1, follow_symlinks=False)
        done = subprocess.run(
            [COMMAND, "record", "-o", trace, CALLS, "known"],
            user=65534,
            group=65534,
            extra_groups=[],
            cwd="/",
            env={"PATH": "/usr/bin:/bin"},
            capture_output=True,
            text=True,
        )
        if (
            "Permission denied" in done.stderr
            and "libhakmem_record" in done.stderr
            or done.returncode == 126
        ):
            self.skipTest("another user cannot reach the programs")
        self.assertEqual(
            (done.returncode, done.stderr), (125, f"hakmem: record: {trace}: File exists\n")
        )
        with open(victim, encoding="ascii") as file:
            self.assertEqual(file.read(), "precious")

    def test_what_cannot_be_removed(self):
        os.mkdir(self.trace + ".raw")
        done = self.command("record", "-o", self.trace, CALLS, "known")
        self.assertEqual(
            (done.returncode, done.stderr), (125, f"hakmem: record: {self.trace}: File exists\n")
        )

    def test_what_was_there(self):
        with open(self.trace, "w", encoding="ascii") as file:
            file.write("old")
        other = os.path.join(self.folder, "other")
        os.link(self.trace, other)
        self.record("known")
        with open(other, encoding="ascii") as file:
            self.assertEqual(file.read(), "old", "replaced, not written into")
        for path in (self.folder, os.path.join(self.folder, "fifo")):
            if path != self.folder:
                os.mkfifo(path)
            done = self.command("record", "-o", path, CALLS, "known")
            self.assertEqual(
                (done.returncode, done.stderr),
                (125, f"hakmem: record: {path}: is not a regular file\n"),
            )
            self.no_leftovers(path)

    def failure(self, status, text, *arguments, **environment):
        """One line, with the reason, and nothing is left."""
        done = self.command(*arguments, **environment)
        self.assertEqual((done.returncode, done.stdout), (status, ""), done.stderr)
        self.assertEqual(done.stderr.count("\n"), 1, done.stderr)
        self.assertIn(text, done.stderr)
        self.assertEqual([name for name in os.listdir(self.folder) if "trace" in name], [])

    def test_one_true_reason(self):
        record = ("record", "-o", self.trace)
        script = os.path.join(self.folder, "script")
        with open(script, "w", encoding="ascii") as file:
            file.write("#!/no/such/shell\n")
        self.failure(126, "Permission denied", *record, script)
        os.chmod(script, 0o755)
        self.failure(127, "No such file or directory", *record, script)
        self.failure(127, "not found in PATH", *record, "no-such-program")
        self.failure(127, "No such file or directory", *record, "./no-such-program")
        self.failure(126, "Permission denied", *record, self.folder)
        self.failure(
            125, "HAK_RECORD_LIBRARY names no file", *record, "true", HAK_RECORD_LIBRARY="/no/such"
        )
        self.failure(
            125, "No such file or directory", "record", "-o", "/no/such/folder/t", CALLS, "known"
        )
        if os.path.exists("/sbin/ldconfig"):  # which is linked statically
            done = self.command(*record, "/sbin/ldconfig", "--version")
            self.assertEqual(done.returncode, 125, done.stderr)
            self.assertTrue(
                done.stderr.endswith(
                    "nothing was recorded: the program did not load libhakmem_record.so\n"
                ),
                done.stderr,
            )
            self.assertFalse(os.path.exists(self.trace))

    def test_full_disk(self):
        """A file system of 256 KiB, in a mount namespace of its own."""
        disk = os.path.join(self.folder, "disk")
        os.mkdir(disk)
        mount = f"mount -t tmpfs -o size=%dk none '{disk}' && "
        if subprocess.run(
            ["unshare", "-rm", "sh", "-c", mount % 64 + "true"], capture_output=True
        ).returncode:
            self.skipTest("no mounts here")
        command = (
            f"'{COMMAND}' record -o '{disk}/t' '{CALLS}' threads; s=$?; ls '{disk}' >&2; exit $s"
        )

        def run(kib):
            env = {
                key: value for key, value in os.environ.items() if key != "BUILD_WORKING_DIRECTORY"
            }
            done = subprocess.run(
                ["unshare", "-rm", "sh", "-c", mount % kib + command],
                env=env,
                capture_output=True,
                text=True,
            )
            return done.returncode, done.stderr

        status, text = run(32)
        self.assertEqual(
            (status, text), (125, f"hakmem: record: {disk}/t: No space left on device\n")
        )
        status, text = run(256)
        self.assertIn(
            f"hakmem: record: {disk}/t.raw: No space left on device, recording ends\n", text
        )
        # What there is room for is made of it, or it is said why not.
        lines = text.splitlines()
        if status == 0:
            self.assertIn(", the first ones", lines[-2])
            self.assertEqual(lines[-1], "t")
        else:
            self.assertEqual(
                (status, lines[-1]), (125, f"hakmem: record: {disk}/t: No space left on device")
            )

    def test_hole_on_a_full_disk(self):
        """A chunk for which there was no room, before one for which there was: tmpfs would allocate
        a page for a look at it in a mapping, and has none. The program writes such a recording."""
        disk = os.path.join(self.folder, "disk")
        os.mkdir(disk)
        script = os.path.join(self.folder, "script")
        with open(script, "w", encoding="ascii") as file:
            file.write(
                "import os, struct, sys\n"
                "path, fill = sys.argv[1:]\n"
                "with open(path, 'r+b') as raw:\n"
                "    raw.truncate(0)\n"
                f"    raw.write(struct.pack('<Q', {RAW_MAGIC}).ljust({RAW_CHUNK}, b'\\0'))\n"
                f"    raw.seek(2 * {RAW_CHUNK})\n"
                f"    raw.write(struct.pack('<II', 1, 0).ljust({RAW_CHUNK}, b'\\0'))\n"
                "fd = os.open(fill, os.O_CREAT | os.O_WRONLY)\n"
                "try:\n"
                "    while True:\n"
                "        os.write(fd, bytes(4096))\n"
                "except OSError:\n"
                "    pass\n"
            )
        shell = (
            f"mount -t tmpfs -o size=256k none '{disk}' && "
            f"'{COMMAND}' record -o '{disk}/t' /bin/sh -c "
            f"'LD_PRELOAD= exec {sys.executable} {script} {disk}/t.raw {disk}/fill'"
        )
        env = {key: value for key, value in os.environ.items() if key != "BUILD_WORKING_DIRECTORY"}
        if subprocess.run(
            ["unshare", "-rm", "sh", "-c", f"mount -t tmpfs none '{disk}'"], capture_output=True
        ).returncode:
            self.skipTest("no mounts here")
        done = subprocess.run(
            ["unshare", "-rm", "sh", "-c", shell], env=env, capture_output=True, text=True
        )
        self.assertEqual(
            (done.returncode, done.stderr),
            (125, f"hakmem: record: {disk}/t: No space left on device\n"),
        )

    def test_usage_and_failures(self):
        for arguments in (
            (),
            ("-o",),
            ("--calls", "x", "true"),
            ("--calls", "0", "true"),
            ("--walk", "true"),
            ("--",),
        ):
            done = self.command("record", *arguments)
            self.assertEqual(done.returncode, 2, arguments)
            self.assertIn("usage: hakmem record", done.stderr)
        self.assertEqual(self.command("record", "no-such-program").returncode, 127)
        self.assertEqual(
            self.command("record", "true", HAK_RECORD_LIBRARY="/no/such").returncode, 125
        )
        self.assertEqual(
            self.command("record", "-o", "/no/such/folder/t", CALLS, "known").returncode, 125
        )
        self.assertEqual(self.command("trace-info", "/no/such").returncode, 2)
        self.assertEqual(
            self.command("record", "-o", self.trace, "sh", "-c", "exit 127").returncode, 127
        )
        self.assertTrue(os.path.exists(self.trace))


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]] + sys.argv[3:], verbosity=2)
