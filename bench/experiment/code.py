"""The compiled code: the functions of a library by its disassembly, and the fast paths by single
steps."""

import os
import re
import subprocess

from golden import golden_test

FUNCTION = re.compile(r"^[0-9a-f]+ <([^>]+)>:$")
INSTRUCTION = re.compile(r"^\s*[0-9a-f]+:\t(.*)$")
PADDING = re.compile(r"^(nop|data16|cs nop|xchg %ax,%ax)")


def parse(text):
    """objdump's output: {function: its instructions, without addresses and padding}."""
    found, name = {}, None
    for line in text.splitlines():
        head = FUNCTION.match(line)
        row = INSTRUCTION.match(line)
        if head:
            name = head.group(1)
            found.setdefault(name, [])
        elif row and name and not PADDING.match(row.group(1).strip()):
            found[name].append(without_addresses(row.group(1)))
    return found


def without_addresses(instruction):
    """The instruction as it would stand in any other place: what it refers to by name, or not at
    all."""
    text = re.sub(r"\s+", " ", instruction.split("#")[0]).strip()
    text = re.sub(r"\b[0-9a-f]+ <([^>+]+)(\+0x[0-9a-f]+)?>", r"<\1>", text)
    return re.sub(r"-?0x[0-9a-f]+\(%rip\)", "(%rip)", text)


def functions(library):
    command = ["objdump", "--disassemble", "--no-show-raw-insn", "--section=.text", library]
    return parse(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


class Differences:
    """The differences of two disassemblies, by the functions' names."""

    def __init__(self, a, b):
        self.only_a = sorted(a.keys() - b.keys())
        self.only_b = sorted(b.keys() - a.keys())
        self.changed = sorted(name for name in a.keys() & b.keys() if a[name] != b[name])
        self.alike = len(a.keys() & b.keys()) - len(self.changed)

    def any(self):
        return bool(self.only_a or self.only_b or self.changed)

    def of(self, name):
        """How one function fared."""
        for names, text in (
            (self.only_a, "only in A"),
            (self.only_b, "only in B"),
            (self.changed, "differs"),
        ):
            if name in names:
                return text
        return "alike"


def fast_paths(trace_program, library):
    """{path: instructions} as bench/golden/path_trace steps through them; None where it cannot (not
    on x86-64)."""
    environment = {**os.environ, "LD_PRELOAD": library}
    done = subprocess.run([trace_program], capture_output=True, text=True, env=environment)
    if done.returncode != 0:
        return None
    served_by, paths = golden_test.parse_trace(done.stdout)
    if os.path.realpath(served_by) != os.path.realpath(library):
        return None
    return {name: min(len(trace) for trace in traces) for name, traces in paths.items()}
