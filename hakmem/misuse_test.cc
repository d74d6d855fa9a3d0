/* Death tests: what free and realloc say of pointers that they should not have been given. Each line names reason and
   pointer, in every variant. */
#include "hakmem/hakmem.h"

#include <cinttypes>
#include <cstdio>
#include <cstdlib>
#include <gtest/gtest.h>
#include <string>
#include <thread>
#include <vector>

#include "base/attributes.h"
#include "base/size_classes.h"
#include "hakmem/heap.h"

namespace
{

const char *const kTwice = "block freed twice";
const char *const kInterior = "invalid pointer freed \\(not the start of a block\\)";
const char *const kForeign = "invalid pointer freed \\(not allocated by hakmem\\)";
const char *const kFreeUnit = "block freed twice, or invalid pointer freed \\(in free memory\\)";
const char *const kTwiceSomehow = "block freed twice(, or invalid pointer freed \\(in free memory\\))?";
const char *const kRealloc = "invalid pointer given to realloc";

std::string line(const char *reason, const void *p)
{
    char hex[32];
    snprintf(hex, sizeof hex, "0x%" PRIxPTR, reinterpret_cast<uintptr_t>(p));
    /* The whole of standard error. */
    return "^hakmem: " + std::string(reason) + ": " + hex + "\n$";
}

#define EXPECT_ABORT(statement, reason, p) EXPECT_EXIT(statement, testing::KilledBySignal(SIGABRT), line(reason, p))

void *at(void *p, size_t offset)
{
    return static_cast<char *>(p) + offset;
}

/* Frees the first n, then the next one twice. */
void free_twice_after(const std::vector<void *> &blocks, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        hak_free(blocks[i]);
    }
    hak_free(blocks[n]);
    hak_free(blocks[n]);
}

TEST(MisuseDeathTest, SmallBlockFreedTwiceInARow)
{
    for (uint32_t c = 0; c < SC_N_CLASSES; c += 4) {
        void *p = hak_malloc(sc_table[c].size);
        EXPECT_ABORT((hak_free(p), hak_free(p)), kTwice, p);
        hak_free(p);
    }
}

/* Of the variants that validate: whatever was freed in between, and by whatever call it comes and goes. */
TEST(MisuseDeathTest, SmallBlockFreedTwiceWithOthersInBetween)
{
    if (!HAK_VALIDATE) {
        GTEST_SKIP() << "release sees it when the block is back in its slab";
    }
    for (size_t size : {1u, 16u, 100u, 512u, 1024u, 4096u, 5000u, 20000u, 32768u}) {
        for (size_t n : {1u, 2u, 5u}) {
            std::vector<void *> blocks;
            for (size_t i = 0; i <= n; i++) {
                blocks.push_back(i % 2 ? hak_malloc(size) : hak_calloc(1, size));
            }
            void *p = blocks[0];
            auto free_all_and_again = [&] {
                hak_free_batch(blocks.data(), blocks.size());
                hak_free(p);
            };
            EXPECT_ABORT(free_all_and_again(), kTwiceSomehow, p); /* its slab may have gone back already */
            EXPECT_ABORT((hak_free(p), hak_free(blocks[1]), hak_free_sized(p, size)), kTwiceSomehow, p);
            hak_free_batch(blocks.data(), blocks.size());
        }
    }
}

/* What a program writes there by chance does no harm. */
TEST(Misuse, AMarkThatTheProgramHasWrittenIsNone)
{
    std::vector<void **> blocks;
    for (int i = 0; i < 100; i++) {
        blocks.push_back(static_cast<void **>(hak_malloc(64)));
        EXPECT_NE(blocks.back()[1], static_cast<void *>(heap_own)) << "unmarked when it is handed out";
        blocks.back()[1] = heap_own;
    }
    for (void **p : blocks) {
        hak_free(p);
    }
    EXPECT_EQ(hak_verify(), 0);
}

/* Wherever the thread's list has just been filled or moved on. */
TEST(MisuseDeathTest, FreedTwiceInARowAtAnyFillOfTheList)
{
    std::vector<void *> blocks;
    for (int i = 0; i < 120; i++) {
        blocks.push_back(hak_malloc(2500));
    }
    for (size_t n = 0; n < blocks.size(); n++) {
        EXPECT_ABORT(free_twice_after(blocks, n), kTwice, blocks[n]);
    }
    for (void *p : blocks) {
        hak_free(p);
    }
}

TEST(MisuseDeathTest, AnotherThreadsBlockFreedTwiceInARowAtAnyFillOfTheOutbox)
{
    for (size_t size : {size_t(600), size_t(32768)}) {
        std::vector<void *> blocks;
        hak_free(hak_malloc(1));
        std::thread([&] {
            for (int i = 0; i < 30; i++) {
                blocks.push_back(hak_malloc(size));
            }
        }).join();
        for (size_t n = 0; n < blocks.size(); n++) {
            EXPECT_ABORT(free_twice_after(blocks, n), kTwice, blocks[n]);
        }
        for (void *p : blocks) {
            hak_free(p);
        }
    }
}

