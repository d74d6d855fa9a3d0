"""The place of a program's work: a folder; commands that run on the allocator and are measured; and
others, such as a server's clients, that are neither. `measure` gives the figures; those of a server
count from its start to its end."""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time

FOLDER = os.path.dirname(os.path.abspath(__file__))
MEASURE = os.path.join(os.path.dirname(FOLDER), "common", "measure")
PATH = "/usr/bin:/bin:/usr/sbin:/sbin:/usr/lib/postgresql/15/bin"
LIBC = ("/lib/x86_64-linux-gnu/libc.so.6", "/lib/aarch64-linux-gnu/libc.so.6")
LIMIT_S = 280
PARTS = ("user_s", "system_s", "minor_faults", "major_faults")
FAMILY = re.compile(r"malloc|free|calloc|realloc")


class Failure(Exception):
    """A program failed; the text says which, and how."""


def programs(*names):
    """The paths of these programs; None if one is missing."""
    found = [shutil.which(name, path=PATH) for name in names]
    return found if all(found) else None


class Box:
    """One run of one program's work. The library is None for glibc's malloc, which then is
    preloaded as well: a program such as Debian's redis-server is linked with another one."""

    def __init__(self, library):
        self.library = (
            os.path.abspath(library)
            if library
            else next(path for path in LIBC if os.path.exists(path))
        )
        self.folder = tempfile.mkdtemp(prefix="real.")
        self.seconds = 0.0
        self.used = dict.fromkeys(PARTS, 0)
        self.used.update(peak_kib=0, resident_kib=[], interval_ms=4)
        self.servers = []
        self.extra = {}  # variables for what runs on the allocator

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in self.servers:
            process.kill()
            process.wait()
            process.stderr.close()
        shutil.rmtree(self.folder, ignore_errors=True)

    def path(self, name):
        return os.path.join(self.folder, name)

    def write(self, name, text):
        with open(self.path(name), "w", encoding="utf-8") as file:
            file.write(text)
        return self.path(name)

    @staticmethod
    def source(name, scale):
        """The text of a file of programs/ with the word SCALE replaced."""
        with open(os.path.join(FOLDER, "programs", name), encoding="utf-8") as file:
            return re.sub(r"\bSCALE\b", str(scale), file.read())

    @staticmethod
    def script(name):
        return os.path.join(FOLDER, "programs", name)

    def environment(self, **more):
        return {"PATH": PATH, "HOME": self.folder, "LC_ALL": "C", "TMPDIR": self.folder, **more}

    def start(self, command, used, stdin, stdout, **env):
        """A command under `measure`, which writes the figures into the file `used`."""
        allocator = {
            k: v
            for k, v in os.environ.items()
            if k.startswith(("HAKMEM_", "MALLOC_", "MIMALLOC_", "TCMALLOC_"))
        }
        shell = ["/bin/sh", "-c", 'exec "$@" 3>"$0"', used, MEASURE, "-p", self.library]
        command = [*(programs(command[0]) or command[:1]), *command[1:]]
        return subprocess.Popen(
            shell + command, cwd=self.folder,
            env=self.environment(**allocator, **self.extra, **env), stdin=stdin, stdout=stdout,
            stderr=subprocess.PIPE, text=True, errors="replace",
        )  # fmt: skip

    def add(self, path):
        with open(path, encoding="utf-8") as file:
            one = json.load(file)
        os.unlink(path)
        for part in PARTS:
            self.used[part] += one[part]
        if one["peak_kib"] > self.used["peak_kib"]:
            self.used.update({k: v for k, v in one.items() if k not in PARTS})

    def run(self, command, text=None, **env):
        """Runs a command on the allocator, adds what it used, and returns its output."""
        used = self.path(".used")
        begin = time.monotonic()
        process = self.start(command, used, subprocess.PIPE, subprocess.PIPE, **env)
        try:
            output, errors = process.communicate(text, timeout=LIMIT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            raise Failure(f"{command[0]}: no end after {LIMIT_S} s") from None
        self.seconds += time.monotonic() - begin
        if process.returncode != 0:
            raise Failure(
                f"{' '.join(command)}: exit status {process.returncode}\n{errors[-2000:]}"
            )
        self.add(used)
        return output

    def helper(self, command, text=None, check=True, timed=False):
        """Runs a command on its own malloc, measured at most in time; returns both its outputs."""
        begin = time.monotonic()
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment(), input=text,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            timeout=LIMIT_S,
        )  # fmt: skip
        if timed:
            self.seconds += time.monotonic() - begin
        if check and done.returncode != 0:
            raise Failure(
                f"{' '.join(command)}: exit status {done.returncode}\n{done.stdout[-2000:]}"
            )
        return done.stdout

    def server(self, command, ready, **env):
        """Starts a server on the allocator and waits until ready() holds."""
        with open(self.path(".log"), "w", encoding="utf-8") as log:
            process = self.start(command, self.path(".server"), subprocess.DEVNULL, log, **env)
        self.servers.append(process)
        deadline = time.monotonic() + 30
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                raise Failure(f"{command[0]} does not answer: {self.log()}")
            time.sleep(0.02)
        return process

    def log(self):
        with open(self.path(".log"), encoding="utf-8", errors="replace") as file:
            return file.read()[-2000:]

    def stop(self, process, how):
        """Asks a server to end, by how(the server's process id), and adds what it used."""
        with open(f"/proc/{process.pid}/task/{process.pid}/children", encoding="utf-8") as file:
            child = int(file.read().split()[0])
        how(child)
        try:
            _, errors = process.communicate(timeout=60)
        except subprocess.TimeoutExpired:
            raise Failure(f"a server does not end: {self.log()}") from None
        if process.returncode != 0:
            raise Failure(f"a server ended with {process.returncode}: {self.log()}{errors[-2000:]}")
        self.add(self.path(".server"))


def interrupt(pid):
    os.kill(pid, signal.SIGINT)


def quit_gently(pid):
    os.kill(pid, signal.SIGQUIT)
