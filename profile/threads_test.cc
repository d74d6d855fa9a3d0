/* Tests of the heap profile beside threads that end, forks, and libraries that come and go. */
#include <atomic>
#include <cstring>
#include <dlfcn.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "hakmem/hakmem.h"
#include "profile/profile.h"
#include "profile/profile_testing.h"
#include "profile/sample.h"
#include "testing/rng.h"

namespace
{

using namespace profile_testing;
using hak_testing::Rng;
using hak_testing::total;

void fill(void *p, size_t size, int seed)
{
    memset(p, seed & 0xff, size);
}

bool is_filled(const void *p, size_t size, int seed)
{
    const unsigned char *at = static_cast<const unsigned char *>(p);
    for (size_t i = 0; i < size; i++) {
        if (at[i] != (seed & 0xff)) {
            return false;
        }
    }
    return true;
}
void churn(unsigned seed, const std::atomic<bool> *is_over, size_t most)
{
    Rng rng(seed);
    std::vector<std::pair<char *, size_t>> blocks(64);
    for (size_t n = 0; n < most && !*is_over; n++) {
        auto &block = blocks[rng.next() % blocks.size()];
        if (block.first && !is_filled(block.first, block.second, int(block.second))) {
            ADD_FAILURE() << "a block was written to";
        }
        hak_free(block.first);
        block.second = rng.next() % (n % 100 ? 2000 : 100000);
        block.first = static_cast<char *>(hak_malloc(block.second));
        fill(block.first, block.second, int(block.second));
    }
    for (auto &block : blocks) {
        hak_free(block.first);
    }
}

TEST(Profile, ThreadsThatEnd)
{
    uint64_t before = n_samples();
    Sampling sampling(3000);
    std::atomic<bool> is_over(false);
    std::vector<void *> left(200);
    for (int round = 0; round < 20; round++) {
        std::vector<std::thread> threads;
        for (int i = 0; i < 8; i++) {
            threads.emplace_back([&, i] {
                churn(unsigned(round * 8 + i), &is_over, 2000);
                left[size_t(round * 8 + i)] = hak_malloc(5000); /* for another to free */
            });
        }
        for (std::thread &thread : threads) {
            thread.join();
        }
    }
    for (void *block : left) {
        hak_free(block);
    }
    EXPECT_EQ(n_samples(), before);
    EXPECT_EQ(hak_verify(), 0);
}

TEST(Profile, BlocksFreedByOtherThreadsWhileItIsSwitched)
{
    uint64_t before = n_samples();
    std::atomic<bool> is_over(false);
    std::atomic<char *> handed[32] = {};
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < 3; i++) {
        threads.emplace_back([&, i] {
            Rng rng(i);
            while (!is_over) {
                size_t size = 1 + rng.next() % 3000;
                char *p = static_cast<char *>(hak_malloc(size));
                p[0] = 42;
                char *other = handed[rng.next() % 32].exchange(p);
                if (other && other[0] != 42) {
                    ADD_FAILURE() << "a block was written to";
                }
                hak_free(other);
            }
        });
    }
    for (int i = 0; i < 150; i++) {
        hak_profile_start(size_t(100) << i % 8);
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
        if (i % 10 == 0) {
            (void)written();
        }
        hak_profile_stop();
    }
    is_over = true;
    for (std::thread &thread : threads) {
        thread.join();
    }
    for (auto &block : handed) {
        hak_free(block);
    }
    EXPECT_EQ(n_samples(), before);
    EXPECT_EQ(hak_verify(), 0);
}

TEST(Profile, AForkedChildSamplesAndWrites)
{
    Sampling sampling(500);
    std::atomic<bool> is_over(false);
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < 3; i++) {
        threads.emplace_back([&, i] { churn(i, &is_over, SIZE_MAX); });
    }
    threads.emplace_back([&] {
        while (!is_over) {
            int null = open("/dev/null", O_WRONLY);
            (void)hak_profile_write(null);
            close(null);
        }
    });
    for (int i = 0; i < 15; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            alarm(60);
            std::atomic<bool> never(false);
            churn(7, &never, 3000);
            int null = open("/dev/null", O_WRONLY);
            _exit(hak_profile_write(null) != 0 || hak_verify() != 0);
        }
        int status;
        waitpid(pid, &status, 0);
        EXPECT_EQ(status, 0);
    }
    is_over = true;
    for (std::thread &thread : threads) {
        thread.join();
    }
}

/* What is served while another thread forks is known by its start: a sample is not. */
TEST(Profile, SampledBlocksOfAHeapGrowThoughAnotherThreadForks)
{
    Sampling sampling(1);
    std::atomic<bool> is_over(false);
    std::thread grows([&] {
        struct hak_heap *heap = hak_heap_create();
        for (size_t i = 0; !is_over; i++) {
            size_t size = 40 + i % 900;
            void *p = hak_heap_malloc(heap, size);
            fill(p, size, static_cast<int>(i));
            p = hak_heap_realloc(heap, p, 2 * size);
            if (!p || !is_filled(p, size, static_cast<int>(i))) {
                abort();
            }
            hak_free(p);
        }
        hak_heap_destroy(heap);
    });
    for (int i = 0; i < 100; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            _exit(0);
        }
        int status;
        waitpid(pid, &status, 0);
        EXPECT_EQ(status, 0);
    }
    is_over = true;
    grows.join();
}

TEST(Profile, LibrariesAreLoadedMeanwhile)
{
    Sampling sampling(500);
    std::atomic<bool> is_over(false);
    std::vector<std::thread> threads;
    for (unsigned i = 0; i < 2; i++) {
        threads.emplace_back([&, i] { churn(i, &is_over, SIZE_MAX); });
    }
    threads.emplace_back([&] {
        while (!is_over) {
            (void)written();
        }
    });
    for (int i = 0; i < 100; i++) {
        void *library = dlopen(i % 2 ? "libBrokenLocale.so.1" : "libanl.so.1", RTLD_NOW);
        if (library) {
            dlclose(library);
        }
    }
    is_over = true;
    for (std::thread &thread : threads) {
        thread.join();
    }
}

} // namespace
