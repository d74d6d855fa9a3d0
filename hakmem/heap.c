/* First-class heaps. Called by programs through hak_heap_*, by the slow paths of free and realloc,
   and by fork.c. */
#include "hakmem/heap.h"

#include <errno.h>
#include <string.h>

#include "ace/ace.h"
#include "base/error.h"
#include "base/list.h"
#include "base/os.h"
#include "base/stats.h"
#include "base/verify.h"
#include "hakmem/entry.h"
#include "hakmem/hakmem.h"
#include "hakmem/plain.h"
#include "hakmem/request.h"
#include "heap/background.h"
#include "heap/fork.h"
#include "heap/gate.h"
#include "heap/limbo.h"
#include "heap/small.h"
#include "heap/theap.h"

/* A large block of a heap. */
struct large_node {
    struct address_node by_address; /* first */
    struct hak_heap *heap;
    struct large_node *next, *prev; /* of the heap */
    uint64_t serial;                /* when it came into the list: no two have the same */
};

static LOCK_DEFINE(registry_lock, LOCK_RANK_HEAPS);

static LOCK_DEFINE(large_lock, LOCK_RANK_OWNED);
HAK_LARGE_ZEROS struct address_table hak_heap_large;
static uint64_t last_serial; /* OWNED */

/* --- the table of large blocks --- */

/* The block's node, or NULL. Lock OWNED held. */
static struct large_node *find_large(const void *p)
{
    return (struct large_node *)(void *)*hak_address_find(&hak_heap_large, p);
}

static void link_large(struct large_node *node, struct hak_heap *heap, const void *p)
{
    hak_address_add(&hak_heap_large, &node->by_address, p);
    node->heap = heap;
    node->serial = ++last_serial;
    LIST_PUSH(&heap->large, node, next, prev);
    heap->n_large++;
}

/* Out of its table and its heap's list. */
static void unlink_large(struct large_node *node)
{
    (void)hak_address_take_out(&hak_heap_large,
                               hak_address_find(&hak_heap_large, node->by_address.address));
    LIST_TAKE_OUT(&node->heap->large, node, next, prev);
    node->heap->n_large--;
    node->heap = NULL; /* for who comes back to it */
}

static void drop_large(struct large_node *node)
{
    unlink_large(node);
    hak_address_drop(&hak_heap_large, &node->by_address);
}

static int record_large(struct hak_heap *heap, const void *p)
{
    struct large_node *node =
        (struct large_node *)hak_address_new(&hak_heap_large, &large_lock, sizeof *node);
    if (node) {
        hak_lock_acquire(&large_lock);
        link_large(node, heap, p);
        hak_lock_release(&large_lock);
    }
    return node != NULL;
}

void hak_heap_forget_large(const void *p)
{
    hak_lock_acquire(&large_lock);
    struct large_node *node = find_large(p);
    if (node) {
        drop_large(node);
    }
    hak_lock_release(&large_lock);
}

/* The first node that a walk has not visited yet. Lock OWNED held. */
static struct large_node *go_on(const struct hak_heap *heap, const struct heap_large_walk *place)
{
    for (uint32_t i = place->n_nodes; i-- > 0;) {
        struct large_node *node = place->nodes[i];
        if (node->heap == heap && node->serial == place->serials[i]) {
            return i == place->n ? node : node->next;
        }
    }
    struct large_node *node = heap->large;
    while (node && place->n && node->serial >= place->serials[place->n - 1]) {
        node = node->next;
    }
    return node;
}

uint32_t hak_heap_next_large(struct hak_heap *heap, struct heap_large_walk *place)
{
    hak_lock_acquire(&large_lock);
    struct large_node *node = go_on(heap, place);
    uint32_t n = 0;
    for (; node && n <= LARGE_AT_ONCE; n++, node = node->next) {
        place->nodes[n] = node;
        place->serials[n] = node->serial;
        if (n < LARGE_AT_ONCE) {
            place->blocks[n] = (void *)(uintptr_t)node->by_address.address;
        }
    }
    place->n_nodes = n;
    place->n = n < LARGE_AT_ONCE ? n : LARGE_AT_ONCE;
    hak_lock_release(&large_lock);
    return place->n;
}

