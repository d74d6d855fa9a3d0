"""The instructions of a run: callgrind's counts of the whole run, and of each function of
libhakmem.so in it."""

import os
import shutil
import subprocess
import tempfile

from experiment import variants

LIBRARY = "libhakmem.so"


class Function:
    """Counts of one function: its own instructions, those with what it calls, and how often it is
    called."""

    def __init__(self):
        self.own = 0
        self.inclusive = 0
        self.calls = 0


class Profile:
    def __init__(self, total, functions):
        self.total = total
        self.functions = functions

    def share(self, name):
        """The part of the run's instructions that lie in a function and what it calls, 0 to 1."""
        one = self.functions.get(name)
        return min(one.inclusive / self.total, 1.0) if one and self.total else 0.0

    def calls(self, name):
        return self.functions[name].calls if name in self.functions else 0

    def own(self, name):
        return self.functions[name].own if name in self.functions else 0

    def library_share(self):
        """The part of the run's instructions in the library's own functions."""
        return sum(one.own for one in self.functions.values()) / self.total if self.total else 0.0


def parse(text):
    """A callgrind.out file that was written with --compress-strings=no and --compress-pos=no: a
    Profile of the library."""
    total, functions = 0, {}
    obj = callee_obj = function = callee = ""
    calls = 0

    def counts(where, name):
        return (
            functions.setdefault(name, Function())
            if os.path.basename(where) == LIBRARY
            else Function()
        )

    for line in text.splitlines():
        key, _, value = line.partition("=")
        if key == "ob":
            obj = value
        elif key == "fn":
            function, callee_obj = value, obj
        elif key == "cob":
            callee_obj = value
        elif key == "cfn":
            callee = value
        elif key == "calls":
            calls = int(value.split()[0])
        elif line.startswith(("summary:", "totals:")):
            total = int(line.split()[1])
        elif line[:1].isdigit():
            cost = int(line.split()[1])
            if calls:
                counts(callee_obj, callee).calls += calls
                if callee != function:  # a function that calls itself is counted once
                    counts(obj, function).inclusive += cost
                calls, callee_obj = 0, obj
            else:
                one = counts(obj, function)
                one.own += cost
                one.inclusive += cost
    return Profile(total, functions)


def profile(program, arguments, library):
    """A Profile of one run. Raises Refused without valgrind, or if the program fails under it."""
    valgrind = shutil.which("valgrind")
    if not valgrind:
        raise variants.Refused("valgrind is not installed: the instructions cannot be counted")
    with tempfile.TemporaryDirectory() as folder:
        out = os.path.join(folder, "out")
        command = [
            valgrind, "--tool=callgrind", f"--callgrind-out-file={out}", "--compress-strings=no",
            "--compress-pos=no",
        ]
        environment = {**os.environ, "LD_PRELOAD": library}
        done = subprocess.run(
            [*command, program, *arguments], capture_output=True, text=True, env=environment
        )
        if done.returncode != 0 or not os.path.exists(out):
            raise variants.Refused(f"{program} fails under callgrind:\n{done.stderr}".rstrip())
        with open(out, encoding="utf-8", errors="replace") as file:
            return parse(file.read())
