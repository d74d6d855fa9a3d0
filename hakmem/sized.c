/* Frees that name the size, and allocation that tells it. No state, no locks. */
#include "hakmem/fast.h"
#include "hakmem/hakmem.h"

void hak_free_sized(void *p, size_t size)
{
    validate_size(p, size);
    fast_free(p);
}

void hak_free_aligned_sized(void *p, size_t alignment, size_t size)
{
    validate_size(p, size);
    validate_alignment(p, alignment);
    fast_free(p);
}

struct hak_sized_block hak_malloc_at_least(size_t size)
{
    void *p = fast_malloc(size);
    return (struct hak_sized_block){p, hak_usable_size(p)};
}
