/* Frees that name the size, and allocation that tells it. No state, no locks. */
#include "hakmem/fast.h"
#include "hakmem/hakmem.h"

void hak_free_sized(void *p, size_t size)
{
    hak_validate_size(p, size);
    hak_fast_claim(p, ENTRY_MALLOC, ENTRY_MALLOC, size, 0);
    hak_fast_free(p);
}

void hak_free_aligned_sized(void *p, size_t alignment, size_t size)
{
    hak_validate_size(p, size);
    hak_fast_claim(p, ENTRY_MALLOC, ENTRY_MALLOC, size, alignment);
    hak_fast_check_alignment(p, alignment);
    hak_fast_free(p);
}

struct hak_sized_block hak_malloc_at_least(size_t size)
{
    void *p = hak_fast_malloc(size);
    return (struct hak_sized_block){p, hak_usable_size(p)};
}
