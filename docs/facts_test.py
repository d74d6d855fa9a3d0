"""Figures in prose are those of the code.

A page of Markdown marks such a figure by a comment in front of it, which readers of the page do not
see: `<!-- fact: golden tiny_malloc -->14`. The figure is a number, with a unit if it has one, or a
word from "one" to "twelve". The comment may name:

  golden PATH        instructions of a fast path, from bench/golden/golden.txt
  option VARIABLE    the default of an option, from base/options.def
  define NAME        a constant of the C sources outside of the tiny variant
  classes LOW HIGH   how many size classes there are above LOW and up to HIGH bytes
  doubling LOW HIGH  the same for each doubling of the size from LOW to HIGH
  tail SIZE          the part of a slab, in %, that the class of SIZE leaves unused at its end
  arrows             the parts of //:arrows_test, named up to the end of the sentence

Also every variable HAKMEM_... that a page names is one of base/options.def.
"""

import glob
import os
import re
import sys
import unittest

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
sys.path.insert(0, os.path.join(ROOT, "tools"))

import gen_docs  # noqa: E402

PAGES = ["README.md"] + ["docs/" + os.path.basename(p) for p in glob.glob(ROOT + "/docs/*.md")]
# Folders that are no part of the allocator.
OTHERS = ("bench", "checks", "examples", "preload", "testing")
WORDS = "zero one two three four five six seven eight nine ten eleven twelve".split()
UNITS = {"": 1, "k": 1024, "m": 1024**2, "g": 1024**3}
UNITS.update({"KiB": 1024, "MiB": 1024**2, "GiB": 1024**3})
MARK = re.compile(r"<!-- fact: ([^>]*?) -->")
FIGURE = re.compile(r"(\d[\d,]*(?:\.\d+)?)(?:\s?([KMG]iB)\b|([kmg])\b)?|([a-z]+)\b")
# Named on a page, but no option: a pattern for all of them, and a constant of the build.
NO_OPTIONS = {"HAKMEM_", "HAKMEM_VARIANT", "HAKMEM_VERSION"}


def read(*path):
    with open(os.path.join(ROOT, *path), encoding="utf-8") as file:
        return file.read()


def shown(text):
    """The figure at the start of a text, as a number."""
    match = FIGURE.match(text)
    if not match:
        raise ValueError("no figure: " + text[:30])
    number, binary, suffix, word = match.groups()
    if word:
        return WORDS.index(word)
    return float(number.replace(",", "")) * UNITS[binary or suffix or ""]


def value_of_c(text):
    """A constant's text as a number: casts and suffixes go, HAK_TINY_OR takes its second value."""
    text = re.sub(r"/\*.*?\*/|\((?:size_t|u?int\d+_t)\)", "", text)
    text = re.sub(r"HAK_TINY_OR\(([^,]*),(.*)\)", r"(\2)", text)
    text = text.replace("HAK_KIB", "1024").replace("HAK_MIB", "1048576")
    text = re.sub(r"\b(\d+)[uUlL]+", r"\1", text).strip()
    if not re.fullmatch(r"[\d\s()*+<-]+", text):
        raise ValueError("no constant: " + text)
    return eval(text)  # pylint: disable=eval-used


def defines():
    """{name: [its values]} of the C sources."""
    found = {}
    for path in glob.glob(os.path.join(ROOT, "*", "*.[ch]")):
        if os.path.basename(os.path.dirname(path)) not in OTHERS:
            for name, text in re.findall(r"(?m)^#define (\w+)[ \t]+(\S.*)$", read(path)):
                found.setdefault(name, []).append(text)
    return found


