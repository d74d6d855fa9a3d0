/* hak_* used by name, while malloc stays libc's. */
#include <stdio.h>
#include <stdlib.h>

#include "hakmem/hakmem.h"

int main(void)
{
    void *ours = hak_malloc(100);
    void *theirs = malloc(100);
    int ok = ours && theirs && hak_owns(ours) && !hak_owns(theirs) && hak_usable_size(ours) >= 100;
    hak_free(ours);
    free(theirs);
    printf("hakmem %s (%s) %s\n", hak_version(), hak_variant(), ok ? "works" : "FAILED");
    return !ok;
}
