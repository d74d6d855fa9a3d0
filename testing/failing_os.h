/* Replaces parts of hak_os_ops while it lives: fails the n-th call of one function, counts calls
   and bytes mapped, and can stand in for the clock. The table is restored at the end. One at a
   time; install it while no other thread is in the allocator. */
#ifndef HAKMEM_TESTING_FAILING_OS_H
#define HAKMEM_TESTING_FAILING_OS_H

#include <atomic>
#include <cerrno>
#include <cstdint>
#include <string>
#include <sys/mman.h>

#include "base/os.h"

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

namespace hak_testing
{

/* Every function of the table that can fail; the last ones report instead that they did nothing, or
   nothing useful. A failed wake has still woken: no kernel leaves a sleeper behind. The
   environment, the page size and what the program may do cannot fail. */
enum OsCall {
    OS_MMAP,
    OS_MUNMAP,
    OS_MREMAP,
    OS_MADVISE,
    OS_MPROTECT,
    OS_WRITE,
    OS_OPEN,
    OS_READ,
    OS_CLOSE,
    OS_START_THREAD,
    OS_WAIT_THREAD,   /* the thread is not gone in time */
    OS_ADDRESS_LIMIT, /* says that there is none */
    OS_CLOCK,         /* both clocks: 0, so that time has gone back */
    OS_PRECISE_CLOCK,
    OS_FUTEX_WAIT, /* returns at once */
    OS_FUTEX_WAIT_MS,
    OS_FUTEX_WAKE,
    OS_N_CALLS
};
static_assert(sizeof(struct hak_os_ops) / sizeof(void *) == OS_N_CALLS + 3,
              "each function of the table has its failure here");

inline const char *os_call_name(OsCall call)
{
    static const char *const names[] = {
        "mmap",  "munmap",        "mremap",     "madvise",       "mprotect",    "write",
        "open",  "read",          "close",      "start_thread",  "wait_thread", "address_limit",
        "clock", "precise_clock", "futex_wait", "futex_wait_ms", "futex_wake"};
    return names[call];
}

class FailingOs
{
  public:
    FailingOs() : before_(hak_os_ops)
    {
        reset();
        state().mapped = 0;
        state().before = before_;
        hak_os_ops.mmap = mmap_hook;
        hak_os_ops.munmap = munmap_hook;
        hak_os_ops.mremap = mremap_hook;
        hak_os_ops.madvise = madvise_hook;
        hak_os_ops.mprotect = mprotect_hook;
        hak_os_ops.write = write_hook;
        hak_os_ops.open = open_hook;
        hak_os_ops.read = read_hook;
        hak_os_ops.close = close_hook;
        hak_os_ops.start_thread = start_thread_hook;
        hak_os_ops.wait_thread = wait_thread_hook;
        hak_os_ops.address_limit = address_limit_hook;
        hak_os_ops.clock_ns = clock_hook;
        hak_os_ops.precise_ns = precise_hook;
        hak_os_ops.futex_wait = futex_wait_hook;
        hak_os_ops.futex_wait_ms = futex_wait_ms_hook;
        hak_os_ops.futex_wake = futex_wake_hook;
    }
    ~FailingOs()
    {
        hak_os_ops = before_;
    }
    FailingOs(const FailingOs &) = delete;
    FailingOs &operator=(const FailingOs &) = delete;

    /* From now on nothing fails, and counts start at 0. Bytes mapped are kept. */
    void reset()
    {
        state().failing = OS_N_CALLS;
        state().first = state().last = 0;
        for (std::atomic<uint64_t> &calls : state().calls) {
            calls = 0;
        }
        state().n_failed = 0;
    }

    /* From now on, the n-th call (from 1) of that function fails, and `more` calls after it. */
    void fail(OsCall call, uint64_t n, uint64_t more = 0)
    {
        reset();
        state().first = n;
        state().last = n + more;
        state().failing = call; /* last: the allocator's own thread may be calling */
    }

    /* Every call of that function fails from now on. */
    void fail_always(OsCall call)
    {
        fail(call, 1, UINT64_MAX - 1);
    }

    uint64_t calls(OsCall call) const
    {
        return state().calls[call];
    }
    bool fired() const
    {
        return state().n_failed != 0;
    }
    /* Address space mapped less unmapped since this object was made. */
    int64_t mapped_bytes() const
    {
        return state().mapped;
    }

  private:
    struct State {
        std::atomic<uint64_t> calls[OS_N_CALLS];
        std::atomic<OsCall> failing;
        std::atomic<uint64_t> first, last, n_failed;
        std::atomic<int64_t> mapped;
        struct hak_os_ops before;
    };
    static State &state()
    {
        static State s;
        return s;
    }

    static bool must_fail(OsCall call)
    {
        uint64_t n = ++state().calls[call];
        if (call != state().failing || n < state().first || n > state().last) {
            return false;
        }
        state().n_failed++;
        errno = ENOMEM;
        return true;
    }
    static void add(int64_t bytes)
    {
        state().mapped += bytes;
    }

