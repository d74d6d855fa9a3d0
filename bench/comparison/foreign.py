"""What the command line brings along: other allocators (--allocator NAME=LIBRARY), other programs
(--program), other tables of workloads (--workloads). Every text is checked here; Bad says what is
wrong with it and what is allowed."""

import functools
import glob
import json
import os
import re
import shlex
import shutil
import subprocess

from comparison import table

NAME = re.compile(r"[a-z0-9_.+-]+")
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
LOADERS = ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1")
KEYS = ("name", "binary", "command", "trace", "args", "work", "threads", "unit", "text", "tags")
SOURCES = ("binary", "command", "trace")
PLAYER = "replay/replay"


class Bad(Exception):
    """A text of the command line, or a file that it names, is wrong."""


def elf_kind(path):
    """The bytes of an ELF file that say for which machine it is; None if it is no such file."""
    with open(path, "rb") as file:
        head = file.read(20)
    return head[4:6] + head[18:20] if head[:4] == b"\x7fELF" else None


def allocator(text, base):
    """(name, table.Allocator) of NAME=LIBRARY[,VARIABLE=VALUE...]; base: what a relative path is
    meant from."""
    name, _, rest = text.partition("=")
    path, *settings = rest.split(",")
    form = "NAME=/path/lib.so[,VARIABLE=VALUE...]"
    if not NAME.fullmatch(name):
        raise Bad(f"{text}: {name or 'nothing'} is no name: small letters, digits, _.+- ({form})")
    if name in table.BUILT_IN:
        raise Bad(f"{text}: {name} is one of the allocators that are there already; another name")
    path = os.path.realpath(os.path.join(base, path)) if path else ""
    if not os.path.isfile(path):
        raise Bad(f"{text}: {path or 'nothing'} is no file ({form})")
    try:
        if elf_kind(path) != elf_kind("/proc/self/exe"):
            raise Bad(f"{text}: {path} is no shared library for this machine")
    except OSError as error:
        raise Bad(f"{text}: {path}: {error.strerror}") from None
    environment = {}
    for one in settings:
        variable, is_set, value = one.partition("=")
        if not is_set or not VARIABLE.fullmatch(variable):
            raise Bad(f"{text}: {one or 'nothing'} is not VARIABLE=VALUE ({form})")
        if variable.startswith("LD_"):
            raise Bad(f"{text}: {variable} is the comparison's to set")
        environment[variable] = value
    return name, table.Allocator(
        "^" + re.escape(path) + "$", path, linked=False, environment=environment
    )


def free_name(wanted, taken):
    name = re.sub(r"[^a-z0-9_.+-]", "_", wanted.lower()) or "program"
    return next(one for one in [name, *(f"{name}_{i}" for i in range(2, 999))] if one not in taken)


def found_program(text, base):
    path = os.path.join(base, text) if "/" in text else shutil.which(text)
    if not path or not os.access(path, os.X_OK) or os.path.isdir(path):
        raise Bad(f"{text} is no program that can be run")
    return os.path.abspath(path)


def words_of(text):
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise Bad(f"{text}: {error}") from None
    if not words:
        raise Bad("an empty command; a program and its arguments, {} for the round's seed")
    return words


def program(text, base, taken):
    """The workload that is a run of a command from beginning to end."""
    words = words_of(text)
    path = found_program(words[0], base)
    return command_workload(
        {"name": free_name(os.path.basename(path), taken), "text": text}, [path, *words[1:]], base
    )


def command_workload(row, words, base):
    args = [word.replace("{}", "{seed}") for word in words[1:]]
    made = table.Workload({"unit": "runs", **row, "binary": words[0], "args": args})
    made.is_program, made.folder_to_run_in = True, base or None
    return made


