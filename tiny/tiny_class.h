/* What serves the pool's classes inside hakmem, with the owner's lock held, and how much a list in
   front of that lock may hold. */
#ifndef HAKMEM_TINY_TINY_CLASS_H
#define HAKMEM_TINY_TINY_CLASS_H

#include "base/internal.h"

#include "base/size_classes.h"
#include "owner/owner.h"
#include "tiny/tiny.h"

HAK_EXTERN_C_BEGIN

HAK_STATIC_ASSERT(TINY_MAX_BYTES == SC_TINY_MAX, "the pool's sizes");

#define TINY_MAX_BLOCKS HAK_TINY_OR(4u, 2048u)
#define TINY_FULL_SIZE  128u

/* 1 if the class belongs to the tiny pool. */
static inline int hak_tiny_is_class(uint32_t size_class)
{
    return size_class < SC_N_TINY;
}

extern const struct owner_policy hak_tiny_policy;

/* Takes up to `want` blocks of a tiny class as a list ended by NULL, linked through their first
   words; at least one unless the system refuses memory (0). The owner's lock is held. */
uint32_t hak_tiny_take(struct owner *owner, uint32_t size_class, uint32_t want, void **head);
/* Gives a list, or one block, back; returns the count. Aborts on what is no block, or free; blocks
   of another owner are gathered as strays if the owner is a thread's heap (bank.h), else they
   abort. The owner's lock is held. */
uint32_t hak_tiny_put_list(struct owner *owner, void *head);
void hak_tiny_put(struct owner *owner, void *block);

HAK_EXTERN_C_END

#endif
