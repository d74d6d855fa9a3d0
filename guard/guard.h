/* Guarded sampling: one in N allocations lies alone between pages that may not be touched, and may
   not be touched itself for a while after its free. A layer (entry.h), in force once HAKMEM_GUARD
   or hak_guard_start asks for it. */
#ifndef HAKMEM_GUARD_GUARD_H
#define HAKMEM_GUARD_GUARD_H

#include "base/internal.h"

#include "guard/sampler.h"
#include "hakmem/entry.h"

HAK_EXTERN_C_BEGIN

/* Up to this many allocations to a sample the layer sees every call; above, in slices of time alone
   (sampler.h). */
#define GUARD_EXACT_RATE 200u
/* The same by bytes. */
#define GUARD_EXACT_BYTES ((uint64_t)GUARD_EXACT_RATE * 64)

extern struct entry_layer hak_guard_layer HAK_HIDDEN;

/* hak_guard_start, by blocks or by bytes. */
HAK_MUST_CHECK int hak_guard_start_by(size_t rate, enum guard_unit unit);

HAK_EXTERN_C_END

#endif
