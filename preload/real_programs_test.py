"""Real programs under libhakmem.so: each does work of its own, with malloc proven to be bound to the library, and its output
is the same as under glibc's malloc.

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
FAMILY = ("malloc", "free", "calloc", "realloc")

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
child = subprocess.run(["sort", "-r"], input="b\\na\\nc\\n", stdout=subprocess.PIPE, text=True).stdout.split()
words = sorted({str(i * 7919 % 100003) for i in range(100000)})
print(len(text), results, child, len(words), words[1234])
"""

SQL = """
create table t(a integer primary key, b text, c blob);
with recursive n(x) as (select 1 union all select x + 1 from n where x < 30000)
    insert into t select x, printf('%d-%s', x * 7919 % 30011, substr('abcdefghijklmnopqrstuvwxyz', x % 26)), zeroblob(x % 300) from n;
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
my $t = 0; $t += $_ for @w; (my $r = $s) =~ s/(\\d)(\\d)/$2$1/g; print scalar(@w), " $t ", length($r), " ", substr($r, 0, 60), "\\n";
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
static int depth(struct node *n) { if (!n) return 0; int a = depth(n->l), b = depth(n->r); return 1 + (a > b ? a : b); }
int main(void) { struct node *t = 0; unsigned s = 1; for (int i = 0; i < 20000; i++) { s = s * 1103515245u + 12345; t = add(t, s >> 8); }
    printf("%d\\n", depth(t)); return 0; }
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
    for (int i = 0; i < 100; i++) { w.push_back(std::make_unique<wide>()); if (reinterpret_cast<size_t>(w.back().get()) % 128) return 1; }
    try { (void)!std::string(std::string().max_size() / 2, 'x').size(); return 2; } catch (const std::bad_alloc &) {}
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
    """Names of the malloc family that LD_DEBUG=bindings shows bound to another shared object, and those bound to the library.

    A name bound to a program that is no shared object itself means that program's own jump to what it is bound to."""
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


class RealPrograms(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.mkdtemp(dir=os.environ.get("TEST_TMPDIR"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)

    def run_in(self, where, command, preload, text=None, **env):
        os.makedirs(os.path.join(self.folder, where), exist_ok=True)
        done = subprocess.run(
            command, input=text, cwd=os.path.join(self.folder, where), env=environment(preload, **env),
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace", timeout=120)
        self.assertEqual(done.returncode, 0, "%s: %s" % (command, done.stderr[-2000:]))
        return done

    def assert_bound(self, command, text=None, operators=False):
        log = os.path.join(self.folder, "bindings")
        self.run_in("bound", command, True, text, LD_DEBUG="bindings", LD_DEBUG_OUTPUT=log, LD_BIND_NOW="1")
        logs = [os.path.join(self.folder, n) for n in os.listdir(self.folder) if n.startswith("bindings.")]
        self.assertTrue(logs)
        text = "".join(read(n) for n in logs)
        wrong, right = bound_elsewhere(text)
        self.assertEqual(wrong, set())
        self.assertIn("malloc", right)
        self.assertIn("free", right)
        if operators:
            self.assertIn("_Znwm", right)

    def same_output(self, command, text=None, operators=False):
        self.assertIsNotNone(shutil.which(command[0], path=PATH + ":" + self.folder), "%s is not installed" % command[0])
        expected = self.run_in("glibc", command, False, text).stdout
        self.assertTrue(expected.strip())
        self.assertEqual(self.run_in("hakmem", command, True, text).stdout, expected)
        self.assert_bound(command, text, operators)

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
            for i in 1 2 3 4 5 6 7 8; do seq $i $((i * 1000)) >f$i; git add .; git commit -q -m "commit $i"; done
            git gc -q; git checkout -q -b other HEAD~3; seq 5 >f1; git commit -qam other; git merge -q -m merge main 2>&1 || true
            git log --stat --format=%H%s; git fsck --full 2>&1; git diff --stat HEAD~2; git blame f2 | tail -3"""
        self.same_output(["sh", "-c", script])

    def test_hakmem_run(self):
        done = subprocess.run([COMMAND, "run", "python3", "-c", "print(sum(range(10)))"], env=environment(False, HAKMEM_SHOW_STATS="1"),
                              stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.assertEqual((done.returncode, done.stdout), (0, "45\n"))
        self.assertRegex(done.stderr, r"hakmem: refills = [1-9]")


class Redis(unittest.TestCase):
    """redis-server and redis-benchmark, both under the library, on loopback."""

    def setUp(self):
        self.folder = tempfile.mkdtemp(dir=os.environ.get("TEST_TMPDIR"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = str(s.getsockname()[1])
        self.log = open(os.path.join(self.folder, "log"), "w+")
        self.addCleanup(self.log.close)
        self.server = subprocess.Popen(
            ["redis-server", "--port", self.port, "--bind", "127.0.0.1", "--dir", self.folder, "--save", "", "--appendonly", "no",
             "--enable-debug-command", "local"],
            stdout=self.log, stderr=self.log, env=environment(True, HAKMEM_SHOW_STATS="1"))
        self.addCleanup(self.server.kill)
        for _ in range(100):
            if self.cli("ping", check=False).strip() == "PONG":
                return
            time.sleep(0.1)
        self.fail("redis-server does not answer: " + read(self.log.name))

    def cli(self, *command, check=True):
        done = subprocess.run(["redis-cli", "-p", self.port, *command], env=environment(True),
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        if check:
            self.assertEqual(done.returncode, 0, done.stdout)
        return done.stdout

    def test_benchmark_and_snapshot(self):
        maps = read("/proc/%d/maps" % self.server.pid)
        self.assertIn(os.path.realpath(LIBRARY), maps)
        done = subprocess.run(
            ["redis-benchmark", "-p", self.port, "-n", "5000", "-c", "20", "-q", "-d", "200", "-r", "10000",
             "-t", "set,get,incr,lpush,rpop,sadd,hset,zadd,lrange_100,mset"],
            env=environment(True), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=120)
        self.assertEqual(done.returncode, 0, done.stdout)
        self.assertGreaterEqual(done.stdout.count("requests per second"), 10)
        self.cli("set", "key", "v" * 100000)
        before = self.cli("dbsize")
        self.assertIn("started", self.cli("bgsave"))
        for _ in range(100):
            if "rdb_bgsave_in_progress:0" in self.cli("info", "persistence"):
                break
            time.sleep(0.1)
        self.assertIn("rdb_last_bgsave_status:ok", self.cli("info", "persistence"))
        self.assertEqual(self.cli("debug", "reload").strip(), "OK")
        self.assertEqual(self.cli("dbsize"), before)
        self.assertEqual(self.cli("get", "key").strip(), "v" * 100000)
        self.cli("flushall")
        self.cli("shutdown", "nosave", check=False)
        self.assertEqual(self.server.wait(timeout=20), 0)
        self.assertRegex(read(self.log.name), r"hakmem: refills = [1-9]")


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0]] + sys.argv[3:], verbosity=2)
