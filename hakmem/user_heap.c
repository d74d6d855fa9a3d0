/* First-class heaps. Called by programs through hak_heap_*, by the slow paths of free and realloc, and by fork. */
#include "hakmem/user_heap.h"

#include <errno.h>
#include <string.h>

#include "ace/ace.h"
#include "base/error.h"
#include "base/os.h"
#include "base/stats.h"
#include "hakmem/background.h"
#include "hakmem/fork.h"
#include "hakmem/gate.h"
#include "hakmem/hakmem.h"
#include "hakmem/heap.h"
#include "hakmem/hooks.h"
#include "hakmem/limbo.h"
#include "hakmem/noted.h"
#include "hakmem/request.h"
#include "superslab/pool.h"

#define N_BUCKETS HAK_TINY_OR((size_t)4, (size_t)4096)
/* How many slabs are given back at a time when a heap is destroyed: each time all superslabs are looked through. */
#define DESTROY_SLABS HAK_TINY_OR(2u, 256u)

/* A large block of a heap. Unused nodes: next_in_bucket only. */
struct large_node {
    const void *address;
    struct hak_heap *heap;
    struct large_node *next_in_bucket;
    struct large_node *next, *prev; /* of the heap */
};

static LOCK_DEFINE(registry_lock, LOCK_RANK_HEAPS);
static struct hak_heap *by_id[BANK_MAX_OWNERS + 1];
static struct hak_heap *unused;
static struct hak_heap *without_id; /* one that found no id */
static uint32_t last_id;

static LOCK_DEFINE(large_lock, LOCK_RANK_OWNED);
static struct large_node *buckets[N_BUCKETS];
static struct large_node *unused_nodes;
size_t user_heap_n_large;

struct hak_heap *user_heap_by_id(uint32_t id)
{
    return id <= BANK_MAX_OWNERS ? atomic_load_acquire(&by_id[id]) : NULL;
}

/* --- the table of large blocks --- */

static struct large_node **bucket_of(const void *p)
{
    return &buckets[(size_t)((uint64_t)((uintptr_t)p >> 13) * 0x9E3779B97F4A7C15u >> 40) % N_BUCKETS];
}

/* The link that points to the block's node, or to NULL behind the bucket's last. Lock OWNED held. */
static struct large_node **find_large(const void *p)
{
    struct large_node **link = bucket_of(p);
    while (*link && (*link)->address != p) {
        link = &(*link)->next_in_bucket;
    }
    return link;
}

static struct large_node *new_node(void)
{
    struct large_node *node = unused_nodes;
    if (node) {
        unused_nodes = node->next_in_bucket;
        return node;
    }
    return (struct large_node *)os_meta_alloc(sizeof *node);
}

static void link_large(struct large_node *node, struct hak_heap *heap, const void *p)
{
    struct large_node **bucket = bucket_of(p);
    *node = (struct large_node){p, heap, *bucket, heap->large, NULL};
    *bucket = node;
    if (heap->large) {
        heap->large->prev = node;
    }
    heap->large = node;
    heap->n_large++;
    atomic_store_relaxed(&user_heap_n_large, user_heap_n_large + 1);
}

static void unlink_large(struct large_node **link)
{
    struct large_node *node = *link;
    *link = node->next_in_bucket;
    *(node->prev ? &node->prev->next : &node->heap->large) = node->next;
    if (node->next) {
        node->next->prev = node->prev;
    }
    node->heap->n_large--;
    atomic_store_relaxed(&user_heap_n_large, user_heap_n_large - 1);
    node->next_in_bucket = unused_nodes;
    unused_nodes = node;
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
    struct large_node **link = find_large(p);
    if (*link) {
        unlink_large(link);
    }
    lock_release(&large_lock);
}

/* --- blocks --- */

void user_heap_put(void *block, uint32_t tag)
{
    struct hak_heap *heap = user_heap_by_id(TAG_OWNER(tag));
    HAK_CHECK(heap, "invalid pointer freed (it belongs to a pool of its own)", block);
    if (HAK_UNLIKELY(!gate_enter())) {
        fork_defer_block(block);
        return;
    }
    lock_acquire(&heap->lock);
    bank_put(&heap->bank, block);
    lock_release(&heap->lock);
    gate_leave();
    background_poke();
}

struct hak_heap *user_heap_of(const void *p)
{
    uint32_t tag = map_find(p).tag;
    if (TAG_IS_SLAB(tag)) {
        return user_heap_by_id(TAG_OWNER(tag));
    }
    if (HAK_UNLIKELY(tag == TAG_LIMBO)) {
        return limbo_owner(p);
    }
    enum gate_reader how = atomic_load_relaxed(&user_heap_n_large) ? gate_enter_to_read() : GATE_REFUSED;
    if (how == GATE_REFUSED) {
        return NULL;
    }
    lock_acquire(&large_lock);
    const struct large_node *node = *find_large(p);
    struct hak_heap *heap = node ? node->heap : NULL;
    lock_release(&large_lock);
    gate_leave_reader(how);
    return heap;
}

struct want {
    struct hak_heap *heap;
    size_t size, align;
    int is_zeroed;
};

static int register_heap(struct hak_heap *heap);

