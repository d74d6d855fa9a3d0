/* Mid-MT: the pool for sizes above 1 KiB and up to 32 KiB. It is what serves these sizes wherever
   hakmem does: whoever has an owner (a thread's heap, a first-class heap, a pool used alone) takes
   and returns their blocks through hak_mid_take and hak_mid_put_list with the owner's lock held,
   and asks hak_mid_policy how much a list in front of that lock may hold. Few blocks a list, one at
   least; no empty slab is kept of blocks above MID_KEEP_EMPTY_MAX.

   A `struct mid_pool` is the same behind one short lock: a complete thread-safe allocator of such
   blocks. Depends on base, superslab and owner. */
#ifndef HAKMEM_MID_MT_MID_MT_H
#define HAKMEM_MID_MT_MID_MT_H

#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

/* The smallest and largest request, in bytes. */
#define MID_MIN_BYTES ((size_t)1025)
#define MID_MAX_BYTES ((size_t)32768)

/* A pool of its own. Zero-initialised memory is no pool: call hak_mid_pool_init. It holds back at
   most one empty slab (64 KiB) a class. */
struct owner; /* of hakmem's own */
struct mid_pool {
    struct owner *owner;
};

/* Returns 0, EAGAIN if there are too many pools and heaps in this process, or ENOMEM. */
HAK_MUST_CHECK int hak_mid_pool_init(struct mid_pool *pool);
/* `size` bytes (any size up to 32 KiB; those of 1 KiB and less get the class above), aligned to 16.
   NULL and errno ENOMEM if the size is too large or the system refuses memory. Any thread. */
void *hak_mid_pool_alloc(struct mid_pool *pool, size_t size);
/* Any thread. A pointer that is no allocated block of this pool aborts; NULL does nothing. */
void hak_mid_pool_free(struct mid_pool *pool, void *block);
/* Bytes of the block at p. */
size_t hak_mid_usable_size(const void *block);
/* Returns empty slabs to the shared superslabs. */
void hak_mid_pool_trim(struct mid_pool *pool);
/* Returns all slabs to them, with the blocks in use; the pool may be initialised again. No other
   call is under way. */
void hak_mid_pool_destroy(struct mid_pool *pool);
/* 0 if all equations of the pool hold. */
int hak_mid_pool_verify(struct mid_pool *pool);

HAK_EXTERN_C_END

#endif
