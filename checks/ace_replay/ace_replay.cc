/* ace_replay: plays allocation patterns on the real ACE with a clock of its own, and says what each
   setting costs.

   usage: ace_replay table | ace_replay curve PATTERN

   table   one line `PATTERN SETTING TIME_US PEAK_BYTES MEAN_BYTES` for each pattern and each value
           of HAKMEM_ACE_KEEP, `auto` included
   curve   lines `MS LIVE AUTO FIXED_0 FIXED_ALL` of committed bytes over the pattern's time

   The clock advances by what a call costs (constants below, measured on Zen 4 with Linux 6.18) and
   by the program's own work. So the same pattern always gives the same figures. */
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <sys/mman.h>
#include <vector>

#include "ace/ace.h"
#include "ace/adapt.h"
#include "base/options.h"
#include "base/os.h"
#include "base/stats.h"
#include "superslab/superslab.h"
#include "testing/rng.h"

namespace
{

const double kCallUs = 0.1; /* a call of malloc or free that stays in the process */
const double kFaultUs =
    1.5; /* a page of 4 KiB that has to come from the system, when it is touched */
const double kReturnUs = 0.1; /* a resident page that goes back */
const double kMoveUs = 0.03;  /* a page that moves to another address */
const double kSystemCallUs = 1.0;
const size_t kMiB = 1 << 20;

double now_us;
uint64_t n_system_calls, n_moved_pages;

uint64_t fake_clock()
{
    return static_cast<uint64_t>(now_us * 1000);
}

/* One play of a pattern. */
class Play
{
  public:
    Play(uint64_t keep, bool draw) : rng(1), draw_(draw)
    {
        hak_os_ops.clock_ns = fake_clock;
        hak_os_ops.mmap = [](void *addr, size_t length, int prot, int flags, int fd, off_t offset) {
            n_system_calls++;
            return hak_os_real_ops.mmap(addr, length, prot, flags, fd, offset);
        };
        hak_os_ops.munmap = [](void *addr, size_t length) {
            n_system_calls++;
            return hak_os_real_ops.munmap(addr, length);
        };
        hak_os_ops.madvise = [](void *addr, size_t length, int advice) {
            n_system_calls++;
            return hak_os_real_ops.madvise(addr, length, advice);
        };
        hak_os_ops.mremap = [](void *old, size_t old_size, size_t size, int flags, void *place) {
            n_system_calls++;
            n_moved_pages += flags & MREMAP_FIXED ? old_size / 4096 : 0;
            return hak_os_real_ops.mremap(old, old_size, size, flags, place);
        };
        /* No block is looked at, so that all of each counts as touched: here nothing is. */
        hak_os_ops.mprotect = [](void *, size_t, int) {
            errno = ENOMEM;
            return -1;
        };
        now_us += 1e9; /* far from the play before */
        hak_options.ace_keep = keep;
        hak_options.large_cache_bytes = SIZE_MAX;
        hak_options.huge_page_bytes = 0;
        /* A fixed setting is fixed: age does not matter to it. */
        hak_options.purge_delay_ms = keep == UINT64_MAX ? 500 : 3600000;
        hak_ace_purge(0);
        hak_ss_purge(0);
        hak_ace_set_helped(1);
        hak_adapt_forget();
        start_us_ = last_us_ = now_us;
        n_system_calls = n_moved_pages = 0;
        fresh_ = hak_stat_get(fresh_bytes);
        returned_ = hak_stat_get(returned_bytes);
    }
    ~Play()
    {
        for (char *p : blocks) {
            hak_ace_free(p);
        }
        hak_ace_purge(0);
        hak_ss_purge(0);
        hak_os_ops = hak_os_real_ops;
    }
    void alloc(size_t size)
    {
        char *p = static_cast<char *>(hak_ace_alloc(size, 1));
        if (!p) {
            abort();
        }
        blocks.push_back(p);
        charge();
    }
    void free_at(size_t i)
    {
        hak_ace_free(blocks[i]);
        blocks[i] = blocks.back();
        blocks.pop_back();
        charge();
    }
    void free_all()
    {
        while (!blocks.empty()) {
            free_at(blocks.size() - 1);
        }
    }
    /* The program does something else. */
    void work(double us)
    {
        work_us_ += us;
        now_us += us;
        sample();
    }
    double cost_us() const
    {
        return now_us - start_us_ - work_us_;
    }
    double total_us() const
    {
        return now_us - start_us_;
    }
    double mean() const
    {
        return byte_us_ / (now_us - start_us_);
    }
    size_t peak = 0;
    std::vector<char *> blocks;
    hak_testing::Rng rng;
    struct Point {
        double ms;
        size_t live, committed;
    };
    std::vector<Point> points;

