"""What hakmem/hakmem.h declares, for whatever is made from it or checked against it.

The header has one form: a comment, then the declarations that it is about; `/* --- TITLE --- */`
begins a section. A declaration of a function begins with HAK_API.
"""

import os
import re

PATH = os.path.join("hakmem", "hakmem.h")
SECTION = re.compile(r"/\* --- (.*?) --- \*/")


def read(root):
    """The header's text, from the root of the repository or of a test's run files."""
    with open(os.path.join(root, PATH), encoding="utf-8") as stream:
        return stream.read()


def version(text):
    """MAJOR.MINOR.PATCH."""
    parts = [
        re.search(r"(?m)^#define HAKMEM_VERSION_%s +(\d+)$" % part, text).group(1)
        for part in ("MAJOR", "MINOR", "PATCH")
    ]
    return ".".join(parts)


def without_comments(text):
    return re.sub(r"/\*.*?\*/", " ", text, flags=re.S)


def one_line(text):
    return re.sub(r"\s*\n\s*|\s+", " ", text).strip()


def functions(text):
    """{name: its declaration on one line, without HAK_API}, in the header's order."""
    found = {}
    for declaration in re.findall(r"(?m)^HAK_API ([^;]*);", without_comments(text)):
        line = one_line(declaration)
        found[re.search(r"\b(hak_\w+)\(", line).group(1)] = line
    return found


def structs(text):
    """{name: [field names]} of each struct that is defined, in the header's order."""
    found = {}
    for name, body in re.findall(
        r"(?ms)^struct (\w+) \{\n(.*?)^\};", without_comments(text)
    ):
        fields = []
        for declaration in body.split(";"):
            pointer = re.search(r"\(\*(\w+)\)\(", declaration)
            if pointer:
                fields.append(pointer.group(1))
            elif declaration.strip():
                for part in declaration.split(","):
                    part = re.sub(r"\[.*?\]", "", part)
                    fields.append(re.search(r"(\w+)\s*$", part).group(1))
        found[name] = fields
    return found


def enumerators(text):
    """Names of all enumeration constants, in order."""
    bodies = re.findall(r"\benum \w* ?\{(.*?)\}", without_comments(text), flags=re.S)
    return [re.match(r"\s*(\w+)", item).group(1) for body in bodies for item in body.split(",")]


def typedefs(text):
    """Declarations of types, each on one line."""
    return [one_line(t) for t in re.findall(r"(?m)^(typedef [^;]*);", without_comments(text))]


def constants(text):
    """Names of macros that stand for a value."""
    names = re.findall(r"(?m)^#define (HAK_[A-Z_]+) +\S", text)
    return [name for name in names if name != "HAK_API"]


def sections(text):
    """[(title, [(comment, [function names])])]; the title of what comes first is empty."""
    start = text.index("/* A block of at least")
    parts = SECTION.split(text[start:])
    titles = [""] + parts[1::2]
    found = []
    for title, part in zip(titles, parts[0::2]):
        entries = []
        # A comment, then everything up to the next one that begins a line.
        for comment, code in re.findall(r"(?ms)^/\*(.*?)\*/\n(.*?)(?=^/\*|\Z)", part):
            names = re.findall(r"(?m)^HAK_API [^;]*?\b(hak_\w+)\(", without_comments(code))
            if names:
                entries.append((one_line(comment), names))
            elif entries or re.search(r"(?m)^struct|^typedef|^#define|^enum", code):
                entries.append((one_line(comment), []))
        found.append((title, entries))
    return found
