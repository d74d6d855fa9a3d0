/* Looks into a libstdc++ that was loaded after hakmem. A unit of its own, since a static program does not want dlopen. */
#include "hakmem/late_symbol.h"

#include <dlfcn.h>

void *late_symbol(const char *name)
{
    void *library = dlopen("libstdc++.so.6", RTLD_LAZY | RTLD_NOLOAD);
    return library ? dlsym(library, name) : NULL;
}
