/* Requests: what every allocation of the slow paths has in common. Memory limits are kept, what is
   kept for reuse goes back before a request is refused, failures are traced, NULL comes with
   ENOMEM. Any thread; no lock held. In plain.c; the trims have a file of their own. */
#ifndef HAKMEM_HAKMEM_REQUEST_H
#define HAKMEM_HAKMEM_REQUEST_H

#include "base/internal.h"

#include "base/attributes.h"
#include "base/size_classes.h"

HAK_EXTERN_C_BEGIN

/* Serves a request by `ask`, which returns a block or NULL: once, and again after all that is kept
   went back. By `aside` if the gate is closed. */
void *hak_request(void *(*ask)(void *context), void *(*aside)(void *context), void *context,
                  size_t size, size_t align);
enum large_kind { LARGE_PLAIN, LARGE_ZEROED, LARGE_GROWING };
/* A block of ACE. */
/* A block of a small size class, aligned to `align` as all blocks of the class are. */
void *hak_request_small(uint32_t size_class, size_t align);
void *hak_request_large(size_t size, size_t align, enum large_kind kind);
/* NULL and ENOMEM, counted. */
void *hak_request_refuse(void);
/* Set by a layer while it asks for what the program has not: if that is refused, it is no request
   that failed, neither counted nor reported. */
extern HAK_TLS int hak_request_is_try HAK_HIDDEN;
/* After `ask` has returned NULL: all that is kept goes back, and `ask` is called again, unless it
   is known to be in vain. Inside the gate. */
void *hak_request_again(void *(*ask)(void *context), void *context, size_t size, size_t align);
/* Everything that is kept for reuse goes back, but pages of slabs in use (hak_theap_purge_all):
   they are no address space, which a request may lack. Returns bytes. Inside the gate. */
size_t hak_request_reclaim(void);
/* After memory was taken: what the controller does not want any longer goes back, and above the
   soft limit all that is kept. Inside the gate. */
void hak_request_mind_limits(void);

/* The size class for a request at a multiple of `align` (a power of two); SC_N_CLASSES if it is a
   large one. */
static inline uint32_t hak_request_class(size_t size, size_t align)
{
    if (size > SC_SMALL_MAX || align > SC_SMALL_MAX) {
        return SC_N_CLASSES;
    }
    return align <= 16 ? hak_sc_of(size) : hak_sc_of_aligned(size, align);
}

HAK_EXTERN_C_END

#endif
