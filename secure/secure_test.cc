/* Tests of the secure variant through the public functions: sizes, zeroed memory, what is found and
   where, the quarantine, failures of the system, forks. preload/misuse_kinds_test.py tries every
   kind of misuse from outside. */
#include <algorithm>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <functional>
#include <gtest/gtest.h>
#include <map>
#include <set>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "base/error.h"
#include "base/options.h"
#include "base/os.h"
#include "base/stats.h"
#include "hakmem/entry.h"
#include "hakmem/hakmem.h"
#include "heap/gate.h"
#include "secure/cache.h"
#include "secure/stacks.h"
#include "secure/tail.h"
#include "secure/zero.h"
#include "testing/failing_os.h"
#include "testing/rng.h"

namespace
{

using hak_testing::Rng;

const size_t SIZES[] = {1,     8,     9,     24,    25,     100,    1000,    4088,    4096,
                        32760, 32761, 32768, 32769, 100000, 131072, 1048576, 1048577, 5000000};

bool is_zero(const unsigned char *p, size_t n)
{
    return n == 0 || (p[0] == 0 && memcmp(p, p + 1, n - 1) == 0);
}

unsigned char *take(size_t size)
{
    auto *p = static_cast<unsigned char *>(hak_malloc(size));
    EXPECT_NE(p, nullptr);
    return p;
}

TEST(Secure, TheUsableSizeIsWhatWasAskedForAndAllIsZero)
{
    for (int round = 0; round < 3; round++) {
        for (size_t size = 0; size < 33000; size += size < 2000 ? 1 : 97) {
            unsigned char *p = take(size);
            ASSERT_EQ(hak_usable_size(p), size);
            ASSERT_EQ(reinterpret_cast<uintptr_t>(p) % 16, 0u);
            ASSERT_TRUE(size == 0 || is_zero(p, size)) << size;
            if (size) {
                memset(p, 0xA5, size);
            }
            hak_free(p);
        }
    }
    for (size_t size : SIZES) {
        unsigned char *p = take(size);
        ASSERT_EQ(hak_usable_size(p), size);
        ASSERT_TRUE(is_zero(p, size)) << size;
        memset(p, 0xA5, size);
        hak_free_sized(p, size);
    }
    EXPECT_EQ(hak_verify(), 0);
}

TEST(Secure, AlignedBlocksToo)
{
    for (size_t align = 16; align <= (1 << 20); align *= 4) {
        for (size_t size : SIZES) {
            auto *p = static_cast<unsigned char *>(hak_aligned_alloc(align, size));
            ASSERT_NE(p, nullptr);
            EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % align, 0u);
            EXPECT_EQ(hak_usable_size(p), size);
            EXPECT_TRUE(is_zero(p, size));
            memset(p, 1, size);
            hak_free_aligned_sized(p, align, size);
        }
    }
    EXPECT_EQ(hak_verify(), 0);
}

/* The first byte behind, and each of the next ones, whatever is written. */
TEST(SecureDeathTest, EachByteBehindASmallBlock)
{
    for (size_t size : {1u, 24u, 25u, 30u, 100u, 1000u, 5000u, 32768u}) {
        for (size_t at : {0u, 1u, 7u, 8u, 15u}) {
            size_t room = hak_sc_table[hak_secure_class_of(size)].size - size;
            for (int value : {0x00, 0x01, 0x41, 0xFF}) {
                if (at >= room) {
                    continue; /* another block's */
                }
                EXPECT_DEATH(
                    {
                        unsigned char *p = take(size);
                        p[size + at] = static_cast<unsigned char>(
                            p[size + at] == value ? value ^ 0x10 : value); /* by chance */
                        hak_free(p);
                    },
                    "^hakmem: block written to behind its end: 0x[0-9a-f]+ \\(.*size class")
                    << size << " " << at << " " << value;
            }
        }
    }
}

/* What was written wherever it is: bytes at `step` in the block, before it is freed. */
void expect_zero_when_freed(size_t size, size_t step)
{
    unsigned char *p = take(size);
    for (size_t at = step ? step - 1 : 0; step && at < size; at += step) {
        p[at] = 1;
    }
    hak_free(p);
    ASSERT_TRUE(is_zero(p, size)) << size << " " << step;
}

