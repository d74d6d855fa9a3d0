/* Tests of the background thread: when it is there, when it ends, what it purges, and what it
   leaves alone. */
#include "heap/background.h"

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <dirent.h>
#include <fstream>
#include <functional>
#include <gtest/gtest.h>
#include <string>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "base/options.h"
#include "base/os.h"
#include "base/stats.h"
#include "hakmem/hakmem.h"
#include "heap/theap.h"
#include "superslab/superslab.h"
#include "testing/failing_os.h"

#if defined(__SANITIZE_THREAD__)
#define SANITIZER_HAS_THREADS 1 /* one of its own; and it refuses threads in a forked child */
#else
#define SANITIZER_HAS_THREADS 0
#endif

namespace
{

/* Waits up to 20 s. */
bool becomes_true(const std::function<bool()> &condition)
{
    for (int i = 0; i < 20000 && !condition(); i++) {
        usleep(1000);
    }
    return condition();
}

uint32_t state()
{
    return atomic_load_seq(&hak_background_state);
}

bool is_idle()
{
    return state() == BACKGROUND_IDLE;
}

std::vector<std::string> tasks()
{
    std::vector<std::string> ids;
    DIR *folder = opendir("/proc/self/task");
    while (const struct dirent *entry = folder ? readdir(folder) : nullptr) {
        if (entry->d_name[0] != '.') {
            ids.push_back(entry->d_name);
        }
    }
    if (folder) {
        closedir(folder);
    }
    return ids;
}

/* The value of a line of the background thread's status; "" if there is no such thread. */
std::string status_of_background(const std::string &key)
{
    for (const std::string &id : tasks()) {
        std::ifstream status("/proc/self/task/" + id + "/status");
        std::string line, value;
        bool is_it = false;
        while (std::getline(status, line)) {
            is_it = is_it || line == "Name:\thakmem";
            if (line.compare(0, key.size() + 1, key + ":") == 0) {
                value = line.substr(line.find_last_of(" \t") + 1);
            }
        }
        if (is_it) {
            return value;
        }
    }
    return "";
}

/* Allocates in a thread of its own until this object ends. */
class SecondThread
{
  public:
    SecondThread() : thread_([this] { run(); })
    {
    }
    ~SecondThread()
    {
        stop_ = true;
        thread_.join();
    }

  private:
    void run()
    {
        hak_free(hak_malloc(100)); /* large blocks alone need no heap in every variant */
        while (!stop_) {
            hak_free(hak_malloc(100000));
            usleep(1000);
        }
    }
    std::atomic<bool> stop_{false};
    std::thread thread_;
};

class Background : public testing::Test
{
  protected:
    void SetUp() override
    {
        saved_ = hak_options;
        hak_options.purge_delay_ms = 20;
        hak_options.background =
            BACKGROUND_EAGER; /* no pthread_create calls this hakmem's calloc */
        hak_background_init();
        hak_free(hak_malloc(1));
        (void)hak_purge();
        ASSERT_TRUE(is_idle());
    }
    void TearDown() override
    {
        EXPECT_TRUE(is_idle()) << "one thread is left: it has ended";
        hak_options = saved_;
        EXPECT_EQ(hak_verify(), 0);
    }

