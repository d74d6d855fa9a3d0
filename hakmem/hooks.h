/* Allocation hooks: what hak_hooks_set of hakmem.h sets. Internal to //hakmem.

   They cost the fast paths nothing: while hooks are set, every thread's `self` is the heap whose bins are all empty (heap.h), and
   realloc_fast_max is 0, so that each call takes a slow path, which asks hooks_wanted. Within a hooked call, hooks_busy is set:
   what is called then, the callback's own requests included, is not told. No locks; state: one pointer, read atomically. */
#ifndef HAKMEM_HAKMEM_HOOKS_H
#define HAKMEM_HAKMEM_HOOKS_H

#include "base/internal.h"

#include "base/atomic.h"
#include "base/attributes.h"
#include "hakmem/hakmem.h"

HAK_EXTERN_C_BEGIN

extern const struct hak_hooks *hooks_set HAK_HIDDEN;
extern HAK_TLS int hooks_busy HAK_HIDDEN;
/* realloc asks its slow path for this size and more. */
extern size_t realloc_fast_max HAK_HIDDEN;

static inline int hooks_wanted(void)
{
    return atomic_load_relaxed(&hooks_set) != NULL && !hooks_busy;
}

/* Around the real call: tells `before` of the hooks that it returns, NULL if they have just been taken away; tells `after` of the
   same, and returns call->result. */
const struct hak_hooks *hooks_begin(const struct hak_hook_call *call);
void *hooks_end(const struct hak_hooks *hooks, const struct hak_hook_call *call);

/* The public functions with their hooks. */
HAK_COLD void *hooked_malloc(size_t size);
HAK_COLD void *hooked_calloc(size_t bytes);
HAK_COLD void *hooked_aligned(size_t alignment, size_t size);
HAK_COLD void *hooked_realloc(void *p, size_t size);
HAK_COLD void hooked_free(void *p);

HAK_EXTERN_C_END

#endif