TEST(Secure, AFreedSmallBlockIsZero)
{
    for (size_t size = 1; size <= 32768; size += size < 1100 ? 1 : 331) {
        for (size_t step : {0u, 1u, 7u, 250u, 1000u, 4096u, 9000u}) {
            expect_zero_when_freed(size, step);
        }
        expect_zero_when_freed(size, size);
    }
}

/* Blocks are handed out until each that was freed has been: one that leaves the ring when the hand
   is full lies in the bin, behind what goes round, until the hand is empty. */
void hand_out_all(size_t size)
{
    for (int i = 0; i < 1000; i++) {
        hak_free(take(size));
    }
    for (int i = 0; i < 1000; i++) {
        (void)take(size);
    }
}

void expect_found_when_handed_out(size_t size, size_t at)
{
    EXPECT_DEATH(
        {
            unsigned char *p = take(size);
            hak_free(p);
            p[at] = 1;
            hand_out_all(size);
        },
        "written to")
        << size << " " << at;
}

TEST(SecureDeathTest, AWriteAfterFreeIsFoundAtAnyByteWhenTheBlockIsHandedOut)
{
    for (size_t size : {9u, 24u, 40u, 56u, 72u, 100u, 136u, 152u, 248u, 264u, 1000u, 5000u}) {
        for (size_t at = 0; at < size; at += size < 150 ? 5 : size / 5) {
            expect_found_when_handed_out(size, at);
        }
    }
}

/* Each time the block goes another way through the ring, the hand and the bin. */
TEST(SecureDeathTest, AWriteAfterFreeIsFoundWhicheverWayTheBlockGoes)
{
    for (int i = 0; i < 400; i++) {
        for (size_t size : {24u, 72u, 100u}) {
            expect_found_when_handed_out(size, size - 1);
        }
    }
}

TEST(Secure, AFillingIsRightUntilOneOfItsBytesIsNot)
{
    alignas(16) unsigned char room[320];
    auto *tail = reinterpret_cast<uint64_t *>(room + 304);
    for (size_t size = 0; size <= 304; size++) {
        memset(room, 0, sizeof room);
        hak_secure_tail_fill(room, size, tail);
        ASSERT_TRUE(is_zero(room, size)) << size;
        ASSERT_EQ(*tail, 0u);
        size_t end = std::min<size_t>(304, size + TAIL_FILLED);
        ASSERT_TRUE(is_zero(room + end, 304 - end)) << size;
        for (size_t i = 0; i < 304; i++) {
            room[i] ^= 0x40;
            ASSERT_EQ(hak_secure_tail_fill_is_right(room, size, tail), i < size || i >= end)
                << size << " " << i;
            room[i] ^= 0x40;
        }
    }
}

TEST(SecureDeathTest, IsFoundByReallocUsableSizeAndVerifyToo)
{
    const char *behind = "block written to behind its end";
    for (size_t size : {25u, 5000u}) {
        EXPECT_DEATH(
            {
                unsigned char *p = take(size);
                p[size] ^= 1;
                hak_realloc(p, size + 1);
            },
            behind);
        EXPECT_DEATH(
            {
                unsigned char *p = take(size);
                p[size] ^= 1;
                hak_usable_size(p);
            },
            behind);
        EXPECT_DEATH(
            {
                unsigned char *p = take(size);
                p[size] ^= 1;
                hak_verify();
            },
            behind);
        EXPECT_DEATH(
            {
                unsigned char *p = take(size);
                hak_free(p);
                p[0] = 1;
                hak_verify();
            },
            "freed block written to");
    }
}

TEST(SecureDeathTest, LargeBlocksLieBetweenPagesThatMayNotBeTouched)
{
    for (size_t size : {size_t(65536), size_t(200000), size_t(5) << 20}) {
        auto faults = testing::KilledBySignal(SIGSEGV);
        EXPECT_EXIT(
            {
                unsigned char *p = take(size);
                p[(size + 15) & ~size_t(15)] = 1;
            },
            faults, "");
        EXPECT_EXIT(
            {
                unsigned char *p = take(size);
                p[-4096] = 1;
            },
            faults, "");
        EXPECT_EXIT(
            {
                unsigned char *p = take(size);
                hak_free(p);
                p[0] = 1;
            },
            faults, "");
        EXPECT_EXIT(
            {
                unsigned char *p = take(size);
                hak_free(p);
                volatile unsigned char c = p[size / 2];
                (void)c;
            },
            faults, "");
    }
    EXPECT_DEATH(
        {
            unsigned char *p = take(100001);
            p[100001] = 1;
            hak_free(p);
        },
        "block written to behind its end");
    EXPECT_DEATH(
        {
            unsigned char *p = take(100001);
            p[-1] = 1;
            hak_free(p);
        },
        "block written to before its start");
}

