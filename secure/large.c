/* Large blocks: containers, their records and the quarantine. One lock (rank OWNED), for the
   records alone: the system is called without it, by the one thread that has the block. */
#include "secure/large.h"

#include <errno.h>
#include <string.h>

#include "base/address_table.h"
#include "base/error.h"
#include "base/options.h"
#include "base/os.h"
#include "base/verify.h"
#include "hakmem/heap.h"
#include "heap/fork.h"
#include "heap/gate.h"
#include "secure/blame.h"
#include "secure/pages.h"
#include "secure/tail.h"
#include "superslab/map.h"
#include "superslab/superslab.h"

#if HAK_SECURE

#define DRAWN_LARGE 8u
#define QUEUE_LARGE 48u
#define READY_MOST  64u
/* A ready container serves requests of at least this part of it: the rest is address space. */
#define READY_TIMES 4u
/* Address space ahead of a block that grows by realloc: as much again as half of it. */
#define GROW_SHIFT 1
/* A block that shrinks stays where it is if it keeps half of its pages, or so many bytes. */
#define KEEP_WHOLE ((size_t)256 * HAK_KIB)
/* A block that is made larger by realloc takes its pages along if it has so many bytes. */
#define MOVED_LEAST ((size_t)64 * HAK_KIB)
/* Pages of freed blocks that are kept: with those in use, twice as many as were in use lately,
   within these bounds. So many frees later a peak is half forgotten, about. */
#define PEAK_FREES 64u
#define KEPT_LEAST ((size_t)4 * HAK_MIB)
#define KEPT_MOST  ((size_t)64 * HAK_MIB)

struct large {
    struct address_node by_address; /* first; the container's */
    char *start;                    /* of the block */
    size_t size;
    char *body; /* pages that may be touched while it is used */
    size_t body_bytes;
    size_t bytes; /* of the container, whole pages */
    struct hak_heap *heap;
    uint32_t family;
    uint32_t state;
    struct large *next_stuck;
    struct pages lent; /* to the body's start */
    uint32_t is_cut;   /* some were lent to it since it was mapped */
};

static LOCK_DEFINE(lock, LOCK_RANK_OWNED);
static struct address_table table;
static struct large *drawn[DRAWN_LARGE], *queue[QUEUE_LARGE], *ready[READY_MOST];
static uint32_t n_drawn, n_queued, first_queued, n_ready, draws;
size_t hak_secure_large_waiting;
static struct large *stuck; /* freed, in no other list */
static size_t used_bytes;   /* of bodies of used blocks; atomic, and about right */
static size_t peak_bytes;   /* the most of them lately; a lost update is harmless */

static const struct entry_table *below(void)
{
    return hak_entry_below(&hak_secure_layer);
}

static size_t round_to(size_t size, size_t align)
{
    return (size + align - 1) & ~(align - 1);
}

static char *container_of(const struct large *large)
{
    return (char *)(uintptr_t)large->by_address.address;
}

static struct large *find(const void *container)
{
    return (struct large *)(void *)*hak_address_find(&table, container);
}

/* --- pages --- */

static void protect(char *from, const char *to, enum os_access access)
{
    if (to > from) {
        int refused = hak_os_protect(from, (size_t)(to - from), access);
        (void)refused; /* too many mappings: then the block lacks a guard */
    }
}

/* All of the container but the body becomes untouchable. */
static void guard(const struct large *large)
{
    char *container = container_of(large);
    protect(container, large->body, OS_UNTOUCHABLE);
    protect(large->body + large->body_bytes, container + large->bytes, OS_UNTOUCHABLE);
}

/* In pages, when so many bytes have just been freed. */
static size_t most_kept(size_t freed)
{
    size_t used = atomic_load_relaxed(&used_bytes), was = used + freed,
           peak = atomic_load_relaxed(&peak_bytes);
    peak = was > peak ? was : peak - (peak - was) / PEAK_FREES;
    atomic_store_relaxed(&peak_bytes, peak);
    size_t most = 2 * peak > used ? 2 * peak - used : 0;
    return (most < KEPT_LEAST  ? KEPT_LEAST
            : most < KEPT_MOST ? most
                               : KEPT_MOST) /
           hak_os_page_size();
}

