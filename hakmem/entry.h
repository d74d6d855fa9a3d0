/* Entry points: the one table between the public functions and the plain ones.

   hak_*, the malloc family and C++'s operators end, behind their fast paths, in the table that
   hak_entry_now() names. Without an observer that is hak_entry_plain: functions which serve
   (plain.h), and never ask whether anybody watches. An observer is a layer: a table of its own that
   lies over those below it. Its functions do what they are for, and call the same function of
   hak_entry_below(layer), never a public name. The table in force is switched as a whole, by one
   pointer.

   The fast paths cost nothing for it: while there is a layer that is to see every call, each
   thread's `hak_self` is hak_theap_none (heap.h), so that each call finds an empty bin or a foreign
   tag, and comes here. A layer that counts leaves them in force (entry_wants).

   Order: of two layers the one with the higher place is above, whichever was added first. A layer
   is added and removed by any thread at any time. While that happens a call of another thread
   finds the old table or the new one; a call that has begun ends in the layers in which it began,
   so that a layer's functions may still run after hak_entry_remove has returned: a layer is static,
   and its functions do their work below when they have nothing to do. docs/design.md shows how one
   is made.

   Locks: one of rank HEAPS while a table is switched (hak_theap_switch); none is held while a
   layer's functions run. */
#ifndef HAKMEM_HAKMEM_ENTRY_H
#define HAKMEM_HAKMEM_ENTRY_H

#include "base/internal.h"

#include "base/atomic.h"
#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

struct hak_heap;

/* Whose functions allocate a block, and free it. */
enum entry_family { ENTRY_MALLOC = 1, ENTRY_NEW, ENTRY_NEW_ARRAY };

/* What a caller that is about to free a block says of it. A form of delete that calls another form,
   or free, makes the block that one's: `family` becomes `next`. */
struct entry_claim {
    enum entry_family family, next;
    size_t size;      /* that was asked for; SIZE_MAX if it does not say */
    size_t alignment; /* likewise; 0 if it does not say */
};

/* Each as the public function of its name; what all of them would check has been checked. */
struct entry_table {
    void *(*malloc)(size_t size);
    /* n * size, which did not overflow. All of the block's usable size is zero. */
    void *(*calloc)(size_t bytes);
    /* `alignment` is a power of two above 16. */
    void *(*aligned)(size_t alignment, size_t size);
    /* Every realloc. `heap`: hak_heap_realloc's, NULL for the heap in which the block is;
       `is_zeroed`: hak_rezalloc. */
    void *(*realloc)(void *p, size_t size, struct hak_heap *heap, int is_zeroed);
    /* `p` is not NULL. */
    void (*free)(void *p);
    size_t (*usable_size)(const void *p);
    void *(*heap_alloc)(struct hak_heap *heap, size_t size, size_t alignment, int is_zeroed);
    /* `heap` is not NULL. */
    void (*heap_destroy)(struct hak_heap *heap);
    /* A walk has come to a block of `usable` bytes: how many the program may use, and *p, where
       they begin for the program; 0: it is none of the program's. */
    size_t (*walked)(void **p, size_t usable);
    /* The secure variant alone calls these two (fast.h). A block of malloc's, just allocated, is
       another family's; a block, not NULL, is about to be freed, by a pointer that may be wrong. */
    void (*name)(void *p, enum entry_family family);
    void (*claim)(void *p, const struct entry_claim *claim);
};

/* Places. Below: what changes blocks (red zones, guards); then what serves some calls by itself;
   above: what looks at the program's calls. */
enum entry_place {
    ENTRY_PLACE_BLOCKS = 100,
    ENTRY_PLACE_STACKS = 130,
    ENTRY_PLACE_SAMPLES = 140,
    ENTRY_PLACE_PROFILE = 150,
    ENTRY_PLACE_LEAKS = 160,
    ENTRY_PLACE_CALLS = 200
};

/* Which calls must come to a layer. The strongest wish of all layers is granted. */
enum entry_wants {
    ENTRY_WANTS_ALL,
    /* Those that leave the fast paths. Its malloc, calloc and aligned fill the metered bins, so
       that it knows how many calls pass by (hak_tc_meter). */
    ENTRY_WANTS_METERED,
    /* Those that leave the fast paths anyway. */
    ENTRY_WANTS_SLOW
};