  private:
    /* What the call has cost moves the clock. */
    void charge()
    {
        hak_ace_purge_excess();
        int64_t fresh = hak_stat_get(fresh_bytes), returned = hak_stat_get(returned_bytes);
        now_us += kCallUs + static_cast<double>(n_system_calls) * kSystemCallUs +
                  static_cast<double>(n_moved_pages) * kMoveUs +
                  static_cast<double>(fresh - fresh_) / 4096 * kFaultUs +
                  static_cast<double>(returned - returned_) / 4096 * kReturnUs;
        n_system_calls = n_moved_pages = 0;
        fresh_ = fresh;
        returned_ = returned;
        sample();
    }
    void sample()
    {
        size_t live =
            static_cast<size_t>(hak_stat_get(heap_used_bytes) + hak_stat_get(large_bytes));
        size_t committed = live + static_cast<size_t>(hak_stat_get(heap_dirty_bytes) +
                                                      hak_stat_get(large_cached_bytes));
        peak = committed > peak ? committed : peak;
        byte_us_ += static_cast<double>(committed) * (now_us - last_us_);
        last_us_ = now_us;
        if (draw_ && (points.empty() || (now_us - start_us_) / 1000 - points.back().ms >= 20)) {
            points.push_back({(now_us - start_us_) / 1000, live, committed});
        }
    }
    bool draw_;
    double start_us_, last_us_, work_us_ = 0, byte_us_ = 0;
    int64_t fresh_, returned_;
};

/* A working set of random blocks, one replaced at a time. */
void churn(Play &play, size_t n_blocks, size_t least, size_t most, int steps, double think_us)
{
    while (play.blocks.size() < n_blocks) {
        play.alloc(play.rng.between(least, most));
    }
    for (int i = 0; i < steps; i++) {
        play.free_at(play.rng.below(play.blocks.size()));
        play.work(think_us);
        play.alloc(play.rng.between(least, most));
    }
}

void steady(Play &play)
{
    churn(play, 100, 64 * 1024, 4 * kMiB, 8000, 500);
}

/* 300 MiB that are freed at once, then hardly anything. */
void burst_then_silence(Play &play)
{
    for (size_t bytes = 0; bytes < 300 * kMiB;) {
        size_t size = play.rng.between(64 * 1024, 4 * kMiB);
        play.alloc(size);
        bytes += size;
    }
    play.free_all();
    for (int i = 0; i < 1000; i++) {
        play.alloc(100000);
        play.work(10000);
        play.free_at(0);
    }
}

/* Large blocks, and then, instead of them, small ones: what is kept for the first is of no use to
   the second. */
void phase_change(Play &play)
{
    for (int round = 0; round < 2; round++) {
        churn(play, 60, 2 * kMiB, 6 * kMiB, 3000, 500);
        play.free_all();
        churn(play, 600, 64 * 1024, 800 * 1024, 3000, 500);
        play.free_all();
    }
}

/* All is freed, and soon wanted again. */
void sawtooth(Play &play)
{
    for (int tooth = 0; tooth < 40; tooth++) {
        for (int i = 0; i < 100; i++) {
            play.alloc(play.rng.between(64 * 1024, 4 * kMiB));
            play.work(500);
        }
        play.free_all();
        play.work(300000);
    }
}

const struct {
    const char *name;
    void (*run)(Play &);
} patterns[] = {{"steady", steady},
                {"burst_then_silence", burst_then_silence},
                {"phase_change", phase_change},
                {"sawtooth", sawtooth}};

const struct {
    const char *name;
    uint64_t keep;
} settings[] = {
    {"auto", UINT64_MAX},         {"0", 0},           {"1m", kMiB},         {"4m", 4 * kMiB},
    {"16m", 16 * kMiB},           {"64m", 64 * kMiB}, {"128m", 128 * kMiB}, {"256m", 256 * kMiB},
    {"1g", uint64_t(1024) * kMiB}};

int table()
{
    for (const auto &pattern : patterns) {
        for (const auto &setting : settings) {
            Play play(setting.keep, false);
            pattern.run(play);
            printf("%s %s %.0f %zu %.0f\n", pattern.name, setting.name, play.total_us(), play.peak,
                   play.mean());
        }
    }
    return 0;
}

int curve(const char *name)
{
    for (const auto &pattern : patterns) {
        if (strcmp(pattern.name, name) != 0) {
            continue;
        }
        for (uint64_t keep : {UINT64_MAX, uint64_t(0), uint64_t(1024) * kMiB}) {
            Play play(keep, true);
            pattern.run(play);
            for (const auto &point : play.points) {
                printf("%.0f %.1f %.1f\n", point.ms, static_cast<double>(point.live) / kMiB,
                       static_cast<double>(point.committed) / kMiB);
            }
            printf("\n\n");
        }
        return 0;
    }
    return 2;
}

} // namespace

int main(int argc, char **argv)
{
    if (argc == 2 && !strcmp(argv[1], "table")) {
        return table();
    }
    if (argc == 3 && !strcmp(argv[1], "curve") && curve(argv[2]) == 0) {
        return 0;
    }
    fprintf(stderr, "usage: ace_replay table | ace_replay curve PATTERN\n"
                    "patterns: steady burst_then_silence phase_change sawtooth\n");
    return 2;
}