/* The body's pages become writable; lent ones, if blocks of the size are touched. Returns 0 if the
   system refuses. */
static int get_pages(struct large *large, char *body, size_t body_bytes, int may_be_lent)
{
    large->lent = (struct pages){0, 0};
    if (may_be_lent && hak_secure_pages_are_wanted(body_bytes) && hak_gate_enter()) {
        large->lent = hak_secure_pages_lend(body, body_bytes / hak_os_page_size());
        large->is_cut |= large->lent.n != 0;
        hak_gate_leave();
    }
    return large->lent.n || hak_os_protect(body, body_bytes, OS_WRITABLE) == 0;
}

/* The block is free: no thread may touch it. Its pages return, or go to the system; if that does
   not take them, they are readable by none. Inside the gate. */
static void leave_pages(struct large *large)
{
    hak_secure_pages_learn(large->body, large->body_bytes, large->lent.n != 0);
    size_t page = hak_os_page_size(), n = large->body_bytes / page,
           most = most_kept(large->body_bytes);
    n = large->lent.n ? hak_secure_pages_return(large->lent, large->body, n, most) : 0;
    char *at = large->body + n * page, *end = large->body + large->body_bytes;
    if (at < end && hak_os_purge(at, (size_t)(end - at))) {
        memset(at, 0, (size_t)(end - at));
    }
    protect(large->body, end, OS_UNTOUCHABLE);
    large->lent = (struct pages){0, 0};
    (void)hak_secure_pages_trim(most);
}

/* --- placing --- */

static size_t container_bytes(size_t size, size_t alignment, size_t page)
{
    return page + round_to(size, page) + page + (alignment > page ? alignment : 0);
}

/* Behind the block, within its body. */
static void fill_behind(const struct large *large)
{
    char *end = large->start + large->size;
    memset(end, (int)(hak_secure_secrets.fill[0] & 0xFF),
           (size_t)(large->body + large->body_bytes - end));
}

/* Where a block lies in its body: at the end, or, if it may grow, so many bytes from the start. */
struct spot {
    size_t offset;    /* AT_END */
    int brings_pages; /* those of a block that has become too small */
};
#define AT_END SIZE_MAX

static void place(struct large *large, size_t size, size_t alignment, struct spot spot)
{
    size_t page = hak_os_page_size();
    uintptr_t first = (uintptr_t)container_of(large) + page;
    large->size = size;
    size_t offset = spot.offset == AT_END ? 0 : spot.offset;
    large->body_bytes = round_to(offset + size, page);
    large->body = (char *)(alignment > page ? round_to(first, alignment) : first);
    large->start = large->body + offset;
    if (alignment <= page && spot.offset == AT_END) {
        large->start += large->body_bytes - round_to(size, alignment);
    }
    large->family = ENTRY_MALLOC;
    (void)atomic_add_relaxed(&used_bytes, large->body_bytes);
}

static int is_all(const char *from, const char *to, char value)
{
    size_t n = (size_t)(to - from);
    return n == 0 || (*from == value && memcmp(from, from + 1, n - 1) == 0);
}

/* What lies around the block in its body's first and last page. */
static void check_edges(const struct large *large)
{
    if (!is_all(large->start + large->size, large->body + large->body_bytes,
                (char)hak_secure_secrets.fill[0])) {
        hak_secure_overflowed(large->start);
    }
    if (!is_all(large->body, large->start, 0)) {
        hak_secure_underflowed(large->start);
    }
}

/* --- the quarantine --- */

/* The place of the smallest ready container that has so many bytes, and not many times as many. */
static uint32_t best_ready(size_t bytes)
{
    uint32_t best = READY_MOST;
    for (uint32_t i = 0; i < n_ready; i++) {
        if (ready[i]->bytes >= bytes && ready[i]->bytes / READY_TIMES <= bytes &&
            (best == READY_MOST || ready[i]->bytes < ready[best]->bytes)) {
            best = i;
        }
    }
    return best;
}

