/* Tests of the OS layer: aligned mappings whatever the system answers, purging, metadata memory. */
#include "base/os.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <gtest/gtest.h>
#include <map>
#include <pthread.h>
#include <sched.h>
#include <string>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <thread>
#include <unistd.h>
#include <vector>

#include "testing/failing_os.h"

namespace
{

using hak_testing::FailingOs;

/* A system that maps nothing: it hands out addresses of a model and remembers what is mapped, byte
   for byte. */
class ModelOs
{
  public:
    /* The next mapping starts this far past a multiple of 1 GiB. */
    explicit ModelOs(uintptr_t offset) : before_(hak_os_ops)
    {
        self() = this;
        next_ = (uintptr_t(1) << 40) + offset;
        hak_os_ops.mmap = map;
        hak_os_ops.munmap = unmap;
    }
    ~ModelOs()
    {
        hak_os_ops = before_;
    }
    const std::map<uintptr_t, uintptr_t> &mapped() const
    {
        return mapped_;
    } /* start to end, neighbours joined */
    int n_maps = 0, n_unmaps = 0, n_wrong = 0;
    int failing_map = 0, failing_unmap = 0; /* this call fails, from 1 */
    void *last_hint = nullptr;
    bool takes_hints = false;

  private:
    static ModelOs *&self()
    {
        static ModelOs *model;
        return model;
    }
    static void *map(void *addr, size_t length, int prot, int flags, int fd, off_t)
    {
        ModelOs *m = self();
        m->n_wrong += prot != (PROT_READ | PROT_WRITE) || !(flags & MAP_ANONYMOUS) ||
                      !(flags & MAP_PRIVATE) || (flags & MAP_FIXED) || fd != -1 || length == 0 ||
                      length % 4096;
        m->last_hint = m->n_maps == 0 ? addr : m->last_hint;
        if (++m->n_maps == m->failing_map || length > (size_t(1) << 46)) {
            errno = ENOMEM;
            return MAP_FAILED;
        }
        uintptr_t start = m->next_;
        if (addr && m->takes_hints) {
            start = reinterpret_cast<uintptr_t>(addr);
        } else {
            m->next_ += (length + (uintptr_t(1) << 30)) &
                        ~((uintptr_t(1) << 30) - 1); /* the same offset again */
        }
        m->mapped_[start] = start + length;
        return reinterpret_cast<void *>(start);
    }
    static int unmap(void *addr, size_t length)
    {
        ModelOs *m = self();
        if (++m->n_unmaps == m->failing_unmap) {
            errno = ENOMEM;
            return -1;
        }
        uintptr_t start = reinterpret_cast<uintptr_t>(addr), end = start + length;
        auto it = m->mapped_.upper_bound(start);
        if (it == m->mapped_.begin() || length == 0 || start % 4096 || length % 4096 ||
            (--it)->second < end) {
            m->n_wrong++;
            return 0;
        }
        uintptr_t whole_start = it->first, whole_end = it->second;
        m->mapped_.erase(it);
        if (whole_start < start) {
            m->mapped_[whole_start] = start;
        }
        if (end < whole_end) {
            m->mapped_[end] = whole_end;
        }
        return 0;
    }
    std::map<uintptr_t, uintptr_t> mapped_;
    uintptr_t next_;
    struct hak_os_ops before_;
};

const size_t kSizes[] = {4096, 65536, 2 << 20, (2 << 20) + 4096, 5 << 20};
const size_t kAligns[] = {4096, 65536, 2 << 20, 64 << 20};
const uintptr_t kOffsets[] = {
    0, 4096, 65536, 65536 - 4096, 2 << 20, (2 << 20) - 4096, (64 << 20) - 4096};

/* Whatever offset the system's mappings have, exactly the aligned range stays mapped. */
TEST(OsMapAligned, KeepsExactlyTheAlignedRange)
{
    for (size_t size : kSizes) {
        for (size_t align : kAligns) {
            for (uintptr_t offset : kOffsets) {
                ModelOs model(offset);
                uintptr_t p = reinterpret_cast<uintptr_t>(hak_os_map_aligned(nullptr, size, align));
                ASSERT_NE(p, 0u);
                EXPECT_EQ(p % align, 0u) << size << " at " << align << " offset " << offset;
                ASSERT_EQ(model.mapped().size(), 1u);
                EXPECT_EQ(model.mapped().begin()->first, p);
                EXPECT_EQ(model.mapped().begin()->second, p + size);
                EXPECT_EQ(model.n_wrong, 0);
                EXPECT_EQ(model.n_maps,
                          offset % align ? 2 : 1); /* at once where the first answer is aligned */
            }
        }
    }
}

TEST(OsMapAligned, HintIsTriedFirst)
{
    ModelOs model(4096);
    model.takes_hints = true;
    void *hint = reinterpret_cast<void *>(uintptr_t(64) << 20);
    EXPECT_EQ(hak_os_map_aligned(hint, 2 << 20, 2 << 20), hint);
    EXPECT_EQ(model.n_maps, 1);
    EXPECT_EQ(model.last_hint, hint);
}

TEST(OsMapAligned, EveryRefusalIsSurvived)
{
    for (int n = 1; n <= 2; n++) {
        ModelOs model(4096);
        model.failing_map = n;
        errno = 5;
        EXPECT_EQ(hak_os_map_aligned(nullptr, 2 << 20, 2 << 20), nullptr);
        EXPECT_EQ(errno, 5);
        EXPECT_TRUE(model.mapped().empty()); /* nothing stays behind */
        EXPECT_EQ(model.n_wrong, 0);
    }
    /* A system that refuses to cut leaves address space behind, but serves. */
    for (int n = 1; n <= 3; n++) {
        ModelOs model(8192);
        model.failing_unmap = n;
        uintptr_t p = reinterpret_cast<uintptr_t>(hak_os_map_aligned(nullptr, 2 << 20, 2 << 20));
        ASSERT_NE(p, 0u);
        EXPECT_EQ(p % (2 << 20), 0u);
        auto it = --model.mapped().upper_bound(p);
        EXPECT_GE(it->second, p + (2 << 20));
        EXPECT_EQ(model.n_unmaps, 3);
        EXPECT_EQ(model.n_wrong, 0);
    }
}

TEST(OsMapAligned, SizesThatOverflowAreRefused)
{
    ModelOs model(4096);
    EXPECT_EQ(hak_os_map_aligned(nullptr, SIZE_MAX - 4095, 2 << 20), nullptr);
    EXPECT_EQ(hak_os_map_aligned(nullptr, SIZE_MAX / 2 + 1, size_t(1) << 63), nullptr);
    EXPECT_TRUE(model.mapped().empty());
}

TEST(OsMapAligned, RealMemoryIsZeroAndUsable)
{
    for (size_t align : {hak_os_page_size(), size_t(64) << 10, size_t(64) << 20}) {
        const size_t size = 3 << 16;
        char *p = static_cast<char *>(hak_os_map_aligned(nullptr, size, align));
        ASSERT_NE(p, nullptr);
        EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % align, 0u);
        for (size_t i = 0; i < size; i += 512) {
            ASSERT_EQ(p[i], 0);
        }
        memset(p, 1, size);
        EXPECT_EQ(hak_os_unmap(p, size), 0);
        unsigned char vec[1];
        EXPECT_EQ(mincore(p, hak_os_page_size(), vec), -1); /* gone */
    }
}

