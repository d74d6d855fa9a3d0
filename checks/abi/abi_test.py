"""The binary interface is the one that abi.txt states: exported names, declarations, layouts.

abi_test.py LIST [--write FILE] VARIANT=LIBRARY...

What is exported is read from each variant's libhakmem.so; sizes, offsets and values come from the
compiler, which is asked about hakmem/hakmem.h. docs/abi.md says which changes are allowed.
"""

import os
import re
import subprocess
import sys
import tempfile
import unittest

TOP = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
sys.path.insert(0, os.path.join(TOP, "tools"))
import public_header  # noqa: E402

LIST = ""
LIBRARIES = {}
# Exported for debuggers and for hakmem's own programs; no installed header declares it.
UNDECLARED = {"hak_super_lookup"}
HEAD = """\
# The binary interface of libhakmem.so.0, one fact a line; docs/abi.md says what may change.
# Renewed by: ./bazelw run //checks/abi:abi_test -- --write $PWD/checks/abi/abi.txt
"""


def output(*command):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout


def exported(library):
    """Names that the library defines for others."""
    rows = [line.split() for line in output("readelf", "--dyn-syms", "-W", library).splitlines()]
    return sorted(
        row[7]
        for row in rows
        if len(row) >= 8 and row[6] != "UND" and row[4] in ("GLOBAL", "WEAK") and row[6].isdigit()
    )


def soname(library):
    return re.search(r"\(SONAME\).*\[(.*)\]", output("readelf", "-d", library)).group(1)


def asking_program(text):
    """A C program that prints what the compiler makes of the header's types and constants."""
    lines = ["#include <stddef.h>", "#include <stdio.h>", '#include "hakmem/hakmem.h"']
    lines.append("int main(void)\n{")
    for name, fields in public_header.structs(text).items():
        lines.append('printf("struct %s size %%zu align %%zu\\n",' % name)
        lines.append("       sizeof(struct %s), _Alignof(struct %s));" % (name, name))
        for field in fields:
            what = (name, field)
            lines.append('printf("field %s.%s at %%zu size %%zu\\n",' % what)
            lines.append("       offsetof(struct %s, %s)," % what)
            lines.append("       sizeof(((struct %s *)0)->%s));" % what)
    for name in public_header.enumerators(text) + public_header.constants(text):
        lines.append('printf("value %s %%lld\\n", (long long)(%s));' % (name, name))
    return "\n".join(lines + ["return 0;\n}\n"])


def layouts(text, top=TOP):
    with tempfile.TemporaryDirectory() as folder:
        source, program = os.path.join(folder, "ask.c"), os.path.join(folder, "ask")
        with open(source, "w", encoding="utf-8") as stream:
            stream.write(asking_program(text))
        output("gcc", "-std=c17", "-Wall", "-Werror", "-I", top, "-o", program, source)
        return output(program).splitlines()


def facts(library):
    text = public_header.read(TOP)
    found = ["soname " + soname(library)]
    found += ["export " + name for name in exported(library)]
    found += ["function " + line for line in public_header.functions(text).values()]
    found += public_header.typedefs(text)
    return found + layouts(text)


def stated():
    with open(LIST, encoding="utf-8") as stream:
        return [line for line in stream.read().splitlines() if line and not line.startswith("#")]


class AbiTest(unittest.TestCase):
    maxDiff = None

    def test_is_as_stated(self):
        now, then = facts(LIBRARIES["release"]), stated()
        gone = [line for line in then if line not in now]
        self.assertEqual([], gone, "programs that were built before break: see docs/abi.md")
        new = [line for line in now if line not in then]
        self.assertEqual([], new, "new in the interface: state it in abi.txt (docs/abi.md)")
        self.assertEqual(len(then), len(set(then)))

    def test_variants_export_the_same(self):
        self.assertGreater(len(LIBRARIES), 2)
        expected = exported(LIBRARIES["release"])
        for variant, library in LIBRARIES.items():
            self.assertEqual(expected, exported(library), variant)
            self.assertEqual("libhakmem.so.%s" % public_header.version(
                public_header.read(TOP)).split(".")[0], soname(library), variant)

    def test_what_is_exported_is_declared(self):
        names = {name for name in exported(LIBRARIES["release"]) if name.startswith("hak_")}
        declared = set(public_header.functions(public_header.read(TOP)))
        self.assertGreater(len(declared), 30)
        self.assertEqual(names - UNDECLARED, declared)

    def test_a_changed_layout_is_seen(self):
        """The test itself: a field that is put in front moves the others, and one is lost."""
        with tempfile.TemporaryDirectory() as top:
            os.mkdir(top + "/hakmem")
            text = public_header.read(TOP)
            changed = text.replace(
                "struct hak_sized_block {\n", "struct hak_sized_block {\n    int first;\n"
            ).replace("    void *context;\n};", "};")
            with open(top + "/hakmem/hakmem.h", "w", encoding="utf-8") as stream:
                stream.write(changed)
            before, after = layouts(text), layouts(changed, top)
        self.assertIn("field hak_sized_block.block at 0 size 8", before)
        self.assertIn("field hak_sized_block.block at 8 size 8", after)
        lost = [line for line in before if line not in after]
        self.assertIn("field hak_hooks.context at 16 size 8", lost)

    def test_every_field_is_asked_for(self):
        """As many fields as there are semicolons and commas in the structs."""
        text = public_header.without_comments(public_header.read(TOP))
        bodies = re.findall(r"(?ms)^struct \w+ \{\n(.*?)^\};", text)
        n = sum(re.sub(r"\(\*?[^()]*\)", "", body).count(";") for body in bodies)
        n += sum(re.sub(r"\([^()]*\)", "", body).count(",") for body in bodies)
        asked = sum(map(len, public_header.structs(text).values()))
        self.assertGreater(asked, 30)
        self.assertEqual(n, asked)


def main():
    global LIST
    LIST, *rest = sys.argv[1:]
    out = None
    while rest:
        argument = rest.pop(0)
        if argument == "--write":
            out = rest.pop(0)
        else:
            variant, _, path = argument.partition("=")
            LIBRARIES[variant] = path
    if out:
        with open(out, "w", encoding="utf-8") as stream:
            stream.write(HEAD + "\n".join(facts(LIBRARIES["release"])) + "\n")
        return
    unittest.main(argv=sys.argv[:1])


if __name__ == "__main__":
    main()