static struct large *take_ready(size_t bytes)
{
    struct large *found = NULL;
    if (atomic_load_relaxed(&n_ready) && hak_gate_enter()) {
        hak_lock_acquire(&lock);
        uint32_t i = best_ready(bytes);
        if (i < READY_MOST) {
            found = ready[i];
            ready[i] = ready[n_ready - 1];
            atomic_store_relaxed(&n_ready, n_ready - 1);
        }
        hak_lock_release(&lock);
        hak_gate_leave();
    }
    return found;
}

/* The container goes back to the plain functions, all of it touchable. The system may refuse that
   (RLIMIT_DATA): then it is stuck until others have gone. Returns whether it went. */
static int try_give_back(struct large *large)
{
    char *container = container_of(large);
    if (large->is_cut ? hak_os_renew(container, large->bytes)
                      : hak_os_protect(container, large->bytes, OS_WRITABLE)) {
        return 0;
    }
    hak_lock_acquire(&lock);
    hak_address_drop(&table, hak_address_take_out(&table, hak_address_find(&table, container)));
    hak_lock_release(&lock);
    below()->free(container);
    return 1;
}

/* A first-class heap that ends must not free it by itself. Inside the gate. */
static void get_stuck(struct large *large)
{
    hak_heap_forget(container_of(large));
    hak_lock_acquire(&lock);
    large->heap = NULL;
    large->next_stuck = stuck;
    atomic_store_relaxed(&stuck, large);
    hak_lock_release(&lock);
}

/* Inside the gate. */
static void give_back(struct large *large)
{
    if (!try_give_back(large)) {
        get_stuck(large);
    }
}

/* Those that are stuck are tried again. Returns whether one went. */
static int unstick(void)
{
    int any = 0;
    hak_lock_acquire(&lock);
    struct large *large = stuck, *next;
    atomic_store_relaxed(&stuck, NULL);
    hak_lock_release(&lock);
    for (; large; large = next) {
        next = large->next_stuck;
        if (try_give_back(large)) {
            any = 1;
        } else {
            give_back(large);
        }
    }
    return any;
}

/* The first of the queue. */
static struct large *pop(void)
{
    struct large *large = queue[first_queued];
    first_queued = (first_queued + 1) % QUEUE_LARGE;
    n_queued--;
    hak_secure_large_waiting -= large->bytes;
    return large;
}

static struct large *append(struct large *large)
{
    struct large *out = n_queued == QUEUE_LARGE ? pop() : NULL;
    queue[(first_queued + n_queued++) % QUEUE_LARGE] = large;
    return out;
}

void hak_secure_large_draw_anew(uint32_t chance)
{
    draws ^= chance;
}

/* Into the quarantine; returns what leaves it. Lock held. */
static struct large *wait_in_quarantine(struct large *large)
{
    if (large->bytes > hak_options.secure_large_quarantine || large->heap) {
        return large;
    }
    hak_secure_large_waiting += large->bytes;
    if (n_drawn < DRAWN_LARGE) {
        drawn[n_drawn++] = large;
        return NULL;
    }
    draws = draws * 0x9E3779B1u + (uint32_t)hak_secure_secrets.mask + 1;
    uint32_t i = (draws >> 16) % DRAWN_LARGE;
    struct large *other = drawn[i];
    drawn[i] = large;
    return append(other);
}

/* One more that leaves because there are too many bytes; NULL if there are not. */
static struct large *excess(void)
{
    return n_queued && hak_secure_large_waiting > hak_options.secure_large_quarantine ? pop()
                                                                                      : NULL;
}

/* Becomes ready if there is room for it and no program has it. Lock held. */
static int keep_ready(struct large *large)
{
    if (large->heap || n_ready == READY_MOST ||
        large->bytes > hak_options.secure_large_quarantine) {
        return 0;
    }
    ready[n_ready] = large;
    atomic_store_relaxed(&n_ready, n_ready + 1);
    return 1;
}

/* Inside the gate. */
static void retire(struct large *large)
{
    hak_lock_acquire(&lock);
    struct large *out = wait_in_quarantine(large);
    do {
        if (out && keep_ready(out)) {
            out = NULL;
        }
        hak_lock_release(&lock);
        if (out) {
            give_back(out);
        }
        hak_lock_acquire(&lock);
        out = excess();
    } while (out);
    hak_lock_release(&lock);
}

