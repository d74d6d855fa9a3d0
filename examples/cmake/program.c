/* Says who serves malloc, and fails if it is not hakmem. */
#include <stdio.h>
#include <stdlib.h>

#include <hakmem/hakmem.h>

int main(void)
{
    void *block = malloc(100);
    int ours = hak_owns(block);
    printf("malloc is served by %s\n", ours ? "hakmem" : "libc");
    free(block);
    return !ours;
}
