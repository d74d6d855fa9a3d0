/* What serves the pool's classes inside hakmem, with the owner's lock held, and how much a list in
   front of that lock may hold. */
#ifndef HAKMEM_MID_MT_MID_CLASS_H
#define HAKMEM_MID_MT_MID_CLASS_H

#include "base/internal.h"

#include "base/size_classes.h"
#include "mid_mt/mid_mt.h"
#include "owner/owner.h"

HAK_EXTERN_C_BEGIN

HAK_STATIC_ASSERT(MID_MIN_BYTES == SC_TINY_MAX + 1 && MID_MAX_BYTES == SC_SMALL_MAX,
                  "the pool's sizes");

/* There a slab is a few blocks, and its pages serve other classes sooner. */
#define MID_KEEP_EMPTY_MAX 4096u

/* 1 if the class belongs to the mid-MT pool. */
static inline int hak_mid_is_class(uint32_t size_class)
{
    return size_class >= SC_N_TINY;
}

extern const struct owner_policy hak_mid_policy;

/* Takes up to `want` blocks of a mid class as a list ended by NULL, linked through their first
   words; at least one unless the system refuses memory (0). The owner's lock is held. */
uint32_t hak_mid_take(struct owner *owner, uint32_t size_class, uint32_t want, void **head);
/* Gives a list, or one block, back; returns the count. Aborts on what is no block, or free; blocks
   of another owner are gathered as strays if the owner is a thread's heap (bank.h), else they
   abort. The owner's lock is held. */
uint32_t hak_mid_put_list(struct owner *owner, void *head);
void hak_mid_put(struct owner *owner, void *block);

HAK_EXTERN_C_END

#endif
