/* Tests of limbo: sizes, alignment, zeros, chunks that go with their last block, walks, misuse, a
   system that refuses, and threads. */
#include "heap/limbo.h"

#include <atomic>
#include <csignal>
#include <cstring>
#include <gtest/gtest.h>
#include <map>
#include <set>
#include <sys/mman.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "base/os.h"
#include "base/stats.h"
#include "base/verify.h"
#include "hakmem/hakmem.h"
#include "hakmem/heap.h"
#include "heap/gate.h"
#include "superslab/map.h"
#include "superslab/superslab.h"
#include "testing/rng.h"

namespace
{

using hak_testing::Rng;

TEST(Limbo, SizesAndAlignments)
{
    for (size_t size : {0, 1, 15, 16, 17, 1000, 32768, 65536, 262144, 262145, 3000000}) {
        for (size_t align = 1; align <= static_cast<size_t>(4) << 20; align *= 2) {
            char *p = static_cast<char *>(hak_limbo_alloc(size, align, nullptr));
            ASSERT_NE(p, nullptr) << size << " " << align;
            EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % (align > 16 ? align : 16), 0u);
            size_t usable = hak_limbo_size(p);
            ASSERT_GE(usable, size);
            EXPECT_EQ(hak_usable_size(p), usable);
            for (size_t i = 0; i < usable; i += 7) {
                ASSERT_EQ(p[i], 0) << i;
            }
            memset(p, 0xFF, usable);
            EXPECT_EQ(hak_limbo_size(p), usable) << "nothing of ours lies in the block";
            EXPECT_EQ(hak_limbo_verify(), 0);
            hak_free(p);
        }
    }
    EXPECT_EQ(hak_limbo_alloc(SIZE_MAX, 16, nullptr), nullptr);
    EXPECT_EQ(hak_limbo_alloc(PTRDIFF_MAX, 16, nullptr), nullptr);
    EXPECT_EQ(hak_limbo_alloc(16, static_cast<size_t>(1) << 62, nullptr), nullptr);
    EXPECT_EQ(hak_limbo_verify(), 0);
}

/* A chunk goes back with its last block, unless it is the current one; a mapping with its only one.
 */
TEST(Limbo, MemoryGoesBack)
{
    void *large = hak_limbo_alloc(5000000, 16, nullptr);
    int64_t with = hak_stat_get(limbo_bytes);
    hak_limbo_free(large);
    EXPECT_LE(hak_stat_get(limbo_bytes), with - 5000000);
    EXPECT_EQ(hak_map_get(large).tag, 0u);
    std::vector<void *> blocks;
    for (int i = 0; i < 5000; i++) {
        blocks.push_back(hak_limbo_alloc(1000, 16, nullptr));
        ASSERT_NE(blocks.back(), nullptr);
    }
    EXPECT_GE(hak_stat_get(limbo_bytes), 5000000);
    EXPECT_EQ(hak_limbo_verify(), 0);
    for (void *p : blocks) {
        hak_limbo_free(p);
    }
    EXPECT_LE(hak_stat_get(limbo_bytes), static_cast<int64_t>(HAK_MIB));
    EXPECT_EQ(hak_limbo_verify(), 0);
}

/* The bit that says that a block starts at p, in the first words of p's chunk. */
void mark_start(const char *p, bool is_start)
{
    struct map_entry entry = hak_map_get(p);
    auto *base =
        reinterpret_cast<char *>(reinterpret_cast<uintptr_t>(p) / SS_UNIT_BYTES * SS_UNIT_BYTES);
    for (struct map_entry below;
         (below = hak_map_get(base - SS_UNIT_BYTES)).tag == entry.tag && below.ref == entry.ref;) {
        base -= SS_UNIT_BYTES;
    }
    size_t place = static_cast<size_t>(p - base) / 16;
    auto *words = reinterpret_cast<uint64_t *>(base);
    uint64_t bit = static_cast<uint64_t>(1) << (place % 64);
    ASSERT_NE((words[place / 64] & bit) != 0, is_start);
    words[place / 64] ^= bit;
}

