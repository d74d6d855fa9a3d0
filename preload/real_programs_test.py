"""Real programs under libhakmem.so: each does work of its own, with malloc proven to be bound to
the library, and its output is the same as under glibc's malloc.

real_programs_test.py LIBRARY HAKMEM_COMMAND
"""
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import unittest

LIBRARY, COMMAND = (os.path.abspath(a) for a in sys.argv[1:3])
PATH = "/usr/bin:/bin:/usr/sbin:/sbin"
FAMILY = """malloc free calloc realloc reallocarray cfree aligned_alloc memalign posix_memalign
    valloc pvalloc malloc_usable_size malloc_trim mallinfo mallinfo2 malloc_stats malloc_info
    mallopt""".split()

PYTHON = """
import json, threading, subprocess, zlib, hashlib
data = {"k%d" % i: [i, str(i) * (i % 50), {"x": i / 3}] for i in range(20000)}
text = json.dumps(data)
assert json.loads(text) == data
results = [None] * 8
def work(n):
    rows = [bytes([n, i % 256]) * (i % 3000) for i in range(3000)]
    results[n] = hashlib.sha256(zlib.compress(b"".join(rows))).hexdigest()
threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
[t.start() for t in threads]; [t.join() for t in threads]
child = subprocess.run(["sort", "-r"], input="b\\na\\nc\\n", stdout=subprocess.PIPE, text=True)
child = child.stdout.split()
words = sorted({str(i * 7919 % 100003) for i in range(100000)})
print(len(text), results, child, len(words), words[1234])
"""

SQL = """
create table t(a integer primary key, b text, c blob);
with recursive n(x) as (select 1 union all select x + 1 from n where x < 30000)
    insert into t select x,
        printf('%d-%s', x * 7919 % 30011, substr('abcdefghijklmnopqrstuvwxyz', x % 26)),
        zeroblob(x % 300) from n;
create index i on t(b);
select count(*), sum(length(c)), min(b), max(b) from t;
select group_concat(b, '|') from (select b from t where a % 997 = 0 order by b desc);
delete from t where a % 3 = 0;
vacuum;
select count(*) from t join t as u on t.b = u.b;
"""

PERL = """
my %h; for my $i (1 .. 60000) { $h{$i * 7919 % 65521} .= "x" x ($i % 40); }
my $s = join ",", map { length $h{$_} } sort { $a <=> $b } keys %h; my @w = ($s =~ /(\\d+)/g);
my $t = 0; $t += $_ for @w; (my $r = $s) =~ s/(\\d)(\\d)/$2$1/g;
print scalar(@w), " $t ", length($r), " ", substr($r, 0, 60), "\\n";
"""

C_SOURCE = """
#include <stdio.h>
#include <stdlib.h>
struct node { struct node *l, *r; int v; };
static struct node *add(struct node *n, int v) {
    if (!n) { n = calloc(1, sizeof *n); n->v = v; return n; }
    if (v < n->v) n->l = add(n->l, v); else n->r = add(n->r, v);
    return n;
}
static int depth(struct node *n) {
    if (!n) return 0;
    int a = depth(n->l), b = depth(n->r);
    return 1 + (a > b ? a : b);
}
int main(void) {
    struct node *t = 0; unsigned s = 1;
    for (int i = 0; i < 20000; i++) { s = s * 1103515245u + 12345; t = add(t, s >> 8); }
    printf("%d\\n", depth(t)); return 0;
}
"""

CXX_SOURCE = """
#include <algorithm>
#include <iostream>
#include <map>
#include <memory>
#include <new>
#include <string>
#include <vector>
struct alignas(128) wide { char c[128]; };
int main() {
    std::map<std::string, std::vector<int>> m;
    for (int i = 0; i < 20000; i++) m[std::to_string(i * 7919 % 1009)].push_back(i);
    std::vector<std::unique_ptr<wide>> w;
    for (int i = 0; i < 100; i++) {
        w.push_back(std::make_unique<wide>());
        if (reinterpret_cast<size_t>(w.back().get()) % 128) return 1;
    }
    try {
        (void)!std::string(std::string().max_size() / 2, 'x').size();
        return 2;
    } catch (const std::bad_alloc &) {
    }
    if (::operator new(static_cast<size_t>(-1) / 4, std::nothrow)) return 3;
    size_t n = 0; for (auto &p : m) n += p.first.size() * p.second.size();
    std::cout << m.size() << ' ' << n << std::endl;
}
"""


