"""Every kind of misuse of misuse_kinds.c under one variant of libhakmem.so: what it says, and what
still passes; and docs/misuse.md, which shows it beside other allocators.

misuse_kinds_test.py VARIANT PROGRAM LIBRARY PAGE [unittest's arguments]
    VARIANT `guarded` is release with HAKMEM_GUARD=1
misuse_kinds_test.py --update PROGRAM RELEASE DEBUG SECURE PAGE
    writes the page, with what glibc, jemalloc, mimalloc and tcmalloc do here
"""

import os
import re
import signal
import subprocess
import sys
import unittest

TWICE = r"block freed twice"
TWICE_LARGE = (
    TWICE
    + r"(, or invalid pointer freed \(in free memory\))?"
    + r"|invalid pointer freed \(not allocated by hakmem\)"
)
NO_START = r"invalid pointer freed \(not the start of a block\)"
NOT_OURS = r"invalid pointer freed \(not allocated by hakmem\)"
WRONG_SIZE = r"freed with a size that is not the block's"
WRITTEN = r"freed block written to \(its link to the next free block is broken\)"
REALLOC, REALLOC_FREED = r"invalid pointer given to realloc", r"freed block given to realloc"
SIZE, SIZE_FREED = (
    r"invalid pointer given to malloc_usable_size",
    r"freed block given to malloc_usable_size",
)

# What the line says. Two: the second where two owners of one block have written to it before.
REASONS = {
    "twice_in_a_row": TWICE,
    "twice_after_one": TWICE + "|" + WRITTEN,
    "twice_after_many": TWICE,
    "twice_after_purge": TWICE_LARGE,
    "twice_reused": TWICE,
    "twice_mid": TWICE,
    "twice_mid_after_one": TWICE_LARGE + "|" + WRITTEN,
    "twice_span": TWICE_LARGE,
    "twice_span_after_one": TWICE_LARGE,
    "twice_range": TWICE_LARGE,
    "twice_huge": TWICE_LARGE,
    "twice_two_threads": TWICE + "|" + WRITTEN,
    "twice_other_threads": TWICE,
    "free_interior": NO_START,
    "free_unaligned": NO_START,
    "free_interior_mid": NO_START,
    "free_interior_span": NO_START,
    "free_interior_range": NO_START,
    "free_tail": NO_START,
    "free_never_allocated": TWICE,
    "free_stack": NOT_OURS,
    "free_static": NOT_OURS,
    "free_code": NOT_OURS,
    "free_wild": NOT_OURS,
    "free_not_canonical": NOT_OURS,
    "free_high": NOT_OURS,
    "free_small_number": NOT_OURS,
    "free_mapping": NOT_OURS,
    "realloc_freed": REALLOC_FREED,
    "realloc_freed_and_grow": REALLOC_FREED,
    "realloc_freed_after_one": REALLOC_FREED,
    "realloc_freed_span": REALLOC,
    "realloc_interior": REALLOC,
    "realloc_interior_span": REALLOC,
    "realloc_wild": REALLOC,
    "size_freed": SIZE_FREED,
    "size_interior": SIZE,
    "size_wild": SIZE,
    "delete_wrong_size": WRONG_SIZE,
    "overflow_by_one": None,
    "overflow_into_free": WRITTEN,
    "underflow": None,
    "write_first_word": WRITTEN,
    "write_second_word": None,
    "write_all": WRITTEN,
    "write_zeros": WRITTEN,
    "write_ones": WRITTEN,
    "write_address": WRITTEN,
    "write_after_other_thread": WRITTEN,
    "write_freed_mid": WRITTEN,
    "write_freed_span": None,
    "heap_twice": r"heap destroyed twice",
    "heap_block_after": TWICE_LARGE,
    "heap_block_twice": TWICE,
    "heap_block_realloc": r"block of another heap given to hak_heap_realloc",
}
# What release lets pass besides: sizes that deletes name would cost its fast paths a comparison.
PASS_IN_RELEASE = {"delete_wrong_size"}
PEERS = {
    "glibc": "",
    "jemalloc": "libjemalloc.so.2",
    "mimalloc": "libmimalloc.so.2.0",
    "tcmalloc": "libtcmalloc_minimal.so.4",
}
COLUMNS = {"release": 0, "secure": 2, "guarded": 3}  # the others validate
# Every block that a slot can hold lies between guards: docs/guard.md.
GUARDED = {"HAKMEM_GUARD": "1", "HAKMEM_GUARD_SLOTS": "1024"}

