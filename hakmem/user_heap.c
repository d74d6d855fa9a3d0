/* First-class heaps. Called by programs through hak_heap_*, by the slow paths of free and realloc, and by fork.c. */
#include "hakmem/user_heap.h"

#include <errno.h>
#include <string.h>

#include "ace/ace.h"
#include "base/error.h"
#include "base/list.h"
#include "base/os.h"
#include "base/stats.h"
#include "base/verify.h"
#include "hakmem/background.h"
#include "hakmem/entry.h"
#include "hakmem/fork.h"
#include "hakmem/gate.h"
#include "hakmem/hakmem.h"
#include "hakmem/heap.h"
#include "hakmem/limbo.h"
#include "hakmem/plain.h"
#include "hakmem/request.h"
#include "hakmem/small.h"

/* A large block of a heap. */
struct large_node {
    struct address_node by_address; /* first */
    struct hak_heap *heap;
    struct large_node *next, *prev; /* of the heap */
};

static LOCK_DEFINE(registry_lock, LOCK_RANK_HEAPS);
static struct owner *unused; /* heaps, by next_unused */

static LOCK_DEFINE(large_lock, LOCK_RANK_OWNED);
struct address_table user_heap_large;

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
    struct hak_heap *heap = user_heap_of_owner(owner_by_id(TAG_OWNER(tag)));
    HAK_CHECK(heap, "invalid pointer freed (it belongs to a pool of its own)", block);
    if (HAK_UNLIKELY(!gate_enter())) {
        fork_defer_block(block);
        return;
    }
    lock_acquire(&heap->owner.lock);
    small_put(&heap->owner, TAG_CLASS(tag), block);
    owner_release(&heap->owner);
    gate_leave();
    background_poke();
}

struct hak_heap *user_heap_of(const void *p)
{
    uint32_t tag = map_find(p).tag;
    if (TAG_IS_SLAB(tag)) {
        return user_heap_of_owner(owner_by_id(TAG_OWNER(tag)));
    }
    if (HAK_UNLIKELY(tag == TAG_LIMBO)) {
        return user_heap_of_owner(limbo_owner(p));
    }
    enum gate_reader how = address_count(&user_heap_large) ? gate_enter_to_read() : GATE_REFUSED;
    if (how == GATE_REFUSED) {
        return NULL;
    }
    lock_acquire(&large_lock);
    const struct large_node *node = find_large(p);
    struct hak_heap *heap = node ? node->heap : NULL;
    lock_release(&large_lock);
    gate_leave_reader(how);
    return heap;
}

/* A heap that was made while the gate was closed is registered. Returns 0 if there is no id. Inside the gate. */
static int has_id(struct hak_heap *heap)
{
    lock_acquire(&registry_lock);
    int error = heap->owner.id ? 0 : owner_register(&heap->owner, OWNER_HEAP, LOCK_RANK_HEAP);
    lock_release(&registry_lock);
    return !error;
}

struct want {
    struct hak_heap *heap;
    size_t size, align;
    int is_zeroed;
};

static void *take_aside(void *context)
{
    const struct want *want = (const struct want *)context;
    return limbo_alloc(want->size, want->align, &want->heap->owner);
}

static void *take_small(struct want *want, uint32_t size_class)
{
    struct owner *owner = &want->heap->owner;
    void *block;
    if (owner_is_lost(owner)) {
        return take_aside(want);
    }
    if (HAK_UNLIKELY(!atomic_load_acquire(&owner->id)) && !has_id(want->heap)) {
        return NULL;
    }
    lock_acquire(&owner->lock);
    (void)small_take(owner, size_class, 1, &block);
    int is_clean = owner->bank.took_clean;
    owner_release(owner);
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
    struct want *want = (struct want *)context;
    uint32_t size_class = request_class(want->size, want->align);
    return size_class < SC_N_CLASSES ? take_small(want, size_class) : take_large(want);
}