static struct large *take_any(void)
{
    struct large *large = NULL;
    hak_lock_acquire(&lock);
    if (n_ready) {
        large = ready[n_ready - 1];
        atomic_store_relaxed(&n_ready, n_ready - 1);
    } else if (n_drawn) {
        large = drawn[--n_drawn];
        hak_secure_large_waiting -= large->bytes;
    } else if (n_queued) {
        large = pop();
    }
    hak_lock_release(&lock);
    return large;
}

int hak_secure_large_flush(void)
{
    int any = 0;
    if (hak_gate_enter()) {
        for (struct large *large; (large = take_any()) != NULL; any = 1) {
            give_back(large);
        }
        while (atomic_load_relaxed(&stuck) && unstick()) {
            any = 1;
        }
        any |= hak_secure_pages_trim(0);
        hak_gate_leave();
    }
    return any;
}

int hak_secure_large_is_stuck(void)
{
    return atomic_load_relaxed(&stuck) != NULL;
}

/* --- allocating --- */

static void *fail(void)
{
    errno = ENOMEM;
    return NULL;
}

static int is_container(const void *p)
{
    uint32_t tag = hak_map_find(p).tag;
    return tag == TAG_SPAN || tag == TAG_RANGE;
}

/* Served by limbo or libc: handed through, at the right place, and zero. */
static void *hand_through(void *container, struct hak_heap *heap, size_t alignment, size_t size)
{
    if (alignment <= SC_MIN_ALIGN) {
        return container;
    }
    below()->free(container);
    void *p =
        heap ? below()->heap_alloc(heap, size, alignment, 1) : below()->aligned(alignment, size);
    return p ? memset(p, 0, size) : NULL;
}

static void *ask(struct hak_heap *heap, size_t bytes)
{
    return heap ? below()->heap_alloc(heap, bytes, SC_MIN_ALIGN, 1) : below()->calloc(bytes);
}

static struct large *describe(void *container, struct hak_heap *heap)
{
    struct large *large = (struct large *)hak_address_new(&table, &lock, sizeof *large);
    if (large) {
        large->lent = (struct pages){0, 0};
        large->is_cut = 0;
        large->heap = heap;
        large->bytes = below()->usable_size(container) & ~(hak_os_page_size() - 1);
        large->by_address.address = container;
    }
    return large;
}

/* Dresses a container. NULL if there is no memory to record it. Inside the gate. */
static void *record(void *container, struct hak_heap *heap, size_t alignment, size_t size,
                    struct spot spot)
{
    struct large *large = describe(container, heap);
    if (!large) {
        return NULL;
    }
    place(large, size, alignment, spot);
    guard(large); /* first: or the filling's page may be a huge one, which goes beyond the body */
    fill_behind(large);
    hak_lock_acquire(&lock);
    atomic_store_relaxed(&large->state, (uint32_t)LARGE_USED);
    struct address_node **old = hak_address_find(&table, container);
    if (*old) { /* of a block that was freed while the gate was closed */
        hak_address_drop(&table, hak_address_take_out(&table, old));
    }
    hak_address_add(&table, &large->by_address, container);
    hak_lock_release(&lock);
    return large->start;
}

static void *fresh(struct hak_heap *heap, size_t alignment, size_t size, size_t bytes,
                   struct spot spot)
{
    for (;;) {
        void *container = ask(heap, bytes);
        if (!container && hak_secure_large_flush()) {
            container = ask(heap, bytes);
        }
        if (!container || !is_container(container)) {
            return container ? hand_through(container, heap, alignment, size) : NULL;
        }
        if (HAK_LIKELY(hak_gate_enter())) {
            void *p = record(container, heap, alignment, size, spot);
            hak_gate_leave();
            if (!p) {
                below()->free(container);
            }
            return p ? p : fail();
        }
        /* A fork has closed the gate: nothing may be recorded, and limbo serves the next try. */
        below()->free(container);
    }
}

