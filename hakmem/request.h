/* What the slow paths of the public functions share (api.c). */
#ifndef HAKMEM_HAKMEM_REQUEST_H
#define HAKMEM_HAKMEM_REQUEST_H

#include "base/size_classes.h"

HAK_EXTERN_C_BEGIN

/* Serves a request by `ask`, which returns a block or NULL: once, and again after all that is kept went back; or by `aside`, if the
   gate is closed. Failures are traced,
   limits are kept, NULL comes with ENOMEM. Any thread; no lock held. */
void *request(void *(*ask)(void *context), void *(*aside)(void *context), void *context, size_t size, size_t align);
/* free without hooks and notes. */
void free_plain(void *p);
/* The size class for a request at a multiple of `align` (a power of two); SC_N_CLASSES if it is a large one. */
uint32_t request_class(size_t size, size_t align);

/* Whether realloc leaves a block where it is. Shrinking may leave at most half of the block unused; small blocks stay whatever
   is asked. */
static inline int request_fits(size_t usable, size_t size)
{
    return size <= usable && (size >= usable / 2 || usable <= 128);
}

HAK_EXTERN_C_END

#endif
