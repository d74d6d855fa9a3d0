/* The tiny pool alone: a thread-safe allocator of blocks up to 1 KiB. */
#include <stdio.h>
#include <string.h>

#include "tiny/tiny.h"

int main(void)
{
    static struct tiny_pool pool;
    if (hak_tiny_pool_init(&pool) != 0)
        return 1;
    void *blocks[1000];
    int ok = 1;
    for (int i = 0; i < 1000; i++) {
        size_t size = (size_t)i;
        blocks[i] = hak_tiny_pool_alloc(&pool, size);
        ok = ok && blocks[i] && hak_tiny_usable_size(blocks[i]) >= size;
        if (blocks[i])
            memset(blocks[i], i, size);
    }
    for (int i = 0; i < 1000; i++)
        hak_tiny_pool_free(&pool, blocks[i]);
    ok = ok && hak_tiny_pool_verify(&pool) == 0;
    hak_tiny_pool_destroy(&pool);
    printf("tiny %s\n", ok ? "works" : "FAILED");
    return !ok;
}
