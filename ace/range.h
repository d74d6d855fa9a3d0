/* Ranges: blocks above 1 MiB, each whole units of a mapping, kept for reuse when freed.

   struct range describes one; descriptions live for ever and are reused by number. All fields are written with the ACE lock
   held; `base`, `bytes` of a used range also change only in calls about that very block. `base`, `bytes` and `state` are
   written atomically (relaxed), since hak_super_lookup reads them without a lock.
   States: used; cached (in the list of cached ranges, oldest first, pages may be resident); idle (describes nothing).
   Always: every unit of a used or cached range has {TAG_RANGE, number} in the pointer map; two neighbouring cached ranges
   are merged; stats.large_bytes and stats.large_cached_bytes are the sums. range_verify checks. */
#ifndef HAKMEM_ACE_RANGE_H
#define HAKMEM_ACE_RANGE_H

#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

enum range_state { RANGE_IDLE, RANGE_USED, RANGE_CACHED };

struct range {
    char *base;
    size_t bytes; /* mapped, a multiple of 64 KiB */
    uint32_t number;
    enum range_state state;
    struct range *next, *prev; /* cached: by age; idle: next only */
    uint64_t cached_at_ns;
};

void *range_alloc(size_t size, size_t align, int *is_zero);
void range_free(void *p);
size_t range_size(const void *p);
void *range_resize(void *p, size_t size);
size_t range_purge(uint64_t delay_ms);
int range_verify(void);

HAK_EXTERN_C_END

#endif
