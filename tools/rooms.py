"""The table of tools/rooms.bzl for Python, and what the sources really name.

Used by rooms_test.py and gen_rooms.py.
"""

import os
import re

TOP = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# Every room may use these: macros and generators of the build, helpers of tests, and what comes
# from Debian's packages.
FOR_ALL = {"tools", "tools/config", "testing", "third_party"}


def table():
    """{room: (sentence, rooms it may name)} in the order of the table."""
    scope = {}
    with open(os.path.join(TOP, "tools", "rooms.bzl"), encoding="utf-8") as stream:
        exec(compile(stream.read(), "rooms.bzl", "exec"), scope)  # the table is valid Python too
    return scope["ROOMS"]


def room_of(path, rooms):
    """The innermost room that holds the path (relative to the top), or None."""
    folder = os.path.dirname(path.lstrip("/"))
    while folder and folder not in rooms:
        folder = os.path.dirname(folder)
    return folder or None


def at(path):
    """Where a path of the repository lies. Bazel puts a workspace within it beside it."""
    within = "examples/workspace"
    beside = os.path.join(TOP, os.pardir, "example_workspace")
    if (path + "/").startswith(within + "/") and not os.path.exists(os.path.join(TOP, within)):
        return beside + path[len(within) :]
    return os.path.join(TOP, path)


def read(path):
    with open(at(path), encoding="utf-8", errors="replace") as stream:
        return stream.read()


def source_files(rooms):
    """All files of all rooms, relative to the top."""
    found = []
    for room in rooms:
        for folder, folders, files in os.walk(at(room), followlinks=True):
            folders[:] = [
                name
                for name in folders
                if not name.startswith(".") and not name.startswith("bazel-")
            ]
            for name in files:
                path = os.path.join(room, os.path.relpath(os.path.join(folder, name), at(room)))
                if room_of(path, rooms) == room:
                    found.append(path)
    return sorted(found)


def names_in(path):
    """(line number, path that the line names) of each include and each Bazel label of a file."""
    if path.endswith((".c", ".h", ".cc")) and not path.endswith("_test.cc"):
        pattern = re.compile(r'^\s*#\s*include\s+"([^"]+/[^"]+)"')
    elif path.endswith(("BUILD.bazel", ".bzl")):
        pattern = re.compile(r'"(?:@hakmem)?//([^":]*)[^"]*"')
    else:
        return
    text = read(path)
    is_build = path.endswith(("BUILD.bazel", ".bzl"))
    if path.endswith("BUILD.bazel"):
        # What tests need is no arrow of the room.
        pattern_of_tests = r"test_deps = \[.*?\]|^(?:hak_variant_cc_tests?|python_test)\(\n.*?^\)"
        for block in re.findall(pattern_of_tests, text, re.S | re.M):
            text = text.replace(block, "\n" * block.count("\n"))
    for number, line in enumerate(text.splitlines(), 1):
        if is_build and (line.lstrip().startswith("#") or "no arrow" in line):
            continue
        for match in pattern.finditer(line):
            yield number, match.group(1)


def is_visibility(path, number):
    """Whether a line of a BUILD file says who may see a target: that is no arrow."""
    line = read(path).splitlines()[number - 1]
    return "__pkg__" in line or "__subpackages__" in line or "visibility" in line


def arrows(rooms):
    """{(room, room that it names): 'file:line' of the first place}"""
    found = {}
    for path in source_files(rooms):
        room = room_of(path, rooms)
        for number, named in names_in(path):
            is_build = path.endswith(("BUILD.bazel", ".bzl"))
            if is_build and is_visibility(path, number):
                continue
            target = room_of(named.lstrip("/") + "/x" if is_build and named else named, rooms)
            if target and target != room and target not in FOR_ALL:
                found.setdefault((room, target), "%s:%d" % (path, number))
    return found
