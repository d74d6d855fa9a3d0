/* A heap for what belongs together, freed at once; beside it malloc, which hakmem serves too. */
#include <stdio.h>
#include <stdlib.h>

#include <hakmem/hakmem.h>

struct item {
    struct item *next;
    int number;
};

int main(void)
{
    struct hak_heap *heap = hak_heap_create();
    struct item *list = NULL;
    for (int i = 0; heap && i < 1000; i++) {
        struct item *item = hak_heap_malloc(heap, sizeof *item);
        if (!item) {
            return 1;
        }
        *item = (struct item){list, i};
        list = item;
    }
    long sum = 0;
    for (struct item *item = list; item; item = item->next) {
        sum += item->number;
    }
    hak_heap_destroy(heap); /* all items */

    void *block = malloc(100);
    int ours = hak_owns(block);
    printf("sum %ld; malloc is served by %s\n", sum, ours ? "hakmem" : "libc");
    free(block);
    return !ours || sum != 499500;
}