TEST(SecureDeathTest, NothingIsInABlockOfSize0)
{
    void *p = hak_malloc(0), *q = hak_malloc(0);
    EXPECT_NE(p, q);
    EXPECT_EQ(hak_usable_size(p), 0u);
    EXPECT_EQ(hak_owns(p), 1);
    EXPECT_EXIT(*static_cast<volatile char *>(p) = 1, testing::KilledBySignal(SIGSEGV), "");
    EXPECT_EXIT((void)*static_cast<volatile char *>(p), testing::KilledBySignal(SIGSEGV), "");
    EXPECT_DEATH((hak_free(p), hak_free(p)), "block freed twice");
    EXPECT_DEATH(hak_free(static_cast<char *>(p) + 1), "not the start of a block");
    EXPECT_DEATH(hak_free(static_cast<char *>(p) + 160000), "block freed twice");
    EXPECT_EQ(hak_realloc(p, 0), nullptr);
    q = hak_realloc(q, 100);
    EXPECT_TRUE(is_zero(static_cast<unsigned char *>(q), 100));
    hak_free(q);
}

TEST(Secure, ABlockIsNotReusedAtOnceNorInOrder)
{
    for (size_t size : {24u, 100u, 1000u}) {
        std::map<void *, size_t> freed_at;
        std::vector<size_t> ages;
        for (size_t i = 0; i < 4000; i++) {
            void *p = hak_malloc(size);
            auto found = freed_at.find(p);
            if (found != freed_at.end()) {
                ages.push_back(i - found->second);
            }
            freed_at[p] = i;
            hak_free(p);
        }
        ASSERT_GT(ages.size(), 100u);
        size_t queue = std::min<size_t>(RING_MOST / 2, hak_options.secure_quarantine / size / 4);
        EXPECT_GE(*std::min_element(ages.begin(), ages.end()), queue) << size;
        EXPECT_GT(std::set<size_t>(ages.begin(), ages.end()).size(), 10u) << "drawn at random";
    }
}

/* Where a block of a size class was no block of another one comes to lie, nor a larger one,
   whatever is freed and returned to the system in between. */
TEST(Secure, APointerToAFreedBlockMeetsNoOtherClass)
{
    std::map<uintptr_t, size_t> classes; /* of 64 KiB each */
    const size_t sizes[] = {16, 40, 100, 500, 3000, 9000, 30000};
    for (int round = 0; round < 3; round++) {
        for (size_t size : sizes) {
            std::vector<unsigned char *> all;
            for (size_t bytes = 0; bytes < (2 << 20); bytes += size) {
                unsigned char *p = take(size);
                auto at = classes.emplace(reinterpret_cast<uintptr_t>(p) >> 16, size);
                ASSERT_EQ(at.first->second, size);
                p[size - 1] = 1;
                all.push_back(p);
            }
            for (unsigned char *p : all) {
                hak_free(p);
            }
            if (round) {
                (void)hak_purge();
            }
        }
        std::vector<unsigned char *> large;
        for (size_t size = 33000; size < 3000000; size += size / 3) {
            unsigned char *p = take(size);
            uintptr_t first = reinterpret_cast<uintptr_t>(p) >> 16;
            auto at = classes.lower_bound(first);
            EXPECT_TRUE(at == classes.end() ||
                        at->first > (reinterpret_cast<uintptr_t>(p) + size - 1) >> 16);
            large.push_back(p);
        }
        for (unsigned char *p : large) {
            hak_free(p);
        }
    }
    EXPECT_EQ(hak_verify(), 0);
}

