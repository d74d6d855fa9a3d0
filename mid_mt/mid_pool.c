/* The mid-MT pool used alone: a short lock around mid_mt.c, the owner's (rank HEAP). Called by
   whoever imports the pool; hakmem does not link it. */
#include "mid_mt/mid_class.h"

#include <errno.h>

int hak_mid_pool_init(struct mid_pool *pool)
{
    return hak_owner_make_pool(&pool->owner);
}

void *hak_mid_pool_alloc(struct mid_pool *pool, size_t size)
{
    void *block = NULL;
    if (size <= MID_MAX_BYTES) {
        uint32_t size_class = hak_sc_of(size < MID_MIN_BYTES ? MID_MIN_BYTES : size);
        block = hak_owner_pool_alloc(pool->owner, size_class, hak_mid_take);
    }
    if (!block) {
        errno = ENOMEM;
    }
    return block;
}

void hak_mid_pool_free(struct mid_pool *pool, void *block)
{
    if (block) {
        hak_owner_pool_free(pool->owner, block, hak_mid_put);
    }
}

size_t hak_mid_usable_size(const void *block)
{
    return hak_super_lookup(block).size;
}

void hak_mid_pool_trim(struct mid_pool *pool)
{
    hak_owner_trim(pool->owner);
}

void hak_mid_pool_destroy(struct mid_pool *pool)
{
    hak_owner_unmake_pool(pool->owner);
    pool->owner = NULL;
}

int hak_mid_pool_verify(struct mid_pool *pool)
{
    return hak_owner_check(pool->owner);
}
