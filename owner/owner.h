/* Owners: whoever slabs belong to. A thread's heap, a first-class heap and a pool used alone are
   three kinds of one thing: a lock, an id, and a bank of slabs behind the lock. One table finds all
   of them by the id that their slabs' tags carry.

   struct owner lies in what is made of it: struct theap (heap) and struct hak_heap (hakmem) embed
   one, struct mid_pool and struct tiny_pool point to one. Its memory is metadata and is never
   unmapped; it is used again for the same kind alone. States:
     unregistered   id = 0, in no slot of the table, the bank empty; it is among the spares, or it
                   was made while the gate was closed and is registered when it first needs a slab
     registered     hak_owner_table.at[id] is this owner; from hak_owner_register to
                   hak_owner_unregister. A thread's heap stays so for ever
     lost           registered, in a forked child: a thread held its lock that the child does not
                   have. `kind` has OWNER_LOST, no thread takes the lock any more, and the bank
                   stays as it is. Its blocks can be used, and never return to their slabs
   The id is set aside (a bit in the table's set) for a moment before and after, and for as long as
   its maker likes by hak_owner_reserve.
   Always: an id in the table is set aside; hak_owner_table.at[id]->id = bank.owner = id; every slab
   whose tag carries the id is in that owner's bank. hak_owner_verify_all checks.
   Who writes: id, bank and the slot of the table under `lock`; `kind` when it is made, and in a
   child; the inbox line as said below.

   Ids are used again, thread heaps' excepted. What may still name an id whose owner is gone:
   - Slabs and tags: none. An owner is unregistered with an empty bank (checked), that is when every
     unit that carried its tag has another one.
   - A number read from the map before: the walks of all blocks and the purge of cold slabs read a
     tag, and take the lock after. hak_owner_hold is the only way from such a number to an owner:
     the pointer that it finds leads to an owner for ever, and with the lock held it looks whether
     the id is still that owner's. It stays so until the lock is released, since unregistering takes
     the lock; then the tag is read once more, and while the owner that it names is held, it is
     exact. Were the id not compared, a unit that a second owner of the same id got in the same
     class would pass.
   - Outbox slots (remote.c): one with a limit above 0 gathers blocks of a thread's heap, whose id
     is never used again. One with limit 0 (first-class heap, or a heap without a thread) holds no
     block, and asks for the owner's kind at each free: if a thread's heap has got the id since, the
     block is kept in the own bin, which any heap's block may be, and the slot is asked again when
     outboxes are sent.
   - A free in flight: its block is allocated, so that its owner has a slab, and cannot be
     unregistered in a program that does not use what it destroys. One that does ends by an error
     line, or frees what the id's next owner has: its own fault.
   - Inboxes, depots, strays, orphans, adoption, bins: they hold blocks of thread heaps
     only.
   - Fork: none. An owner's lock is made once, when it is first registered, and is in the list of
     locks (lock.h) for ever. Whoever takes one is inside the gate (heap/gate.h), so that a child
     finds all of them free and every owner whole. Only a fork in a signal handler may find others
     inside: then hak_owner_lose gives up the registered owners whose locks they hold, and frees the
     locks of unregistered ones, behind which there is nothing.
   The set of ids and its summaries are under one lock, rank OWNERS; the table is read without it.

   Spares. An owner that has ended waits for the next of its kind, whoever makes that, inside the
   gate or not. So the spares' lock (rank HEAPS) is one of the two that are taken outside of the
   gate: for a few stores, and who is outside does not wait for it but goes without. A forked child
   may find it held; it has no spares then. */
#ifndef HAKMEM_OWNER_OWNER_H
#define HAKMEM_OWNER_OWNER_H

#include "base/internal.h"

#include "base/lock.h"
#include "owner/bank.h"
#include "superslab/map.h"

HAK_EXTERN_C_BEGIN

enum owner_kind {
    OWNER_THREAD = 1, /* a thread's heap, or what one left */
    OWNER_HEAP,       /* a first-class heap: blocks go straight to their slabs */
    OWNER_POOL,       /* a pool used alone: blocks come back through it only */
    OWNER_LOST = 8    /* added to one of them */
};

