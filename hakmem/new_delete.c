/* Every replaceable form of C++'s operator new and delete (C++17 and C++14 sized forms), in C under their mangled names
   (Itanium ABI, 64-bit size_t), so that neither the library nor a C program needs libstdc++. The throwing forms call the
   new-handler and throw std::bad_alloc through weak references to libstdc++, which every C++ program has; without it a
   failed throwing new ends the process, as an uncaught exception would. No state, no locks. */
#include <stdint.h>

#include "base/error.h"
#include "hakmem/fast.h"
#include "hakmem/hakmem.h"

typedef void (*new_handler)(void);
/* std::get_new_handler() and std::__throw_bad_alloc(). */
extern new_handler _ZSt15get_new_handlerv(void) __attribute__((weak));
extern void _ZSt17__throw_bad_allocv(void) __attribute__((weak));

/* A failed allocation: calls the new-handler as long as there is one, and tries again. NULL if there is none. */
static HAK_COLD void *retry_new(size_t size, size_t alignment)
{
    for (;;) {
        new_handler handler = _ZSt15get_new_handlerv ? _ZSt15get_new_handlerv() : NULL;
        if (!handler) {
            return NULL;
        }
        handler();
        void *p = hak_memalign(alignment, size);
        if (p) {
            return p;
        }
    }
}

static HAK_COLD void *throwing_new(size_t size, size_t alignment)
{
    void *p = retry_new(size, alignment);
    if (!p) {
        if (_ZSt17__throw_bad_allocv) {
            _ZSt17__throw_bad_allocv();
        }
        hak_fatal("operator new failed without a C++ library to throw from; size", (const void *)size);
    }
    return p;
}

static inline void *new_or_throw(size_t size)
{
    void *p = fast_malloc(size);
    return HAK_LIKELY(p != NULL) ? p : throwing_new(size, 16);
}

static inline void *aligned_new_or_throw(size_t size, size_t alignment)
{
    void *p = hak_memalign(alignment, size);
    return HAK_LIKELY(p != NULL) ? p : throwing_new(size, alignment);
}

/* C cannot catch: an exception that the new-handler throws passes through the nothrow forms to their caller, where libstdc++
   would return NULL. */
static inline void *new_or_null(size_t size)
{
    void *p = fast_malloc(size);
    return HAK_LIKELY(p != NULL) ? p : retry_new(size, 16);
}

static inline void *aligned_new_or_null(size_t size, size_t alignment)
{
    void *p = hak_memalign(alignment, size);
    return HAK_LIKELY(p != NULL) ? p : retry_new(size, alignment);
}

/* new */
#define DEFINE_NEW(name)                                                                                               \
    HAK_EXPORT void *name(size_t size)                                                                                 \
    {                                                                                                                  \
        return new_or_throw(size);                                                                                     \
    }
#define DEFINE_NEW_NOTHROW(name)                                                                                       \
    HAK_EXPORT void *name(size_t size, const void *nothrow)                                                            \
    {                                                                                                                  \
        (void)nothrow;                                                                                                 \
        return new_or_null(size);                                                                                      \
    }
#define DEFINE_NEW_ALIGNED(name)                                                                                       \
    HAK_EXPORT void *name(size_t size, size_t alignment)                                                               \
    {                                                                                                                  \
        return aligned_new_or_throw(size, alignment);                                                                  \
    }
#define DEFINE_NEW_ALIGNED_NOTHROW(name)                                                                               \
    HAK_EXPORT void *name(size_t size, size_t alignment, const void *nothrow)                                          \
    {                                                                                                                  \
        (void)nothrow;                                                                                                 \
        return aligned_new_or_null(size, alignment);                                                                   \
    }

DEFINE_NEW(_Znwm)
DEFINE_NEW(_Znam)
DEFINE_NEW_NOTHROW(_ZnwmRKSt9nothrow_t)
DEFINE_NEW_NOTHROW(_ZnamRKSt9nothrow_t)
DEFINE_NEW_ALIGNED(_ZnwmSt11align_val_t)
DEFINE_NEW_ALIGNED(_ZnamSt11align_val_t)
DEFINE_NEW_ALIGNED_NOTHROW(_ZnwmSt11align_val_tRKSt9nothrow_t)
DEFINE_NEW_ALIGNED_NOTHROW(_ZnamSt11align_val_tRKSt9nothrow_t)

/* delete: what comes behind the pointer (size, alignment, nothrow) is not needed. */
#define DEFINE_DELETE(name)                                                                                            \
    HAK_EXPORT void name(void *p)                                                                                      \
    {                                                                                                                  \
        fast_free(p);                                                                                                  \
    }
#define DEFINE_DELETE_1(name, type)                                                                                    \
    HAK_EXPORT void name(void *p, type a)                                                                              \
    {                                                                                                                  \
        (void)a;                                                                                                       \
        fast_free(p);                                                                                                  \
    }
#define DEFINE_DELETE_2(name, type, type2)                                                                             \
    HAK_EXPORT void name(void *p, type a, type2 b)                                                                     \
    {                                                                                                                  \
        (void)a;                                                                                                       \
        (void)b;                                                                                                       \
        fast_free(p);                                                                                                  \
    }

DEFINE_DELETE(_ZdlPv)
DEFINE_DELETE(_ZdaPv)
DEFINE_DELETE_1(_ZdlPvm, size_t)
DEFINE_DELETE_1(_ZdaPvm, size_t)
DEFINE_DELETE_1(_ZdlPvRKSt9nothrow_t, const void *)
DEFINE_DELETE_1(_ZdaPvRKSt9nothrow_t, const void *)
DEFINE_DELETE_1(_ZdlPvSt11align_val_t, size_t)
DEFINE_DELETE_1(_ZdaPvSt11align_val_t, size_t)
DEFINE_DELETE_2(_ZdlPvmSt11align_val_t, size_t, size_t)
DEFINE_DELETE_2(_ZdaPvmSt11align_val_t, size_t, size_t)
DEFINE_DELETE_2(_ZdlPvSt11align_val_tRKSt9nothrow_t, size_t, const void *)
DEFINE_DELETE_2(_ZdaPvSt11align_val_tRKSt9nothrow_t, size_t, const void *)
