"""hakmem status, stats and top: what they say of a process that holds what is known, of one that is
stopped, of a core file; and what they refuse.

ask_test.py HAKMEM_COMMAND HOLDER STATIC_HOLDER OTHER_VERSION SCHEMA VARIANT=LIBRARY...
"""

import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time
import unittest

COMMAND, HOLDER, STATIC, OTHER, SCHEMA = (os.path.abspath(a) for a in sys.argv[1:6])
LIBRARIES = dict(argument.split("=", 1) for argument in sys.argv[6:])

# What holder.c holds, in each of two threads: (bytes, how many).
HELD = [(96, 4000), (3000, 300), (100000, 20), (3000000, 2)]
BYTES = 2 * sum(size * n for size, n in HELD)


def run(*arguments, **options):
    return subprocess.run(
        [COMMAND, *arguments], capture_output=True, text=True, check=False, timeout=60, **options
    )


class Process:
    """A program that says `ready` and waits."""

    def __init__(self, *arguments, preload=None):
        env = {k: v for k, v in os.environ.items() if not k.startswith("HAKMEM_")}
        # Nothing changes by itself.
        env["HAKMEM_BACKGROUND"] = "0"
        if preload:
            env["LD_PRELOAD"] = os.path.abspath(preload)
        self.child = subprocess.Popen(
            arguments, env=env, stdout=subprocess.PIPE, stdin=subprocess.DEVNULL
        )
        self.pid = str(self.child.pid)
        lines = []
        while not lines or lines[-1] != "ready\n":
            lines.append(self.child.stdout.readline().decode())
            assert lines[-1], "it ended"
        self.said = "".join(lines[:-1])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.child.kill()
        self.child.wait()
        self.child.stdout.close()


def check(schema, value, where="$"):
    """The part of JSON schema that ours uses; anything else in it is an error."""
    types = {
        "object": dict, "array": list, "string": str, "integer": int, "number": (int, float),
        "null": type(None),
    }  # fmt: skip
    known = {"$schema", "$id", "title", "description", "type", "properties", "required", "items",
             "additionalProperties", "enum", "const", "minimum", "maximum"}  # fmt: skip
    assert set(schema) <= known, (where, set(schema) - known)
    wanted = schema.get("type")
    if wanted:
        wanted = wanted if isinstance(wanted, list) else [wanted]
        assert any(isinstance(value, types[name]) for name in wanted), (where, value)
        assert not isinstance(value, bool)
    assert value in schema.get("enum", [value]), (where, value)
    assert value == schema.get("const", value), (where, value)
    if isinstance(value, (int, float)):
        assert schema.get("minimum", value) <= value <= schema.get("maximum", value), (where, value)
    if isinstance(value, dict):
        assert set(schema.get("required", [])) <= set(value), (where, set(schema["required"]))
        rest = schema.get("additionalProperties", {})
        for name, part in value.items():
            inner = schema.get("properties", {}).get(name, rest)
            assert inner is not False, (where, name)
            check(inner, part, "%s.%s" % (where, name))
    if isinstance(value, list):
        for i, part in enumerate(value):
            check(schema.get("items", {}), part, "%s[%d]" % (where, i))


def write_core(pid, path, leave_out=lambda line: False):
    """A core file of a stopped process, as the kernel lays it out: its writable memory."""
    with open("/proc/%s/maps" % pid, encoding="utf-8") as stream:
        lines = stream.read().splitlines()
    parts = []
    with open("/proc/%s/mem" % pid, "rb", 0) as memory:
        for line in lines:
            span, access = line.split()[:2]
            start, end = (int(n, 16) for n in span.split("-"))
            if access.startswith("rw") and not leave_out(line):
                memory.seek(start)
                parts.append((start, memory.read(end - start)))
    info = bytearray(136)
    struct.pack_into("<i", info, 24, int(pid))
    info[40:46] = b"holder"
    note = struct.pack("<III", 5, len(info), 3) + b"CORE\0\0\0\0" + bytes(info)
    n = len(parts) + 1
    offset = 64 + 56 * n
    head = b"\x7fELF\x02\x01\x01" + bytes(9)
    head += struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, n, 0, 0, 0)
    segments = struct.pack("<IIQQQQQQ", 4, 0, offset, 0, 0, len(note), 0, 4)
    at = offset + len(note)
    for start, content in parts:
        size = len(content)
        segments += struct.pack("<IIQQQQQQ", 1, 6, at, start, 0, size, size, 4096)
        at += size
    with open(path, "wb") as stream:
        stream.write(head + segments + note)
        for _, content in parts:
            stream.write(content)


