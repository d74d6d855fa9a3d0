/* A static program that uses glibc's second names of malloc: linked with hakmem there must be one
   malloc, and it serves them all. */
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>

#include "hakmem/hakmem.h"

extern void *__libc_malloc(size_t size);
extern void *__libc_calloc(size_t n, size_t size);
extern void *__libc_realloc(void *p, size_t size);
extern void __libc_free(void *p);
extern void *__libc_memalign(size_t alignment, size_t size);
extern void *__libc_valloc(size_t size);
extern void *__libc_pvalloc(size_t size);
extern void *__libc_reallocarray(void *p, size_t n, size_t size);

int main(void)
{
    void *blocks[] = {
        __libc_malloc(100),
        __libc_calloc(10, 10),
        __libc_realloc(NULL, 100),
        __libc_memalign(64, 100),
        __libc_valloc(100),
        __libc_pvalloc(100),
        __libc_reallocarray(NULL, 10, 10),
        malloc(100),
    };
    int n_foreign = 0;
    for (size_t i = 0; i < sizeof blocks / sizeof blocks[0]; i++) {
        if (!hak_owns(blocks[i]) || malloc_usable_size(blocks[i]) < 100) {
            printf("block %zu is not hakmem's\n", i);
            n_foreign++;
        }
        __libc_free(blocks[i]);
    }
    return n_foreign ? 1 : hak_verify();
}
