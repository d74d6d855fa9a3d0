/* Lists of free blocks between bins and slabs. Locks: the heap's, held by the caller. Called by the
   thread cache's slow half, by remote free and by trims. */
#include "heap/depot.h"

#include "base/lock_holds.h"
#include "base/options.h"
#include "base/stats.h"
#include "base/verify.h"
#include "heap/small.h"
#include "heap/tcache.h"

#define COUNT_SHIFT 48
#define IS_ROW      ((uintptr_t)1) /* in the word that is the next list and the count */
#define LIST_MASK   (((uintptr_t)1 << COUNT_SHIFT) - 1 - IS_ROW)
/* Mid blocks in the depot are at most this part of what the heap's slabs are. */
#define DEPOT_SHARE 4u
/* So many blocks go to their slabs at a time, if the heap grows. */
#define ROOM_MOST     HAK_TINY_OR(64u, 16384u)
#define PRESSURE_MOST 16u
#define LISTS_AT_ONCE 8u
/* See note_left: for each such list, and in all. */
#define PAUSE_LISTS 32u
#define PAUSE_MOST  8192u

struct theap *hak_depot_last;

static uint64_t list_bytes(uint32_t size_class, uint32_t count)
{
    return (uint64_t)count * hak_sc_table[size_class].size;
}

static uint64_t *bytes_of(struct theap *heap, uint32_t size_class)
{
    return &heap->depot_bytes[hak_mid_is_class(size_class)];
}

/* What comes from other heaps' slabs: who only frees sends it home. */
static int is_others(const struct theap *heap, const void *head)
{
    return TAG_OWNER(hak_map_find(head).tag) != heap->owner.id;
}

static uint64_t most_bytes(const struct theap *heap, uint32_t size_class, const void *head,
                           int is_chain)
{
    if (is_chain && !hak_mid_is_class(size_class)) {
        return DEPOT_LEAST_BYTES;
    }
    uint64_t share = (uint64_t)heap->owner.bank.n_slabs *
                     (SC_SLAB_BYTES / (hak_mid_is_class(size_class) ? DEPOT_SHARE : 1));
    share = share < hak_options.cache_bytes ? share : hak_options.cache_bytes;
    return share > DEPOT_LEAST_BYTES || (hak_mid_is_class(size_class) && is_others(heap, head))
               ? share
               : DEPOT_LEAST_BYTES;
}

/* The list of the class that came last becomes a part of this one if one bin can take both: what
   comes from other threads is single blocks, if they are large. Returns the list after it. */
static void *join(struct theap *heap, uint32_t size_class, void *head, void *last, uint32_t *count)
{
    void *top = heap->depot[size_class];
    uint32_t n = top ? (uint32_t)(*hak_depot_word(top) >> COUNT_SHIFT) : 0;
    if (!top || n + *count > atomic_load_relaxed(&heap->limits[size_class]) ||
        n + *count > hak_bank_noted_most(size_class)) {
        return top;
    }
    void *next = (void *)(hak_depot_take_word(top) & LIST_MASK);
    hak_tc_mark_free(heap, top); /* as it was */
    hak_bank_join_held(head, *count, last, top, n);
    *count += n;
    return next;
}

#define BIT(size_class) ((uint64_t)1 << (size_class))

/* The class's list that came last is held, if it is not yet. */
static void hold_loose(struct theap *heap, uint32_t size_class)
{
    if (heap->depot_loose & BIT(size_class)) {
        void *top = heap->depot[size_class];
        hak_lock_step((uint32_t)(*hak_depot_word(top) >> COUNT_SHIFT));
        (void)hak_bank_hold_list(&heap->owner.bank, size_class, top);
        heap->depot_loose &= ~BIT(size_class);
    }
}

void hak_depot_hold(struct theap *heap)
{
    for (uint64_t loose = heap->depot_loose; loose; loose &= loose - 1) {
        hold_loose(heap, (uint32_t)__builtin_ctzll(loose));
    }
}