    static void *mmap_hook(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
    {
        if (must_fail(OS_MMAP)) {
            return MAP_FAILED;
        }
        void *p = hak_os_real_ops.mmap(addr, length, prot, flags, fd, offset);
        add(p == MAP_FAILED ? 0 : static_cast<int64_t>(length));
        return p;
    }
    static int munmap_hook(void *addr, size_t length)
    {
        if (must_fail(OS_MUNMAP)) {
            return -1;
        }
        int result = hak_os_real_ops.munmap(addr, length);
        add(result ? 0 : -static_cast<int64_t>(length));
        return result;
    }
    static void *mremap_hook(void *old_addr, size_t old_size, size_t new_size, int flags,
                             void *new_addr)
    {
        if (must_fail(OS_MREMAP)) {
            return MAP_FAILED;
        }
        void *p = hak_os_real_ops.mremap(old_addr, old_size, new_size, flags, new_addr);
        if (p != MAP_FAILED) {
            /* A fixed target was mapped before, and is replaced. */
            add((flags & MREMAP_FIXED ? 0 : static_cast<int64_t>(new_size)) -
                (flags & MREMAP_DONTUNMAP ? 0 : static_cast<int64_t>(old_size)));
        }
        return p;
    }
    static int madvise_hook(void *addr, size_t length, int advice)
    {
        return must_fail(OS_MADVISE) ? -1 : hak_os_real_ops.madvise(addr, length, advice);
    }
    static int mprotect_hook(void *addr, size_t length, int prot)
    {
        return must_fail(OS_MPROTECT) ? -1 : hak_os_real_ops.mprotect(addr, length, prot);
    }
    static ssize_t write_hook(int fd, const void *data, size_t size)
    {
        return must_fail(OS_WRITE) ? -1 : state().before.write(fd, data, size);
    }
    static int open_hook(const char *path)
    {
        return must_fail(OS_OPEN) ? -1 : state().before.open(path);
    }
    static ssize_t read_hook(int fd, void *data, size_t size)
    {
        return must_fail(OS_READ) ? -1 : state().before.read(fd, data, size);
    }
    static int close_hook(int fd)
    {
        int result = state().before.close(fd); /* as the kernel: closed all the same */
        return must_fail(OS_CLOSE) ? -1 : result;
    }
    static int start_thread_hook(void *(*run)(void *), size_t stack_bytes, int is_apart)
    {
        return must_fail(OS_START_THREAD) ? EAGAIN
                                          : state().before.start_thread(run, stack_bytes, is_apart);
    }
    static int wait_thread_hook(uint64_t ms)
    {
        int result = state().before.wait_thread(ms);
        return must_fail(OS_WAIT_THREAD) ? ETIMEDOUT : result;
    }
    static uint64_t address_limit_hook()
    {
        return must_fail(OS_ADDRESS_LIMIT) ? UINT64_MAX : state().before.address_limit();
    }
    static uint64_t clock_hook()
    {
        return must_fail(OS_CLOCK) ? 0 : state().before.clock_ns();
    }
    static uint64_t precise_hook()
    {
        return must_fail(OS_PRECISE_CLOCK) ? 0 : state().before.precise_ns();
    }
    static int futex_wait_hook(uint32_t *word, uint32_t expected)
    {
        return must_fail(OS_FUTEX_WAIT) ? -1 : state().before.futex_wait(word, expected);
    }
    static int futex_wait_ms_hook(uint32_t *word, uint32_t expected, uint64_t ms)
    {
        return must_fail(OS_FUTEX_WAIT_MS) ? -1 : state().before.futex_wait_ms(word, expected, ms);
    }
    static int futex_wake_hook(uint32_t *word, int n)
    {
        int result = state().before.futex_wake(word, n);
        return must_fail(OS_FUTEX_WAKE) ? -1 : result;
    }

    struct hak_os_ops before_;
};

/* A clock that stands still until the test moves it. */
class FakeClock
{
  public:
    FakeClock() : before_(hak_os_ops.clock_ns)
    {
        now() = before_();
        hak_os_ops.clock_ns = read;
    }
    ~FakeClock()
    {
        hak_os_ops.clock_ns = before_;
    }
    FakeClock(const FakeClock &) = delete;
    FakeClock &operator=(const FakeClock &) = delete;
    void advance_ms(uint64_t ms)
    {
        now() += ms * 1000000u;
    }

  private:
    static uint64_t &now()
    {
        static uint64_t ns;
        return ns;
    }
    static uint64_t read()
    {
        return now();
    }
    uint64_t (*before_)(void);
};

/* Collects what is written through hak_os_ops.write, without allocating while it collects. */
class CapturedWrites
{
  public:
    CapturedWrites() : before_(hak_os_ops.write)
    {
        size() = 0;
        n_calls() = 0;
        hak_os_ops.write = collect;
    }
    ~CapturedWrites()
    {
        hak_os_ops.write = before_;
    }
    CapturedWrites(const CapturedWrites &) = delete;
    CapturedWrites &operator=(const CapturedWrites &) = delete;
    std::string text() const
    {
        return std::string(buffer(), size());
    }
    int calls() const
    {
        return n_calls();
    }
    int last_fd() const
    {
        return fd_of_last();
    }
    void clear()
    {
        size() = 0;
        n_calls() = 0;
    }

  private:
    enum { CAPACITY = 1 << 16 };
    static char *buffer()
    {
        static char bytes[CAPACITY];
        return bytes;
    }
    static size_t &size()
    {
        static size_t n;
        return n;
    }
    static int &n_calls()
    {
        static int n;
        return n;
    }
    static int &fd_of_last()
    {
        static int fd;
        return fd;
    }
    static ssize_t collect(int fd, const void *data, size_t n)
    {
        n_calls()++;
        fd_of_last() = fd;
        for (size_t i = 0; i < n && size() < CAPACITY; i++) {
            buffer()[size()++] = static_cast<const char *>(data)[i];
        }
        return static_cast<ssize_t>(n);
    }
    ssize_t (*before_)(int fd, const void *data, size_t size);
};

} // namespace hak_testing

#endif
