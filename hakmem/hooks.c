/* Allocation hooks. Called by the slow paths of api.c and user_heap.c. */
#include "hakmem/hooks.h"

#include <errno.h>

#include "hakmem/heap.h"

const struct hak_hooks *hooks_set;
HAK_TLS int hooks_busy;

void hak_hooks_set(const struct hak_hooks *hooks)
{
    (void)heap_acquire(); /* starts the process */
    atomic_store_release(&hooks_set, hooks);
    /* Again if somebody else has set others meanwhile: what is in force at the end belongs to the last. */
    do {
        hooks = atomic_load_acquire(&hooks_set);
        atomic_store_relaxed(&realloc_fast_max, hooks ? (size_t)0 : (size_t)SC_SMALL_MAX);
        heap_hook_all(hooks != NULL);
    } while (atomic_load_acquire(&hooks_set) != hooks);
}

const struct hak_hooks *hooks_begin(const struct hak_hook_call *call)
{
    const struct hak_hooks *hooks = atomic_load_acquire(&hooks_set);
    hooks_busy = 1;
    if (hooks && hooks->before) {
        int saved = errno;
        hooks->before(call, hooks->context);
        errno = saved;
    }
    return hooks;
}

void *hooks_end(const struct hak_hooks *hooks, const struct hak_hook_call *call)
{
    if (hooks && hooks->after) {
        int saved = errno;
        hooks->after(call, hooks->context);
        errno = saved;
    }
    hooks_busy = 0;
    return call->result;
}

void *hooked_malloc(size_t size)
{
    struct hak_hook_call call = {HAK_HOOK_ALLOC, NULL, size, SC_MIN_ALIGN, NULL};
    const struct hak_hooks *hooks = hooks_begin(&call);
    call.result = hak_malloc(size);
    return hooks_end(hooks, &call);
}

void *hooked_calloc(size_t bytes)
{
    struct hak_hook_call call = {HAK_HOOK_ALLOC, NULL, bytes, SC_MIN_ALIGN, NULL};
    const struct hak_hooks *hooks = hooks_begin(&call);
    call.result = hak_calloc(1, bytes);
    return hooks_end(hooks, &call);
}

void *hooked_aligned(size_t alignment, size_t size)
{
    struct hak_hook_call call = {HAK_HOOK_ALLOC, NULL, size, alignment, NULL};
    const struct hak_hooks *hooks = hooks_begin(&call);
    call.result = hak_aligned_alloc(alignment, size);
    return hooks_end(hooks, &call);
}

void *hooked_realloc(void *p, size_t size)
{
    struct hak_hook_call call = {HAK_HOOK_REALLOC, p, size, SC_MIN_ALIGN, NULL};
    const struct hak_hooks *hooks = hooks_begin(&call);
    call.result = hak_realloc(p, size);
    return hooks_end(hooks, &call);
}

void hooked_free(void *p)
{
    struct hak_hook_call call = {HAK_HOOK_FREE, p, 0, 0, NULL};
    const struct hak_hooks *hooks = hooks_begin(&call);
    hak_free(p);
    (void)hooks_end(hooks, &call);
}
