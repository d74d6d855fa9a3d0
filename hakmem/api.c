/* malloc, calloc, free and their kin under hakmem's names: the fast paths, and behind them the
   table of entry points. No locks, no state. */
#include <string.h>

#include "base/error.h"
#include "hakmem/entry.h"
#include "hakmem/fast.h"
#include "hakmem/hakmem.h"
#include "hakmem/plain.h"
#include "hakmem/request.h"
#include "heap/background.h"
#include "heap/common.h"
#include "superslab/superslab.h"

void *hak_fast_slow_malloc(size_t size)
{
    return hak_entry_now()->malloc(size);
}

void *hak_fast_refill_malloc(size_t size)
{
    return hak_entry_now()->malloc(size);
}

void hak_fast_slow_free(void *p)
{
    /* NULL comes first, before anything is saved: programs free it often. A plain read, which folds
       into the comparison; one that comes a moment late does no harm. */
    if ((uintptr_t)p < hak_background_null_end) {
        return;
    }
    if (HAK_UNLIKELY(!p)) {
        hak_background_see_free_null(__builtin_return_address(0));
        return;
    }
    hak_entry_now()->free(p);
}

/* The heap is one whose fast paths no layer has a say in. */
void hak_fast_free_others(void *p, struct theap *heap, size_t differs)
{
    uint32_t tag = (uint32_t)differs ^ heap->owner_tag;
    if (HAK_UNLIKELY(!hak_remote_free_soon(heap, p, tag)) &&
        (HAK_LIKELY(hak_theap_which_common(tag) >= N_COMMON_HEAPS) ||
         !hak_common_keep(heap, p, tag))) {
        hak_fast_slow_free(p);
    }
}

void hak_fast_overflow_free(struct theap *heap, size_t bin_offset)
{
    hak_tc_overflow(heap, (uint32_t)(bin_offset >> TAG_BIN_SHIFT));
}

#if HAK_VALIDATE
void hak_validate_size(const void *p, size_t size)
{
    /* realloc may have left it in a block of up to twice the size, and small ones in any. */
    struct ss_lookup found = hak_super_lookup(p);
    HAK_CHECK(!p || found.start != p || size <= found.size,
              "freed with a size that is not the block's", p);
}
#endif

void *hak_malloc(size_t size)
{
    return hak_fast_malloc(size);
}

void hak_free(void *p)
{
    hak_fast_free(p);
}

void *hak_calloc(size_t n, size_t size)
{
    size_t bytes;
    if (HAK_UNLIKELY(__builtin_mul_overflow(n, size, &bytes))) {
        return hak_request_refuse();
    }
    struct theap *heap = atomic_load_relaxed(&hak_self);
    struct bin *bin =
        HAK_LIKELY(bytes <= SC_SMALL_MAX) ? hak_fast_bin_to_take_from(heap, bytes) : NULL;
    void *block = bin ? hak_tc_bin_take(bin) : NULL;
    if (HAK_UNLIKELY(!block)) {
        return hak_entry_now()->calloc(bytes);
    }
    /* The whole block, so that what malloc_usable_size promises is zero too. */
    return memset(block, 0, bin->size);
}

static HAK_NOINLINE size_t slow_usable_size(const void *p)
{
    return p ? hak_entry_now()->usable_size(p) : 0;
}

size_t hak_usable_size(const void *p)
{
    struct theap *heap = atomic_load_relaxed(&hak_self);
    struct bin *bin = hak_fast_bin_in_own_slab(heap, p);
    if (HAK_UNLIKELY(!bin)) {
        return slow_usable_size(p);
    }
    if (HAK_LIKELY(hak_fast_is_in_use(heap, bin, p) || hak_fast_was_just_taken(bin, p))) {
        return bin->size;
    }
    /* No layer is asked: what one knows of is not the start of a block in a slab. */
    return hak_plain_size_unless_free(heap, bin, p, slow_usable_size);
}