TEST(Secure, TheQuarantineIsBounded)
{
    uint64_t all = hak_options.secure_quarantine_all;
    hak_options.secure_quarantine_all = 100000;
    (void)hak_purge();
    std::thread([] {
        for (size_t size = 16; size <= 32768; size += size / 8 + 8) {
            std::vector<void *> all(200);
            for (void *&p : all) {
                p = hak_malloc(size);
            }
            for (void *p : all) {
                hak_free(p);
            }
        }
        size_t bytes = 0;
        auto *cache = static_cast<secure_cache *>(hak_theap_own->kept);
        ASSERT_NE(cache, nullptr);
        for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
            const secure_bin &bin = cache->bins[c];
            ASSERT_LE(hak_secure_n_hand(&bin, &cache->lists[c]), bin.hand_most);
            ASSERT_EQ(bin.n_strays, 0u);
            const uintptr_t *ring = cache->lists[c].ring;
            auto n = bin.n_ring - std::count(ring, ring + bin.n_ring, uintptr_t{0});
            bytes += static_cast<size_t>(n) * hak_sc_table[c].size;
        }
        EXPECT_LE(bytes, 100000u);
        EXPECT_GT(bytes, 10000u);
    }).join();
    hak_options.secure_quarantine_all = all;
    (void)hak_purge();
}

/* Another thread frees a block, `then` is done to it, and it leaves that thread's quarantine as
   others come, or as the thread ends. */
void free_by_another(size_t size, bool others_come,
                     const std::function<void(unsigned char *)> &then)
{
    std::vector<unsigned char *> all(100);
    for (unsigned char *&p : all) {
        p = take(size);
    }
    std::thread([&] {
        hak_free(take(size)); /* its quarantine is made */
        hak_free(all[0]);
        then(all[0]);
        for (size_t i = 1; i < all.size() && others_come; i++) {
            hak_free(all[i]);
        }
        if (others_come) {
            _exit(0);
        }
    }).join();
}

/* What another thread freed is written to behind its end while it waits. */
TEST(Secure, ABlockThatAnotherThreadFreedAndIsWrittenToIsNotCalledFreedTwice)
{
    for (size_t size : {24u, 56u, 504u}) {
        EXPECT_DEATH(free_by_another(size, true,
                                     [=](unsigned char *freed) {
                                         volatile unsigned char *end = freed + size;
                                         end[0] = 1;
                                     }),
                     "written to")
            << size;
    }
}

/* Its own thread and another one have both found the block in use, and its own one's mark is the
   last: the other one finds out when the block is to leave its quarantine, or when it ends. */
TEST(Secure, ABlockThatTwoThreadsFreeAtTheSameTimeIsFoundByTheOther)
{
    for (size_t size : {50u, 500u, 5000u}) {
        for (int ends : {0, 1}) {
            EXPECT_DEATH(free_by_another(size, !ends,
                                         [=](unsigned char *freed) {
                                             size_t room = hak_secure_tail_room(size);
                                             size_t bytes = hak_sc_table[hak_sc_of(room)].size;
                                             uint64_t *tail = hak_secure_tail_of(freed, bytes);
                                             EXPECT_NE(*tail, hak_secure_tail_key(tail));
                                             *tail = hak_secure_tail_key(tail);
                                         }),
                         "block freed twice")
                << size << ' ' << ends;
        }
    }
}

size_t resident_bytes()
{
    size_t pages = 0, resident = 0;
    FILE *f = fopen("/proc/self/statm", "r");
    EXPECT_EQ(fscanf(f, "%zu %zu", &pages, &resident), 2);
    fclose(f);
    return resident * hak_os_page_size();
}

/* Those that wait count as 32 MiB of spans and more, which in other variants makes huge pages. */
TEST(Secure, LargeBlocksOfWhichNothingIsTouchedLeaveNothingResident)
{
    void *live[20] = {};
    Rng rng(11);
    size_t before = resident_bytes();
    for (int i = 0; i < 3000; i++) {
        void *&p = live[rng.below(20)];
        hak_free(p);
        p = hak_malloc(rng.between(65536, 1000000));
    }
    EXPECT_LT(resident_bytes(), before + (size_t(1) << 20));
    for (void *p : live) {
        hak_free(p);
    }
}

TEST(SecureDeathTest, FamiliesAndClaims)
{
    const entry_claim to_delete = {ENTRY_NEW, ENTRY_MALLOC, SIZE_MAX, 0};
    for (size_t size : {0u, 24u, 5000u, 100000u}) {
        void *p = hak_malloc(size);
        EXPECT_DEATH(hak_entry_now()->claim(p, &to_delete),
                     "block of malloc given to operator delete: 0x");
        EXPECT_DEATH(hak_free_sized(p, size + 1), "freed with a size that is not the block's: 0x");
        hak_entry_now()->name(p, ENTRY_NEW);
        EXPECT_DEATH(hak_free(p), "block of operator new given to free or realloc: 0x");
        hak_entry_now()->claim(p, &to_delete);
        hak_free(p);
        EXPECT_DEATH(hak_entry_now()->claim(p, &to_delete), "block freed twice");
    }
}

