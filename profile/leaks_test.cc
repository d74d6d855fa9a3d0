/* Tests of the leak report: what is lost, and what is not, in blocks of all kinds; direct and
   indirect; and that the layer's tails are seen by no one else. The test starts itself again
   with HAKMEM_LEAKS, since that is for the whole process.

   The mark is conservative: a pointer that a call has left on the stack keeps its block. So each
   case loses many, and a few of them may be missing; what is held must never be reported. */
#include "profile/leaks.h"

#include <atomic>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <gtest/gtest.h>
#include <map>
#include <pthread.h>
#include <set>
#include <sstream>
#include <string>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "base/os.h"
#include "base/size_classes.h"
#include "hakmem/hakmem.h"
#include "testing/in_child.h"

namespace
{

__attribute__((constructor(101))) void start_again(int, char **argv)
{
    if (!getenv("HAKMEM_LEAKS")) {
        setenv("HAKMEM_LEAKS", "/dev/nul%l", 1); /* no number behind it */
        /* AddressSanitizer's second stack keeps what calls have left for long. */
        const char *asan = getenv("ASAN_OPTIONS");
        std::string options = std::string(asan ? asan : "") + ":detect_stack_use_after_return=0";
        setenv("ASAN_OPTIONS", options.c_str(), 1);
        execv("/proc/self/exe", argv);
        abort();
    }
}

/* Each in a process of its own: what one has lost is none of the next one's. */
#define LEAKS_TEST(name)                                                                           \
    void name();                                                                                   \
    TEST(Leaks, name)                                                                              \
    {                                                                                              \
        hak_testing::in_child(name);                                                               \
    }                                                                                              \
    void name()

constexpr int MANY = 60, MISSING = 3;

struct Sums {
    uint64_t direct = 0, direct_bytes = 0, held = 0, held_bytes = 0;
    std::set<std::string> kinds; // first words of lines
};

Sums parse(const std::string &text)
{
    Sums sums;
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) {
        std::istringstream words(line);
        std::string word;
        uint64_t n[4] = {0, 0, 0, 0};
        words >> word;
        sums.kinds.insert(word);
        if (word == "stack") {
            words >> n[0] >> n[1] >> n[2] >> n[3];
            sums.direct_bytes += n[0];
            sums.direct += n[1];
            sums.held_bytes += n[2];
            sums.held += n[3];
        }
    }
    return sums;
}

/* Where earlier calls have left pointers. */
__attribute__((noinline)) void scrub()
{
    volatile char room[16384];
    for (volatile char &c : room) {
        c = 0;
    }
}

Sums report()
{
    int fd = memfd_create("leaks", 0);
    size_t bytes = 0;
    EXPECT_EQ(hak_leaks_write(fd, &bytes), 0);
    std::string text(size_t(lseek(fd, 0, SEEK_END)), 0);
    EXPECT_EQ(pread(fd, &text[0], text.size(), 0), ssize_t(text.size()));
    close(fd);
    Sums sums = parse(text);
    EXPECT_EQ(sums.direct_bytes + sums.held_bytes, bytes);
    EXPECT_TRUE(sums.kinds.count("end")) << text;
    return sums;
}

/* What the body adds to what is lost. Other tests' leaks stay. */
template <typename Body> Sums lost_by(Body body)
{
    scrub();
    Sums before = report();
    body();
    scrub();
    Sums after = report();
    after.direct -= before.direct;
    after.direct_bytes -= before.direct_bytes;
    after.held -= before.held;
    after.held_bytes -= before.held_bytes;
    return after;
}

void *volatile sink;

/* Passes a pointer through, so that the compiler keeps what was done with it. */
void *opaque(void *p)
{
    sink = p;
    p = sink;
    sink = nullptr;
    return p;
}

/* What looks like a pointer keeps a block: some of these, or of earlier ones until now. */
void expect_lost(const Sums &sums, uint64_t n, uint64_t bytes)
{
    EXPECT_LE(sums.direct, n + MISSING);
    EXPECT_GE(sums.direct + MISSING, n);
    if (sums.direct <= n) {
        EXPECT_EQ(sums.direct_bytes, sums.direct * bytes);
    }
    EXPECT_EQ(sums.held, 0u);
}