size_t hak_heap_large_size(struct hak_heap *heap, const void *p)
{
    hak_lock_acquire(&large_lock);
    const struct large_node *node = find_large(p);
    size_t size = node && node->heap == heap ? hak_ace_usable_size(p) : 0;
    hak_lock_release(&large_lock);
    return size;
}

/* --- blocks --- */

struct hak_heap *hak_heap_of(const void *p)
{
    uint32_t tag = hak_map_find(p).tag;
    if (TAG_IS_SLAB(tag)) {
        return hak_heap_of_owner(hak_owner_by_id(TAG_OWNER(tag)));
    }
    if (HAK_UNLIKELY(tag == TAG_LIMBO)) {
        return hak_heap_of_owner(hak_limbo_owner(p));
    }
    enum gate_reader how =
        hak_address_count(&hak_heap_large) ? hak_gate_enter_to_read() : GATE_REFUSED;
    if (how == GATE_REFUSED) {
        return NULL;
    }
    hak_lock_acquire(&large_lock);
    const struct large_node *node = find_large(p);
    struct hak_heap *heap = node ? node->heap : NULL;
    hak_lock_release(&large_lock);
    hak_gate_leave_reader(how);
    return heap;
}

/* A heap that was made while the gate was closed is registered. Returns 0 if there is no id. Inside
   the gate. */
static int has_id(struct hak_heap *heap)
{
    hak_lock_acquire(&registry_lock);
    int error = heap->owner.id ? 0 : hak_owner_register(&heap->owner, OWNER_HEAP, LOCK_RANK_HEAP);
    hak_lock_release(&registry_lock);
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
    return hak_limbo_alloc(want->size, want->align, &want->heap->owner);
}

static void *take_small(struct want *want, uint32_t size_class)
{
    struct owner *owner = &want->heap->owner;
    int is_clean;
    if (hak_owner_is_lost(owner)) {
        return take_aside(want);
    }
    if (HAK_UNLIKELY(!atomic_load_acquire(&owner->id)) && !has_id(want->heap)) {
        return take_aside(want); /* no id is left: it was made, so it serves */
    }
    void *block = hak_owner_take_one(owner, size_class, hak_small_take, &is_clean);
    if (block && want->is_zeroed) {
        memset(block, 0, is_clean ? sizeof(void *) : hak_sc_table[size_class].size);
    }
    return block;
}

static void *take_large(const struct want *want)
{
    void *p = want->is_zeroed ? hak_ace_alloc_zeroed(want->size, want->align)
                              : hak_ace_alloc(want->size, want->align);
    if (p && !record_large(want->heap, p)) {
        hak_ace_free(p);
        p = NULL;
    }
    return p;
}

static void *take(void *context)
{
    struct want *want = (struct want *)context;
    uint32_t size_class = hak_request_class(want->size, want->align);
    return size_class < SC_N_CLASSES ? take_small(want, size_class) : take_large(want);
}

void *hak_plain_heap_alloc(struct hak_heap *heap, size_t size, size_t alignment, int is_zeroed)
{
    struct want want = {heap, size, alignment, is_zeroed};
    return hak_request(take, take_aside, &want, size, alignment);
}

void *hak_heap_malloc(struct hak_heap *heap, size_t size)
{
    return hak_entry_now()->heap_alloc(heap, size, SC_MIN_ALIGN, 0);
}

void *hak_heap_calloc(struct hak_heap *heap, size_t n, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes)) {
        bytes = SIZE_MAX; /* which fails as it should */
    }
    return hak_entry_now()->heap_alloc(heap, bytes, SC_MIN_ALIGN, 1);
}

void *hak_heap_aligned_alloc(struct hak_heap *heap, size_t alignment, size_t size)
{
    if (alignment == 0 || alignment & (alignment - 1)) {
        errno = EINVAL;
        return NULL;
    }
    return hak_entry_now()->heap_alloc(heap, size, alignment, 0);
}

/* A large block that may move its pages is recorded under its new address before anybody else can
   get the old one. */
void *hak_heap_resize(struct hak_heap *heap, void *p, size_t size)
{
    hak_lock_acquire(&large_lock);
    struct large_node *node = find_large(p);
    if (node) {
        unlink_large(node); /* and kept: to record it again must not fail */
    }
    hak_lock_release(&large_lock);
    void *resized = hak_ace_resize(p, size);
    if (node) {
        hak_lock_acquire(&large_lock);
        link_large(node, heap, resized ? resized : p);
        hak_lock_release(&large_lock);
    }
    return resized;
}

