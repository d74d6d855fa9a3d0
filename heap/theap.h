/* Heaps: what one thread allocates from.

   struct theap is an owner (owner.h) of the kind OWNER_THREAD. One thread has it at a time
   (`hak_self` points to it); it outlives the thread as an orphan, and is adopted whole by a later
   thread; it is never freed, and keeps its id. Three parts:
   - the thread cache (bins, spares, outbox): touched by the owning thread alone, without a lock;
   - what lies behind the owner's lock (bank, depot): the thread's slow paths, and anybody
     who collects;
   - the owner's inbox: one word that every thread may push to.

   Bins. A bin is a LIFO list of free blocks of one class, linked through their first words
   (link.h).
     blocks in the bin = limit - room     (room < 0 for a moment: the push that makes it so calls
     hak_tc_overflow)
   A spare is one more list of the class, at most limit + 1 blocks. Blocks in bins, spares,
   outboxes, inboxes and the depot count as allocated in their slabs.

   Metered bins. While a layer meters what is allocated (entry.h), fast paths take from a second bin
   of the class, to which nothing is freed: so whoever fills it knows how many allocations it
   serves. The room of a metered bin is minus the number of its blocks; the layer fills it with the
   list of the first bin. Where the fast paths take from is data: tiny_bin and hak_tc_mid_bin_of.
   When metering ends, what is left is taken by the refills that follow, or flushed.

   In a process of many threads the few blocks that a thread has of a class may lie in slabs of a
   common heap (common.h).

   Slabs change hands. When a thread ends, and its heap is not parked for the next one (parked.h),
   its slabs with free blocks go to the shared heap (an orphan that no thread adopts), full ones
   stay with the orphan and follow when a block of theirs comes back; likewise those of a heap whose
   inbox only senders empty. A heap that would else take fresh memory first takes such a slab over,
   or one from a live heap that has several of the class, or, now and then and of tiny classes from
   a cache line on, that has one. Both heaps' locks are held for it (the shared heap's is taken
   last; of two live heaps' one is only tried), and the slab's tag changes. A
   free that read the old tag is a stray: whoever empties that inbox or bin finds, with the lock
   held, that the slab is not this heap's, and sends the block on. A block on its way counts as
   allocated, so that its slab can neither be freed nor change its class; bins may hold blocks of
   other heaps' slabs for the same reason.

   What may be held back (bytes, also tested in theap_test):
   - bins and spares: 2 x (HAKMEM_BIN_BYTES or one block) a class, within first small limits
     (OWNER_FIRST_BYTES) plus the process's budget HAKMEM_CACHE_BYTES; those of mid classes up to
     TC_MID_TIMES as much, as long as what they may hold more is at most one part in TC_MID_SHARE of
     the heap's slabs, and half of the budget is left; before a heap of TC_RELIEVE_FROM slabs lets
     the process grow by one, long lists of other classes are flushed;
   - in bins, of common heaps' blocks: COMMON_KEPT bytes (common.h), unless their locks are held;
   - an outbox: OUTBOX_SLOTS chains of at most OUTBOX_MAX_BLOCKS blocks and OUTBOX_MAX_BYTES (or one
     block) each;
   - an inbox: INBOX_MAX_BYTES plus a chain for each sender, then the sender collects; while
     a thread holds the lock, which is then collecting or refilling, INBOX_WAIT_BYTES, then the
     sender waits for the lock; an orphan's inbox: nothing, the sender collects at once; a parked
     heap's: PARKED_INBOX_BYTES;
   - freed spans: see ace/span_cache.h;
   - the depot: see depot.h; empty slabs: one a class (tiny.h, mid_mt.h).

   hak_theap_verify_all checks all of it. */
#ifndef HAKMEM_HEAP_THEAP_H
#define HAKMEM_HEAP_THEAP_H

#include "base/internal.h"