class Facts:
    """The figures of the code."""

    def __init__(self):
        golden = read("bench", "golden", "golden.txt")
        self.paths = dict(re.findall(r"(?m)^(\w+)\s+(\d+)", golden))
        options = gen_docs.rows(os.path.join(ROOT, "base", "options.def"), "OPTION")
        self.options = {row[1]: row for row in options}
        classes = gen_docs.rows(os.path.join(ROOT, "base", "size_classes.def"), "SIZE_CLASS")
        self.tails = {int(row[1]): float(row[5]) for row in classes}
        self.defines = defines()

    def option(self, name):
        row = self.options[name]
        value = int(gen_docs.default_of(row[3])[0])
        return value / 1000 if row[2] == "RATIO" else value

    def define(self, name):
        texts = self.defines[name]
        if len(texts) != 1:
            raise ValueError("%s is defined %d times" % (name, len(texts)))
        return value_of_c(texts[0])

    def classes(self, low, high):
        return sum(low < size <= high for size in self.tails)

    def value(self, fact):
        kind, *names = fact.split()
        if kind == "golden":
            return int(self.paths[names[0]])
        if kind == "classes":
            return self.classes(*map(int, names))
        if kind == "doubling":
            low, high = map(int, names)
            steps = [low << n for n in range(high // low) if low << n < high]
            (count,) = {self.classes(step, step * 2) for step in steps}
            return count
        if kind == "tail":
            return self.tails[int(names[0])]
        return {"option": self.option, "define": self.define}[kind](names[0])


def facts_of(text):
    """[(fact, the text behind it)]. A line break counts as a blank; a mark in code is no mark."""
    text = re.sub(r"`[^`]*`", "``", re.sub(r"\s+", " ", text))
    return [(match.group(1), text[match.end() :].lstrip()) for match in MARK.finditer(text)]


def parts_of_arrows(text):
    """The folders that //:arrows_test names."""
    rows = re.search(r"arrows = \{(.*?)\n    \}", text, flags=re.S).group(1)
    labels = re.findall(r'(?m)^        "//(\w+)[:"]', rows)
    return sorted(set(labels))


class FactsTest(unittest.TestCase):
    def test_pages(self):
        facts = Facts()
        n = 0
        for page in PAGES:
            for fact, text in facts_of(read(page)):
                n += 1
                with self.subTest(page=page, fact=fact):
                    if fact == "arrows":
                        named = sorted(set(re.findall(r"\w+", text.split(".")[0])))
                        self.assertEqual(named, parts_of_arrows(read("BUILD.bazel")))
                    else:
                        self.assertAlmostEqual(shown(text), facts.value(fact))
        self.assertGreater(n, 20, "the marks are found")

    def test_variables_are_options(self):
        known = set(Facts().options) | NO_OPTIONS
        for page in PAGES:
            for name in sorted(set(re.findall(r"\bHAKMEM_[A-Z_]*", read(page)))):
                with self.subTest(page=page):
                    self.assertIn(name, known)


class IndexTest(unittest.TestCase):
    def test_each_page_is_in_the_index(self):
        index = read("docs", "README.md")
        for page in PAGES:
            if page.startswith("docs/") and page != "docs/README.md":
                self.assertIn("](%s)" % os.path.basename(page), index)


class OwnTest(unittest.TestCase):
    """That a wrong figure would be seen."""

    def test_shown(self):
        rows = [("14 instr", 14), ("8,192 such", 8192), ("128k.", 131072), ("48 MiB.", 50331648)]
        rows += [("five a doubling", 5), ("12.5 % of", 12.5), ("7/8 of", 7), ("500 ms", 500)]
        for text, value in rows:
            self.assertEqual(shown(text), value, text)
        for text in ("many", "-"):
            self.assertRaises(ValueError, shown, text)

    def test_constants(self):
        rows = [("HAK_TINY_OR(64u, 2048u) /* x */", 2048), ("((size_t)128 * HAK_KIB)", 131072)]
        rows += [("10u", 10), ("HAK_TINY_OR(4096, 262144)", 262144), ("(1 << 4)", 16)]
        for text, value in rows:
            self.assertEqual(value_of_c(text), value, text)
        self.assertRaises(ValueError, value_of_c, "OTHER + 1")

    def test_facts_are_found(self):
        text = "x <!-- fact: golden tiny_free\n-->\n25 y <!-- fact: tail 20480 -->6.2 %"
        self.assertEqual([fact for fact, _ in facts_of(text)], ["golden tiny_free", "tail 20480"])
        facts = Facts()
        self.assertEqual([shown(t) == facts.value(f) for f, t in facts_of(text)], [True, True])
        wrong = facts_of("<!-- fact: golden tiny_free -->24")[0]
        self.assertNotEqual(shown(wrong[1]), facts.value(wrong[0]))
        self.assertRaises(KeyError, facts.value, "golden no_path")
        self.assertRaises(KeyError, facts.value, "define NO_SUCH_NAME")

    def test_arrows(self):
        text = 'x(\n    arrows = {\n        "//a": [],\n        "//b:c": ["//a"],\n    },\n)'
        self.assertEqual(parts_of_arrows(text), ["a", "b"])


if __name__ == "__main__":
    unittest.main()
