/* Small blocks come from two pools: classes up to 1 KiB from tiny, the others from mid_mt.
   Everything in this folder that takes blocks from slabs, gives them back, or asks how long a list
   may be, does so here. The owner's lock is held. Internal to //hakmem. */
#ifndef HAKMEM_HAKMEM_SMALL_H
#define HAKMEM_HAKMEM_SMALL_H

#include "base/internal.h"

#include "mid_mt/mid_class.h"
#include "tiny/tiny_class.h"

static inline const struct owner_policy *small_policy(uint32_t size_class)
{
    return mid_is_class(size_class) ? &mid_policy : &tiny_policy;
}

static inline uint32_t small_take(struct owner *owner, uint32_t size_class, uint32_t want, void **head)
{
    return mid_is_class(size_class) ? mid_take(owner, size_class, want, head)
                                    : tiny_take(owner, size_class, want, head);
}

/* A list of blocks of that class. */
static inline void small_put_list(struct owner *owner, uint32_t size_class, void *head)
{
    (void)(mid_is_class(size_class) ? mid_put_list(owner, head) : tiny_put_list(owner, head));
}

static inline void small_put(struct owner *owner, uint32_t size_class, void *block)
{
    if (mid_is_class(size_class)) {
        mid_put(owner, block);
    } else {
        tiny_put(owner, block);
    }
}

#endif