static void *take_small(const struct want *want, uint32_t size_class)
{
    struct hak_heap *heap = want->heap;
    void *block;
    if (HAK_UNLIKELY(!heap->bank.owner) && !register_heap(heap)) {
        return NULL;
    }
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

static void *take_aside(void *context)
{
    const struct want *want = (const struct want *)context;
    return limbo_alloc(want->size, want->align, want->heap);
}

static void *unhooked_alloc(struct hak_heap *heap, size_t size, size_t align, int is_zeroed)
{
    int is_noted = noted_wanted();
    struct want want = {heap, size, align, is_zeroed};
    if (is_noted && size <= PTRDIFF_MAX) {
        want.size += NOTED_RED_ZONE;
    }
    void *p = request(take, take_aside, &want, want.size, align);
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
    return heap_alloc(heap, size, 16, 0);
}

void *hak_heap_calloc(struct hak_heap *heap, size_t n, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes)) {
        bytes = SIZE_MAX; /* which fails as it should */
    }
    return heap_alloc(heap, bytes, 16, 1);
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
    struct large_node **link = find_large(p);
    struct large_node *node = *link;
    if (node) {
        unlink_large(link);
        unused_nodes = node->next_in_bucket; /* kept: to record it again must not fail */
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
    struct hak_hook_call call = {HAK_HOOK_REALLOC, p, size, 16, NULL};
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
    if (usable > SC_SMALL_MAX && size > SC_SMALL_MAX && size <= PTRDIFF_MAX && map_find(p).tag != TAG_LIMBO &&
        gate_enter()) {
        void *resized = resize_large(heap, p, size);
        gate_leave();
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

/* Gives the heap its id. Returns 0 if there is none left. Registry lock held. */
static int give_id(struct hak_heap *heap)
{
    uint32_t id = heap->bank.owner ? heap->bank.owner : bank_new_owner();
    if (id && !heap->bank.owner) {
        lock_init(&heap->lock, LOCK_RANK_HEAP);
        bank_init(&heap->bank, id);
        atomic_store_relaxed(&last_id, id > last_id ? id : last_id);
        atomic_store_release(&by_id[id], heap);
    }
    return id != 0;
}

/* For a heap that was made while the gate was closed. Inside the gate. */
static int register_heap(struct hak_heap *heap)
{
    lock_acquire(&registry_lock);
    int has_id = give_id(heap);
    lock_release(&registry_lock);
    return has_id;
}

/* Registry lock held. */
static struct hak_heap *new_heap(void)
{
    struct hak_heap *heap = without_id ? without_id : (struct hak_heap *)os_meta_alloc(sizeof *heap);
    without_id = NULL;
    if (heap && !give_id(heap)) {
        without_id = heap;
        return NULL;
    }
    return heap;
}

/* Its id comes with the first block that is not of limbo; its memory waits in `unused` later, like any. */
static struct hak_heap *create_aside(void)
{
    return (struct hak_heap *)limbo_alloc(sizeof(struct hak_heap), 64, LIMBO_INTERNAL);
}

static struct hak_heap *create_inside(void)
{
    lock_acquire(&registry_lock);
    struct hak_heap *heap = unused;
    if (heap) {
        unused = heap->next_unused;
        if (!give_id(heap)) {
            heap->next_unused = unused;
            unused = heap;
            heap = NULL;
        }
    } else {
        heap = new_heap();
    }
    lock_release(&registry_lock);
    return heap;
}

struct hak_heap *hak_heap_create(void)
{
    (void)heap_acquire(); /* starts the process: options, fork handlers */
    int is_inside = gate_enter();
    struct hak_heap *heap = is_inside ? create_inside() : create_aside();
    if (is_inside) {
        gate_leave();
    }
    if (!heap) {
        errno = ENOMEM;
        return NULL;
    }
    atomic_store_seq(&heap->is_live, 1u);
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
        lock_acquire(&pool_lock);
        (void)pool_for_each_slab(heap->bank.owner, gather, &slabs);
        lock_release(&pool_lock);
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
    void *p = heap->large ? (void *)(uintptr_t)heap->large->address : NULL;
    if (p) {
        unlink_large(find_large(p));
    }
    lock_release(&large_lock);
    return p;
}

void user_heap_end(struct hak_heap *heap)
{
    void *p;
    if (heap->bank.owner) {
        destroy_slabs(heap);
    }
    while ((p = take_any_large(heap)) != NULL) {
        ace_free(p);
    }
    lock_acquire(&registry_lock);
    heap->next_unused = unused;
    unused = heap;
    lock_release(&registry_lock);
}

void hak_heap_destroy(struct hak_heap *heap)
{
    if (!heap) {
        return;
    }
    int saved = errno;
    HAK_CHECK(atomic_exchange_seq(&heap->is_live, 0u), "heap destroyed twice", heap);
    if (noted_wanted()) {
        noted_heap_gone(heap);
    }
    fork_catch_up(); /* blocks of it that were freed while the gate was closed */
    if (stat_get(limbo_bytes)) {
        limbo_free_of(heap);
    }
    if (gate_enter()) {
        user_heap_end(heap);
        gate_leave();
    } else {
        fork_defer_destroy(heap);
    }
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
        if (node->heap != heap || *find_large(node->address) != node || n > heap->n_large) {
            return 60;
        }
        if (hak_usable_size(node->address) == 0) {
            return 61;
        }
    }
    return n == heap->n_large ? 0 : 62;
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