TEST(Os, PageSizeIsTheSystems)
{
    EXPECT_EQ(hak_os_page_size(), static_cast<size_t>(sysconf(_SC_PAGESIZE)));
    EXPECT_EQ(hak_os_page_size(), static_cast<size_t>(sysconf(_SC_PAGESIZE)));
}

TEST(Os, PurgeDropsPages)
{
    const size_t size = 16 * hak_os_page_size();
    char *p = static_cast<char *>(hak_os_map_aligned(nullptr, size, hak_os_page_size()));
    ASSERT_NE(p, nullptr);
    memset(p, 7, size);
    EXPECT_EQ(hak_os_purge(p, size / 2), 0);
    std::vector<unsigned char> resident(16);
    ASSERT_EQ(mincore(p, size, resident.data()), 0);
    for (size_t i = 0; i < 16; i++) {
        EXPECT_EQ(resident[i] & 1, i >= 8) << i;
    }
    EXPECT_EQ(p[0], 0);
    EXPECT_EQ(p[size / 2 - 1], 0);
    EXPECT_EQ(p[size / 2], 7);
    EXPECT_EQ(hak_os_unmap(p, size), 0);
}

TEST(Os, PagesMoveAndTheirPlaceStays)
{
    size_t page = hak_os_page_size(), size = 8 * page;
    auto *from = static_cast<char *>(hak_os_map_aligned(nullptr, size, page));
    auto *to = static_cast<char *>(hak_os_reserve(3 * size));
    ASSERT_TRUE(from && to);
    memset(from, 'm', size);
    int error = hak_os_move_pages(from, size, to + size);
    if (error == EINVAL) {
        GTEST_SKIP() << "a kernel before Linux 5.7, or qemu";
    }
    ASSERT_EQ(error, 0);
    EXPECT_EQ(std::count(from, from + size, 0), static_cast<ptrdiff_t>(size));
    EXPECT_EQ(std::count(to + size, to + 2 * size, 'm'), static_cast<ptrdiff_t>(size));
    EXPECT_FALSE(hak_os_claim(to, page)) << "still reserved";
    errno = 5;
    EXPECT_NE(hak_os_move_pages(from + 1, page, to), 0);
    EXPECT_EQ(errno, 5);
    EXPECT_FALSE(hak_os_claim(to, page)) << "a refusal leaves no hole";
    ASSERT_EQ(hak_os_unmap(from, size), 0);
    ASSERT_EQ(hak_os_unmap(to, 3 * size), 0);
}

