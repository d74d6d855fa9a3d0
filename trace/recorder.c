/* libhakmem_record.so: the malloc family over hak_*, each call of which is noted down in a file
   that is mapped (raw.h).

   Preloaded by `hakmem record`, which tells it by HAK_RECORD_* variables where to write. A thread
   writes into a chunk of its own; shared are only two counters, atomic: the sequence of all calls,
   and the chunks given out. The number of a call that frees is drawn before the block can be
   another caller's, that of one that allocates after it is the caller's; so an address's calls are
   in true order. No locks. A child after fork writes nothing into its parent's file: the switch
   lies in a page that the kernel wipes there. Nothing here allocates. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/attributes.h"
#include "hakmem/hakmem.h"
#include "trace/raw.h"
#include "trace/trace.h"

/* OFF: not yet begun in this process. DONE: for good. */
enum { OFF, STARTING, ON, DONE };

/* In a page of its own that is zero, so OFF, in a forked child. Until it is mapped, `before` stands
   in. */
struct shared_state {
    uint32_t on;
};

static struct shared_state before;
static struct shared_state *state = &before;

static struct {
    uint64_t sequence;   /* of the last call */
    uint64_t limit;      /* sequence numbers to record, at the most */
    uint64_t chunks;     /* given out so far, the header's included */
    uint32_t threads;    /* numbers given out */
    uint32_t generation; /* counts the processes in a line of forks: a thread's log of an earlier
                            one is void */
    int configured;      /* the variables were there */
    int children;        /* forked children record too, each into FILE.PID */
    pthread_key_t key;
    struct raw_header *header;
    dev_t device; /* of the file, to know it again */
    ino_t inode;
    char file[PATH_MAX]; /* as given */
    char path[PATH_MAX]; /* this process's */
} shared;

struct log {
    uint8_t *chunk, *at, *end;
    uint64_t sequence, address; /* of the last record in this chunk */
    uint32_t thread, ordinal, generation;
};

static __thread struct log own;

static void say(const char *what)
{
    struct iovec parts[] = {{(void *)"hakmem: record: ", 16},
                            {shared.path, strlen(shared.path)},
                            {(void *)": ", 2},
                            {(void *)(uintptr_t)what, strlen(what)},
                            {(void *)", recording ends\n", 17}};
    if (writev(2, parts, 5) < 0) {
        return; /* no place to report it */
    }
}

/* Opens this process's file. By name each time, since a program may close all descriptors that it
   does not know; it must be the same file then. -1 and errno if it cannot be. */
static int open_file(int flags)
{
    struct stat status;
    int fd = open(shared.path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | flags, 0600);
    if (fd < 0) {
        return -1;
    }
    if (fstat(fd, &status) == 0 && S_ISREG(status.st_mode) &&
        (!shared.inode || (status.st_ino == shared.inode && status.st_dev == shared.device))) {
        shared.device = status.st_dev;
        shared.inode = status.st_ino;
        return fd;
    }
    close(fd);
    errno = ESTALE;
    return -1;
}

/* Maps chunk n of the file. NULL and errno if that cannot be done. */
static void *map_chunk(int fd, uint64_t n)
{
    off_t at = (off_t)(n * RAW_CHUNK);
    int error =
        posix_fallocate(fd, at, RAW_CHUNK); /* a full disk is found now, not by a signal later */
    void *chunk =
        error ? MAP_FAILED : mmap(NULL, RAW_CHUNK, PROT_READ | PROT_WRITE, MAP_SHARED, fd, at);
    errno = error ? error : errno;
    return chunk == MAP_FAILED ? NULL : chunk;
}

static void give_up(const char *why)
{
    if (__atomic_exchange_n(&state->on, DONE, __ATOMIC_ACQ_REL) == ON) {
        shared.header->cut = 1;
        if (why) {
            say(why);
        }
    }
}

