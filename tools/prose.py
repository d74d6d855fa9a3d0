"""Checks of text for tools/presubmit: lines end at 100 columns, and prose avoids the words of
words.txt.

Prose is Markdown without its code, comments, Python's docstrings, and the texts of .def tables and
of JSON.
"""

import io
import os
import re
import tokenize

FOLDER = os.path.dirname(os.path.abspath(__file__))
MOST_COLUMNS = 100

# Written by a program. The texts in their generators are checked instead.
GENERATED = {
    "base/size_class_of.def",
    "base/size_classes.def",
    "bench/report/vendor/charts.js",
    "bench/workloads/README.md",
    "docs/coverage.md",
    "docs/experiments/superslab_validation.md",
    "docs/malloc_surface.md",
    "docs/locks.md",
    "docs/options.md",
    "docs/results.md",
    "docs/size_classes.md",
    "docs/misuse.md",
    "docs/stats.md",
    "docs/verify.md",
}
# Scripts and styles of pages, and the model: comments as in C, lines of any length.
ANY_LENGTH = (".js", ".css", ".pml")
C_NAMES = (".c", ".h", ".hpp", ".cc", ".js", ".css", ".pml")
SCRIPTS = {"bazelw", "tools/packages", ".bazelrc", ".clang-format", ".gitignore"}
PYTHON_NAMES = (".py", ".bzl", ".bazel", ".BUILD")


def kind_of(name):
    """The language of a file: a key of PROSE. None for a file that is not checked."""
    base = os.path.basename(name)
    if name in GENERATED:
        return None
    if name.endswith(C_NAMES):
        return "c"
    if name.endswith(PYTHON_NAMES) or base in ("WORKSPACE", "BUILD") or name == "tools/presubmit":
        return "python"
    if name.endswith(".sh") or name in SCRIPTS:
        return "shell"
    return {".md": "markdown", ".def": "def", ".json": "json"}.get(os.path.splitext(name)[1])


def is_checked(name):
    return kind_of(name) is not None


def has_no_break(line):
    """True if the word that crosses the last column is a link, which cannot be broken."""
    start = line.rfind(" ", 0, MOST_COLUMNS + 1) + 1
    word = line[start:].split(" ")[0]
    return "](" in word or "://" in word


def columns(name, text):
    """The numbers of the lines that are too long. Rows of tables may have any length."""
    kind = kind_of(name)
    found = []
    if name.endswith(ANY_LENGTH):
        return found
    for number, line in enumerate(text.split("\n"), 1):
        is_row = kind == "markdown" and line.lstrip().startswith("|")
        is_row = is_row or kind == "json" or (kind == "def" and re.match(r"[A-Z_]+\(", line))
        if len(line) > MOST_COLUMNS and not is_row and not has_no_break(line):
            found.append(number)
    return found


def c_prose(text):
    token = r'/\*.*?\*/|(?://[^\n]*\n[ \t]*)*//[^\n]*|"(?:\\.|[^"\\\n])*"' + r"|'(?:\\.|[^'\\\n])+'"
    for match in re.finditer(token, text, flags=re.S):
        if match.group().startswith("/"):
            yield text.count("\n", 0, match.start()) + 1, re.sub(
                r"(?m)^\s*(//|\*)|\*/$", "", match.group()
            )


def def_prose(text):
    """Comments, and the texts of the rows; adjacent strings are one text, as in C."""
    yield from c_prose(text)
    plain = re.sub(
        r"/\*.*?\*/", lambda match: re.sub(r"[^\n]", " ", match.group()), text, flags=re.S
    )
    for match in re.finditer(r'"(?:\\.|[^"\\])*"(?:\s*"(?:\\.|[^"\\])*")*', plain):
        yield plain.count("\n", 0, match.start()) + 1, re.sub(r'"(\s*)"', r"\1", match.group())


def python_prose(text):
    """Comments (adjacent lines are one text), and docstrings: strings that are statements."""
    previous, lines, start = tokenize.NEWLINE, [], 0
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        if token.type == tokenize.COMMENT:
            start = start if lines else token.start[0]
            lines.append(token.string.lstrip("#"))
            continue
        if lines and token.type != tokenize.NL:
            yield start, "\n".join(lines)
            lines = []
        if token.type == tokenize.STRING and previous in (tokenize.NEWLINE, tokenize.INDENT):
            yield token.start[0], token.string
        if token.type not in (tokenize.NL, tokenize.DEDENT):
            previous = token.type


def shell_prose(text):
    for match in re.finditer(r"(?m)(?:^[ \t]*#[^\n]*\n)*(?:^[ \t]*|[ \t])#[^\n]*$", text):
        yield text.count("\n", 0, match.start()) + 1, re.sub(r"(?m)^\s*#", "", match.group())


def markdown_prose(text):
    """Paragraphs, items and tables. Lines that are indented by four spaces behind an empty one are
    code."""
    number = 1
    for block in re.split(r"(\n{2,})", text):
        if not re.match(r"    |\n", block):
            yield number, re.sub(
                r"`[^`]*`", lambda match: re.sub(r"[^\n]", "-", match.group()), block
            )
        number += block.count("\n")


def json_prose(text):
    for match in re.finditer(r'"text": "((?:\\.|[^"\\])*)"', text):
        yield text.count("\n", 0, match.start()) + 1, match.group(1)


PROSE = {
    "c": c_prose,
    "def": def_prose,
    "json": json_prose,
    "markdown": markdown_prose,
    "python": python_prose,
    "shell": shell_prose,
}


def read_words(text):
    """words.txt: [(regular expression, what to write instead)]. A space stands for any white
    space."""
    rows = []
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            pattern, _, advice = line.partition("\t")
            pattern = re.compile(r"\b(?:%s)\b" % pattern.replace(" ", r"\s+"), re.I)
            rows.append((pattern, advice.strip()))
    return rows


def words(name, text, rows):
    """[(line, words found, what to write instead)] for the prose of a file."""
    found = []
    for start, chunk in PROSE[kind_of(name)](text):
        for pattern, advice in rows:
            for match in pattern.finditer(chunk):
                line = start + chunk.count("\n", 0, match.start())
                found.append((line, " ".join(match.group().split()), advice))
    return sorted(found)


def default_words():
    with open(os.path.join(FOLDER, "words.txt"), encoding="utf-8") as stream:
        return read_words(stream.read())