/* Each place that the kernel unmaps before it refuses becomes another thread's at once. */
int n_lost;
void *mremap_and_lose(void *from, size_t old_size, size_t new_size, int flags, void *to)
{
    void *p = hak_os_real_ops.mremap(from, old_size, new_size, flags, to);
    int error = errno;
    n_lost += p == MAP_FAILED && (flags & MREMAP_FIXED) && hak_os_claim(to, new_size);
    errno = error;
    return p;
}

TEST(Os, APlaceToWhichPagesMayNotMoveIsNoOtherThreads)
{
    size_t page = hak_os_page_size(), size = 256 * page;
    auto *from = static_cast<char *>(hak_os_map_aligned(nullptr, size, page));
    auto *to = static_cast<char *>(hak_os_reserve(size));
    ASSERT_TRUE(from && to);
    memset(from, 'm', size);
    if (hak_os_move_pages(from, page, to) == EINVAL) {
        GTEST_SKIP() << "a kernel before Linux 5.7, or qemu";
    }
    memset(from, 'm', page);
    hak_os_ops.mremap = mremap_and_lose;
    n_lost = 0;
    rlimit before;
    ASSERT_EQ(getrlimit(RLIMIT_DATA, &before), 0);
    rlimit none = {page, before.rlim_max}; /* to Linux, 0 is no limit */
    ASSERT_EQ(setrlimit(RLIMIT_DATA, &none), 0);
    int no_room = hak_os_move_pages(from, size, to);
    ASSERT_EQ(setrlimit(RLIMIT_DATA, &before), 0);
    ASSERT_EQ(hak_os_protect(from + page, page, OS_READABLE), 0);
    int several = hak_os_move_pages(from, size, to);
    hak_os_ops.mremap = hak_os_real_ops.mremap;
    EXPECT_EQ(no_room, ENOMEM);
    EXPECT_NE(several, 0) << "no single mapping";
    EXPECT_EQ(n_lost, 0);
    EXPECT_EQ(std::count(from, from + size, 'm'), static_cast<ptrdiff_t>(size));
    ASSERT_EQ(hak_os_unmap(from, size), 0);
    ASSERT_EQ(hak_os_unmap(to, size), 0);
}