template <typename Make> void expect_all_lost(Make make, size_t size, int n = MANY)
{
    auto body = [&]() __attribute__((noinline))
    {
        for (int i = 0; i < n; i++) {
            void *p = opaque(make(size));
            ASSERT_NE(p, nullptr);
            memset(p, 0, size);
        }
    };
    expect_lost(lost_by(body), uint64_t(n), size);
}

LEAKS_TEST(OfAllSizes)
{
    for (size_t size : {size_t(1), size_t(16), size_t(24), size_t(100), size_t(1008), size_t(5000),
                        size_t(SC_SMALL_MAX)}) {
        SCOPED_TRACE(size);
        expect_all_lost(hak_malloc, size);
    }
    expect_all_lost(hak_malloc, 50000, 12);
    expect_all_lost(hak_malloc, 3 << 20, 8);
}

LEAKS_TEST(OfAllCalls)
{
    expect_all_lost([](size_t size) { return hak_calloc(1, size); }, 200);
    expect_all_lost([](size_t size) { return hak_realloc(nullptr, size); }, 200);
    expect_all_lost([](size_t size) { return hak_realloc(hak_malloc(10), size); }, 700);
    expect_all_lost([](size_t size) { return hak_realloc(hak_malloc(90000), size); }, 300);
    expect_all_lost([](size_t size) { return hak_rezalloc(hak_malloc(10), size); }, 700);
    expect_all_lost([](size_t size) { return hak_aligned_alloc(256, size); }, 512);
    expect_all_lost([](size_t size) { return hak_aligned_alloc(1 << 16, size); }, 1 << 16, 8);
}

LEAKS_TEST(OfAHeap)
{
    struct hak_heap *heap = hak_heap_create();
    expect_all_lost([&](size_t size) { return hak_heap_malloc(heap, size); }, 300);
    expect_all_lost([&](size_t size) { return hak_heap_malloc(heap, size); }, 70000, 8);
    EXPECT_GT(report().direct, 0u);
    hak_heap_destroy(heap);
    EXPECT_EQ(report().direct, 0u);
}

LEAKS_TEST(NotWhatWasFreed)
{
    Sums sums = lost_by([] {
        for (size_t size = 1; size < 200000; size += size / 3 + 1) {
            for (int i = 0; i < 5; i++) {
                hak_free(opaque(hak_malloc(size)));
            }
        }
    });
    EXPECT_EQ(sums.direct + sums.held, 0u);
}

struct Node {
    Node *next, *other;
    char room[70];
};

__attribute__((noinline)) Node *make_list(int n)
{
    Node *first = nullptr;
    for (int i = 0; i < n; i++) {
        Node *node = (Node *)opaque(hak_calloc(1, sizeof(Node)));
        node->next = first;
        first = node;
    }
    return first;
}

LEAKS_TEST(IndirectOnes)
{
    Sums sums = lost_by([]() __attribute__((noinline)) {
        for (int i = 0; i < 10; i++) {
            opaque(make_list(5));
        }
    });
    EXPECT_LE(sums.direct, 10u);
    EXPECT_GE(sums.direct, 10u - MISSING);
    EXPECT_GE(sums.held, 4 * (10u - MISSING));
    EXPECT_LE(sums.held, 40u);
    EXPECT_EQ(sums.held_bytes, sums.held * sizeof(Node));
    EXPECT_TRUE(sums.kinds.count("held"));
}

LEAKS_TEST(Rings)
{
    Sums sums = lost_by([]() __attribute__((noinline)) {
        for (int i = 0; i < 10; i++) {
            Node *first = make_list(3), *last = first->next->next;
            last->next = first;
            first->other = first; /* to itself too */
        }
    });
    EXPECT_LE(sums.direct, 10u);
    EXPECT_GE(sums.direct, 10u - MISSING);
    EXPECT_EQ(sums.held, 2 * sums.direct);
}