#include "ace/span_cache.h"
#include "base/link.h"
#include "base/lock.h"
#include "base/size_classes.h"
#include "owner/owner.h"
#include "superslab/map.h"

HAK_EXTERN_C_BEGIN

/* A window in which a bin may be found asleep, in the heap's slow paths. */
#define TC_SLEEP_WINDOW HAK_TINY_OR(16u, 1024u)
#define TC_MID_TIMES    4u
#define TC_MID_SHARE    4u
/* A heap of so many slabs flushes lists before it grows by one (tcache.c). */
#define TC_RELIEVE_FROM    HAK_TINY_OR(128u, 32u)
#define OUTBOX_SLOTS       HAK_TINY_OR(2u, 128u)
#define OUTBOX_MAX_BLOCKS  HAK_TINY_OR(3u, 32u)
#define OUTBOX_MAX_BYTES   4096u
#define INBOX_MAX_BYTES    HAK_TINY_OR(4096, 131072)
#define INBOX_WAIT_BYTES   ((int64_t)4 * INBOX_MAX_BYTES)
#define PARKED_INBOX_BYTES HAK_TINY_OR(1024, 65536)
#define DEPOT_LEAST_BYTES  HAK_TINY_OR(1024u, 262144u)
#define TINY_GRANULES      ((SC_TINY_MAX >> SC_GRANULE_SHIFT) + 1)

struct bin {
    void *head; /* hak_link_end if the bin is empty (link.h) */
    int32_t room;
    union {
        uint32_t magic; /* of the class, as is `limit`, for the check that a freed pointer is the
                           start of a block */
        uint32_t left;  /* of a metered bin: how many blocks its layer lets pass */
    };
    uint32_t limit;
    uint16_t size, slack; /* of the class; realloc to `slack` bytes less leaves a block there */
    /* common.h: */
    uint16_t common_uses, common_blocks;
    uint16_t common_tick, common_left;
};
HAK_STATIC_ASSERT(sizeof(struct bin) == 1u << TAG_BIN_SHIFT,
                  "the tag's lower bits are the bin's offset");

/* The bin's first block; NULL if there is none. */
static inline void *hak_tc_bin_first(const struct bin *bin)
{
    return bin->head == (const void *)hak_link_end ? NULL : bin->head;
}

static inline void hak_tc_bin_set(struct bin *bin, void *head)
{
    bin->head = head ? head : (void *)(uintptr_t)hak_link_end;
}

static inline void hak_tc_bin_push(struct bin *bin, void *block)
{
    hak_link_write(block, bin->head);
    bin->head = block;
    bin->room--;
}

struct spare {
    void *head;
    uint32_t count;
};

/* A chain of blocks of one owner and class that is being gathered: `count` blocks, at most `limit`;
   see remote.c. A limit of 0: none is, and if `is_kept` the blocks go into the own bins. Then the
   owner is a thread's heap, which it stays for ever. */
struct outbox_slot {
    void *head; /* hak_link_end while there are none */
    uint32_t tag;
    uint16_t count;
    uint8_t limit, is_kept;
};

/* How often a layer that meters samples (profile/meter.h). */
struct meter_budget {
    uint64_t since_ms;
    int32_t samples; /* that it may still take at once */
    uint32_t shift;  /* the period's, for what is decided now */
};

/* A live heap's state is hak_theap_epoch. */
#define HEAP_ORPHAN 0u

struct theap {
    struct bin bins[SC_N_CLASSES]; /* first, so that an offset into it is an offset into the heap */
    uint32_t owner_tag; /* id << TAG_OWNER_SHIFT: a tag XOR this is the bin's offset if the slab is
                           ours */
    struct map_view view;             /* what its thread's frees see of the map */
    struct outbox_slot *last_slot;    /* of the outbox, in use */
    uint16_t tiny_bin[TINY_GRANULES]; /* offset of the bin for (size + 15) / 16 */

