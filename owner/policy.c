/* Limits of threads' lists. No locks. Called by the pools and by the thread cache's slow half. */
#include "owner/policy.h"

#include "base/options.h"

uint32_t hak_owner_list_limit(const struct owner_policy *policy, uint32_t size_class, size_t bytes)
{
    size_t n = bytes / hak_sc_table[size_class].size;
    return n < policy->least_blocks  ? policy->least_blocks
           : n > policy->most_blocks ? policy->most_blocks
                                     : (uint32_t)n;
}

uint32_t hak_owner_largest_limit(const struct owner_policy *policy, uint32_t size_class)
{
    int gets_half = hak_sc_table[size_class].size > policy->full_size;
    return hak_owner_list_limit(policy, size_class, hak_options.bin_bytes / (gets_half ? 2 : 1));
}

uint32_t hak_owner_first_limit(const struct owner_policy *policy, uint32_t size_class)
{
    if (!hak_options.bin_adapt) {
        return hak_owner_largest_limit(policy, size_class);
    }
    uint32_t limit = hak_owner_list_limit(policy, size_class, OWNER_FIRST_BYTES);
    return limit < OWNER_FIRST_BLOCKS ? limit : OWNER_FIRST_BLOCKS;
}