def row_workload(row, folder, binaries):
    """The workload of a row of the user's table. folder: what its paths are meant from."""
    if not isinstance(row, dict) or not isinstance(row.get("name"), str):
        raise Bad(f"{json.dumps(row)[:60]}: a row is an object with a name")
    name = row["name"]
    unknown = sorted(set(row) - set(KEYS))
    if unknown or not NAME.fullmatch(name):
        what = f"unknown key {unknown[0]}" if unknown else "not a name in small letters"
        raise Bad(f"{name}: {what}; keys: {', '.join(KEYS)}")
    sources = [key for key in SOURCES if key in row]
    if len(sources) != 1 or not isinstance(row[sources[0]], str):
        raise Bad(f"{name}: one of {', '.join(SOURCES)} says what is run, as a text")
    if table.REAL_TAG in row.get("tags", []):
        raise Bad(f"{name}: the tag {table.REAL_TAG} is for the drivers of bench/real")
    if "command" in row:
        words = words_of(row["command"])
        rest = {key: value for key, value in row.items() if key not in ("command", "args")}
        return command_workload(rest, [found_program(words[0], folder), *words[1:]], folder)
    if "trace" in row:
        path = os.path.join(folder, row["trace"])
        if not os.path.isfile(path):
            raise Bad(f"{name}: the trace {path} is no file")
        args = ["--repeat", "{work}", *row.get("args", "").split(), path]
        work = dict.fromkeys(table.MODES, 1)
        rest = {key: value for key, value in row.items() if key != "trace"}
        row = {"work": work, "unit": "ops", **rest, "binary": PLAYER, "args": args}
    elif row["binary"] not in binaries:
        raise Bad(f"{name}: no program {row['binary']}; there are {', '.join(sorted(binaries))}")
    elif "args" not in row:
        raise Bad(f"{name}: a binary needs args")
    work = row.get("work", {})
    if not isinstance(work, dict) or not set(work) <= set(table.MODES):
        raise Bad(f"{name}: work has {', '.join(table.MODES)}, and no more")
    try:
        return table.Workload(row)
    except (KeyError, TypeError, AttributeError) as error:
        raise Bad(f"{name}: its arguments lack {error}") from None


def workloads(path, known):
    """{name: workload} of a user's table, whose rows are like those of bench's own."""
    try:
        with open(path, encoding="utf-8") as file:
            rows = json.load(file)
    except OSError as error:
        raise Bad(f"{path}: {error.strerror}") from None
    except ValueError as error:
        raise Bad(f"{path}: no JSON: {error}") from None
    if not isinstance(rows, list) or not rows:
        raise Bad(f"{path}: not a list of workloads")
    folder = os.path.dirname(os.path.abspath(path))
    binaries = {one.binary for one in known.values()}
    found = {}
    for row in rows:
        try:
            one = row_workload(row, folder, binaries)
        except Bad as error:
            raise Bad(f"{path}: {error}") from None
        if one.name in found:
            raise Bad(f"{path}: {one.name}: a name given twice")
        found[one.name] = one
    return found


@functools.lru_cache(maxsize=None)
def interpreter(path):
    """The ELF file that runs when this program is started."""
    with open(path, "rb") as file:
        first = file.readline(256)
    if not first.startswith(b"#!"):
        return path
    words = first[2:].decode(errors="replace").split()
    if os.path.basename(words[0]) == "env":
        words = [one for one in words[1:] if not one.startswith("-")][:1]
    found = shutil.which(words[0]) if words else None
    return interpreter(os.path.realpath(found)) if found else path


def why_not_loaded(path, library):
    """Why a preloaded library would not serve a program; None if it would."""
    path = interpreter(path)
    loader = next((one for one in LOADERS if glob.glob(one)), None)
    if loader is None:
        return "this machine's dynamic loader is unknown"
    told = subprocess.run(
        [loader, "--list", path], capture_output=True, text=True,
        env={**os.environ, "LD_PRELOAD": library},
    )
    if told.returncode != 0 or library not in told.stdout:
        return f"{path} is a static program, or none: nothing can be preloaded into it"
    names = subprocess.run(["readelf", "-W", "--dyn-syms", path], capture_output=True, text=True)
    if re.search(r"^(?!.*\bUND\b).*\bmalloc(@\S+)?$", names.stdout, re.MULTILINE):
        return f"{path} has a malloc of its own, which comes before every library's"
    return None