struct owner {
    /* Read and written by every thread without the lock: on a line of its own. The inbox and the
       state are of thread heaps alone, see remote.c and heap.h. */
    HAK_CACHE_ALIGNED void *inbox;
    int64_t inbox_bytes;
    uint32_t state; /* heap.h; written under `lock` */
    uint32_t kind;  /* enum owner_kind */
    uint32_t id;
    uint32_t epoch; /* in which the inbox was last known to be whole; written under `lock` */

    HAK_CACHE_ALIGNED struct lock lock;
    uint32_t n_uses;    /* changes when anybody uses what is behind the lock */
    uint32_t seen_uses; /* at the last look for idle owners */
    uint32_t has_rested;
    uint32_t is_live; /* a first-class heap or a pool that was made, and not destroyed; atomic */
    struct bank bank;
    uint64_t n_in_limbo;       /* blocks of it that limbo serves (heap/limbo.h); atomic */
    struct owner *next_unused; /* of spares, their lock; of what waits in heap/fork.c */
};

#define OWNER_MAX HAK_TINY_OR(64u, 65535u)
HAK_STATIC_ASSERT(OWNER_MAX < TAG_SPECIAL_OWNER, "no owner has the id that marks what is no slab");

#define OWNER_ID_WORDS      ((OWNER_MAX + 1 + 63) / 64)
#define OWNER_SUMMARY_WORDS ((OWNER_ID_WORDS + 63) / 64)
#define OWNER_SUMMARY_BITS  (OWNER_SUMMARY_WORDS * 64)

/* Everything but `at` is owner.c's. The words with the set of ids come backwards, so that a small
   process touches the two ends of the table alone, which share pages with what lies about it. */
struct hak_owner_table {
    struct owner *at[OWNER_MAX + 1];
    /* A bit for each id that is set aside; walks read them without the lock. */
    uint64_t ids[OWNER_ID_WORDS];
    uint32_t n_id_words; /* those that have ever had a bit */
    /* A bit for each word that has an id, and for each that has no free one: no look at the set is
       longer than the summaries. */
    uint64_t words_used[OWNER_SUMMARY_WORDS], words_full[OWNER_SUMMARY_WORDS];
};
extern struct hak_owner_table hak_owner_table HAK_HIDDEN;

/* The owner of that id, or NULL. For whoever holds a block of its slabs; others want
   hak_owner_hold. */
static inline struct owner *hak_owner_by_id(uint32_t id)
{
    return id <= OWNER_MAX ? atomic_load_acquire(&hak_owner_table.at[id]) : NULL;
}

static inline int hak_owner_is_lost(const struct owner *owner)
{
    return HAK_UNLIKELY(owner->kind & OWNER_LOST);
}

/* Makes an owner known: a free id, a lock of the rank, an empty bank. 0, or EAGAIN if there is no
   id. The memory was zeroed when it was new. */
HAK_MUST_CHECK int hak_owner_register(struct owner *owner, enum owner_kind kind,
                                      enum lock_rank rank);
/* The same in two steps: an id (0 if there is none) that no other owner gets, and an owner for it.
 */
HAK_MUST_CHECK uint32_t hak_owner_reserve(void);
void hak_owner_register_as(struct owner *owner, uint32_t id, enum owner_kind kind,
                           enum lock_rank rank);
/* Returns all slabs of an owner, whatever lies in them, and its id, which the next one gets. Not of
   a thread's heap. */
void hak_owner_unregister(struct owner *owner);

/* A spare of that kind, or NULL: its memory, unregistered. `may_wait`: the caller is inside the
   gate, or there is none. */
struct owner *hak_owner_take_spare(enum owner_kind kind, int may_wait);
/* New memory, or NULL, becomes an owner of that kind, unregistered. */
static inline struct owner *hak_owner_new(void *memory, enum owner_kind kind)
{
    struct owner *owner = (struct owner *)memory;
    if (owner) {
        owner->kind = (uint32_t)kind;
    }
    return owner;
}
/* Unregistered, with nothing in it. Returns 0 if it could not be kept. */
int hak_owner_keep_spare(struct owner *owner, int may_wait);
void hak_owner_fork_child(void);
/* 1 if a signal handler has interrupted the calling thread while it holds the spares' lock, which
   is taken outside of the gate too. */
