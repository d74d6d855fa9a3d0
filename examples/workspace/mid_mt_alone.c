/* The mid-MT pool alone: a thread-safe allocator of blocks up to 32 KiB. */
#include <stdio.h>
#include <string.h>

#include "mid_mt/mid_mt.h"

int main(void)
{
    static struct mid_pool pool;
    if (hak_mid_pool_init(&pool) != 0)
        return 1;
    void *blocks[1000];
    int ok = 1;
    for (int i = 0; i < 1000; i++) {
        size_t size = MID_MIN_BYTES + (size_t)i * 31;
        blocks[i] = hak_mid_pool_alloc(&pool, size);
        ok = ok && blocks[i] && hak_mid_usable_size(blocks[i]) >= size;
        if (blocks[i])
            memset(blocks[i], i, size);
    }
    for (int i = 0; i < 1000; i++)
        hak_mid_pool_free(&pool, blocks[i]);
    ok = ok && hak_mid_pool_verify(&pool) == 0;
    hak_mid_pool_destroy(&pool);
    printf("mid_mt %s\n", ok ? "works" : "FAILED");
    return !ok;
}