static void count_row(struct theap *heap, int64_t bytes)
{
    atomic_store_relaxed(&heap->row_bytes, heap->row_bytes + (uint64_t)bytes);
    hak_stat_add(depot_row_bytes, bytes);
}

int hak_depot_put(struct theap *heap, uint32_t size_class, void *head, uint32_t count,
                  enum depot_list kind)
{
    int is_chain = kind == DEPOT_CHAIN;
    uint64_t *bytes = bytes_of(heap, size_class);
    void *next = heap->depot[size_class];
    if (*bytes + list_bytes(size_class, count) > most_bytes(heap, size_class, head, is_chain) ||
        count > UINT16_MAX) {
        return 0;
    }
    *bytes += list_bytes(size_class, count);
    heap->depot_blocks[size_class] += count;
    if (hak_mid_is_class(size_class)) {
        hold_loose(heap, size_class);
        if (is_chain || HAK_VALIDATE) {
            hak_lock_step(count);
            void *last = hak_bank_hold_list(&heap->owner.bank, size_class, head);
            next = join(heap, size_class, head, last, &count);
        } else {
            heap->depot_loose |= BIT(size_class);
        }
    } else if (!is_chain && atomic_load_relaxed(&hak_depot_last) != heap) {
        atomic_store_release(&hak_depot_last, heap);
    }
    uintptr_t is_row = kind == DEPOT_ROW ? IS_ROW : 0;
    if (is_row) {
        count_row(heap, (int64_t)list_bytes(size_class, count));
    }
    *hak_depot_word(head) = (uintptr_t)next | is_row | (uintptr_t)count << COUNT_SHIFT;
    atomic_store_relaxed(&heap->depot[size_class], head);
    return 1;
}

void *hak_depot_take(struct theap *heap, uint32_t size_class, uint32_t *count)
{
    void *head = heap->depot[size_class];
    if (!head) {
        return NULL;
    }
    uintptr_t word = hak_depot_take_word(head);
    atomic_store_relaxed(&heap->depot[size_class], (void *)(word & LIST_MASK));
    *count = (uint32_t)(word >> COUNT_SHIFT);
    *bytes_of(heap, size_class) -= list_bytes(size_class, *count);
    heap->depot_blocks[size_class] -= *count;
    hak_tc_mark_free(heap, head); /* as it was */
    if (heap->depot_loose & BIT(size_class)) {
        heap->depot_loose &= ~BIT(size_class);
    } else if (hak_mid_is_class(size_class)) {
        hak_lock_step(*count);
        hak_bank_let_go_list(&heap->owner.bank, size_class, head, *count);
    } else {
        heap->depot_pressure -= heap->depot_pressure != 0;
        heap->row_pause -= heap->row_pause != 0;
        if (word & IS_ROW) {
            count_row(heap, -(int64_t)list_bytes(size_class, *count));
        }
    }
    return head;
}

int hak_depot_give_back(struct theap *heap, uint64_t bytes)
{
    for (uint32_t c = SC_N_CLASSES; c-- > 0 && (heap->depot_bytes[0] || heap->depot_bytes[1]);) {
        uint32_t count;
        void *head;
        while ((head = hak_depot_take(heap, c, &count)) != NULL) {
            hak_lock_step(1);
            hak_small_put_list(&heap->owner, c, head);
            uint64_t done = list_bytes(c, count);
            if (done >= bytes) {
                return heap->depot_bytes[0] || heap->depot_bytes[1];
            }
            bytes -= done;
        }
    }
    return 0;
}

/* The first words of lists' blocks come into the cache: those of several lists at a time, since
   each tells only its next block. `most`: blocks of the longest, for one that was freed twice may
   lead in circles. */