TEST(MisuseDeathTest, LargeBlockFreedTwice)
{
    void *span = hak_malloc(100000);
    void *range = hak_malloc(3 << 20);
    void *kept = hak_malloc(100);
    /* With a delay of 0 the memory has gone back to the system by then. */
    EXPECT_EXIT((hak_free(span), hak_free(span)), testing::KilledBySignal(SIGABRT),
                "^hakmem: (block freed twice|invalid)");
    EXPECT_EXIT((hak_free(range), hak_free(range)), testing::KilledBySignal(SIGABRT),
                "^hakmem: (block freed twice|invalid)");
    if (HAK_TINY_OR(0, 1)) {
        EXPECT_ABORT((hak_free(span), hak_free(span)), kFreeUnit, span);
        EXPECT_ABORT((hak_free(range), hak_free(range)), kTwice, range);
    }
    hak_free(span);
    hak_free(range);
    hak_free(kept);
}

TEST(MisuseDeathTest, InteriorPointers)
{
    for (uint32_t c = 0; c < SC_N_CLASSES; c += 3) {
        size_t size = sc_table[c].size;
        void *p = hak_malloc(size);
        for (size_t offset : {size_t(1), size_t(8), size / 2, size - 1}) {
            EXPECT_ABORT(hak_free(at(p, offset)), kInterior, at(p, offset));
        }
        if (size > 16) {
            EXPECT_ABORT(hak_free(at(p, 16)), kInterior, at(p, 16));
        }
        hak_free(p);
        /* Another thread's block. */
        std::thread([&] { p = hak_malloc(size); }).join();
        EXPECT_ABORT(hak_free(at(p, 8)), kInterior, at(p, 8));
        hak_free(p);
    }
    for (size_t size : {size_t(200000), size_t(3) << 20}) {
        void *p = hak_malloc(size);
        for (size_t offset : {size_t(1), size_t(16), size_t(4096), size_t(65536), size - 1}) {
            EXPECT_ABORT(hak_free(at(p, offset)), kInterior, at(p, offset));
        }
        hak_free(p);
    }
}

int a_global;

TEST(MisuseDeathTest, ForeignPointers)
{
    int local;
    void *libc_block = malloc(100);
    void *own = hak_malloc(100);
    for (void *p : {static_cast<void *>(&local), static_cast<void *>(&a_global), libc_block,
                    reinterpret_cast<void *>(uintptr_t(8)), reinterpret_cast<void *>(uintptr_t(1) << 32),
                    reinterpret_cast<void *>(uintptr_t(1) << 47), reinterpret_cast<void *>(uintptr_t(1) << 63),
                    reinterpret_cast<void *>(UINTPTR_MAX),
                    reinterpret_cast<void *>(reinterpret_cast<uintptr_t>(own) | uintptr_t(1) << 56)}) {
        EXPECT_ABORT(hak_free(p), kForeign, p);
        EXPECT_ABORT((void)hak_realloc(p, 200), kRealloc, p);
    }
    hak_free(own);
    free(libc_block);
}

TEST(MisuseDeathTest, ReallocOfWhatIsNoBlock)
{
    void *span = hak_malloc(200000);
    EXPECT_ABORT((void)hak_realloc(at(span, 65536), 500000), kRealloc, at(span, 65536));
    hak_free(span);
}

/* Not in a row, but after the block has gone back to its slab. */
TEST(MisuseDeathTest, ValidatedFreeSeesABlockThatItsSlabHas)
{
    if (!HAK_VALIDATE) {
        GTEST_SKIP() << "the check of the validated variants";
    }
    void *keeps_the_slab = hak_malloc(96), *p = hak_malloc(96);
    EXPECT_ABORT((hak_free(p), (void)hak_purge(), hak_free(p)), kTwice, p);
    hak_free(p);
    hak_free(keeps_the_slab);
}

TEST(MisuseDeathTest, ValidatedFreeSeesTheTailOfASlab)
{
    if (!HAK_VALIDATE) {
        GTEST_SKIP() << "the check of the validated variants";
    }
    void *p = hak_malloc(48);
    uintptr_t slab = reinterpret_cast<uintptr_t>(p) & ~uintptr_t(SC_SLAB_BYTES - 1);
    uint32_t c = sc_of(48);
    void *tail = reinterpret_cast<void *>(slab + sc_table[c].size * sc_table[c].capacity);
    EXPECT_ABORT(hak_free(tail), kInterior, tail);
    hak_free(p);
}

} // namespace
