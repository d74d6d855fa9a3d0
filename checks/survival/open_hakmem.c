/* open_hakmem LIBRARY: opens libhakmem.so in a process that runs on libc's malloc, and uses hak_*
   beside it, in threads that were there before and in new ones. Prints "survived". */
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *(*allocate)(size_t);
static void (*release)(void *);
static int (*owns)(const void *);
static int (*verify)(void);
static pthread_barrier_t is_open;
static int failures;

static void *use(void *is_old)
{
    if (is_old) {
        (void)pthread_barrier_wait(&is_open);
    }
    for (size_t size = 1; size < (size_t)3 << 20; size = size * 3 + 1) {
        char *ours = (char *)allocate(size), *theirs = (char *)malloc(size);
        if (!ours || !theirs || !owns(ours) || owns(theirs)) {
            failures++;
            continue;
        }
        memset(ours, 1, size);
        memset(theirs, 2, size);
        failures += ours[size - 1] != 1;
        release(ours);
        free(theirs);
    }
    return NULL;
}

#define FIND(function, name) (*(void **)&(function) = dlsym(library, name)) != NULL

int main(int argc, char **argv)
{
    pthread_t old, fresh;
    if (argc != 2 || pthread_barrier_init(&is_open, NULL, 2) != 0 ||
        pthread_create(&old, NULL, use, argv) != 0) {
        return 2;
    }
    for (int round = 0; round < 3; round++) {
        void *library = dlopen(argv[1], RTLD_NOW | RTLD_LOCAL);
        if (!library) {
            fprintf(stderr, "%s\n", dlerror());
            return 1;
        }
        if (!(FIND(allocate, "hak_malloc") && FIND(release, "hak_free") && FIND(owns, "hak_owns") &&
              FIND(verify, "hak_verify"))) {
            return 1;
        }
        if (round == 0) {
            (void)pthread_barrier_wait(&is_open);
            pthread_join(old, NULL);
        }
        (void)use(NULL);
        if (pthread_create(&fresh, NULL, use, NULL) != 0 || pthread_join(fresh, NULL) != 0) {
            return 1;
        }
        failures += verify() != 0;
        dlclose(library);
    }
    if (!failures) {
        puts("survived");
    }
    return failures != 0;
}
