/* Large blocks: their records, allocating, freeing and looking. One lock (rank OWNED), for the
   records alone: the system is called without it, by the one thread that has the block. Called by
   layer.c. */
#include "secure/large.h"

#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "base/verify.h"
#include "hakmem/fallback.h"
#include "hakmem/heap.h"
#include "hakmem/request.h"
#include "heap/fork.h"
#include "heap/gate.h"
#include "secure/blame.h"
#include "secure/large_internal.h"
#include "secure/quarantine.h"
#include "superslab/map.h"
#include "superslab/superslab.h"

#if HAK_SECURE

/* Address space ahead of a block that grows by realloc: as much again as half of it. */
#define GROW_SHIFT 1

LOCK_DEFINE(hak_secure_large_lock, LOCK_RANK_OWNED);
struct address_table hak_secure_large_table;

struct large *hak_secure_large_record_of(const void *container)
{
    return (struct large *)(void *)*hak_address_find(&hak_secure_large_table, container);
}

void hak_secure_large_watch(struct large *large, unsigned edges)
{
    const struct edges around = hak_secure_edges_of(large);
    large->watched =
        edges | hak_secure_edges_choose(large->body.bytes, hak_secure_body_is_lent(&large->body));
    hak_secure_edges_fill(&around, large->watched);
}

void hak_secure_large_check_edges(const struct large *large)
{
    const struct edges edges = hak_secure_edges_of(large);
    hak_secure_edges_check(&edges, large->watched);
}

void hak_secure_large_abandon(struct large *large)
{
    atomic_store_release(&large->state, (uint32_t)LARGE_FREED);
    hak_secure_body_leave(&large->body);
    hak_secure_quarantine_give_back(large);
}

/* --- allocating --- */

/* What a new block is to be. */
struct request {
    struct hak_heap *heap; /* or NULL */
    size_t alignment, size;
    size_t bytes; /* of the container, at least */
    struct spot spot;
    int is_try; /* if it is refused, the program's request is not yet */
};

/* Whole units, of which spans and ranges are made anyway: what would be left of the last one, and
   may be touched, were two mappings more. */
static size_t container_bytes(size_t size, size_t alignment)
{
    size_t page = hak_os_page_size();
    return hak_secure_round_to(page + hak_secure_round_to(size, page) + page +
                                   (alignment > page ? alignment : 0),
                               SS_UNIT_BYTES);
}

/* So many bytes on either side of a block without guards are looked at when it is freed. */
#define BARE_EDGE ((size_t)SC_MIN_ALIGN)

/* A sealed container, or a bare one, gets a block. Returns 0 if the system refuses. Until its state
   is USED, no other thread looks at it. */
static int dress(struct large *large, const struct request *request)
{
    size_t page = hak_os_page_size(), size = request->size, alignment = request->alignment,
           offset = request->spot.offset == AT_END ? 0 : request->spot.offset,
           edge = large->is_bare ? BARE_EDGE : 0,
           bytes = hak_secure_round_to(offset + size + 2 * edge, page);
    uintptr_t first = (uintptr_t)hak_secure_container_of(large) + page;
    first = alignment > page ? hak_secure_round_to(first, alignment) : first;
    large->heap = request->heap;
    if (large->is_bare) {
        hak_secure_body_get_bare(&large->body, (char *)first, bytes);
    } else if (!hak_secure_body_get(&large->body, (char *)first, bytes, request->spot.brought,
                                    !request->heap)) {
        return 0;
    }
    if (alignment <= page && request->spot.offset == AT_END) {
        offset = bytes - hak_secure_round_to(size + edge, alignment);
    }
    large->start = large->body.start + offset;
    large->size = size;
    large->family = ENTRY_MALLOC;
    atomic_store_relaxed(&large->state, (uint32_t)LARGE_CHANGING);
    return 1;
}

static struct large *describe(void *container)
{
    struct large *large = (struct large *)hak_address_new(&hak_secure_large_table,
                                                          &hak_secure_large_lock, sizeof *large);
    if (large) {
        large->heap = NULL;
        large->bytes = hak_secure_below()->usable_size(container) & ~(hak_os_page_size() - 1);
        large->by_address.address = container;
        large->state = LARGE_FREED;
        large->is_open = large->is_bare = 0;
    }
    return large;
}

