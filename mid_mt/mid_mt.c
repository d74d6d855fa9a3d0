/* The mid-MT pool. One lock a pool (rank HEAP). The policy is called by the thread cache, the
   pool by whoever imports it. */
#include "mid_mt/mid_mt.h"

#include <errno.h>

#include "base/lock.h"
#include "mid_mt/mid_class.h"
#include "superslab/bank.h"

HAK_STATIC_ASSERT(MID_MIN_BYTES == SC_TINY_MAX + 1 && MID_MAX_BYTES == SC_SMALL_MAX, "the pool's sizes");

/* What struct mid_pool holds. */
struct pool {
    struct lock lock;
    struct bank bank;
};
HAK_STATIC_ASSERT(sizeof(struct pool) <= sizeof(struct mid_pool), "the public struct is large enough");

static struct pool *inside(struct mid_pool *pool)
{
    return (struct pool *)(void *)pool->opaque;
}

uint32_t mid_list_limit(uint32_t size_class, size_t bytes)
{
    size_t n = bytes / sc_table[size_class].size;
    return n ? (uint32_t)n : 1;
}

int mid_pool_init(struct mid_pool *public)
{
    struct pool *pool = inside(public);
    uint32_t owner = bank_new_owner();
    if (!owner) {
        return EAGAIN;
    }
    pool->lock = (struct lock)LOCK_INIT(LOCK_RANK_HEAP);
    bank_init(&pool->bank, owner);
    return 0;
}

void *mid_pool_alloc(struct mid_pool *public, size_t size)
{
    struct pool *pool = inside(public);
    void *block = NULL;
    if (size <= MID_MAX_BYTES) {
        uint32_t size_class = sc_of(size < MID_MIN_BYTES ? MID_MIN_BYTES : size);
        lock_acquire(&pool->lock);
        (void)bank_take(&pool->bank, size_class, 1, &block);
        lock_release(&pool->lock);
    }
    if (!block) {
        errno = ENOMEM;
    }
    return block;
}

void mid_pool_free(struct mid_pool *public, void *block)
{
    struct pool *pool = inside(public);
    if (block) {
        lock_acquire(&pool->lock);
        bank_put(&pool->bank, block);
        lock_release(&pool->lock);
    }
}

size_t mid_usable_size(const void *block)
{
    return hak_super_lookup(block).size;
}

void mid_pool_trim(struct mid_pool *public)
{
    struct pool *pool = inside(public);
    lock_acquire(&pool->lock);
    bank_release_empty(&pool->bank);
    lock_release(&pool->lock);
}

int mid_pool_verify(struct mid_pool *public)
{
    struct pool *pool = inside(public);
    lock_acquire(&pool->lock);
    int result = bank_verify(&pool->bank);
    lock_release(&pool->lock);
    return result;
}
