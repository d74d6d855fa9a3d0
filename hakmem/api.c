/* malloc, calloc, free and their kin under hakmem's names: the fast paths, and behind them the
   table of entry points. No locks, no state. */
#include <string.h>

#include "base/error.h"
#include "hakmem/background.h"
#include "hakmem/entry.h"
#include "hakmem/fast.h"
#include "hakmem/hakmem.h"
#include "hakmem/request.h"
#include "superslab/superslab.h"

void *slow_malloc(size_t size)
{
    return entry_now()->malloc(size);
}

void *refill_malloc(size_t size)
{
    return entry_now()->malloc(size);
}

void slow_free(void *p)
{
    /* NULL comes first, before anything is saved: programs free it often. A plain read, which folds into the
       comparison; one that comes a moment late does no harm. */
    if ((uintptr_t)p < background_null_end) {
        return;
    }
    if (HAK_UNLIKELY(!p)) {
        background_see_free_null(__builtin_return_address(0));
        return;
    }
    entry_now()->free(p);
}

void overflow_free(struct heap *heap, size_t bin_offset)
{
    tc_overflow(heap, (uint32_t)(bin_offset >> TAG_BIN_SHIFT));
}

#if HAK_VALIDATE
void validate_size(const void *p, size_t size)
{
    /* realloc may have left it in a block of up to twice the size, and small ones in any. */
    struct ss_lookup found = hak_super_lookup(p);
    HAK_CHECK(!p || found.start != p || size <= found.size,
              "freed with a size that is not the block's", p);
}

void validate_alignment(const void *p, size_t alignment)
{
    HAK_CHECK(!p || (alignment && (uintptr_t)p % alignment == 0),
              "freed with an alignment that is not the block's", p);
}
#endif

void *hak_malloc(size_t size)
{
    return fast_malloc(size);
}

void hak_free(void *p)
{
    fast_free(p);
}

void *hak_calloc(size_t n, size_t size)
{
    size_t bytes;
    if (HAK_UNLIKELY(__builtin_mul_overflow(n, size, &bytes))) {
        return request_refuse();
    }
    uint32_t size_class = HAK_LIKELY(bytes <= SC_SMALL_MAX) ? sc_of(bytes) : SC_N_CLASSES;
    void *block = size_class < SC_N_CLASSES ? fast_take(size_class) : NULL;
    if (HAK_UNLIKELY(!block)) {
        return entry_now()->calloc(bytes);
    }
    /* The whole block, so that what malloc_usable_size promises is zero too. */
    return memset(block, 0, sc_table[size_class].size);
}

static HAK_NOINLINE size_t slow_usable_size(const void *p)
{
    return p ? entry_now()->usable_size(p) : 0;
}

size_t hak_usable_size(const void *p)
{
    const struct bin *bin = bin_of_own(atomic_load_relaxed(&hak_self), p);
    return HAK_LIKELY(bin != NULL) ? bin->size : slow_usable_size(p);
}