# --- the secure variant ---

OVER, UNDER = r"block written to behind its end", r"block written to before its start"
AFTER_FREE = (
    r"freed block written to( \(its first word\)| \(its link to the next free block is broken\))?"
)
NO_DELETE = r"block of malloc given to operator delete"
# Kinds of one size: what is said, where it is not what the others say; None: it passes.
SECURE = {
    "twice_reused": TWICE,
    "free_never_allocated": NO_START + "|" + TWICE + ", or never handed out",
    "realloc_freed_span": REALLOC_FREED,
    "delete_wrong_size": NO_DELETE,
    "overflow_by_one": OVER,
    "overflow_into_free": AFTER_FREE + "|" + OVER,
    "underflow": UNDER,
    "write_first_word": AFTER_FREE,
    "write_second_word": AFTER_FREE,
    "write_all": AFTER_FREE,
    "write_zeros": None,  # which is what is there
    "write_ones": AFTER_FREE,
    "write_address": AFTER_FREE,
    "write_after_other_thread": AFTER_FREE,
    "write_freed_mid": AFTER_FREE,
    "write_freed_span": "fault",
}
# At exit blocks of a page and more are not looked at: the program may have made them unreadable.
PASS_AT_EXIT = {"over_and_end_5000", "over_and_end_20000"}
# Kinds of several sizes: what is said of small ones, and of those above 32 KiB. `fault` is a fault
# where it is touched, None nothing: then what is read is not what was there.
FAULT_OR = r"fault|"
# What lies beside a small block is another block, or a page that may not be touched: it is read, or
# not, or faults.
READ = "read"
# At most the word before it, or a fault if the block is the first one of its 64 KiB.
UNSEEN = "unseen"
STRAY = r"invalid pointer freed \([^)]*\)|" + TWICE + r"(, [^:]*)?"
SECURE_SIZED = {
    "over_1": (OVER, "fault"),
    "over_nul": (OVER, "fault"),
    "over_8": (OVER, "fault"),
    "over_32": (FAULT_OR + OVER, "fault"),
    "over_1m": ("fault", "fault"),
    "under_1": (FAULT_OR + UNDER, "fault"),
    "under_32": (FAULT_OR + UNDER, "fault"),
    "under_1m": ("fault", "fault"),
    "read_freed": (None, "fault"),
    "read_moved": (None, "fault"),
    "read_fresh": (None, None),
    "write_freed_start": (AFTER_FREE, "fault"),
    "write_freed_middle": (AFTER_FREE, "fault"),
    "write_freed_end": (AFTER_FREE, "fault"),
    "write_freed_reuse": (AFTER_FREE, "fault"),
    "write_moved": (AFTER_FREE, "fault"),
    "two": (TWICE, TWICE),
    "two_delayed": (TWICE, TWICE),
    "two_interleaved": (TWICE, TWICE),
    "two_threads": (TWICE, TWICE),
    "inside": (NO_START, NO_START),
    "unaligned": (NO_START, NO_START),
    "before": (NO_START + "|" + TWICE_LARGE, NO_START),
    "realloc_freed": (REALLOC_FREED, REALLOC_FREED),
    "size_freed": (SIZE_FREED, SIZE_FREED),
    "usable": (None, None),
    "wrong_sized": (WRONG_SIZE,) * 2,
    "wrong_free_sized": (WRONG_SIZE,) * 2,
    "wrong_alignment": (r"freed with an alignment that is not the block's",) * 2,
    "delete_of_malloc": (NO_DELETE,) * 2,
    "free_of_new": (r"block of operator new given to free or realloc",) * 2,
    "delete_of_array": (r"block of operator new\[\] given to operator delete",) * 2,
    "array_delete_of_new": (r"block of operator new given to operator delete\[\]",) * 2,
    "realloc_of_new": (r"block of operator new given to free or realloc",) * 2,
    "over_page": (FAULT_OR + OVER, "fault"),
    "over_string": (OVER, "fault"),
    "under_8": (FAULT_OR + UNDER, "fault"),
    "under_page": (FAULT_OR + UNDER, "fault"),
    "over_read_1": (None, "fault"),
    "over_read_8": (None, "fault"),
    "over_read_page": (READ, "fault"),
    "over_read_1m": (READ, "fault"),
    "under_read_1": (UNSEEN, "fault"),
    "under_read_8": (UNSEEN, "fault"),
    "under_read_page": (READ, "fault"),
    "under_read_1m": (READ, READ),  # of 5 MB: the middle of the block before it
    "string_read": (UNSEEN, "fault"),
    "read_freed_delayed": (None, "fault"),
    "write_freed_delayed": (AFTER_FREE, "fault"),
    "read_grown": (None, None),
    "reused_at_once": (None, None),
    "two_by_realloc": (TWICE, TWICE),
    "two_by_delete": (TWICE, TWICE),
    "near_it": (STRAY, STRAY),
    "far_from_it": (STRAY, STRAY),
    "realloc_inside": (REALLOC, REALLOC),
    "realloc_unaligned": (REALLOC, REALLOC),
    "size_inside": (SIZE, SIZE),
    "size_unaligned": (SIZE, SIZE),
    "larger_sized": (WRONG_SIZE,) * 2,
    "wrong_array_sized": (WRONG_SIZE,) * 2,
    "wrong_aligned_sized": (WRONG_SIZE,) * 2,
    "two_and_end": (TWICE, TWICE),
    "two_threads_and_end": (TWICE, TWICE),
    "two_other_threads": (TWICE, TWICE),
    "two_reallocated": (TWICE, TWICE),
    "two_after_move": (TWICE, TWICE),
    "page_behind_it": (STRAY, STRAY),
    "page_before_it": (STRAY, STRAY),
    "over_and_end": (OVER, "fault"),
    "write_freed_and_end": (AFTER_FREE, "fault"),
    "over_appended": (OVER, "fault"),
    "over_moved_up": (OVER, "fault"),
    "over_realloc": (OVER, "fault"),
    "under_realloc": (FAULT_OR + UNDER, "fault"),
    "write_cut_off": (OVER, "fault"),
    "read_freed_reused": (None, "fault"),
    "read_cut_off": (READ, "fault"),
    "read_cut_and_grown": (None, None),
    "over_read_32": (READ, "fault"),
    "under_read_32": (READ, "fault"),
    "larger_by_1": (WRONG_SIZE,) * 2,
    "calloc_too_much": (None, None),
    "reallocarray_too_much": (None, None),
    "negative_sizes": (None, None),
    "bad_alignments": (None, None),
    "reused_soon": (None, None),
    "last_comes_first": (None, None),
    "in_a_row": (None, None),
    "other_size": (None, None),
    "same_in_child": (None, READ),  # where a mapping of its own lies, the system decides
    "empty_calloc_write": ("fault", None),
    "empty_realloc_write": ("fault", None),
    "empty_aligned_write": ("fault", None),
    "empty_read": ("fault", None),
    "empty_write": ("fault", None),
    "empty_twice": (TWICE, None),
}