void *plain_heap_alloc(struct hak_heap *heap, size_t size, size_t alignment, int is_zeroed)
{
    struct want want = {heap, size, alignment, is_zeroed};
    return request(take, take_aside, &want, size, alignment);
}

void *hak_heap_malloc(struct hak_heap *heap, size_t size)
{
    return entry_now()->heap_alloc(heap, size, SC_MIN_ALIGN, 0);
}

void *hak_heap_calloc(struct hak_heap *heap, size_t n, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes)) {
        bytes = SIZE_MAX; /* which fails as it should */
    }
    return entry_now()->heap_alloc(heap, bytes, SC_MIN_ALIGN, 1);
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

/* --- heaps --- */

/* Registry lock held. */
static struct owner *make_heap(void)
{
    struct owner *owner = unused ? unused : (struct owner *)os_meta_alloc(sizeof(struct hak_heap));
    if (!owner) {
        return NULL;
    }
    unused = owner->next_unused;
    if (owner_register(owner, OWNER_HEAP, LOCK_RANK_HEAP)) {
        owner->next_unused = unused;
        unused = owner;
        return NULL;
    }
    return owner;
}

static struct owner *create_inside(void)
{
    lock_acquire(&registry_lock);
    struct owner *owner = make_heap();
    lock_release(&registry_lock);
    return owner;
}

/* Its id comes with the first block that is not of limbo; its memory waits in `unused` later, like any. */
static struct owner *create_aside(void)
{
    struct owner *owner = (struct owner *)limbo_alloc(sizeof(struct hak_heap), _Alignof(struct hak_heap), LIMBO_INTERNAL);
    if (owner) {
        owner->kind = OWNER_HEAP;
    }
    return owner;
}

struct hak_heap *hak_heap_create(void)
{
    struct owner *owner;
    (void)heap_acquire(); /* starts the process: options, fork handlers */
    if (gate_enter()) {
        owner = create_inside();
        gate_leave();
    } else {
        owner = create_aside();
    }
    if (!owner) {
        errno = ENOMEM;
        return NULL;
    }
    atomic_store_seq(&owner->is_live, 1u);
    return user_heap_of_owner(owner);
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

void user_heap_end(struct hak_heap *heap)
{
    void *p;
    while ((p = take_any_large(heap)) != NULL) {
        ace_free(p);
    }
    if (owner_is_lost(&heap->owner)) {
        return; /* its slabs and its id stay with it */
    }
    if (heap->owner.id) {
        owner_unregister(&heap->owner);
    }
    lock_acquire(&registry_lock);
    heap->owner.next_unused = unused;
    unused = &heap->owner;
    lock_release(&registry_lock);
}

void plain_heap_destroy(struct hak_heap *heap)
{
    int saved = errno;
    HAK_CHECK(atomic_exchange_seq(&heap->owner.is_live, 0u), "heap destroyed twice", heap);
    fork_catch_up(); /* blocks of it that were freed while the gate was closed */
    limbo_free_of(&heap->owner);
    if (gate_enter()) {
        user_heap_end(heap);
        gate_leave();
    } else {
        fork_defer_end(&heap->owner);
    }
    background_poke();
    errno = saved;
}

void hak_heap_destroy(struct hak_heap *heap)
{
    if (heap) {
        entry_now()->heap_destroy(heap);
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
        if (ace_usable_size(node->by_address.address) == 0) {
            return VERIFY_USER_HEAP_BLOCK;
        }
    }
    return n == heap->n_large ? 0 : VERIFY_USER_HEAP_COUNT;
}

int user_heap_verify(void)
{
    int result = 0;
    struct owner *owner;
    for (uint32_t id = 0; !result && (owner = owner_next(&id)) != NULL;) {
        const struct hak_heap *heap = user_heap_of_owner(owner);
        if (heap) {
            lock_acquire(&large_lock);
            result = verify_large(heap);
            lock_release(&large_lock);
        }
    }
    return result;
}