TEST(Limbo, TheVerifierFindsWhatIsWrong)
{
    char *large = static_cast<char *>(hak_limbo_alloc(1000000, 16, nullptr));
    char *unit = reinterpret_cast<char *>(reinterpret_cast<uintptr_t>(large) / SS_UNIT_BYTES *
                                          SS_UNIT_BYTES);
    struct map_entry entry = hak_map_get(large);
    hak_map_set(unit, 1, entry.tag, entry.ref + 1);
    EXPECT_EQ(hak_limbo_verify(), VERIFY_LIMBO_MAP);
    hak_map_set(unit, 1, entry.tag, entry.ref);
    EXPECT_EQ(hak_limbo_verify(), 0);

    auto *record = reinterpret_cast<size_t *>(large - 32); /* the size comes first */
    size_t size = *record;
    ASSERT_EQ(size, hak_limbo_size(large));
    *record = size + SS_UNIT_BYTES;
    EXPECT_EQ(hak_limbo_verify(), VERIFY_LIMBO_BLOCK);
    *record = size;
    EXPECT_EQ(hak_limbo_verify(), 0);

    char *blocks[4];
    std::set<void *> all;
    do {
        for (char *&p : blocks) {
            p = static_cast<char *>(hak_limbo_alloc(100, 16, nullptr));
            ASSERT_NE(p, nullptr);
            all.insert(p);
        }
    } while (hak_map_get(blocks[0]).ref != hak_map_get(blocks[3]).ref);
    hak_limbo_free(blocks[1]);
    hak_limbo_free(blocks[2]);
    all.erase(blocks[1]);
    all.erase(blocks[2]);
    mark_start(blocks[1], true);
    mark_start(blocks[2], true); /* four, and references for two and the current chunk's */
    EXPECT_EQ(hak_limbo_verify(), VERIFY_LIMBO_COUNT);
    mark_start(blocks[1], false);
    mark_start(blocks[2], false);
    EXPECT_EQ(hak_limbo_verify(), 0);
    mark_start(blocks[0] + 48, true); /* within the first block */
    EXPECT_EQ(hak_limbo_verify(), VERIFY_LIMBO_BLOCK);
    mark_start(blocks[0] + 48, false);

    hak_stat_add(limbo_bytes, 16);
    EXPECT_EQ(hak_limbo_verify(), VERIFY_LIMBO_BYTES);
    hak_stat_sub(limbo_bytes, 16);
    EXPECT_EQ(hak_limbo_verify(), 0);
    for (void *p : all) {
        hak_limbo_free(p);
    }
    hak_limbo_free(large);
}

TEST(Limbo, LookupsKnowItsBlocks)
{
    for (size_t size : {100, 1000000}) {
        char *p = static_cast<char *>(hak_limbo_alloc(size, 16, nullptr));
        for (size_t at : {static_cast<size_t>(0), size / 2, size - 1}) {
            struct ss_lookup found = hak_super_lookup(p + at);
            EXPECT_EQ(found.start, p);
            EXPECT_EQ(found.size, hak_limbo_size(p));
            EXPECT_EQ(found.is_allocated, 1);
            EXPECT_EQ(hak_owns(p + at), 1);
        }
        EXPECT_EQ(hak_super_lookup(p - 1).is_allocated, 0);
        EXPECT_EQ(hak_limbo_size(p + 16), 0u);
        hak_limbo_free(p);
        EXPECT_EQ(hak_super_lookup(p).is_allocated, 0);
        EXPECT_EQ(hak_limbo_size(p), 0u);
    }
}

TEST(Limbo, WalksToldByOwner)
{
    struct hak_heap *heap = hak_heap_create();
    struct owner *owner = &heap->owner;
    void *blocks[] = {hak_limbo_alloc(10, 16, owner), hak_limbo_alloc(1000000, 16, owner),
                      hak_limbo_alloc(10, 4096, nullptr), hak_limbo_alloc(30, 16, LIMBO_INTERNAL)};
    std::map<void *, size_t> seen;
    auto note = [](void *p, size_t size, void *context) {
        (*static_cast<std::map<void *, size_t> *>(context))[p] = size;
        return 0;
    };
    EXPECT_EQ(hak_limbo_walk(owner, note, &seen), 0);
    EXPECT_EQ(seen.size(), 2u);
    EXPECT_EQ(seen[blocks[0]], hak_limbo_size(blocks[0]));
    EXPECT_EQ(hak_limbo_owner(blocks[1]), owner);
    EXPECT_EQ(owner->n_in_limbo, 2u);
    owner->n_in_limbo = 0;
    seen.clear();
    EXPECT_EQ(hak_limbo_walk(owner, note, &seen), 0);
    EXPECT_TRUE(seen.empty()) << "by its count it has none, and nothing is looked through";
    owner->n_in_limbo = 2;
    seen.clear();
    EXPECT_EQ(hak_limbo_walk(nullptr, note, &seen), 0);
    EXPECT_EQ(seen.size(), 3u) << "what is no block of the program's is not told";
    EXPECT_EQ(hak_limbo_walk(
                  nullptr, [](void *, size_t, void *) { return 8; }, nullptr),
              8);
    hak_limbo_free_of(owner);
    EXPECT_EQ(owner->n_in_limbo, 0u);
    seen.clear();
    EXPECT_EQ(hak_limbo_walk(nullptr, note, &seen), 0);
    EXPECT_EQ(seen.count(blocks[2]), 1u);
    EXPECT_EQ(seen.size(), 1u);
    hak_limbo_free(blocks[2]);
    hak_limbo_free(blocks[3]);
    hak_heap_destroy(heap);
}