def environment(preload, **more):
    env = {"PATH": PATH, "HOME": os.environ.get("TEST_TMPDIR", "/tmp"), "LC_ALL": "C"}
    if preload:
        env["LD_PRELOAD"] = LIBRARY
    env.update(more)
    return env


def bound_elsewhere(log):
    """Names of the malloc family that LD_DEBUG=bindings shows bound to another shared object, and
    those bound to the library.

    A name bound to a program that is no shared object itself means that program's own jump to what
    it is bound to."""
    wrong, right = set(), set()
    for line in log.splitlines():
        found = re.search(r"binding file (\S+) \[0\] to (\S+) \[0\]: normal symbol `(\w+)'", line)
        if found and (found.group(3) in FAMILY or re.match(r"_Z(nw|na|dl|da)", found.group(3))):
            if os.path.realpath(found.group(2)) == os.path.realpath(LIBRARY):
                right.add(found.group(3))
            elif ".so" in os.path.basename(found.group(2)):
                wrong.add(found.group(3))
    return wrong, right


def read(path):
    with open(path, errors="replace") as f:
        return f.read()


class Compared(unittest.TestCase):
    """Helpers: a command under glibc and under the library, and to what it is bound."""

    def setUp(self):
        self.folder = tempfile.mkdtemp(dir=os.environ.get("TEST_TMPDIR"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def run_in(self, where, command, preload, text=None, **env):
        os.makedirs(os.path.join(self.folder, where), exist_ok=True)
        done = subprocess.run(
            command,
            input=text,
            cwd=os.path.join(self.folder, where),
            env=environment(preload, **env),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            timeout=120,
        )
        self.assertEqual(done.returncode, 0, "%s: %s" % (command, done.stderr[-2000:]))
        return done

    def assert_bound(self, command, text=None, operators=False):
        log = os.path.join(self.folder, "bindings")
        self.run_in(
            "bound", command, True, text, LD_DEBUG="bindings", LD_DEBUG_OUTPUT=log, LD_BIND_NOW="1"
        )
        logs = [
            os.path.join(self.folder, n)
            for n in os.listdir(self.folder)
            if n.startswith("bindings.")
        ]
        self.assertTrue(logs)
        text = "".join(read(n) for n in logs)
        wrong, right = bound_elsewhere(text)
        self.assertEqual(wrong, set())
        self.assertIn("malloc", right)
        self.assertIn("free", right)
        if operators:
            self.assertIn("_Znwm", right)

    def same_output(self, command, text=None, operators=False):
        self.assertIsNotNone(
            shutil.which(command[0], path=PATH + ":" + self.folder),
            "%s is not installed" % command[0],
        )
        expected = self.run_in("glibc", command, False, text).stdout
        self.assertTrue(expected.strip())
        self.assertEqual(self.run_in("hakmem", command, True, text).stdout, expected)
        self.assert_bound(command, text, operators)


class RealPrograms(Compared):
    def test_python(self):
        self.same_output(["python3", "-c", PYTHON])

    def test_sqlite(self):
        self.same_output(["sqlite3", "file.db"], SQL)
        self.same_output(["sqlite3", ":memory:"], SQL)

    def test_perl(self):
        self.same_output(["perl", "-e", PERL])

    def test_gcc(self):
        for name, source, compiler in (("a.c", C_SOURCE, "gcc"), ("a.cc", CXX_SOURCE, "g++")):
            path = os.path.join(self.folder, name)
            with open(path, "w") as f:
                f.write(source)
            self.same_output([compiler, "-O2", "-S", "-o", "-", path])
            self.run_in("build", [compiler, "-O1", "-o", "program", path], True)
            program = os.path.join(self.folder, "build", "program")
            self.same_output([program], operators=compiler == "g++")

    def test_git(self):
        script = """set -e
            export GIT_AUTHOR_NAME=n GIT_AUTHOR_EMAIL=e GIT_COMMITTER_NAME=n GIT_COMMITTER_EMAIL=e
            export GIT_AUTHOR_DATE='2020-01-01T00:00:00Z' GIT_COMMITTER_DATE='2020-01-01T00:00:00Z'
            rm -rf r; git init -q -b main r; cd r
            for i in 1 2 3 4 5 6 7 8; do
                seq $i $((i * 1000)) >f$i; git add .; git commit -q -m "commit $i"
            done
            git gc -q; git checkout -q -b other HEAD~3; seq 5 >f1
            git commit -qam other; git merge -q -m merge main 2>&1 || true
            git log --stat --format=%H%s; git fsck --full 2>&1; git diff --stat HEAD~2
            git blame f2 | tail -3"""
        self.same_output(["sh", "-c", script])

    def test_hakmem_run(self):
        done = subprocess.run(
            [COMMAND, "run", "python3", "-c", "print(sum(range(10)))"],
            env=environment(False, HAKMEM_SHOW_STATS="1"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.assertEqual((done.returncode, done.stdout), (0, "45\n"))
        self.assertRegex(done.stderr, r"hakmem: refills = [1-9]")


# What it answers depends on the commands alone.
LUA = """
for i = 1, 20000 do
    redis.call('set', 'k' .. i, string.rep('x', i % 700))
    redis.call('hset', 'h' .. i % 100, 'f' .. i, i * 7919 % 10007)
    redis.call('zadd', 'z', i * 7919 % 10007, 'm' .. i)
    redis.call('lpush', 'l', string.rep('y', i % 90))
end
for i = 1, 20000, 3 do redis.call('append', 'k' .. i, 'tail'); redis.call('del', 'k' .. i + 1) end
local all = redis.call('zrange', 'z', 0, -1, 'withscores')
return {redis.call('dbsize'), redis.call('strlen', 'k13'), redis.sha1hex(table.concat(all)),
    redis.call('llen', 'l'), redis.sha1hex(table.concat(redis.call('lrange', 'l', 0, -1)))}
"""


class Server:
    """A redis-server on loopback, and its client, with or without the library."""

    def __init__(self, test, preload):
        self.test, self.preload = test, preload
        self.folder = tempfile.mkdtemp(dir=os.environ.get("TEST_TMPDIR"))
        test.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = str(s.getsockname()[1])
        self.log = open(os.path.join(self.folder, "log"), "w+")
        test.addCleanup(self.log.close)
        self.process = subprocess.Popen(
            [
                "redis-server", "--port", self.port, "--bind", "127.0.0.1", "--dir", self.folder,
                "--save", "", "--appendonly", "no", "--enable-debug-command", "local",
            ],
            stdout=self.log,
            stderr=self.log,
            env=environment(preload, HAKMEM_SHOW_STATS="1"),
        )
        test.addCleanup(self.process.wait)
        test.addCleanup(self.process.kill)
        for _ in range(600):
            if self.cli("ping", check=False).strip() == "PONG":
                return
            time.sleep(0.1)
        test.fail("redis-server does not answer: " + read(self.log.name))

    def cli(self, *command, check=True):
        done = subprocess.run(
            ["redis-cli", "-p", self.port, *command],
            env=environment(self.preload),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        if check:
            self.test.assertEqual(done.returncode, 0, done.stdout)
        return done.stdout

    def save_in_background(self):
        self.test.assertIn("started", self.cli("bgsave"))
        for _ in range(600):
            if "rdb_bgsave_in_progress:0" in self.cli("info", "persistence"):
                break
            time.sleep(0.1)
        self.test.assertIn("rdb_last_bgsave_status:ok", self.cli("info", "persistence"))

    def stop(self):
        """Its output; it has to end by itself, without an error."""
        self.cli("shutdown", "nosave", check=False)
        self.test.assertEqual(self.process.wait(timeout=60), 0)
        return read(self.log.name)


class Redis(Compared):
    """redis-server and redis-benchmark, both under the library."""

    def test_bound(self):
        self.assert_bound(["redis-server", "--version"])
        self.assert_bound(["redis-benchmark", "--version"])

    def test_benchmark(self):
        server = Server(self, True)
        self.assertIn(os.path.realpath(LIBRARY), read("/proc/%d/maps" % server.process.pid))
        done = subprocess.run(
            [
                "redis-benchmark", "-p", server.port, "-n", "5000", "-c", "20", "-q", "-d", "200",
                "-r", "10000", "-t", "set,get,incr,lpush,rpop,sadd,hset,zadd,lrange_100,mset",
            ],
            env=environment(True),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=120,
        )
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertGreaterEqual(done.stdout.count("requests per second"), 10)
        self.assertNotIn("error", done.stdout.lower())
        self.assertRegex(server.stop(), r"hakmem: refills = [1-9]")

    def session(self, preload):
        server = Server(self, preload)
        answers = [server.cli("eval", LUA, "0")]
        server.save_in_background()
        answers.append(server.cli("debug", "digest"))
        self.assertEqual(server.cli("debug", "reload").strip(), "OK")
        answers += [server.cli("debug", "digest"), server.cli("dbsize"), server.cli("get", "k699")]
        server.cli("flushall")
        server.stop()
        return answers

    def test_same_answers(self):
        expected = self.session(False)
        self.assertEqual(expected[1], expected[2])
        self.assertEqual(self.session(True), expected)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]] + sys.argv[3:], verbosity=2)
