/* late LIBRARY: a C program that loads a C++ library for itself alone, and calls its run(). */
#include <dlfcn.h>
#include <stdio.h>

int main(int argc, char **argv)
{
    void *library = argc == 2 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL;
    int (*run)(void);
    if (!library) {
        puts("no library");
        return 9;
    }
    *(void **)(void *)&run = dlsym(library, "run");
    return run();
}