/* Appends a point and a number to `text`, which has room for them. */
static void append_number(char *text, unsigned long number)
{
    char digits[24];
    size_t n = 0;
    do {
        digits[n++] = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    text += strlen(text);
    *text++ = '.';
    while (n) {
        *text++ = digits[--n];
    }
    *text = '\0';
}

/* The first chunk of this process's file. A child makes a new file, in place of one that an
   earlier process of its number left, or that it wrote before it became another program. What is in
   the way is said by `hakmem record`, or for a child here. */
static void *map_first(int child)
{
    if (child) {
        (void)unlink(shared.path);
    }
    int fd = open_file(child ? O_CREAT | O_EXCL : 0);
    void *chunk = fd < 0 || ftruncate(fd, 0) != 0 ? NULL : map_chunk(fd, 0);
    if (!chunk) {
        uint64_t error = (uint64_t)errno;
        if (child || fd < 0 ||
            pwrite(fd, &error, sizeof error, offsetof(struct raw_header, error)) !=
                (ssize_t)sizeof error) {
            say(strerrordesc_np((int)error));
        }
    }
    if (fd >= 0) {
        close(fd);
    }
    return chunk;
}

/* Begins this process's file; `state` is STARTING, and no other thread is here. */
static int begin_file(int child)
{
    memcpy(shared.path, shared.file, sizeof shared.path);
    if (child) {
        append_number(shared.path, (unsigned long)getpid());
    }
    shared.generation++;
    shared.threads = 0;
    shared.sequence = 0;
    shared.chunks = 1;
    shared.inode = 0;
    shared.header = (struct raw_header *)map_first(child);
    if (!shared.header) {
        return -1;
    }
    shared.header->magic = RAW_MAGIC;
    strncpy(shared.header->program, program_invocation_short_name,
            sizeof shared.header->program - 1);
    return 0;
}

/* A thread that ends unmaps its chunk. Blocks that it frees later get a new one. */
static void end_thread(void *unused)
{
    (void)unused;
    if (own.chunk && own.generation == shared.generation) {
        munmap(own.chunk, RAW_CHUNK);
    }
    own.chunk = own.at = own.end = NULL;
}

/* Reads the variables. 0 if this process is to be recorded. */
static int configure(void)
{
    const char *file = getenv("HAK_RECORD_FILE"), *pid = getenv("HAK_RECORD_PID"),
               *calls = getenv("HAK_RECORD_CALLS");
    shared.children = getenv("HAK_RECORD_CHILDREN") != NULL;
    int first = pid && strtol(pid, NULL, 10) == (long)getpid();
    if (!file || strlen(file) > PATH_MAX - 32 || (!first && !shared.children)) {
        return -1;
    }
    memcpy(shared.file, file, strlen(file) + 1);
    shared.limit = calls ? strtoull(calls, NULL, 10) : UINT64_MAX;
    struct shared_state *page =
        mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED || madvise(page, 4096, MADV_WIPEONFORK) != 0 ||
        pthread_key_create(&shared.key, end_thread) != 0) {
        return -1;
    }
    page->on = STARTING;
    shared.configured = 1;
    state = page;
    return begin_file(!first);
}

/* Begins to record, if it was asked for and has not ended; whether it did. */
static HAK_COLD int begin(void)
{
    uint32_t off = OFF;
    if (!environ || !__atomic_compare_exchange_n(&state->on, &off, STARTING, 0, __ATOMIC_ACQ_REL,
                                                 __ATOMIC_RELAXED)) {
        return 0; /* the loader's first calls come before there are variables */
    }
    int error = errno;
    int failed = 1;
    if (!shared.configured) {
        failed = configure();
    } else if (shared.children) {
        failed = begin_file(1);
    }
    __atomic_store_n(&state->on, failed ? DONE : ON, __ATOMIC_RELEASE);
    errno = error;
    return !failed;
}

static inline int recording(void)
{
    uint32_t on = __atomic_load_n(&state->on, __ATOMIC_RELAXED);
    return HAK_LIKELY(on == ON) || (on == OFF && begin());
}

/* A program that never allocates has a trace too. */
__attribute__((constructor)) static void begin_at_the_latest(void)
{
    (void)recording();
}

/* A new chunk for this thread; 0, or -1 if there is none. */
static HAK_COLD int next_chunk(void)
{
    int error = errno;
    if (own.generation != shared.generation) {
        own = (struct log){.generation = shared.generation};
        own.thread = __atomic_add_fetch(&shared.threads, 1, __ATOMIC_RELAXED);
    }
    if (own.chunk) {
        munmap(own.chunk, RAW_CHUNK);
    }
    uint64_t n = __atomic_fetch_add(&shared.chunks, 1, __ATOMIC_RELAXED);
    int fd = open_file(0);
    own.chunk = fd < 0 ? NULL : (uint8_t *)map_chunk(fd, n);
    own.at = own.end = NULL;
    int why = errno;
    if (fd >= 0) {
        close(fd);
    }
    if (!own.chunk) {
        give_up(strerrordesc_np(why));
        errno = error;
        return -1;
    }
    *(struct raw_chunk *)own.chunk = (struct raw_chunk){own.thread, own.ordinal++};
    own.at = own.chunk + sizeof(struct raw_chunk);
    own.end = own.chunk + RAW_CHUNK - RAW_LONGEST;
    own.sequence = own.address = 0;
    pthread_setspecific(shared.key, &own);
    errno = error;
    return 0;
}

