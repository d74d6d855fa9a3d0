/* A bank: all slabs of one owner, by size class. What an owner keeps behind its lock.

   Owned by whoever embeds it; every function needs that owner's lock held. Each slab of the owner
   is in one list: that of its class if it is partial, else that of the full ones or of those that
   are away (slab.h). So all that an owner has is found without looking at what others have. All of
   them are in one list by age too, from `newest` on, which no change of state reorders: who walks
   the slabs stops and goes on, and lets go of the lock in between. Always: n_slabs = slabs in the
   lists of states = slabs in that by age; no other slab has this owner; a slab that is empty and
   partial is empty[class], which else is NULL or a slab of the class that was empty before. If
   keeps_empty is set, one empty slab a class stays where the class's policy says so
   (keep_empty_max), so that an idle bank holds back at most SC_N_CLASSES x 64 KiB until
   hak_bank_release_empty; else none. The policy comes with the call, from the pool that the class
   belongs to (tiny, mid_mt).

   Away. Who wants to purge a slab's pages takes it out of the class's list, calls the system
   without the owner's lock, and puts it back. Until then no thread takes blocks from it, moves or
   returns it, so that pages of free blocks stay pages of free blocks; an owner without another slab
   of the class gets one as if it had none. If the owner ends, it leaves the slab behind (its tag
   says TAG_FREE_UNIT, its owner is 0), and who has it away returns it to the pool.

   A slab is made before it has an owner: its tag says TAG_FREE_UNIT, so that no walk takes it for
   one, until hak_bank_add with the owner's lock held.

   Slabs may move from bank to bank with both locks held (bank_move). A block that was freed towards
   the old owner then arrives at the wrong bank: a stray. If has_strays_sent is set,
   hak_bank_put_list gathers strays, and the caller sends them on once it has released the lock;
   else they abort. The owner that a slab's tag names is therefore exact for whoever holds that
   owner's lock, and a hint for everybody else. */
#ifndef HAKMEM_OWNER_BANK_H
#define HAKMEM_OWNER_BANK_H

#include "base/internal.h"

#include "owner/policy.h"
#include "superslab/pool.h"

HAK_EXTERN_C_BEGIN

/* A slab's tag. Its lower bits are the class, shifted so that they are the offset of the class's
   bin in a heap. */
#define TAG_BIN_SHIFT 5
#define TAG_SLAB(owner, size_class)                                                                \
    (((uint32_t)(owner) << TAG_OWNER_SHIFT) | ((uint32_t)(size_class) << TAG_BIN_SHIFT))
#define TAG_CLASS(tag) (((tag)&TAG_LOW_MASK) >> TAG_BIN_SHIFT)
HAK_STATIC_ASSERT(SC_N_CLASSES << TAG_BIN_SHIFT <= TAG_LOW_MASK + 1,
                  "each class has its bits in a tag");

struct bank {
    uint32_t owner;
    uint32_t n_slabs;
    uint8_t keeps_empty, has_strays_sent;
    uint8_t is_bare;     /* its free blocks need not be zero in the secure variant */
    uint8_t fresh_times; /* so many times the policy's fresh_bytes are taken at a time */
    void *strays;        /* blocks linked through their first words */
    int took_clean;      /* what hak_bank_take gave last reads as zero behind the first words */
    int took_fresh;      /* it was never handed out before */
    struct slab *partial[SC_N_CLASSES];
    uint32_t n_partial[SC_N_CLASSES]; /* lengths of the lists; written atomically */
    struct slab *empty[SC_N_CLASSES];
    struct slab *full, *away; /* of all classes */
    uint32_t newest;          /* a number (hak_slab_number), or 0 */
    struct bank_walk *walks;  /* those that are under way */
};

/* A walk over a bank's slabs; the caller's. */
struct bank_walk {
    struct bank_walk *next;
    uint32_t at; /* the next slab's number, or 0 */
};

void hak_bank_init(struct bank *bank, uint32_t owner);
/* Takes up to `want` blocks of the class as a list ended by NULL; none (0) if no slab of the class
   has a free block. Then the caller releases the lock, makes a slab, adds it, and takes again: the
   system is not asked for memory while others wait for the owner. */
uint32_t hak_bank_take(struct bank *bank, uint32_t size_class, uint32_t want, void **head,
                       const struct owner_policy *policy);
/* Some of one slab's, at most `want`, whose addresses `blocks` gets; none of them is touched, which
   may take a page fault. */
