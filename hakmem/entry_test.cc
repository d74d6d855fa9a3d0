/* Tests of the table of entry points: layers of the test's own, their order, switching while others
   run, and realloc by every way into it. */
#include "hakmem/entry.h"

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <functional>
#include <gtest/gtest.h>
#include <string>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "base/size_classes.h"
#include "base/stats.h"
#include "hakmem/hakmem.h"
#include "heap/gate.h"
#include "heap/theap.h"
#include "observe/hooks.h"
#include "observe/noted.h"
#include "testing/rng.h"

namespace
{

using hak_testing::Rng;

/* A layer that writes down the names of the entries through which calls come, and does nothing
   besides. */
template <int Place> struct Recorder {
    static entry_layer layer;
    static thread_local std::string seen;
    static const entry_table *below()
    {
        return hak_entry_below(&layer);
    }
    static void note(const char *name)
    {
        seen += std::string(seen.empty() ? "" : " ") + name;
    }
    static std::string take()
    {
        std::string result = seen;
        seen.clear();
        return result;
    }
};
template <int Place> thread_local std::string Recorder<Place>::seen;
template <int Place>
entry_layer Recorder<Place>::layer = {
    {
        [](size_t size) { return note("malloc"), below()->malloc(size); },
        [](size_t bytes) { return note("calloc"), below()->calloc(bytes); },
        [](size_t alignment, size_t size) {
            return note("aligned"), below()->aligned(alignment, size);
        },
        [](void *p, size_t size, hak_heap *heap, int is_zeroed) {
            return note("realloc"), below()->realloc(p, size, heap, is_zeroed);
        },
        [](void *p) { note("free"), below()->free(p); },
        [](const void *p) { return note("usable_size"), below()->usable_size(p); },
        [](hak_heap *heap, size_t size, size_t alignment, int is_zeroed) {
            return note("heap_alloc"), below()->heap_alloc(heap, size, alignment, is_zeroed);
        },
        [](hak_heap *heap) { note("heap_destroy"), below()->heap_destroy(heap); },
        [](void **p, size_t usable) { return note("walked"), below()->walked(p, usable); },
        [](void *p, entry_family family) { below()->name(p, family); },
        [](void *p, const entry_claim *claim) { below()->claim(p, claim); },
    },
    Place,
    nullptr,
    nullptr,
    0,
    nullptr,
    0,
};
using Low = Recorder<ENTRY_PLACE_BLOCKS + 10>;
using High = Recorder<ENTRY_PLACE_BLOCKS + 20>;

/* What stands at rest: nothing, except for the debug variant's notes if AddressSanitizer runs the
   test. */
const entry_table *resting;
/* Freed blocks wait in the queue of the debug variant's notes. */
bool has_queue;

class Entry : public testing::Test
{
  protected:
    void SetUp() override
    {
        hak_free(hak_malloc(1));
        resting = hak_entry_now();
        (void)hak_purge();
    }
    void TearDown() override
    {
        hak_hooks_set(nullptr);
        hak_entry_remove(&Low::layer);
        hak_entry_remove(&High::layer);
        EXPECT_EQ(hak_entry_now(), resting);
        EXPECT_EQ(hak_self, resting == &hak_entry_plain ? hak_theap_own : &hak_theap_none);
        Low::take();
        High::take();
        EXPECT_EQ(hak_verify(), 0);
        (void)hak_purge();
        if (resting == &hak_entry_plain && !has_queue) {
            EXPECT_EQ(hak_stat_get(heap_used_bytes), 0) << "a block was left behind";
        }
    }
};

int ignore(void *, size_t, void *)
{
    return 0;
}

/* Whatever a call does inside, its layer sees it once. */
TEST_F(Entry, EachPublicFunctionComesThroughItsEntryOnce)
{
    hak_entry_add(&Low::layer);
    for (size_t size : {size_t(1), size_t(100), size_t(1024), size_t(5000), size_t(32768),
                        size_t(200000), size_t(3) << 20}) {
        void *p = nullptr;
        auto expect = [&](const char *names) { EXPECT_EQ(Low::take(), names) << size; };
        hak_free(nullptr);
        expect("");
        EXPECT_EQ(hak_usable_size(nullptr), 0u);
        expect("");
        p = hak_malloc(size);
        expect("malloc");
        EXPECT_GE(hak_usable_size(p), size);
        expect("usable_size");
        p = hak_realloc(p, size + 1);
        expect("realloc");
        p = hak_realloc(p, size * 4);
        expect("realloc");
        p = hak_rezalloc(p, size * 9);
        expect("realloc");
        EXPECT_EQ(hak_realloc(p, 0), nullptr);
        expect("realloc");
        p = hak_realloc(nullptr, size);
        expect("realloc");
        hak_free(p);
        expect("free");
        p = hak_calloc(1, size);
        expect("calloc");
        hak_free_sized(p, size);
        expect("free");
        p = hak_rezalloc(nullptr, size);
        expect("calloc");
        hak_free(p);
        expect("free");
        p = hak_aligned_alloc(256, size);
        expect("aligned");
        hak_free(p);
        expect("free");
        p = hak_aligned_alloc(16, size);
        expect("malloc");
        hak_free(p);
        expect("free");
        p = hak_memalign(100, size);
        expect("aligned");
        hak_free(p);
        expect("free");
        EXPECT_EQ(hak_posix_memalign(&p, 64, size), 0);
        expect("aligned");
        hak_free(p);
        expect("free");
        p = hak_malloc_at_least(size).block;
        expect("malloc usable_size");
        hak_free(p);
        expect("free");
        void *out[3];
        EXPECT_EQ(hak_malloc_batch(size, 3, out), 3u);
        expect("malloc malloc malloc");
        hak_free_batch(out, 3);
        expect("free free free");
        hak_heap *heap = hak_heap_create();
        expect("");
        p = hak_heap_malloc(heap, size);
        expect("heap_alloc");
        p = hak_heap_realloc(heap, p, size * 3);
        expect("realloc");
        p = hak_realloc(p, size * 7);
        expect("realloc");
        EXPECT_EQ(hak_heap_walk(heap, ignore, nullptr), 0);
        expect("walked");
        (void)hak_heap_calloc(heap, 1, size);
        (void)hak_heap_aligned_alloc(heap, 64, size);
        expect("heap_alloc heap_alloc");
        hak_free(p);
        expect("free");
        hak_heap_destroy(heap);
        expect("heap_destroy");
        hak_heap_destroy(nullptr);
        expect("");
    }
    hak_entry_remove(&Low::layer);
    hak_free(hak_malloc(100));
    EXPECT_EQ(Low::take(), "");
}

TEST_F(Entry, PlacesGiveTheOrder)
{
    static std::string order;
    static const hak_hooks hooks = {[](const hak_hook_call *, void *) { order += "hooks "; },
                                    nullptr, nullptr};
    for (int which = 0; which < 6; which++) {
        const std::function<void()> add[] = {[] { hak_entry_add(&Low::layer); },
                                             [] { hak_entry_add(&High::layer); },
                                             [] { hak_hooks_set(&hooks); }};
        const int orders[6][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
        for (int i : orders[which]) {
            add[i]();
            add[i](); /* again is nothing */
        }
        EXPECT_EQ(hak_entry_now(), &hak_hooks_layer.table);
        EXPECT_EQ(hak_entry_below(&hak_hooks_layer), &High::layer.table);
        EXPECT_EQ(hak_entry_below(&High::layer), &Low::layer.table);
        EXPECT_EQ(hak_entry_below(&Low::layer), resting);
        hak_free(hak_malloc(100));
        EXPECT_EQ(order, "hooks hooks ");
        EXPECT_EQ(High::take(), "malloc free");
        EXPECT_EQ(Low::take(), "malloc free");
        order.clear();
        /* From the middle. */
        hak_entry_remove(&High::layer);
        hak_entry_remove(&High::layer);
        hak_free(hak_malloc(100));
        EXPECT_EQ(High::take(), "");
        EXPECT_EQ(Low::take(), "malloc free");
        hak_hooks_set(nullptr);
        hak_entry_remove(&Low::layer);
        order.clear();
        EXPECT_EQ(hak_entry_now(), resting);
    }
}

/* A callback's own requests are not reported, but the layers below know of them. */
TEST_F(Entry, OnlyTheHooksKnowThatTheyAreBusy)
{
    static int n_told;
    static const hak_hooks hooks = {[](const hak_hook_call *, void *) {
                                        n_told++;
                                        void *p = hak_realloc(hak_calloc(1, 10), 5000);
                                        hak_free(p);
                                    },
                                    nullptr, nullptr};
    n_told = 0;
    hak_entry_add(&Low::layer);
    hak_hooks_set(&hooks);
    void *p = hak_malloc(100);
    EXPECT_EQ(n_told, 1);
    EXPECT_EQ(Low::take(), "calloc realloc free malloc");
    hak_free(p);
    EXPECT_EQ(n_told, 2);
    EXPECT_EQ(Low::take(), "calloc realloc free free");
}

/* --- realloc, by every way --- */

struct Way {
    const char *name;
    void *(*make)(hak_heap *heap, size_t size);
    void *(*resize)(hak_heap *heap, void *p, size_t size);
    bool zeroes, in_heap;
};
const Way WAYS[] = {
    {"hak_realloc", [](hak_heap *, size_t size) { return hak_malloc(size); },
     [](hak_heap *, void *p, size_t size) { return hak_realloc(p, size); }, false, false},
    {"hak_realloc of an aligned block",
     [](hak_heap *, size_t size) { return hak_aligned_alloc(64, size); },
     [](hak_heap *, void *p, size_t size) { return hak_realloc(p, size); }, false, false},
    {"hak_rezalloc", [](hak_heap *, size_t size) { return hak_calloc(1, size); },
     [](hak_heap *, void *p, size_t size) { return hak_rezalloc(p, size); }, true, false},
    {"hak_heap_realloc", [](hak_heap *heap, size_t size) { return hak_heap_malloc(heap, size); },
     [](hak_heap *heap, void *p, size_t size) { return hak_heap_realloc(heap, p, size); }, false,
     true},
    {"hak_realloc of a heap's block",
     [](hak_heap *heap, size_t size) { return hak_heap_malloc(heap, size); },
     [](hak_heap *, void *p, size_t size) { return hak_realloc(p, size); }, false, true},
    {"hak_rezalloc of a heap's block",
     [](hak_heap *heap, size_t size) { return hak_heap_calloc(heap, 1, size); },
     [](hak_heap *, void *p, size_t size) { return hak_rezalloc(p, size); }, true, true},
};
const hak_hooks SILENT = {nullptr, nullptr, nullptr};
struct Setting {
    const char *name;
    std::function<void()> begin, end;
    bool moves_always;
};
const Setting SETTINGS[] = {
    {"plain", [] {}, [] {}, false},
    {"hooks", [] { hak_hooks_set(&SILENT); }, [] { hak_hooks_set(nullptr); }, false},
    {"a layer", [] { hak_entry_add(&Low::layer); }, [] { hak_entry_remove(&Low::layer); }, false},
#if HAK_NOTES && !defined(__SANITIZE_ADDRESS__)
    {"notes", [] { hak_entry_add(&hak_noted_layer); }, [] { hak_entry_remove(&hak_noted_layer); },
     true},
    {"notes, hooks and a layer",
     [] {
         hak_entry_add(&hak_noted_layer);
         hak_hooks_set(&SILENT);
         hak_entry_add(&High::layer);
     },
     [] {
         hak_entry_remove(&High::layer);
         hak_hooks_set(nullptr);
         hak_entry_remove(&hak_noted_layer);
     },
     true},
#endif
};
const size_t SIZES[] = {1, 128, 129, 1024, 5000, 32768, 32769, 140000, 3 << 20};

const unsigned char *pattern()
{
    static std::vector<unsigned char> bytes;
    for (size_t i = bytes.size(); i < 3 << 20; i++) {
        bytes.push_back(static_cast<unsigned char>(i * 7 + i / 251 + 1));
    }
    return bytes.data();
}

void resize_once(const Way &way, hak_heap *heap, size_t from, size_t to, bool moves_always)
{
    SCOPED_TRACE(std::string(way.name) + " from " + std::to_string(from) + " to " +
                 std::to_string(to));
    auto *p = static_cast<unsigned char *>(way.make(heap, from));
    ASSERT_NE(p, nullptr);
    memcpy(p, pattern(), from);
    size_t usable = hak_usable_size(p), kept = from < to ? from : to;
    auto *q = static_cast<unsigned char *>(way.resize(heap, p, to));
    ASSERT_NE(q, nullptr);
    EXPECT_GE(hak_usable_size(q), to);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(q) % 16, 0u);
    EXPECT_EQ(memcmp(q, pattern(), kept), 0);
    size_t added = hak_usable_size(q) - kept;
    if (way.zeroes && added) {
        EXPECT_TRUE(q[kept] == 0 && memcmp(q + kept, q + kept + 1, added - 1) == 0);
    }
    if (!HAK_SECURE && to <= usable && (to >= usable / 2 || usable <= 128)) {
        EXPECT_EQ(q == p, !moves_always);
    }
    if (way.in_heap) { /* it has stayed in its heap */
        static size_t n;
        n = 0;
        (void)hak_heap_walk(
            heap, [](void *block, size_t, void *wanted) { return n += block == wanted, 0; }, q);
        EXPECT_EQ(n, 1u);
    }
    errno = 0;
    EXPECT_EQ(way.resize(heap, q, SIZE_MAX / 2), nullptr);
    EXPECT_EQ(errno, ENOMEM);
    EXPECT_EQ(memcmp(q, pattern(), kept), 0);
    EXPECT_EQ(way.resize(heap, q, 0), nullptr); /* which frees it */
}

TEST_F(Entry, ReallocByEveryWay)
{
    for (const Setting &setting : SETTINGS) {
        SCOPED_TRACE(setting.name);
        setting.begin();
        has_queue |= setting.moves_always;
        hak_heap *heap = hak_heap_create();
        for (const Way &way : WAYS) {
            for (size_t from : SIZES) {
                for (size_t to : SIZES) {
                    resize_once(way, heap, from, to,
                                setting.moves_always || resting != &hak_entry_plain);
                    if (HasFailure()) {
                        return;
                    }
                }
            }
            void *p = way.resize(heap, nullptr, 100);
            ASSERT_NE(p, nullptr) << way.name;
            hak_free(p);
        }
        size_t left = 0;
        (void)hak_heap_walk(
            heap, [](void *, size_t, void *n) { return ++*static_cast<size_t *>(n), 0; }, &left);
        EXPECT_EQ(left, 0u) << "blocks that moved have left the old ones behind";
        hak_heap_destroy(heap);
        setting.end();
        EXPECT_EQ(hak_verify(), 0);
    }
}

/* --- switching while others run --- */

struct Oracle {
    int depth;
    hak_hook_call now;
    size_t n_before, n_after;
};
thread_local Oracle oracle;
std::atomic<size_t> n_wrong{0}, n_told{0};

const hak_hooks PAIRED = {[](const hak_hook_call *call, void *) {
                              n_wrong += oracle.depth != 0;
                              oracle.depth++;
                              oracle.now = *call;
                              oracle.n_before++;
                              n_told++;
                          },
                          [](const hak_hook_call *call, void *) {
                              n_wrong += oracle.depth != 1 || oracle.now.kind != call->kind ||
                                         oracle.now.block != call->block ||
                                         oracle.now.size != call->size;
                              oracle.depth--;
                              oracle.n_after++;
                          },
                          nullptr};

/* One call at a time: it is reported as one pair or not at all. */
template <typename Call> void check_pair(Call call)
{
    size_t before = oracle.n_before, after = oracle.n_after;
    call();
    size_t told = oracle.n_before - before;
    n_wrong += told > 1 || oracle.n_after - after != told || oracle.depth != 0;
}

void work(uint64_t seed, const std::atomic<bool> &stop, hak_heap *heap)
{
    Rng rng(seed);
    std::vector<unsigned char *> cells(64);
    std::vector<size_t> sizes(64);
    while (!stop) {
        size_t i = rng.below(cells.size());
        size_t size = 1 + (rng.one_in(100) ? rng.below(200000) : rng.below(3000));
        unsigned char *&cell = cells[i];
        if (cell) {
            n_wrong += cell[0] != static_cast<unsigned char>(i) ||
                       cell[sizes[i] - 1] != static_cast<unsigned char>(i);
        }
        if (cell && rng.one_in(3)) {
            check_pair([&] { cell = static_cast<unsigned char *>(hak_realloc(cell, size)); });
        } else {
            if (cell) {
                check_pair([&] { hak_free(cell); });
            }
            check_pair([&] {
                cell = static_cast<unsigned char *>(rng.one_in(4)   ? hak_calloc(1, size)
                                                    : rng.one_in(8) ? hak_heap_malloc(heap, size)
                                                    : rng.one_in(8) ? hak_aligned_alloc(128, size)
                                                                    : hak_malloc(size));
            });
        }
        if (!cell) {
            n_wrong++;
            return;
        }
        sizes[i] = size;
        cell[0] = cell[size - 1] = static_cast<unsigned char>(i);
    }
    for (unsigned char *p : cells) {
        hak_free(p);
    }
}

TEST_F(Entry, LayersComeAndGoWhileOthersRun)
{
    std::atomic<bool> stop{false};
    std::vector<std::thread> others;
    hak_heap *heap = hak_heap_create();
    n_wrong = n_told = 0;
    for (uint64_t seed = 1; seed <= 4; seed++) {
        others.emplace_back(work, seed, std::cref(stop), heap);
    }
    std::vector<std::thread> switchers;
    for (uint64_t seed = 11; seed <= 12; seed++) { /* two at once */
        switchers.emplace_back([seed] {
            Rng rng(seed);
            for (int i = 0; i < 1500; i++) {
                switch (rng.below(6)) {
                case 0:
                    hak_hooks_set(&PAIRED);
                    break;
                case 1:
                    hak_hooks_set(nullptr);
                    break;
                case 2:
                    hak_entry_add(&Low::layer);
                    break;
                case 3:
                    hak_entry_remove(&Low::layer);
                    break;
                case 4:
                    hak_entry_add(&High::layer);
                    break;
                default:
                    hak_entry_remove(&High::layer);
                }
                std::this_thread::sleep_for(std::chrono::microseconds(rng.below(200)));
            }
        });
    }
    for (std::thread &switcher : switchers) {
        switcher.join();
    }
    stop = true;
    for (std::thread &other : others) {
        other.join();
    }
    EXPECT_EQ(n_wrong, 0u);
    EXPECT_GT(n_told, 0u);
    hak_hooks_set(nullptr);
    hak_heap_destroy(heap);
}

/* When the switch is over, every thread's next call is reported, and after the next switch none is:
   with and without a heap, in any state of its bins. */
TEST_F(Entry, ASwitchHoldsForEveryThreadAtOnce)
{
    enum { THREADS = 4, ROUNDS = 400 };
    std::atomic<int> round{0}, n_done{0};
    std::vector<std::thread> others;
    n_wrong = 0;
    for (uint64_t seed = 0; seed < THREADS; seed++) {
        others.emplace_back([&, seed] {
            Rng rng(seed);
            for (int r = 1; r <= ROUNDS; r++) {
                while (round < r) {
                    std::this_thread::yield();
                }
                size_t want = r % 2;
                for (int i = 0; i < 10; i++) {
                    size_t before = oracle.n_before;
                    void *p = hak_malloc(rng.below(2000));
                    n_wrong += oracle.n_before - before != want;
                    before = oracle.n_before;
                    p = hak_realloc(p, 1 + rng.below(5000));
                    n_wrong += oracle.n_before - before != want;
                    before = oracle.n_before;
                    hak_free(p);
                    n_wrong += oracle.n_before - before != want;
                }
                n_done++;
            }
        });
    }
    for (int r = 1; r <= ROUNDS; r++) {
        hak_hooks_set(r % 2 ? &PAIRED : nullptr);
        round = r;
        while (n_done < r * THREADS) {
            std::this_thread::yield();
        }
    }
    for (std::thread &other : others) {
        other.join();
    }
    EXPECT_EQ(n_wrong, 0u);
}

/* --- while threads fork --- */

/* What holds whenever no thread switches: returns what does not, 0 if all does. */
int look_at_layers()
{
    const entry_table *top = hak_entry_now();
    bool has_low = Low::layer.is_added, has_high = High::layer.is_added;
    const entry_table *expected = has_high  ? &High::layer.table
                                  : has_low ? &Low::layer.table
                                            : resting;
    if (top != expected) {
        return 1;
    }
    if (hak_self != (top == &hak_entry_plain ? hak_theap_own : &hak_theap_none)) {
        return 2;
    }
    Low::take();
    High::take();
    void *small = hak_malloc(100), *large = hak_malloc(200000);
    hak_free(small);
    hak_free(large);
    if (!small || !large) {
        return 3;
    }
    const std::string all = "malloc malloc free free";
    return Low::take() != (has_low ? all : "") || High::take() != (has_high ? all : "") ? 4 : 0;
}

/* In whatever state the fork found the layers, they can be switched. */
int look_and_switch()
{
    int result = look_at_layers();
    for (int i = 0; !result && i < 4; i++) {
        i % 2 ? hak_entry_remove(&High::layer) : hak_entry_add(&High::layer);
        i / 2 ? hak_entry_remove(&Low::layer) : hak_entry_add(&Low::layer);
        result = look_at_layers() ? 10 + look_at_layers() : 0;
    }
    hak_entry_remove(&High::layer);
    hak_entry_remove(&Low::layer);
    result = result ? result : look_at_layers();
    return result ? result : hak_verify() ? 20 : 0;
}

/* Deterministic: the gate is closed, and no thread waits for it. */
TEST_F(Entry, SwitchedWhileTheGateIsClosed)
{
    hak_gate_close();
    std::thread([] {
        alarm(60);
        EXPECT_EQ(look_and_switch(), 0);
        hak_free(hak_malloc(1));
        EXPECT_EQ(look_and_switch(), 0) << "still without a heap";
        hak_entry_add(&Low::layer);
        alarm(0);
    }).join();
    EXPECT_EQ(hak_self, &hak_theap_none) << "this thread's fast paths are hidden, too";
    EXPECT_EQ(look_and_switch(), 0) << "by the thread that has closed it";
    hak_gate_open();
    EXPECT_EQ(look_and_switch(), 0);
}

/* Two threads fork, others allocate, one switches, each of whose switches counts at once. */
TEST_F(Entry, SwitchedWhileThreadsFork)
{
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
    GTEST_SKIP() << "the sanitizers do not hold their own locks over fork";
#endif
    std::atomic<bool> stop{false};
    std::atomic<int> n_switched{0}, n_forked{0}, n_idle{0};
    std::vector<std::thread> idle;
    for (int i = 0; i < 70; i++) { /* a switch comes to theirs first */
        idle.emplace_back([&] {
            hak_free(hak_malloc(1));
            n_idle++;
            while (!stop) {
                usleep(20000);
            }
        });
    }
    while (n_idle < 70) {
        usleep(1000);
    }
    std::thread switches([&] {
        Rng rng(5);
        while (!stop) {
            rng.one_in(2) ? hak_entry_add(&High::layer) : hak_entry_remove(&High::layer);
            rng.one_in(2) ? hak_entry_add(&Low::layer) : hak_entry_remove(&Low::layer);
            ASSERT_EQ(look_at_layers(), 0) << n_switched;
            n_switched++;
        }
    });
    std::vector<std::thread> others;
    for (int i = 0; i < 2; i++) {
        others.emplace_back([&, i] {
            Rng rng(static_cast<size_t>(i));
            while (!stop) {
                size_t size = rng.below(rng.one_in(20) ? 300000 : 3000);
                char *p = static_cast<char *>(hak_malloc(size + 1));
                ASSERT_NE(p, nullptr);
                p[0] = p[size] = 1;
                hak_free(p);
                Low::take();
                High::take();
                if (rng.one_in(500)) { /* threads take and leave their heaps */
                    std::thread([] { hak_free(hak_malloc(50)); }).join();
                }
            }
        });
        others.emplace_back([&] {
            while (!stop) {
                pid_t pid = fork();
                if (pid == 0) {
                    alarm(60);
                    _exit(look_and_switch());
                }
                int status = -1;
                waitpid(pid, &status, 0);
                ASSERT_EQ(status, 0) << n_forked;
                n_forked++;
            }
        });
    }
    for (int i = 0; i < 6000 && (n_forked < 200 || n_switched < 200) && !HasFailure(); i++) {
        usleep(10000);
    }
    stop = true;
    switches.join();
    for (std::thread &thread : others) {
        thread.join();
    }
    for (std::thread &thread : idle) {
        thread.join();
    }
    EXPECT_GE(n_forked, 100);
    EXPECT_GE(n_switched, 100);
    hak_entry_remove(&High::layer);
    hak_entry_remove(&Low::layer);
    EXPECT_EQ(look_at_layers(), 0);
}

} // namespace
