/* The OS layer. One lock (rank META) for the metadata bump allocator. Called by every part. */
#include "base/os.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include "base/atomic.h"
#include "base/lock.h"
#include "base/lock_holds.h"

#ifdef __GLIBC_PREREQ
#if __GLIBC_PREREQ(2, 32)
#define HAS_SIGMASK_ATTRIBUTE 1
#endif
#endif

#ifndef MAP_FIXED_NOREPLACE
#define MAP_FIXED_NOREPLACE 0x100000
#endif

/* munmap empties pages with the lock of the whole address space held, for which other threads' page
   faults and system calls wait; madvise holds less of it, and later kernels none. */
#define MANY_PAGES_BYTES ((size_t)512 * HAK_KIB)

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

static void *real_mremap(void *old_addr, size_t old_size, size_t new_size, int flags,
                         void *new_addr)
{
    hak_lock_count_system_call("mremap");
    return mremap(old_addr, old_size, new_size, flags, new_addr);
}

static int real_madvise(void *addr, size_t length, int advice)
{
    return madvise(addr, length, advice);
}

static int real_mprotect(void *addr, size_t length, int prot)
{
    return mprotect(addr, length, prot);
}

/* The functions of that name are cancellation points, syscall() is none. */
static ssize_t real_write(int fd, const void *data, size_t size)
{
    return syscall(SYS_write, fd, data, size);
}

static int real_open(const char *path)
{
    return (int)syscall(SYS_openat, AT_FDCWD, path, O_RDONLY | O_CLOEXEC, 0);
}

static ssize_t real_read(int fd, void *data, size_t size)
{
    return syscall(SYS_read, fd, data, size);
}

static int real_close(int fd)
{
    return (int)syscall(SYS_close, fd);
}

