/* Tests of a program that maps 100 GiB itself, so that blocks lie beyond the window of the pointer
   map: frees are as fast, and all is exact; also where the system refuses the flat array. Each in a
   process of its own. */
#include <cstdio>
#include <cstring>
#include <functional>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "base/attributes.h"
#include "base/os.h"
#include "base/stats.h"
#include "hakmem/hakmem.h"
#include "heap/theap.h"
#include "superslab/map.h"
#include "superslab/superslab.h"
#include "testing/failing_os.h"
#include "testing/in_child.h"
#include "testing/rng.h"

namespace
{

using hak_testing::FailingOs;
using hak_testing::in_child;
using hak_testing::Rng;

const size_t kGiB = size_t(1) << 30;
const size_t kBytes = 16 << 20; /* of each round: beyond what superslabs have free before */

/* Whether the thread's fast path finds the block to be its own. */
bool is_seen(const void *p)
{
    const struct theap *heap = hak_theap_own;
    return (hak_map_view_tag(&heap->view, p) ^ heap->owner_tag) <= TAG_LOW_MASK;
}

bool is_beyond(const void *p)
{
    return hak_map_window_unit(p) >= MAP_LEAF_UNITS;
}

std::vector<void *> make(Rng &rng, size_t bytes)
{
    std::vector<void *> blocks;
    while (bytes) {
        size_t size = 1 + rng.below(rng.one_in(8) ? 32768 : 2048);
        size = size < bytes ? size : bytes;
        bytes -= size;
        void *p = hak_malloc(size);
        EXPECT_NE(p, nullptr);
        memset(p, 7, size);
        blocks.push_back(p);
    }
    return blocks;
}

void free_all(const std::vector<void *> &blocks)
{
    for (void *p : blocks) {
        hak_free(p);
    }
}

size_t n_beyond(const std::vector<void *> &blocks)
{
    size_t n = 0;
    for (void *p : blocks) {
        n += is_beyond(p);
    }
    return n;
}

size_t n_seen(const std::vector<void *> &blocks)
{
    size_t n = 0;
    for (void *p : blocks) {
        n += is_seen(p);
    }
    return n;
}

char *map(size_t bytes)
{
    void *p = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    EXPECT_NE(p, MAP_FAILED);
    return static_cast<char *>(p);
}

/* And what lies between superslabs, which would be the next ones' place. (Linux puts a mapping of
   2 MiB where a huge page begins, not into the smallest gap.) */
void map_first(size_t bytes = 100 * kGiB)
{
    const char *first = map(bytes);
    while (map(SS_BYTES - 4096) > first) {
    }
}

/* A round of everything that finds a block by its address. */
void use_all(Rng &rng)
{
    std::vector<void *> blocks = make(rng, kBytes);
    EXPECT_GT(n_beyond(blocks), blocks.size() / 4) << "this test's blocks must lie beyond";
    struct hak_heap *heap = hak_heap_create();
    for (int i = 0; i < 1000; i++) {
        void *p = hak_heap_malloc(heap, 1 + rng.below(4000));
        EXPECT_TRUE(hak_owns(p));
        if (rng.one_in(2)) {
            hak_free(p);
        }
    }
    std::thread([&] { /* another thread's blocks, sent back */
                      std::vector<void *> own = make(rng, kBytes / 16);
                      for (size_t i = 0; i < blocks.size(); i += 2) {
                          EXPECT_TRUE(hak_owns(blocks[i]));
                          hak_free(blocks[i]);
                          blocks[i] = nullptr;
                      }
                      free_all(own);
    })
        .join();
    for (void *&p : blocks) {
        size_t size = p ? hak_usable_size(p) : 0;
        EXPECT_EQ(hak_owns(p), p != nullptr);
        p = p && rng.one_in(2) ? hak_realloc(p, size + rng.below(size + 1)) : p;
    }
    EXPECT_EQ(hak_verify(), 0);
    free_all(blocks);
    hak_heap_destroy(heap);
    EXPECT_EQ(hak_verify(), 0);
    for (int i = 0; i < 10000; i++) { /* never faults */
        (void)hak_owns(reinterpret_cast<void *>(rng.next() >> rng.below(64)));
    }
}

TEST(Beyond, FreesAreAsFast)
{
#ifdef __SANITIZE_ADDRESS__
    GTEST_SKIP() << "freed blocks wait in a queue first";
#endif
    if (HAK_SECURE) {
        GTEST_SKIP() << "superslabs lie behind the last one, whatever the program maps";
    }
    in_child([] {
        Rng rng(1);
        std::vector<void *> before = make(rng, kBytes);
        free_all(make(rng, kBytes / 16));
        EXPECT_EQ(n_beyond(before), 0u);
        map_first();
        std::vector<void *> blocks = make(rng, kBytes);
        EXPECT_GT(n_beyond(blocks), blocks.size() / 2);
        for (int round = 0; round < 3; round++) {
            free_all(blocks); /* the first of each slab that was there takes the slow path */
            blocks = make(rng, kBytes);
            EXPECT_GT(n_beyond(blocks), blocks.size() / 2);
        }
        EXPECT_EQ(n_seen(blocks), blocks.size());
        EXPECT_EQ(hak_verify(), 0);
    });
}

TEST(Beyond, SlabsThatWereThereBefore)
{
    if (HAK_SECURE) {
        GTEST_SKIP() << "freed blocks wait in a quarantine first";
    }
#ifdef __SANITIZE_ADDRESS__
    GTEST_SKIP() << "freed blocks wait in a queue first";
#endif
    in_child([] {
        Rng rng(2);
        std::vector<void *> before = make(rng, kBytes);
        map_first();
        std::vector<void *> blocks = make(rng, kBytes);
        free_all(blocks);
        ASSERT_FALSE(hak_theap_own->view.is_final);
        ASSERT_GT(hak_theap_own->view.n_units, MAP_LEAF_UNITS);
        EXPECT_EQ(n_beyond(before), 0u);
        /* Every free of a slab's block leaves its unit seen, as long as it is a slab. */
        for (void *p : before) {
            hak_free(p);
            bool is_slab = TAG_IS_SLAB(hak_map_get(p).tag);
            EXPECT_EQ(hak_map_view_tag(&hak_theap_own->view, p), is_slab ? hak_map_get(p).tag : 0);
        }
        EXPECT_EQ(hak_verify(), 0);
    });
}

TEST(Beyond, AllIsExact)
{
    in_child([] {
        Rng rng(3);
        free_all(make(rng, 100000));
        map_first();
        for (int i = 0; i < 3; i++) {
            use_all(rng);
            map_first();
        }
    });
}

TEST(Beyond, AChildGoesOn)
{
    in_child([] {
        Rng rng(4);
        free_all(make(rng, 100000));
        map_first();
        std::vector<void *> blocks = make(rng, kBytes);
        free_all(make(rng, kBytes / 4));
        in_child([&] {
            free_all(blocks);
            EXPECT_EQ(hak_verify(), 0);
            use_all(rng);
        });
        in_child([&] { /* and one that is the first beyond */
                       map_first();
                       use_all(rng);
        });
        free_all(blocks);
        EXPECT_EQ(hak_verify(), 0);
    });
}

TEST(Beyond, AllIsExactWithoutTheArray)
{
    if (HAK_SECURE) {
        GTEST_SKIP() << "freed blocks wait in a quarantine first";
    }
#ifdef __SANITIZE_ADDRESS__
    GTEST_SKIP() << "freed blocks wait in a queue first";
#endif
    for (hak_testing::OsCall call : {hak_testing::OS_MMAP, hak_testing::OS_MPROTECT}) {
        in_child([=] {
            Rng rng(5);
            free_all(make(rng, 100000));
            map_first();
            std::vector<void *> blocks = make(rng, kBytes);
            FailingOs os;
            os.fail_always(call);
            for (void *p : blocks) {
                if (is_beyond(p)) {
                    hak_free(p);
                    break;
                }
            }
            EXPECT_TRUE(hak_theap_own->view.is_final);
            os.reset();
            use_all(rng);
            EXPECT_EQ(os.calls(hak_testing::OS_MPROTECT), 0u) << "asked for again";
        });
    }
}

TEST(Beyond, WithLimitedAddresses)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "the sanitizer's own mappings are beyond the limit";
#endif
    in_child([] {
        Rng rng(6);
        free_all(make(rng, 100000));
        map_first();
        struct rlimit limit = {110 * kGiB, RLIM_INFINITY};
        ASSERT_EQ(setrlimit(RLIMIT_AS, &limit), 0);
        use_all(rng);
        EXPECT_TRUE(hak_theap_own->view.is_final);
    });
}

} // namespace
