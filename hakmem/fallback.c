/* Blocks of libc: a hash table of address and size, in metadata, unless all blocks are. Called by
   slow paths of plain.c, if at all. */
#include "hakmem/fallback.h"

#include <string.h>

#include "base/address_table.h"
#include "base/atomic.h"
#include "base/error.h"
#include "base/lock.h"
#include "base/options.h"
#include "base/size_classes.h"
#include "heap/gate.h"
#include "heap/limbo.h"
#include "limit/fail.h"

/* glibc's own malloc under its other names; NULL in other libraries. */
extern void *__libc_malloc(size_t size) __attribute__((weak));
extern void *__libc_memalign(size_t align, size_t size) __attribute__((weak));
extern void __libc_free(void *p) __attribute__((weak));
/* There if jemalloc is in the process. */
extern int mallctl(const char *name, void *old, size_t *old_size, void *new_value, size_t new_size)
    __attribute__((weak));

const char hak_names_of_libc __attribute__((weak)) = 0;

struct node {
    struct address_node by_address; /* first */
    size_t size;
};

static LOCK_DEFINE(lock, LOCK_RANK_FALLBACK);
static HAK_LARGE_ZEROS struct address_table blocks;
static void *waiting; /* freed while the gate was closed: recorded, linked by their first words */
static void *left;    /* of them, what the gate closed upon again; is_catching_up */
static uint32_t is_catching_up;

static int is_jemalloc_blocked(void)
{
    return hak_options.ld_block_jemalloc && &mallctl != NULL;
}

static int libc_has_malloc(void)
{
    return &__libc_malloc != NULL && !hak_names_of_libc;
}

int hak_fallback_all(void)
{
    return HAK_UNLIKELY(hak_options.ld_safe == 2 || is_jemalloc_blocked()) && libc_has_malloc();
}

/* A block of glibc's has its size in front of it, in a multiple of 16, with flags; that of a
   mapping of its own counts 16 bytes of it, else
   8. No name of libc's tells it: malloc_usable_size is ours. */
static size_t libc_size(const void *p)
{
    enum { FLAGS = 7, IS_MAPPED = 2 };
    if (!p || (uintptr_t)p % 16) {
        return 0;
    }
    size_t head = ((const size_t *)p)[-1], size = head & ~(size_t)FLAGS,
           taken = head & IS_MAPPED ? 16 : 8;
    return size > taken ? size - taken : 0;
}

static int record(const void *p, size_t size)
{
    if (!hak_gate_enter()) {
        return 0;
    }
    struct node *node = (struct node *)hak_address_new(&blocks, &lock, sizeof *node);
    if (node) {
        node->size = size;
        hak_lock_acquire(&lock);
        hak_address_add(&blocks, &node->by_address, p);
        hak_lock_release(&lock);
    }
    hak_gate_leave();
    return node != NULL;
}

/* The block is recorded no more. Returns 0 if it was not; -1 if the gate is closed. */
static int forget(const void *p)
{
    if (!hak_gate_enter()) {
        return -1;
    }
    hak_lock_acquire(&lock);
    struct address_node **link = hak_address_find(&blocks, p);
    int is_ours = *link != NULL;
    if (is_ours) {
        hak_address_drop(&blocks, hak_address_take_out(&blocks, link));
    }
    hak_lock_release(&lock);
    hak_gate_leave();
    return is_ours;
}

static void wait_with(void *p)
{
    void *first = atomic_load_relaxed(&waiting);
    do {
        *(void **)p = first;
    } while (!atomic_cas_weak_seq(&waiting, &first, p));
}

/* A block that was freed twice while the gate was closed is in the list twice, and the list may go
   round: none is touched that is not recorded. What is left when the gate closes again stays as it
   is. */
static void free_until_closed(void *p)
{
    for (void *next; p; p = next) {
        int is_ours = forget(p);
        if (is_ours < 0) {
            left = p;
            return;
        }
        HAK_CHECK(is_ours, "block freed twice, or invalid pointer freed (not the start of a block)",
                  p);
        next = *(void **)p;
        __libc_free(p);
    }
}

/* One thread at a time; another one's blocks are freed by the one that is at it, or by the next
   call. */
void hak_fallback_catch_up(void)
{
    if (HAK_LIKELY(!atomic_load_relaxed(&waiting) && !atomic_load_relaxed(&left)) ||
        hak_gate_is_closed() || atomic_exchange_seq(&is_catching_up, 1u)) {
        return;
    }
    void *rest = left;
    left = NULL;
    free_until_closed(rest);
    if (!left) {
        free_until_closed(atomic_exchange_seq(&waiting, NULL));
    }
    atomic_store_release(&is_catching_up, 0u);
}

void hak_fallback_fork_child(void)
{
    waiting = left = NULL;
    is_catching_up = 0;
}

void *hak_fallback_alloc(size_t size, size_t align, int is_zeroed, int is_refused)
{
    int all = hak_fallback_all();
    if (!all && !(is_refused && hak_options.ld_safe == 1 && libc_has_malloc())) {
        return NULL;
    }
    size = size ? size : 1;
    hak_fallback_catch_up();
    if (!all && hak_gate_is_closed()) {
        return hak_limbo_alloc(size, align, NULL);
    }
    void *p = align > SC_MIN_ALIGN ? __libc_memalign(align, size) : __libc_malloc(size);
    if (p && !all && !record(p, size)) {
        __libc_free(p);
        return hak_gate_is_closed() ? hak_limbo_alloc(size, align, NULL) : NULL;
    }
    if (p) {
        hak_fail_fallback(size, all ? hak_options.ld_safe == 2 ? "HAKMEM_LD_SAFE=2"
                                                               : "HAKMEM_LD_BLOCK_JEMALLOC"
                                    : "HAKMEM_LD_SAFE=1");
        if (is_zeroed) {
            memset(p, 0, size);
        }
    }
    return p;
}

size_t hak_fallback_size(const void *p)
{
    return hak_fallback_all() ? libc_size(p) : hak_fallback_holds(p);
}

/* Bytes of a recorded block, 0 of another; -1: not known any more. Where the gate is closed for
   ever the table is whole as long as its lock is not lost. */
static int64_t look_up(const void *p)
{
    enum gate_reader how = hak_gate_enter_to_read();
    if (how != GATE_REFUSED) {
        hak_lock_acquire(&lock);
    } else if (hak_lock_rank_any() || !hak_lock_try(&lock)) {
        return -1;
    }
    const struct node *node = (const struct node *)(const void *)*hak_address_find(&blocks, p);
    int64_t size = node ? (int64_t)node->size : 0;
    hak_lock_release(&lock);
    hak_gate_leave_reader(how);
    return size;
}

size_t hak_fallback_holds(const void *p)
{
    int64_t size = HAK_LIKELY(!hak_address_count(&blocks)) ? 0 : look_up(p);
    return size > 0 ? (size_t)size : 0;
}

int hak_fallback_free(void *p)
{
    if (hak_fallback_all()) {
        __libc_free(p);
        return 1;
    }
    if (HAK_LIKELY(!hak_address_count(&blocks))) {
        return 0;
    }
    hak_fallback_catch_up();
    int is_ours = forget(p);
    if (is_ours < 0) {
        int64_t size = look_up(p);
        if (size > 0) {
            wait_with(p);
        }
        return size != 0;
    }
    if (is_ours) {
        __libc_free(p);
    }
    return is_ours;
}