  private:
    struct options saved_;
};

TEST_F(Background, NeverInAProgramOfOneThread)
{
    int64_t starts = hak_stat_get(background_starts);
    for (int i = 0; i < 1000; i++) {
        hak_free(hak_malloc(static_cast<size_t>(i * 100)));
    }
    EXPECT_TRUE(is_idle());
    EXPECT_EQ(hak_stat_get(background_starts), starts);
    EXPECT_EQ(status_of_background("Name"), "");
}

TEST_F(Background, BeginsWithTheSecondThreadAndEndsWithIt)
{
    size_t n_tasks = tasks().size();
    {
        SecondThread second;
        ASSERT_TRUE(becomes_true([] { return status_of_background("Name") == "hakmem"; }));
        EXPECT_TRUE(SANITIZER_HAS_THREADS || tasks().size() == n_tasks + 2) << tasks().size();
        /* Only what the kernel and the C library keep for themselves is not blocked. */
        unsigned long long blocked = strtoull(status_of_background("SigBlk").c_str(), nullptr, 16);
        for (int s : {SIGINT, SIGTERM, SIGCHLD, SIGUSR1, SIGALRM, SIGPROF, SIGRTMAX}) {
            EXPECT_TRUE(blocked >> (s - 1) & 1) << s;
        }
    }
    EXPECT_TRUE(becomes_true([&] { return tasks().size() == n_tasks + SANITIZER_HAS_THREADS; }));
    sigset_t mine;
    pthread_sigmask(SIG_SETMASK, nullptr, &mine);
    EXPECT_EQ(sigismember(&mine, SIGTERM), 0) << "the thread that started it has its signals again";
}

TEST_F(Background, NotIfTheOptionSaysSo)
{
    hak_options.background = BACKGROUND_NEVER;
    SecondThread second;
    usleep(50000);
    EXPECT_TRUE(is_idle());
}

TEST_F(Background, GivesBackWhatSleepingThreadsHold)
{
    std::atomic<int> phase(0);
    std::vector<void *> blocks;
    std::thread other([&] {
        for (int i = 0; i < 20000; i++) {
            blocks.push_back(hak_malloc(512));
        }
        phase = 1;
        while (phase != 2) {
            usleep(1000);
        }
        hak_free(hak_malloc(1));
    });
    while (phase != 1) {
        usleep(1000);
    }
    void *large = hak_malloc(3 * HAK_MIB);
    for (void *p : blocks) {
        hak_free(p); /* for an owner that sleeps */
    }
    hak_free(large);
    EXPECT_TRUE(becomes_true([] { return state() == BACKGROUND_RUNNING; }));
    /* No call of the allocator from here on. What is left lies in the two threads' bins and in this
       one's outbox. */
    EXPECT_TRUE(becomes_true([] {
        return hak_stat_get(heap_dirty_bytes) == 0 && hak_stat_get(large_cached_bytes) == 0 &&
               (hak_stat_get(heap_used_bytes) / static_cast<int64_t>(SS_UNIT_BYTES)) <= 16;
    })) << hak_stat_get(heap_dirty_bytes)
        << " " << hak_stat_get(large_cached_bytes) << " "
        << (hak_stat_get(heap_used_bytes) / static_cast<int64_t>(SS_UNIT_BYTES));
    EXPECT_TRUE(becomes_true([] { return atomic_load_seq(&hak_background_is_asleep) == 1; }))
        << "nothing is left to do";
    int64_t ticks = hak_stat_get(background_ticks);
    usleep(200000);
    EXPECT_LE(hak_stat_get(background_ticks), ticks + 1) << "it sleeps";
    /* And wakes. */
    large = hak_malloc(3 * HAK_MIB);
    hak_free(large);
    EXPECT_TRUE(becomes_true([] { return hak_stat_get(large_cached_bytes) == 0; }));
    phase = 2;
    other.join();
}

TEST_F(Background, GivesBackPagesOfColdSlabs)
{
    SecondThread second;
    std::vector<char *> blocks, kept;
    for (int i = 0; i < 10000; i++) {
        blocks.push_back(static_cast<char *>(hak_malloc(512)));
        memset(blocks.back(), 5, 512);
    }
    int64_t purged = hak_stat_get(cold_bytes_purged);
    for (size_t i = 0; i < blocks.size(); i++) {
        if (i % 100 == 0) {
            kept.push_back(blocks[i]); /* about one a slab */
        } else {
            hak_free(blocks[i]);
        }
    }
    /* 5 MiB were freed; what bins hold and the pages of the blocks that are kept stay. */
    EXPECT_TRUE(becomes_true([&] {
        return hak_stat_get(cold_bytes_purged) - purged > 3 * int64_t(HAK_MIB);
    })) << hak_stat_get(cold_bytes_purged) - purged;
    for (const char *p : kept) {
        for (int i = 0; i < 512; i++) {
            ASSERT_EQ(p[i], 5);
        }
    }
    EXPECT_EQ(hak_verify(), 0);
    /* The pages come again. */
    for (int i = 0; i < 10000; i++) {
        blocks[static_cast<size_t>(i)] = static_cast<char *>(hak_malloc(512));
        memset(blocks[static_cast<size_t>(i)], 6, 512);
    }
    for (char *p : blocks) {
        hak_free(p);
    }
    for (char *p : kept) {
        EXPECT_EQ(p[511], 5);
        hak_free(p);
    }
}

std::atomic<int> n_long, n_rests;

bool is_background()
{
    char name[16] = "";
    (void)pthread_getname_np(pthread_self(), name, sizeof name);
    return std::string(name) == "hakmem";
}

int long_munmap(void *start, size_t size)
{
    if (is_background()) {
        n_long++;
        usleep(500);
    }
    return hak_os_real_ops.munmap(start, size);
}

int counted_wait_ms(uint32_t *word, uint32_t expected, uint64_t ms)
{
    n_rests += is_background() && ms == 1;
    return hak_os_real_ops.futex_wait_ms(word, expected, ms);
}

/* It does not keep the others out of the system: between two system calls that take long it
   rests. */
TEST_F(Background, RestsBetweenLongSystemCalls)
{
    if (HAK_SECURE || HAK_TINY_OR(1, 0)) {
        GTEST_SKIP() << "what is freed goes at once there";
    }
    hak_options.purge_delay_ms = 200;
    std::atomic<int> phase(0);
    std::thread other([&] {
        hak_free(hak_malloc(100000));
        while (phase != 1) {
            usleep(1000);
        }
    });
    std::vector<char *> blocks;
    for (int i = 0; i < 40; i++) {
        blocks.push_back(static_cast<char *>(hak_malloc(i % 2 ? 900 * HAK_KIB : 5 * HAK_MIB)));
        blocks.back()[0] = 1;
    }
    EXPECT_TRUE(becomes_true([] { return state() == BACKGROUND_RUNNING; }));
    n_long = n_rests = 0;
    hak_os_ops.munmap = long_munmap;
    hak_os_ops.futex_wait_ms = counted_wait_ms;
    for (char *p : blocks) {
        hak_free(p);
    }
    EXPECT_TRUE(becomes_true([] {
        return hak_stat_get(heap_dirty_bytes) == 0 && hak_stat_get(large_cached_bytes) == 0;
    }));
    hak_os_ops.munmap = hak_os_real_ops.munmap;
    hak_os_ops.futex_wait_ms = hak_os_real_ops.futex_wait_ms;
    /* A step: a piece, and a page of the map with it. */
    EXPECT_GE(n_long, 4);
    EXPECT_GE(2 * n_rests + 4, n_long);
    phase = 1;
    other.join();
}

int n_tries;

TEST_F(Background, AThreadThatCannotBeMadeIsTriedAgainLater)
{
    if (HAK_SECURE) {
        GTEST_SKIP() << "large blocks come from the quarantine, and meet no slow path";
    }
    hak_testing::FakeClock clock;
    n_tries = 0;
    hak_os_ops.start_thread = [](void *(*)(void *), size_t, int) {
        n_tries++;
        hak_free(hak_malloc(5000)); /* as pthread_create does */
        errno = ENOMEM;
        return EAGAIN;
    };
    std::atomic<int> phase(0);
    std::thread other([&] {
        hak_free(hak_malloc(100));
        phase = 1;
        while (phase != 2) {
            usleep(1000);
        }
    });
    while (phase != 1) {
        usleep(1000);
    }
    errno = 7;
    for (int i = 0; i < 100; i++) {
        hak_free(hak_malloc(100000));
    }
    EXPECT_EQ(errno, 7);
    EXPECT_EQ(n_tries, 1);
    EXPECT_EQ(state(), uint32_t(BACKGROUND_FAILED));
    clock.advance_ms(1001);
    for (int i = 0; i < 100; i++) {
        hak_free(hak_malloc(size_t{3} << 20)); /* no thread cache holds it */
    }
    EXPECT_EQ(n_tries, 2);
    phase = 2;
    other.join();
    EXPECT_TRUE(is_idle()) << "one thread is left";
    hak_os_ops.start_thread = hak_os_real_ops.start_thread;
}

int in_child()
{
    if (!is_idle() || status_of_background("Name") != "") {
        return 1;
    }
    hak_free(hak_malloc(100000));
    if (!is_idle()) {
        return 2;
    }
    if (!SANITIZER_HAS_THREADS) {
        SecondThread second;
        if (!becomes_true([] { return state() == BACKGROUND_RUNNING; })) {
            return 3;
        }
    }
    return hak_verify();
}

TEST_F(Background, AForkedChildHasNone)
{
    SecondThread second;
    ASSERT_TRUE(becomes_true([] { return state() == BACKGROUND_RUNNING; }));
    for (int i = 0; i < 20; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            alarm(60);
            _exit(in_child());
        }
        int status = -1;
        waitpid(pid, &status, 0);
        ASSERT_EQ(status, 0) << i;
    }
    EXPECT_EQ(state(), uint32_t(BACKGROUND_RUNNING)) << "the parent still has it";
}

