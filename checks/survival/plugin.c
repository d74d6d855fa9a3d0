/* A library for dlopen: allocates before, in and after its constructor's time, has thread-local
   storage of its own, and leaves a block to the caller. */
#include <stdlib.h>
#include <string.h>

static char *of_constructor;
static __thread char *of_thread;

__attribute__((constructor)) static void construct(void)
{
    of_constructor = (char *)malloc(20000);
    if (of_constructor) {
        memset(of_constructor, 5, 20000);
        free(malloc(300000));
    }
}

__attribute__((destructor)) static void destruct(void)
{
    free(of_constructor);
    free(malloc(1000));
}

__attribute__((visibility("default"))) char *plugin_block(size_t size)
{
    if (!of_constructor || of_constructor[0] != 5 || of_constructor[19999] != 5) {
        return NULL;
    }
    free(of_thread);
    of_thread = (char *)malloc(size);
    char *given = (char *)malloc(size);
    if (given) {
        memset(given, 7, size);
    }
    return given;
}

__attribute__((visibility("default"))) void plugin_end_of_thread(void)
{
    free(of_thread);
    of_thread = NULL;
}
