/* First-class heaps. Called by programs through hak_heap_*, by the slow paths of free and realloc, and by fork. */
#include "hakmem/user_heap.h"

#include <errno.h>
#include <string.h>

#include "ace/ace.h"
#include "base/error.h"
#include "base/os.h"
#include "hakmem/background.h"
#include "hakmem/entry.h"
#include "hakmem/hakmem.h"
#include "hakmem/heap.h"
#include "hakmem/plain.h"
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

static struct lock registry_lock = LOCK_INIT(LOCK_RANK_HEAPS);
static struct hak_heap *by_id[BANK_MAX_OWNERS + 1];
static struct hak_heap *unused;
static struct hak_heap *without_id; /* one that found no id */
static uint32_t last_id;

static struct lock large_lock = LOCK_INIT(LOCK_RANK_OWNED);
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
    if (!atomic_load_relaxed(&user_heap_n_large)) {
        return NULL;
    }
    lock_acquire(&large_lock);
    const struct large_node *node = *find_large(p);
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

void *plain_heap_alloc(struct hak_heap *heap, size_t size, size_t alignment, int is_zeroed)
{
    struct want want = {heap, size, alignment, is_zeroed};
    return request(take, &want, size, alignment);
}

void *hak_heap_malloc(struct hak_heap *heap, size_t size)
{
    return entry_now()->heap_alloc(heap, size, 16, 0);
}

void *hak_heap_calloc(struct hak_heap *heap, size_t n, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes)) {
        bytes = SIZE_MAX; /* which fails as it should */
    }
    return entry_now()->heap_alloc(heap, bytes, 16, 1);
}

void *hak_heap_aligned_alloc(struct hak_heap *heap, size_t alignment, size_t size)
{
    if (alignment == 0 || alignment & (alignment - 1)) {
        errno = EINVAL;
        return NULL;
    }
    return entry_now()->heap_alloc(heap, size, alignment, 0);
}

/* A large block that may move its pages is recorded under its new address before anybody else can get the old one. */
void *user_heap_resize(struct hak_heap *heap, void *p, size_t size)
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
    void *p = heap->large ? (void *)(uintptr_t)heap->large->address : NULL;
    if (p) {
        unlink_large(find_large(p));
    }
    lock_release(&large_lock);
    return p;
}

void plain_heap_destroy(struct hak_heap *heap)
{
    int saved = errno;
    void *p;
    lock_acquire(&registry_lock);
    HAK_CHECK(heap->is_live, "heap destroyed twice", heap);
    heap->is_live = 0;
    lock_release(&registry_lock);
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

void hak_heap_destroy(struct hak_heap *heap)
{
    if (heap) {
        entry_now()->heap_destroy(heap);
    }
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
        if (ace_usable_size(node->address) == 0) {
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