TEST(SecureDeathTest, TwoThreadsThatFreeOneBlockAtOnce)
{
    auto free_at_once = [] {
        for (int i = 0; i < 1000; i++) {
            void *p = hak_malloc(40);
            std::thread one(hak_free, p);
            std::thread two(hak_free, p);
            one.join();
            two.join();
        }
    };
    EXPECT_DEATH(free_at_once(), "block freed twice");
}

TEST(SecureDeathTest, AHookIsTold)
{
    EXPECT_EXIT(
        {
            hak_on_corruption(
                [](const char *reason, const void *, void *context) {
                    char *p = static_cast<char *>(hak_malloc(100)); /* may allocate */
                    strcpy(p, reason);
                    _exit(strcmp(p, static_cast<char *>(context)) == 0 ? 3 : 4);
                },
                const_cast<char *>("block freed twice"));
            void *p = hak_malloc(10);
            hak_free(p);
            hak_free(p);
        },
        testing::ExitedWithCode(3), "block freed twice");
}

/* Sizes and contents against an oracle. */
struct Block {
    unsigned char *p;
    size_t size;
    unsigned char value;
};

void step(std::vector<Block> &live, Rng &rng)
{
    Block &b = live[rng.below(live.size())];
    size_t size = rng.one_in(20)  ? rng.below(300000)
                  : rng.one_in(4) ? rng.below(40000)
                                  : rng.below(400);
    if (!b.p) {
        b = {static_cast<unsigned char *>(hak_malloc(size)), size,
             static_cast<unsigned char>(rng.between(1, 255))};
        ASSERT_TRUE(!b.p || is_zero(b.p, size));
    } else if (rng.one_in(3) && size) {
        auto *q = static_cast<unsigned char *>(hak_realloc(b.p, size));
        if (q) {
            size_t kept = std::min(size, b.size);
            ASSERT_TRUE(kept == 0 || (q[0] == b.value && memcmp(q, q + 1, kept - 1) == 0));
            ASSERT_TRUE(is_zero(q + kept, size - kept));
            b = {q, size, b.value};
        }
    } else {
        ASSERT_TRUE(b.size == 0 || (b.p[0] == b.value && memcmp(b.p, b.p + 1, b.size - 1) == 0));
        hak_free_sized(b.p, b.size);
        b = {};
        return;
    }
    if (b.p && b.size) {
        memset(b.p, b.value, b.size);
    }
}

void work(uint64_t seed, int n_steps)
{
    Rng rng(seed);
    std::vector<Block> live(200);
    for (int i = 0; i < n_steps && !testing::Test::HasFatalFailure(); i++) {
        step(live, rng);
        if (rng.one_in(3000)) {
            ASSERT_EQ(hak_verify(), 0);
        }
    }
    for (Block &b : live) {
        hak_free(b.p);
    }
}

TEST(Secure, AgainstAnOracle)
{
    work(1, 300000);
    std::thread one([] { work(2, 100000); }), two([] { work(3, 100000); });
    one.join();
    two.join();
    EXPECT_EQ(hak_verify(), 0);
}

#if defined(__x86_64__)
/* Fillings are written and looked at by functions of their own in each set (wide.h, small.c). */
void expect_filled(size_t size)
{
    unsigned char *p = take(size);
    size_t size_class = hak_secure_class_of(size);
    uint64_t *tail = hak_secure_tail_of(p, hak_sc_table[size_class].size);
    ASSERT_TRUE(is_zero(p, size)) << size;
    ASSERT_TRUE(hak_secure_tail_fill_is_right(p, size, tail)) << size;
    memset(p, 0xA5, size);
    ASSERT_EQ(hak_usable_size(p), size);
    hak_free(p);
    ASSERT_TRUE(is_zero(p, static_cast<size_t>(reinterpret_cast<unsigned char *>(tail) - p)));
}

