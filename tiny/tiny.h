/* Tiny: the pool for sizes up to 1 KiB. It is what serves these sizes wherever hakmem does: whoever
   has an owner (a thread's heap, a first-class heap, a pool used alone) takes and returns their
   blocks through hak_tiny_take and hak_tiny_put_list with the owner's lock held, and asks
   hak_tiny_policy how much a list in front of that lock may hold. Many blocks a list, two at least.
   Lists of blocks above TINY_FULL_SIZE may hold half of the bytes: what stays in them lies on many
   pages, and costs more by those than it saves in slow paths. (Mid blocks are few a list, so that
   for them slow paths cost more; docs/design.md has the figures.) One empty slab of each class is
   kept.

   A `struct tiny_pool` is the same behind one short lock: a complete thread-safe allocator of such
   blocks. Depends on base, superslab and owner. */
#ifndef HAKMEM_TINY_TINY_H
#define HAKMEM_TINY_TINY_H

#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

/* The largest request, in bytes; the smallest is 0, which is served as 16. */
#define TINY_MAX_BYTES ((size_t)1024)

/* A pool of its own. Zero-initialised memory is no pool: call hak_tiny_pool_init. It holds back at
   most one empty slab (64 KiB) a class. */
struct owner; /* of hakmem's own */
struct tiny_pool {
    struct owner *owner;
};

/* Returns 0, EAGAIN if there are too many pools and heaps in this process, or ENOMEM. */
HAK_MUST_CHECK int hak_tiny_pool_init(struct tiny_pool *pool);
/* `size` bytes (up to 1 KiB), aligned to 16. NULL and errno ENOMEM if the size is too large or the
   system refuses memory. Any thread. */
void *hak_tiny_pool_alloc(struct tiny_pool *pool, size_t size);
/* Any thread. A pointer that is no allocated block of this pool aborts; NULL does nothing. */
void hak_tiny_pool_free(struct tiny_pool *pool, void *block);
/* Bytes of the block at p. */
size_t hak_tiny_usable_size(const void *block);
/* Returns empty slabs to the shared superslabs. */
void hak_tiny_pool_trim(struct tiny_pool *pool);
/* Returns all slabs to them, with the blocks in use; the pool may be initialised again. No other
   call is under way. */
void hak_tiny_pool_destroy(struct tiny_pool *pool);
/* 0 if all equations of the pool hold. */
int hak_tiny_pool_verify(struct tiny_pool *pool);

HAK_EXTERN_C_END

#endif