static uint64_t real_address_limit(void)
{
    struct rlimit limit;
    return getrlimit(RLIMIT_AS, &limit) || limit.rlim_cur == RLIM_INFINITY
               ? UINT64_MAX
               : (uint64_t)limit.rlim_cur;
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

static cpu_set_t processors;
static int has_processors;
static int first_nice;

void hak_os_note_processors(void)
{
    int saved = errno;
    has_processors = sched_getaffinity(0, sizeof processors, &processors) == 0;
    first_nice = getpriority(PRIO_PROCESS, 0);
    errno = saved;
}

/* What a new thread would else take over from the one that makes it. */
static void set_apart(pthread_attr_t *attributes)
{
    const struct sched_param none = {0};
    (void)pthread_attr_setinheritsched(attributes, PTHREAD_EXPLICIT_SCHED);
    (void)pthread_attr_setschedpolicy(attributes, SCHED_OTHER);
    (void)pthread_attr_setschedparam(attributes, &none);
#ifdef __GLIBC__
    if (has_processors) {
        (void)pthread_attr_setaffinity_np(attributes, sizeof processors, &processors);
    }
#endif
}

/* How long who waits for the thread's end sleeps until it looks again, and once when it is gone:
   the system gives its mutex away a little before the thread has left the process. */
#define NAP_NS 20000

/* Held by the thread as long as it lives. It is robust: when the thread has ended, the system
   itself gives it to whoever waits. */
static pthread_mutex_t life;
static void *(*run_in_thread)(void *);
static int has_come_apart; /* is_apart of start_thread: such a thread may come and go often */

static void *begin_thread(void *argument)
{
    (void)pthread_mutex_lock(&life);
    return run_in_thread(argument);
}

void hak_os_forget_thread(void)
{
    static const pthread_mutex_t fresh = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutexattr_t attributes;
    life = fresh;
    if (pthread_mutexattr_init(&attributes) == 0) {
        (void)pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
        (void)pthread_mutex_init(&life, &attributes);
        (void)pthread_mutexattr_destroy(&attributes);
    }
}

/* The new thread blocks all signals from its first instruction on; those of the calling thread stay
   as they are, so that no signal to the process waits for it. */
static int create_blocked(pthread_attr_t *attributes)
{
    sigset_t all;
    pthread_t thread;
    sigfillset(&all);
#ifdef HAS_SIGMASK_ATTRIBUTE
    int error = pthread_attr_setsigmask_np(attributes, &all);
    return error ? error : pthread_create(&thread, attributes, begin_thread, NULL);
#else
    sigset_t before;
    (void)pthread_sigmask(SIG_SETMASK, &all, &before);
    int error = pthread_create(&thread, attributes, begin_thread, NULL);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    return error;
#endif
}

static int real_start_thread(void *(*run)(void *), size_t stack_bytes, int is_apart)
{
    pthread_attr_t attributes;
    if (is_apart && getpriority(PRIO_PROCESS, 0) != first_nice) {
        return EAGAIN; /* a new thread takes it over, and may not be allowed to change it */
    }
    int error = pthread_attr_init(&attributes);
    if (error) {
        return error;
    }
    run_in_thread = run;
    has_come_apart = is_apart;
    (void)pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    error = pthread_attr_setstacksize(&attributes, stack_bytes);
    if (is_apart) {
        set_apart(&attributes);
    }
    error = error ? error : create_blocked(&attributes);
    (void)pthread_attr_destroy(&attributes);
    return error;
}

static void nap(void)
{
    static uint32_t word;
    struct timespec timeout = {0, NAP_NS};
    (void)syscall(SYS_futex, &word, FUTEX_WAIT_OF_PROCESS, 0, &timeout, NULL, 0);
}

/* Looks, and never waits in the mutex: the system would wake the waiter while the ending thread is
   on its way out, and let it run first. */
static int lock_life_later(uint64_t last_ns)
{
    int error;
    while ((error = pthread_mutex_trylock(&life)) == EBUSY && real_precise_ns() < last_ns) {
        nap();
    }
    if (error != EBUSY) {
        nap();
    }
    return error;
}

/* ThreadSanitizer does not know that a timed lock, too, may be had from a thread that has ended. */
static int lock_life(uint64_t ms)
{
    struct timespec until;
#ifdef __SANITIZE_THREAD__
    int looks = 1;
#else
    int looks = !has_come_apart;
#endif
    if (looks) {
        return lock_life_later(real_precise_ns() + ms * 1000000);
    }
    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += (long)(ms % 1000) * 1000000;
    until.tv_sec += (time_t)(ms / 1000) + until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    return pthread_mutex_timedlock(&life, &until);
}

/* Not pthread_join: it is a cancellation point, and takes a lock of the C library that a caller of
   free may hold. */
static int real_wait_thread(uint64_t ms)
{
    int error = lock_life(ms);
    if (error == EOWNERDEAD) {
        (void)pthread_mutex_consistent(&life);
        error = 0;
    }
    if (error == 0) {
        (void)pthread_mutex_unlock(&life);
    }
    return error ? ETIMEDOUT : 0;
}

static int real_is_secure(void)
{
    return getauxval(AT_SECURE) != 0;
}

static size_t real_page_size(void)
{
    static size_t page_size;
    size_t size = atomic_load_relaxed(&page_size);
    if (!size) {
        size = (size_t)getauxval(AT_PAGESZ); /* sysconf reads a table in a far part of libc */
        atomic_store_relaxed(&page_size, size);
    }
    return size;
}

/* In the table's order. */
#define REAL_OPS                                                                                   \
    {                                                                                              \
        real_mmap, real_munmap, real_mremap, real_madvise, real_mprotect, real_write, real_open,   \
            real_read, real_close, real_address_limit, real_clock_ns, real_precise_ns,             \
            real_environ, real_futex_wait, real_futex_wake, real_futex_wait_ms, real_start_thread, \
            real_wait_thread, real_page_size, real_is_secure                                       \
    }

const struct hak_os_ops hak_os_real_ops = REAL_OPS;
struct hak_os_ops hak_os_ops = REAL_OPS;

size_t hak_os_page_size(void)
{
    return hak_os_ops.page_size();
}

static void *map_anonymous(void *hint, size_t size)
{
    hak_lock_count_system_call("mmap");
    void *p =
        hak_os_ops.mmap(hint, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    return p == MAP_FAILED ? NULL : p;
}

static void *reserve(void *addr, size_t size, int flags)
{
    int saved = errno;
    hak_lock_count_system_call("mmap");
    void *p = hak_os_ops.mmap(addr, size, PROT_NONE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | flags, -1, 0);
    errno = saved;
    return p == MAP_FAILED ? NULL : p;
}

void *hak_os_reserve(size_t size)
{
    return reserve(NULL, size, 0);
}

int hak_os_claim(void *addr, size_t size)
{
    void *p = addr ? reserve(addr, size, MAP_FIXED_NOREPLACE) : NULL;
    if (p && p != addr) { /* a kernel before Linux 4.17, to which the address is a hint */
        hak_os_unmap_untouched(p, size);
    }
    return p && p == addr;
}

int hak_os_protect(void *addr, size_t size, enum os_access access)
{
    int saved = errno;
    int prot = access == OS_WRITABLE   ? PROT_READ | PROT_WRITE
               : access == OS_READABLE ? PROT_READ
                                       : PROT_NONE;
    int error = hak_os_ops.mprotect(addr, size, prot) ? errno : 0;
    errno = saved;
    return error;
}

int hak_os_unmap(void *addr, size_t size)
{
    int saved = errno;
    if (size >= MANY_PAGES_BYTES) {
        hak_lock_count_system_call("madvise");
        (void)hak_os_ops.madvise(addr, size, MADV_DONTNEED); /* refused: they go with the rest */
    }
    hak_lock_count_system_call("munmap");
    int error = hak_os_ops.munmap(addr, size) ? errno : 0;
    errno = saved;
    return error;
}

void hak_os_unmap_untouched(void *addr, size_t size)
{
    int saved = errno;
    hak_lock_count_system_call("munmap");
    (void)hak_os_ops.munmap(addr, size);
    errno = saved;
}

void *hak_os_map_aligned(void *hint, size_t size, size_t align)
{
    int saved = errno;
    uintptr_t mask = align - 1;
    void *p = map_anonymous(hint, size);
    if (p && ((uintptr_t)p & mask)) {
        /* Not aligned: map with slack and cut both ends. */
        hak_os_unmap_untouched(p, size);
        size_t slack = size + align - hak_os_page_size();
        char *wide = slack > size ? (char *)map_anonymous(NULL, slack) : NULL;
        p = NULL;
        if (wide) {
            char *start = (char *)(((uintptr_t)wide + mask) & ~mask);
            size_t before = (size_t)(start - wide);
            size_t after = slack - before - size;
            if (before) {
                hak_os_unmap_untouched(wide, before);
            }
            if (after) {
                hak_os_unmap_untouched(start + size, after);
            }
            p = start;
        }
    }
    errno = saved;
    return p;
}

#if HAK_SECURE
void *hak_os_map_guarded(size_t size)
{
    size_t guard = hak_os_page_size();
    int saved = errno;
    char *p = (char *)map_anonymous(NULL, size + 2 * guard);
    errno = saved;
    if (!p) {
        return NULL;
    }
    int refused = hak_os_protect(p, guard, OS_UNTOUCHABLE) |
                  hak_os_protect(p + guard + size, guard, OS_UNTOUCHABLE);
    (void)refused; /* too many mappings: then it lacks a guard */
    return p + guard;
}

void hak_os_unmap_guarded(void *addr, size_t size)
{
    size_t guard = hak_os_page_size();
    hak_os_unmap_untouched((char *)addr - guard, size + 2 * guard);
}
#else
void *hak_os_map_guarded(size_t size)
{
    return hak_os_map_aligned(NULL, size, hak_os_page_size());
}

void hak_os_unmap_guarded(void *addr, size_t size)
{
    hak_os_unmap_untouched(addr, size);
}
#endif

int hak_os_purge(void *addr, size_t size)
{
    int saved = errno;
    hak_lock_count_system_call("madvise");
    int error = hak_os_ops.madvise(addr, size, MADV_DONTNEED) ? errno : 0;
    errno = saved;
    return error;
}

#ifndef MREMAP_DONTUNMAP
#define MREMAP_DONTUNMAP 4
#endif

/* To a place that the kernel chooses, and from there: a target that is fixed is unmapped before the
   kernel knows whether it may move anything there (RLIMIT_DATA, several mappings), and another
   thread lives in it by the time it is claimed again. The second move takes no memory, so that
   nothing but too many mappings speaks against it, which is found out first. */
int hak_os_move_pages(void *from, size_t size, void *to)
{
    const int move = MREMAP_MAYMOVE, move_to = MREMAP_MAYMOVE | MREMAP_FIXED;
    int saved = errno, error = 0;
    void *on_way = hak_os_ops.mremap(from, size, size, move | MREMAP_DONTUNMAP, NULL);
    if (on_way == MAP_FAILED) {
        error = errno;
    } else if (hak_os_ops.mremap(on_way, size, size, move_to, to) == MAP_FAILED) {
        error = errno;
        if (hak_os_ops.mremap(on_way, size, size, move_to, from) == MAP_FAILED) {
            memcpy(from, on_way, size);
            hak_os_unmap_untouched(on_way, size);
        }
    }
    errno = saved;
    return error;
}

int hak_os_move_pages_at_once(void *from, size_t size, void *to, int *is_lost)
{
    const int flags = MREMAP_MAYMOVE | MREMAP_FIXED | MREMAP_DONTUNMAP;
    int saved = errno;
    int error = hak_os_ops.mremap(from, size, size, flags, to) == MAP_FAILED ? errno : 0;
    *is_lost = error && !hak_os_claim(to, size);
    errno = saved;
    return error;
}

static void advise(void *addr, size_t size, int advice)
{
    int saved = errno;
    hak_lock_count_system_call("madvise");
    (void)hak_os_ops.madvise(addr, size, advice);
    errno = saved;
}

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

static uint32_t cannot_populate;

void hak_os_populate(void *addr, size_t size)
{
    if (atomic_load_relaxed(&cannot_populate)) {
        return;
    }
    int saved = errno;
    hak_lock_count_system_call("madvise");
    if (hak_os_ops.madvise(addr, size, MADV_POPULATE_WRITE) && errno == EINVAL) {
        atomic_store_relaxed(&cannot_populate, 1u); /* a kernel before 5.14 */
    }
    errno = saved;
}

static int map_over(void *addr, size_t size, int prot)
{
    int saved = errno;
    hak_lock_count_system_call("mmap");
    void *p = hak_os_ops.mmap(addr, size, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
    int error = p == MAP_FAILED ? errno : 0;
    errno = saved;
    return error;
}

int hak_os_renew(void *addr, size_t size)
{
    int error = map_over(addr, size, PROT_READ | PROT_WRITE);
    if (!error) {
        hak_os_small_pages(addr, size);
    }
    return error;
}

/* With one mapping more than it may have (an mmap can make that one) a process gets no mmap, even
   one that would leave it fewer: nothing could be sealed. So there is one that can go first: a
   page, readable, which what lies beside it is not. */
static void *spare_mapping;

static void keep_spare_mapping(void)
{
    void *none = NULL;
    int saved = errno;
    size_t page = hak_os_page_size();
    hak_lock_count_system_call("mmap");
    void *p = hak_os_ops.mmap(NULL, page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p != MAP_FAILED && !atomic_cas_strong(&spare_mapping, &none, p)) {
        hak_os_unmap_untouched(p, page);
    }
    errno = saved;
}

/* Without MAP_NORESERVE: it would not become one mapping with what lies beside it. The system
   counts it as memory once it is writable. */
int hak_os_seal(void *addr, size_t size, int makes_fewer)
{
    int error = map_over(addr, size, PROT_NONE);
    void *spare = HAK_UNLIKELY(error == ENOMEM) && makes_fewer
                      ? atomic_exchange_seq(&spare_mapping, NULL)
                      : NULL;
    if (spare) {
        hak_os_unmap_untouched(spare, hak_os_page_size());
        error = map_over(addr, size, PROT_NONE);
    }
    if (error) {
        (void)hak_os_claim(addr, size); /* the system may have unmapped it before it refused */
    }
    if ((!error || spare) && HAK_UNLIKELY(!atomic_load_relaxed(&spare_mapping))) {
        keep_spare_mapping();
    }
    return error;
}

void hak_os_huge_pages(void *addr, size_t size)
{
    advise(addr, size, MADV_HUGEPAGE);
}

void hak_os_small_pages(void *addr, size_t size)
{
    advise(addr, size, MADV_NOHUGEPAGE);
}

/* layout.ld's, at multiples of CODE_ALIGN, if the linker had it; else all the same. */
#define CODE_ALIGN 4096u
extern const char hak_code_threads[] __attribute__((weak, visibility("hidden")));
extern const char hak_code_many[] __attribute__((weak, visibility("hidden")));
extern const char hak_code_rest[] __attribute__((weak, visibility("hidden")));
extern const char hak_code_end[] __attribute__((weak, visibility("hidden")));

static void part(const char *from, const char *to)
{
    size_t size = (size_t)((uintptr_t)to - (uintptr_t)from);
    if (size && hak_os_page_size() == CODE_ALIGN) {
        hak_os_small_pages((void *)(uintptr_t)from, size);
    }
}

/* Around a page of a file that is touched the kernel maps 64 KiB, but nothing of other mappings;
   and what was asked for other pages than its neighbours is a mapping of its own. */
HAK_COLD void hak_os_part_code(void)
{
    part(hak_code_threads, hak_code_many);
    part(hak_code_rest, hak_code_end);
}

size_t hak_os_read_file(const char *path, char *text, size_t size, char end)
{
    int saved = errno;
    size_t length = 0;
    int fd = hak_os_ops.open(path);
    if (fd >= 0) {
        ssize_t n;
        while (length < size && !(end && length && text[length - 1] == end) &&
               (n = hak_os_ops.read(fd, text + length, size - length)) > 0) {
            length += (size_t)n;
        }
        (void)hak_os_ops.close(fd);
    }
    errno = saved;
    return length;
}

uint64_t hak_os_address_limit(void)
{
    int saved = errno;
    uint64_t limit = hak_os_ops.address_limit();
    errno = saved;
    return limit;
}

static void forget_meta(void);
static LOCK_DEFINE_MENDED(meta_lock, LOCK_RANK_META, forget_meta);
static char *meta_next;
static size_t meta_left;
static size_t meta_mapped;
static size_t meta_n_mapped;

/* The rest of the chunk stays unused. */
static void forget_meta(void)
{
    meta_next = NULL;
    meta_left = 0;
}

/* From the chunk in use; NULL if it has no room. Lock META held. */
static void *take_meta(size_t size)
{
    if (size > meta_left) {
        return NULL;
    }
    void *p = meta_next;
    meta_next += size;
    meta_left -= size;
    return p;
}

#define MOST_OWN 768u
static HAK_LARGE_ZEROS struct {
    const void *start;
    size_t bytes;
} own_mappings[MOST_OWN];
static uint32_t n_own_mappings;

void hak_os_note_own(const void *start, size_t bytes)
{
    uint32_t i = atomic_load_relaxed(&n_own_mappings);
    if (i < MOST_OWN && (i = atomic_add_relaxed(&n_own_mappings, 1u)) < MOST_OWN) {
        atomic_store_relaxed(&own_mappings[i].start, start);
        atomic_store_release(&own_mappings[i].bytes, bytes);
    }
}

size_t hak_os_own(uint32_t i, const void **start)
{
    size_t bytes = i < MOST_OWN ? atomic_load_acquire(&own_mappings[i].bytes) : 0;
    *start = bytes ? atomic_load_relaxed(&own_mappings[i].start) : NULL;
    return bytes;
}

/* A chunk, or, if the system has none, what `size` alone needs. */
static char *map_meta(size_t size, size_t *bytes)
{
    const size_t chunk = HAK_TINY_OR(64 * HAK_KIB, 1 * HAK_MIB), page = hak_os_page_size();
    size_t least = (size + page - 1) & ~(page - 1);
    *bytes = least > chunk ? least : chunk;
    char *fresh = (char *)hak_os_map_guarded(*bytes);
    if (!fresh && *bytes > least) {
        *bytes = least;
        fresh = (char *)hak_os_map_guarded(least);
    }
    return fresh;
}

/* Once there is no room, each thread maps a chunk without the lock; the first one's is used, and
   the others go back unless they are needed by then. */
HAK_COLD void *hak_os_meta_alloc(size_t size)
{
    size_t bytes = 0;
    size = (size + 63) & ~(size_t)63;
    hak_lock_acquire(&meta_lock);
    void *p = take_meta(size);
    hak_lock_release(&meta_lock);
    char *fresh = p ? NULL : map_meta(size, &bytes);
    if (!fresh) {
        return p;
    }
    hak_lock_acquire(&meta_lock);
    p = take_meta(size);
    int is_needed = !p;
    if (is_needed) {
        atomic_store_relaxed(&meta_mapped, meta_mapped + bytes);
        atomic_store_relaxed(&meta_n_mapped, meta_n_mapped + 1);
        hak_os_note_own(fresh, bytes);
        meta_next = fresh;
        meta_left = bytes;
        p = take_meta(size);
    }
    hak_lock_release(&meta_lock);
    if (!is_needed) {
        hak_os_unmap_guarded(fresh, bytes);
    }
    return p;
}

extern size_t hak_os_meta_mapped __attribute__((alias("meta_mapped")));

size_t hak_os_meta_bytes(void)
{
    return atomic_load_relaxed(&meta_mapped);
}

size_t hak_os_meta_mappings(void)
{
    return atomic_load_relaxed(&meta_n_mapped);
}