TEST(SecureDeathTest, EachSetOfInstructionsFindsTheSame)
{
    const wide_set best = hak_secure_wide_set;
    for (int set = 0; set <= best; set++) {
        hak_secure_use_set(static_cast<wide_set>(set));
        for (size_t size = 1; size <= 32768; size += size < 1100 ? 1 : 331) {
            expect_filled(size);
        }
        work(4 + static_cast<uint64_t>(set), 50000);
        for (size_t size : {3u, 24u, 70u, 137u, 151u, 300u, 1100u, 5000u}) {
            unsigned char *p = take(size);
            size_t room = hak_sc_table[hak_secure_class_of(size)].size - size;
            for (size_t at = 0; at < std::min<size_t>(room, TAIL_FILLED); at += 13) {
                EXPECT_DEATH((p[size + at] ^= 0x40, hak_free(p)), "behind its end") << size;
            }
            hak_free(p);
            for (size_t at = 0; at < size; at += size < 200 ? 7 : 97) {
                EXPECT_DEATH(
                    {
                        p[at] = 1;
                        for (int i = 0; i < 1000; i++) {
                            hak_free(take(size));
                        }
                    },
                    "written to")
                    << size << " " << at;
            }
        }
    }
    hak_secure_use_set(best);
    EXPECT_EQ(hak_verify(), 0);
}
#endif

TEST(Secure, WhatTheSystemRefuses)
{
    for (int call : {hak_testing::OS_MMAP, hak_testing::OS_MADVISE, hak_testing::OS_MPROTECT,
                     hak_testing::OS_MREMAP}) {
        for (int nth = 1; nth < 40; nth++) {
            hak_testing::FailingOs os;
            os.fail(static_cast<hak_testing::OsCall>(call), nth);
            work(static_cast<uint64_t>(nth), 400);
        }
        {
            hak_testing::FailingOs os;
            os.fail_always(static_cast<hak_testing::OsCall>(call));
            work(7, 2000);
        }
        EXPECT_EQ(hak_verify(), 0);
        work(8, 2000);
    }
    (void)hak_purge();
    EXPECT_EQ(hak_verify(), 0);
}

/* What limbo serves while the gate is closed lies anywhere: another place is asked for, which the
   plain functions serve if the fork is over by then. */
TEST(Secure, AlignedBlocksWhileOthersFork)
{
    std::atomic<bool> is_over{false};
    std::atomic<int> n{0};
    auto ask = [&] {
        while (!is_over) {
            for (size_t size : {size_t(100), size_t(3000), size_t(100000), size_t(1500000)}) {
                void *p = hak_aligned_alloc(4096, size);
                ASSERT_NE(p, nullptr);
                ASSERT_EQ(hak_usable_size(p) < size, false);
                hak_free(p);
                n++;
            }
        }
    };
    std::thread one(ask), two(ask);
    for (int i = 0; i < 300; i++) {
        pid_t child = fork();
        if (child == 0) {
            _exit(0);
        }
        ASSERT_GT(child, 0);
        ASSERT_EQ(waitpid(child, nullptr, 0), child);
    }
    is_over = true;
    one.join();
    two.join();
    EXPECT_GT(n, 0);
    EXPECT_EQ(hak_verify(), 0);
}

TEST(Secure, AForkedChildGoesOn)
{
    std::thread other([] { work(4, 60000); });
    for (int i = 0; i < 30; i++) {
        pid_t child = fork();
        if (child == 0) {
            alarm(60);
            work(5, 2000);
            _exit(hak_verify() || testing::Test::HasFailure() ? 1 : 0);
        }
        int status = -1;
        ASSERT_EQ(waitpid(child, &status, 0), child);
        ASSERT_EQ(status, 0) << i;
    }
    other.join();
}

/* They are linked through their first words until the fork is done, and so are those of a heap that
   is destroyed before. */
