/* Guarded sampling: one in N allocations lies alone between pages that may not be touched, and may
   not be touched itself for a while after its free. A layer (entry.h), in force once HAKMEM_GUARD
   or hak_guard_start asks for it. */
#ifndef HAKMEM_GUARD_GUARD_H
#define HAKMEM_GUARD_GUARD_H

#include "base/internal.h"

#include "hakmem/entry.h"

HAK_EXTERN_C_BEGIN

/* Up to this many allocations to a sample the layer sees every call; above, in slices of time alone
   (sampler.h). */
#define GUARD_EXACT_RATE 200u

extern struct entry_layer hak_guard_layer HAK_HIDDEN;

HAK_EXTERN_C_END

#endif
