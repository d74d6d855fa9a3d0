/* Asks the loader: for what a libstdc++ has that was loaded after hakmem, and for what an address
   is. A unit of its own, since a static program does not want dlopen. */
#include "malloc/late_symbol.h"

#include <dlfcn.h>
#include <link.h>

void *hak_late_symbol(const char *name)
{
    void *library = dlopen("libstdc++.so.6", RTLD_LAZY | RTLD_NOLOAD);
    return library ? dlsym(library, name) : NULL;
}

int hak_late_is_stub(const void *function)
{
#ifdef __GLIBC__
    Dl_info info;
    const ElfW(Sym) *symbol = NULL;
    return dladdr1(function, &info, (void **)(void *)&symbol, RTLD_DL_SYMENT) && symbol &&
           symbol->st_shndx == SHN_UNDEF;
#else
    (void)function;
    return 0;
#endif
}
