"""Starting programs: one measured run, who serves malloc, the machine's noise, instructions."""

import functools
import json
import os
import re
import shutil
import subprocess
import tempfile
import time

from comparison import foreign, stats, table

RUN_LIMIT_S = 300  # one run that takes longer than this is taken for hung
SPINS = 40
OUTPUT = re.compile(r"^Throughput = ([0-9.]+) (M )?[a-z]+(?:/s| per second)\b", re.MULTILINE)
LIVE = re.compile(r"\blive=([0-9]+)\b")
USED = re.compile(r"^Used (\{.*\})$", re.MULTILINE)
LATENCY = re.compile(r"^Latency ns: (.*)$", re.MULTILINE)


class Failure(Exception):
    """The measurement cannot go on; the text says why."""


def parse_output(text):
    """The figures in a workload's lines: throughput, bytes alive at the most, latencies. None
    without a throughput."""
    match = OUTPUT.search(text)
    if not match:
        return None
    told = {"ops_per_s": float(match.group(1)) * (1e6 if match.group(2) else 1.0)}
    if told["ops_per_s"] <= 0:
        return None
    live = LIVE.search(text)
    if live:
        told["live_bytes"] = int(live.group(1))
    used = USED.search(text)
    if used:
        told["used"] = json.loads(used.group(1))
    latency = LATENCY.search(text)
    if latency:
        told["latency_ns"] = {
            name: int(ns) for name, ns in (item.split("=") for item in latency.group(1).split())
        }
    return told


def command_of(place, workload, allocator, mode, seed):
    """The program and its arguments; {here} in them is the folder in which the program lies, for
    files beside it."""
    program = place.binary(workload, allocator)
    return [
        program,
        *[a.replace("{here}", os.path.dirname(program)) for a in workload.arguments(mode, seed)],
    ]


def run_once(place, workload, allocator, mode, seed):
    """One measured run: what the program printed and what it used. Raises Failure when it fails in
    any way."""
    read_end, write_end = os.pipe()
    library = place.library(workload, allocator)
    with os.fdopen(read_end) as report:
        # The report has to arrive as descriptor 3: sh puts it there and becomes `measure`.
        command = [
            "/bin/sh", "-c", f'exec "$@" 3>&{write_end}', "sh",
            os.path.join(place.bin_dir, "common", "measure"),
        ]
        command += ["-p", library] if library else []
        command += command_of(place, workload, allocator, mode, seed)
        start = time.monotonic()
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=RUN_LIMIT_S, pass_fds=[write_end],
                stdin=subprocess.DEVNULL, cwd=workload.folder_to_run_in, errors="replace",
                env=environment(None, settings(allocator)),
            )
        except subprocess.TimeoutExpired:
            raise Failure(
                f"{workload.name} under {allocator}: no end after {RUN_LIMIT_S} s"
            ) from None
        finally:
            os.close(write_end)
        wall_s = time.monotonic() - start
        used = report.read()
    told = parse_output(done.stdout)
    if told is None and workload.is_program:
        told = {"ops_per_s": 1 / wall_s}
    if done.returncode != 0 or told is None or not used:
        why = f"exit status {done.returncode}" if done.returncode else "no throughput line"
        raise Failure(
            f"{workload.name} under {allocator}: {why}\n{done.stdout}{done.stderr}".rstrip()
        )
    # A driver prints what the programs used that it started; what it used itself does not count.
    result = {**told, "wall_s": wall_s, "seed": seed, **told.pop("used", json.loads(used))}
    # The kernel's maximum is behind by what a thread has not reported yet.
    result["peak_kib"] = max(
        [result["peak_kib"], result.get("exit_kib", 0), *result.get("resident_kib", [])]
    )
    result["cpu_s"] = result.get("user_s", 0) + result.get("system_s", 0)
    if told.get("live_bytes"):
        result["fragmentation"] = result["peak_kib"] * 1024 / told["live_bytes"]
    return result


def settings(allocator):
    """The variables with which an allocator is started; a side of ab has none."""
    one = table.ALLOCATORS.get(allocator)
    return one.environment if one else {}


def environment(library, more):
    """This process's, with more variables, and with the library preloaded, if there is one."""
    return {**os.environ, **more, **({"LD_PRELOAD": library} if library else {})}


def missing(place, workload, allocator):
    """Why this allocator cannot be had for this workload here; None if it can."""
    try:
        place.library(workload, allocator)
    except FileNotFoundError as error:
        return str(error)
    if workload.is_program and allocator == table.LIMIT:
        return "it frees nothing, so it serves only workloads that are made for it"
    if workload.is_program and allocator != "glibc" and not place.is_preloaded(workload, allocator):
        return "it is linked, and cannot be preloaded"
    path = place.binary(workload, allocator)
    if not os.path.exists(path):
        return f"{os.path.basename(path)} is not there"
    return why_not(path, workload.args["quick"][0]) if workload.is_driver else None


@functools.lru_cache(maxsize=None)
def why_not(driver, work):
    """Why a driver cannot do a work here: a program that is not installed. None if it can."""
    done = subprocess.run([driver, "--missing", work], capture_output=True, text=True)
    return (
        (done.stdout + done.stderr).strip() or f"exit status {done.returncode}"
        if done.returncode != 0
        else None
    )


def check_owner(place, workload, allocator):
    """The object that serves malloc in this workload's binary. Raises Failure when it is not that
    allocator's."""
    path = place.binary(workload, allocator)
    if workload.is_program:
        library = place.library(workload, allocator)
        why = foreign.why_not_loaded(path, library) if library else None
        if why:
            raise Failure(f"{workload.name} under {allocator}: {why}: nothing was measured")
        return library or "the C library, or the program itself"
    try:
        library = place.library(workload, allocator)
        done = subprocess.run(
            [path, "--whoami"],
            capture_output=True,
            text=True,
            timeout=RUN_LIMIT_S,
            env=environment(library, settings(allocator)),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise Failure(f"{path}: {error}") from None
    owners = dict(line.split(": ", 1) for line in done.stdout.splitlines() if ": " in line)
    for function in ("malloc", "free"):
        owner = owners.get(function, "nothing")
        if done.returncode != 0 or not re.search(table.ALLOCATORS[allocator].served_by, owner):
            raise Failure(
                f"{path}: {function} is served by {owner}, not by {allocator}: nothing was measured"
            )
    return owners["malloc"]


def noise(place):
    """How much a fixed loop's time varies here and now: single runs cannot show a smaller
    difference."""
    try:
        done = subprocess.run(
            [os.path.join(place.bin_dir, "common", "spin"), str(SPINS)],
            capture_output=True,
            text=True,
            timeout=60,
        )
        ns = [int(line) for line in done.stdout.split()]
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    if not ns:
        return None
    made = stats.summary(ns, least=True)
    return {
        "spins": len(ns),
        "spread": made["spread"],
        "worst": made["max"] / made["median"] - 1,
        "median_ns": made["median"],
    }


def instructions(place, workload, allocator, seed):
    """Instructions of one quick run, counted by callgrind. None without valgrind, or if the program
    fails under it."""
    valgrind = shutil.which("valgrind")
    if not valgrind:
        return None
    with tempfile.TemporaryDirectory() as folder:
        command = [valgrind, "--tool=callgrind", f"--callgrind-out-file={folder}/out"]
        command += command_of(place, workload, allocator, "quick", seed)
        done = subprocess.run(
            command, capture_output=True, text=True,
            env=environment(place.library(workload, allocator), settings(allocator)),
        )
    found = re.search(r"Collected : (\d+)", done.stderr)
    return int(found.group(1)) if found and done.returncode == 0 else None