    struct spare spares[SC_N_CLASSES];
    uint16_t limits[SC_N_CLASSES];     /* written atomically: senders read them (depot.c) */
    uint8_t n_overflows[SC_N_CLASSES]; /* since the last refill */
    uint8_t n_fresh[SC_N_CLASSES];     /* lists since the last overflow, if all from behind the lock
                                          were of blocks that were never handed out */
    struct outbox_slot outbox[OUTBOX_SLOTS];
    uint32_t slow_count;  /* refills from behind the lock */
    uint32_t n_slabs;     /* its bank's at the last of these */
    uint32_t made_slab;   /* one of them has made a slab; cleared by who minds the limits */
    int32_t mid_swing;    /* see tcache.c */
    uint32_t n_slow;      /* its thread's uses of what is behind the lock; read by senders */
    uint32_t seen_slow;   /* n_slow when a sender saw to the inbox last; owner's lock */
    uint32_t window_left; /* slow paths until a window of TC_SLEEP_WINDOW ends */
    uint64_t awake;       /* a bit for each class that took one in it */
    uint64_t is_largest;  /* a bit for each class whose limit is the largest */
    int refill_is_clean;  /* the block that hak_tc_refill gave last reads as zero behind its first
                             word */
    uint64_t budget;      /* bytes of the process's budget that the limits use */
    uint64_t fallen;      /* bytes that went to slabs, less twice what came from them; 0 at least */
    uint64_t mid_more;    /* of them, what limits of mid classes are above their policy's */
    uint32_t is_inside;   /* its thread is, see gate.h */
    uint32_t common_uses, common_tick; /* see common.h, as for the next two */
    uint64_t common_kept_in;           /* a bit for each class */
    uint32_t common_kept;              /* bytes */
    uint32_t is_parked, parked_at;     /* see parked.h */
    uint32_t n_levelled;  /* slabs taken from live heaps in this window that these may need */
    uint32_t relieved;    /* the class that was looked at last, see tcache.c */
    uint64_t long_limits; /* a bit for each class whose lists may be flushed then */
    uint32_t relieve_wait, relieve_pause; /* so many slabs are made without */
    uint64_t parked_budget;
    const struct lock *waits_for; /* by its thread while it is inside; see gate.c */

    void *depot[SC_N_CLASSES];           /* lists of free blocks, see depot.h; owner's lock */
    uint64_t depot_bytes[2];             /* of tiny and of mid classes; owner's lock */
    uint32_t depot_blocks[SC_N_CLASSES]; /* owner's lock */
    uint64_t depot_loose;                /* a bit for each class whose list that came last is not
                                            held yet; owner's lock */
    uint64_t row_bytes;                  /* of depot_bytes, in rows; owner's lock */
    uint32_t row_wait;                   /* so many rows go to their slabs; its thread's */
    uint32_t row_pause;        /* what that becomes when lists have left in vain; owner's lock */
    uint32_t depot_pressure;   /* see depot.h; owner's lock */
    struct theap *next_orphan; /* HEAPS lock */
    struct theap **self_at;    /* its thread's hak_self; the lock of hak_theap_switch */
    void *kept;      /* what a layer keeps of the thread's (secure/cache.h); NULL when it has a new
                        thread; its thread's, as bins are */
    void *kept_room; /* memory for that, for ever */
    uint32_t has_kept; /* the thread's lies there, though `kept` may be NULL since a fork */

    uint32_t is_metered;  /* fast paths take from `metered`; the lock of hak_self */
    uint32_t has_metered; /* `metered` has been in use */

    struct span_cache spans;
    struct owner owner; /* begins with a line of its own, which every thread pushes to */

    /* Last, since a heap that is not metered does not touch it. */
    struct bin metered[SC_N_CLASSES];
    /* The layer's: since which epoch of its the metered bins' `left` holds (profile/meter.h), and
       whole lists may go to them; how often the period was doubled when it decided so; what else
       bounds how often it samples. */
    uint32_t meter_epoch, meter_lists;
    uint8_t meter_shift[SC_N_CLASSES];
    struct meter_budget meter_budget;
};

