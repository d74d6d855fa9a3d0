/* bins_replay: many threads that worked for a moment and sleep, and one that works on, under fixed
   and adaptive limits of bins.

   usage: bins_replay

   Prints one line `idle_threads SETTING TIME_US PEAK_BYTES MEAN_BYTES` for each value of
   HAKMEM_BIN_BYTES without adapting, and for `auto`. The threads run one after the other, time is
   counted by the constants below, and the clock stands, so that nothing is purged for its age: the
   figures are always the same. */
#include <condition_variable>
#include <cstdio>
#include <mutex>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "base/options.h"
#include "base/os.h"
#include "base/stats.h"
#include "hakmem/hakmem.h"
#include "testing/rng.h"

namespace
{

const double kCallUs = 0.01; /* a call that ends in its bin */
const double kSlowUs =
    0.15; /* a bin filled from slabs, or flushed to them, under a lock: some 400 instructions */
const double kWorkUs = 0.1; /* what the program does with a block */
const int kThreads = 100;

size_t committed()
{
    return static_cast<size_t>(hak_stat_get(heap_used_bytes) + hak_stat_get(heap_dirty_bytes));
}

/* Blocks of many sizes, each kept for a while: what a request of a server does. */
void burst(uint64_t seed)
{
    hak_testing::Rng rng(seed);
    std::vector<void *> blocks;
    for (int i = 0; i < 4000; i++) {
        blocks.push_back(hak_malloc(rng.between(16, 4096)));
        if (blocks.size() > 1000) {
            size_t k = rng.below(blocks.size());
            hak_free(blocks[k]);
            blocks[k] = blocks.back();
            blocks.pop_back();
        }
    }
    for (void *p : blocks) {
        hak_free(p);
    }
}

void play(const char *name, uint64_t bin_bytes)
{
    hak_options.bin_adapt = bin_bytes == 0;
    hak_options.bin_bytes = bin_bytes ? bin_bytes : 131072;
    /* Fixed limits are not grown, and need no budget. */
    hak_options.cache_bytes = bin_bytes ? UINT64_MAX : hak_options.cache_bytes;
    hak_options.background = 0;
    std::mutex mutex;
    std::condition_variable changed;
    int n_done = 0;
    bool stop = false;
    size_t peak = 0;
    double calls = 0;
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; t++) {
        threads.emplace_back([&, t] {
            burst(static_cast<uint64_t>(t));
            std::unique_lock<std::mutex> held(mutex);
            n_done++;
            changed.notify_all();
            changed.wait(held, [&] { return stop; });
        });
        std::unique_lock<std::mutex> held(mutex);
        changed.wait(held, [&] { return n_done == t + 1; });
        calls += 8000;
        peak = committed() > peak ? committed() : peak;
    }
    hak_testing::Rng rng(1);
    std::vector<void *> blocks;
    for (int i = 0; i < 5000; i++) {
        blocks.push_back(hak_malloc(rng.between(16, 2048)));
    }
    for (int i = 0; i < 2000000; i++) {
        /* The working set breathes. */
        if (i / 3000 % 2 ? blocks.size() > 4000 : blocks.size() > 6000 || rng.one_in(3)) {
            size_t k = rng.below(blocks.size());
            hak_free(blocks[k]);
            blocks[k] = blocks.back();
            blocks.pop_back();
        } else {
            blocks.push_back(hak_malloc(rng.between(16, 2048)));
        }
        calls++;
        if (i % 1000 == 0) {
            peak = committed() > peak ? committed() : peak;
        }
    }
    double slow = static_cast<double>(hak_stat_get(refills) + hak_stat_get(flushes));
    printf("idle_threads %s %.0f %zu %zu\n", name, calls * (kCallUs + kWorkUs) + slow * kSlowUs,
           peak, committed());
    fflush(stdout);
    for (void *p : blocks) {
        hak_free(p);
    }
    {
        std::lock_guard<std::mutex> held(mutex);
        stop = true;
    }
    changed.notify_all();
    for (std::thread &thread : threads) {
        thread.join();
    }
}

} // namespace

int main(int argc, char **)
{
    if (argc != 1) {
        fprintf(stderr, "usage: bins_replay\n");
        return 2;
    }
    const struct {
        const char *name;
        uint64_t bin_bytes;
    } settings[] = {{"auto", 0},    {"2k", 2048},     {"8k", 8192},
                    {"32k", 32768}, {"128k", 131072}, {"512k", 524288}};
    hak_os_ops.clock_ns = [] { return uint64_t(1000000000); };
    /* The thread that works on has its heap before the setting counts: its bins begin small, and
       fixed ones stay so. */
    hak_free(hak_malloc(1));
    /* Each in a process of its own, so that none finds what another has left. */
    for (const auto &setting : settings) {
        fflush(stdout);
        pid_t child = fork();
        if (child == 0) {
            play(setting.name, setting.bin_bytes);
            _exit(0);
        }
        int status = 1;
        if (child < 0 || waitpid(child, &status, 0) != child || status) {
            return 1;
        }
    }
    return 0;
}
