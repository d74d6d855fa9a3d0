/* First-class heaps. Called by programs through hak_heap_*, by the slow paths of free and realloc, and by fork. */
#include "hakmem/user_heap.h"

#include <errno.h>
#include <string.h>

#include "ace/ace.h"
#include "base/error.h"
#include "base/list.h"
#include "base/os.h"
#include "base/verify.h"
#include "hakmem/background.h"
#include "hakmem/hakmem.h"
#include "hakmem/heap.h"
#include "hakmem/hooks.h"
#include "hakmem/noted.h"
#include "hakmem/request.h"
#include "superslab/pool.h"

/* How many slabs are given back at a time when a heap is destroyed: each time all superslabs are looked through. */
#define DESTROY_SLABS HAK_TINY_OR(2u, 256u)

/* A large block of a heap. */
struct large_node {
    struct address_node by_address; /* first */
    struct hak_heap *heap;
    struct large_node *next, *prev; /* of the heap */
};

static struct lock registry_lock = LOCK_INIT(LOCK_RANK_HEAPS);
static struct hak_heap *by_id[BANK_MAX_OWNERS + 1];
static struct hak_heap *unused;
static struct hak_heap *without_id; /* one that found no id */
static uint32_t last_id;

static struct lock large_lock = LOCK_INIT(LOCK_RANK_OWNED);
struct address_table user_heap_large;

struct hak_heap *user_heap_by_id(uint32_t id)
{
    return id <= BANK_MAX_OWNERS ? atomic_load_acquire(&by_id[id]) : NULL;
}

/* --- the table of large blocks --- */

/* The block's node, or NULL. Lock OWNED held. */
static struct large_node *find_large(const void *p)
{
    return (struct large_node *)(void *)*address_find(&user_heap_large, p);
}

static struct large_node *new_node(void)
{
    return (struct large_node *)address_new(&user_heap_large, sizeof(struct large_node));
}

static void link_large(struct large_node *node, struct hak_heap *heap, const void *p)
{
    address_add(&user_heap_large, &node->by_address, p);
    node->heap = heap;
    LIST_PUSH(&heap->large, node, next, prev);
    heap->n_large++;
}

/* Out of its table and its heap's list. */
static void unlink_large(struct large_node *node)
{
    (void)address_take_out(&user_heap_large, address_find(&user_heap_large, node->by_address.address));
    LIST_TAKE_OUT(&node->heap->large, node, next, prev);
    node->heap->n_large--;
}

static void drop_large(struct large_node *node)
{
    unlink_large(node);
    address_drop(&user_heap_large, &node->by_address);
}

static int record_large(struct hak_heap *heap, const void *p)
{
    lock_acquire(&large_lock);
    struct large_node *node = new_node();
    if (node) {
        link_large(node, heap, p);
    }
    lock_release(&large_lock);
    return node != NULL;
}

void user_heap_forget_large(const void *p)
{
    lock_acquire(&large_lock);
    struct large_node *node = find_large(p);
    if (node) {
        drop_large(node);
    }
    lock_release(&large_lock);
}

/* --- blocks --- */

void user_heap_put(void *block, uint32_t tag)
{
    struct hak_heap *heap = user_heap_by_id(TAG_OWNER(tag));
    HAK_CHECK(heap, "invalid pointer freed (it belongs to a pool of its own)", block);
    lock_acquire(&heap->lock);
    bank_put(&heap->bank, block);
    lock_release(&heap->lock);
    background_poke();
}

struct hak_heap *user_heap_of(const void *p)
{
    uint32_t tag = map_find(p).tag;
    if (TAG_IS_SLAB(tag)) {
        return user_heap_by_id(TAG_OWNER(tag));
    }
    if (!address_count(&user_heap_large)) {
        return NULL;
    }
    lock_acquire(&large_lock);
    const struct large_node *node = find_large(p);
    struct hak_heap *heap = node ? node->heap : NULL;
    lock_release(&large_lock);
    return heap;
}

struct want {
    struct hak_heap *heap;
    size_t size, align;
    int is_zeroed;
};

static void *take_small(const struct want *want, uint32_t size_class)
{
    struct hak_heap *heap = want->heap;
    void *block;
    lock_acquire(&heap->lock);
    (void)bank_take(&heap->bank, size_class, 1, &block);
    int is_clean = heap->bank.took_clean;
    lock_release(&heap->lock);
    if (block && want->is_zeroed) {
        memset(block, 0, is_clean ? sizeof(void *) : sc_table[size_class].size);
    }
    return block;
}