static void enter(struct large *large, const void *container)
{
    hak_lock_acquire(&hak_secure_large_lock);
    struct address_node **old = hak_address_find(&hak_secure_large_table, container);
    if (*old) { /* of a block that was freed while the gate was closed */
        hak_address_drop(&hak_secure_large_table,
                         hak_address_take_out(&hak_secure_large_table, old));
    }
    hak_address_add(&hak_secure_large_table, &large->by_address, container);
    hak_lock_release(&hak_secure_large_lock);
}

/* A container of the plain functions becomes one of ours. NULL if there is no memory to record it,
   or the system refuses. Inside the gate. */
static struct large *record(void *container, const struct request *request)
{
    struct large *large = describe(container);
    if (!large) {
        hak_secure_below()->free(container);
        return NULL;
    }
    large->is_bare = (uint32_t)hak_secure_body_is_crowded();
    if (!large->is_bare) {
        hak_secure_body_seal((char *)container, large->bytes, 1);
    }
    enter(large, container);
    if ((large->is_bare && request->spot.brought) || !dress(large, request)) {
        large->heap = NULL;
        hak_secure_quarantine_give_back(large);
        return NULL;
    }
    return large;
}

static void *ask(const struct request *request, int is_try)
{
    const int was_try = hak_request_is_try; /* a layer above may try, too */
    hak_request_is_try = is_try || was_try;
    void *p = request->heap
                  ? hak_secure_below()->heap_alloc(request->heap, request->bytes, SC_MIN_ALIGN, 0)
                  : hak_secure_below()->malloc(request->bytes);
    hak_request_is_try = was_try;
    return p;
}

/* A program's request is refused once: it is a try if another one follows. */
static void *ask_twice(const struct request *request)
{
    int waits = hak_secure_quarantine_is_any();
    void *p = ask(request, request->is_try || waits);
    if (HAK_LIKELY(p != NULL) || !waits) {
        return p;
    }
    return hak_secure_large_flush() || !request->is_try ? ask(request, request->is_try) : NULL;
}

static int is_container(const void *p)
{
    uint32_t tag = hak_map_find(p).tag;
    return tag == TAG_SPAN || tag == TAG_RANGE;
}

/* `other`: what limbo or libc served in place of a container. */
static struct large *make_fresh(const struct request *request, void **other)
{
    for (;;) {
        void *container = ask_twice(request);
        if (!container || !is_container(container)) {
            *other = container;
            return NULL;
        }
        if (HAK_LIKELY(hak_gate_enter())) {
            struct large *large = record(container, request);
            hak_gate_leave();
            return large;
        }
        /* A fork has closed the gate: nothing may be recorded, and limbo serves the next try. */
        hak_secure_below()->free(container);
    }
}

/* The gate is closed: the plain functions free the container of a freed record later. Where the
   system refuses to make it touchable, it is stuck; nothing of the block is left to be read. */
static void give_back_later(struct large *large)
{
    if (hak_secure_quarantine_open(large) == 0) {
        atomic_store_release(&large->is_open, 1u);
        hak_fork_defer_block(hak_secure_container_of(large));
    } else {
        hak_secure_body_seal(large->body.start, large->body.bytes, 0);
        if (!large->heap) { /* else the heap's end tries again */
            hak_secure_quarantine_stick_later(large);
        }
    }
}

void hak_secure_large_abandon_later(struct large *large)
{
    atomic_store_release(&large->state, (uint32_t)LARGE_FREED);
    hak_secure_body_forget(&large->body);
    give_back_later(large);
}

/* From a ready container; NULL if there is none. */
static struct large *make_ready(const struct request *request)
{
    struct large *large =
        request->heap || request->alignment > hak_os_page_size() || hak_secure_body_is_crowded()
            ? NULL
            : hak_secure_quarantine_ready(request->bytes);
    if (large && !dress(large, request)) {
        if (hak_gate_enter()) {
            hak_secure_quarantine_give_back(large);
            hak_gate_leave();
        } else {
            give_back_later(large);
        }
        large = NULL;
    }
    return large;
}

static struct large *make(const struct request *request, void **other)
{
    struct large *large = make_ready(request);
    return large ? large : make_fresh(request, other);
}