/* --- what holds a block --- */

Node *volatile global_list;
char *volatile inside;
char *volatile behind_start[3];

LEAKS_TEST(AGlobalHolds)
{
    Sums sums = lost_by([] { global_list = make_list(1000); });
    EXPECT_EQ(sums.direct + sums.held, 0u);
    sums = lost_by([] { global_list = nullptr; });
    EXPECT_LE(sums.direct, 1u);
    EXPECT_GE(sums.held + sums.direct + 1, sums.direct ? 1000u : 0u);
}

LEAKS_TEST(APointerIntoTheBlockHolds)
{
    Sums sums = lost_by([] {
        size_t sizes[] = {100, 20000, 5 << 20};
        for (int i = 0; i < 3; i++) {
            behind_start[i] = (char *)hak_malloc(sizes[i]) + sizes[i] - 1;
        }
        inside = (char *)hak_malloc(1000) + 501;
    });
    EXPECT_EQ(sums.direct + sums.held, 0u);
}

LEAKS_TEST(ALargeBlockHolds)
{
    static char **volatile large;
    Sums sums = lost_by([] {
        large = (char **)hak_calloc(1, 9 << 20);
        for (size_t i = 0; i < 9; i++) {
            large[(i << 17) + 77] = (char *)hak_malloc(40) + 3;
        }
    });
    EXPECT_EQ(sums.direct + sums.held, 0u);
}

thread_local void *volatile own_pointer;

LEAKS_TEST(ThreadLocalStorageHolds)
{
    Sums sums = lost_by([] { own_pointer = hak_malloc(333); });
    EXPECT_EQ(sums.direct + sums.held, 0u);
    own_pointer = nullptr;
}

LEAKS_TEST(ARegisterOrTheStackHolds)
{
    Sums before = report();
    void *volatile on_stack = hak_malloc(77);
#if defined(__x86_64__)
    register void *in_register __asm__("r12") = hak_malloc(79);
#else
    void *in_register = hak_malloc(79);
#endif
    __asm__ volatile("" : "+r"(in_register));
    size_t bytes = 0;
    EXPECT_EQ(hak_leaks_write(-1, &bytes), 0);
    __asm__ volatile("" : "+r"(in_register));
    EXPECT_EQ(bytes, before.direct_bytes + before.held_bytes);
    hak_free(in_register);
    hak_free(on_stack);
}

LEAKS_TEST(MemoryThatTheProgramHasMappedHolds)
{
    for (int kind : {MAP_PRIVATE, MAP_SHARED}) {
        Node **mapped =
            (Node **)mmap(nullptr, 1 << 20, PROT_READ | PROT_WRITE, kind | MAP_ANONYMOUS, -1, 0);
        ASSERT_NE(mapped, MAP_FAILED);
        Sums sums = lost_by([&] {
            for (int i = 0; i < 10; i++) {
                mapped[10000 * i + 9] = make_list(50);
            }
        });
        EXPECT_EQ(sums.direct + sums.held, 0u);
        sums = lost_by([&] { munmap(mapped, 1 << 20); });
        EXPECT_GE(sums.direct + MISSING, 10u);
        EXPECT_GE(sums.held, 49 * (10u - MISSING));
    }
}

/* As a sanitizer's shadow, of which a few pages were ever touched. (A terabyte takes seconds where
   the system cannot say which.) */
LEAKS_TEST(AHugeMappingHolds)
{
    const size_t bytes = size_t(1) << 36, apart = bytes / 10;
    char *mapped = (char *)mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                                MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (mapped == MAP_FAILED) {
        return; /* a limit, or memory that may not be promised twice */
    }
    Sums sums = lost_by([&] {
        for (size_t i = 0; i < 10; i++) {
            *(Node **)(void *)(mapped + i * apart / 8 * 8) = make_list(50);
        }
    });
    EXPECT_EQ(sums.direct + sums.held, 0u);
    sums = lost_by([&] { munmap(mapped, bytes); });
    EXPECT_GE(sums.direct + MISSING, 10u);
}

