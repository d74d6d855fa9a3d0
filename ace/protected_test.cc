/* Blocks that the program frees or resizes with pages in them that cannot be read or written: no
   call of the allocator's faults on them, and what it looks at becomes writable. */
#include <cstring>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include "ace/ace.h"
#include "ace/zero.h"
#include "base/os.h"
#include "testing/failing_os.h"
#include "testing/in_child.h"

namespace
{

/* Protects the pages in the middle of the block, or all of them. */
void protect(char *p, size_t size, int prot, bool all)
{
    size_t page = hak_os_page_size();
    uintptr_t first = reinterpret_cast<uintptr_t>(p) + (all ? 0 : size / 2);
    first = (first + page - 1) & ~(page - 1);
    uintptr_t end = reinterpret_cast<uintptr_t>(p) + size;
    size_t bytes = all ? (end - first) & ~(page - 1) : page;
    ASSERT_EQ(mprotect(reinterpret_cast<void *>(first), bytes, prot), 0);
}

/* Fresh blocks, which are looked at at their end, in a process that has learnt nothing of such
   blocks, and then in one that has. None is used again: that is the next test's. */
void end_of_protected(size_t size, int prot, bool all, int way)
{
    char *blocks[12];
    hak_zero_forget();
    for (char *&p : blocks) {
        size_t i = static_cast<size_t>(&p - blocks);
        p = static_cast<char *>(i % 2 ? hak_ace_alloc_zeroed(size, 1) : hak_ace_alloc(size, 1));
        ASSERT_NE(p, nullptr);
        for (size_t at = 0; at < size && i % 4 < 2; at += 4096) {
            p[at] = 1;
        }
        protect(p, size, prot, all);
    }
    for (char *p : blocks) {
        void *q = way == 0 ? nullptr : hak_ace_resize(p, way == 1 ? size / 2 : size + size / 2);
        hak_ace_free(q ? q : p);
    }
    EXPECT_EQ(hak_ace_verify(), 0);
}

TEST(Protected, NoFreeOrResizeFaults)
{
    for (size_t size : {100000, 700000, 3 << 20, 20 << 20}) {
        for (int prot : {PROT_NONE, PROT_READ}) {
            for (bool all : {false, true}) {
                for (int way : {0, 1, 2}) {
                    SCOPED_TRACE(testing::Message() << size << " bytes, prot " << prot << ", all "
                                                    << all << ", way " << way);
                    hak_testing::in_child([=] { end_of_protected(size, prot, all, way); });
                }
            }
        }
    }
}

/* A block that shrinks and grows is looked at, once. */
TEST(Protected, ShrunkAgainAndAgain)
{
    hak_testing::in_child([] {
        size_t size = 6 << 20;
        char *p = static_cast<char *>(hak_ace_alloc_growing(size));
        ASSERT_NE(p, nullptr);
        for (int i = 0; i < 20; i++) {
            protect(p, size, PROT_NONE, false);
            char *q = static_cast<char *>(hak_ace_resize(p, size / 3));
            p = q ? q : p;
            q = static_cast<char *>(hak_ace_resize(p, size));
            ASSERT_EQ(q, p);
            protect(p, size, PROT_READ | PROT_WRITE, false);
            memset(p, 1, size);
        }
        hak_ace_free(p);
    });
}

/* The program restores the right before it frees: all is as if it had never been taken. */
TEST(Protected, GivenBackBeforeTheFree)
{
    hak_testing::in_child([] {
        for (size_t size : {100000, 700000, 3 << 20}) {
            for (int i = 0; i < 50; i++) {
                char *p = static_cast<char *>(i % 2 ? hak_ace_alloc_zeroed(size, 1)
                                                    : hak_ace_alloc(size, 1));
                memset(p, 1, size);
                protect(p, size, PROT_NONE, i % 3 == 0);
                protect(p, size, PROT_READ | PROT_WRITE, true);
                hak_ace_free(p);
            }
        }
        EXPECT_EQ(hak_ace_verify(), 0);
    });
}

/* Where the system refuses to make it readable, nothing is looked at. */
TEST(Protected, RefusedByTheSystem)
{
    hak_testing::in_child([] {
        hak_zero_forget();
        char *p = static_cast<char *>(hak_ace_alloc(3 << 20, 1));
        protect(p, 3 << 20, PROT_NONE, true);
        hak_os_ops.mprotect = [](void *, size_t, int) {
            errno = ENOMEM;
            return -1;
        };
        hak_ace_free(p);
        EXPECT_EQ(hak_zero_touched(3 << 20, 0), 0u);
    });
}

/* What is looked at when it is freed may be written to by its next owner. */
TEST(Protected, WhatIsLookedAtBecomesWritable)
{
    hak_testing::in_child([] {
        hak_zero_forget();
        char *p = static_cast<char *>(hak_ace_alloc(3 << 20, 1));
        memset(p, 1, 3 << 20);
        protect(p, 3 << 20, PROT_NONE, true);
        hak_ace_free(p);
        EXPECT_EQ(hak_ace_alloc(3 << 20, 1), p);
        memset(p, 1, 3 << 20);
    });
}

} // namespace