/* From a ready container of at least `bytes`; NULL if there is none. */
static void *reuse(size_t alignment, size_t size, size_t bytes, struct spot spot)
{
    size_t page = hak_os_page_size();
    struct large *large = alignment > page ? NULL : take_ready(bytes);
    if (!large) {
        return NULL;
    }
    size_t body_bytes = round_to((spot.offset == AT_END ? 0 : spot.offset) + size, page);
    if (!get_pages(large, container_of(large) + page, body_bytes, !spot.brings_pages)) {
        if (hak_gate_enter()) {
            give_back(large);
            hak_gate_leave();
        }
        return NULL;
    }
    place(large, size, alignment, spot);
    fill_behind(large);
    atomic_store_release(&large->state, (uint32_t)LARGE_USED);
    return large->start;
}

void *hak_secure_large_alloc(struct hak_heap *heap, size_t alignment, size_t size)
{
    size_t page = hak_os_page_size();
    if (size > PTRDIFF_MAX - 4 * page || alignment > PTRDIFF_MAX - size - 4 * page) {
        return heap ? below()->heap_alloc(heap, size, alignment, 0)
                    : below()->malloc(size > PTRDIFF_MAX ? size : PTRDIFF_MAX + (size_t)1);
    }
    alignment = alignment < SC_MIN_ALIGN ? SC_MIN_ALIGN : alignment;
    size_t bytes = container_bytes(size, alignment, page);
    const struct spot spot = {AT_END, 0};
    void *p = heap ? NULL : reuse(alignment, size, bytes, spot);
    return p ? p : fresh(heap, alignment, size, bytes, spot);
}

static void *alloc_growing(size_t size, struct spot spot)
{
    if (size > PTRDIFF_MAX / 4) {
        return NULL;
    }
    size_t bytes = container_bytes(spot.offset + size + (size >> GROW_SHIFT), SC_MIN_ALIGN,
                                   hak_os_page_size());
    void *p = reuse(SC_MIN_ALIGN, size, bytes, spot);
    return p ? p : fresh(NULL, SC_MIN_ALIGN, size, bytes, spot);
}

void *hak_secure_large_alloc_growing(size_t size)
{
    void *p = alloc_growing(size, (struct spot){0, 0});
    return p ? p : hak_secure_large_alloc(NULL, SC_MIN_ALIGN, size);
}

/* --- another size --- */

/* The used block that begins at p, or NULL. It is the caller's: nothing of it changes. */
static struct large *look(const void *p)
{
    const void *container = hak_super_lookup(p).start;
    enum gate_reader how = container ? hak_gate_enter_to_read() : GATE_REFUSED;
    if (how == GATE_REFUSED) {
        return NULL;
    }
    hak_lock_acquire(&lock);
    struct large *large = find(container);
    hak_lock_release(&lock);
    hak_gate_leave_reader(how);
    return large && large->start == p && atomic_load_relaxed(&large->state) == LARGE_USED ? large
                                                                                          : NULL;
}

/* Pages that come or go at the body's end. Returns 0 if the system refuses. */
static int set_body_bytes(struct large *large, size_t bytes)
{
    char *was = large->body + large->body_bytes, *is = large->body + bytes;
    if (is > was) {
        return hak_os_protect(was, (size_t)(is - was), OS_WRITABLE) == 0;
    }
    if (hak_os_purge(is, (size_t)(was - is))) {
        memset(is, 0, (size_t)(was - is));
    }
    protect(is, was, OS_UNTOUCHABLE);
    return 1;
}

/* A check of another thread (hak_secure_large_check) must not see the edges half done: the block is
   not there for it until then. */
int hak_secure_large_resize(void *p, size_t size, int must_stay)
{
    size_t page = hak_os_page_size();
    struct large *large = look(p);
    if (!large || size > large->bytes) {
        return 0;
    }
    size_t body_bytes = round_to((size_t)(large->start - large->body) + size, page);
    int may = large->body + body_bytes + page <= container_of(large) + large->bytes &&
              (body_bytes >= large->body_bytes / 2 || body_bytes >= KEEP_WHOLE || must_stay);
    if (!may) {
        return 0;
    }
    check_edges(large);
    uint32_t used = LARGE_USED;
    if (!atomic_cas_strong(&large->state, &used, (uint32_t)LARGE_CHANGING)) {
        return 0;
    }
    char *end = large->start + large->size;
    int is_done = body_bytes == large->body_bytes || set_body_bytes(large, body_bytes);
    if (is_done) {
        char *body_end =
            large->body + (body_bytes < large->body_bytes ? body_bytes : large->body_bytes);
        if (end < body_end) {
            memset(end, 0, (size_t)(body_end - end));
        }
        (void)atomic_add_relaxed(&used_bytes, body_bytes - large->body_bytes);
        large->body_bytes = body_bytes;
        large->size = size;
        fill_behind(large);
    }
    atomic_store_release(&large->state, (uint32_t)LARGE_USED);
    return is_done;
}

