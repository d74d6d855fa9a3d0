/* A fork in a signal handler after each instruction of the fast paths, which are outside of the
   gate, while another thread frees what has to wait for its end. Who opens the gate does that, in
   the handler: the thread's bins, its outbox and its freed spans may be half changed there. */
#include <atomic>
#include <climits>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <gtest/gtest.h>
#include <semaphore.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "base/stats.h"
#include "hakmem/hakmem.h"
#include "heap/gate.h"
#include "heap/theap.h"
#include "superslab/map.h"
#include "testing/steps.h"

namespace
{

#if HAK_CAN_STEP

using namespace hak_testing;

/* Of the debug and secure variants' works, which are long, not all instructions. */
const int most_steps = HAK_SECURE || HAK_DEBUG ? 150 : 600, most_forks = 20;

/* A thread that frees what waits while the gate is closed, whenever it is asked to. */
class Beside
{
  public:
    Beside()
    {
        for (sem_t *semaphore : {&may_free_, &has_freed_, &may_make_, &has_made_}) {
            sem_init(semaphore, 0, 0);
        }
        thread_ = std::thread([this] { run(); });
    }
    ~Beside()
    {
        wait_until_made();
        is_last_ = true;
        free_all();
        thread_.join();
        hak_heap_destroy(large_);
        for (struct hak_heap *heap : heaps_) {
            hak_heap_destroy(heap);
        }
    }
    void wait_until_made()
    {
        wait_for(&has_made_);
    }
    /* With the gate closed. */
    void free_all()
    {
        sem_post(&may_free_);
        wait_for(&has_freed_);
    }
    void make()
    {
        sem_post(&may_make_);
    }
    /* A block of the other thread's; NULL when there is no more. */
    void *next_remote()
    {
        return n_taken_ < remote_.size() ? remote_[n_taken_++] : nullptr;
    }