/* By one call: the target is the caller's again, or is said to be lost. */
TEST(Os, PagesThatMoveAtOnceLoseTheirTargetAtMost)
{
    size_t page = hak_os_page_size(), size = 256 * page;
    auto *from = static_cast<char *>(hak_os_map_aligned(nullptr, size, page));
    auto *to = static_cast<char *>(hak_os_map_aligned(nullptr, size, page));
    int is_lost = 7;
    ASSERT_TRUE(from && to);
    memset(from, 'm', size);
    if (hak_os_move_pages_at_once(from, size, to, &is_lost) == EINVAL) {
        GTEST_SKIP() << "a kernel before Linux 5.7, or qemu";
    }
    EXPECT_EQ(is_lost, 0);
    EXPECT_EQ(std::count(from, from + size, 0), static_cast<ptrdiff_t>(size));
    EXPECT_EQ(std::count(to, to + size, 'm'), static_cast<ptrdiff_t>(size));
    for (bool is_taken : {false, true}) {
        memset(from, 'n', size);
        rlimit before;
        ASSERT_EQ(getrlimit(RLIMIT_DATA, &before), 0);
        rlimit none = {page, before.rlim_max};
        hak_os_ops.mremap = is_taken ? mremap_and_lose : hak_os_real_ops.mremap;
        n_lost = 0;
        errno = 5;
        ASSERT_EQ(setrlimit(RLIMIT_DATA, &none), 0);
        int no_room = hak_os_move_pages_at_once(from, size, to, &is_lost);
        ASSERT_EQ(setrlimit(RLIMIT_DATA, &before), 0);
        hak_os_ops.mremap = hak_os_real_ops.mremap;
        EXPECT_EQ(no_room, ENOMEM);
        EXPECT_EQ(errno, 5);
        EXPECT_EQ(is_lost, is_taken);
        EXPECT_FALSE(hak_os_claim(to, size)) << "it is no hole";
        EXPECT_EQ(std::count(from, from + size, 'n'), static_cast<ptrdiff_t>(size));
    }
    ASSERT_EQ(hak_os_unmap(from, size), 0);
    ASSERT_EQ(hak_os_unmap(to, size), 0);
}

TEST(Os, PagesThatAreRefusedOnTheirWayComeBack)
{
    size_t page = hak_os_page_size(), size = 8 * page;
    for (uint64_t more : {0, 1}) {
        FailingOs os;
        auto *from = static_cast<char *>(hak_os_map_aligned(nullptr, size, page));
        auto *to = static_cast<char *>(hak_os_map_aligned(nullptr, size, page));
        ASSERT_TRUE(from && to);
        memset(from, 'm', size);
        memset(to, 't', size);
        int64_t mapped = os.mapped_bytes();
        os.fail(hak_testing::OS_MREMAP, 2, more);
        int error = hak_os_move_pages(from, size, to);
        EXPECT_TRUE(error == ENOMEM || error == EINVAL) << "EINVAL: before Linux 5.7, or qemu";
        EXPECT_EQ(std::count(from, from + size, 'm'), static_cast<ptrdiff_t>(size));
        EXPECT_EQ(std::count(to, to + size, 't'), static_cast<ptrdiff_t>(size));
        EXPECT_EQ(os.mapped_bytes(), mapped);
        ASSERT_EQ(hak_os_unmap(from, size), 0);
        ASSERT_EQ(hak_os_unmap(to, size), 0);
    }
}

TEST(Os, SealedPagesAreGoneAndMayNotBeTouched)
{
    size_t page = hak_os_page_size(), size = 4 * page;
    auto *p = static_cast<char *>(hak_os_map_aligned(nullptr, size, page));
    ASSERT_NE(p, nullptr);
    memset(p, 's', size);
    errno = 5;
    ASSERT_EQ(hak_os_seal(p + page, page, 0), 0);
    EXPECT_EXIT((void)*static_cast<volatile char *>(p + page), testing::KilledBySignal(SIGSEGV),
                "");
    EXPECT_EQ(p[page - 1], 's');
    EXPECT_EQ(p[2 * page], 's');
    ASSERT_EQ(hak_os_protect(p + page, page, OS_WRITABLE), 0);
    EXPECT_EQ(std::count(p, p + size, 0), static_cast<ptrdiff_t>(page));
    {
        FailingOs os;
        os.fail_always(hak_testing::OS_MMAP);
        EXPECT_EQ(hak_os_seal(p, page, 0), ENOMEM);
    }
    EXPECT_EQ(p[0], 's');
    {
        FailingOs os; /* as where there is one mapping too many */
        os.fail(hak_testing::OS_MMAP, 1);
        EXPECT_EQ(hak_os_seal(p, page, 1), 0);
        EXPECT_EQ(os.calls(hak_testing::OS_MUNMAP), 1u) << "a spare one went";
        EXPECT_EQ(os.calls(hak_testing::OS_MMAP), 3u) << "and came again";
    }
    EXPECT_EQ(errno, 5);
    ASSERT_EQ(hak_os_unmap(p, size), 0);
}

