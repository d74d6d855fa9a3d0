/* The only C++ of the library. What it needs of libstdc++ is weak: a process without it has no handler to call either. No
   state, no locks. Called by the nothrow forms of operator new, after they failed. */
#include "hakmem/new_handler.h"

__asm__(".weak __gxx_personality_v0\n"
        ".weak __cxa_begin_catch\n"
        ".weak __cxa_end_catch\n"
        ".weak _ZSt9terminatev\n"
        ".weak _Unwind_Resume\n");

int call_new_handler(new_handler handler)
{
    try {
        handler();
        return 1;
    } catch (...) {
        return 0;
    }
}