TEST(Secure, LargeBlocksThatAreFreedDuringAForkAreNotLostWithAHeap)
{
    (void)hak_purge();
    int64_t used = hak_stat_get(heap_used_bytes), large = hak_stat_get(large_bytes);
    for (size_t size : {50000u, 200000u, 3000000u}) {
        hak_heap *heap = hak_heap_create();
        ASSERT_NE(heap, nullptr);
        std::vector<unsigned char *> plain, own;
        for (int i = 0; i < 4; i++) {
            plain.push_back(take(size));
            own.push_back(static_cast<unsigned char *>(hak_heap_malloc(heap, size)));
            ASSERT_NE(own[i], nullptr);
            memset(own[i], 7, size);
        }
        hak_gate_close(); /* as fork does */
        std::thread([&] {
            for (int i = 0; i < 4; i++) {
                hak_free(plain[i]);
                if (i % 2) {
                    hak_free(own[i]);
                }
            }
            hak_heap_destroy(heap);
        }).join();
        hak_gate_open();
        (void)hak_purge();
        EXPECT_EQ(hak_verify(), 0);
        EXPECT_LE(hak_stat_get(heap_used_bytes), used) << size;
        EXPECT_LE(hak_stat_get(large_bytes), large) << size;
    }
}

/* Whatever lies behind. */
TEST(Secure, AStringWithoutAnEndEndsWithItsBlock)
{
    for (size_t size : {size_t(9), size_t(24), size_t(25), size_t(200), size_t(5000)}) {
        size_t class_bytes = hak_sc_table[hak_secure_class_of(size)].size;
        std::vector<unsigned char *> all;
        for (int i = 0; i < 200; i++) {
            unsigned char *p = take(size);
            memset(p, 'p', size);
            all.push_back(p);
        }
        for (unsigned char *p : all) {
            size_t length = strlen(reinterpret_cast<char *>(p));
            EXPECT_GE(length, size);
            EXPECT_LT(length, class_bytes) << size;
            hak_free(p);
        }
    }
}

/* What is known of an address is of the block that has it now. */
TEST(SecureDeathTest, StacksOfABlockThatIsNotSampledAreNotTold)
{
    EXPECT_DEATH(
        {
            ASSERT_EQ(hak_secure_stacks_start(1), 0);
            unsigned char *p = take(40);
            hak_free(p);
            ASSERT_EQ(hak_secure_stacks_start(0), 0);
            unsigned char *q = NULL;
            for (int i = 0; i < 1000000 && q != p; i++) {
                q = take(40);
                q == p ? (void)0 : hak_free(q);
            }
            p[40] ^= 1;
            hak_free(p);
        },
        "block written to behind its end: 0x[0-9a-f]+ \\(a block of size class 48\\)\n$");
}

TEST(Secure, StacksByThreadsAndInChildren)
{
    pid_t child = fork();
    if (child == 0) {
        alarm(120);
        if (hak_secure_stacks_start(2)) {
            _exit(2);
        }
        std::thread one([] { work(2, 30000); }), two([] { work(3, 30000); });
        for (int i = 0; i < 10; i++) {
            pid_t inner = fork();
            if (inner == 0) {
                work(5, 1000);
                _exit(hak_verify() || testing::Test::HasFailure() ? 1 : 0);
            }
            int status = -1;
            if (waitpid(inner, &status, 0) != inner || status) {
                _exit(3);
            }
        }
        one.join();
        two.join();
        _exit(hak_verify() || testing::Test::HasFailure() ? 1 : 0);
    }
    int status = -1;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
}

/* How many blocks of a class wait in the calling thread's quarantine. */
long n_waiting(size_t size)
{
    const auto *cache = static_cast<secure_cache *>(hak_theap_own->kept_room);
    uint32_t size_class = hak_sc_of(size), n = cache->bins[size_class].n_ring;
    const uintptr_t *ring = cache->lists[size_class].ring;
    return n - std::count(ring, ring + n, uintptr_t{0});
}

/* What a thread keeps is still there behind forks between which it does not call. */
TEST(Secure, ForksInARowLoseNothing)
{
    std::vector<void *> all(100);
    for (void *&p : all) {
        p = take(3000);
    }
    for (void *p : all) {
        hak_free(p);
    }
    long n = n_waiting(3072);
    ASSERT_GT(n, 0);
    pid_t child = fork();
    if (child == 0) {
        for (int i = 0; i < 3; i++) {
            pid_t inner = fork();
            if (inner) {
                int status = -1;
                _exit(waitpid(inner, &status, 0) == inner && !status ? 0 : 1);
            }
        }
        hak_free(take(40));
        _exit(n_waiting(3072) == n && hak_verify() == 0 ? 0 : 1);
    }
    int status = -1;
    ASSERT_EQ(waitpid(child, &status, 0), child);
    EXPECT_EQ(status, 0);
}

} // namespace