HAK_STATIC_ASSERT(offsetof(struct theap, bins) == 0, "bins come first");

/* The thread's heap; hak_theap_none until its first allocation and after its end. Never NULL.
   `hak_self` is what the fast paths see: the same, or hak_theap_none while calls go to a layer
   (entry.h), which any thread may add at any time. */
extern HAK_TLS struct theap *hak_theap_own HAK_HIDDEN;
extern HAK_TLS struct theap *hak_self HAK_HIDDEN;
/* All bins empty, an id that no slab has: every fast path falls through. Read-only, except for
   the metered bins, which hak_tc_set_mid_metered makes. */
extern struct theap hak_theap_none HAK_HIDDEN;

/* 1 plus the forks that led to this process. A forked child is one thread: every heap whose state
   (owner.state) is an earlier epoch has lost its thread, and is as good as an orphan; what lay in
   its cache and inbox is forgotten (docs/fork.md). */
extern uint32_t hak_theap_epoch HAK_HIDDEN;
static inline int hak_theap_is_live(const struct theap *heap)
{
    return atomic_load_seq(&heap->owner.state) == hak_theap_epoch;
}
/* Empties the inbox of a heap from an earlier epoch. Owner's lock held. */
void hak_theap_mend(struct theap *heap);

/* The heap that the owner is part of; NULL if it is NULL, lost, a first-class heap or a pool. */
static inline struct theap *hak_theap_of_owner(struct owner *owner)
{
    return owner && owner->kind == OWNER_THREAD
               ? (struct theap *)(void *)((char *)owner - offsetof(struct theap, owner))
               : NULL;
}

/* This thread's heap, made or adopted at need; NULL if there can be none (no memory, too many, the
   thread is ending, or the gate is closed). Inside the gate none is made: what comes with it takes
   locks of the C library. */
struct theap *hak_theap_acquire_first(void);
static inline struct theap *hak_theap_acquire(void)
{
    return HAK_LIKELY(hak_theap_own != &hak_theap_none) ? hak_theap_own : hak_theap_acquire_first();
}
/* The same for a free, which needs no heap: a thread's first few get none. They may be the C
   library's, of a thread that ends and never had a heap, behind the destructors of its keys: then
   none would notice the end, and the heap would be no thread's for ever. */
struct theap *hak_theap_acquire_to_free(void);
/* Releases the heap's lock, sends on what hak_bank_put_list found to be another heap's by now, and
   purges what is due. Returns 1 if something was sent on. The thread holds no other lock that
   malloc or free may wait for. */
int hak_theap_unlock(struct theap *heap);
/* hak_small_take from the heap's own slabs, or from one that an ended thread left; 0 if a fresh
   slab is needed (hak_bank_make). Heap lock held. */
uint32_t hak_theap_take(struct theap *heap, uint32_t size_class, uint32_t want, void **head);
/* The same of hak_bank_pick. */
uint32_t hak_theap_pick(struct theap *heap, uint32_t size_class, uint32_t want, void **blocks);
/* For a heap whose thread has ended or sleeps: what came back goes to its slabs, and slabs with
   free blocks go to the shared heap, some at a time; the common heap's stay. The heap's lock is
   taken, or, unless it must be, only tried. Returns whether that was done. */
int hak_theap_tidy(struct theap *heap, int must);
/* For a heap whose inbox is full. If its thread has been on a slow path since the last time, what
   is in the inbox goes where that thread would put it; else to its slabs, and they to the shared
   heap. */
int hak_theap_relieve(struct theap *heap, int must);
/* The common heaps (common.h). Their ids are in a row and set aside at the start; each heap is made
   by the first call for it. NULL if there is no memory or no id, or if it is lost in a forked
   child. No lock held. */