/* --- threads --- */

struct Meeting {
    pthread_barrier_t barrier;
    Meeting()
    {
        pthread_barrier_init(&barrier, nullptr, 2);
    }
    void meet()
    {
        pthread_barrier_wait(&barrier);
    }
};

LEAKS_TEST(TheStackOfARunningThreadHolds)
{
    Meeting meeting;
    Sums before = report();
    std::thread thread([&] {
        void *volatile mine[50];
        own_pointer = hak_malloc(444);
        for (void *volatile &one : mine) {
            one = hak_malloc(64);
        }
        meeting.meet();
        meeting.meet();
        for (void *volatile &one : mine) {
            hak_free(one);
        }
        hak_free(own_pointer);
    });
    meeting.meet();
    Sums during = report();
    EXPECT_EQ(during.direct, before.direct);
    EXPECT_EQ(during.held, before.held);
    meeting.meet();
    thread.join();
    Sums after = report();
    EXPECT_EQ(after.direct + after.held, before.direct + before.held);
}

/* A thread that waits for a read has its buffer's address in a register, perhaps nowhere else. */
LEAKS_TEST(WhatAThreadHasGivenToTheSystemIsHeld)
{
    int ends[2];
    ASSERT_EQ(pipe(ends), 0);
    Sums before = report();
    std::atomic<pid_t> id{0};
    std::thread thread([&] {
        char *buffer = (char *)hak_malloc(100);
        id = gettid();
        EXPECT_EQ(read(ends[0], buffer, 1), 1);
        hak_free(buffer);
    });
    const std::string in_read = std::to_string(SYS_read) + " 0x";
    std::string state;
    while (state.compare(0, in_read.size(), in_read) != 0) { /* it waits there, not elsewhere */
        std::ifstream file("/proc/self/task/" + std::to_string(id) + "/syscall");
        std::getline(file, state);
        sched_yield();
    }
    Sums during = report();
    EXPECT_EQ(during.direct, before.direct);
    EXPECT_EQ(write(ends[1], "x", 1), 1);
    thread.join();
}

#if defined(__x86_64__)
/* Has a block's address in registers alone for `cycles` once `go` is 1, and then in *place. */
__attribute__((noinline)) void hold_in_register(uintptr_t hidden, std::atomic<int> *go,
                                                uint64_t cycles, void **place)
{
    scrub();
    __asm__ volatile("not %0\n"
                     "1:\n\tpause\n\tcmpl $1, (%1)\n\tjne 1b\n\t"
                     "rdtsc\n\tshlq $32, %%rdx\n\tleaq (%%rdx,%%rax), %%rcx\n\taddq %2, %%rcx\n"
                     "2:\n\tpause\n\trdtsc\n\tshlq $32, %%rdx\n\torq %%rdx, %%rax\n\t"
                     "cmpq %%rcx, %%rax\n\tjb 2b\n\t"
                     "movq %0, (%3)\n\tmovl $2, (%1)\n"
                     : "+&r"(hidden)
                     : "r"(go), "r"(cycles), "r"(place)
                     : "rax", "rcx", "rdx", "cc", "memory");
}

/* A thread that runs on has what it has just been given nowhere else. On a busy machine it may not
   run for as long as both looks take: such rounds do not count. It may run on behind the second
   look, too: so once in a while it is reported all the same. */
LEAKS_TEST(WhatARunningThreadHasInARegisterIsHeld)
{
    constexpr int ROUNDS = 8;
    static void *place;
    int n_ran = 0, n_reported = 0;
    for (int round = 0; round < 10 * ROUNDS && n_ran < ROUNDS; round++) {
        Sums before = report();
        std::atomic<int> go{0};
        std::thread thread([&] {
            void *p = opaque(hak_malloc(100));
            uintptr_t hidden = ~(uintptr_t)p;
            p = nullptr;
            hold_in_register(hidden, &go, 4000000, &place);
            hak_free(place);
            place = nullptr;
        });
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
        go = 1;
        bool is_reported = report().direct > before.direct, has_run = go == 2;
        n_ran += has_run;
        n_reported += has_run && is_reported;
        thread.join();
    }
    EXPECT_GE(n_ran, 1);
    EXPECT_LE(n_reported, ROUNDS / 4);
}
#endif

