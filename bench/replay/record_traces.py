"""Records the traces of real programs in traces/ again: record_traces.py HAKMEM_COMMAND FOLDER
[NAME...]

Each is a small whole run of the program's work in bench/real/programs, or its first calls where
CALLS says so, packed with xz. The programs' calls differ a little from run to run and between
versions; README.md names the versions of the present traces.
"""

import lzma
import os
import shutil
import subprocess
import sys
import tempfile
import time

REAL = os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "real")
sys.path.insert(0, REAL)

from box import PATH, programs
from works import free_port

WHOLE = 1 << 60
CALLS = {"python": 1300000, "redis": 420000}


def script(name, scale=None):
    """A file of programs/; its text with the scale put in, if one is given."""
    path = os.path.join(REAL, "programs", name)
    if scale is None:
        return path
    with open(path, encoding="utf-8") as file:
        return file.read().replace("SCALE", str(scale))


class Recorder:
    def __init__(self, command, folder):
        self.command, self.folder = os.path.abspath(command), folder
        self.env = {"PATH": PATH, "HOME": folder, "LC_ALL": "C"}

    def trace(self, name):
        return os.path.join(self.folder, name + ".trace")

    def arguments(self, name, command):
        (program,) = programs(command[0]) or [command[0]]
        return [
            self.command, "record", "-o", self.trace(name), "--calls", str(CALLS.get(name, WHOLE)),
            program, *command[1:],
        ]

    def run(self, name, command, text=None, **env):
        subprocess.run(
            self.arguments(name, command), input=text, text=True, check=True,
            env={**self.env, **env}, cwd=self.folder, stdout=subprocess.DEVNULL,
        )  # fmt: skip

    def client(self, *command):
        return subprocess.run(
            command, env=self.env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ).stdout


def gcc(recorder):
    """The compiler proper, on a file that is preprocessed already."""
    compiler = recorder.client("g++", "-print-prog-name=cc1plus").strip()
    source = os.path.join(recorder.folder, "work.ii")
    recorder.client(
        "g++", "-std=c++17", "-E", "-P", "-include", "string", "-include", "map", "-x", "c++",
        "/dev/null", "-o", source,
    )
    with open(source, "a", encoding="utf-8") as file:
        file.write(
            "int f(std::map<std::string, int> &m) { int n = 0; for (auto &[s, i] : m) n += "
            "s.size() + i; return n + m[\"x\"]; }\n"
        )
    recorder.run(
        "gcc",
        [compiler, "-quiet", "-O1", "-std=c++17", "-fpreprocessed", "work.ii", "-o", "work.s"],
    )


def lua(recorder):
    recorder.run("lua", ["lua5.4", script("work.lua"), "1"])


def node(recorder):
    recorder.run("node", ["node", script("work.js"), "2"])


def python(recorder):
    recorder.run("python", ["python3", "-B", script("work.py"), "1"], PYTHONMALLOC="malloc")


def sqlite(recorder):
    recorder.run("sqlite", ["sqlite3", ":memory:"], script("work.sql", 2))


def redis(recorder):
    port = free_port()
    cli = ["redis-cli", "-p", port]
    options = [
        "--port", port, "--bind", "127.0.0.1", "--dir", recorder.folder, "--save", "",
        "--appendonly", "no",
    ]
    server = subprocess.Popen(
        recorder.arguments("redis", ["redis-server", *options]), env=recorder.env,
        stdout=subprocess.DEVNULL,
    )
    while recorder.client(*cli, "ping").strip() != "PONG":
        time.sleep(0.05)
    with open(script("work_redis.lua"), encoding="utf-8") as file:
        recorder.client(*cli, "eval", file.read(), "0", "3500")
    recorder.client(
        "redis-benchmark", "-p", port, "-n", "4000", "-c", "20", "-q", "-d", "200", "-r", "5000",
        "-t", "set,lpush,rpop,sadd,hset,zadd,lrange_100",
    )
    recorder.client(*cli, "shutdown", "nosave")
    server.wait()


def main(command, folder, names):
    os.makedirs(folder, exist_ok=True)
    for function in (gcc, lua, node, python, redis, sqlite):
        name = function.__name__
        if names and name not in names:
            continue
        work = tempfile.mkdtemp()
        recorder = Recorder(command, work)
        function(recorder)
        with open(recorder.trace(name), "rb") as file:
            packed = lzma.compress(file.read(), preset=9 | lzma.PRESET_EXTREME)
        with open(os.path.join(folder, name + ".trace.xz"), "wb") as file:
            file.write(packed)
        print(f"{name}: {len(packed)} bytes packed")
        shutil.rmtree(work)


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    main(sys.argv[1], sys.argv[2], sys.argv[3:])
