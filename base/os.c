/* The OS layer. One lock (rank META) for the metadata bump allocator. Called by every part. */
#include "base/os.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/atomic.h"
#include "base/lock.h"

/* From <linux/futex.h>, which other C libraries' compilers do not find. */
enum { FUTEX_WAIT_OF_PROCESS = 0 | 128, FUTEX_WAKE_OF_PROCESS = 1 | 128 };

static void *real_mmap(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
    return mmap(addr, length, prot, flags, fd, offset);
}

static int real_munmap(void *addr, size_t length)
{
    return munmap(addr, length);
}

static void *real_mremap(void *old_addr, size_t old_size, size_t new_size, int flags, void *new_addr)
{
    return mremap(old_addr, old_size, new_size, flags, new_addr);
}

static int real_madvise(void *addr, size_t length, int advice)
{
    return madvise(addr, length, advice);
}

static int real_mincore(void *addr, size_t length, unsigned char *resident)
{
    return mincore(addr, length, resident);
}

static ssize_t real_write(int fd, const void *data, size_t size)
{
    return write(fd, data, size);
}

static int real_open(const char *path)
{
    return open(path, O_RDONLY | O_CLOEXEC);
}

static ssize_t real_read(int fd, void *data, size_t size)
{
    return read(fd, data, size);
}

static int real_close(int fd)
{
    return close(fd);
}

static uint64_t real_address_limit(void)
{
    struct rlimit limit;
    return getrlimit(RLIMIT_AS, &limit) || limit.rlim_cur == RLIM_INFINITY ? UINT64_MAX : (uint64_t)limit.rlim_cur;
}

