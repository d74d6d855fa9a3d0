/* ACE alone: blocks above 32 KiB. */
#include <stdio.h>
#include <string.h>

#include "ace/ace.h"

int main(void)
{
    char *small = ace_alloc(100000, 16);
    char *large = ace_alloc((size_t)5 * 1024 * 1024, 16);
    int ok = small && large && ace_usable_size(small) >= 100000;
    if (ok) {
        memset(large, 1, (size_t)5 * 1024 * 1024);
        ace_free(small);
        ace_free(large);
    }
    ok = ok && ace_verify() == 0;
    printf("ace %s\n", ok ? "works" : "FAILED");
    return !ok;
}