int hak_owner_holds_spares(void);

/* The owner of that id with its lock held, or NULL if no owner has the id (any more), or a lost one
   has it. Release with hak_owner_release. */
struct owner *hak_owner_hold(uint32_t id);
/* Ends a use of what is behind the lock, by owners of all kinds but thread heaps
   (hak_theap_unlock). Who has freed calls hak_ss_purge_due then, when it holds no lock. */
static inline void hak_owner_release(struct owner *owner)
{
    owner->n_uses++;
    hak_lock_release(&owner->lock);
}

/* The registered owner with the lowest id above *id, which becomes its id; NULL behind the last.
   Owners that come or go during a walk are seen or not. No lock is taken. */
struct owner *hak_owner_next(uint32_t *id);
/* Calls visit with each owner of all kinds, its lock held, until one call returns something else
   than 0, which is returned. */
int hak_owner_for_each(int (*visit)(struct owner *owner, void *context), void *context);

/* 0 if the owner's equations and its bank's hold. Lock held. */
int hak_owner_verify(const struct owner *owner);
/* 0 if those of all owners and of the table do. No lock held. */
int hak_owner_verify_all(void);

/* In a forked child, for a lock that a thread holds which the child does not have. Returns 1 if it
   is the spares', or an owner's of rank HEAP other than `own`, which may be NULL: that owner is
   lost, or, if it is unregistered, its lock is free now. */
int hak_owner_lose(struct lock *lock, const struct owner *own);

/* --- pools used alone --- */

/* What stands between a pool and a fork. Pools do not know hakmem's gate (heap/gate.h); where
   hakmem is in the process too, it puts this here at its start, before any gate can be closed. */
struct hak_owner_gate {
    int (*enter)(void); /* 1: inside, until leave. 0: closed, and the others serve */
    void (*leave)(void);
    /* `owner`: whose block it is; NULL: memory of ours, for good. NULL and ENOMEM if there is none.
     */
    void *(*alloc)(size_t size, size_t align, struct owner *owner);
    /* The map says TAG_LIMBO; aborts if it is no block of the owner's. */
    void (*free)(void *block, const struct owner *owner);
    void (*free_of)(struct owner *owner);
    void (*defer_block)(void *block);       /* a slab's: it is freed when the gate opens */
    void (*defer_end)(struct owner *owner); /* hak_owner_end_pool then */
    void (*catch_up)(void);                 /* what was deferred is done now; inside */
};
/* NULL: there is no gate to be closed, and pools are not looked after when the process forks. */
extern const struct hak_owner_gate *hak_owner_gate HAK_HIDDEN;

/* An owner for a pool used alone, in *out: 0, EAGAIN if there is no id, ENOMEM if there is no
   memory. No lock held, as for all of these. */
HAK_MUST_CHECK int hak_owner_make_pool(struct owner **out);
/* All blocks go back, and its memory waits for the next pool. */
void hak_owner_unmake_pool(struct owner *owner);
/* The latter half of it. Inside the gate. */
void hak_owner_end_pool(struct owner *owner);
/* A block of the class, by `take`, with a fresh slab if the owner has no free block; NULL if there
   is no memory. *is_clean as bank.h's took_clean. The owner is registered, and not lost; inside the
   gate. Not of a thread's heap. */
typedef uint32_t (*hak_owner_take_function)(struct owner *owner, uint32_t size_class, uint32_t want,
                                            void **head);
void *hak_owner_take_one(struct owner *owner, uint32_t size_class, hak_owner_take_function take,
                         int *is_clean);
/* A block of the class, by the pool's `take` (NULL if there is no memory); and back. */
void *hak_owner_pool_alloc(struct owner *owner, uint32_t size_class, hak_owner_take_function take);
void hak_owner_pool_free(struct owner *owner, void *block,
                         void (*put)(struct owner *owner, void *block));
/* Returns empty slabs to the shared pool; 0 if all equations hold. While the gate is closed they do
   nothing. */
void hak_owner_trim(struct owner *owner);
int hak_owner_check(struct owner *owner);

HAK_EXTERN_C_END

#endif