TEST(Os, ErrorsAreReturnedAndErrnoIsKept)
{
    FailingOs os;
    char *p = static_cast<char *>(hak_os_map_aligned(nullptr, 65536, 65536));
    ASSERT_NE(p, nullptr);
    errno = 11;
    os.fail_always(hak_testing::OS_MADVISE);
    EXPECT_EQ(hak_os_purge(p, 65536), ENOMEM);
    hak_os_huge_pages(p, 65536);
    hak_os_populate(p, 65536); /* ENOMEM: the next one may be asked for */
    hak_os_populate(p, 65536);
    EXPECT_EQ(os.calls(hak_testing::OS_MADVISE), 4u);
    os.fail_always(hak_testing::OS_MUNMAP);
    EXPECT_EQ(hak_os_unmap(p, 65536), ENOMEM);
    os.reset();
    EXPECT_EQ(hak_os_unmap(p, 65536), 0);
    EXPECT_EQ(errno, 11);
    EXPECT_EQ(os.mapped_bytes(), 0);
}

TEST(OsMeta, LiesBetweenPagesThatMayNotBeTouchedInSecure)
{
    size_t page = hak_os_page_size(), size = 3 * page;
    ASSERT_NE(hak_os_meta_alloc(100), nullptr);
    const void *chunk;
    size_t chunk_bytes = hak_os_own(0, &chunk);
    void *other = hak_os_map_guarded(size);
    const std::pair<const void *, size_t> all[] = {{chunk, chunk_bytes}, {other, size}};
    for (auto [start, bytes] : all) {
        auto *p = static_cast<volatile char *>(const_cast<void *>(start));
        ASSERT_NE(p, nullptr);
        (void)p[0];
        (void)p[bytes - 1];
        if (HAK_SECURE) {
            EXPECT_EXIT(p[-1] = 1, testing::KilledBySignal(SIGSEGV), "");
            EXPECT_EXIT(p[bytes] = 1, testing::KilledBySignal(SIGSEGV), "");
        }
    }
    hak_os_unmap_guarded(other, size);
}

TEST(OsMeta, AlignedZeroedAndDisjoint)
{
    std::map<uintptr_t, size_t> pieces;
    size_t sum = 0;
    for (size_t i = 0; i < 600; i++) {
        size_t size = i % 100 == 99 ? 3u << 20 : 1 + i * 37 % 5000;
        size_t before = hak_os_meta_bytes();
        char *p = static_cast<char *>(hak_os_meta_alloc(size));
        ASSERT_NE(p, nullptr);
        EXPECT_GE(hak_os_meta_bytes(), before);
        EXPECT_EQ(reinterpret_cast<uintptr_t>(p) % 64, 0u);
        for (size_t k = 0; k < size; k++) {
            ASSERT_EQ(p[k], 0);
        }
        memset(p, 0xFF, size);
        pieces[reinterpret_cast<uintptr_t>(p)] = size;
        sum += size;
    }
    uintptr_t end = 0;
    for (const auto &piece : pieces) {
        ASSERT_GE(piece.first, end);
        end = piece.first + piece.second;
    }
    EXPECT_EQ(pieces.size(), 600u);
    EXPECT_GE(hak_os_meta_bytes(), sum);
}

TEST(OsMeta, RefusalLeavesItUsable)
{
    FailingOs os;
    const size_t big = 5 << 20; /* above what is left of a chunk */
    os.fail_always(hak_testing::OS_MMAP);
    size_t before = hak_os_meta_bytes();
    EXPECT_EQ(hak_os_meta_alloc(big), nullptr);
    /* What is left of the chunk is served on, then no more; never the same twice. */
    uintptr_t last = 0;
    int n = 0;
    for (void *p; (p = hak_os_meta_alloc(64)); n++) {
        ASSERT_NE(reinterpret_cast<uintptr_t>(p), last);
        last = reinterpret_cast<uintptr_t>(p);
        ASSERT_LT(n, 1 << 20);
    }
    EXPECT_EQ(hak_os_meta_bytes(), before);
    /* Where a whole chunk is refused, the piece alone may be had. */
    os.fail(hak_testing::OS_MMAP, 1);
    EXPECT_NE(hak_os_meta_alloc(64), nullptr);
    EXPECT_EQ(os.calls(hak_testing::OS_MMAP), 2u);
    EXPECT_LE(hak_os_meta_bytes(), before + hak_os_page_size());
    os.reset();
    char *p = static_cast<char *>(hak_os_meta_alloc(big));
    ASSERT_NE(p, nullptr);
    p[0] = p[big - 1] = 1;
    size_t guards = HAK_SECURE ? 2 * 2 * hak_os_page_size() : 0; /* of two mappings */
    EXPECT_EQ(os.mapped_bytes(), static_cast<int64_t>(hak_os_meta_bytes() - before + guards));
}

