/* planted CASE: a bug for memcheck and AddressSanitizer to find, or none. Blocks by hak_* if they are linked, else by malloc. */
#include <malloc.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef PLANTED_HAK
#include "hakmem/hakmem.h"
#define malloc  hak_malloc
#define calloc  hak_calloc
#define realloc hak_realloc
#define free    hak_free
#endif

static volatile char sink;

/* Everything that is allowed, at length, so that a false report would show. */
static void correct(void)
{
    unsigned state = 1;
    char *blocks[100] = {NULL};
    for (int i = 0; i < 20000; i++) {
        state = state * 1103515245u + 12345u;
        int k = (int)(state >> 16) % 100;
        size_t size = (state >> 8) % (i % 50 ? 2000 : 300000);
        if (blocks[k] && state >> 30 == 0) {
            blocks[k] = (char *)realloc(blocks[k], size + 1);
        } else {
            free(blocks[k]);
            blocks[k] = (char *)(i % 3 ? malloc(size + 1) : calloc(1, size + 1));
            sink = i % 3 ? 0 : blocks[k][size];
        }
        memset(blocks[k], 1, size + 1);
    }
    for (int k = 0; k < 100; k++) {
        free(blocks[k]);
    }
}

int main(int argc, char **argv)
{
    const char *name = argc > 1 ? argv[1] : "";
    char *volatile p = (char *)malloc(40);
    memset(p, 1, 40);
    if (strcmp(name, "read_after_free") == 0) {
        free(p);
        sink = p[0];
    } else if (strcmp(name, "read_after_free_and_malloc") == 0) {
        free(p);
        for (int i = 0; i < 100; i++) {
            memset(malloc(40), 2, 40);
        }
        sink = p[8];
    } else if (strcmp(name, "write_after_free") == 0) {
        free(p);
        p[39] = 1;
    } else if (strcmp(name, "overflow_by_one") == 0) {
        p[40] = 1;
    } else if (strcmp(name, "overflow_of_large") == 0) {
        char *volatile large = (char *)malloc(100000);
        large[100000] = 1;
    } else if (strcmp(name, "overflow_after_realloc") == 0) {
        p = (char *)realloc(p, 20);
        sink = p[20];
    } else if (strcmp(name, "twice") == 0) {
        free(p);
        free(malloc(40));
        free(p);
    } else {
        correct();
        free(p);
    }
    puts("end");
    return 0;
}
