// Loads libdw. No locks, no threads.
#include "report/libdw.h"

#include <dlfcn.h>

#include <cstdlib>

namespace hakmem::report::libdw
{

#define HAKMEM_LIBDW_DEFINE(result, name, arguments) result(*name) arguments;
HAKMEM_LIBDW_FUNCTIONS(HAKMEM_LIBDW_DEFINE)
#undef HAKMEM_LIBDW_DEFINE

Dwfl_Callbacks callbacks;

namespace
{

template <class Pointer> bool find(void *library, const char *name, Pointer *out)
{
    *out = reinterpret_cast<Pointer>(dlsym(library, name));
    return *out != nullptr;
}

bool find_all(void *library)
{
    bool all = find(library, "dwfl_build_id_find_elf", &callbacks.find_elf) &&
               find(library, "dwfl_standard_find_debuginfo", &callbacks.find_debuginfo) &&
               find(library, "dwfl_offline_section_address", &callbacks.section_address);
#define HAKMEM_LIBDW_FIND(result, name, arguments) all = find(library, #name, &name) && all;
    HAKMEM_LIBDW_FUNCTIONS(HAKMEM_LIBDW_FIND)
#undef HAKMEM_LIBDW_FIND
    return all;
}

} // namespace

int load()
{
    const char *named = std::getenv("HAK_REPORT_LIBDW");
    void *library = dlopen(named && *named ? named : "libdw.so.1", RTLD_NOW | RTLD_LOCAL);
    return library && find_all(library);
}

} // namespace hakmem::report::libdw