def secure_reason(kind):
    """What the secure variant says, `fault`, READ, UNSEEN, or None."""
    if kind in REASONS:
        return SECURE.get(kind, REASONS[kind])
    if kind in PASS_AT_EXIT:
        return None
    if kind in SECURE_SIZED:
        return SECURE_SIZED[kind][0]
    name, size = kind.rsplit("_", 1)
    return SECURE_SIZED[name][int(size) > 32768]


BEGIN = """# Misuse: what is found, and what passes

Generated by `preload/misuse_kinds_test.py --update`; the test compares hakmem's
columns with each variant. The programs are [misuse_kinds.c](../preload/misuse_kinds.c) and the
files that it names: each misuses the allocator in one way, and then allocates and frees a few
blocks more, or ends. The other allocators are Debian 12's, run on the same programs by
`LD_PRELOAD`.

- *line*: the process ends with one line that names the reason; for hakmem, and the address.
- *passes*: nothing is seen.
- **two owners**: nothing is seen, and `malloc` then gives one block to two owners, or memory that
  is not the heap's.
- *fault*: the process ends with a fault where it touches what it must not.
- **dies**, **hangs**: a signal without a word, later; no end.
- Two of them: it depends on where the block happens to lie.

'Guarded' is release with `HAKMEM_GUARD=1`, where every block of up to 8 MiB is guarded
([guard.md](guard.md)); at the default rate the same is found once in so many times.
'Validating' are release_validated, debug and tiny. A number is the size of the block. 'Two owners'
of a read: the bytes of whoever had the block before, or of a block beside it, were read; of
`malloc_usable_size`: it counts bytes that were not asked for; of a block that is handed out again
at once: a pointer to the freed one is one to the next; of where blocks lie: it is known from where
others do. A request that no memory has 'passes' where it is refused.

When the program exits, every variant looks at the free blocks that the exiting thread holds
(`HAKMEM_EXIT_CHECK`): what was freed twice, with others in between, by two threads, or never handed
out, and links that were written to, also by a block that lies before a free one. Until then release
finds them when the list is used: a block that another thread has freed and keeps, and that its
owner frees again, when the owner's list, which leads into the other thread's chain then, runs out,
and has three blocks fewer or more than were counted (a signal handler that leaves malloc for good
may cost it one). What release does not find: a block that
is back in its slab (another thread's chain has come home, or `malloc_trim`), is freed again, and
goes to two owners before it is freed again, up to the exit; `realloc` of a block that still waits
in another thread's chain; a block freed twice in a row by a thread that has never allocated, among
its first eight frees, if its owner has collected it in between.

Of the first 2 MiB of a process's heap only the half MiB in the middle that is used first may be
touched until more is needed, but for the secure variant, which guards all: so what goes a MiB
beyond a small program's blocks faults. Where the system refuses to open the rest (`RLIMIT_DATA`
lowered below what is used) it stays closed, and other memory serves.

Both were tried by `LD_PRELOAD` on 443 programs of this sort, of which release found 100 before, 204
with them. They cost no instruction on the fast paths. The look at exit takes some 50 instructions
a block, of at most 8,192: 70 for `/bin/true`, 8,000 for `git --version`. The half MiB takes two
calls of `mprotect` per process, and one more when it is used up.

What the checks cost in release. Against the same code without the checks that came after those of
the fast path (links not encoded, freed blocks not recognised by `realloc`, `malloc_usable_size` and
a sender), instructions of the whole program by callgrind on 50 rows of `bench/workloads`: a median
of 0.9 % more, random_mixed and mid_mt_gap 0.5 to 1.2 %. Above 2 %: prod_cons 8, larson 2 to 6,
xmalloc 1 to 5, mstress 5 (nearly every free is another heap's there; the turns of the threads alone
move such counts by 3 %), `realloc` of 16 to 1,024 bytes 5, strings 2. Against the same code
without any check at all, 57 rows, 15 runs in turn on a busy machine: CPU time 1.025 in the
geometric mean, 1.05 (1.04 to 1.05) for blocks that are freed as soon as they are allocated, 1.10
(1.05 to 1.14) for xmalloc. The checks of `realloc` alone: 1.04 (1.03 to 1.05) of the time for 16 to
1,024 bytes at random, 1.055 (1.04 to 1.07) where the program writes the first byte alone.

`malloc_usable_size` of a freed block is found where the block lies in a list, or in a slab that
shows it as free, but for release where its first word still leads to the block that its list begins
with now, or, while the heap profile meters, to the one that is handed out next: it may just have
been handed out (15 of 84 such programs).

Pages that the program has made unreadable (`mprotect`) and then frees are not made writable again,
except where hakmem looks at them itself: their next owner faults, as under glibc below its
threshold for mappings (which grows with the blocks that are freed, to 32 MiB), jemalloc, tcmalloc,
and mimalloc below 32 MiB. One `mprotect` for each free of a large block would be a system call
where there is none. A program that gives the right back before it frees may do what it wants with
its blocks.

"""


