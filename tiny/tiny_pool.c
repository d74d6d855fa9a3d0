/* The tiny pool used alone: a short lock around tiny.c, the owner's (rank HEAP). Called by whoever
   imports the pool; hakmem does not link it. */
#include "tiny/tiny_class.h"

#include <errno.h>

int hak_tiny_pool_init(struct tiny_pool *pool)
{
    return hak_owner_make_pool(&pool->owner);
}

void *hak_tiny_pool_alloc(struct tiny_pool *pool, size_t size)
{
    void *block = NULL;
    if (size <= TINY_MAX_BYTES) {
        block = hak_owner_pool_alloc(pool->owner, hak_sc_of(size), hak_tiny_take);
    }
    if (!block) {
        errno = ENOMEM;
    }
    return block;
}

void hak_tiny_pool_free(struct tiny_pool *pool, void *block)
{
    if (block) {
        hak_owner_pool_free(pool->owner, block, hak_tiny_put);
    }
}

size_t hak_tiny_usable_size(const void *block)
{
    return hak_super_lookup(block).size;
}

void hak_tiny_pool_trim(struct tiny_pool *pool)
{
    hak_owner_trim(pool->owner);
}

void hak_tiny_pool_destroy(struct tiny_pool *pool)
{
    hak_owner_unmake_pool(pool->owner);
    pool->owner = NULL;
}

int hak_tiny_pool_verify(struct tiny_pool *pool)
{
    return hak_owner_check(pool->owner);
}