#define N_COMMON_HEAPS HAK_TINY_OR(2u, 4u)
struct theap *hak_theap_common(uint32_t i);
/* The same, but makes none; with any locks held. */
struct theap *hak_theap_common_if_made(uint32_t i);
extern uint32_t hak_theap_common_tag HAK_HIDDEN; /* owner_tag of the first */
/* The number of the common heap whose slab has that tag; not less than N_COMMON_HEAPS if none. */
static inline uint32_t hak_theap_which_common(uint32_t tag)
{
    return (tag - hak_theap_common_tag) >> TAG_OWNER_SHIFT;
}
static inline int hak_theap_is_common(const struct theap *heap)
{
    return hak_theap_which_common(heap->owner_tag) < N_COMMON_HEAPS;
}
/* Allocates one block without a thread cache, for threads that can have no heap. NULL when the
   system refuses. */
void *hak_theap_alloc_uncached(uint32_t size_class);
/* Frees the empty slabs of every owner, empties the depot of every heap, and flushes
   this thread's cache. */
void hak_theap_trim_all(void);
/* What of it concerns this thread's heap alone. */
void hak_theap_trim_own(void);
/* Purges the pages of all slabs of every owner that hold free blocks only. Returns bytes. The gate
   is entered for each slab. */
size_t hak_theap_purge_all(void);
/* For the background thread. Collects for owners that no thread has used since the last call, and
   frees their empty slabs; for all owners, purges the pages of slabs that no thread has taken from
   or freed to since then. Stops early when that thread must end. */
void hak_theap_rest_all(void);
/* 1 if the last call has left spans with some thread. */
int hak_theap_keeps_spans(void);
/* Heaps that have a thread now. */
extern uint32_t hak_theap_live HAK_HIDDEN;
/* A thread has ended that had a heap. */
extern uint32_t hak_theap_has_ended HAK_HIDDEN;
/* The shared heap: an orphan that is never adopted. It holds the slabs with free blocks that ended
   threads left, until a heap that needs one of their class takes it, and serves threads without a
   heap. Its lock is taken after any other heap's. NULL before it is needed. */
extern struct theap *hak_theap_shared HAK_HIDDEN;
/* So often in a window of its slow paths a heap takes a slab over that a live heap may need soon:
   LEVEL_MOST, unless a test says otherwise. */
#define LEVEL_MOST HAK_TINY_OR(2u, 32u)
extern uint32_t hak_theap_level_most HAK_HIDDEN;
static inline uint32_t hak_theap_n_live(void)
{
    return atomic_load_seq(&hak_theap_live);
}
/* What fast paths see of every thread's heap: all; or that, and they take from the metered bins; or
   nothing, so that every call comes to the table of entry points. */
enum theap_view { THEAP_SHOWN, THEAP_HIDDEN, THEAP_METERED };
/* Does `change` with a lock of rank HEAPS held, which returns an enum theap_view: what fast paths
   see from now on. They see nothing at the start, until entry.c has made up its mind. Not behind
   the gate: who holds this lock waits for nothing, and a forked child frees it and does `change`
   again if it must. */
void hak_theap_switch(int (*change)(void *context), void *context);
/* That lock: what fast paths see, self_at of all heaps, and entry.c's layers. Taken outside of the
   gate, since its holders must not be refused: for a few stores, within which no thread waits for
   anything. */
extern struct lock hak_theap_shown_lock HAK_HIDDEN;
/* The own heap is the thread's from here on, or no more. While calls go to a layer, every thread's
   `self` is hak_theap_none, so that all of them take the slow paths. */
void hak_theap_show(struct theap *heap);
void hak_theap_hide(struct theap *heap);
/* In a forked child. */
void hak_theap_mend_shown(void);
/* 1 while the calling thread's fast paths see no heap. */
static inline int hak_theap_is_hidden(void)
{
    return atomic_load_relaxed(&hak_self) == &hak_theap_none;
}
/* The calling thread gets no heap, and leaves the one that it has as it is. */
void hak_theap_refuse(void);
/* What a thread that has ended left goes back, or is parked (parked.h), and its heap waits for the
   next. Inside the gate; hak_background_count comes after it. */
