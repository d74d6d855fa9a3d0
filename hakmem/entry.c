/* The table of entry points and its layers. The list of layers and the table in force change
   together with what fast paths see of the heaps, with the HEAPS lock held (hak_theap_switch). */
#include "hakmem/entry.h"

#include "ace/ace.h"
#include "hakmem/fallback.h"
#include "hakmem/heap.h"
#include "hakmem/plain.h"
#include "heap/fork.h"
#include "heap/theap.h"

const struct entry_table hak_entry_plain = {
    .malloc = hak_plain_malloc,
    .calloc = hak_plain_calloc,
    .aligned = hak_plain_aligned,
    .realloc = hak_plain_realloc,
    .free = hak_plain_free,
    .usable_size = hak_plain_usable_size,
    .heap_alloc = hak_plain_heap_alloc,
    .heap_destroy = hak_plain_heap_destroy,
    .walked = hak_plain_walked,
    .name = hak_plain_name,
    .claim = hak_plain_claim,
};

static const struct entry_table first_table;
int (*hak_entry_verify)(void);
int (*hak_entry_reclaim)(void);
int (*hak_entry_free_known)(void *p);
void (*hak_entry_in_child)(void);
void *(*hak_entry_pass)(size_t size, int *is_refused);
uint32_t hak_entry_asked;
void (*hak_entry_answer)(void);
int (*hak_entry_walk)(const struct hak_heap *heap,
                      int (*visit)(void *block, size_t size, void *context), void *context);
static struct entry_layer *layers; /* the highest first; hak_theap_switch's lock */

/* --- adding and removing --- */

static const struct entry_table *highest(void)
{
    return layers ? &layers->table : &hak_entry_plain;
}

/* The table in force is the highest layer's. Returns which calls must come to it.
   hak_theap_switch's lock held. */
static int put_in_force(void)
{
    int view = THEAP_SHOWN;
    atomic_store_release(&hak_entry_top, highest());
    for (const struct entry_layer *layer = layers; layer && view != THEAP_HIDDEN;
         layer = layer->next) {
        if (layer->wants != ENTRY_WANTS_SLOW) {
            view = layer->wants == ENTRY_WANTS_ALL ? THEAP_HIDDEN : THEAP_METERED;
        }
    }
    return view;
}

/* The same, behind the process's start: all that this adds comes into force together, at its end.
   Else another thread's first call would be served by some of the layers, and those that come after
   them would not know its block. */
static int put_in_force_if_started(void)
{
    return hak_entry_top == &first_table ? THEAP_HIDDEN : put_in_force();
}

/* The link to the first layer that is not above `place`. */
static struct entry_layer **find(int place)
{
    struct entry_layer **link = &layers;
    while (*link && (*link)->place > place) {
        link = &(*link)->next;
    }
    return link;
}

/* Each layer's `below` follows from the list. What is below has a lower place at any moment, so
   that no call goes round. A layer's own free is in its table before another one's blocks come from
   below it, and until there is none. */
static void link_below(void)
{
    for (struct entry_layer *layer = layers; layer; layer = layer->next) {
        void (*own)(void *p) = layer->free_over_layer;
        if (own && layer->next) {
            atomic_store_release(&layer->table.free, own);
        }
        atomic_store_release(&layer->below, layer->next ? &layer->next->table : &hak_entry_plain);
        if (own && !layer->next && layer->table.free != hak_plain_free) {
            atomic_store_release(&layer->table.free, hak_plain_free);
        }
    }
}

/* The list is whole after each store, and says what there is: in a forked child the rest follows
   from it (mend). */
static int add(void *context)
{
    struct entry_layer *layer = (struct entry_layer *)context;
    if (!layer->is_added) {
        struct entry_layer **link = find(layer->place);
        layer->next = *link;
        atomic_store_release(link, layer);
        atomic_store_release(&layer->is_added, 1);
        link_below();
    }
    return put_in_force_if_started();
}

/* The layer's own `below` stays, for calls that are in it. */
static int remove_(void *context)
{
    struct entry_layer *layer = (struct entry_layer *)context;
    if (layer->is_added) {
        struct entry_layer **link = find(layer->place);
        atomic_store_release(&layer->is_added, 0);
        atomic_store_release(link, layer->next);
        link_below();
    }
    return put_in_force_if_started();
}

static int mend(void *context)
{
    (void)context;
    for (struct entry_layer *layer = layers; layer; layer = layer->next) {
        layer->is_added = 1;
    }
    link_below();
    return put_in_force_if_started();
}

void hak_entry_mend(void)
{
    hak_theap_switch(mend, NULL);
}

/* --- the first table: each of its functions starts the process --- */

/* There is one at least, so that the linker makes the section's bounds. */
static void start_nothing(void)
{
}
ENTRY_AT_START(start_nothing);

extern const entry_starter __start_hak_entry_start[] HAK_HIDDEN;
extern const entry_starter __stop_hak_entry_start[] HAK_HIDDEN;

static int end_start(void *context)
{
    (void)context;
    return put_in_force();
}