GUARDED_LINE = (
    r"\Ahakmem: [^\n]*: 0x[0-9a-f]+ \(((byte \d+ of|\d+ bytes? (before|behind)) )?"
    r"a (freed )?guarded block of \d+ bytes?( at 0x[0-9a-f]+)?\)\Z"
)
GUARDED_TRACE = (
    r"\Ahakmem: ((touched|found|allocated|freed) by thread \d+(:( 0x[0-9a-f]+)+)?"
    r"|[0-9a-f]+-[0-9a-f]+ r-xp .*)\Z"
)
TOUCHED = 42  # misuse_kinds.c: a fault while it touched what it must not
OTHER_IN_TINY = r"_(1m|page)_|_(196608|5242880)$|^(read_grown|last_comes_first|other_size)_"
RUNS = 4  # of each kind and variant for the page: what depends on chance
# Where the first outcome is none of the page's: where a block lies is chance. So many more runs,
# and so many of them that must be right.
MORE_RUNS, MOST_OF_THEM = 11, 8
NEVER = ("**dies**", "**hangs**")
# Where no guard is in the way, the loader decides what a MiB behind a block or before it hits.
HITS_ANYTHING = r"(over|under)_1m_"


def outcomes(program, kind, library, options=None):
    """All that happens, as the page says it."""
    runs = 1 if library in PEERS.values() else RUNS
    seen = {outcome(program, kind, library, options)[0] for _ in range(runs)}
    return " / ".join(sorted(seen))


