/* Death tests: what free and realloc say of pointers that they should not have been given. Each
   line names reason and pointer, in every variant. */
#include "hakmem/hakmem.h"

#include <atomic>
#include <cinttypes>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <gtest/gtest.h>
#include <string>
#include <thread>
#include <unistd.h>
#include <vector>

#include "base/attributes.h"
#include "base/link.h"
#include "base/size_classes.h"
#include "heap/common.h"
#include "heap/exit.h"
#include "heap/parked.h"
#include "heap/theap.h"

namespace
{

const char *const kTwice = "block freed twice";
const char *const kInterior = "invalid pointer freed \\(not the start of a block\\)";
const char *const kForeign = "invalid pointer freed \\(not allocated by hakmem\\)";
const char *const kFreeUnit = "block freed twice, or invalid pointer freed \\(in free memory\\)";
const char *const kTwiceSomehow =
    "block freed twice(, or invalid pointer freed \\(in free memory\\))?";
const char *const kRealloc = "invalid pointer given to realloc";
const char *const kReallocFreed = "freed block given to realloc";
const char *const kSize = "invalid pointer given to malloc_usable_size";
const char *const kSizeFreed = "freed block given to malloc_usable_size";
/* Its slab may have gone back already. */
const char *const kReallocFreedOrGone = "(freed block|invalid pointer) given to realloc";
const char *const kSizeFreedOrGone = "(freed block|invalid pointer) given to malloc_usable_size";
const char *const kWritten =
    "freed block written to \\(its link to the next free block is broken\\)";

std::string line(const char *reason, const void *p)
{
    char hex[32];
    snprintf(hex, sizeof hex, "0x%" PRIxPTR, reinterpret_cast<uintptr_t>(p));
    /* The whole of standard error. */
    return "^hakmem: " + std::string(reason) + ": " + hex +
           (HAK_SECURE ? "( \\([^\n]*\\))?\n$" : "\n$");
}

#define EXPECT_ABORT(statement, reason, p)                                                         \
    EXPECT_EXIT(statement, testing::KilledBySignal(SIGABRT), line(reason, p))

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

/* Two threads have slabs of their own: what is freed waits in lists. A shared slab's block goes
   back at once. */
struct OwnSlabs {
    OwnSlabs()
    {
        hak_common_from = COMMON_THREADS;
        hak_theap_level_most = 0;
        hak_parked_most = 0;
    }
    ~OwnSlabs()
    {
        hak_common_from = COMMON_FEW;
        hak_theap_level_most = LEVEL_MOST;
        hak_parked_most = PARKED_MOST;
    }
};

TEST(MisuseDeathTest, SmallBlockFreedTwiceInARow)
{
    for (uint32_t c = 0; c < SC_N_CLASSES; c += 4) {
        void *p = hak_malloc(hak_sc_table[c].size);
        EXPECT_ABORT((hak_free(p), hak_free(p)), kTwice, p);
        hak_free(p);
    }
}

/* Of the variants that validate: whatever was freed in between, and by whatever call it comes and
   goes. */
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
            EXPECT_ABORT(free_all_and_again(), kTwiceSomehow,
                         p); /* its slab may have gone back already */
            EXPECT_ABORT((hak_free(p), hak_free(blocks[1]), hak_free_sized(p, size)), kTwiceSomehow,
                         p);
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
        EXPECT_NE(blocks.back()[1], static_cast<void *>(hak_theap_own))
            << "unmarked when it is handed out";
        blocks.back()[1] = hak_theap_own;
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
    OwnSlabs own;
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

/* A thread's first frees get no heap, and so no outbox; later ones have one. */
TEST(MisuseDeathTest, FreedTwiceInARowByAThreadThatHasOnlyFreed)
{
    OwnSlabs own;
    for (size_t size : {100, 300}) { /* less than what senders collect themselves */
        std::vector<void *> blocks(12);
        for (void *&p : blocks) {
            p = hak_malloc(size);
        }
        for (size_t n = 0; n < blocks.size(); n++) {
            EXPECT_ABORT(std::thread(free_twice_after, std::cref(blocks), n).join(), kTwice,
                         blocks[n]);
        }
        for (void *p : blocks) {
            hak_free(p);
        }
    }
}

/* The owner's free finds the block in no list of its thread's, and puts it into one: that one leads
   into the other thread's chain then, and to its end when the chain has come home. */
void free_behind_another_thread(size_t size, int n_after)
{
    std::vector<void *> blocks;
    for (int i = 0; i < 21; i++) {
        blocks.push_back(hak_malloc(size));
        memset(blocks.back(), 1, size);
    }
    std::atomic<int> phase{0};
    std::thread other([&] {
        hak_free(hak_malloc(100));
        hak_free(blocks[20]);
        phase = 1;
        while (phase == 1) {
            usleep(100);
        }
    });
    while (phase == 0) {
        usleep(100);
    }
    hak_free(blocks[20]);
    for (int i = 0; i < n_after; i++) {
        blocks.push_back(hak_malloc(size));
    }
    phase = 2;
    other.join();
    for (int i = n_after; i < 2000; i++) {
        blocks.push_back(hak_malloc(size));
    }
    blocks.erase(blocks.begin() + 20);
    for (void *p : blocks) {
        hak_free(p);
    }
    hak_exit_look();
}

TEST(MisuseDeathTest, ABlockThatAnotherThreadFreedAndKeeps)
{
    OwnSlabs own;
    for (size_t size : {16u, 48u, 100u, 200u, 500u, 2000u, 20000u}) {
        for (int n_after : {0, 50}) {
            EXPECT_EXIT(free_behind_another_thread(size, n_after), testing::KilledBySignal(SIGABRT),
                        "hakmem: (block freed twice|freed block written to)[^:]*: 0x")
                << size << " " << n_after;
        }
    }
}

TEST(MisuseDeathTest, LargeBlockFreedTwice)
{
    if (HAK_SECURE) {
        GTEST_SKIP() << "they wait, and are known as freed: secure/misuse_test";
    }
    void *span = hak_malloc(100000);
    void *range = hak_malloc(3 << 20);
    void *kept = hak_malloc(100);
    /* With a delay of 0 the memory has gone back to the system by then. */
    EXPECT_EXIT((hak_free(span), hak_free(span)), testing::KilledBySignal(SIGABRT),
                "^hakmem: (block freed twice|invalid)");
    EXPECT_EXIT((hak_free(range), hak_free(range)), testing::KilledBySignal(SIGABRT),
                "^hakmem: (block freed twice|invalid)");
    if (HAK_TINY_OR(0, 1)) {
        EXPECT_ABORT((hak_free(span), hak_free(span)), kTwice, span);
        EXPECT_ABORT((hak_free(range), hak_free(range)), kTwice, range);
    }
    hak_free(span);
    hak_free(range);
    hak_free(kept);
}

TEST(MisuseDeathTest, InteriorPointers)
{
    for (uint32_t c = 0; c < SC_N_CLASSES; c += 3) {
        size_t size = hak_sc_table[c].size;
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
    for (void *p :
         {static_cast<void *>(&local), static_cast<void *>(&a_global), libc_block,
          reinterpret_cast<void *>(uintptr_t(8)), reinterpret_cast<void *>(uintptr_t(1) << 32),
          reinterpret_cast<void *>(uintptr_t(1) << 47),
          reinterpret_cast<void *>(uintptr_t(1) << 63), reinterpret_cast<void *>(UINTPTR_MAX),
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

/* The address behind a slab's last block, where it has a tail: of the own heap, another thread's, a
   first-class heap's. */
TEST(MisuseDeathTest, TheTailOfASlab)
{
    struct hak_heap *heap = hak_heap_create();
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        size_t size = hak_sc_table[c].size, end = size * hak_sc_table[c].capacity;
        if (end == SC_SLAB_BYTES) {
            continue;
        }
        auto tail_of = [end](void *p) {
            uintptr_t slab = reinterpret_cast<uintptr_t>(p) & ~uintptr_t(SC_SLAB_BYTES - 1);
            return reinterpret_cast<void *>(slab + end);
        };
        void *p = hak_malloc(size), *q = nullptr, *r = hak_heap_malloc(heap, size);
        std::thread([&] { q = hak_malloc(size); }).join();
        for (void *block : {p, q, r}) {
            void *tail = tail_of(block);
            EXPECT_ABORT(hak_free(tail), kInterior, tail);
            EXPECT_ABORT((void)hak_realloc(tail, 1), kRealloc, tail);
            EXPECT_ABORT((void)hak_usable_size(tail), kSize, tail);
            hak_free(block);
        }
    }
    hak_heap_destroy(heap);
}

TEST(MisuseDeathTest, InteriorPointersGivenToReallocAndUsableSize)
{
    for (uint32_t c = 0; c < SC_N_CLASSES; c += 3) {
        size_t size = hak_sc_table[c].size;
        void *p = hak_malloc(size), *q = nullptr;
        std::thread([&] { q = hak_malloc(size); }).join();
        for (void *block : {p, q}) {
            for (size_t offset : {size_t(1), size_t(8), size / 2, size - 1}) {
                for (size_t to : {size_t(1), size / 2, size, 3 * size, size_t(1) << 20}) {
                    EXPECT_ABORT((void)hak_realloc(at(block, offset), to), kRealloc,
                                 at(block, offset));
                }
                EXPECT_ABORT((void)hak_rezalloc(at(block, offset), size), kRealloc,
                             at(block, offset));
                EXPECT_ABORT((void)hak_usable_size(at(block, offset)), kSize, at(block, offset));
            }
            hak_free(block);
        }
    }
    for (size_t size : {size_t(200000), size_t(3) << 20}) {
        void *p = hak_malloc(size);
        for (size_t offset : {size_t(1), size_t(16), size_t(65536), size - 1}) {
            EXPECT_ABORT((void)hak_realloc(at(p, offset), 100), kRealloc, at(p, offset));
            EXPECT_ABORT((void)hak_usable_size(at(p, offset)), kSize, at(p, offset));
        }
        hak_free(p);
    }
    int local;
    EXPECT_ABORT((void)hak_usable_size(&local), kSize, static_cast<void *>(&local));
    EXPECT_EQ(hak_usable_size(nullptr), 0u);
}

/* Freed last, freed before others, sent to another thread's heap, back in the slab. */
TEST(MisuseDeathTest, FreedBlocksGivenToReallocAndUsableSize)
{
    OwnSlabs own;
    for (size_t size : {16u, 100u, 1024u, 5000u, 32768u}) {
        void *kept = hak_malloc(size), *p = hak_malloc(size), *q = hak_malloc(size),
             *remote = nullptr;
        std::thread([&] { remote = hak_malloc(size); }).join();
        memset(p, 1, size); /* pages that a purge takes */
        for (size_t to : {size_t(1), size, 3 * size}) {
            EXPECT_ABORT((hak_free(p), (void)hak_realloc(p, to)), kReallocFreed, p);
            EXPECT_ABORT((hak_free(p), hak_free(q), (void)hak_realloc(p, to)), kReallocFreedOrGone,
                         p);
            EXPECT_ABORT((hak_free(p), (void)hak_purge(), (void)hak_realloc(p, to)),
                         kReallocFreedOrGone, p);
            EXPECT_ABORT((hak_free(remote), (void)hak_realloc(remote, to)), kReallocFreedOrGone,
                         remote);
        }
        EXPECT_ABORT((hak_free(p), (void)hak_usable_size(p)), kSizeFreed, p);
        if (HAK_VALIDATE) {
            EXPECT_ABORT((hak_free(p), hak_free(q), (void)hak_usable_size(p)), kSizeFreedOrGone, p);
        }
        EXPECT_ABORT((hak_free(p), (void)hak_purge(), (void)hak_usable_size(p)), kSizeFreedOrGone,
                     p);
        EXPECT_ABORT((hak_free(remote), (void)hak_usable_size(remote)), kSizeFreedOrGone, remote);
        for (void *block : {kept, p, q, remote}) {
            hak_free(block);
        }
    }
}

/* Another thread has freed it, and sent it home: its first blocks at once, a full chain when the
   next block comes. If the owner sleeps, who sends puts them back, and their slab may go. */
void realloc_of_sent(const std::vector<void *> &blocks, size_t to)
{
    std::thread([&] {
        for (void *p : blocks) {
            hak_free(p);
        }
    }).join();
    (void)hak_realloc(blocks[0], to);
}

TEST(MisuseDeathTest, ABlockThatIsOnItsWayHomeGivenToRealloc)
{
    for (size_t size : {5000u, 20000u}) {
        std::vector<void *> blocks;
        for (int i = 0; i < 200; i++) {
            blocks.push_back(hak_malloc(size));
            memset(blocks.back(), 1, size);
        }
        for (size_t to : {size / 2, size * 2}) {
            EXPECT_EXIT(realloc_of_sent(blocks, to), testing::KilledBySignal(SIGABRT),
                        "hakmem: (freed block given to realloc|invalid pointer given to realloc|"
                        "block freed twice)")
                << size << " " << to;
        }
        for (void *p : blocks) {
            hak_free(p);
        }
    }
}

/* What a program writes by chance is not taken for a link. */
TEST(Misuse, BlocksThatLookFreedAreNot)
{
    for (int64_t word :
         {INT64_MAX, int64_t(0x7FFFFFFF7FFFFFFF), hak_link_key, hak_link_key + 4096, int64_t(-1)}) {
        for (size_t size : {16u, 100u, 5000u}) {
            auto *p = static_cast<int64_t *>(hak_malloc(size));
            auto *q = static_cast<int64_t *>(hak_malloc(size));
            *p = *q = word;
            EXPECT_GE(hak_usable_size(p), size);
            p = static_cast<int64_t *>(hak_realloc(p, size + 1));
            p = static_cast<int64_t *>(hak_realloc(p, 3 * size));
            EXPECT_EQ(*p, word);
            hak_free(q);
            hak_free(p);
        }
    }
    /* Handed out and not written to: the first word still is a link. */
    for (int i = 0; i < 100; i++) {
        void *p = hak_malloc(64), *q = hak_malloc(64);
        hak_free(q);
        p = hak_realloc(p, 60);
        EXPECT_GE(hak_usable_size(p), 60u);
        hak_free(hak_realloc(p, 600));
    }
    EXPECT_EQ(hak_verify(), 0);
}

/* Written to in a list, wherever it is: found before its link is followed. */
TEST(MisuseDeathTest, FreedBlocksThatAreWrittenTo)
{
    OwnSlabs own;
    if (HAK_SECURE) {
        GTEST_SKIP() << "the quarantine has them: secure/misuse_test";
    }
    const uint64_t values[] = {0,
                               1,
                               0x4141414141414141,
                               UINT64_MAX,
                               0x7F7F7F7F7F7F7F7F,
                               0x8080808080808080,
                               uint64_t(1) << 63,
                               reinterpret_cast<uintptr_t>(&values)};
    for (uint64_t value : values) {
        for (size_t size : {16u, 100u, 5000u, 20000u}) {
            void *p = hak_malloc(size), *q = hak_malloc(size), *remote = nullptr;
            std::thread([&] { remote = hak_malloc(size); }).join();
            auto write = [value](void *block) { memcpy(block, &value, sizeof value); };
            auto take_all = [size] {
                for (int i = 0; i < 5000; i++) {
                    (void)hak_malloc(size);
                }
            };
            EXPECT_ABORT((hak_free(p), write(p), (void)hak_malloc(size)), kWritten, p);
            EXPECT_ABORT((hak_free(p), write(p), (void)hak_calloc(1, size)), kWritten, p);
            EXPECT_ABORT((hak_free(p), write(p), (void)hak_aligned_alloc(16, size)), kWritten, p);
            EXPECT_ABORT((hak_free(p), hak_free(q), write(p), take_all()), kWritten, p);
            EXPECT_ABORT((hak_free(p), hak_free(q), write(p), (void)hak_purge()), kWritten, p);
            EXPECT_ABORT((hak_free(remote), write(remote), (void)hak_purge()), kWritten, remote);
            void *out[1000];
            EXPECT_ABORT(
                (hak_free(p), hak_free(q), write(p), (void)hak_malloc_batch(size, 1000, out)),
                kWritten, p);
            for (void *block : {p, q, remote}) {
                hak_free(block);
            }
        }
    }
}

TEST(MisuseDeathTest, ABlockOfAnotherHeapGivenToHeapRealloc)
{
    const char *reason = "block of another heap given to hak_heap_realloc";
    struct hak_heap *heap = hak_heap_create(), *other = hak_heap_create();
    for (size_t size : {size_t(64), size_t(200000), size_t(3) << 20}) {
        void *p = hak_malloc(size), *q = hak_heap_malloc(other, size);
        EXPECT_ABORT((void)hak_heap_realloc(heap, p, 3 * size), reason, p);
        EXPECT_ABORT((void)hak_heap_realloc(heap, q, 3 * size), reason, q);
        hak_free(p);
    }
    hak_heap_destroy(heap);
    hak_heap_destroy(other);
}

} // namespace