struct entry_layer {
    struct entry_table table; /* all of it */
    int place;                /* no two layers have the same */
    /* Written by hak_entry_add and hak_entry_remove. */
    const struct entry_table *below;
    struct entry_layer *next; /* the layer below, NULL for none; hak_theap_switch's lock */
    int is_added;             /* likewise; in the list, except for a moment while that changes */
    /* NULL, or its free over another layer; over the plain table it needs none (see
       hak_entry_free_known), and table.free, written as `below` is, is the plain one. */
    void (*free_over_layer)(void *p);
    int wants; /* enum entry_wants; the layer's own, and in force after the next hak_entry_add */
};

extern const struct entry_table hak_entry_plain HAK_HIDDEN;
extern const struct entry_table *hak_entry_top HAK_HIDDEN;

/* The table in force. */
static inline const struct entry_table *hak_entry_now(void)
{
    return atomic_load_acquire(&hak_entry_top);
}

/* The table that the layer's functions call. */
static inline const struct entry_table *hak_entry_below(const struct entry_layer *layer)
{
    return atomic_load_acquire(&layer->below);
}

/* Set by a layer at its start: what hak_verify checks besides; a number of base/verify.def. */
extern int (*hak_entry_verify)(void) HAK_HIDDEN;
/* Likewise: tells a walk of the blocks that lie with the layer alone; `heap`: of that heap, NULL
   for all. Returns what `visit` has returned last, which ends it if it is not 0. */
extern int (*hak_entry_walk)(const struct hak_heap *heap,
                             int (*visit)(void *block, size_t size, void *context),
                             void *context) HAK_HIDDEN;
/* Likewise: returns what the layer keeps of the process's. Returns 1 if it gave
   some, and there is more, which can be had once that has gone to the system. Inside the gate. */
extern int (*hak_entry_reclaim)(void) HAK_HIDDEN;

/* Likewise: frees a block that the layer has put behind the start of another one, or that it knows
   otherwise; 0 if there is none. So its own `free` need not look: plain.c asks about blocks that
   are in no slab, or that are not the start of a block. */
extern int (*hak_entry_free_known)(void *p) HAK_HIDDEN;

/* Likewise: called in a forked child, before its first call is served. Async-signal-safe. */
extern void (*hak_entry_in_child)(void) HAK_HIDDEN;

/* Set by a layer that meters: a small block, where the metered bin has none, that the layer need
   not see; NULL if it must, or, with *is_refused, if there is no memory. */
extern void *(*hak_entry_pass)(size_t size, int *is_refused)HAK_HIDDEN;

/* A request from outside of the process (profile_layout.h), and what answers it, set by a layer at
   its start. Looked at on slow paths of malloc with no lock held, outside of the gate. */
extern uint32_t hak_entry_asked HAK_HIDDEN;
extern void (*hak_entry_answer)(void) HAK_HIDDEN;
static inline void hak_entry_mind_asked(void)
{
    if (HAK_UNLIKELY(atomic_load_relaxed(&hak_entry_asked) != 0) && hak_entry_answer) {
        hak_entry_answer();
    }
}

/* Puts a layer in force, or takes it out; if it is so already, what it wants is looked at again. */
void hak_entry_add(struct entry_layer *layer);
void hak_entry_remove(struct entry_layer *layer);

/* Starts the process, if its first call has not; and whether that is done. A layer that is changed
   under a lock of its own starts it before it takes that: its ENTRY_AT_START takes it too. */
void hak_entry_begin(void);
int hak_entry_has_begun(void);

/* In a forked child: where another thread was starting the process; and where it was switching. */
void hak_entry_fork_child(void);
void hak_entry_mend(void);

/* ENTRY_AT_START(function), at file scope: `function` is called once, before the process's first
   call is served, by the thread that makes it; in the child of a fork under way then, once more. It
   may add layers, which come into force together when all such functions have returned: no other
   thread's call is served by some of them. It must not allocate. Options have been read. */
typedef void (*entry_starter)(void);
#define ENTRY_AT_START(function)                                                                   \
    __attribute__((                                                                                \
        used, section("hak_entry_start"))) static const entry_starter entry_start_##function =     \
        (function)

HAK_EXTERN_C_END

#endif