static void *take_large(const struct want *want)
{
    void *p = want->is_zeroed ? ace_alloc_zeroed(want->size, want->align) : ace_alloc(want->size, want->align);
    if (p && !record_large(want->heap, p)) {
        ace_free(p);
        p = NULL;
    }
    return p;
}

static void *take(void *context)
{
    const struct want *want = (const struct want *)context;
    uint32_t size_class = request_class(want->size, want->align);
    return size_class < SC_N_CLASSES ? take_small(want, size_class) : take_large(want);
}

static void *unhooked_alloc(struct hak_heap *heap, size_t size, size_t align, int is_zeroed)
{
    int is_noted = noted_wanted();
    struct want want = {heap, size, align, is_zeroed};
    if (is_noted && size <= PTRDIFF_MAX) {
        want.size += NOTED_RED_ZONE;
    }
    void *p = request(take, &want, want.size, align);
    if (is_noted && p) {
        noted_announce(p, size, is_zeroed);
    }
    return p;
}

static void *heap_alloc(struct hak_heap *heap, size_t size, size_t align, int is_zeroed)
{
    if (HAK_LIKELY(!hooks_wanted())) {
        return unhooked_alloc(heap, size, align, is_zeroed);
    }
    struct hak_hook_call call = {HAK_HOOK_ALLOC, NULL, size, align, NULL};
    const struct hak_hooks *hooks = hooks_begin(&call);
    call.result = unhooked_alloc(heap, size, align, is_zeroed);
    return hooks_end(hooks, &call);
}

void *hak_heap_malloc(struct hak_heap *heap, size_t size)
{
    return heap_alloc(heap, size, SC_MIN_ALIGN, 0);
}

void *hak_heap_calloc(struct hak_heap *heap, size_t n, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes)) {
        bytes = SIZE_MAX; /* which fails as it should */
    }
    return heap_alloc(heap, bytes, SC_MIN_ALIGN, 1);
}

void *hak_heap_aligned_alloc(struct hak_heap *heap, size_t alignment, size_t size)
{
    if (alignment == 0 || alignment & (alignment - 1)) {
        errno = EINVAL;
        return NULL;
    }
    return heap_alloc(heap, size, alignment, 0);
}

/* A large block that may move its pages is recorded under its new address before anybody else can get the old one. */
static void *resize_large(struct hak_heap *heap, void *p, size_t size)
{
    lock_acquire(&large_lock);
    struct large_node *node = find_large(p);
    if (node) {
        unlink_large(node); /* and kept: to record it again must not fail */
    }
    lock_release(&large_lock);
    void *resized = ace_resize(p, size);
    if (node) {
        lock_acquire(&large_lock);
        link_large(node, heap, resized ? resized : p);
        lock_release(&large_lock);
    }
    return resized;
}

static void *hooked_heap_realloc(struct hak_heap *heap, void *p, size_t size)
{
    struct hak_hook_call call = {HAK_HOOK_REALLOC, p, size, SC_MIN_ALIGN, NULL};
    const struct hak_hooks *hooks = hooks_begin(&call);
    call.result = hak_heap_realloc(heap, p, size);
    return hooks_end(hooks, &call);
}

void *hak_heap_realloc(struct hak_heap *heap, void *p, size_t size)
{
    if (noted_wanted()) {
        return noted_heap_realloc(heap, p, size);
    }
    if (HAK_UNLIKELY(hooks_wanted())) {
        return hooked_heap_realloc(heap, p, size);
    }
    if (!p) {
        return hak_heap_malloc(heap, size);
    }
    if (size == 0) {
        hak_free(p);
        return NULL;
    }
    size_t usable = hak_usable_size(p);
    HAK_CHECK(usable, "invalid pointer given to realloc", p);
    if (request_fits(usable, size)) {
        return p;
    }
    if (usable > SC_SMALL_MAX && size > SC_SMALL_MAX && size <= PTRDIFF_MAX) {
        void *resized = resize_large(heap, p, size);
        if (resized) {
            return resized;
        }
    }
    void *moved = hak_heap_malloc(heap, size);
    if (!moved) {
        return size <= usable ? p : NULL;
    }
    memcpy(moved, p, size < usable ? size : usable);
    hak_free(p);
    return moved;
}

/* --- heaps --- */

/* Registry lock held. */
static struct hak_heap *new_heap(void)
{
    struct hak_heap *heap = without_id ? without_id : (struct hak_heap *)os_meta_alloc(sizeof *heap);
    uint32_t id = heap ? bank_new_owner() : 0;
    without_id = id ? NULL : heap;
    if (!id) {
        return NULL;
    }
    heap->lock = (struct lock)LOCK_INIT(LOCK_RANK_HEAP);
    bank_init(&heap->bank, id);
    atomic_store_relaxed(&last_id, id > last_id ? id : last_id);
    atomic_store_release(&by_id[id], heap);
    return heap;
}