/* The pages of `from` become the first ones of `to`, whose blocks begin at the same place of their
   bodies. Returns 0 if the system refuses, and nothing has changed. Both are the caller's. */
static int move_all(struct large *from, struct large *to)
{
    size_t bytes = from->body_bytes;
    char *end = from->start + from->size, *body_end = from->body + bytes;
    if (hak_os_move_pages(from->body, bytes, to->body)) {
        return 0;
    }
    to->lent = from->lent;
    to->is_cut = from->is_cut = 1;
    from->lent = (struct pages){0, 0};
    memset(end + (to->body - from->body), 0, (size_t)(body_end - end));
    fill_behind(to);
    protect(from->body, body_end, OS_UNTOUCHABLE);
    return 1;
}

static int become(struct large *large, enum large_state is, enum large_state next)
{
    uint32_t expected = (uint32_t)is;
    return atomic_cas_strong(&large->state, &expected, (uint32_t)next);
}

/* A block that was not handed out, and that may be untouchable. Inside the gate. */
static void abandon(struct large *large)
{
    atomic_store_release(&large->state, (uint32_t)LARGE_FREED);
    (void)atomic_sub_relaxed(&used_bytes, large->body_bytes);
    give_back(large);
}

/* Inside the gate. */
static int move_and_end(struct large *from, struct large *to)
{
    (void)become(to, LARGE_USED, LARGE_CHANGING);
    int is_mine = become(from, LARGE_USED, LARGE_CHANGING),
        is_moved = is_mine && move_all(from, to);
    if (!is_moved) {
        abandon(to);
        if (is_mine) {
            atomic_store_release(&from->state, (uint32_t)LARGE_USED);
        }
        return 0;
    }
    atomic_store_release(&to->state, (uint32_t)LARGE_USED);
    atomic_store_release(&from->state, (uint32_t)LARGE_FREED);
    (void)atomic_sub_relaxed(&used_bytes, from->body_bytes);
    retire(from);
    return 1;
}

void *hak_secure_large_move(void *p, size_t size)
{
    struct large *from = look(p);
    size_t lent = from ? from->lent.n * hak_os_page_size() : 0;
    if (!from || from->heap || size <= from->size || from->body_bytes < MOVED_LEAST ||
        (lent && lent != from->body_bytes)) {
        return NULL;
    }
    check_edges(from);
    if (from->family != ENTRY_MALLOC) {
        hak_secure_family_differs(p, (enum entry_family)from->family, ENTRY_MALLOC);
    }
    void *q = alloc_growing(size, (struct spot){(size_t)(from->start - from->body), 1});
    struct large *to = q ? look(q) : NULL;
    if (to && hak_gate_enter()) {
        int is_moved = move_and_end(from, to);
        hak_gate_leave();
        return is_moved ? q : NULL;
    }
    if (q) { /* limbo's, or libc's; or a fork begins */
        to ? hak_secure_large_free(q) : below()->free(q);
    }
    return NULL;
}

/* --- freeing --- */

/* The record of the block that begins at p; aborts if there is none. */
static struct large *used_at(const void *p, const void *container)
{
    struct large *large = container ? find(container) : NULL;
    if (!large || large->start != p) {
        hak_secure_blame("invalid pointer freed (not the start of a block)", p);
    }
    if (large->family != ENTRY_MALLOC && large->state == LARGE_USED) {
        hak_secure_family_differs(p, (enum entry_family)large->family, ENTRY_MALLOC);
    }
    if (atomic_exchange_seq(&large->state, (uint32_t)LARGE_FREED) != LARGE_USED) {
        hak_secure_blame("block freed twice", p);
    }
    (void)atomic_sub_relaxed(&used_bytes, large->body_bytes);
    return large;
}

