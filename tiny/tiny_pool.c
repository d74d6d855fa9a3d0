/* The tiny pool used alone: a short lock around tiny.c, the owner's (rank HEAP). Called by whoever
   imports the pool; hakmem does not link it. */
#include "tiny/tiny_class.h"

#include <errno.h>

int tiny_pool_init(struct tiny_pool *pool)
{
    return owner_make_pool(&pool->owner);
}

void *tiny_pool_alloc(struct tiny_pool *pool, size_t size)
{
    void *block = NULL;
    if (size <= TINY_MAX_BYTES) {
        block = owner_pool_alloc(pool->owner, sc_of(size), tiny_take);
    }
    if (!block) {
        errno = ENOMEM;
    }
    return block;
}

void tiny_pool_free(struct tiny_pool *pool, void *block)
{
    if (block) {
        owner_pool_free(pool->owner, block, tiny_put);
    }
}

size_t tiny_usable_size(const void *block)
{
    return hak_super_lookup(block).size;
}

void tiny_pool_trim(struct tiny_pool *pool)
{
    owner_trim(pool->owner);
}

void tiny_pool_destroy(struct tiny_pool *pool)
{
    owner_unmake_pool(pool->owner);
    pool->owner = NULL;
}

int tiny_pool_verify(struct tiny_pool *pool)
{
    return owner_check(pool->owner);
}