static void fetch(void *const *heads, uint32_t n, uint32_t most)
{
    const char *at[LISTS_AT_ONCE], *end = (const char *)hak_link_end;
    for (uint32_t i = 0; i < LISTS_AT_ONCE; i++) {
        at[i] = i < n ? (const char *)heads[i] : end;
    }
    for (; most; most--) {
        for (uint32_t i = 0; i < LISTS_AT_ONCE; i++) {
            if (at[i] != end) {
                at[i] = (const char *)hak_link_follow(at[i]);
            }
        }
    }
}

/* Lists of the class go to their slabs, at most LISTS_AT_ONCE; returns how many did. *bytes and
 *blocks: how much may yet go, 0 when that is done. */
static uint32_t give_back_lists(struct theap *heap, uint32_t size_class, uint64_t *bytes,
                                uint32_t *blocks)
{
    void *heads[LISTS_AT_ONCE];
    uint32_t n = 0, n_rows = 0, count = 0, longest = 0;
    while (n < LISTS_AT_ONCE && *blocks && (heads[n] = heap->depot[size_class])) {
        n_rows += (*hak_depot_word(heads[n]) & IS_ROW) != 0;
        (void)hak_depot_take(heap, size_class, &count);
        uint64_t done = list_bytes(size_class, count);
        *blocks = done < *bytes && count < *blocks ? *blocks - count : 0;
        *bytes -= done;
        longest = count > longest ? count : longest;
        n++;
    }
    if (n_rows < n) { /* the processor fetches rows itself */
        fetch(heads, n, longest);
    }
    for (uint32_t i = 0; i < n; i++) {
        hak_lock_step(1);
        hak_small_put_list(&heap->owner, size_class, heads[i]);
    }
    return n;
}

/* So many lists have left otherwise than to a bin: the next rows go to their slabs at once, twice
   as many each time, and fewer with each list that a bin takes. `pause`: what it was before. */
static void note_left(struct theap *heap, uint32_t pause, uint32_t n)
{
    pause = pause * 2 + PAUSE_LISTS * n;
    heap->row_pause = pause < PAUSE_MOST ? pause : PAUSE_MOST;
    atomic_store_relaxed(&heap->row_wait, heap->row_pause);
}

/* Lists of these classes go to their slabs, of about so many bytes or blocks at most. */
static void give_back_of(struct theap *heap, uint64_t classes, uint64_t bytes, uint32_t blocks)
{
    uint32_t pressure = heap->depot_pressure, pause = heap->row_pause, n = 0, i;
    for (; classes && blocks; classes &= classes - 1) {
        uint32_t c = (uint32_t)__builtin_ctzll(classes);
        while (blocks && (i = give_back_lists(heap, c, &bytes, &blocks)) != 0) {
            n += i;
        }
    }
    heap->depot_pressure = pressure;
    if (n) {
        note_left(heap, pause, n);
    }
}

#define TINY_CLASSES (((uint64_t)1 << SC_N_TINY) - 1)

/* The class that has most there; SC_N_TINY if none has any. */
static uint32_t largest(const struct theap *heap)
{
    uint32_t largest = SC_N_TINY;
    uint64_t most = 0;
    for (uint32_t c = 0; c < SC_N_TINY; c++) {
        uint64_t bytes = list_bytes(c, heap->depot_blocks[c]);
        if (bytes > most) {
            most = bytes;
            largest = c;
        }
    }
    return largest;
}

/* hak_depot_shorten; returns how many lists went. */
static uint32_t give_back_largest(struct theap *heap, uint64_t bytes)
{
    uint32_t pressure = heap->depot_pressure, blocks = ROOM_MOST, n = 0, c;
    while (blocks && (c = largest(heap)) < SC_N_TINY) {
        n += give_back_lists(heap, c, &bytes, &blocks);
    }
    heap->depot_pressure = pressure;
    return n;
}

void hak_depot_shorten(struct theap *heap, uint64_t bytes)
{
    (void)give_back_largest(heap, bytes);
}