def outcome(program, kind, library, options=None):
    """(what happened, the line)"""
    environment = {
        k: v for k, v in os.environ.items() if not k.startswith("HAKMEM_") and k != "LD_PRELOAD"
    }
    environment.update(options or {})
    if library:
        environment["LD_PRELOAD"] = library
    try:
        done = subprocess.run(
            [program, kind],
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=60,
        )
    except subprocess.TimeoutExpired:
        return "**hangs**", ""
    if done.returncode == 0:
        return {"passed": "passes", "harmed": "**two owners**", "none": ""}[
            done.stdout.split()[-1]
        ], done.stderr
    if done.returncode == -signal.SIGABRT and done.stderr:
        return "line", done.stderr
    if done.returncode == -signal.SIGSEGV and "guarded block" in done.stderr:
        return "line", done.stderr
    if done.returncode == TOUCHED:
        return "fault", done.stderr
    return "**dies**", done.stderr


def usual_outcome(program, kind, library, usual, options=None):
    """The outcome: one that `usual` has if that is what most runs bring, since a block may lie at
    the end of its region, or where the one before it lay, once in some hundred. What must never be
    ends the search."""
    never = () if VARIANT != "secure" and re.match(HITS_ANYTHING, kind) else NEVER
    found, line = outcome(program, kind, library, options)
    if found in usual or found in never:
        return found, line
    n_usual, usual_one = 0, None
    for _ in range(MORE_RUNS):
        other = outcome(program, kind, library, options)
        if other[0] in never:
            return other
        if other[0] in usual:
            n_usual, usual_one = n_usual + 1, other
    return usual_one if n_usual >= MOST_OF_THEM else (found, line)


def kinds_of(program):
    text = subprocess.run([program], capture_output=True, text=True, check=True).stdout
    return dict(line.split("\t") for line in text.splitlines())


def rows_of(page):
    """{text: (release, validating, secure, guarded)}"""
    rows = [
        [cell.strip() for cell in line.strip("|\n ").split(" | ")]
        for line in page
        if line.startswith("| ")
    ]
    return {row[0]: tuple(row[1:5]) for row in rows[1:] if len(row) > 4}


def update(program, release, debug, secure, page):
    libraries = {
        "release": release,
        "validating": debug,
        "secure": secure,
        "guarded": release,
        **PEERS,
    }
    kinds = kinds_of(program)
    columns = {
        name: {
            kind: outcomes(program, kind, library, GUARDED if name == "guarded" else None)
            for kind in kinds
        }
        for name, library in libraries.items()
    }
    with open(page, "w", encoding="utf-8") as file:
        file.write(BEGIN)
        file.write("| | %s |\n|%s\n" % (" | ".join(columns), "---|" * (len(columns) + 1)))
        for kind, text in kinds.items():
            file.write(
                "| %s | %s |\n" % (text, " | ".join(column[kind] for column in columns.values()))
            )
        counted = ("line", "fault", "passes", "**two owners**", "**dies**", "**hangs**")
        file.write(
            "\n| Of %d | %s |\n|%s\n"
            % (len(kinds), " | ".join(columns), "---|" * (len(columns) + 1))
        )
        for what in counted:
            cells = [
                str(sum(cell.split(" / ")[0] == what for cell in column.values()))
                for column in columns.values()
            ]
            file.write("| %s | %s |\n" % (what, " | ".join(cells)))