static inline uint64_t draw(void)
{
    return __atomic_add_fetch(&shared.sequence, 1, __ATOMIC_SEQ_CST);
}

/* Writes one record. */
static void note(unsigned tag, uint64_t sequence, const void *block, uint64_t size)
{
    if (HAK_UNLIKELY(sequence > shared.limit)) {
        give_up(NULL);
        return;
    }
    if (HAK_UNLIKELY(own.at >= own.end || own.generation != shared.generation) &&
        next_chunk() != 0) {
        return;
    }
    unsigned op = tag & 7;
    uint8_t *first = own.at, *at = trace_put(first + 1, sequence - own.sequence);
    own.sequence = sequence;
    if (op != RAW_REALLOC_FAILED) {
        uint64_t address = (uint64_t)(uintptr_t)block >> 4;
        int64_t step = (int64_t)(address - own.address);
        own.address = address;
        at = trace_put(at, (uint64_t)step << 1 ^ (step < 0 ? UINT64_MAX : 0));
    }
    if (op != RAW_FREE && op != RAW_REALLOC_BEGIN && op != RAW_REALLOC_FAILED) {
        at = trace_put(at, size);
    }
    __atomic_store_n(first, (uint8_t)tag, __ATOMIC_RELEASE);
    own.at = at;
}

static inline void *made(unsigned tag, void *block, uint64_t size)
{
    if (block && recording()) {
        note(tag, draw(), block, size);
    }
    return block;
}

static void *made_aligned(void *block, size_t alignment, size_t size)
{
    unsigned log2 = alignment > 1 ? 64 - (unsigned)__builtin_clzl(alignment - 1) : 0;
    return made(RAW_ALIGNED | (log2 < 31 ? log2 : 30) << 3, block, size);
}

HAK_EXPORT void *malloc(size_t size)
{
    return made(RAW_MALLOC, hak_malloc(size), size);
}

HAK_EXPORT void *calloc(size_t n, size_t size)
{
    return made(RAW_CALLOC, hak_calloc(n, size), n * size);
}

HAK_EXPORT void free(void *p)
{
    if (p && recording()) {
        note(RAW_FREE, draw(), p, 0);
    }
    hak_free(p);
}

HAK_EXPORT void cfree(void *p)
{
    free(p);
}

HAK_EXPORT void free_sized(void *p, size_t size)
{
    (void)size;
    free(p);
}

HAK_EXPORT void free_aligned_sized(void *p, size_t alignment, size_t size)
{
    (void)alignment;
    (void)size;
    free(p);
}

HAK_EXPORT void *realloc(void *p, size_t size)
{
    if (!p) {
        return malloc(size);
    }
    if (size == 0) {
        free(p);
        return NULL;
    }
    if (!recording()) {
        return hak_realloc(p, size);
    }
    note(RAW_REALLOC_BEGIN, draw(), p, 0);
    void *block = hak_realloc(p, size);
    note(block ? RAW_REALLOC_END : RAW_REALLOC_FAILED, draw(), block, size);
    return block;
}

HAK_EXPORT void *reallocarray(void *p, size_t n, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes)) {
        errno = ENOMEM;
        return NULL;
    }
    return realloc(p, bytes);
}

HAK_EXPORT void *aligned_alloc(size_t alignment, size_t size)
{
    return made_aligned(hak_aligned_alloc(alignment, size), alignment, size);
}

HAK_EXPORT void *memalign(size_t alignment, size_t size)
{
    return made_aligned(hak_memalign(alignment, size), alignment, size);
}

HAK_EXPORT int posix_memalign(void **out, size_t alignment, size_t size)
{
    int error = hak_posix_memalign(out, alignment, size);
    if (error == 0) {
        made_aligned(*out, alignment, size);
    }
    return error;
}

HAK_EXPORT void *valloc(size_t size)
{
    return memalign((size_t)sysconf(_SC_PAGESIZE), size);
}

HAK_EXPORT void *pvalloc(size_t size)
{
    size_t page = (size_t)sysconf(_SC_PAGESIZE);
    if (size > PTRDIFF_MAX - page) {
        errno = ENOMEM;
        return NULL;
    }
    size_t rounded = (size + page - 1) & ~(page - 1);
    return memalign(page, rounded ? rounded : page);
}

HAK_EXPORT size_t malloc_usable_size(void *p)
{
    return hak_usable_size(p);
}
