/* Small blocks come from two pools: classes up to 1 KiB from tiny, the others from mid_mt.
   Everything in this folder that takes blocks from slabs, returns them, or asks how long a list may
   be, does so here. The owner's lock is held. */
#ifndef HAKMEM_HEAP_SMALL_H
#define HAKMEM_HEAP_SMALL_H

#include "base/internal.h"

#include "mid_mt/mid_class.h"
#include "tiny/tiny_class.h"

static inline const struct owner_policy *hak_small_policy(uint32_t size_class)
{
    return hak_mid_is_class(size_class) ? &hak_mid_policy : &hak_tiny_policy;
}

static inline uint32_t hak_small_take(struct owner *owner, uint32_t size_class, uint32_t want,
                                      void **head)
{
    return hak_mid_is_class(size_class) ? hak_mid_take(owner, size_class, want, head)
                                        : hak_tiny_take(owner, size_class, want, head);
}

/* A list of blocks of that class. */
static inline void hak_small_put_list(struct owner *owner, uint32_t size_class, void *head)
{
    (void)(hak_mid_is_class(size_class) ? hak_mid_put_list(owner, head)
                                        : hak_tiny_put_list(owner, head));
}

static inline void hak_small_put(struct owner *owner, uint32_t size_class, void *block)
{
    if (hak_mid_is_class(size_class)) {
        hak_mid_put(owner, block);
    } else {
        hak_tiny_put(owner, block);
    }
}

#endif