static void *hand_out(struct large *large)
{
    hak_secure_large_watch(large, large->is_bare ? EDGE_BEFORE | EDGE_BEHIND : 0);
    atomic_store_release(&large->state, (uint32_t)LARGE_USED);
    return large->start;
}

int hak_secure_serve_anew(struct hak_heap *heap, void **p, size_t alignment, size_t size)
{
    int is_libcs = !hak_map_find(*p).tag;
    hak_secure_below()->free(*p);
    /* libc's again: the plain functions may have room for the block, but not for its guards. */
    *p = is_libcs ? hak_fallback_alloc(size, alignment, 0, 1)
         : heap   ? hak_secure_below()->heap_alloc(heap, size, alignment, 1)
                  : hak_secure_below()->aligned(alignment, size);
    if (*p && (is_container(*p) || TAG_IS_SLAB(hak_map_find(*p).tag))) {
        hak_secure_below()->free(*p);
        return 0;
    }
    if (*p) {
        memset(*p, 0, size);
    }
    return 1;
}

/* What limbo or libc served is handed through, at the right place, and zero. Returns 0 if the fork
   that closed the gate is over, so that nothing is: a block of the plain functions' has no record.
 */
static int hand_through(void **served, const struct request *request)
{
    if (*served && (uintptr_t)*served % request->alignment) {
        if (!hak_secure_serve_anew(request->heap, served, request->alignment, request->size)) {
            return 0;
        }
    } else if (*served) {
        memset(*served, 0, request->size);
    }
    if (!*served) {
        errno = ENOMEM;
    }
    return 1;
}

void *hak_secure_large_alloc(struct hak_heap *heap, size_t alignment, size_t size)
{
    size_t page = hak_os_page_size();
    const size_t most = PTRDIFF_MAX - 4 * page - SS_UNIT_BYTES;
    if (size > most || alignment > most - size) {
        return heap ? hak_secure_below()->heap_alloc(heap, size, alignment, 0)
                    : hak_secure_below()->malloc(size > PTRDIFF_MAX ? size
                                                                    : PTRDIFF_MAX + (size_t)1);
    }
    alignment = alignment < SC_MIN_ALIGN ? SC_MIN_ALIGN : alignment;
    const struct request request = {heap,        alignment, size, container_bytes(size, alignment),
                                    {AT_END, 0}, 0};
    void *other;
    do {
        other = NULL;
        struct large *large = make(&request, &other);
        if (HAK_LIKELY(large != NULL)) {
            return hand_out(large);
        }
    } while (!hand_through(&other, &request));
    return other;
}

struct large *hak_secure_large_make_growing(size_t size, struct spot spot)
{
    void *other = NULL;
    if (size > PTRDIFF_MAX / 4) {
        return NULL;
    }
    const struct request request = {
        NULL, SC_MIN_ALIGN,
        size, container_bytes(spot.offset + size + (size >> GROW_SHIFT), SC_MIN_ALIGN),
        spot, 1};
    struct large *large = make(&request, &other);
    if (other) {
        hak_secure_below()->free(other);
    }
    return large;
}

void *hak_secure_large_alloc_growing(size_t size)
{
    struct large *large = hak_secure_large_make_growing(size, (struct spot){0, 0});
    return large ? hand_out(large) : hak_secure_large_alloc(NULL, SC_MIN_ALIGN, size);
}

/* --- what another thread may look at --- */

/* While the gate is closed, the records' lock is passed: nothing that it guards changes. But blocks
   are freed, and become another size, and other threads look at edges: who changes a block's state
   has this one, and so has who looks at one block. A forked child finds it free. No thread waits
   for it for long: its holder may be in a signal handler that waits for this thread. */
#define ALONE_SPINS   200
#define ALONE_WAIT_MS 30
static void nothing_is_half_done(void)
{
}
static LOCK_DEFINE_MENDED(alone_lock, LOCK_RANK_OWNED, nothing_is_half_done);

struct hold {
    enum gate_reader how;
    int is_held; /* no other thread looks at an edge, or changes a state; 0 if it is refused too */
};