static uint64_t read_clock(clockid_t clock)
{
    struct timespec now;
    clock_gettime(clock, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t real_clock_ns(void)
{
    return read_clock(CLOCK_MONOTONIC_COARSE);
}

static uint64_t real_precise_ns(void)
{
    return read_clock(CLOCK_MONOTONIC);
}

static char **real_environ(void)
{
    return environ;
}

static int real_futex_wait(uint32_t *word, uint32_t expected)
{
    return (int)syscall(SYS_futex, word, FUTEX_WAIT_OF_PROCESS, expected, NULL, NULL, 0);
}

static int real_futex_wake(uint32_t *word, int n)
{
    return (int)syscall(SYS_futex, word, FUTEX_WAKE_OF_PROCESS, n, NULL, NULL, 0);
}

static int real_futex_wait_ms(uint32_t *word, uint32_t expected, uint64_t ms)
{
    struct timespec timeout = {(time_t)(ms / 1000), (long)(ms % 1000) * 1000000};
    return (int)syscall(SYS_futex, word, FUTEX_WAIT_OF_PROCESS, expected, &timeout, NULL, 0);
}

static int real_start_thread(void *(*run)(void *), size_t stack_bytes)
{
    pthread_attr_t attributes;
    pthread_t thread;
    sigset_t all, before;
    int error = pthread_attr_init(&attributes);
    if (error) {
        return error;
    }
    (void)pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    (void)pthread_attr_setstacksize(&attributes, stack_bytes);
    sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    error = pthread_create(&thread, &attributes, run, NULL);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    (void)pthread_attr_destroy(&attributes);
    return error;
}

static size_t real_page_size(void)
{
    static size_t page_size;
    size_t size = atomic_load_relaxed(&page_size);
    if (!size) {
        size = (size_t)sysconf(_SC_PAGESIZE);
        atomic_store_relaxed(&page_size, size);
    }
    return size;
}

#define REAL_OPS                                                                                                       \
    {                                                                                                                  \
        real_mmap, real_munmap, real_mremap, real_madvise, real_mincore, real_write, real_open, real_read, real_close, \
            real_address_limit, real_clock_ns, real_precise_ns, real_environ, real_futex_wait, real_futex_wake,        \
            real_futex_wait_ms, real_start_thread, real_page_size                                                      \
    }

const struct os_ops os_real_ops = REAL_OPS;
struct os_ops os_ops = REAL_OPS;

size_t os_page_size(void)
{
    return os_ops.page_size();
}

static void *map_anonymous(void *hint, size_t size)
{
    void *p = os_ops.mmap(hint, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

int os_unmap(void *addr, size_t size)
{
    int saved = errno;
    int error = os_ops.munmap(addr, size) ? errno : 0;
    errno = saved;
    return error;
}

void os_unmap_untouched(void *addr, size_t size)
{
    int saved = errno;
    (void)os_ops.munmap(addr, size);
    errno = saved;
}

void *os_map_aligned(void *hint, size_t size, size_t align)
{
    int saved = errno;
    uintptr_t mask = align - 1;
    void *p = map_anonymous(hint, size);
    if (p && ((uintptr_t)p & mask)) {
        /* Not aligned: map with slack and cut both ends. */
        os_unmap_untouched(p, size);
        size_t slack = size + align - os_page_size();
        char *wide = slack > size ? (char *)map_anonymous(NULL, slack) : NULL;
        p = NULL;
        if (wide) {
            char *start = (char *)(((uintptr_t)wide + mask) & ~mask);
            size_t before = (size_t)(start - wide);
            size_t after = slack - before - size;
            if (before) {
                os_unmap_untouched(wide, before);
            }
            if (after) {
                os_unmap_untouched(start + size, after);
            }
            p = start;
        }
    }
    errno = saved;
    return p;
}

int os_purge(void *addr, size_t size)
{
    int saved = errno;
    int error = os_ops.madvise(addr, size, MADV_DONTNEED) ? errno : 0;
    errno = saved;
    return error;
}

static void advise(void *addr, size_t size, int advice)
{
    int saved = errno;
    (void)os_ops.madvise(addr, size, advice);
    errno = saved;
}

void os_huge_pages(void *addr, size_t size)
{
    advise(addr, size, MADV_HUGEPAGE);
}

void os_small_pages(void *addr, size_t size)
{
    advise(addr, size, MADV_NOHUGEPAGE);
}

size_t os_read_file(const char *path, char *text, size_t size)
{
    int saved = errno;
    size_t length = 0;
    int fd = os_ops.open(path);
    if (fd >= 0) {
        ssize_t n;
        while (length < size && (n = os_ops.read(fd, text + length, size - length)) > 0) {
            length += (size_t)n;
        }
        (void)os_ops.close(fd);
    }
    errno = saved;
    return length;
}

size_t os_count_mappings(void)
{
    int saved = errno;
    size_t lines = 0;
    int fd = os_ops.open("/proc/self/maps");
    if (fd >= 0) {
        char text[1024];
        ssize_t n;
        while ((n = os_ops.read(fd, text, sizeof text)) > 0) {
            for (ssize_t i = 0; i < n; i++) {
                lines += text[i] == '\n';
            }
        }
        (void)os_ops.close(fd);
    }
    errno = saved;
    return lines;
}

uint64_t os_address_limit(void)
{
    int saved = errno;
    uint64_t limit = os_ops.address_limit();
    errno = saved;
    return limit;
}

static LOCK_DEFINE(meta_lock, LOCK_RANK_META);
static char *meta_next;
static size_t meta_left;
static size_t meta_mapped;

void *os_meta_alloc(size_t size)
{
    const size_t chunk = HAK_TINY_OR(64 * HAK_KIB, 1 * HAK_MIB);
    size = (size + 63) & ~(size_t)63;
    lock_acquire(&meta_lock);
    if (size > meta_left) {
        size_t want = size > chunk ? (size + os_page_size() - 1) & ~(os_page_size() - 1) : chunk;
        char *fresh = (char *)map_anonymous(NULL, want);
        if (!fresh && want > size) {
            want = (size + os_page_size() - 1) & ~(os_page_size() - 1);
            fresh = (char *)map_anonymous(NULL, want);
        }
        if (!fresh) {
            lock_release(&meta_lock);
            return NULL;
        }
        meta_mapped += want;
        meta_next = fresh;
        meta_left = want;
    }
    void *p = meta_next;
    meta_next += size;
    meta_left -= size;
    lock_release(&meta_lock);
    return p;
}

size_t os_meta_bytes(void)
{
    return atomic_load_relaxed(&meta_mapped);
}
