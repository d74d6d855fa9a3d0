/* The tiny pool's policy, and its blocks: the owner's lock is held. Called by hakmem's heaps, and
   by tiny_pool.c. */
#include "tiny/tiny_class.h"

const struct owner_policy hak_tiny_policy = {.least_blocks = 2,
                                             .most_blocks = TINY_MAX_BLOCKS,
                                             .full_size = TINY_FULL_SIZE,
                                             .keep_empty_max = TINY_MAX_BYTES,
                                             .fresh_bytes = OWNER_FRESH_BYTES};

uint32_t hak_tiny_take(struct owner *owner, uint32_t size_class, uint32_t want, void **head)
{
    HAK_DEBUG_ASSERT(hak_tiny_is_class(size_class));
    return hak_bank_take(&owner->bank, size_class, want, head, &hak_tiny_policy);
}

uint32_t hak_tiny_put_list(struct owner *owner, void *head)
{
    return hak_bank_put_list(&owner->bank, head, &hak_tiny_policy);
}

void hak_tiny_put(struct owner *owner, void *block)
{
    hak_bank_put(&owner->bank, block, &hak_tiny_policy);
}
