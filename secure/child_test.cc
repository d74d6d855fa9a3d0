/* Forked children of the secure variant: what they are served is not known from their parent; and
   what is found at exit. */
#include <atomic>
#include <cstdlib>
#include <cstring>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "hakmem/hakmem.h"
#include "heap/gate.h"
#include "heap/theap.h"
#include "secure/cache.h"
#include "testing/in_child.h"

namespace
{

const int N = 24;

TEST(SecureChild, EachDrawsItsOwn)
{
    for (size_t size : {24u, 200u, 1000u}) {
        auto *served =
            static_cast<void **>(mmap(nullptr, 3 * N * sizeof(void *), PROT_READ | PROT_WRITE,
                                      MAP_SHARED | MAP_ANONYMOUS, -1, 0));
        ASSERT_NE(served, MAP_FAILED);
        std::vector<void *> blocks;
        for (int i = 0; i < 100; i++) {
            blocks.push_back(hak_malloc(size));
        }
        for (void *p : blocks) {
            hak_free(p);
        }
        auto take = [&](void **row) {
            for (int i = 0; i < N; i++) {
                row[i] = hak_malloc(size);
            }
        };
        hak_testing::in_child([&] { take(served); });
        hak_testing::in_child([&] { take(served + N); });
        take(served + 2 * N);
        EXPECT_NE(memcmp(served, served + N, N * sizeof(void *)), 0) << size;
        EXPECT_NE(memcmp(served, served + 2 * N, N * sizeof(void *)), 0) << size;
        for (int i = 0; i < N; i++) {
            hak_free(served[2 * N + i]);
        }
        munmap(served, 3 * N * sizeof(void *));
        EXPECT_EQ(hak_verify(), 0);
    }
}

/* Its memory has a lock, which a forked child would find held. */
TEST(SecureChild, NoCacheIsMadeWhileAForkIsUnderWay)
{
    hak_gate_close();
    std::thread([] {
        struct theap *heap = hak_theap_own;
        EXPECT_EQ(hak_secure_cache_attach(), nullptr) << "nor is a heap";
        EXPECT_EQ(hak_theap_own, heap);
    }).join();
    hak_gate_open();
    std::atomic<int> step(0);
    auto wait = [&](int until) {
        while (step.load() < until) {
            std::this_thread::yield();
        }
    };
    std::thread other([&] {
        struct theap *heap = hak_theap_acquire();
        heap->kept_room = nullptr; /* as of a heap that no thread has had */
        step = 1;
        wait(2);
        EXPECT_EQ(hak_secure_cache_attach(), nullptr);
        EXPECT_EQ(heap->kept_room, nullptr);
        step = 3;
        wait(4);
        hak_free(hak_malloc(24));
        EXPECT_NE(heap->kept_room, nullptr);
    });
    wait(1);
    hak_gate_close();
    step = 2;
    wait(3);
    hak_gate_open();
    step = 4;
    other.join();
    EXPECT_EQ(hak_verify(), 0);
}

TEST(SecureExit, BlocksInUseAreLookedAt)
{
    for (size_t size : {16u, 24u, 200u, 3000u}) {
        EXPECT_EXIT(
            {
                memset(hak_malloc(size), 'A', size + 1);
                exit(0);
            },
            testing::KilledBySignal(SIGABRT), "block written to behind its end")
            << size;
    }
}

/* Whichever word of its slab's bits it has; freed ones lie between; and while another thread has a
   heap. */
TEST(SecureExit, AnyOfManyBlocksIsLookedAt)
{
    for (bool is_alone : {true, false}) {
        for (size_t size : {24u, 100u, 700u}) {
            for (size_t which : {0u, 150u, 1998u}) {
                EXPECT_EXIT(
                    {
                        std::vector<char *> blocks;
                        for (size_t i = 0; i < 2000; i++) {
                            blocks.push_back(static_cast<char *>(hak_malloc(size)));
                        }
                        for (size_t i = 1; i < 2000; i += 2) {
                            hak_free(blocks[i]);
                        }
                        if (!is_alone) {
                            std::atomic<bool> has_heap{false};
                            std::thread([&] {
                                (void)hak_malloc(size);
                                has_heap = true;
                                pause();
                            }).detach();
                            while (!has_heap) {
                                std::this_thread::yield();
                            }
                        }
                        blocks[which][size] = 1;
                        exit(0);
                    },
                    testing::KilledBySignal(SIGABRT), "block written to behind its end")
                    << size << " " << which;
            }
        }
    }
}

TEST(SecureExit, PagesThatTheProgramHasMadeUnreadableAreLetBe)
{
    EXPECT_EXIT(
        {
            void *p = hak_aligned_alloc(4096, 16384);
            exit(mprotect(p, 16384, PROT_NONE));
        },
        testing::ExitedWithCode(0), "");
}

TEST(SecureEmpty, BlocksOfNoBytesMayHaveAnAlignment)
{
    for (size_t alignment = 16; alignment <= 131072; alignment *= 2) {
        std::vector<char *> blocks;
        for (int i = 0; i < 20; i++) {
            auto *p = static_cast<char *>(hak_aligned_alloc(alignment, 0));
            ASSERT_EQ(reinterpret_cast<uintptr_t>(p) % alignment, 0u);
            ASSERT_EQ(hak_usable_size(p), alignment > 65536 ? 1u : 0u);
            blocks.push_back(p);
        }
        if (alignment <= 65536) {
            EXPECT_DEATH(*static_cast<volatile char *>(blocks[0]) = 1, "");
        }
        for (char *p : blocks) {
            hak_free(p);
        }
    }
}

} // namespace
