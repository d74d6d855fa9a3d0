/* The only C++ of the library. What it needs of libstdc++ is weak: a process without it has no
   handler to call either. No state, no locks. Called by the nothrow forms of operator new. */
#include "malloc/new_handler.h"

__asm__(".weak __gxx_personality_v0\n"
        ".weak __cxa_begin_catch\n"
        ".weak __cxa_end_catch\n"
        ".weak _ZSt9terminatev\n"
        ".weak _Unwind_Resume\n");

int hak_new_call_handler(new_handler handler)
{
    try {
        handler();
        return 1;
    } catch (...) {
        return 0;
    }
}

void *hak_new_call(void *(*throwing)(size_t size), size_t size)
{
    try {
        return throwing(size);
    } catch (...) {
        return nullptr;
    }
}

void *hak_new_call_aligned(void *(*throwing)(size_t size, size_t alignment), size_t size,
                           size_t alignment)
{
    try {
        return throwing(size, alignment);
    } catch (...) {
        return nullptr;
    }
}