/* --- heaps --- */

static struct owner *create_inside(void)
{
    struct owner *owner = hak_owner_take_spare(OWNER_HEAP, 1);
    owner = owner ? owner : hak_owner_new(hak_os_meta_alloc(sizeof(struct hak_heap)), OWNER_HEAP);
    if (owner && hak_owner_register(owner, OWNER_HEAP, LOCK_RANK_HEAP)) {
        (void)hak_owner_keep_spare(owner, 1);
        owner = NULL;
    }
    return owner;
}

/* Its id comes with the first block that is not of limbo. */
static struct owner *create_aside(void)
{
    struct owner *owner = hak_owner_take_spare(OWNER_HEAP, 0);
    return owner ? owner
                 : hak_owner_new(hak_limbo_alloc(sizeof(struct hak_heap), _Alignof(struct hak_heap),
                                                 LIMBO_INTERNAL),
                                 OWNER_HEAP);
}

struct hak_heap *hak_heap_create(void)
{
    struct owner *owner;
    (void)hak_theap_acquire(); /* starts the process: options, fork handlers */
    if (hak_gate_enter()) {
        owner = create_inside();
        hak_gate_leave();
    } else {
        owner = create_aside();
        hak_fork_catch_up(); /* a fork in a signal handler may have left it to this thread */
    }
    if (!owner) {
        errno = ENOMEM;
        return NULL;
    }
    atomic_store_seq(&owner->is_live, 1u);
    return hak_heap_of_owner(owner);
}

static void *take_any_large(struct hak_heap *heap)
{
    hak_lock_acquire(&large_lock);
    void *p = heap->large ? (void *)(uintptr_t)heap->large->by_address.address : NULL;
    if (p) {
        drop_large(heap->large);
    }
    hak_lock_release(&large_lock);
    return p;
}

void hak_heap_end(struct hak_heap *heap)
{
    void *p;
    while ((p = take_any_large(heap)) != NULL) {
        hak_ace_free(p);
    }
    if (hak_owner_is_lost(&heap->owner)) {
        return; /* its slabs and its id stay with it */
    }
    if (heap->owner.id) {
        hak_owner_unregister(&heap->owner);
    }
    (void)hak_owner_keep_spare(&heap->owner, 1);
}

void hak_plain_heap_destroy(struct hak_heap *heap)
{
    int saved = errno;
    HAK_CHECK(atomic_exchange_seq(&heap->owner.is_live, 0u), "heap destroyed twice", heap);
    hak_limbo_free_of(&heap->owner);
    if (hak_gate_enter()) {
        hak_fork_catch_up_inside(); /* blocks of it that were freed while the gate was closed */
        hak_heap_end(heap);
        hak_gate_leave();
    } else if (heap->owner.id || heap->n_large || !hak_owner_keep_spare(&heap->owner, 0)) {
        hak_fork_defer_end(&heap->owner); /* it has more than blocks of limbo */
    }
    hak_background_poke();
    errno = saved;
}

void hak_heap_destroy(struct hak_heap *heap)
{
    if (heap) {
        hak_entry_now()->heap_destroy(heap);
    }
}

/* The heap's list and the table hold the same. Lock OWNED held. */
static int verify_large(const struct hak_heap *heap)
{
    size_t n = 0;
    for (const struct large_node *node = heap->large; node; node = node->next, n++) {
        if (node->heap != heap || find_large(node->by_address.address) != node ||
            n > heap->n_large) {
            return VERIFY_USER_HEAP_NODE;
        }
        if (hak_ace_usable_size(node->by_address.address) == 0) {
            return VERIFY_USER_HEAP_BLOCK;
        }
    }
    return n == heap->n_large ? 0 : VERIFY_USER_HEAP_COUNT;
}

int hak_heap_verify(void)
{
    int result = 0;
    struct owner *owner;
    for (uint32_t id = 0; !result && (owner = hak_owner_next(&id)) != NULL;) {
        const struct hak_heap *heap = hak_heap_of_owner(owner);
        if (heap) {
            hak_lock_acquire(&large_lock);
            result = verify_large(heap);
            hak_lock_release(&large_lock);
        }
    }
    return result;
}