void hak_theap_end_thread(struct theap *heap);
/* What was parked goes back. Inside the gate, no lock held. */
void hak_theap_end_cache(struct theap *heap);
/* Empties the inboxes of heaps without a thread. Inside the gate. */
void hak_theap_collect_orphans(void);
/* For fork.c: in prepare; in the child; and in the child, for a lock whose holder it does not have:
   1 if the child can do without what it guards. */
/* 1 if a signal handler has interrupted the calling thread while it holds one of the two locks that
   are taken outside of the gate too: what fast paths see, and the spares. Threads inside may wait
   for it. */
int hak_theap_holds_outside(void);
void hak_theap_receive_own(void);
void hak_theap_fork_child(void);
int hak_theap_lose(struct lock *lock);
/* 1 if the calling thread had a heap, or is refused one. */
int hak_theap_is_ending(void);
/* 0 if the equations of all owners and of this thread's cache hold. Other threads may run; their
   bins are not looked at. */
int hak_theap_verify_all(void);

/* Thread cache, slow half (tcache.c). */
void hak_tc_init(struct theap *heap);
void *hak_tc_refill(struct theap *heap, uint32_t size_class);
void hak_tc_overflow(struct theap *heap, uint32_t size_class);
/* After so many overflows of a bin that was not filled in between, its thread only frees. */
#define TC_ONLY_FREES 8u
static inline int hak_tc_only_frees(const struct theap *heap, uint32_t size_class)
{
    return heap->n_overflows[size_class] >= TC_ONLY_FREES;
}
static inline uint32_t hak_tc_count(const struct theap *heap, uint32_t size_class)
{
    return (uint32_t)((int32_t)heap->limits[size_class] - heap->bins[size_class].room);
}
/* Moves blocks of the bin to the metered bin, which is empty: all, or the first `most`. Returns how
   many. By the heap's thread. */
uint32_t hak_tc_meter(struct theap *heap, uint32_t size_class, uint32_t most);
/* Fast paths of the heap take from its metered bins, or no more; with the lock of hak_theap_switch
   held. hak_tc_set_mid_metered: those of all heaps, for mid classes. */
void hak_tc_set_metered(struct theap *heap, int is_metered);
void hak_tc_set_mid_metered(int is_metered);
/* Set once, before there is a heap that keeps something: puts what `kept` holds into the bins,
   which may hold more than their limits then, and clears `kept`. By who flushes. */
extern void (*hak_tc_flush_kept)(struct theap *heap) HAK_HIDDEN;
/* Gives all bins, spares and the outbox back; limits return to their first values. */
void hak_tc_flush(struct theap *heap);
/* The bytes of all bins and spares; and so many of them go back that `most` are left: spares first,
   and of the largest classes. By the heap's thread. */
uint64_t hak_tc_bytes(const struct theap *heap);
void hak_tc_shrink(struct theap *heap, uint64_t bytes, uint64_t most);
/* Limits return to their first values; lists that hold more go back. By the heap's thread. */
void hak_tc_begin_again(struct theap *heap);
int hak_tc_verify(const struct theap *heap);
/* 1 if the block is among the first `most` of one of its class's lists. By the heap's thread. */
int hak_tc_holds(const struct theap *heap, uint32_t size_class, const void *p, uint32_t most);

/* Remote free (remote.c). */
/* The outbox slot of blocks with that tag. Owners and classes are small numbers: both are mixed. */
static inline struct outbox_slot *hak_remote_slot(struct theap *heap, uint32_t tag)
{
    return &heap->outbox[((tag >> TAG_BIN_SHIFT) ^ (tag >> (TAG_OWNER_SHIFT - 2))) % OUTBOX_SLOTS];
}

