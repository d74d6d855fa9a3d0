// The null allocator: how fast a workload would be if allocation were nearly free. Not for use,
// only for comparison.
//
// A bump pointer, and a list of freed blocks for each size class, both of the thread alone: no
// locks, nothing is checked, no memory returns to the system or to another thread, and what a
// thread leaves behind is lost. The one thing shared is the cursor into the reserved addresses, an
// atomic addition for each chunk and each large block. A block's class stands in the 16 bytes
// before it. malloc and its family are the only callers.
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <sys/mman.h>

#define EXPORT    __attribute__((visibility("default")))
#define SLOW      __attribute__((noinline, cold))
#define LIKELY(e) __builtin_expect(!!(e), 1)
#define LARGE                                                                                      \
    ((size_t)1                                                                                     \
     << 20) // blocks from here on are whole pages, so that realloc can move them by mremap
#define CHUNK       ((size_t)1 << 18)
#define RESERVE     ((size_t)1 << 44)
#define MIN_RESERVE ((size_t)1 << 34)

// 16-byte steps to 128, then four classes a doubling, up to what 64 bits can ask for.
enum { PAGE = 4096, LINEAR = 8, LINEAR_BITS = 7, N_CLASSES = LINEAR + 4 * (64 - LINEAR_BITS) };
enum { MAX_BITS = 42, LAST_CLASS = LINEAR + 4 * (MAX_BITS - LINEAR_BITS) - 1 };

struct header {
    size_t class;
    size_t unused; // keeps blocks aligned to 16
};

static _Thread_local struct {
    void *freed[N_CLASSES];
    char *bump, *end;
} own;
static char *reserved;
static size_t taken;

static inline unsigned class_of(size_t size)
{
    size -= size != 0;
    if (size < (size_t)1 << LINEAR_BITS)
        return (unsigned)(size >> 4);
    unsigned top = 63 - (unsigned)__builtin_clzl(size);
    return LINEAR + (top - LINEAR_BITS) * 4 + ((size >> (top - 2)) & 3);
}

static inline size_t class_size(size_t class)
{
    if (class < LINEAR)
        return (class + 1) << 4;
    unsigned top = LINEAR_BITS + (unsigned)(class - LINEAR) / 4;
    return ((size_t)1 << top) + (((class - LINEAR) % 4 + 1) << (top - 2));
}

static inline struct header *header_of(void *block)
{
    return (struct header *)block - 1;
}

// The start of the reserved addresses, a whole page: the first caller's mapping; NULL if the system
// has none.
static SLOW char *reserve(void)
{
    size_t size = RESERVE * 2;
    char *start = MAP_FAILED, *none = NULL;
    while (start == MAP_FAILED && size > MIN_RESERVE) {
        size /= 2;
        start = mmap(NULL, size, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    }
    if (start == MAP_FAILED)
        return NULL;
    if (__atomic_compare_exchange_n(&reserved, &none, start, 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        return start;
    munmap(start, size);
    return none;
}

// Zeroed memory, whole pages. NULL with ENOMEM.
static char *take(size_t bytes)
{
    char *start = __atomic_load_n(&reserved, __ATOMIC_ACQUIRE);
    if (start == NULL)
        start = reserve();
    if (start == NULL) {
        errno = ENOMEM;
        return NULL;
    }
    return start +
           __atomic_fetch_add(&taken, (bytes + PAGE - 1) & ~(size_t)(PAGE - 1), __ATOMIC_RELAXED);
}

static inline char *align_up(char *at, size_t alignment)
{
    return at + (-(uintptr_t)at & (alignment - 1));
}

// A block never handed out before, zero throughout.
static SLOW void *fresh(unsigned class, size_t alignment)
{
    if (class > LAST_CLASS || alignment > RESERVE / 4) {
        errno = ENOMEM;
        return NULL;
    }
    size_t size = class_size(class);
    if (size >= LARGE && alignment < PAGE)
        alignment = PAGE;
    size_t bytes = sizeof(struct header) + alignment + size;
    char *from = own.bump;
    if (size >= LARGE || alignment >= LARGE)
        from = take(bytes);
    else if ((size_t)(own.end - own.bump) < bytes) {
        size_t chunk = bytes > CHUNK ? bytes : CHUNK;
        from = take(chunk);
        own.end = from != NULL ? from + chunk : NULL;
    }
    if (from == NULL)
        return NULL;
    char *block = align_up(from + sizeof(struct header), alignment);
    if (size < LARGE && alignment < LARGE)
        own.bump = block + size;
    header_of(block)->class = class;
    return block;
}

EXPORT void *malloc(size_t size)
{
    unsigned class = class_of(size);
    void *block = own.freed[class];
    if (LIKELY(block != NULL)) {
        own.freed[class] = *(void **)block;
        return block;
    }
    return fresh(class, sizeof(struct header));
}

EXPORT void free(void *block)
{
    if (block == NULL)
        return;
    void **list = &own.freed[header_of(block)->class];
    *(void **)block = *list;
    *list = block;
}

EXPORT void *calloc(size_t n, size_t each)
{
    size_t size;
    if (__builtin_mul_overflow(n, each, &size)) {
        errno = ENOMEM;
        return NULL;
    }
    unsigned class = class_of(size);
    void *block = own.freed[class];
    if (block == NULL)
        return fresh(class, sizeof(struct header));
    own.freed[class] = *(void **)block;
    return memset(block, 0, size);
}

EXPORT size_t malloc_usable_size(void *block)
{
    return block ? class_size(header_of(block)->class) : 0;
}

// The pages of a large block move; they leave a hole that is never used again.
EXPORT void *realloc(void *block, size_t size)
{
    if (block == NULL)
        return malloc(size);
    size_t had = malloc_usable_size(block);
    if (size <= had)
        return block;
    void *moved = malloc(size);
    if (moved == NULL)
        return NULL;
    if (had >= LARGE && mremap(block, had, had, MREMAP_MAYMOVE | MREMAP_FIXED, moved) == moved)
        return moved;
    memcpy(moved, block, had);
    free(block);
    return moved;
}

// `alignment` is a power of two. Above 16 a block is always new: the lists know nothing of
// alignment.
static void *aligned(size_t alignment, size_t size)
{
    return alignment <= sizeof(struct header) ? malloc(size) : fresh(class_of(size), alignment);
}

EXPORT void *aligned_alloc(size_t alignment, size_t size)
{
    return aligned(alignment, size);
}

EXPORT void *memalign(size_t alignment, size_t size)
{
    return aligned(alignment, size);
}

EXPORT void *valloc(size_t size)
{
    return aligned(PAGE, size);
}

EXPORT void *pvalloc(size_t size)
{
    return aligned(PAGE, (size + PAGE - 1) & ~(size_t)(PAGE - 1));
}

EXPORT int posix_memalign(void **block, size_t alignment, size_t size)
{
    *block = aligned(alignment, size);
    return *block ? 0 : ENOMEM;
}

EXPORT void *reallocarray(void *block, size_t n, size_t each)
{
    size_t size;
    if (__builtin_mul_overflow(n, each, &size)) {
        errno = ENOMEM;
        return NULL;
    }
    return realloc(block, size);
}
