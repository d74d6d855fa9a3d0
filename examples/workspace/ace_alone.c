/* ACE alone: blocks above 32 KiB. */
#include <stdio.h>
#include <string.h>

#include "ace/ace.h"

int main(void)
{
    char *small = hak_ace_alloc(100000, 16);
    char *large = hak_ace_alloc((size_t)5 * 1024 * 1024, 16);
    int ok = small && large && hak_ace_usable_size(small) >= 100000;
    if (ok) {
        memset(large, 1, (size_t)5 * 1024 * 1024);
        hak_ace_free(small);
        hak_ace_free(large);
    }
    ok = ok && hak_ace_verify() == 0;
    printf("ace %s\n", ok ? "works" : "FAILED");
    return !ok;
}