def without_time(said):
    """The document without what is not the allocator's."""
    document = json.loads(said)
    for name in ("resident_bytes", "pid", "program"):
        del document[name]
    return document


class Asked:
    """With the library of one variant."""

    def process(self, *arguments):
        return Process(HOLDER, *arguments, preload=LIBRARIES[self.variant])

    def setUp(self):
        self.folder = tempfile.mkdtemp(dir=os.environ.get("TEST_TMPDIR"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def schema(self):
        with open(SCHEMA, encoding="utf-8") as stream:
            return json.load(stream)

    def refused(self, status, line, *arguments):
        done = run(*arguments)
        self.assertEqual((done.returncode, done.stdout), (status, ""), done.stderr)
        self.assertRegex(done.stderr, r"^hakmem: %s: %s\n$" % (arguments[0], line))

    def holds_what_is_known(self, document, slack=1.35):
        stats = document["stats"]
        self.assertGreaterEqual(stats["live_bytes"], BYTES)
        self.assertLess(stats["live_bytes"], BYTES * slack)
        self.assertGreaterEqual(stats["held_bytes"], stats["live_bytes"])
        self.assertGreaterEqual(stats["committed_peak_bytes"], stats["committed_bytes"])
        for size, n in HELD[:2]:
            small = [c for c in document["classes"] if c["bytes"] >= size]
            self.assertGreaterEqual(sum(c["live"] for c in small[:2]), 2 * n)
        for size, n in HELD[2:]:
            live = sum(
                c["live_bytes"] for c in document["large_classes"] if c["bytes"] >= size * 0.75
            )
            self.assertGreaterEqual(live, 2 * n * size)
        live = [h for h in document["heaps"] if (h["kind"], h["state"]) == ("thread", "live")]
        self.assertEqual(len(live), 2)
        for heap in live:
            self.assertGreaterEqual(heap["live_bytes"], HELD[0][0] * HELD[0][1])
        # survey.h: each byte of a slab is live, cached or free.
        slabs = sum(c["slabs"] for c in document["classes"])
        self.assertEqual(slabs, sum(h["slabs"] for h in document["heaps"]))
        self.assertEqual(
            sum(h["live_bytes"] + h["cached_bytes"] + h["free_bytes"] for h in document["heaps"]),
            65536 * slabs,
        )

    def test_json(self):
        schema = self.schema()
        with self.process() as there:
            done = run("stats", "--json", there.pid)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            document = json.loads(done.stdout)
            check(schema, document)
            self.assertEqual(set(schema["properties"]["stats"]["required"]),
                             set(document["stats"]))
            self.assertEqual(document["pid"], int(there.pid))
            self.assertEqual(document["program"], "holder")
            self.assertEqual(document["variant"], self.variant)
            self.assertGreater(document["resident_bytes"], 1000000)
            # The secure variant's blocks above 32 KiB have guards about them.
            self.holds_what_is_known(document, 1.35 if self.variant != "secure" else 2.5)
            for name in ("limit_hard",):
                self.assertIsNone(document[name])

    def test_the_process_says_the_same_of_itself(self):
        with self.process("own") as there:
            outside = run("stats", "--json", there.pid)
            self.assertEqual(without_time(there.said), without_time(outside.stdout))
            check(self.schema(), json.loads(there.said))

    def test_status_and_stats(self):
        with self.process() as there:
            done = run("status", there.pid)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertRegex(
                done.stdout,
                r"^process %s \(holder\): hakmem \d+\.\d+\.\d+ %s\n" % (there.pid, self.variant))
            for word in ("live", "cached", "free in slabs", "kept", "held", "resident",
                         "fragmentation", "limit", "heaps", "failed", "ACE"):
                self.assertRegex(done.stdout, r"(?m)^  %s +[\d.n]" % word)
            self.assertRegex(done.stdout, r"(?m)^  heaps +2  of threads")
            done = run("stats", there.pid)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            document = json.loads(run("stats", "--json", there.pid).stdout)
            rows = re.findall(r"(?m)^([a-z_]+) = (-?\d+) \w+$", done.stdout)
            self.assertEqual(document["stats"], {name: int(value) for name, value in rows})
            self.assertIn("\n  heap kind ", done.stdout)

    def test_prometheus(self):
        """Each sample behind its HELP and TYPE, counters by _total, no series twice."""
        with self.process() as there:
            done = run("stats", "--prometheus", there.pid)
            document = json.loads(run("stats", "--json", there.pid).stdout)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        kinds, seen, last = {}, {}, None
        for line in done.stdout.splitlines():
            head = re.fullmatch(r"# (HELP|TYPE) (hakmem_[a-z_]+) (.+)", line)
            if head:
                if head.group(1) == "TYPE":
                    self.assertNotIn(head.group(2), kinds)
                    kinds[head.group(2)] = head.group(3)
                    last = head.group(2)
                continue
            found = re.fullmatch(r'(hakmem_[a-z_]+)(\{(?:[a-z]+="[^"]*",?)+\}) ([-+.e\d]+)', line)
            self.assertTrue(found, line)
            self.assertEqual(found.group(1), last)
            self.assertNotIn(found.group(1, 2), seen)
            seen[found.group(1, 2)] = float(found.group(3))
            self.assertIn('pid="%s",program="holder"' % there.pid, line)
            self.assertEqual(kinds[last] == "counter", last.endswith("_total"), line)
        labels = '{pid="%s",program="holder"}' % there.pid
        for name, value in document["stats"].items():
            full = "hakmem_" + name
            full += "_total" if full + "_total" in kinds else ""
            self.assertEqual(seen[full, labels], value)

    def test_top(self):
        with self.process() as there:
            done = run("top", "-n", "3", "-d", "0.05", there.pid)
            self.assertEqual((done.returncode, done.stderr), (0, ""))
            self.assertEqual(done.stdout.count("process %s (holder)" % there.pid), 3)
            self.assertEqual(done.stdout.count("a second"), 2 * 6)
            done = run("top", "--count", "1")
            self.assertRegex(done.stdout, r"(?m)^ *%s .* holder$" % there.pid)
            # It ends with the process.
            watching = subprocess.Popen(
                [COMMAND, "top", "-d", "0.05", there.pid], stdout=subprocess.PIPE, text=True
            )
            while "(holder)" not in watching.stdout.readline():
                pass
            there.child.kill()
            there.child.wait()
            rest = watching.communicate(timeout=60)[0]
            self.assertEqual(watching.returncode, 0)
            self.assertTrue(rest.endswith("process %s has ended\n" % there.pid), rest[-200:])

    def test_stopped(self):
        with self.process() as there:
            before = run("stats", "--json", there.pid).stdout
            os.kill(int(there.pid), signal.SIGSTOP)
            stopped = run("stats", "--json", there.pid)
            self.assertEqual(without_time(stopped.stdout), without_time(before))

    def test_nothing_happens_to_the_process(self):
        """No thread, no descriptor, no signal: it is still in the same call of pause."""
        def state(pid):
            with open("/proc/%s/status" % pid, encoding="utf-8") as stream:
                text = stream.read()
            kept = re.findall(r"(?m)^(Threads|SigPnd|ShdPnd|SigCgt|TracerPid|"
                              r"voluntary_ctxt_switches|VmSize):\s*(.*)$", text)
            return kept, sorted(os.listdir("/proc/%s/fd" % pid))

        def rests(pid):
            with open("/proc/%s/stat" % pid, encoding="utf-8") as stream:
                return stream.read().rpartition(")")[2].split()[0] == "S"

        with self.process() as there:
            while not rests(there.pid):  # it has still to come to its pause
                time.sleep(0.01)
            before = state(there.pid)
            self.assertEqual(run("stats", "--json", there.pid).returncode, 0)
            self.assertEqual(run("top", "-n", "2", "-d", "0.01", there.pid).returncode, 0)
            self.assertEqual(state(there.pid), before)

    def test_static_and_stripped(self):
        with Process(STATIC) as there:
            document = json.loads(run("stats", "--json", there.pid).stdout)
            self.holds_what_is_known(document)
            self.assertEqual(document["variant"], "release")

    def test_core(self):
        core = os.path.join(self.folder, "core")
        with self.process() as there:
            os.kill(int(there.pid), signal.SIGSTOP)
            live = run("stats", "--json", there.pid).stdout
            write_core(there.pid, core)
            write_core(there.pid, core + ".less",
                       leave_out=lambda line: len(line.split()) < 6 or "[" in line)
        done = run("stats", "--json", "--core", core)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        self.assertEqual(without_time(done.stdout), without_time(live))
        document = json.loads(done.stdout)
        self.assertEqual((document["pid"], document["program"]), (int(there.pid), "holder"))
        self.assertIsNone(document["resident_bytes"])
        self.assertTrue(run("status", "--core", core).stdout.startswith(core + " (holder): hakmem"))
        self.refused(7, r".*\.less \(holder\): its memory cannot be read: Bad address",
                     "stats", "--core", core + ".less")
        with open(core, "rb") as stream:
            whole = stream.read()
        # Cut off anywhere, and damaged: refused, or what is there is shown.
        for i in range(0, 4000, 61):
            with open(core, "wb") as stream:
                stream.write(whole[:i] if i % 2 else whole[:i] + b"\xff" * 8 + whole[i + 8 : 9000])
            done = run("stats", "--core", core)
            self.assertIn(done.returncode, (5, 7), i)
            self.assertEqual(done.stdout, "")
        for name, content in (("empty", b""), ("text", b"x" * 1000)):
            path = os.path.join(self.folder, name)
            with open(path, "wb") as stream:
                stream.write(content)
            self.refused(7, r".* is no core file.*", "status", "--core", path)
        self.refused(7, r".* is no core file.*", "status", "--core", COMMAND)
        self.refused(7, r".* is no core file.*", "status", "--core", self.folder)
        self.refused(3, r"/no/such/file: No such file or directory", "status", "--core",
                     "/no/such/file")

    def test_refusals(self):
        with self.process() as there:
            pid = there.pid
        self.refused(3, "there is no process %s" % pid, "status", pid)
        self.refused(3, "there is no process 9999999999", "stats", "9999999999")
        with Process(HOLDER) as there:
            self.refused(5, r"hakmem is not in process %s \(holder\)" % there.pid,
                         "status", there.pid)
            self.refused(5, r"hakmem is not in process .*", "top", there.pid)
        with Process(OTHER) as there:
            for name in ("status", "stats", "top"):
                self.refused(
                    6, r"process %s \(other_version\) has hakmem 98\.7\.6 with layout 4711; this "
                    r"command, of hakmem [\d.]+, reads layout \d+" % there.pid, name, there.pid)

    @unittest.skipIf(os.geteuid() != 0, "only root can become another user")
    def test_another_user(self):
        command = os.path.join(self.folder, "hakmem")
        shutil.copy(COMMAND, command)
        os.chmod(self.folder, 0o755)
        with self.process() as there:
            try:
                done = subprocess.run(
                    [command, "status", there.pid], capture_output=True, text=True, check=False,
                    user=65534,
                )
            except OSError as error:
                self.skipTest("there is no other user here: %s" % error)
        self.assertEqual((done.returncode, done.stdout), (4, ""))
        self.assertRegex(
            done.stderr, r"^hakmem: status: process %s \(holder\) may not be read: it belongs to "
            r"user 0, .*\n$" % there.pid)

    def test_usage(self):
        for arguments in (
            ("status",),
            ("status", "x"),
            ("status", "0"),
            ("status", "-1"),
            ("status", "1", "2"),
            ("status", "--core"),
            ("status", "--core", "f", "1"),
            ("status", "--json", "1"),
            ("stats", "--json", "--prometheus", "1"),
            ("stats", "--json"),
            ("top", "-n", "0"),
            ("top", "-d", "0"),
            ("top", "-d", "x", "1"),
            ("top", "-d", "nan", "1"),
            ("top", "1", "2"),
        ):
            done = run(*arguments)
            self.assertEqual((done.returncode, done.stdout), (2, ""), arguments)
            self.assertRegex(
                done.stderr, r"^hakmem: %s: .*\nusage: hakmem %s" % (arguments[0], arguments[0]))


for name in LIBRARIES:
    globals()[name] = type(name, (Asked, unittest.TestCase), {"variant": name})

if __name__ == "__main__":
    unittest.main(argv=sys.argv[:1], verbosity=2)
