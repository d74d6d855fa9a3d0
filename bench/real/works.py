"""The programs and the work of each. A work gets a Box and its scale, and returns an output that
must be the same under every allocator. Nothing in it may depend on time, addresses or process
ids."""

import hashlib
import os
import pwd
import re
import socket
import subprocess

from box import Failure, interrupt, programs, quit_gently


class Work:
    """The programs that `needs` names must be installed; `scale` is the work of a usual run, about
    a second."""

    def __init__(self, function, needs, package, scale, text):
        self.function, self.needs, self.package, self.scale, self.text = (
            function, needs, package, scale, text,
        )

    def missing(self):
        """Why it cannot be done here; None if it can."""
        absent = [name for name in self.needs if not programs(name)]
        return f"{' and '.join(absent)} not installed (Debian's {self.package})" if absent else None


WORKS = {}


def work(name, needs, package, scale, text):
    def take(function):
        WORKS[name] = Work(function, needs.split(), package, scale, text)
        return function

    return take


def file_digest(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


@work(
    "python", "python3", "python3", 4,
    "JSON, dictionaries, objects, threads; small objects by Python's own allocator",
)
def python(box, scale):
    return box.run(["python3", "-B", box.script("work.py"), str(scale)])


@work("python_malloc", "python3", "python3", 4, "the same with every object from malloc")
def python_malloc(box, scale):
    return box.run(["python3", "-B", box.script("work.py"), str(scale)], PYTHONMALLOC="malloc")


@work("sqlite", "sqlite3", "sqlite3", 10, "tables in memory, an index, joins, deletion, vacuum")
def sqlite(box, scale):
    return box.run(["sqlite3", ":memory:"], box.source("work.sql", scale))


def compiler(box, command, scale):
    box.write("work.cc", box.source("work.cc", scale))
    for _ in range(scale):
        box.run(command + ["-std=c++17", "-O1", "-S", "-o", "work.s", "work.cc"])
    return file_digest(box.path("work.s"))


@work("gcc", "g++", "g++", 1, "a C++ file with many templates")
def gcc(box, scale):
    return compiler(box, ["g++"], scale)


@work("clang", "clang++", "clang", 1, "the same file")
def clang(box, scale):
    return compiler(box, ["clang++"], scale)


@work("node", "node", "nodejs", 10, "JSON, buffers, compression, hashes")
def node(box, scale):
    return box.run(["node", box.script("work.js"), str(scale)])


@work("lua", "lua5.4", "lua5.4", 8, "tables, strings, closures")
def lua(box, scale):
    return box.run(["lua5.4", box.script("work.lua"), str(scale)])


@work("perl", "perl", "perl", 3, "hashes, sorting, matching, nested lists")
def perl(box, scale):
    return box.run(["perl", box.script("work.pl"), str(scale)])


@work("ruby", "ruby", "ruby", 4, "strings, arrays, hashes, JSON, big numbers")
def ruby(box, scale):
    return box.run(["ruby", box.script("work.rb"), str(scale)])


def without_times(pdf):
    """A PDF file without what follows from the time. /ID is a digest of it, which Ghostscript
    writes in hexadecimal or, if that is shorter, as a text with escapes: once in a hundred runs."""
    return re.sub(
        rb"D:\d+|uuid:[0-9a-f-]+|\d+-\d+-\d+T[0-9:]+|/ID \[.{1,200}\](?=\s*>>\s*startxref)",
        b"",
        pdf,
        flags=re.DOTALL,
    )


@work("ghostscript", "gs", "ghostscript", 12, "pages of text and paths, drawn and written as PDF")
def ghostscript(box, scale):
    page = box.write("work.ps", box.source("work.ps", scale))
    common = ["gs", "-q", "-dNOPAUSE", "-dBATCH", "-dSAFER"]
    box.run([*common, "-sDEVICE=ppmraw", "-r72", "-sOutputFile=page%d.ppm", page])
    box.run([*common, "-sDEVICE=pdfwrite", "-sOutputFile=work.pdf", page])
    pages = [name for name in sorted(os.listdir(box.folder)) if name.endswith(".ppm")]
    with open(box.path("work.pdf"), "rb") as file:
        pdf = without_times(file.read())
    return " ".join(
        [
            str(len(pages)), *(file_digest(box.path(p)) for p in pages),
            hashlib.sha256(pdf).hexdigest(),
        ]
    )


@work(
    "imagemagick", "convert", "imagemagick", 2,
    "noise blurred, scaled, rotated, several images at once",
)
def imagemagick(box, scale):
    for i in range(scale):
        box.run(
            ["convert", "-seed", str(i), "-size", "700x700", "plasma:red-blue", "-blur", "0x3",
             "-rotate", "17", "-resize", "60%", "(", "+clone", "-flip", ")", "(", "+clone",
             "-negate", "-sharpen", "0x2", ")", "+append", "-colors", "64", "-depth", "8",
             f"out{i}.ppm"]
        )  # fmt: skip
    return " ".join(file_digest(box.path(f"out{i}.ppm")) for i in range(scale))


@work("git", "git", "git", 1, "commits, gc, log, blame, merge")
def git(box, scale):
    box.write("script", GIT % (scale * 12))
    return box.run(["sh", "script"])


GIT = """set -e
export GIT_AUTHOR_NAME=n GIT_AUTHOR_EMAIL=e GIT_COMMITTER_NAME=n GIT_COMMITTER_EMAIL=e
export GIT_AUTHOR_DATE='2020-01-01T00:00:00Z' GIT_COMMITTER_DATE='2020-01-01T00:00:00Z'
git init -q -b main r; cd r
i=0
while [ $i -lt %d ]; do
    i=$((i + 1))
    for k in 1 2 3 4 5 6 7 8; do seq $((i * k)) $((i * 500 + k * 900)) >f$k; done
    git add .; git commit -q -m "commit $i"
done
git gc -q; git checkout -q -b other HEAD~3; seq 5 >f1
git commit -qam other; git merge -q -m merge main 2>&1 || true
git log --stat --format=%%H%%s; git log -p --format=%%H | sha256sum
git fsck --full 2>&1; git blame f2 | sha256sum
"""


@work(
    "redis", "redis-server redis-cli", "redis-server", 60000,
    "strings, hashes, sorted sets, lists; changed, deleted, saved",
)
def redis(box, scale):
    port = free_port()
    cli = ["redis-cli", "-p", port]
    server = box.server(
        ["redis-server", "--port", port, "--bind", "127.0.0.1", "--dir", box.folder, "--save", "",
         "--appendonly", "no", "--enable-debug-command", "local"],
        lambda: box.helper([*cli, "ping"], check=False).strip() == "PONG",
    )  # fmt: skip
    with open(box.script("work_redis.lua"), encoding="utf-8") as file:
        script = file.read()
    told = [box.helper([*cli, "eval", script, "0", str(scale)], timed=True)]
    told.append(box.helper([*cli, "debug", "digest"]))
    told.append(box.helper([*cli, "debug", "reload"], timed=True))
    told.append(box.helper([*cli, "debug", "digest"]))
    box.stop(server, lambda _: box.helper([*cli, "shutdown", "nosave"], check=False))
    if told[1] != told[3]:
        raise Failure("redis: what was saved is not what was there")
    return "".join(told)


@work(
    "redis_net", "redis-server redis-cli redis-benchmark", "redis-tools", 20000,
    "requests of many clients",
)
def redis_net(box, scale):
    port = free_port()
    cli = ["redis-cli", "-p", port]
    server = box.server(
        [
            "redis-server", "--port", port, "--bind", "127.0.0.1", "--dir", box.folder, "--save",
            "", "--appendonly", "no",
        ],
        lambda: box.helper([*cli, "ping"], check=False).strip() == "PONG",
    )
    told = box.helper(
        ["redis-benchmark", "-p", port, "-n", str(scale), "-c", "30", "-P", "8", "-q", "-d", "300",
         "-r", "20000", "-t", "set,get,incr,lpush,rpop,sadd,hset,zadd,lrange_100,mset"],
        timed=True,
    )  # fmt: skip
    box.stop(server, lambda _: box.helper([*cli, "shutdown", "nosave"], check=False))
    return (
        " ".join(re.findall(r"^([A-Z_0-9 ()]+)\b.*requests per second", told, re.MULTILINE))
        + " "
        + str("rror" in told)
    )


def as_server_user(folder):
    """PostgreSQL refuses to run as root: what to put before its commands, after giving the folder
    away."""
    if os.getuid() != 0:
        return []
    users = {entry.pw_name: entry for entry in pwd.getpwall()}
    user = users.get("postgres") or users["nobody"]
    os.chown(folder, user.pw_uid, user.pw_gid)
    return ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]