/* What another thread has freed, and keeps in its cache, is no leak; nor is what was sent to it. */
LEAKS_TEST(NotWhatAnotherThreadKeeps)
{
    Meeting meeting;
    std::vector<void *> blocks;
    Sums before = report();
    for (int i = 0; i < 2000; i++) {
        blocks.push_back(hak_malloc(size_t(i) * 7 % 3000));
    }
    std::thread thread([&] {
        for (void *&block : blocks) {
            hak_free(block);
            block = nullptr;
        }
        for (int i = 0; i < 2000; i++) {
            hak_free(opaque(hak_malloc(size_t(i) * 7 % 3000)));
        }
        meeting.meet();
        meeting.meet();
    });
    meeting.meet();
    Sums during = report();
    EXPECT_EQ(during.direct + during.held, before.direct + before.held);
    meeting.meet();
    thread.join();
}

/* Threads allocate and free while reports are made, and after. */
LEAKS_TEST(OthersGoOn)
{
    std::atomic<bool> is_over{false};
    std::vector<std::thread> threads;
    std::atomic<uint64_t> n{0};
    for (unsigned t = 0; t < 3; t++) {
        threads.emplace_back([&, t] {
            std::vector<void *> mine(64);
            for (unsigned i = t; !is_over; i++) {
                void *&one = mine[i % 64];
                hak_free(one);
                one = hak_malloc(i * 37 % 9000);
                n++;
            }
            for (void *one : mine) {
                hak_free(one);
            }
        });
    }
    while (n < 1000) {
        sched_yield();
    }
    for (int i = 0; i < 5; i++) {
        EXPECT_EQ(hak_leaks_write(-1, nullptr), 0);
        uint64_t before = n;
        while (n < before + 100) {
            sched_yield();
        }
    }
    is_over = true;
    for (std::thread &thread : threads) {
        thread.join();
    }
    EXPECT_EQ(hak_verify(), 0);
}

/* --- processes --- */

LEAKS_TEST(InAForkedChild)
{
    expect_all_lost(hak_malloc, 72);
    hak_testing::in_child([] {
        expect_all_lost(hak_malloc, 128);
        global_list = make_list(100);
        Sums sums = lost_by([] { hak_free(opaque(hak_malloc(10))); });
        EXPECT_EQ(sums.direct + sums.held, 0u);
    });
}

LEAKS_TEST(PagesThatCannotBeRead)
{
    size_t page = hak_os_page_size();
    static char *volatile blocks[2];
    blocks[0] = (char *)hak_aligned_alloc(page, 5 * page);
    blocks[1] = (char *)hak_aligned_alloc(page, page * 64);
    Sums sums = lost_by([&] {
        for (int i = 0; i < 2; i++) {
            memset(blocks[i], 0, 5 * page);
            *(void **)(blocks[i] + 3 * page) = hak_malloc(90);
            EXPECT_EQ(mprotect(blocks[i] + page, page, PROT_NONE), 0);
        }
    });
    EXPECT_EQ(sums.direct + sums.held, 0u);
    for (char *block : blocks) {
        EXPECT_EQ(mprotect(block + page, page, PROT_READ | PROT_WRITE), 0);
        hak_free(*(void **)(block + 3 * page));
        hak_free(block);
    }
}

void *refuse(void *, size_t, int, int, int, off_t)
{
    errno = ENOMEM;
    return MAP_FAILED;
}

LEAKS_TEST(WithoutMemory)
{
    struct hak_os_ops before = hak_os_ops;
    errno = 17;
    hak_os_ops.mmap = refuse;
    int error = hak_leaks_write(-1, nullptr);
    hak_os_ops = before;
    EXPECT_EQ(error, ENOMEM);
    EXPECT_EQ(errno, 17);
    EXPECT_EQ(hak_leaks_write(-1, nullptr), 0);
    EXPECT_EQ(hak_leaks_write(12345, nullptr), EBADF);
}

