"""Tests that golden_test finds each kind of defect, on made-up traces and disassemblies."""

import unittest

import golden_test

DISASSEMBLY = """
libhakmem.so:     file format elf64-x86-64

0000000000001000 <malloc>:
    1000:\tmov    0x2f(%rip),%rax        # 2f <x>
    1007:\tcmp    $0x400,%rdi
    100e:\tja     2000 <slow>
    1010:\tret
    1011:\tcall   2000 <slow>
    1016:\tlock cmpxchg %rdx,(%rcx)
    101b:\txchg   %rax,(%rcx)
    101e:\txchg   %ax,%ax
    1020:\tsyscall
    1022:\tdivq   (%rcx)
    1025:\tmfence
    1028:\trep stos %rax,%es:(%rdi)
    102b:\trepz ret
"""
GOOD = [0x1000, 0x1007, 0x100E, 0x1010]
GOLDEN = "# a comment\ntiny_malloc  4  14  # and another\n"


class GoldenTest(unittest.TestCase):
    def problems(self, *traces, golden=GOLDEN):
        instructions = golden_test.parse_disassembly(DISASSEMBLY)
        self.assertEqual(len(instructions), 13)
        return golden_test.problems(
            {"tiny_malloc": list(traces)}, instructions, golden_test.parse_golden(golden)
        )

    def test_good(self):
        self.assertEqual(self.problems(GOOD, GOOD), [])

    def test_count(self):
        for golden in ("tiny_malloc 5 14", "tiny_malloc 3 14", "tiny_malloc 4 3"):
            self.assertEqual(len(self.problems(GOOD, golden=golden)), 1, golden)

    def test_missing(self):
        self.assertEqual(
            self.problems(GOOD, golden=GOLDEN + "mid_free 3 14"), ["mid_free: not traced"]
        )
        self.assertEqual(self.problems(GOOD, golden=""), ["tiny_malloc: not in golden.txt"])

    def test_not_the_same_every_time(self):
        self.assertIn("not the same path", self.problems(GOOD, GOOD[1:])[0])

    def test_forbidden(self):
        for offset, allowed in [
            (0x1011, False),
            (0x1016, False),
            (0x101B, False),
            (0x101E, True),  # a nop of two bytes
            (0x1020, False),
            (0x1022, False),
            (0x1025, False),
            (0x1028, False),
            (0x102B, True),
        ]:
            found = self.problems(GOOD[:2] + [offset] + GOOD[3:])
            self.assertEqual(len(found), 0 if allowed else 1, hex(offset))

    def test_loop(self):
        self.assertEqual(
            self.problems([0x1000, 0x1007, 0x1000, 0x1010]),
            ["tiny_malloc: a loop on the fast path"],
        )

    def test_leaves_the_library(self):
        self.assertEqual(len(self.problems(GOOD[:2] + [0x9999] + GOOD[3:])), 1)
        self.assertEqual(len(self.problems(GOOD[:3] + [0x101E])), 1)
        self.assertTrue(self.problems([]))

    def test_trace(self):
        library, paths = golden_test.parse_trace(
            "object /a/libhakmem.so\ntiny_malloc 1000 1007\ntiny_malloc 1000\n"
        )
        self.assertEqual(library, "/a/libhakmem.so")
        self.assertEqual(paths, {"tiny_malloc": [[0x1000, 0x1007], [0x1000]]})

    def test_readme(self):
        instructions = golden_test.parse_disassembly(DISASSEMBLY)
        head = "# Title\n\n| `nop` | before any section |\n\n## `tiny_malloc`\n\n"
        head += "| Instruction | What for |\n|---|---|\n"
        tables = golden_test.parse_readme(
            head + "| `cmp $1,2` | b |\n| `mov` | a |\n| `ja` | c |\n| `ret` | d |\n"
        )
        self.assertEqual(tables, {"tiny_malloc": ["cmp", "mov", "ja", "ret"]})
        self.assertEqual(
            golden_test.readme_problems(tables, {"tiny_malloc": [GOOD]}, instructions), []
        )
        self.assertEqual(
            len(golden_test.readme_problems(tables, {"tiny_malloc": [GOOD[1:]]}, instructions)), 1
        )
        self.assertEqual(len(golden_test.readme_problems(tables, {}, instructions)), 1)

    def test_update(self):
        self.assertEqual(
            golden_test.updated(GOLDEN, {"tiny_malloc": [[1, 2]]}), GOLDEN.replace("4  14", "2  14")
        )


if __name__ == "__main__":
    unittest.main()