TEST(OsMeta, ThreadsGetDifferentPieces)
{
    const int n_threads = 4, n_pieces = 3000;
    std::vector<uint64_t *> got[n_threads];
    std::vector<std::thread> threads;
    for (int t = 0; t < n_threads; t++) {
        threads.emplace_back([&, t] {
            for (int i = 0; i < n_pieces; i++) {
                uint64_t *p = static_cast<uint64_t *>(hak_os_meta_alloc(64));
                *p += static_cast<uint64_t>(t * n_pieces + i) + 1;
                got[t].push_back(p);
            }
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    for (int t = 0; t < n_threads; t++) {
        for (int i = 0; i < n_pieces; i++) {
            ASSERT_EQ(*got[t][i], static_cast<uint64_t>(t * n_pieces + i) + 1);
        }
    }
}

TEST(Os, ClockGoesForwardAndEnvironmentIsThere)
{
    uint64_t start = hak_os_ops.clock_ns(), now = start;
    for (int i = 0; i < 200 && now < start + 10000000; i++) {
        usleep(1000);
        uint64_t next = hak_os_ops.clock_ns();
        ASSERT_GE(next, now);
        now = next;
    }
    EXPECT_GE(now, start + 10000000); /* 10 ms within 200 sleeps of 1 ms */
    EXPECT_EQ(hak_os_ops.environ_(), environ);
}

std::atomic<int> has_begun;
sigset_t blocked;
int policy;
cpu_set_t processors;

std::atomic<long> task; /* the last thread's id */

bool is_listed(long id)
{
    return access(("/proc/self/task/" + std::to_string(id)).c_str(), F_OK) == 0;
}

void stay_on_one_processor()
{
    cpu_set_t all, one;
    ASSERT_EQ(sched_getaffinity(0, sizeof all, &all), 0);
    CPU_ZERO(&one);
    for (size_t i = 0; i < CPU_SETSIZE && CPU_COUNT(&one) == 0; i++) {
        if (CPU_ISSET(i, &all)) {
            CPU_SET(i, &one);
        }
    }
    ASSERT_EQ(sched_setaffinity(0, sizeof one, &one), 0);
}

void *note(void *)
{
    pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
    struct sched_param parameters;
    pthread_getschedparam(pthread_self(), &policy, &parameters);
    CPU_ZERO(&processors);
    sched_getaffinity(0, sizeof processors, &processors);
    task = syscall(SYS_gettid);
    has_begun = 1;
    while (has_begun != 2) {
        usleep(1000);
    }
    return nullptr;
}

/* A thread of ours blocks all signals, and whoever makes it keeps his; it can be joined without
   waiting. */
TEST(OsThread, BlocksSignalsAndIsGoneWhenJoined)
{
    sigset_t before, after;
    pthread_sigmask(SIG_SETMASK, nullptr, &before);
    hak_os_forget_thread();
    has_begun = 0;
    ASSERT_EQ(hak_os_ops.start_thread(note, 256 * 1024, 0), 0);
    while (!has_begun) {
        usleep(1000);
    }
    pthread_sigmask(SIG_SETMASK, nullptr, &after);
    for (int s = 1; s < NSIG; s++) {
        EXPECT_EQ(sigismember(&before, s), sigismember(&after, s)) << s;
    }
    for (int s : {SIGINT, SIGTERM, SIGCHLD, SIGUSR1, SIGALRM, SIGPROF, SIGSYS, SIGRTMAX}) {
        EXPECT_EQ(sigismember(&blocked, s), 1) << s;
    }
    EXPECT_TRUE(is_listed(task));
    EXPECT_EQ(hak_os_ops.wait_thread(20), ETIMEDOUT);
    has_begun = 2;
    EXPECT_EQ(hak_os_ops.wait_thread(10000), 0);
    /* The system takes it out of its list a moment later, as behind pthread_join. */
    for (int i = 0; i < 10000 && is_listed(task); i++) {
        usleep(1000);
    }
    EXPECT_FALSE(is_listed(task));
    has_begun = 0;
    ASSERT_EQ(hak_os_ops.start_thread(note, 256 * 1024, 0), 0) << "and another one";
    while (!has_begun) {
        usleep(1000);
    }
    has_begun = 2;
    EXPECT_EQ(hak_os_ops.wait_thread(10000), 0);
}

/* The system gives the thread's mutex away before the thread has left the process, where one that
   calls unshare() may not be; on one processor who is woken by that comes first. */
TEST(OsThread, HasLeftTheProcessWhenItIsGone)
{
    constexpr int n_times = 100;
    int n_there = 0;
    hak_os_forget_thread();
    std::thread maker([&] {
        stay_on_one_processor();
        for (int i = 0; i < n_times; i++) {
            has_begun = 0;
            ASSERT_EQ(hak_os_ops.start_thread(note, 256 * 1024, 0), 0);
            while (!has_begun) {
                usleep(10);
            }
            has_begun = 2;
            EXPECT_EQ(hak_os_ops.wait_thread(10000), 0);
            n_there += is_listed(task);
        }
    });
    maker.join();
    EXPECT_LE(n_there, n_times / 20);
}

/* Set apart, it has neither the policy nor the processors of whoever makes it. */
TEST(OsThread, SetApartItTakesOverNothing)
{
    cpu_set_t all;
    ASSERT_EQ(sched_getaffinity(0, sizeof all, &all), 0);
    hak_os_note_processors();
    hak_os_forget_thread();
    std::thread maker([&] {
        stay_on_one_processor();
        struct sched_param batch = {};
        ASSERT_EQ(pthread_setschedparam(pthread_self(), SCHED_BATCH, &batch), 0);
        has_begun = 0;
        ASSERT_EQ(hak_os_ops.start_thread(note, 256 * 1024, 1), 0);
        while (!has_begun) {
            usleep(1000);
        }
        has_begun = 2;
        EXPECT_EQ(hak_os_ops.wait_thread(10000), 0);
    });
    maker.join();
    EXPECT_EQ(policy, SCHED_OTHER);
    EXPECT_TRUE(CPU_EQUAL(&processors, &all));
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
/* Every function of the table, called with a cancellation pending: none may act on it, nor be left
   with the cancellation switched off. */
void *call_everything(void *went_on)
{
    pthread_setcanceltype(PTHREAD_CANCEL_DEFERRED, nullptr);
    pthread_cancel(pthread_self());
    const struct hak_os_ops &os = hak_os_real_ops;
    char text[100];
    uint32_t word = 0;
    size_t page = os.page_size();
    void *p = os.mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    (void)os.madvise(p, page, MADV_DONTNEED);
    (void)os.mremap(p, page, page, 0, nullptr);
    (void)os.mprotect(p, page, PROT_READ);
    (void)os.munmap(p, page);
    int fd = os.open("/proc/self/maps");
    EXPECT_GE(fd, 0);
    EXPECT_EQ(os.read(fd, text, sizeof text), ssize_t(sizeof text));
    EXPECT_EQ(os.close(fd), 0);
    EXPECT_EQ(os.close(fd), -1);
    EXPECT_EQ(errno, EBADF) << "by errno, as the functions of that name";
    EXPECT_EQ(os.write(2, text, 0), 0);
    (void)os.address_limit();
    (void)os.clock_ns();
    (void)os.precise_ns();
    (void)os.environ_();
    (void)os.is_secure();
    (void)os.futex_wait(&word, 1);
    (void)os.futex_wake(&word, 1);
    (void)os.futex_wait_ms(&word, 0, 1);
    has_begun = 0;
    hak_os_note_processors(); /* and the nice value, whatever it is */
    hak_os_forget_thread();
    EXPECT_EQ(os.start_thread(note, 256 * 1024, 1), 0);
    while (!has_begun) {
    }
    (void)os.wait_thread(1);
    has_begun = 2;
    EXPECT_EQ(os.wait_thread(10000), 0);
    *static_cast<int *>(went_on) = 1;
    pthread_testcancel();
    *static_cast<int *>(went_on) = 2;
    return nullptr;
}

TEST(Os, NothingIsACancellationPoint)
{
    pthread_t thread;
    int went_on = 0;
    void *result = nullptr;
    ASSERT_EQ(pthread_create(&thread, nullptr, call_everything, &went_on), 0);
    ASSERT_EQ(pthread_join(thread, &result), 0);
    EXPECT_EQ(went_on, 1);
    EXPECT_EQ(result, PTHREAD_CANCELED);
}
#endif

} // namespace