static int wait_alone(void)
{
    int saved = errno;
    hak_lock_pass_end();
    int is_held = hak_lock_try(&alone_lock);
    for (int i = 0; !is_held && !hak_lock_is_mine(&alone_lock) && i < ALONE_SPINS + ALONE_WAIT_MS;
         i++) {
        uint32_t word = atomic_load_relaxed(&alone_lock.word);
        if (i < ALONE_SPINS) {
            hak_atomic_pause();
        } else if (word) {
            (void)hak_os_ops.futex_wait_ms(&alone_lock.word, word, 1);
        }
        is_held = hak_lock_try(&alone_lock);
    }
    hak_lock_pass_begin();
    errno = saved;
    return is_held;
}

static struct hold hold(void)
{
    struct hold held = {hak_gate_enter_to_read(), 0};
    if (held.how == GATE_INSIDE) {
        hak_lock_acquire(&hak_secure_large_lock);
        held.is_held = 1;
    } else if (held.how == GATE_ALONE) {
        held.is_held = wait_alone();
    }
    return held;
}

static void let_go(struct hold held)
{
    if (held.how == GATE_INSIDE) {
        hak_lock_release(&hak_secure_large_lock);
    } else if (held.is_held) {
        hak_lock_pass_end();
        hak_lock_release(&alone_lock);
        hak_lock_pass_begin();
    }
    hak_gate_leave_reader(held.how);
}

int hak_secure_large_begin_change(struct large *large)
{
    uint32_t used = LARGE_USED;
    struct hold held = hold();
    int is_mine = held.is_held && atomic_cas_strong(&large->state, &used, (uint32_t)LARGE_CHANGING);
    let_go(held);
    return is_mine;
}

/* While it is held the block is not freed, nor do its pages go. Without that nothing is looked at.
   Where the state has changed all the same (hak_secure_large_forget), what was seen says nothing.
 */
void hak_secure_large_check(const void *container)
{
    struct hold held = hold();
    const struct large *large = held.is_held ? hak_secure_large_record_of(container) : NULL;
    if (large && atomic_load_acquire(&large->state) == LARGE_USED) {
        const struct edges edges = hak_secure_edges_of(large);
        unsigned written = hak_secure_edges_look(&edges, large->watched);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        if (written && atomic_load_relaxed(&large->state) == LARGE_USED) {
            hak_secure_edges_blame(&edges, written);
        }
    }
    let_go(held);
}

/* --- freeing --- */

struct large *hak_secure_large_look(const void *p)
{
    const void *container = hak_super_lookup(p).start;
    enum gate_reader how = container ? hak_gate_enter_to_read() : GATE_REFUSED;
    if (how == GATE_REFUSED) {
        return NULL;
    }
    hak_lock_acquire(&hak_secure_large_lock);
    struct large *large = hak_secure_large_record_of(container);
    hak_lock_release(&hak_secure_large_lock);
    hak_gate_leave_reader(how);
    return large && large->start == p && atomic_load_relaxed(&large->state) == LARGE_USED ? large
                                                                                          : NULL;
}

/* The record of the block that begins at p; aborts if there is none. */
static struct large *used_at(const void *p, const void *container)
{
    struct large *large = container ? hak_secure_large_record_of(container) : NULL;
    if (!large || large->start != p) {
        hak_secure_blame("invalid pointer freed (not the start of a block)", p);
    }
    if (large->family != ENTRY_MALLOC && large->state == LARGE_USED) {
        hak_secure_family_differs(p, (enum entry_family)large->family, ENTRY_MALLOC);
    }
    if (atomic_exchange_seq(&large->state, (uint32_t)LARGE_FREED) != LARGE_USED) {
        hak_secure_blame("block freed twice", p);
    }
    return large;
}

/* The gate is closed. Where a thread may be looking at the block, its pages stay until it is
   open. */
static void free_later(void *p, void *container)
{
    struct hold held = hold();
    struct large *large = held.how == GATE_REFUSED ? NULL : used_at(p, container);
    let_go(held);
    if (!large) {
        return; /* the process dies, or is a child that can do nothing about it */
    }
    hak_secure_large_check_edges(large);
    hak_secure_body_forget(&large->body);
    if (held.is_held) {
        give_back_later(large);
    } else if (!large->heap) { /* else the heap's end does it */
        hak_secure_quarantine_stick_later(large);
    }
}

