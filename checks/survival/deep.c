/* A library that is opened with RTLD_DEEPBIND: its malloc and free are libc's, whatever is
   preloaded, while what the C library gives it (strdup) comes from the preloaded malloc. */
#include <stdlib.h>
#include <string.h>

void *deep_make(size_t size)
{
    void *p = malloc(size);
    return p ? memset(p, 7, size) : NULL;
}

void *deep_resize(void *p, size_t size)
{
    return realloc(p, size);
}

char *deep_copy(const char *text)
{
    return strdup(text);
}

void deep_free(void *p)
{
    free(p);
}