/* The gate is closed: the plain functions free the container later. */
static void free_later(void *p, void *container)
{
    enum gate_reader how = hak_gate_enter_to_read();
    if (how == GATE_REFUSED) {
        return; /* the process dies, or is a child that can do nothing about it */
    }
    struct large *large = used_at(p, container);
    size_t bytes = large->bytes;
    hak_gate_leave_reader(how);
    check_edges(large);
    if (hak_os_protect((char *)container, bytes, OS_WRITABLE) == 0) {
        hak_fork_defer_block(container);
    }
}

void hak_secure_large_free(void *p)
{
    void *container = hak_super_lookup(p).start;
    if (HAK_UNLIKELY(!hak_gate_enter())) {
        free_later(p, container);
        return;
    }
    hak_lock_acquire(&lock);
    struct large *large = used_at(p, container);
    hak_lock_release(&lock);
    check_edges(large);
    leave_pages(large);
    retire(large);
    hak_gate_leave();
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
    int is_mine = hak_lock_is_mine(&lock); /* for the last words, which are said with it held */
    if (!is_mine) {
        hak_lock_acquire(&lock);
    }
    const struct large *large = find(container);
    if (large && (large->start == p || container == p)) {
        result = (struct large_block){large->start, container_of(large), large->size,
                                      (enum entry_family)large->family,
                                      (enum large_state)atomic_load_relaxed(&large->state)};
    }
    if (!is_mine) {
        hak_lock_release(&lock);
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
    hak_lock_acquire(&lock);
    struct large *large = find(container);
    if (large && large->start == p) {
        atomic_store_relaxed(&large->family, (uint32_t)family);
    }
    hak_lock_release(&lock);
    hak_gate_leave_reader(how);
}

/* The record stays, freed, until the container is another block's. */
void hak_secure_large_forget(void *container)
{
    enum gate_reader how = hak_gate_enter_to_read();
    if (how == GATE_REFUSED) {
        return;
    }
    hak_lock_acquire(&lock);
    struct large *large = find(container);
    hak_lock_release(&lock);
    hak_gate_leave_reader(how);
    if (!large) {
        return;
    }
    if (atomic_exchange_seq(&large->state, (uint32_t)LARGE_FREED) == LARGE_USED) {
        check_edges(large);
        (void)atomic_sub_relaxed(&used_bytes, large->body_bytes);
    } /* else a thread that a forked child does not have was freeing it */
    if (hak_os_protect(container, large->bytes, OS_WRITABLE) && hak_gate_enter()) {
        get_stuck(large);
        hak_gate_leave();
    }
}

/* With the lock held, so that the block is not freed in between. */
void hak_secure_large_check(const void *container)
{
    enum gate_reader how = hak_gate_enter_to_read();
    if (how == GATE_REFUSED) {
        return;
    }
    hak_lock_acquire(&lock);
    const struct large *large = find(container);
    if (large && atomic_load_relaxed(&large->state) == LARGE_USED) {
        check_edges(large);
    }
    hak_lock_release(&lock);
    hak_gate_leave_reader(how);
}

static int verify_waiting(const struct large *large)
{
    return large->state == LARGE_FREED && find(container_of(large)) == large && !large->heap;
}

int hak_secure_large_verify(void)
{
    enum gate_reader how = hak_gate_enter_to_read();
    int is_right = !table.buckets[0] || table.n;
    size_t bytes = 0;
    if (how == GATE_REFUSED) {
        return 0;
    }
    hak_lock_acquire(&lock);
    for (uint32_t i = 0; i < n_drawn; i++) {
        is_right &= verify_waiting(drawn[i]);
        bytes += drawn[i]->bytes;
    }
    for (uint32_t i = 0; i < n_queued; i++) {
        is_right &= verify_waiting(queue[(first_queued + i) % QUEUE_LARGE]);
        bytes += queue[(first_queued + i) % QUEUE_LARGE]->bytes;
    }
    for (uint32_t i = 0; i < n_ready; i++) {
        is_right &= verify_waiting(ready[i]);
    }
    is_right &= bytes == hak_secure_large_waiting;
    hak_lock_release(&lock);
    is_right &= hak_secure_pages_verify();
    hak_gate_leave_reader(how);
    return is_right ? 0 : VERIFY_SECURE_LARGE;
}

#endif
