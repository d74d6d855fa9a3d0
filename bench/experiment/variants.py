"""The two sides of an experiment: libhakmem.so files, each asked what it is before anything is
measured."""

import hashlib
import os
import subprocess
import sys

ASK = """
import ctypes
program = ctypes.CDLL(None)
program.hak_variant.restype = ctypes.c_char_p
print(program.hak_variant().decode())
"""


class Refused(Exception):
    """The experiment makes no sense, or cannot be done; the text says why."""


class Side:
    """One side. `name`: a variant, whose library lies in preload/NAME of the workspace, or the path
    of any libhakmem.so."""

    def __init__(self, name, workspace, base=""):
        self.is_path = "/" in name
        self.name = name
        path = (
            os.path.join(base, name)
            if self.is_path
            else os.path.join(workspace, "preload", name, "libhakmem.so")
        )
        self.library = os.path.realpath(path)
        if not os.path.exists(self.library):
            raise Refused(f"{name}: {path} is not there")
        self.variant = ask(self.library)
        if not self.is_path and self.variant != name:
            raise Refused(f"{name}: the library says that it is {self.variant}")

    def digest(self):
        with open(self.library, "rb") as file:
            return hashlib.sha256(file.read()).hexdigest()


def ask(library):
    """The result of hak_variant() in a process into which this library is preloaded."""
    environment = {**os.environ, "LD_PRELOAD": library}
    done = subprocess.run(
        [sys.executable, "-c", ASK], capture_output=True, text=True, env=environment
    )
    if "undefined symbol: hak_variant" in done.stderr:
        raise Refused(
            f"{library} is no libhakmem.so: an experiment looks into two builds of hakmem, "
            f"function by function; to measure against another allocator: "
            f"./bazelw run //bench:compare -- --allocator hakmem --allocator NAME={library}"
        )
    if done.returncode != 0:
        raise Refused(f"{library} does not say which variant it is:\n{done.stderr}".rstrip())
    return done.stdout.strip()


def check_that_they_differ(a, b):
    if a.digest() == b.digest():
        raise Refused(
            f"{a.name} and {b.name} are the same library, byte for byte: there is nothing to "
            f"compare"
        )
    if not a.is_path and not b.is_path and a.variant == b.variant:
        raise Refused(f"both sides say that they are {a.variant}: there is nothing to compare")


class Place:
    """Where programs and libraries lie, as comparison.run asks for them: a side's library is
    preloaded into the binary that is linked with no allocator."""

    def __init__(self, bin_dir, sides):
        self.bin_dir = bin_dir
        self.libraries = {side.name: side.library for side in sides}

    def binary(self, workload, _side):
        return os.path.join(self.bin_dir, workload.binary + "_glibc")

    def library(self, _workload, side):
        return self.libraries[side]
