/* Every replaceable form of C++'s operator new and delete (C++17 and C++14 sized forms), in C under their mangled names
   (Itanium ABI, 64-bit size_t), so that neither the library nor a C program needs libstdc++. No state, no locks.

   What belongs to C++ (the new-handler, std::bad_alloc, catching) comes through weak references to libstdc++, which a C++
   program has. Where a C program loads a C++ library later (Python and its modules), they are empty, and libhakmem.so finds them
   by name in the libstdc++ that is loaded by then (late_symbol.c). Without any a failing new ends the process, as an exception that
   nobody catches would. */
#include <stdint.h>

#include "base/error.h"
#include "hakmem/fast.h"
#include "hakmem/hakmem.h"
#include "hakmem/late_symbol.h"
#include "hakmem/new_handler.h"

typedef new_handler (*handler_getter)(void);
typedef void (*thrower)(void);
typedef void *(*nothrow_new)(size_t size, const void *nothrow);
typedef void *(*aligned_nothrow_new)(size_t size, size_t alignment, const void *nothrow);
/* std::get_new_handler() and std::__throw_bad_alloc(). */
extern new_handler _ZSt15get_new_handlerv(void) __attribute__((weak));
extern void _ZSt17__throw_bad_allocv(void) __attribute__((weak));

static void *find_late(const char *name)
{
    return &late_symbol ? late_symbol(name) : NULL;
}

static HAK_COLD new_handler current_handler(void)
{
    handler_getter get = _ZSt15get_new_handlerv;
    if (!get) {
        *(void **)(void *)&get = find_late("_ZSt15get_new_handlerv");
    }
    return get ? get() : NULL;
}

static HAK_COLD void throw_bad_alloc(size_t size)
{
    thrower throw_it = _ZSt17__throw_bad_allocv;
    if (!throw_it) {
        *(void **)(void *)&throw_it = find_late("_ZSt17__throw_bad_allocv");
    }
    if (throw_it) {
        throw_it();
    }
    hak_fatal("operator new failed without a C++ library to throw from; size", (const void *)size);
}

static int is_alignment(size_t alignment)
{
    return alignment && !(alignment & (alignment - 1));
}

/* A failed allocation: calls the new-handler as long as there is one, and tries again. */
static HAK_COLD void *throwing_new(size_t size, size_t alignment)
{
    void *p = NULL;
    while (!p) {
        new_handler handler = current_handler();
        if (!handler) {
            throw_bad_alloc(size);
        }
        handler();
        p = hak_aligned_alloc(alignment, size);
    }
    return p;
}

/* The same, but what the new-handler throws ends in NULL. */
static HAK_COLD void *quiet_new(size_t size, size_t alignment)
{
    void *p = NULL;
    while (!p) {
        new_handler handler = current_handler();
        if (!handler || !call_new_handler(handler)) {
            return NULL;
        }
        p = hak_aligned_alloc(alignment, size);
    }
    return p;
}

/* libstdc++'s own forms, where it came too late for us to catch: they call the throwing forms, which are ours, and catch. */
static HAK_COLD void *nothrow_retry(size_t size, const void *nothrow)
{
    nothrow_new theirs = NULL;
    if (!_ZSt15get_new_handlerv) {
        *(void **)(void *)&theirs = find_late("_ZnwmRKSt9nothrow_t");
    }
    return theirs ? theirs(size, nothrow) : quiet_new(size, SC_MIN_ALIGN);
}

static HAK_COLD void *aligned_nothrow_retry(size_t size, size_t alignment, const void *nothrow)
{
    aligned_nothrow_new theirs = NULL;
    if (!_ZSt15get_new_handlerv) {
        *(void **)(void *)&theirs = find_late("_ZnwmSt11align_val_tRKSt9nothrow_t");
    }
    return theirs ? theirs(size, alignment, nothrow) : quiet_new(size, alignment);
}

static inline void *new_or_throw(size_t size)
{
    void *p = fast_malloc(size);
    return HAK_LIKELY(p != NULL) ? p : throwing_new(size, SC_MIN_ALIGN);
}

/* An alignment that is none fails at once, as libstdc++'s forms do. */
static inline void *aligned_new_or_throw(size_t size, size_t alignment)
{
    if (HAK_UNLIKELY(!is_alignment(alignment))) {
        throw_bad_alloc(size);
    }
    void *p = hak_aligned_alloc(alignment, size);
    return HAK_LIKELY(p != NULL) ? p : throwing_new(size, alignment);
}

static inline void *new_or_null(size_t size, const void *nothrow)
{
    void *p = fast_malloc(size);
    return HAK_LIKELY(p != NULL) ? p : nothrow_retry(size, nothrow);
}

static inline void *aligned_new_or_null(size_t size, size_t alignment, const void *nothrow)
{
    if (HAK_UNLIKELY(!is_alignment(alignment))) {
        return NULL;
    }
    void *p = hak_aligned_alloc(alignment, size);
    return HAK_LIKELY(p != NULL) ? p : aligned_nothrow_retry(size, alignment, nothrow);
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
        return new_or_null(size, nothrow);                                                                             \
    }
#define DEFINE_NEW_ALIGNED(name)                                                                                       \
    HAK_EXPORT void *name(size_t size, size_t alignment)                                                               \
    {                                                                                                                  \
        return aligned_new_or_throw(size, alignment);                                                                  \
    }
#define DEFINE_NEW_ALIGNED_NOTHROW(name)                                                                               \
    HAK_EXPORT void *name(size_t size, size_t alignment, const void *nothrow)                                          \
    {                                                                                                                  \
        return aligned_new_or_null(size, alignment, nothrow);                                                          \
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