void hak_secure_large_free(void *p)
{
    void *container = hak_super_lookup(p).start;
    if (HAK_UNLIKELY(!hak_gate_enter())) {
        free_later(p, container);
        return;
    }
    hak_lock_acquire(&hak_secure_large_lock);
    struct large *large = used_at(p, container);
    hak_lock_release(&hak_secure_large_lock);
    const struct edges edges = hak_secure_edges_of(large);
    hak_secure_edges_check(&edges, large->watched);
    hak_secure_edges_learn(&edges, large->watched);
    hak_secure_body_learn(&large->body);
    hak_secure_body_leave(&large->body);
    hak_secure_quarantine_take(large);
    hak_gate_leave();
}

int hak_secure_large_flush(void)
{
    int any = 0;
    if (hak_gate_enter()) {
        any = hak_secure_quarantine_flush() | hak_secure_pages_trim(0);
        hak_gate_leave();
    }
    return any;
}

int hak_secure_large_waits(void)
{
    return hak_secure_quarantine_is_any();
}

int hak_secure_large_is_stuck(void)
{
    return hak_secure_quarantine_is_stuck();
}

/* --- looking --- */

struct large_block hak_secure_large_find(const void *p)
{
    struct large_block result = {NULL, NULL, 0, ENTRY_MALLOC, LARGE_FREED};
    const void *container = hak_super_lookup(p).start;
    enum gate_reader how = container ? hak_gate_enter_to_read() : GATE_REFUSED;
    if (how == GATE_REFUSED) {
        return result;
    }
    int is_mine = hak_lock_is_mine(
        &hak_secure_large_lock); /* for the last words, which are said with it held */
    if (!is_mine) {
        hak_lock_acquire(&hak_secure_large_lock);
    }
    const struct large *large = hak_secure_large_record_of(container);
    if (large && (large->start == p || container == p)) {
        result = (struct large_block){large->start, hak_secure_container_of(large), large->size,
                                      (enum entry_family)large->family,
                                      (enum large_state)atomic_load_relaxed(&large->state)};
    }
    if (!is_mine) {
        hak_lock_release(&hak_secure_large_lock);
    }
    hak_gate_leave_reader(how);
    return result;
}

void hak_secure_large_name(const void *p, enum entry_family family)
{
    const void *container = hak_super_lookup(p).start;
    enum gate_reader how = container ? hak_gate_enter_to_read() : GATE_REFUSED;
    if (how == GATE_REFUSED) {
        return;
    }
    hak_lock_acquire(&hak_secure_large_lock);
    struct large *large = hak_secure_large_record_of(container);
    if (large && large->start == p) {
        atomic_store_relaxed(&large->family, (uint32_t)family);
    }
    hak_lock_release(&hak_secure_large_lock);
    hak_gate_leave_reader(how);
}

/* The record stays, freed, until the container is another block's. One that was freed while the
   gate was closed is not touched: it is linked to others, or another block's by now. */
void hak_secure_large_forget(const struct hak_heap *heap, const void *container)
{
    struct hold held = hold();
    struct large *large = held.how == GATE_REFUSED ? NULL : hak_secure_large_record_of(container);
    int is_its = large && large->heap == heap && !atomic_load_acquire(&large->is_open);
    uint32_t was =
        is_its ? atomic_exchange_seq(&large->state, (uint32_t)LARGE_FREED) : (uint32_t)LARGE_FREED;
    let_go(held);
    if (!is_its) {
        return;
    }
    if (was == LARGE_USED) {
        hak_secure_large_check_edges(large);
        hak_secure_body_forget(&large->body);
    } /* else a thread that a forked child does not have was freeing it */
    if (hak_secure_quarantine_open(large) == 0) {
        atomic_store_release(&large->is_open, 1u);
    } else if (hak_gate_enter()) {
        hak_secure_quarantine_stick(large);
        hak_gate_leave();
    }
}

int hak_secure_large_verify(void)
{
    enum gate_reader how = hak_gate_enter_to_read();
    int is_right = !hak_secure_large_table.buckets[0] || hak_secure_large_table.n;
    if (how == GATE_REFUSED) {
        return 0;
    }
    hak_lock_acquire(&hak_secure_large_lock);
    is_right &= hak_secure_quarantine_verify();
    hak_lock_release(&hak_secure_large_lock);
    is_right &= hak_secure_pages_verify();
    hak_gate_leave_reader(how);
    return is_right ? 0 : VERIFY_SECURE_LARGE;
}

#endif