/* --- tails --- */

LEAKS_TEST(SizesAndContents)
{
    for (size_t size = 0; size < 300000; size += size / 5 + 1) {
        unsigned char *p = (unsigned char *)hak_malloc(size);
        EXPECT_GE(hak_usable_size(p), size);
        memset(p, 0x5A, hak_usable_size(p));
        size_t usable = hak_usable_size(p);
        p = (unsigned char *)hak_realloc(p, size * 2 + 1);
        EXPECT_GE(hak_usable_size(p), size * 2 + 1);
        for (size_t i = 0; i < usable && i < size; i++) {
            ASSERT_EQ(p[i], 0x5A);
        }
        memset(p, 0x5B, hak_usable_size(p));
        p = (unsigned char *)hak_realloc(p, size / 2 + 1);
        ASSERT_EQ(p[size / 2], 0x5B);
        hak_free_sized(p, size / 2 + 1);
        p = (unsigned char *)hak_calloc(1, size + 1);
        for (size_t i = 0; i < hak_usable_size(p); i++) {
            ASSERT_EQ(p[i], 0);
        }
        for (size_t larger = size + 1; larger < 3 * size; larger += size / 2 + 1) {
            p = (unsigned char *)hak_rezalloc(p, larger);
            for (size_t i = 0; i < larger; i++) {
                ASSERT_EQ(p[i], 0) << size << " " << larger << " " << i;
            }
        }
        hak_free(p);
        p = (unsigned char *)hak_aligned_alloc(512, size);
        EXPECT_EQ((uintptr_t)p % 512, 0u);
        EXPECT_GE(hak_usable_size(p), size);
        hak_free(p);
    }
    EXPECT_EQ(hak_malloc(SIZE_MAX), nullptr);
    EXPECT_EQ(hak_malloc(SIZE_MAX - 8), nullptr);
    EXPECT_EQ(hak_malloc(PTRDIFF_MAX), nullptr);
    void *p = hak_malloc(100);
    EXPECT_EQ(hak_realloc(p, SIZE_MAX - 8), nullptr);
    Sums sums = lost_by([&] { opaque(p = nullptr); });
    EXPECT_LE(sums.direct, 1u); /* it has its tail again: the same size as before */
    EXPECT_EQ(sums.direct_bytes, sums.direct * 100);
}

LEAKS_TEST(AWalkSeesTheProgramsBlocks)
{
    static void *volatile mine;
    mine = hak_malloc(1234);
    struct Seen {
        void *p;
        size_t size;
    } seen = {mine, 0};
    auto visit = [](void *block, size_t size, void *context) {
        Seen *looked = (Seen *)context;
        if (block == looked->p) {
            looked->size = size;
        }
        return 0;
    };
    EXPECT_EQ(hak_walk(visit, &seen), 0);
    EXPECT_EQ(seen.size, hak_usable_size(mine));
    EXPECT_GE(seen.size, 1234u);
    hak_free(mine);
    mine = nullptr;
}

/* Who writes behind the end of a block loses its stack: it is not reported, but followed. */
LEAKS_TEST(ATailThatIsOverwritten)
{
    if (HAK_SECURE) {
        return; /* the variant ends the process, or does not see it within the block */
    }
    static Node *volatile list;
    Sums sums = lost_by([]() __attribute__((noinline)) {
        for (int i = 0; i < MANY; i++) {
            char *p = (char *)opaque(hak_malloc(48));
            memset(p + hak_usable_size(p), 1, 8);
        }
        list = make_list(3);
        memset((char *)list + hak_usable_size(list), 1, 8);
    });
    EXPECT_EQ(sums.direct + sums.held, 0u);
    EXPECT_EQ(hak_usable_size(list) % 16, 0u);
    list = nullptr;
}

} // namespace