struct hak_heap *hak_heap_create(void)
{
    (void)heap_acquire(); /* starts the process: options, fork handlers */
    lock_acquire(&registry_lock);
    struct hak_heap *heap = unused;
    if (heap) {
        unused = heap->next_unused;
    } else {
        heap = new_heap();
    }
    if (heap) {
        heap->is_live = 1;
    }
    lock_release(&registry_lock);
    if (!heap) {
        errno = ENOMEM;
    }
    return heap;
}

struct slabs {
    struct slab *slab[DESTROY_SLABS];
    uint32_t n;
};

static int gather(const struct slab *slab, void *context)
{
    struct slabs *slabs = (struct slabs *)context;
    slabs->slab[slabs->n++] = (struct slab *)(uintptr_t)slab;
    return slabs->n == DESTROY_SLABS;
}

static void destroy_slabs(struct hak_heap *heap)
{
    struct slabs slabs;
    lock_acquire(&heap->lock);
    do {
        slabs.n = 0;
        pool_lock_acquire();
        (void)pool_for_each_slab(heap->bank.owner, gather, &slabs);
        pool_lock_release();
        for (uint32_t i = 0; i < slabs.n; i++) {
            pool_slab_free(slabs.slab[i]);
        }
    } while (slabs.n);
    bank_init(&heap->bank, heap->bank.owner);
    lock_release(&heap->lock);
}

static void *take_any_large(struct hak_heap *heap)
{
    lock_acquire(&large_lock);
    void *p = heap->large ? (void *)(uintptr_t)heap->large->by_address.address : NULL;
    if (p) {
        drop_large(heap->large);
    }
    lock_release(&large_lock);
    return p;
}

void hak_heap_destroy(struct hak_heap *heap)
{
    if (!heap) {
        return;
    }
    int saved = errno;
    void *p;
    lock_acquire(&registry_lock);
    HAK_CHECK(heap->is_live, "heap destroyed twice", heap);
    heap->is_live = 0;
    lock_release(&registry_lock);
    if (noted_wanted()) {
        noted_heap_gone(heap);
    }
    destroy_slabs(heap);
    while ((p = take_any_large(heap)) != NULL) {
        ace_free(p);
    }
    lock_acquire(&registry_lock);
    heap->next_unused = unused;
    unused = heap;
    lock_release(&registry_lock);
    background_poke();
    errno = saved;
}

void user_heap_trim_all(void)
{
    for (uint32_t id = 1, last = atomic_load_relaxed(&last_id); id <= last; id++) {
        struct hak_heap *heap = user_heap_by_id(id);
        if (heap) {
            lock_acquire(&heap->lock);
            bank_release_empty(&heap->bank);
            lock_release(&heap->lock);
        }
    }
}

/* The heap's list and the table hold the same. Lock OWNED held. */
static int verify_large(const struct hak_heap *heap)
{
    size_t n = 0;
    for (const struct large_node *node = heap->large; node; node = node->next, n++) {
        if (node->heap != heap || find_large(node->by_address.address) != node || n > heap->n_large) {
            return VERIFY_USER_HEAP_NODE;
        }
        if (hak_usable_size(node->by_address.address) == 0) {
            return VERIFY_USER_HEAP_BLOCK;
        }
    }
    return n == heap->n_large ? 0 : VERIFY_USER_HEAP_COUNT;
}

int user_heap_verify(void)
{
    int result = 0;
    for (uint32_t id = 1, last = atomic_load_relaxed(&last_id); id <= last && !result; id++) {
        struct hak_heap *heap = user_heap_by_id(id);
        if (!heap) {
            continue;
        }
        lock_acquire(&heap->lock);
        result = bank_verify(&heap->bank);
        lock_acquire(&large_lock);
        result = result ? result : verify_large(heap);
        lock_release(&large_lock);
        lock_release(&heap->lock);
    }
    return result;
}

static void for_each_lock(void (*act)(struct lock *lock))
{
    for (uint32_t id = 1; id <= last_id; id++) {
        if (by_id[id]) {
            act(&by_id[id]->lock);
        }
    }
}

void user_heap_fork_prepare(void)
{
    lock_acquire(&registry_lock);
    for_each_lock(lock_acquire);
}

/* The registry's last: a heap made before all are released would have a lock released that the fork never took. */
void user_heap_fork_end(void (*act)(struct lock *lock))
{
    for_each_lock(act);
    act(&registry_lock);
}

void user_heap_fork_large(void (*act)(struct lock *lock))
{
    act(&large_lock);
}
