/* Blocks of libc: a hash table of address and size, in metadata, unless all blocks are. Called by
   slow paths of api.c, if at all. */
#include "hakmem/fallback.h"

#include <string.h>

#include "base/atomic.h"
#include "base/fail.h"
#include "base/lock.h"
#include "base/options.h"
#include "base/os.h"

/* glibc's own malloc under its other names; NULL in other libraries. */
extern void *__libc_malloc(size_t size) __attribute__((weak));
extern void *__libc_memalign(size_t align, size_t size) __attribute__((weak));
extern void __libc_free(void *p) __attribute__((weak));
/* There if jemalloc is in the process. */
extern int mallctl(const char *name, void *old, size_t *old_size, void *new_value, size_t new_size)
    __attribute__((weak));

#define N_BUCKETS HAK_TINY_OR((size_t)4, (size_t)4096)

struct node {
    uintptr_t address;
    size_t size;
    struct node *next;
};

static struct lock lock = LOCK_INIT(LOCK_RANK_FALLBACK);
static struct node *buckets[N_BUCKETS];
static struct node *unused;
static size_t n_live;

static int is_jemalloc_blocked(void)
{
    return options.ld_block_jemalloc && &mallctl != NULL;
}

static int libc_has_malloc(void)
{
    return &__libc_malloc != NULL && &fallback_is_ours == NULL;
}

int fallback_all(void)
{
    return HAK_UNLIKELY(options.ld_safe == 2 || is_jemalloc_blocked()) && libc_has_malloc();
}

/* A block of glibc's has its size in front of it, in a multiple of 16, with flags; that of a
   mapping of its own counts 16 bytes of it, else 8. No name of libc's tells it: malloc_usable_size
   is ours. */
static size_t libc_size(const void *p)
{
    enum { FLAGS = 7, IS_MAPPED = 2 };
    if (!p || (uintptr_t)p % 16) {
        return 0;
    }
    size_t head = ((const size_t *)p)[-1], size = head & ~(size_t)FLAGS, taken = head & IS_MAPPED ? 16 : 8;
    return size > taken ? size - taken : 0;
}

static struct node **bucket_of(uintptr_t address)
{
    return &buckets[(size_t)((uint64_t)(address >> 4) * 0x9E3779B97F4A7C15u >> 40) % N_BUCKETS];
}

/* The link that points to the block's node, or to NULL behind the bucket's last. */
static struct node **find(uintptr_t address)
{
    struct node **link = bucket_of(address);
    while (*link && (*link)->address != address) {
        link = &(*link)->next;
    }
    return link;
}

static int record(const void *p, size_t size)
{
    lock_acquire(&lock);
    struct node *node = unused;
    if (node) {
        unused = node->next;
    } else {
        node = (struct node *)os_meta_alloc(sizeof *node);
    }
    if (node) {
        struct node **bucket = bucket_of((uintptr_t)p);
        *node = (struct node){(uintptr_t)p, size, *bucket};
        *bucket = node;
        atomic_store_relaxed(&n_live, n_live + 1);
    }
    lock_release(&lock);
    return node != NULL;
}

void *fallback_alloc(size_t size, size_t align, int is_zeroed, int is_refused)
{
    int all = fallback_all();
    if (!all && !(is_refused && options.ld_safe == 1 && libc_has_malloc())) {
        return NULL;
    }
    size = size ? size : 1;
    void *p = align > 16 ? __libc_memalign(align, size) : __libc_malloc(size);
    if (p && !all && !record(p, size)) {
        __libc_free(p);
        p = NULL;
    }
    if (p) {
        fail_fallback(size, all ? options.ld_safe == 2 ? "HAKMEM_LD_SAFE=2" : "HAKMEM_LD_BLOCK_JEMALLOC"
                                : "HAKMEM_LD_SAFE=1");
        if (is_zeroed) {
            memset(p, 0, size);
        }
    }
    return p;
}

size_t fallback_size(const void *p)
{
    return fallback_all() ? libc_size(p) : fallback_holds(p);
}

size_t fallback_holds(const void *p)
{
    if (HAK_LIKELY(!atomic_load_relaxed(&n_live))) {
        return 0;
    }
    lock_acquire(&lock);
    const struct node *node = *find((uintptr_t)p);
    size_t size = node ? node->size : 0;
    lock_release(&lock);
    return size;
}

int fallback_free(void *p)
{
    if (fallback_all()) {
        __libc_free(p);
        return 1;
    }
    if (HAK_LIKELY(!atomic_load_relaxed(&n_live))) {
        return 0;
    }
    lock_acquire(&lock);
    struct node **link = find((uintptr_t)p), *node = *link;
    if (node) {
        *link = node->next;
        node->next = unused;
        unused = node;
        atomic_store_relaxed(&n_live, n_live - 1);
    }
    lock_release(&lock);
    if (node) {
        __libc_free(p);
    }
    return node != NULL;
}

void fallback_lock_acquire(void)
{
    lock_acquire(&lock);
}

void fallback_lock_release(void)
{
    lock_release(&lock);
}

void fallback_lock_reset(void)
{
    lock_reset(&lock);
}
