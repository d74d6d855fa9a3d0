/* Mid-MT: the pool for sizes above 1 KiB and up to 32 KiB. It gives the thread cache its policy for these classes (lists
   bounded by bytes, small batches), and can be used alone: a `struct mid_pool` is a complete thread-safe allocator of such
   blocks under one short lock. Depends on base and superslab. */
#ifndef HAKMEM_MID_MT_MID_MT_H
#define HAKMEM_MID_MT_MID_MT_H

#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

/* The smallest and largest request, in bytes. */
#define MID_MIN_BYTES ((size_t)1025)
#define MID_MAX_BYTES ((size_t)32768)

/* A pool of its own. Zero-initialised memory is no pool: call mid_pool_init. It holds back at most one empty slab
   (64 KiB) a class. */
struct mid_pool {
    HAK_CACHE_ALIGNED unsigned char opaque[1024];
};

/* Returns 0, or EAGAIN if there are too many pools and heaps in this process. */
HAK_MUST_CHECK int mid_pool_init(struct mid_pool *pool);
/* `size` bytes (any size up to 32 KiB; those of 1 KiB and less get the class above), aligned to 16. NULL and errno ENOMEM
   if the size is too large or the system refuses memory. Any thread. */
void *mid_pool_alloc(struct mid_pool *pool, size_t size);
/* Any thread. A pointer that is no allocated block of this pool aborts; NULL does nothing. */
void mid_pool_free(struct mid_pool *pool, void *block);
/* Bytes of the block at p. */
size_t mid_usable_size(const void *block);
/* Gives empty slabs back to the shared superslabs. */
void mid_pool_trim(struct mid_pool *pool);
/* 0 if all equations of the pool hold. */
int mid_pool_verify(struct mid_pool *pool);

HAK_EXTERN_C_END

#endif
