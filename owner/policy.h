/* What a pool decides for the blocks of its classes, and the sums that follow from it. tiny and
   mid_mt each have one `struct owner_policy`, a constant; banks and thread caches are handed it
   with the class. No locks, no state. */
#ifndef HAKMEM_OWNER_POLICY_H
#define HAKMEM_OWNER_POLICY_H

#include "base/internal.h"

#include "base/size_classes.h"

HAK_EXTERN_C_BEGIN

/* What a thread's list may hold until it has been missed, where limits adapt: so many bytes, at
   most so many blocks. */
#define OWNER_FIRST_BYTES  HAK_TINY_OR(64u, 2048u)
#define OWNER_FIRST_BLOCKS 16u
/* About a page: blocks that were never handed out are touched so much ahead of need, or more where
   a class has only grown for long (bank.h). */
#define OWNER_FRESH_BYTES 4096u

struct owner_policy {
    uint32_t least_blocks, most_blocks; /* that a list may hold, however few or many bytes it may */
    uint32_t full_size;      /* a list of larger blocks may hold half of HAKMEM_BIN_BYTES */
    uint32_t keep_empty_max; /* the largest blocks of which a bank keeps an empty slab */
    uint32_t
        fresh_bytes; /* blocks that were never handed out are taken about so many bytes at a time */
};

/* How many blocks of the class a list may hold if it may hold `bytes`. */
uint32_t hak_owner_list_limit(const struct owner_policy *policy, uint32_t size_class, size_t bytes);
/* How many it may hold at most, and at first. */
uint32_t hak_owner_largest_limit(const struct owner_policy *policy, uint32_t size_class);
uint32_t hak_owner_first_limit(const struct owner_policy *policy, uint32_t size_class);

/* How many blocks an empty list with that limit is filled with: half of it, so that frees have
   room. */
static inline uint32_t hak_owner_refill_blocks(uint32_t limit)
{
    return (limit + 1) / 2;
}

HAK_EXTERN_C_END

#endif