uint32_t hak_bank_pick(struct bank *bank, uint32_t size_class, uint32_t want, void **blocks,
                       const struct owner_policy *policy);
/* Returns one block to its slab. Aborts on a block that is not this bank's, no block, or free. */
void hak_bank_put(struct bank *bank, void *block, const struct owner_policy *policy);
/* Collects a list of blocks; returns the count, strays included. */
uint32_t hak_bank_put_list(struct bank *bank, void *head, const struct owner_policy *policy);
/* The blocks of a list of one mid class, not empty, wait in a depot (heap/depot.h) from now on, or
   do not any more; some may be of other banks' slabs. Each has a mark in its third word while it
   waits, and those of this bank's slabs are held (slab.h). Behind the mark of the first, the others
   are noted, up to hak_bank_noted_most blocks in all. The former returns the last block. Both abort
   on what is no block of the class; the former on what waits already, in whichever depot, or is
   free. */
void *hak_bank_hold_list(struct bank *bank, uint32_t size_class, void *head);
void hak_bank_let_go_list(struct bank *bank, uint32_t size_class, void *head, uint32_t count);
uint32_t hak_bank_noted_most(uint32_t size_class);
/* Two such lists, of `count` blocks up to `last` and of n, become one, of at most
   hak_bank_noted_most. */
void hak_bank_join_held(void *head, uint32_t count, void *last, void *next, uint32_t n);
/* 0 if all blocks of such a list have their marks, and are noted. */
int hak_bank_verify_held(const void *head, uint32_t count, uint32_t size_class);
/* 1 if the block has the mark: a number that no program can guess, of the block alone. Any thread,
   for a block of a mid class that no other thread has in hand. */
int hak_bank_has_mark(const void *block);
static HAK_ALWAYS_INLINE uint64_t *hak_bank_mark(void *block)
{
    return (uint64_t *)block + 2;
}
/* A fresh slab of the class, no owner's yet; NULL if the system refuses memory. No lock held. */
struct slab *hak_bank_make(uint32_t size_class);
/* It becomes the bank's, first in its list; blocks are taken from it under the same lock. */
void hak_bank_add(struct bank *bank, struct slab *slab);
/* Moves one partial slab of the class from one bank to another (one with many free blocks, if it is
   near the list's start), or up to `most` partial slabs of any class; the latter returns 1 while
   there are more. Both owners' locks are held. */
void hak_bank_move_one(struct bank *from, struct bank *to, uint32_t size_class);
int hak_bank_move_some(struct bank *from, struct bank *to, uint32_t most);
/* Returns all empty slabs to the shared pool. Some steps a class, however many slabs there are. */
void hak_bank_release_empty(struct bank *bank);
/* How many slabs all banks may keep empty: those in `empty`, empty or not. Any thread, no lock. */
uint64_t hak_bank_n_empty(void);
/* Returns up to `most` slabs to the pool, whatever lies in them, or leaves them behind if they are
   away. Returns 1 while there are more. */
int hak_bank_drop(struct bank *bank, uint32_t most);
/* A partial slab goes away, and comes back: to its list, or to the pool if it is empty by then. If
   its owner has ended in between (hak_bank_has_left), hak_pool_slab_free ends it instead. */
void hak_bank_send_away(struct bank *bank, struct slab *slab);
void hak_bank_take_back(struct bank *bank, struct slab *slab);
static inline int hak_bank_has_left(const struct slab *slab)
{
    return slab->owner == 0;
}
/* Each slab that stays the bank's from begin to end is visited once, others once or not at all. The
   lock may be released between the calls, inside the gate; if the owner ends then, the walk is
   over, and needs no end. `some` visits up to `most` and returns 1 while there are more. */
void hak_bank_walk_begin(struct bank *bank, struct bank_walk *walk);
int hak_bank_walk_some(struct bank *bank, struct bank_walk *walk, uint32_t most,
                       void (*visit)(const struct slab *slab, void *context), void *context);
void hak_bank_walk_end(struct bank *bank, struct bank_walk *walk);
/* 0 if every equation of the bank and of its slabs holds. */
int hak_bank_verify(const struct bank *bank);

/* A hint without the lock, exact with it. */
static inline uint32_t hak_bank_n_partial(const struct bank *bank, uint32_t size_class)
{
    return atomic_load_relaxed(&bank->n_partial[size_class]);
}

HAK_EXTERN_C_END

#endif
