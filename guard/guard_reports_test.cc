/* What is said of misuse of guarded blocks. */
#include <csignal>
#include <gtest/gtest.h>

#include "guard/guard_testing.h"
#include "hakmem/hakmem.h"

namespace
{

using namespace guard_testing;

TEST_F(Guard, BehindTheEnd)
{
    DIES(SIGSEGV, touch(guarded_at(96, true) + 96),
         with_stacks("block " WRITTEN " behind its end: 0x[0-9a-f]+ \\(1 byte behind a guarded "
                     "block of 96 bytes at 0x"));
    DIES(SIGSEGV, look(guarded_at(4096, false) + 4096 + 9),
         with_stacks("block " READ " behind its end: 0x[0-9a-f]+ \\(10 bytes behind a guarded "
                     "block of 4096 bytes at 0x"));
    DIES(
        SIGABRT,
        {
            char *p = guarded_at(100, true);
            touch(p + 100);
            hak_free(p);
        },
        with_stacks("block written to behind its end: 0x[0-9a-f]+ \\(a guarded block of 100 "
                    "bytes\\)"));
    DIES(
        SIGABRT,
        {
            char *p = guarded_at(100, false);
            touch(p + 163);
            hak_free(p);
        },
        with_stacks("block written to behind its end"));
}

TEST_F(Guard, BeforeTheStart)
{
    DIES(SIGSEGV, touch(guarded_at(100, false) - 1),
         with_stacks("block " WRITTEN " before its start: 0x[0-9a-f]+ \\(1 byte before a guarded "
                     "block of 100 bytes at 0x"));
    DIES(SIGSEGV, look(guarded_at(4096, true) - 32),
         with_stacks("block " READ " before its start: 0x[0-9a-f]+ \\(32 bytes before a"));
    DIES(
        SIGABRT,
        {
            char *p = guarded_at(100, true);
            touch(p - 64);
            hak_free(p);
        },
        with_stacks("block written to before its start"));
}

TEST_F(Guard, AfterTheFree)
{
    DIES(
        SIGSEGV,
        {
            char *p = guarded(100);
            hak_free(p);
            touch(p + 12);
        },
        with_stacks("freed block " WRITTEN ": 0x[0-9a-f]+ \\(byte 12 of a freed guarded block of "
                    "100 bytes at 0x") +
            "[^\n]*\nhakmem: freed by thread [0-9]+: 0x");
    DIES(
        SIGSEGV,
        {
            char *p = guarded(100);
            hak_free(p);
            look(p);
        },
        with_stacks("freed block " READ ": 0x[0-9a-f]+ \\(byte 0 of a freed"));
    DIES(
        SIGSEGV,
        {
            char *q = guarded(100);
            void *moved = hak_realloc(q, 300);
            escape(moved);
            look(q);
        },
        with_stacks("freed block " READ));
}

TEST_F(Guard, LargeBlocks)
{
    DIES(SIGSEGV, touch(guarded_at(81920, true) + 81920),
         with_stacks("block " WRITTEN " behind its end: 0x[0-9a-f]+ \\(1 byte behind a guarded "
                     "block of 81920 bytes at 0x"));
    DIES(SIGSEGV, look(guarded_at(81920, false) - 1),
         with_stacks("block " READ " before its start: 0x[0-9a-f]+ \\(1 byte before a"));
    DIES(
        SIGSEGV,
        {
            char *p = guarded(100000);
            hak_free(p);
            look(p + 50000);
        },
        with_stacks("freed block " READ ": 0x[0-9a-f]+ \\(byte 50000 of a freed guarded block of "
                    "100000 bytes"));
    DIES(
        SIGABRT,
        {
            char *p = guarded_at(99999, true);
            touch(p + 99999);
            hak_free(p);
        },
        with_stacks("block written to behind its end: 0x[0-9a-f]+ \\(a guarded block of 99999"));
    DIES(
        SIGABRT,
        {
            char *p = guarded(100000);
            hak_free(p);
            hak_free(p);
        },
        with_stacks("block freed twice"));
}

TEST_F(Guard, BlocksOfADestroyedHeap)
{
    DIES(
        SIGSEGV,
        {
            hak_heap *heap = hak_heap_create();
            char *p = static_cast<char *>(hak_heap_malloc(heap, 100));
            hak_heap_destroy(heap);
            look(p);
        },
        with_stacks("freed block " READ) + "[^\n]*\nhakmem: freed by thread [0-9]+: 0x");
    DIES(
        SIGABRT,
        {
            hak_heap *heap = hak_heap_create();
            char *p = static_cast<char *>(hak_heap_malloc(heap, 100));
            touch(p + 100);
            hak_heap_destroy(heap);
        },
        with_stacks("block written to behind its end"));
    DIES(
        SIGABRT,
        {
            hak_heap *heap = hak_heap_create();
            hak_heap *other = hak_heap_create();
            escape(hak_heap_realloc(other, hak_heap_malloc(heap, 100), 10));
        },
        "block of another heap given to hak_heap_realloc");
}

TEST_F(Guard, SizeZero)
{
    DIES(SIGSEGV, touch(guarded(0)), with_stacks("block " WRITTEN " behind its end"));
}

TEST_F(Guard, FreedTwiceOrWrong)
{
    DIES(
        SIGABRT,
        {
            char *p = guarded(100);
            hak_free(p);
            hak_free(p);
        },
        with_stacks("block freed twice: 0x[0-9a-f]+ \\(a freed guarded block of 100 bytes\\)"));
    DIES(SIGABRT, hak_free(guarded(100) + 16),
         with_stacks("invalid pointer freed \\(not the start of a block\\): 0x[0-9a-f]+ \\(byte 16 "
                     "of a guarded block of 100 bytes at 0x"));
    DIES(
        SIGABRT,
        {
            char *p = guarded(100);
            hak_free(p);
            escape(hak_realloc(p, 10));
        },
        with_stacks("freed block given to realloc"));
    DIES(SIGABRT, escape(hak_realloc(guarded(100) + 8, 10)),
         with_stacks("invalid pointer given to realloc"));
    DIES(SIGABRT, hak_usable_size(guarded(100) + 8),
         with_stacks("invalid pointer given to malloc_usable_size"));
    DIES(
        SIGABRT,
        {
            char *p = guarded(100);
            hak_free(p);
            hak_usable_size(p);
        },
        with_stacks("freed block given to malloc_usable_size"));
    DIES(
        SIGABRT,
        {
            hak_heap *heap = hak_heap_create();
            escape(hak_heap_realloc(heap, guarded(100), 10));
        },
        "block of another heap given to hak_heap_realloc");
}

TEST_F(Guard, NothingThatTheGuardsHoldIsKnownToOthers)
{
    hak_guard_stop();
    DIES(SIGABRT, hak_free(reinterpret_cast<void *>(hak_guard_base + 8)),
         "invalid pointer freed \\(not the start of a block\\)");
}

TEST_F(Guard, TheMappingsOfTheCodeAreNamed)
{
    DIES(SIGSEGV, touch(guarded_at(96, true) + 96),
         "hakmem: [0-9a-f]+-[0-9a-f]+ r-xp .*guard_reports_test");
}

TEST_F(Guard, AHookIsToldOfWhatAFreeFinds)
{
    DIES(
        SIGABRT,
        {
            hak_on_corruption([](const char *reason, const void *,
                                 void *) { fprintf(stderr, "told of: %s\n", reason); },
                              nullptr);
            char *p = guarded(100);
            hak_free(p);
            hak_free(p);
        },
        "told of: block freed twice");
}

} // namespace