TEST(LimboDeathTest, Misuse)
{
    EXPECT_EXIT(
        {
            void *p = hak_limbo_alloc(100, 16, nullptr);
            void *q = hak_limbo_alloc(100, 16, nullptr);
            hak_free(p);
            hak_free(q);
            hak_free(p);
        },
        testing::KilledBySignal(SIGABRT), "hakmem: block freed twice");
    EXPECT_EXIT(hak_free(static_cast<char *>(hak_limbo_alloc(100, 16, nullptr)) + 16),
                testing::KilledBySignal(SIGABRT), "invalid pointer freed");
    EXPECT_EXIT(hak_free(static_cast<char *>(hak_limbo_alloc(1000000, 16, nullptr)) + 65536),
                testing::KilledBySignal(SIGABRT), "invalid pointer freed");
    EXPECT_EXIT(
        {
            void *p = hak_limbo_alloc(1000000, 16, nullptr);
            hak_free(p);
            hak_free(p);
        },
        testing::KilledBySignal(SIGABRT), "hakmem: .*freed");
}

int calls_left;

/* Each call of the system fails in turn: NULL, and nothing is lost. */
TEST(Limbo, TheSystemRefuses)
{
    int64_t before = hak_stat_get(limbo_bytes);
    for (size_t size : {static_cast<size_t>(100), static_cast<size_t>(1000000)}) {
        for (int n = 0; n < 6; n++) {
            calls_left = n;
            hak_os_ops.mmap = [](void *addr, size_t length, int prot, int flags, int fd,
                                 off_t offset) {
                return calls_left-- > 0
                           ? hak_os_real_ops.mmap(addr, length, prot, flags, fd, offset)
                           : MAP_FAILED;
            };
            std::vector<void *> blocks;
            for (void *p; (p = hak_limbo_alloc(size, 16, nullptr)) != nullptr;) {
                blocks.push_back(p);
            }
            hak_os_ops = hak_os_real_ops;
            EXPECT_EQ(hak_limbo_verify(), 0);
            for (void *p : blocks) {
                hak_limbo_free(p);
            }
        }
    }
    hak_os_ops.munmap = [](void *, size_t) { return -1; };
    void *p = hak_limbo_alloc(1000000, 16, nullptr);
    hak_limbo_free(p);
    hak_os_ops = hak_os_real_ops;
    EXPECT_EQ(hak_limbo_verify(), 0) << "address space is left over, and belongs to nobody";
    EXPECT_EQ(hak_map_get(p).tag, 0u);
    EXPECT_LE(hak_stat_get(limbo_bytes), before + static_cast<int64_t>(HAK_MIB));
}

/* Blocks of all sizes go round between threads, so that chunks and slots end and begin all the
   time. */
TEST(Limbo, ManyThreads)
{
    static std::atomic<unsigned char *> cells[64];
    std::vector<std::thread> threads;
    for (size_t t = 0; t < 4; t++) {
        threads.emplace_back([t] {
            Rng rng(t);
            for (int i = 0; i < 4000; i++) {
                size_t size = 16 + (rng.one_in(20)  ? rng.below(600000)
                                    : rng.one_in(3) ? rng.below(60000)
                                                    : rng.below(300));
                unsigned char *p = static_cast<unsigned char *>(
                    hak_limbo_alloc(size, rng.one_in(10) ? 65536 : 16, nullptr));
                ASSERT_NE(p, nullptr);
                ASSERT_EQ(p[0] | p[size - 1], 0);
                p[0] = p[size - 1] =
                    static_cast<unsigned char>(reinterpret_cast<uintptr_t>(p) >> 4);
                memcpy(p + 1, &size, sizeof size);
                p = cells[rng.below(64)].exchange(p);
                if (p) {
                    memcpy(&size, p + 1, sizeof size);
                    ASSERT_EQ(p[size - 1],
                              static_cast<unsigned char>(reinterpret_cast<uintptr_t>(p) >> 4));
                    hak_limbo_free(p);
                }
                if (i % 500 == 0) {
                    (void)hak_limbo_walk(
                        nullptr, [](void *, size_t, void *) { return 0; }, nullptr);
                }
            }
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    EXPECT_EQ(hak_limbo_verify(), 0);
    for (auto &cell : cells) {
        if (unsigned char *p = cell.exchange(nullptr)) {
            hak_limbo_free(p);
        }
    }
    EXPECT_EQ(hak_limbo_verify(), 0);
    EXPECT_LE(hak_stat_get(limbo_bytes), static_cast<int64_t>(2 * HAK_MIB));
}

/* The child frees what it has got, and allocates; chunks of before are not used again. */
TEST(Limbo, InAForkedChild)
{
    std::vector<char *> blocks;
    for (int i = 0; i < 100; i++) {
        blocks.push_back(static_cast<char *>(hak_limbo_alloc(5000, 16, nullptr)));
        memset(blocks.back(), i, 5000);
    }
    pid_t child = fork();
    if (child == 0) {
        char *fresh = static_cast<char *>(hak_limbo_alloc(100, 16, nullptr));
        int result = hak_limbo_verify() ? 1 : !fresh ? 2 : 0;
        for (int i = 0; i < 100; i++) {
            result = blocks[static_cast<size_t>(i)][4999] != i ? 3 : result;
            hak_free(blocks[static_cast<size_t>(i)]);
        }
        _exit(hak_limbo_verify() ? 4 : result);
    }
    int status = -1;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0) << WEXITSTATUS(status);
    for (char *p : blocks) {
        hak_free(p);
    }
}

} // namespace
