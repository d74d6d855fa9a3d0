/* deepbind LIBRARY CASE: blocks that cross between the program and LIBRARY (deep.c), which is
   opened with RTLD_DEEPBIND. Prints "survived" if the process does. */
#include <dlfcn.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *(*make)(size_t);
static void *(*resize)(void *, size_t);
static char *(*copy)(const char *);
static void (*release)(void *);

/* From the library to the program. */
static int out(size_t size)
{
    char *p = (char *)make(size);
    int is_wrong = malloc_usable_size(p) < size || p[size - 1] != 7;
    p = (char *)realloc(p, 3 * size);
    is_wrong += p[size - 1] != 7;
    free(p);
    return is_wrong;
}

/* And the other way. */
static int in(size_t size)
{
    void *aligned = NULL;
    char *p = (char *)malloc(size);
    memset(p, 5, size);
    p = (char *)resize(p, 3 * size);
    int is_wrong = p[size - 1] != 5;
    release(p);
    is_wrong += posix_memalign(&aligned, 4096, size) != 0;
    release(aligned);
    release(calloc(1, size));
    return is_wrong;
}

static int string(size_t size)
{
    (void)size;
    release(copy("a string of the C library's"));
    free(copy("another"));
    return 0;
}

#define FIND(function, name) (*(void **)&(function) = dlsym(library, name)) != NULL

int main(int argc, char **argv)
{
    int is_wrong = 0;
    void *library = argc == 3 ? dlopen(argv[1], RTLD_NOW | RTLD_DEEPBIND) : NULL;
    if (!library || !(FIND(make, "deep_make") && FIND(resize, "deep_resize") &&
                      FIND(copy, "deep_copy") && FIND(release, "deep_free"))) {
        return 2;
    }
    int (*run)(size_t) = argv[2][0] == 'o' ? out : argv[2][0] == 'i' ? in : string;
    for (size_t size = 20; size < 3000000; size = size * 3 + 1) {
        is_wrong += run(size);
    }
    if (!is_wrong) {
        puts("survived");
    }
    return is_wrong;
}
