/* What is found when a process exits, where no call after the misuse would have come to it; and
   that nothing is found in a process that did nothing wrong. */
#include "heap/exit.h"

#include <cstdlib>
#include <cstring>
#include <gtest/gtest.h>
#include <string>
#include <thread>
#include <vector>

#include "hakmem/hakmem.h"
#include "heap/gate.h"
#include "heap/theap.h"
#include "testing/rng.h"

namespace
{

const size_t SIZES[] = {16, 64, 200, 1024, 5000, 20000};

/* Where the second free came while the block was on its way to its slab, or has brought it there,
   its link is wrong, or its memory has gone. */
const char *const kTwice = "hakmem: (block freed twice|freed block written to|invalid pointer "
                           "freed)[^:]*: 0x";

#define EXPECT_FOUND(statement, reason)                                                            \
    EXPECT_EXIT(                                                                                   \
        {                                                                                          \
            statement;                                                                             \
            hak_exit_look();                                                                       \
            exit(0);                                                                               \
        },                                                                                         \
        testing::KilledBySignal(SIGABRT), reason)

std::vector<void *> take(size_t size, int n)
{
    std::vector<void *> blocks(static_cast<size_t>(n));
    for (void *&p : blocks) {
        p = hak_malloc(size);
    }
    return blocks;
}

void free_twice_after(size_t size, int n_between)
{
    std::vector<void *> blocks = take(size, n_between + 1);
    memset(blocks[0], 'p', size); /* a fresh block's first word is a link still */
    for (void *p : blocks) {
        hak_free(p);
    }
    hak_free(blocks[0]);
}

TEST(Exit, ABlockFreedTwiceIsFoundHoweverManyLieBetween)
{
    for (size_t size : SIZES) {
        for (int n_between : {1, 2, 7, 100, 1000}) {
            EXPECT_FOUND(free_twice_after(size, n_between), kTwice) << size << " " << n_between;
        }
    }
}

void free_here_and_there(size_t size)
{
    void *p = hak_malloc(size);
    memset(p, 'p', size);
    std::thread([p] { hak_free(p); }).join();
    hak_free(p);
}

TEST(Exit, ABlockFreedByAnotherThreadTooIsFound)
{
    for (size_t size : SIZES) {
        EXPECT_FOUND(free_here_and_there(size), kTwice) << size;
    }
}

void free_fresh(size_t size)
{
    auto *p = static_cast<char *>(hak_malloc(size));
    hak_free(p + 3 * (hak_usable_size(p) + (HAK_SECURE ? 8 : 0)));
}

TEST(Exit, AFreedBlockThatWasNeverHandedOutIsFound)
{
    for (size_t size : {24u, 1000u}) {
        EXPECT_FOUND(free_fresh(size), "hakmem: (block freed twice|invalid pointer freed)") << size;
    }
}

void write_after_free(size_t size)
{
    void *p = hak_malloc(size);
    hak_free(p);
    memset(p, 'A', size);
}

/* The link leads to where no block begins. */
void flip_after_free(size_t size)
{
    auto *p = static_cast<unsigned char *>(hak_malloc(size));
    hak_free(p);
    *p ^= 1;
}

TEST(Exit, AFreedBlocksBrokenLinkIsFound)
{
    if (HAK_SECURE) {
        GTEST_SKIP() << "its layer looks at what it holds itself, with other words";
    }
    for (size_t size : SIZES) {
        EXPECT_FOUND(write_after_free(size), "hakmem: freed block written to") << size;
        EXPECT_FOUND(flip_after_free(size), "hakmem: freed block written to") << size;
    }
}

TEST(Exit, WhatIsInOrderIsLetBe)
{
    hak_testing::Rng rng(7);
    std::vector<void *> blocks(2000);
    for (int step = 0; step < HAK_TINY_OR(20000, 100000); step++) {
        void *&p = blocks[rng.below(blocks.size())];
        if (p && rng.below(8) == 0) {
            std::thread([&p] { hak_free(p); }).join();
        } else {
            hak_free(p);
        }
        p = rng.below(2) ? hak_malloc(rng.below(rng.below(20) ? 600 : 30000)) : nullptr;
        if (p) {
            memset(p, 'p', hak_usable_size(p));
        }
        if (step % 1000 == 0) {
            hak_exit_look();
        }
    }
    for (void *p : blocks) {
        hak_free(p);
    }
    hak_exit_look();
}

TEST(Exit, AThreadThatIsInsideIsLetBe)
{
    hak_free(hak_malloc(64));
    ASSERT_TRUE(hak_gate_enter());
    hak_exit_look();
    hak_gate_leave();
    std::thread(hak_exit_look).join(); /* one that has no heap */
}

} // namespace
