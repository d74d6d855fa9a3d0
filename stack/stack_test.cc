/* Tests of captured stacks, against glibc's backtrace(), and of their table. */
#include "stack/stack.h"

#include <csignal>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <execinfo.h>
#include <gtest/gtest.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <thread>
#include <ucontext.h>
#include <unistd.h>
#include <vector>

#include "base/os.h"
#include "stack/cfi.h"

namespace
{

const size_t kMost = STACK_MOST;

struct Capture {
    const void *own[kMost], *theirs[kMost];
    size_t n_own = 0, n_theirs = 0;
};

/* Both at one place: what they have in common begins with the caller of this function. */
__attribute__((noinline)) void capture(Capture *out)
{
    out->n_theirs = size_t(backtrace(const_cast<void **>(out->theirs), int(kMost)));
    out->n_own = hak_stack_capture(out->own, kMost, nullptr);
    __asm__ volatile("" ::: "memory");
}

/* The tails from the caller of capture() on are equal. */
void expect_same(const Capture &c)
{
    const void *caller = nullptr;
    size_t from = 0, theirs = 0;
    for (size_t i = 0; i < c.n_own && !caller; i++) {
        for (size_t j = 0; j < c.n_theirs; j++) {
            if (c.own[i] == c.theirs[j]) {
                caller = c.own[i];
                from = i;
                theirs = j;
                break;
            }
        }
    }
    ASSERT_TRUE(caller) << "nothing in common";
    EXPECT_LE(from, 3u);
    EXPECT_LE(theirs, 3u);
    ASSERT_EQ(c.n_own - from, c.n_theirs - theirs);
    for (size_t i = 0; from + i < c.n_own; i++) {
        EXPECT_EQ(c.own[from + i], c.theirs[theirs + i]) << i;
    }
}

template <int depth> struct Deep {
    __attribute__((noinline)) static void go(Capture *out, volatile char *p)
    {
        volatile char room[depth * 24 + 1];
        room[0] = *p;
        Deep<depth - 1>::go(out, room);
        __asm__ volatile("" ::"r"(&room[0]) : "memory");
    }
};
template <> struct Deep<0> {
    __attribute__((noinline)) static void go(Capture *out, volatile char *)
    {
        capture(out);
        __asm__ volatile("" ::: "memory");
    }
};

class StackTest : public ::testing::Test
{
  protected:
    void SetUp() override
    {
        hak_stack_start();
    }
};

TEST_F(StackTest, PlainFrames)
{
    Capture c;
    volatile char at = 0;
    Deep<40>::go(&c, &at);
    EXPECT_GT(c.n_own, 40u);
    expect_same(c);
}

__attribute__((noinline)) void with_alloca(Capture *out, size_t n)
{
    auto *room = static_cast<volatile char *>(__builtin_alloca(n));
    room[0] = 1;
    capture(out);
    room[n - 1] = 2;
}

TEST_F(StackTest, FramesOfVariableSize)
{
    for (size_t n : {16, 1000, 4096, 70000}) {
        Capture c;
        with_alloca(&c, n);
        expect_same(c);
    }
}

__attribute__((noinline)) void with_alignment(Capture *out, size_t n)
{
    alignas(64) volatile char aligned[128];
    auto *room = static_cast<volatile char *>(__builtin_alloca(n));
    room[0] = 1;
    capture(out);
    __asm__ volatile("" ::"r"(&aligned[0]), "r"(&room[n - 1]) : "memory");
}

TEST_F(StackTest, AlignedFrames)
{
    for (size_t n : {1, 100, 5000}) {
        Capture c;
        with_alignment(&c, n);
        expect_same(c);
    }
}

Capture *compared_to;
int compare(const void *a, const void *b)
{
    if (compared_to) {
        capture(compared_to);
        compared_to = nullptr;
    }
    return *static_cast<const int *>(a) - *static_cast<const int *>(b);
}

TEST_F(StackTest, ThroughAnotherLibrary)
{
    Capture c;
    int values[] = {3, 1, 2};
    compared_to = &c;
    qsort(values, 3, sizeof(int), compare);
    expect_same(c);
    EXPECT_EQ(values[0], 1);
}

TEST_F(StackTest, OfAnotherThread)
{
    Capture c;
    volatile char at = 0;
    std::thread([&] { Deep<10>::go(&c, &at); }).join();
    EXPECT_GT(c.n_own, 10u);
    expect_same(c);
}

Capture *interrupted;
size_t n_from;
const void *from[kMost];

void on_signal(int, siginfo_t *, void *context)
{
    n_from = hak_stack_capture_from(context, from, kMost);
    capture(interrupted);
}

__attribute__((noinline)) void interrupt(Capture *out, int flags)
{
    struct sigaction action = {}, before;
    interrupted = out;
    action.sa_sigaction = on_signal;
    action.sa_flags = SA_SIGINFO | flags;
    ASSERT_EQ(sigaction(SIGUSR1, &action, &before), 0);
    raise(SIGUSR1);
    sigaction(SIGUSR1, &before, nullptr);
}

TEST_F(StackTest, ThroughASignalHandler)
{
    Capture c;
    capture(&c); /* backtrace may load its library, which it must not in a handler */
    interrupt(&c, 0);
    expect_same(c);
    ASSERT_GT(n_from, 2u);
    /* What was interrupted, from the handler's argument: the end of the same stack. */
    EXPECT_EQ(from[n_from - 1], c.own[c.n_own - 1]);
    EXPECT_EQ(from[1], c.own[c.n_own - n_from + 1]);
}

TEST_F(StackTest, ThroughASignalHandlerWithAStackOfItsOwn)
{
    Capture c;
    std::vector<char> room(65536);
    stack_t own = {}, before;
    own.ss_sp = room.data();
    own.ss_size = room.size();
    ASSERT_EQ(sigaltstack(&own, &before), 0);
    capture(&c);
    interrupt(&c, SA_ONSTACK);
    sigaltstack(&before, nullptr);
    EXPECT_GT(c.n_own, 0u);
    for (size_t i = 0; i < c.n_own; i++) {
        bool is_theirs = false;
        for (size_t j = 0; j < c.n_theirs; j++) {
            is_theirs |= c.theirs[j] == c.own[i];
        }
        EXPECT_TRUE(is_theirs || i < 3) << i;
    }
}

ucontext_t outer, inner;
Capture *in_coroutine;
void coroutine()
{
    capture(in_coroutine);
}

/* Frames on a stack that is not the thread's are read within their page, and nothing behind it. */
TEST_F(StackTest, OfACoroutineAtTheEndOfAMapping)
{
    Capture c;
    size_t page = hak_os_page_size();
    char *memory = static_cast<char *>(
        mmap(nullptr, 17 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ASSERT_NE(memory, MAP_FAILED);
    ASSERT_EQ(mprotect(memory + 16 * page, page, PROT_NONE), 0);
    in_coroutine = &c;
    getcontext(&inner);
    inner.uc_stack.ss_sp = memory;
    inner.uc_stack.ss_size = 16 * page;
    inner.uc_link = &outer;
    makecontext(&inner, coroutine, 0);
    swapcontext(&outer, &inner);
    EXPECT_GE(c.n_own, 1u);
    munmap(memory, 17 * page);
}

/* A wild frame pointer or stack is not followed. */
TEST_F(StackTest, WildRegistersAreNotFollowed)
{
#ifdef __x86_64__
    ucontext_t context = {};
    const void *addresses[kMost];
    uintptr_t frame[4] = {0, 0x4444, 0, 0};
    context.uc_mcontext.gregs[REG_RIP] = greg_t(0x10);
    for (uintptr_t wild : {uintptr_t(0), uintptr_t(8), uintptr_t(0x123456788), ~uintptr_t(7),
                           uintptr_t(0x7ffffffff000)}) {
        context.uc_mcontext.gregs[REG_RSP] = greg_t(wild);
        context.uc_mcontext.gregs[REG_RBP] = greg_t(wild + 16);
        EXPECT_EQ(hak_stack_capture_from(&context, addresses, kMost), 1u);
        context.uc_mcontext.gregs[REG_RSP] = greg_t(&frame[0]);
        EXPECT_EQ(hak_stack_capture_from(&context, addresses, kMost), 1u);
    }
    /* Code without an entry, and a frame pointer into the stack: one step by it. */
    context.uc_mcontext.gregs[REG_RSP] = greg_t(&frame[0]);
    context.uc_mcontext.gregs[REG_RBP] = greg_t(&frame[0]);
    EXPECT_EQ(hak_stack_capture_from(&context, addresses, kMost), 2u);
    EXPECT_EQ(addresses[1], reinterpret_cast<void *>(0x4444));
#endif
}

/* From the caller that is named on; `most` of them. */
__attribute__((noinline)) size_t as_a_layer(const void **addresses, size_t most)
{
    size_t n = hak_stack_capture(addresses, most, __builtin_return_address(0));
    __asm__ volatile("" ::: "memory");
    return n;
}

TEST_F(StackTest, FramesOfTheLayerAreLeftOut)
{
    const void *addresses[kMost], *few[2];
    size_t n = as_a_layer(addresses, kMost);
    ASSERT_GT(n, 3u);
    Dl_info info;
    ASSERT_TRUE(dladdr(addresses[0], &info));
    char *begin = reinterpret_cast<char *>(info.dli_fbase);
    EXPECT_GE(static_cast<const char *>(addresses[0]), begin);
    ASSERT_EQ(as_a_layer(few, 2), 2u);
    EXPECT_EQ(few[1], addresses[1]);
}

TEST_F(StackTest, AForkedChildCaptures)
{
    Capture c;
    volatile char at = 0;
    std::vector<std::thread> threads;
    std::atomic<bool> is_over(false);
    for (int i = 0; i < 3; i++) {
        threads.emplace_back([&] {
            Capture own;
            volatile char room = 0;
            while (!is_over) {
                Deep<5>::go(&own, &room);
                hak_stack_keep(own.own, own.n_own);
            }
        });
    }
    for (int i = 0; i < 20; i++) {
        pid_t pid = fork();
        if (pid == 0) {
            alarm(60);
            Deep<7>::go(&c, &at);
            _exit(c.n_own > 7 && hak_stack_keep(c.own, c.n_own)->n == c.n_own ? 0 : 1);
        }
        int status;
        waitpid(pid, &status, 0);
        EXPECT_EQ(status, 0);
    }
    is_over = true;
    for (auto &thread : threads) {
        thread.join();
    }
}

/* --- the table --- */

TEST_F(StackTest, TheSameStackIsKeptOnce)
{
    const void *a[] = {&a, this, nullptr}, *b[] = {&a, nullptr};
    size_t before = hak_stack_count();
    const stack *one = hak_stack_keep(a, 3);
    EXPECT_EQ(one->n, 3u);
    EXPECT_EQ(memcmp(one->addresses, a, sizeof(a)), 0);
    EXPECT_EQ(hak_stack_keep(a, 3), one);
    EXPECT_NE(hak_stack_keep(b, 2), one);
    EXPECT_EQ(hak_stack_keep(a, 0), &hak_stack_unknown);
    EXPECT_EQ(hak_stack_count(), before + 2);
    EXPECT_GT(hak_stack_bytes(), 0u);
}

TEST_F(StackTest, ThreadsKeepTheSameStacks)
{
    const size_t n_stacks = 500, n_threads = 4;
    std::vector<std::vector<const stack *>> kept(n_threads, std::vector<const stack *>(n_stacks));
    std::vector<std::thread> threads;
    size_t before = hak_stack_count();
    for (size_t t = 0; t < n_threads; t++) {
        threads.emplace_back([&kept, t] {
            for (size_t i = 0; i < n_stacks; i++) {
                const void *addresses[] = {reinterpret_cast<void *>(i * 16 + 5), nullptr};
                kept[t][i] = hak_stack_keep(addresses, 2);
            }
        });
    }
    for (auto &thread : threads) {
        thread.join();
    }
    for (size_t t = 1; t < n_threads; t++) {
        EXPECT_EQ(kept[t], kept[0]);
    }
    EXPECT_EQ(hak_stack_count(), before + n_stacks);
}

void *refuse_mmap(void *, size_t, int, int, int, off_t)
{
    errno = ENOMEM;
    return MAP_FAILED;
}

/* Last of all, since nothing is ever freed: full, or refused, it knows what it knew. */
TEST_F(StackTest, ZFullOrRefusedTheStackIsUnknown)
{
    const void *addresses[STACK_MOST] = {};
    const stack *first = nullptr, *last = nullptr;
    size_t i = 0;
    auto fill = [&] {
        for (; i < 1000000; i++) {
            addresses[0] = reinterpret_cast<void *>(i + 1000000);
            last = hak_stack_keep(addresses, STACK_MOST);
            first = first ? first : last;
            if (last == &hak_stack_unknown) {
                return;
            }
        }
    };
    hak_os_ops.mmap = refuse_mmap;
    fill();
    hak_os_ops.mmap = hak_os_real_ops.mmap;
    EXPECT_EQ(last, &hak_stack_unknown);
    fill();
    EXPECT_EQ(last, &hak_stack_unknown);
    EXPECT_LE(hak_stack_bytes(), STACK_TABLE_BYTES);
    EXPECT_GT(hak_stack_bytes(), STACK_TABLE_BYTES * 3 / 4);
}

} // namespace
