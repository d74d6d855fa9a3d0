/* A bank: all slabs of one owner, by size class. What a heap (or a pool of mid_mt) keeps behind its lock.

   Owned by whoever embeds it; every function needs that owner's lock held. Slabs with free blocks are in the class's list;
   full ones are found only through the pointer map. Always: n_slabs = slabs whose owner is this bank (bank_verify counts
   them in the pool). At most one empty slab a class is kept (BANK_KEEPS_EMPTY), so that an idle bank holds back at most
   SC_N_CLASSES x 64 KiB until bank_release_empty. */
#ifndef HAKMEM_SUPERSLAB_BANK_H
#define HAKMEM_SUPERSLAB_BANK_H

#include "superslab/pool.h"

HAK_EXTERN_C_BEGIN

struct bank {
    uint32_t owner;
    uint32_t n_slabs;
    struct slab *partial[SC_N_CLASSES];
};

/* A number that no other bank has, 1 to BANK_MAX_OWNERS; 0 when they are used up. Never given back. */
#define BANK_MAX_OWNERS HAK_TINY_OR(64u, 65535u)
uint32_t bank_new_owner(void);

void bank_init(struct bank *bank, uint32_t owner);
/* Takes up to `want` blocks of the class as a list ended by NULL; at least one unless the system refuses memory (0). */
uint32_t bank_take(struct bank *bank, uint32_t size_class, uint32_t want, void **head);
/* Gives one block back. Aborts on a block that is not this bank's, no block, or free. */
void bank_put(struct bank *bank, void *block);
/* Gives a list back; returns the count. */
uint32_t bank_put_list(struct bank *bank, void *head);
/* Gives all empty slabs back to the pool. */
void bank_release_empty(struct bank *bank);
/* 0 if every equation of the bank and of its slabs holds. */
int bank_verify(const struct bank *bank);

HAK_EXTERN_C_END

#endif
