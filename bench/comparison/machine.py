"""The machine, kernel, compiler and versions on which the figures depend."""

import os
import platform
import re
import shutil
import subprocess
import time

PACKAGES = {
    "jemalloc": "libjemalloc2",
    "mimalloc": "libmimalloc2.0",
    "tcmalloc": "libtcmalloc-minimal4",
    "tbbmalloc": "libtbbmalloc2",
    "glibc": "libc6",
}


def first_match(path, pattern):
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            match = re.search(pattern, file.read(), re.MULTILINE)
            return match.group(1) if match else None
    except OSError:
        return None


def first_line(*command):
    """The first line of what a command prints; None if it cannot be run."""
    if not shutil.which(command[0]):
        return None
    done = subprocess.run(command, capture_output=True, text=True)
    return done.stdout.splitlines()[0] if done.returncode == 0 and done.stdout else None


def versions(allocators):
    return {
        name: first_line("dpkg-query", "-W", "-f", "${Version}\n", package)
        for name, package in PACKAGES.items()
        if name in allocators
    }


def describe(allocators):
    memory = first_match("/proc/meminfo", r"^MemTotal:\s*(\d+) kB")
    return {
        "cpu": first_match("/proc/cpuinfo", r"^model name\s*: (.*)$") or platform.machine(),
        "cpus": len(os.sched_getaffinity(0)),
        "memory_mib": int(memory) // 1024 if memory else None,
        "kernel": platform.release(),
        "compiler": first_line("gcc", "--version"),
        "huge_pages": first_match("/sys/kernel/mm/transparent_hugepage/enabled", r"\[(\w+)\]"),
        "overcommit": first_match("/proc/sys/vm/overcommit_memory", r"(\d)"),
        "versions": versions(allocators),
        "load_average": os.getloadavg()[0],
        # Of a Slurm job: its administrators' name for nodes that are alike.
        "partition": os.environ.get("SLURM_JOB_PARTITION"),
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
    }


def name(machine):
    """The key by which results of like machines are joined."""
    partition = machine.get("partition")
    where = f", partition {partition}" if partition else ""
    return f"{machine.get('cpu')}, {machine.get('cpus')} CPUs, Linux {machine.get('kernel')}{where}"
