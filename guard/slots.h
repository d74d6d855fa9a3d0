/* Slots: memory for guarded blocks. Each slot lies between pages that may never be touched; a block
   lies at its end or its start, and of the slot's pages those alone that the block needs may be
   touched, while it lives.

     guard page | slot 0 | guard page | slot 1 | ... | slot n-1 | guard page

   The first are GUARD_MAX bytes large, the last as large as the option asks: they serve what does
   not go into the first. What a large slot costs is address space, and the pages of its block.

   States. A slot is FREE from its start on, and after each free; then it is in the queue of those
   of its size, which hands out the one that has waited longest, and keeps a quarter of them
   waiting. TAKING and GIVING are a moment's, by the thread that does it; USED in between. Whoever
   changes USED to GIVING frees the block: a second free finds another state.

   The fields of a slot are written by who takes or gives it; a report reads them as they are. All
   functions may be called by any thread. Locks: the queues', rank GUARD, for some stores. System
   calls: mprotect and madvise, outside of it. */
#ifndef HAKMEM_GUARD_SLOTS_H
#define HAKMEM_GUARD_SLOTS_H

#include "base/internal.h"

#include "base/attributes.h"
#include "stack/trace.h"

HAK_EXTERN_C_BEGIN

struct hak_heap;

/* The largest block of a small slot; on systems with larger pages, one page. */
#define GUARD_MAX ((size_t)16 * HAK_KIB)
/* Of n slots, as many more are large. */
#define GUARD_LARGE_PART  8u
#define GUARD_LARGE_LEAST 4u
#define GUARD_LARGE_MOST  64u
/* Bytes beside a block, in its own pages, that are filled and looked at when it is freed. */
#define GUARD_FILL 64u

enum guard_state { GUARD_FREE, GUARD_TAKING, GUARD_USED, GUARD_GIVING };
enum guard_event { GUARD_ALLOCATED, GUARD_FREED, GUARD_N_EVENTS };

struct guard_slot {
    uint32_t state;     /* enum guard_state */
    uint32_t is_at_end; /* the block ends where the slot does, except for alignment */
    uint32_t is_dirty;  /* pages that were used may have kept what was written to them */
    size_t size;        /* that was asked for */
    char *block;        /* NULL: the slot never had one */
    char *pages;        /* the first page that may be touched, and how many bytes of them */
    size_t n_bytes;
    size_t committed; /* bytes that the memory limit counts for it: also of a freed block, if the
                         system has not taken its pages */
    struct hak_heap *heap; /* the first-class heap whose block it is; NULL for none */
    struct stack_trace traces[GUARD_N_EVENTS];
};

/* Where an address lies, seen from the block to which it is likely to belong. */
enum guard_place { GUARD_NOWHERE, GUARD_BEFORE, GUARD_INSIDE, GUARD_BEHIND };
struct guard_spot {
    const struct guard_slot *slot;
    enum guard_place place;
    size_t distance; /* bytes before its start, from its start, or behind its end */
};

/* All slots lie in [hak_guard_base, hak_guard_base + hak_guard_bytes); 0 bytes: there are none. The
   base is written first, and both once. */
extern uintptr_t hak_guard_base HAK_HIDDEN;
extern size_t hak_guard_bytes HAK_HIDDEN;

static HAK_ALWAYS_INLINE int hak_guard_holds(const void *p)
{
    return (uintptr_t)p - hak_guard_base < hak_guard_bytes;
}

/* Makes n slots, and large ones for blocks of up to `large` bytes (0: none), once. Without the
   large ones if there is no address space for them. Returns 0, or ENOMEM if the system refuses. One
   thread at a time. */
HAK_MUST_CHECK int hak_guard_make(uint32_t n, size_t large);
/* The largest block that a slot can hold; how many slots there are for blocks of that size, and how
   many of these wait at least. */
size_t hak_guard_largest(void);
uint32_t hak_guard_n_slots(size_t size, uint32_t *n_kept);
/* What is asked of a slot. */
struct guard_wish {
    size_t size, alignment; /* the latter a power of two */
    struct hak_heap *heap;  /* whose it will be, NULL for none */
    int is_at_end;          /* where the block lies */
};
/* A block of zero bytes, or NULL: too many are in use, it is too large, or the system refuses. A
   block of 0 bytes may not be touched at all. The slot's first trace is the caller's to write.
   Changes errno. */
void *hak_guard_take(const struct guard_wish *wish, struct guard_slot **slot);
/* The slot of a block that may be in use; NULL if no block starts there. */
struct guard_slot *hak_guard_slot_of(const void *p);
/* USED becomes GIVING; returns 0 if it is not used. */
HAK_MUST_CHECK int hak_guard_begin_give(struct guard_slot *slot);
/* The pages may not be touched any more, and the slot waits in the queue. Changes errno. */
void hak_guard_end_give(struct guard_slot *slot);
/* GUARD_NOWHERE if the filling around a block is whole, else where it was written to. */
enum guard_place hak_guard_check(const struct guard_slot *slot);
/* Of any address. Reads slots as they are; for signal handlers too. */
struct guard_spot hak_guard_spot_of(const void *p);
/* In a forked child: frees the queues' lock if a thread held it that the child does not have. */
void hak_guard_fork_child(void);
/* The next slot that is in use, from number *i on, which it moves behind it; NULL at the end. */
struct guard_slot *hak_guard_next_used(uint32_t *i);
/* Slots that have a block, and what hak_verify returns: 0, or VERIFY_GUARD. */
uint32_t hak_guard_n_used(void);
int hak_guard_verify(void);

HAK_EXTERN_C_END

#endif
