/* The superslab part alone: spans of 64 KiB units, and the map that knows every pointer. */
#include <stdio.h>

#include "superslab/superslab.h"

int main(void)
{
    char *span = hak_ss_span_alloc(4 * SS_UNIT_BYTES, 4 * SS_UNIT_BYTES, NULL);
    struct ss_lookup inside = hak_super_lookup(span + 100000);
    struct ss_lookup outside = hak_super_lookup(&inside);
    int ok = span && hak_ss_span_size(span) == 4 * SS_UNIT_BYTES && inside.kind == SS_SPAN &&
             inside.start == span && outside.kind == SS_NOT_OURS;
    hak_ss_span_free(span);
    ok = ok && hak_ss_verify() == 0;
    printf("superslab %s\n", ok ? "works" : "FAILED");
    return !ok;
}