  private:
    static void wait_for(sem_t *semaphore)
    {
        while (sem_wait(semaphore) != 0) {
        }
    }
    static struct outbox_slot *slot_of(struct theap *heap, const void *p)
    {
        return hak_remote_slot(heap, hak_map_find(p).tag);
    }
    /* The last has the slot of the outbox where the thread's blocks gather, at whoever frees them.
       (The tiny variant has too few heaps for that.) */
    void make_heaps()
    {
        struct theap *own = hak_theap_own;
        const void *p;
        bool is_there = false;
        while (!is_there && heaps_.size() < HAK_TINY_OR(4, 1000)) {
            heaps_.push_back(hak_heap_create());
            p = hak_heap_malloc(heaps_.back(), 40);
            is_there = slot_of(own, p) == slot_of(own, remote_[0]);
        }
        EXPECT_TRUE(is_there || HAK_TINY_OR(true, false));
        large_ = hak_heap_create();
        EXPECT_NE(hak_heap_malloc(large_, 100000), nullptr); /* any large block may be one of it */
    }
    void run()
    {
        for (void *&p : remote_) {
            p = hak_malloc(40);
        }
        make_heaps();
        while (!is_last_) {
            void *blocks[] = {hak_malloc(70000),
                              hak_malloc(100000),
                              hak_malloc(150000),
                              hak_malloc(3 << 20),
                              hak_heap_malloc(heaps_.back(), 40),
                              hak_heap_malloc(large_, 100000)};
            sem_post(&has_made_);
            wait_for(&may_free_);
            for (void *p : blocks) {
                hak_free(p);
            }
            sem_post(&has_freed_);
            if (!is_last_) {
                wait_for(&may_make_);
            }
        }
    }
    sem_t may_free_, has_freed_, may_make_, has_made_;
    std::atomic<bool> is_last_{false};
    std::vector<void *> remote_ = std::vector<void *>(60);
    std::vector<struct hak_heap *> heaps_;
    struct hak_heap *large_ = nullptr;
    size_t n_taken_ = 0;
    std::thread thread_;
};

Beside *beside;
int step, every, fork_every;
bool is_child, failed;

/* Outside of the gate: inside, the other thread may wait for what the interrupted code holds. */
void fork_here(int, siginfo_t *, void *context)
{
    if (hak_gate_is_inside() || ++step % every || failed) {
        return;
    }
    beside->wait_until_made();
    hak_gate_close();
    beside->free_all();
    hak_gate_open();
    beside->make();
    if (step / every % fork_every) {
        return;
    }
    pid_t child = fork();
    if (child == 0) {
        alarm(60);
        is_child = true;
        end_steps(context);
        return;
    }
    int status = -1;
    while (waitpid(child, &status, 0) < 0) {
    }
    failed = status != 0;
}

/* Every word of both blocks is the work's own. */
void fill(void *p, size_t size)
{
    memset(p, static_cast<int>(reinterpret_cast<uintptr_t>(p) >> 12 | 1), size);
}

bool is_filled(const void *block, size_t size)
{
    const unsigned char *p = static_cast<const unsigned char *>(block);
    return p[0] == static_cast<unsigned char>(reinterpret_cast<uintptr_t>(p) >> 12 | 1) &&
           !memcmp(p, p + 1, size - 1);
}

template <class F> void step_through(const char *name, F work)
{
    failed = is_child = false;
    for (int i = 0; i < 10; i++) {
        work(); /* so that first times are over */
    }
    OnStep forks(fork_here, SA_NODEFER);
    step = 0;
    every = INT_MAX;
    with_steps(work);
    every = step / most_steps + 1;
    fork_every = step / every / most_forks + 1;
    step = 0;
    with_steps(work);
    if (is_child) {
        _exit(hak_verify() ? 1 : 0);
    }
    EXPECT_FALSE(failed) << name << ": a child of instruction " << step;
    EXPECT_EQ(hak_verify(), 0) << name;
}

/* Taken and freed with others of the same kind beside them, and compared at the end: the thread's
   lists give away no block twice. */
template <size_t n> bool use(const size_t (&sizes_of)[n])
{
    void *blocks[n];
    bool is_right = true;
    for (size_t i = 0; i < n; i++) {
        blocks[i] = hak_malloc(sizes_of[i]);
    }
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < i; k++) {
            is_right &= blocks[k] != blocks[i];
        }
        hak_free(blocks[i]);
    }
    return is_right;
}

TEST(ForkInFastPaths, WhileAnotherThreadFrees)
{
    alarm(300);
    hak_free(hak_malloc(1));
    {
        Beside other;
        beside = &other;
        static bool is_right = true;
        void *kept = hak_malloc(90000);
        fill(kept, 90000);
        step_through("spans", [] { is_right &= use<4>({100000, 70000, 150000, 70000}); });
        step_through("small blocks", [] { is_right &= use<4>({40, 40, 3000, 40}); });
        step_through("another thread's blocks", [] {
            hak_free(beside->next_remote());
            hak_free(beside->next_remote());
        });
        step_through("blocks that grow", [] {
            void *p = hak_realloc(hak_malloc(40), 60000);
            p = hak_realloc(p, 140000);
            hak_free(p);
        });
        EXPECT_TRUE(is_right);
        EXPECT_TRUE(is_filled(kept, 90000));
        hak_free(kept);
        for (int i = 0; i < 100; i++) {
            EXPECT_TRUE(use<4>({100000, 40, 150000, 3000}));
        }
        while (void *p = other.next_remote()) {
            hak_free(p);
        }
    }
    EXPECT_EQ(hak_verify(), 0);
    (void)hak_purge();
    EXPECT_EQ(hak_stat_get(heap_used_bytes), 0);
    EXPECT_EQ(hak_stat_get(large_bytes), 0);
    alarm(0);
}

#else

TEST(ForkInFastPaths, WhileAnotherThreadFrees)
{
    GTEST_SKIP() << "needs a trap flag, and children that may start threads";
}

#endif

} // namespace
