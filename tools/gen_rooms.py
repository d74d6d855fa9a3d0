#!/usr/bin/env python3
"""Writes what is generated in the READMEs of the library's rooms: first line, arrows, prefixes, and
the list of files.

usage: gen_rooms.py [--check]

A room of the library has `prefixes` in its BUILD.bazel. Its README is `# ROOM: sentence`, then the
part between the two marks, which this script writes, then prose that people write. The sentence and
the arrows come from tools/rooms.bzl, a file's line from the first sentence of the comment at its
top. --check names the READMEs that are not up to date, and exits with 1.
"""

import os
import re
import sys
import textwrap

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import rooms

BEGIN = "<!-- Written by tools/gen_rooms.py -->"
END = "<!-- As far as here. -->"
WIDTH = 100


def first_sentence(path):
    """Of the comment at the file's top, as one line; empty without one."""
    text = rooms.read(path)
    match = re.match(
        r"(?:#![^\n]*\n)?\s*(?:/\*(.*?)\*/|\"\"\"(.*?)\"\"\"|((?:#[^\n]*\n)+))", text, re.S
    )
    if not match:
        return ""
    comment = match.group(1) or match.group(2) or re.sub(r"(?m)^#", "", match.group(3))
    paragraph = " ".join(comment.split("\n\n")[0].split())
    sentence = re.match(r"(.*?\.)(?= [^a-z]| *$)", paragraph)
    return (sentence.group(1) if sentence else paragraph).rstrip(".:")


def prefixes(room):
    """Of the functions and variables that cross files, from the room's BUILD.bazel."""
    path = os.path.join(room, "BUILD.bazel")
    if not os.path.exists(rooms.at(path)):
        return []
    match = re.search(r"prefixes = \[(.*?)\]", rooms.read(path), re.S)
    return re.findall(r'"(\w+)"', match.group(1)) if match else []


def units(room, table):
    """[(names, path of the file that says what it is)]: a header and its source are one unit."""
    files = {
        os.path.basename(p)
        for p in rooms.source_files({room: None})
        if rooms.room_of(p, table) == room
    }
    files = {name for name in files if os.path.exists(rooms.at(os.path.join(room, name)))}
    found, tests = {}, []
    for name in sorted(files):
        stem, ending = os.path.splitext(name)
        if ending in (".c", ".cc", ".py", ".sh") and stem.endswith("_test"):
            tests.append(name)
        elif ending in (".h", ".c", ".cc"):
            found.setdefault(stem, []).append(name)
        elif ending in (".hpp", ".def", ".py", ".sh", ".bzl", ".pml", ".map", ".js"):
            found.setdefault(name, []).append(name)
    listed = []
    for stem in sorted(found):
        names = sorted(found[stem], key=lambda name: not name.endswith(".h"))
        listed.append((names, os.path.join(room, names[0])))
    return listed, tests


def item(text):
    return textwrap.fill(
        text, WIDTH, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False
    )


def generated(room, table):
    sentence, targets = table[room]
    lines = ["# %s: %s" % (room, sentence), "", BEGIN, ""]
    about = []
    if targets:
        about.append("Names %s." % ", ".join("`%s`" % target for target in targets))
    if prefixes(room):
        about.append(
            "What crosses files is called %s."
            % ", ".join("`hak_%s`" % name for name in prefixes(room))
        )
    if about:
        lines += [textwrap.fill(" ".join(about), WIDTH), ""]
    listed, tests = units(room, table)
    for names, path in listed:
        said = first_sentence(path)
        lines.append(
            item(
                "%s%s"
                % (", ".join("`%s`" % name for name in names), ": " + said + "." if said else "")
            )
        )
    if tests:
        lines.append(item("Tests: %s." % ", ".join("`%s`" % name for name in tests)))
    if listed or tests:
        lines.append("")
    return "\n".join(lines + [END])


def renewed(room, text, table):
    """The README's text with the generated part as it should be."""
    rest = text.split(END, 1)[1] if END in text else "\n" + re.sub(r"^# [^\n]*\n", "", text)
    return generated(room, table) + rest


def main():
    table = rooms.table()
    stale = 0
    for room in filter(prefixes, table):
        path = rooms.at(os.path.join(room, "README.md"))
        text = rooms.read(os.path.join(room, "README.md"))
        new = renewed(room, text, table)
        if new != text and "--check" in sys.argv:
            print("%s/README.md is not up to date: run tools/gen_rooms.py" % room)
            stale = 1
        elif new != text:
            with open(path, "w", encoding="utf-8") as stream:
                stream.write(new)
    return stale


if __name__ == "__main__":
    sys.exit(main())