@work(
    "postgres", "postgres initdb pgbench psql", "postgresql", 500,
    "pgbench: look-ups, changes, and queries that sort and group",
)
def postgres(box, scale):
    user = as_server_user(box.folder)
    data, port = box.path("data"), free_port()
    box.helper(
        [
            *user, "initdb", "-D", data, "-U", "user", "-A", "trust", "--no-sync", "--no-locale",
            "-E", "UTF8",
        ]
    )
    link = ["-h", box.folder, "-p", port, "-U", "user"]
    server = box.server(
        [*user, "postgres", "-D", data, "-k", box.folder, "-p", port, "-c", "fsync=off", "-c",
         "listen_addresses=", "-c", "shared_buffers=16MB", "-c", "autovacuum=off", "-c", "jit=off"],
        lambda: box.helper(["psql", *link, "-Atc", "select 1", "postgres"], check=False)
        .strip() == "1",
    )  # fmt: skip
    box.helper(["pgbench", *link, "-i", "-q", "postgres"])
    box.helper(
        [
            "pgbench", *link, "-n", "-c", "4", "-t", str(scale), "--random-seed=7", "-f",
            box.script("work_pgbench.sql"), "postgres",
        ],
        timed=True,
    )
    told = box.helper(["psql", *link, "-At", "postgres"], POSTGRES_QUERY, timed=True)
    box.stop(server, interrupt)
    return told


