/* The mid-MT pool's policy, and its blocks: the owner's lock is held. Called by hakmem's heaps, and
   by mid_pool.c. */
#include "mid_mt/mid_class.h"

const struct owner_policy hak_mid_policy = {.least_blocks = 1,
                                            .most_blocks = UINT32_MAX,
                                            .full_size = UINT32_MAX,
                                            .keep_empty_max = MID_KEEP_EMPTY_MAX,
                                            .fresh_bytes = OWNER_FRESH_BYTES};

uint32_t hak_mid_take(struct owner *owner, uint32_t size_class, uint32_t want, void **head)
{
    HAK_DEBUG_ASSERT(hak_mid_is_class(size_class));
    return hak_bank_take(&owner->bank, size_class, want, head, &hak_mid_policy);
}

uint32_t hak_mid_put_list(struct owner *owner, void *head)
{
    return hak_bank_put_list(&owner->bank, head, &hak_mid_policy);
}

void hak_mid_put(struct owner *owner, void *block)
{
    hak_bank_put(&owner->bank, block, &hak_mid_policy);
}