std::atomic<int> n_making, n_forked;

void fork_and_look()
{
    pid_t pid = fork();
    if (pid == 0) {
        alarm(60);
        hak_os_ops.start_thread = hak_os_real_ops.start_thread;
        _exit(in_child());
    }
    int status = -1;
    waitpid(pid, &status, 0);
    EXPECT_EQ(status, 0);
}

/* Another thread forks before it is made, and this one. */
int make_when_forked(void *(*run)(void *), size_t stack_bytes, int is_apart)
{
    n_making++;
    (void)becomes_true([] { return n_forked == n_making; });
    fork_and_look();
    return hak_os_real_ops.start_thread(run, stack_bytes, is_apart);
}

TEST_F(Background, AChildForkedWhileItIsMadeHasNone)
{
    n_making = n_forked = 0;
    for (int i = 0; i < 10; i++) {
        hak_os_ops.start_thread = make_when_forked;
        std::thread forker([&] {
            if (becomes_true([&] { return n_making == i + 1; })) {
                fork_and_look();
            }
            n_forked++;
        });
        {
            SecondThread second;
            ASSERT_TRUE(becomes_true([] { return state() == BACKGROUND_RUNNING; })) << i;
        }
        forker.join();
        EXPECT_EQ(n_making, i + 1);
        hak_os_ops.start_thread = hak_os_real_ops.start_thread;
        ASSERT_TRUE(becomes_true(is_idle)) << i;
    }
}