POSTGRES_QUERY = """
set work_mem = '64MB'; set enable_nestloop = off;
select sum(abalance), count(*) from pgbench_accounts;
select count(*), sum(n), max(length(s)) from (
    select aid / 3 as g, count(*) as n, string_agg(aid::text, '-') as s
    from pgbench_accounts group by 1) as t;
select count(*), min(j::text) from (
    select jsonb_build_object('id', aid, 'list', array[aid, aid * 2]) as j
    from pgbench_accounts order by 1 limit 5000) as t;
select md5(string_agg(a.aid::text, ',' order by a.aid desc))
    from pgbench_accounts a join pgbench_accounts b on a.aid = b.aid * 7 where b.aid %% 3 = 0;
""".replace(
    "%%", "%"
)

NGINX = """
daemon off; worker_processes 1; pid pid; error_log stderr error;
events { worker_connections 256; }
http {
    access_log off; gzip on; gzip_types text/plain; gzip_min_length 100; default_type text/plain;
    client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3;
    uwsgi_temp_path t4; scgi_temp_path t5;
    server {
        listen 127.0.0.1:%s; root .; ssi on; ssi_types text/plain;
        location /through { proxy_pass http://127.0.0.1:%s/files; }
    }
}
"""


@work(
    "nginx", "nginx curl", "nginx-light, curl", 40,
    "files, compressed, with includes, and through itself as a proxy",
)
def nginx(box, scale):
    port = free_port()
    box.write("nginx.conf", NGINX % (port, port))
    os.chmod(box.folder, 0o755)
    os.mkdir(box.path("files"))
    for i in range(20):
        text = f"<!--#echo var='DOCUMENT_URI' -->{i}\n" + f"line {i} of a file\n" * (i * 300)
        box.write(f"files/{i}", text)
    urls = [
        f"http://127.0.0.1:{port}/{where}/{i}" for where in ("files", "through") for i in range(20)
    ]
    server = box.server(
        ["nginx", "-p", box.folder, "-c", box.path("nginx.conf"), "-e", "stderr"],
        lambda: "line" in box.helper(["curl", "-s", urls[1]], check=False),
    )
    digest = hashlib.sha256()
    for _ in range(scale):
        digest.update(box.helper(["curl", "-s", "--compressed", *urls], timed=True).encode())
    box.stop(server, quit_gently)
    return digest.hexdigest()