void hak_depot_make_room(struct theap *heap)
{
    hak_lock_acquire(&heap->owner.lock);
    uint32_t pause = heap->row_pause, n = give_back_largest(heap, SC_SLAB_BYTES);
    note_left(heap, pause, n);
    (void)hak_theap_unlock(heap);
}

/* A heap that has rows; NULL if none has. */
static struct theap *any_with_rows(void)
{
    struct owner *owner;
    for (uint32_t id = 0; hak_stat_get(depot_row_bytes) > 0 && (owner = hak_owner_next(&id));) {
        struct theap *heap = hak_theap_of_owner(owner);
        if (heap && atomic_load_relaxed(&heap->row_bytes)) {
            return heap;
        }
    }
    return NULL;
}

void hak_depot_relieve_by(struct theap *heap, size_t bytes)
{
    struct theap *last = heap;
    if ((bytes <= SC_SLAB_BYTES && hak_stat_get(heap_dirty_bytes) >= (int64_t)bytes) ||
        !hak_lock_try(&heap->owner.lock)) {
        return;
    }
    give_back_of(heap, TINY_CLASSES, (uint64_t)bytes << heap->depot_pressure, ROOM_MOST);
    heap->depot_pressure += heap->depot_pressure < PRESSURE_MOST;
    int is_done =
        !heap->depot_bytes[0] && atomic_cas_strong(&hak_depot_last, &last, (struct theap *)NULL);
    (void)hak_theap_unlock(heap);
    if (is_done && (heap = any_with_rows()) != NULL) {
        last = NULL;
        (void)atomic_cas_strong(&hak_depot_last, &last, heap);
    }
}

void hak_depot_end_window(struct theap *heap, uint64_t awake)
{
    hak_lock_acquire(&heap->owner.lock);
    give_back_of(heap, TINY_CLASSES & ~awake, UINT64_MAX, ROOM_MOST);
    hak_theap_unlock(heap);
}

/* Adds the bytes of a list to *bytes. */
static int verify_list(uint32_t size_class, const void *head, uint32_t count, int is_held,
                       uint64_t *bytes)
{
    int is_broken = 0;
    uint32_t n = 0;
    for (const void *at = head; at && n <= count; n++) {
        at = hak_link_look(at, &is_broken);
    }
    *bytes += list_bytes(size_class, n);
    if (is_broken || n != count) {
        return VERIFY_DEPOT_LIST;
    }
    return is_held && hak_bank_verify_held(head, count, size_class) ? VERIFY_DEPOT_HELD : 0;
}

int hak_depot_verify(const struct theap *heap)
{
    uint64_t bytes[2] = {0, 0}, row_bytes = 0;
    int is_wrong = 0;
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        uint32_t n = 0;
        int is_loose = (heap->depot_loose & BIT(c)) != 0;
        is_wrong |= is_loose && !heap->depot[c];
        for (void *head = heap->depot[c]; head;
             head = (void *)(*hak_depot_word(head) & LIST_MASK)) {
            uint32_t count = (uint32_t)(*hak_depot_word(head) >> COUNT_SHIFT);
            n += count;
            row_bytes += *hak_depot_word(head) & IS_ROW ? list_bytes(c, count) : 0;
            int is_held = hak_mid_is_class(c) && !is_loose;
            int error = verify_list(c, head, count, is_held, &bytes[hak_mid_is_class(c)]);
            if (error) {
                return error;
            }
            is_loose = 0;
        }
        is_wrong |= n != heap->depot_blocks[c];
    }
    is_wrong |= (heap->depot_loose & TINY_CLASSES) != 0;
    is_wrong |= row_bytes != heap->row_bytes;
    is_wrong |= bytes[0] != heap->depot_bytes[0] || bytes[1] != heap->depot_bytes[1];
    return is_wrong ? VERIFY_DEPOT_BYTES : 0;
}
