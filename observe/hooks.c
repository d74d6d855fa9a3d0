/* Allocation hooks. No locks; state: one pointer, and for each thread whether it is within a hooked
   call. */
#include "observe/hooks.h"

#include <errno.h>

#include "base/size_classes.h"

#include "hakmem/hakmem.h"

static const struct hak_hooks *hooks_set;
/* What is called within a hooked call, the callback's own requests included, is not reported. */
static HAK_TLS uint8_t hooks_busy;

void hak_hooks_set(const struct hak_hooks *hooks)
{
    atomic_store_release(&hooks_set, hooks);
    /* Again if another thread has set others in between: what is in force at the end belongs to the
       last. */
    do {
        hooks = atomic_load_acquire(&hooks_set);
        if (hooks) {
            hak_entry_add(&hak_hooks_layer);
        } else {
            hak_entry_remove(&hak_hooks_layer);
        }
    } while (atomic_load_acquire(&hooks_set) != hooks);
}

static const struct entry_table *below(void)
{
    return hak_entry_below(&hak_hooks_layer);
}

static void tell(void (*callback)(const struct hak_hook_call *call, void *context),
                 const struct hak_hook_call *call, void *context)
{
    if (callback) {
        int saved = errno;
        callback(call, context);
        errno = saved;
    }
}

/* Around the real call: tells `before` of the hooks that it returns; NULL if there are none any
   more. Not within another. */
static const struct hak_hooks *begin(const struct hak_hook_call *call)
{
    const struct hak_hooks *hooks = atomic_load_acquire(&hooks_set);
    hooks_busy = 1;
    if (hooks) {
        tell(hooks->before, call, hooks->context);
    }
    return hooks;
}

/* Tells `after` of the same hooks. */
static void *end(const struct hak_hooks *hooks, const struct hak_hook_call *call)
{
    if (hooks) {
        tell(hooks->after, call, hooks->context);
    }
    hooks_busy = 0;
    return call->result;
}

static void *hooked_malloc(size_t size)
{
    if (hooks_busy) {
        return below()->malloc(size);
    }
    struct hak_hook_call call = {HAK_HOOK_ALLOC, NULL, size, SC_MIN_ALIGN, NULL};
    const struct hak_hooks *hooks = begin(&call);
    call.result = below()->malloc(size);
    return end(hooks, &call);
}

static void *hooked_calloc(size_t bytes)
{
    if (hooks_busy) {
        return below()->calloc(bytes);
    }
    struct hak_hook_call call = {HAK_HOOK_ALLOC, NULL, bytes, SC_MIN_ALIGN, NULL};
    const struct hak_hooks *hooks = begin(&call);
    call.result = below()->calloc(bytes);
    return end(hooks, &call);
}

static void *hooked_aligned(size_t alignment, size_t size)
{
    if (hooks_busy) {
        return below()->aligned(alignment, size);
    }
    struct hak_hook_call call = {HAK_HOOK_ALLOC, NULL, size, alignment, NULL};
    const struct hak_hooks *hooks = begin(&call);
    call.result = below()->aligned(alignment, size);
    return end(hooks, &call);
}

static void *hooked_realloc(void *p, size_t size, struct hak_heap *heap, int is_zeroed)
{
    if (hooks_busy) {
        return below()->realloc(p, size, heap, is_zeroed);
    }
    struct hak_hook_call call = {HAK_HOOK_REALLOC, p, size, SC_MIN_ALIGN, NULL};
    const struct hak_hooks *hooks = begin(&call);
    call.result = below()->realloc(p, size, heap, is_zeroed);
    return end(hooks, &call);
}

static void hooked_free(void *p)
{
    if (hooks_busy) {
        below()->free(p);
        return;
    }
    struct hak_hook_call call = {HAK_HOOK_FREE, p, 0, 0, NULL};
    const struct hak_hooks *hooks = begin(&call);
    below()->free(p);
    (void)end(hooks, &call);
}

static void *hooked_heap_alloc(struct hak_heap *heap, size_t size, size_t alignment, int is_zeroed)
{
    if (hooks_busy) {
        return below()->heap_alloc(heap, size, alignment, is_zeroed);
    }
    struct hak_hook_call call = {HAK_HOOK_ALLOC, NULL, size, alignment, NULL};
    const struct hak_hooks *hooks = begin(&call);
    call.result = below()->heap_alloc(heap, size, alignment, is_zeroed);
    return end(hooks, &call);
}

static size_t unhooked_usable_size(const void *p)
{
    return below()->usable_size(p);
}

static void unhooked_heap_destroy(struct hak_heap *heap)
{
    below()->heap_destroy(heap);
}

static size_t unhooked_walked(void **p, size_t usable)
{
    return below()->walked(p, usable);
}

static void unhooked_name(void *p, enum entry_family family)
{
    below()->name(p, family);
}

static void unhooked_claim(void *p, const struct entry_claim *claim)
{
    below()->claim(p, claim);
}

struct entry_layer hak_hooks_layer = {
    .place = ENTRY_PLACE_CALLS,
    .below = &hak_entry_plain,
    .table =
        {
            .malloc = hooked_malloc,
            .calloc = hooked_calloc,
            .aligned = hooked_aligned,
            .realloc = hooked_realloc,
            .free = hooked_free,
            .usable_size = unhooked_usable_size,
            .heap_alloc = hooked_heap_alloc,
            .heap_destroy = unhooked_heap_destroy,
            .walked = unhooked_walked,
            .name = unhooked_name,
            .claim = unhooked_claim,
        },
};