class Misuse(unittest.TestCase):
    def test_every_kind(self):
        kinds = kinds_of(PROGRAM)
        self.assertLessEqual(set(REASONS), set(kinds))
        with open(PAGE, encoding="utf-8") as file:
            rows = rows_of(file)
        for kind, text in kinds.items():
            with self.subTest(kind):
                if VARIANT == "guarded":
                    self.check_guarded(kind, rows[text])
                    continue
                if VARIANT == "secure" or kind not in REASONS:
                    self.check(kind, rows[text])
                    continue
                passes = REASONS[kind] is None or (VARIANT == "release" and kind in PASS_IN_RELEASE)
                found, line = outcome(PROGRAM, kind, LIBRARY)
                self.assertEqual(found, "passes" if passes else "line", line)
                self.assertRegex(
                    line, r"\A\Z" if passes else r"\Ahakmem: (%s): 0x[0-9a-f]+\n\Z" % REASONS[kind]
                )
                self.assertEqual(rows[text][VARIANT != "release"], found, "docs/misuse.md")

    def check_guarded(self, kind, row):
        """By the page: what is found of a guarded block, and what release finds of the others. A
        fault in a slot is reported before the program's own handler runs."""
        cell = set(row[COLUMNS[VARIANT]].split(" / "))
        if re.match("(over_read|under_read|string_read|read_cut_off)_", kind):  # by its side
            cell |= {"fault", "passes"}
        if cell & {"line", "fault"}:  # which one depends on the side of its pages where it lies
            cell |= {"line", "fault"}
        found, text = usual_outcome(PROGRAM, kind, LIBRARY, cell, GUARDED)
        self.assertIn(found, cell, text)
        if "guarded block" in text:
            first, *rest = text.rstrip("\n").split("\n")
            self.assertRegex(first, GUARDED_LINE)
            for line in rest:
                self.assertRegex(line, GUARDED_TRACE)
        elif found == "line":
            self.assertRegex(text, r"\Ahakmem: [^\n]*: 0x[0-9a-f]+\n\Z")

    def check(self, kind, row):
        """Of the secure variant, by the line; of the others, by the page."""
        cell = row[COLUMNS.get(VARIANT, 1)].split(" / ")
        if VARIANT == "tiny" and re.search(OTHER_IN_TINY, kind):
            return  # its heap is smaller: something else lies there, or nothing any more
        if VARIANT != "secure":
            found, line = usual_outcome(PROGRAM, kind, LIBRARY, cell)
            self.assertIn(found, cell, line)
            return
        reason = secure_reason(kind)
        expected = ["passes"] if reason is None else ["fault" if reason == "fault" else "line"]
        if reason and reason.startswith(FAULT_OR):
            expected = ["fault", "line"]
        if reason in (READ, UNSEEN):
            expected = ["fault", "passes"] + (["**two owners**"] if reason == READ else [])
        # A guard may lie before the block, or what was freed may have gone.
        may_die = ["**dies**"] if kind in ("write_freed_span", "underflow") else []
        found, line = usual_outcome(PROGRAM, kind, LIBRARY, expected)  # one byte in 256 is the same
        self.assertIn(found, expected + may_die, line)
        self.assertTrue(set(cell) <= set(expected + ["**dies**"]), "docs/misuse.md: %s" % cell)
        if found == "line":
            reason = reason.replace(FAULT_OR, "")
            self.assertRegex(
                line, r"\Ahakmem: (%s): 0x[0-9a-f]+( \([^\n]*\))?\n\Z" % reason
            )

    def test_few_pass(self):
        n_pass = sum(reason is None for reason in REASONS.values()) + len(PASS_IN_RELEASE)
        self.assertLessEqual(n_pass, 6)


if __name__ == "__main__":
    if sys.argv[1] == "--update":
        update(*sys.argv[2:7])
        sys.exit()
    VARIANT = sys.argv[1]
    PROGRAM, LIBRARY, PAGE = (os.path.abspath(a) for a in sys.argv[2:5])
    unittest.main(argv=[sys.argv[0]] + sys.argv[5:], verbosity=2)