static HAK_ALWAYS_INLINE void hak_remote_push(struct theap *heap, struct outbox_slot *slot,
                                              void *block)
{
    heap->last_slot = slot;
    hak_link_write(block, slot->head);
    slot->head = block;
    slot->count++;
}

/* What is frequent of hak_remote_free, for any pointer and its tag: a chain of the block's owner
   and class is being gathered, and has room; or such blocks are kept in the own bin
   (hak_remote_keep). Returns 1 if it is there now, 0 if nothing was done: there is more to do, or
   to say. */
static HAK_ALWAYS_INLINE int hak_remote_free_soon(struct theap *heap, void *block, uint32_t tag)
{
    struct outbox_slot *slot = hak_remote_slot(heap, tag);
    __asm__("" : "+r"(slot)); /* one register, to which all of its fields are offsets */
    if (HAK_UNLIKELY(slot->tag != tag)) {
        return 0;
    }
    uint32_t bin_offset = tag & TAG_LOW_MASK;
    struct bin *bin = (struct bin *)(void *)((char *)heap + bin_offset);
    uint32_t offset = (uint32_t)(uintptr_t)block & (SC_SLAB_BYTES - 1);
    if (HAK_UNLIKELY(!hak_sc_is_block(offset, bin->magic, bin->limit) ||
                     heap->last_slot->head == block)) {
        return 0;
    }
    if (slot->is_kept) {
        if (HAK_UNLIKELY(hak_link_may_be_or_was(block))) {
            return 0;
        }
        hak_tc_bin_push(bin, block);
        if (HAK_UNLIKELY(bin->room < 0)) {
            hak_tc_overflow(heap, bin_offset >> TAG_BIN_SHIFT);
        }
        return 1;
    }
    if (slot->count >= slot->limit || HAK_UNLIKELY(slot->head == block)) {
        return 0; /* a limit of 0 is that of slots without an owner too */
    }
    hak_remote_push(heap, slot, block);
    return 1;
}

/* 1 if it is the start of a block whose owner and class have a chain that is full. */
static inline int hak_remote_is_full(struct theap *heap, const void *block, uint32_t tag)
{
    const struct outbox_slot *slot = hak_remote_slot(heap, tag);
    const struct bin *bin = &heap->bins[(tag & TAG_LOW_MASK) >> TAG_BIN_SHIFT];
    uint32_t offset = (uint32_t)(uintptr_t)block & (SC_SLAB_BYTES - 1);
    return slot->tag == tag && slot->count && slot->count >= slot->limit &&
           hak_sc_is_block(offset, bin->magic, bin->limit);
}

void hak_remote_free(struct theap *heap, void *block, uint32_t tag);
/* Puts a block of another heap into the own bin. */
void hak_remote_keep(struct theap *heap, void *block, uint32_t size_class);
/* Sends one block without an outbox. */
void hak_remote_free_now(void *block, uint32_t tag);
/* Sends a list of blocks, linked through their first words, each to whom its tag names now. No lock
   held. */
void hak_remote_send_list(void *head);
void hak_remote_send_all(struct theap *heap);
/* Takes the inbox: chains go to the depot, or to their slabs if it has no room. Heap lock held. */
void hak_remote_receive_chains(struct theap *heap);
/* On every slow path, mostly in vain. */
static inline void hak_remote_receive(struct theap *heap)
{
    if (HAK_UNLIKELY(atomic_load_seq(&heap->owner.inbox) != NULL)) {
        hak_remote_receive_chains(heap);
    }
}

/* Gives what is in the inbox and a part of what is in the depot to their slabs. Returns 1 if there
   is more in the depot: the caller lets go of the lock in between. Heap lock held. */
HAK_MUST_CHECK int hak_remote_collect(struct theap *heap);
/* What is in the inbox alone. */
void hak_remote_collect_inbox(struct theap *heap);
/* 0 if the calling thread's outbox is sound. */
int hak_remote_verify(const struct theap *heap);

HAK_EXTERN_C_END

#endif