TEST_F(Background, WithTrafficOfManyThreads)
{
    for (int round = 0; round < 5; round++) {
        std::vector<std::thread> threads;
        std::vector<std::atomic<void *>> cells(64);
        for (int t = 0; t < 4; t++) {
            threads.emplace_back([&cells, t] {
                for (size_t i = 0; i < 20000; i++) {
                    void *p = hak_malloc(i * 37 % 3000 + 1);
                    memset(p, t, 1);
                    hak_free(cells[(i * 7 + static_cast<size_t>(t)) % cells.size()].exchange(p));
                }
            });
        }
        for (std::thread &thread : threads) {
            thread.join();
        }
        for (std::atomic<void *> &cell : cells) {
            hak_free(cell);
        }
        EXPECT_EQ(hak_verify(), 0);
    }
}

int start_with_allocation(void *(*)(void *), size_t, int)
{
    /* As pthread_create: of every class, the one that malloc is about to refill included. */
    for (size_t size = 8; size <= 32768; size += size / 4) {
        hak_free(hak_malloc(size));
    }
    return EAGAIN;
}

/* Empties each bin, and sees what an allocation in the making of the thread left there. */
void refill_while_starting()
{
    for (size_t size = 8; size <= 32768; size += size / 4) {
        std::vector<void *> blocks;
        while (hak_tc_bin_first(&hak_self->bins[hak_sc_of(size)])) {
            blocks.push_back(hak_malloc(size));
        }
        atomic_store_seq(&hak_background_state, uint32_t(BACKGROUND_WANTED));
        blocks.push_back(hak_malloc(size));
        EXPECT_EQ(hak_verify(), 0) << size;
        for (void *p : blocks) {
            hak_free(p);
        }
        const struct bin &bin = hak_self->bins[hak_sc_of(size)];
        int n = 0;
        for (void *p = hak_tc_bin_first(&bin); p; p = hak_link_next(p)) {
            n++;
        }
        EXPECT_EQ(n, hak_self->limits[hak_sc_of(size)] - bin.room);
    }
}

TEST_F(Background, MakingItMayAllocate)
{
    hak_os_ops.start_thread =
        start_with_allocation; /* before and after there is another thread that reads it */
    {
        SecondThread second;
        ASSERT_TRUE(becomes_true([] { return state() != BACKGROUND_IDLE; }));
        refill_while_starting();
    }
    hak_os_ops.start_thread = hak_os_real_ops.start_thread;
}

} // namespace
