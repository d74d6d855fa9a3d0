/* What tests of fork share. */
#ifndef HAKMEM_HAKMEM_FORK_TESTING_H
#define HAKMEM_HAKMEM_FORK_TESTING_H

#include "base/internal.h"

#include <atomic>
#include <cstring>
#include <thread>
#include <unistd.h>
#include <vector>

#include "hakmem/hakmem.h"
#include "testing/rng.h"

extern "C" void __gcov_exit(void)
    __attribute__((weak)); /* gcov's own end, in what is built with coverage */

namespace fork_testing
{

/* What goes on in the background: blocks of all kinds, in part freed by the neighbour. */
class Traffic
{
  public:
    explicit Traffic(size_t n_threads) : cells_(256)
    {
        for (size_t i = 0; i < n_threads; i++) {
            threads_.emplace_back([this, i] { run(i); });
        }
    }
    ~Traffic()
    {
        stop_ = true;
        for (std::thread &thread : threads_) {
            thread.join();
        }
        for (auto &cell : cells_) {
            hak_free(cell);
        }
    }

  private:
    void run(size_t seed)
    {
        hak_testing::Rng rng(seed);
        while (!stop_) {
            size_t size = rng.one_in(50)  ? rng.below(2 << 20)
                          : rng.one_in(5) ? rng.below(40000)
                                          : rng.below(500);
            void *p = hak_malloc(size);
            p = rng.one_in(10) ? hak_realloc(p, size + size / 2 + 1) : p;
            hak_free(cells_[rng.below(cells_.size())].exchange(p));
        }
    }
    std::vector<std::atomic<void *>> cells_;
    std::atomic<bool> stop_{false};
    std::vector<std::thread> threads_;
};

inline std::vector<char *> some_blocks()
{
    std::vector<char *> blocks;
    for (int i = 0; i < 100; i++) {
        size_t size = 100 + static_cast<size_t>(i) * 700;
        blocks.push_back(static_cast<char *>(hak_malloc(size)));
        memset(blocks.back(), 42, size);
    }
    return blocks;
}

/* Of blocks of every kind. */
const size_t sizes[] = {1,     16,     100,     1000,          5000,   32768,
                        32769, 100000, 1 << 20, (1 << 20) + 1, 5 << 20};

/* _exit, but what the child reached counts as covered. */
[[noreturn]] inline void leave(int code)
{
    if (__gcov_exit) {
        __gcov_exit();
    }
    _exit(code);
}

} // namespace fork_testing

#endif