enum { NOT_STARTED, STARTING, STARTED };
static uint32_t state;
/* 1: the thread is in start(); ASKS: and its state is STARTING. */
#define ASKS 2
static HAK_TLS uint8_t is_starting;

/* By the thread whose STARTING it is. */
static void ask_all(void)
{
    is_starting = ASKS;
    /* cppcheck-suppress comparePointers ; the two ends of one section */
    for (const entry_starter *at = __start_hak_entry_start; at < __stop_hak_entry_start; at++) {
        (*at)();
    }
    hak_theap_switch(end_start, NULL);
    atomic_store_release(&state, (uint32_t)STARTED);
}

/* Returns the table that serves the call. Another thread waits until the first has asked who wants
   to observe: else a block of its would be one that they do not know. The first waits for none. The
   heap comes before: it registers the handlers of fork if nothing has, so that a child learns that
   the first is not there; one that was forked by a handler that interrupted who waits does it
   again. */
static const struct entry_table *start(void)
{
    uint32_t seen = NOT_STARTED;
    if (HAK_UNLIKELY(is_starting)) {
        return is_starting == ASKS ? highest() : &hak_entry_plain;
    }
    while (seen != STARTED) {
        seen = NOT_STARTED;
        is_starting = 1;
        (void)hak_theap_acquire();
        if (atomic_cas_strong(&state, &seen, (uint32_t)STARTING)) {
            ask_all();
        }
        is_starting = 0;
        while ((seen = atomic_load_acquire(&state)) == STARTING) {
            hak_atomic_pause();
        }
    }
    return hak_entry_now();
}

void hak_entry_begin(void)
{
    (void)start();
}

int hak_entry_has_begun(void)
{
    return atomic_load_acquire(&state) == STARTED;
}

static int begin_again(void *context)
{
    (void)context;
    atomic_store_release(&hak_entry_top, &first_table);
    return THEAP_HIDDEN;
}

/* A thread that the child does not have was starting: the next call does it again, also where all
   layers were in force already. */
void hak_entry_fork_child(void)
{
    if (state == STARTING && is_starting != ASKS) {
        state = NOT_STARTED;
        if (!hak_theap_holds_outside()) {
            hak_theap_switch(begin_again, NULL);
        }
    }
    hak_fallback_fork_child();
    void (*in_child)(void) = atomic_load_acquire(&hak_entry_in_child);
    if (in_child) {
        in_child();
    }
}

static void *first_malloc(size_t size)
{
    return start()->malloc(size);
}

static void *first_calloc(size_t bytes)
{
    return start()->calloc(bytes);
}

static void *first_aligned(size_t alignment, size_t size)
{
    return start()->aligned(alignment, size);
}

static void *first_realloc(void *p, size_t size, struct hak_heap *heap, int is_zeroed)
{
    return start()->realloc(p, size, heap, is_zeroed);
}

static void first_free(void *p)
{
    start()->free(p);
}

static size_t first_usable_size(const void *p)
{
    return start()->usable_size(p);
}

static void *first_heap_alloc(struct hak_heap *heap, size_t size, size_t alignment, int is_zeroed)
{
    return start()->heap_alloc(heap, size, alignment, is_zeroed);
}

static void first_heap_destroy(struct hak_heap *heap)
{
    start()->heap_destroy(heap);
}

static size_t first_walked(void **p, size_t usable)
{
    return start()->walked(p, usable);
}

static void first_name(void *p, enum entry_family family)
{
    start()->name(p, family);
}

static void first_claim(void *p, const struct entry_claim *claim)
{
    start()->claim(p, claim);
}

static const struct entry_table first_table = {
    .malloc = first_malloc,
    .calloc = first_calloc,
    .aligned = first_aligned,
    .realloc = first_realloc,
    .free = first_free,
    .usable_size = first_usable_size,
    .heap_alloc = first_heap_alloc,
    .heap_destroy = first_heap_destroy,
    .walked = first_walked,
    .name = first_name,
    .claim = first_claim,
};

const struct entry_table *hak_entry_top = &first_table;

void hak_entry_add(struct entry_layer *layer)
{
    (void)start();
    hak_theap_switch(add, layer);
    hak_fork_catch_up(); /* a fork in a signal handler may have left it to this thread */
}

void hak_entry_remove(struct entry_layer *layer)
{
    (void)start();
    hak_theap_switch(remove_, layer);
    hak_fork_catch_up(); /* a fork in a signal handler may have left it to this thread */
}

static void free_large(void *p)
{
    hak_heap_forget(p);
    hak_ace_free(p);
}

static int end_heap(struct owner *owner)
{
    struct hak_heap *heap = hak_heap_of_owner(owner);
    if (heap) {
        hak_heap_end(heap);
    }
    return heap != NULL;
}

const struct fork_parts hak_entry_fork_parts = {
    .free_large = free_large,
    .free_libcs = hak_fallback_catch_up,
    .end_heap = end_heap,
    .mend = hak_entry_mend,
    .in_child = hak_entry_fork_child,
};
