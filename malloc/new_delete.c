/* Every replaceable form of C++'s operator new and delete (C++17 and C++14 sized forms), in C under
   their mangled names (Itanium ABI, 64-bit size_t), so that neither the library nor a C program
   needs libstdc++. No state, no locks.

   Each form does what C++ says that it does by default: it calls another one, by the name that the
   program may have replaced, and the last ones call malloc, aligned_alloc and free, which it may
   have replaced too (malloc_names.h). A jump through a name costs one instruction; where the next
   name is ours, a form of new takes its short cut.

   What belongs to C++ (the new-handler, std::bad_alloc, catching) comes through weak references to
   libstdc++, which a C++ program has. Where a C program loads a C++ library later (Python and its
   modules), they are empty, and libhakmem.so finds them by name in the libstdc++ that is loaded by
   then (late_symbol.c). Without any a failing new ends the process, as an exception that is
   never caught would. */
#include <stdint.h>

#include "base/atomic.h"
#include "base/error.h"
#include "hakmem/fast.h"
#include "hakmem/hakmem.h"
#include "malloc/late_symbol.h"
#include "malloc/malloc_names.h"
#include "malloc/new_handler.h"

typedef new_handler (*handler_getter)(void);
typedef void (*thrower)(void);
typedef void *(*nothrow_new)(size_t size, const void *nothrow);
typedef void *(*aligned_nothrow_new)(size_t size, size_t alignment, const void *nothrow);
/* std::get_new_handler() and std::__throw_bad_alloc(). */
extern new_handler _ZSt15get_new_handlerv(void) __attribute__((weak));
extern void _ZSt17__throw_bad_allocv(void) __attribute__((weak));

static void *find_late(const char *name)
{
    return &hak_late_symbol ? hak_late_symbol(name) : NULL;
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

/* An attempt of malloc's, or of aligned_alloc's with an alignment above 16, by their names. */
static void *try_again(size_t size, size_t alignment)
{
    size = size ? size : 1;
    if (alignment <= SC_MIN_ALIGN) {
        return malloc(size);
    }
    if (aligned_alloc == hak_own_aligned_alloc) {
        return aligned_alloc(alignment, size);
    }
    size_t rounded = (size + alignment - 1) & ~(alignment - 1); /* strict ones want a multiple */
    return rounded < size ? NULL : aligned_alloc(alignment, rounded);
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
        p = try_again(size, alignment);
    }
    return p;
}

/* The same, but what the new-handler throws ends in NULL. */
static HAK_COLD void *quiet_new(size_t size, size_t alignment)
{
    void *p = NULL;
    while (!p) {
        new_handler handler = current_handler();
        if (!handler || !hak_new_call_handler(handler)) {
            return NULL;
        }
        p = try_again(size, alignment);
    }
    return p;
}

/* libstdc++'s own forms, where it came too late for us to catch: they call the throwing forms by
   their names, and catch. */
static nothrow_new late_nothrow(void)
{
    nothrow_new theirs = NULL;
    if (!_ZSt15get_new_handlerv) {
        *(void **)(void *)&theirs = find_late("_ZnwmRKSt9nothrow_t");
    }
    return theirs;
}

static aligned_nothrow_new late_aligned_nothrow(void)
{
    aligned_nothrow_new theirs = NULL;
    if (!_ZSt15get_new_handlerv) {
        *(void **)(void *)&theirs = find_late("_ZnwmSt11align_val_tRKSt9nothrow_t");
    }
    return theirs;
}

/* The ends of the throwing plain form: a failed allocation, an empty bin, a large block, and malloc
   not ours. */
static void *or_throw(void *p, size_t size)
{
    return HAK_LIKELY(p != NULL) ? p : throwing_new(size, SC_MIN_ALIGN);
}

static HAK_NOINLINE void *refill_new(size_t size)
{
    return or_throw(hak_fast_refill_malloc(size), size);
}

static HAK_COLD void *large_new(size_t size)
{
    return or_throw(hak_fast_slow_malloc(size), size);
}

static HAK_COLD void *named_new(size_t size)
{
    return or_throw(try_again(size, SC_MIN_ALIGN), size);
}

/* And of the one that does not throw. */
static void *or_null(void *p, size_t size, const void *nothrow)
{
    if (HAK_LIKELY(p != NULL)) {
        return p;
    }
    nothrow_new theirs = late_nothrow();
    return theirs ? theirs(size, nothrow) : quiet_new(size, SC_MIN_ALIGN);
}

/* The program has an operator new of its own, that the nothrow forms have to call. */
static HAK_COLD void *named_nothrow_new(void *(*throwing)(size_t), size_t size, const void *nothrow)
{
    nothrow_new theirs = late_nothrow();
    return theirs ? theirs(size, nothrow) : hak_new_call(throwing, size);
}

static HAK_COLD void *named_aligned_nothrow_new(void *(*throwing)(size_t, size_t), size_t size,
                                                size_t alignment, const void *nothrow)
{
    aligned_nothrow_new theirs = late_aligned_nothrow();
    return theirs ? theirs(size, alignment, nothrow)
                  : hak_new_call_aligned(throwing, size, alignment);
}

/* --- what the secure variant learns: whose functions a block has come from, and goes to --- */

void *hak_own__Znwm(size_t size) HAK_HIDDEN;
void *hak_own__Znam(size_t size) HAK_HIDDEN;
HAK_REPLACEABLE void *_Znwm(size_t size);
HAK_REPLACEABLE void *_Znam(size_t size);

/* Only if all of them are ours: a program that has some of its own may well mix them, and its
   blocks need not begin where ours do. */
#if HAK_SECURE
static HAK_COLD int all_are_ours(void);
#else
static inline int all_are_ours(void)
{
    return 0;
}
#endif

/* Names do not change once the program runs: looked at once. */
static inline int families_are_told(void)
{
    static uint32_t answer; /* 0: not known; else 1 more than it is */
    if (!HAK_SECURE) {
        return 0;
    }
    uint32_t known = atomic_load_relaxed(&answer);
    if (HAK_UNLIKELY(!known)) {
        known = all_are_ours() ? 2 : 1;
        atomic_store_relaxed(&answer, known);
    }
    return known == 2;
}

static inline void *named(void *p, enum entry_family family)
{
    if (families_are_told()) {
        hak_fast_name(p, family);
    }
    return p;
}

/* `next`: whose the block is for the form that is called then. */
static inline void claim(void *p, enum entry_family family, enum entry_family next, size_t size,
                         size_t alignment)
{
    if (families_are_told()) {
        hak_fast_claim(p, family, next, size, alignment);
    }
}
#define NO_SIZE SIZE_MAX

/* All forms are ours: what the next ones would do is known. Returns whether it freed the block. */
static inline int free_at_once(void *p, enum entry_family family, size_t size)
{
    if (!families_are_told()) {
        return 0;
    }
    hak_fast_claim(p, family, ENTRY_MALLOC, size, 0);
    hak_fast_free(p);
    return 1;
}

/* new */
HAK_REPLACEABLE void *_Znwm(size_t size)
{
    if (NAMES_MALLOC_DIFFERS) {
        return named_new(size);
    }
    if (HAK_SECURE) {
        return named(hak_fast_malloc_or(size, large_new, refill_new), ENTRY_NEW);
    }
    return hak_fast_malloc_or(size, large_new, refill_new);
}
OWN_NAME(_Znwm);

HAK_REPLACEABLE void *_Znam(size_t size)
{
    if (HAK_SECURE) {
        return named(_Znwm(size), ENTRY_NEW_ARRAY);
    }
    return _Znwm(size);
}
OWN_NAME(_Znam);

HAK_REPLACEABLE void *_ZnwmRKSt9nothrow_t(size_t size, const void *nothrow)
{
    if (HAK_UNLIKELY(_Znwm != hak_own__Znwm)) {
        return named_nothrow_new(_Znwm, size, nothrow);
    }
    return named(or_null(NAMES_MALLOC_DIFFERS ? malloc(size ? size : 1) : hak_fast_malloc(size),
                         size, nothrow),
                 ENTRY_NEW);
}

HAK_REPLACEABLE void *_ZnamRKSt9nothrow_t(size_t size, const void *nothrow)
{
    if (HAK_UNLIKELY(_Znam != hak_own__Znam || _Znwm != hak_own__Znwm)) {
        return named_nothrow_new(_Znam, size, nothrow);
    }
    return named(or_null(NAMES_MALLOC_DIFFERS ? malloc(size ? size : 1) : hak_fast_malloc(size),
                         size, nothrow),
                 ENTRY_NEW_ARRAY);
}

/* An alignment that is none fails at once, as libstdc++'s forms do. */
HAK_REPLACEABLE void *_ZnwmSt11align_val_t(size_t size, size_t alignment)
{
    if (HAK_UNLIKELY(!is_alignment(alignment))) {
        throw_bad_alloc(size);
    }
    void *p = try_again(size, alignment);
    return named(HAK_LIKELY(p != NULL) ? p : throwing_new(size, alignment), ENTRY_NEW);
}
OWN_NAME(_ZnwmSt11align_val_t);

HAK_REPLACEABLE void *_ZnamSt11align_val_t(size_t size, size_t alignment)
{
    if (HAK_SECURE) {
        return named(_ZnwmSt11align_val_t(size, alignment), ENTRY_NEW_ARRAY);
    }
    return _ZnwmSt11align_val_t(size, alignment);
}
OWN_NAME(_ZnamSt11align_val_t);

static void *aligned_or_null(size_t size, size_t alignment, const void *nothrow)
{
    if (HAK_UNLIKELY(!is_alignment(alignment))) {
        return NULL;
    }
    void *p = try_again(size, alignment);
    if (HAK_LIKELY(p != NULL)) {
        return p;
    }
    aligned_nothrow_new theirs = late_aligned_nothrow();
    return theirs ? theirs(size, alignment, nothrow) : quiet_new(size, alignment);
}

HAK_REPLACEABLE void *_ZnwmSt11align_val_tRKSt9nothrow_t(size_t size, size_t alignment,
                                                         const void *nothrow)
{
    if (HAK_UNLIKELY(_ZnwmSt11align_val_t != hak_own__ZnwmSt11align_val_t)) {
        return named_aligned_nothrow_new(_ZnwmSt11align_val_t, size, alignment, nothrow);
    }
    return named(aligned_or_null(size, alignment, nothrow), ENTRY_NEW);
}

HAK_REPLACEABLE void *_ZnamSt11align_val_tRKSt9nothrow_t(size_t size, size_t alignment,
                                                         const void *nothrow)
{
    if (HAK_UNLIKELY(_ZnamSt11align_val_t != hak_own__ZnamSt11align_val_t ||
                     _ZnwmSt11align_val_t != hak_own__ZnwmSt11align_val_t)) {
        return named_aligned_nothrow_new(_ZnamSt11align_val_t, size, alignment, nothrow);
    }
    return named(aligned_or_null(size, alignment, nothrow), ENTRY_NEW_ARRAY);
}

/* delete: what comes behind the pointer (size, alignment, nothrow) is not needed, except for
   claims. A form calls `next`, by its name. */
HAK_REPLACEABLE void _ZdlPv(void *p)
{
    if (free_at_once(p, ENTRY_NEW, NO_SIZE)) {
        return;
    }
    free(p);
}
OWN_NAME(_ZdlPv);

HAK_REPLACEABLE void _ZdaPv(void *p)
{
    if (free_at_once(p, ENTRY_NEW_ARRAY, NO_SIZE)) {
        return;
    }
    _ZdlPv(p);
}
OWN_NAME(_ZdaPv);

#define DEFINE_SIZED_DELETE(name, family, next)                                                    \
    HAK_REPLACEABLE void name(void *p, size_t size)                                                \
    {                                                                                              \
        hak_validate_size(p, size);                                                                \
        if (free_at_once(p, family, size)) {                                                       \
            return;                                                                                \
        }                                                                                          \
        next(p);                                                                                   \
    }
#define DEFINE_NOTHROW_DELETE(name, next)                                                          \
    HAK_REPLACEABLE void name(void *p, const void *nothrow)                                        \
    {                                                                                              \
        (void)nothrow;                                                                             \
        next(p);                                                                                   \
    }

DEFINE_SIZED_DELETE(_ZdlPvm, ENTRY_NEW, _ZdlPv)
DEFINE_SIZED_DELETE(_ZdaPvm, ENTRY_NEW_ARRAY, _ZdaPv)
DEFINE_NOTHROW_DELETE(_ZdlPvRKSt9nothrow_t, _ZdlPv)
DEFINE_NOTHROW_DELETE(_ZdaPvRKSt9nothrow_t, _ZdaPv)

#define DEFINE_ALIGNED_DELETE(name, family, next)                                                  \
    HAK_REPLACEABLE void name(void *p, size_t size, size_t alignment)                              \
    {                                                                                              \
        hak_validate_size(p, size);                                                                \
        claim(p, family, family, size, 0);                                                         \
        next(p, alignment);                                                                        \
    }
#define DEFINE_ALIGNED_NOTHROW_DELETE(name, next)                                                  \
    HAK_REPLACEABLE void name(void *p, size_t alignment, const void *nothrow)                      \
    {                                                                                              \
        (void)nothrow;                                                                             \
        next(p, alignment);                                                                        \
    }

HAK_REPLACEABLE void _ZdlPvSt11align_val_t(void *p, size_t alignment)
{
    claim(p, ENTRY_NEW, ENTRY_MALLOC, NO_SIZE, alignment);
    if (NAMES_FREE_DIFFERS) {
        hak_names_free_aligned(p);
        return;
    }
    hak_fast_check_alignment(p, alignment);
    hak_fast_free(p);
}
HAK_REPLACEABLE void _ZdaPvSt11align_val_t(void *p, size_t alignment)
{
    claim(p, ENTRY_NEW_ARRAY, ENTRY_NEW, NO_SIZE, alignment);
    _ZdlPvSt11align_val_t(p, alignment);
}
DEFINE_ALIGNED_DELETE(_ZdlPvmSt11align_val_t, ENTRY_NEW, _ZdlPvSt11align_val_t)
DEFINE_ALIGNED_DELETE(_ZdaPvmSt11align_val_t, ENTRY_NEW_ARRAY, _ZdaPvSt11align_val_t)
DEFINE_ALIGNED_NOTHROW_DELETE(_ZdlPvSt11align_val_tRKSt9nothrow_t, _ZdlPvSt11align_val_t)
DEFINE_ALIGNED_NOTHROW_DELETE(_ZdaPvSt11align_val_tRKSt9nothrow_t, _ZdaPvSt11align_val_t)

#if HAK_SECURE
/* Every form, once more by a name that the program cannot replace. */
#define FORMS(FORM)                                                                                \
    FORM(_ZnwmRKSt9nothrow_t)                                                                      \
    FORM(_ZnamRKSt9nothrow_t)                                                                      \
    FORM(_ZnwmSt11align_val_tRKSt9nothrow_t)                                                       \
    FORM(_ZnamSt11align_val_tRKSt9nothrow_t)                                                       \
    FORM(_ZdlPvm)                                                                                  \
    FORM(_ZdaPvm)                                                                                  \
    FORM(_ZdlPvRKSt9nothrow_t)                                                                     \
    FORM(_ZdaPvRKSt9nothrow_t)                                                                     \
    FORM(_ZdlPvSt11align_val_t)                                                                    \
    FORM(_ZdaPvSt11align_val_t)                                                                    \
    FORM(_ZdlPvmSt11align_val_t)                                                                   \
    FORM(_ZdaPvmSt11align_val_t)                                                                   \
    FORM(_ZdlPvSt11align_val_tRKSt9nothrow_t)                                                      \
    FORM(_ZdaPvSt11align_val_tRKSt9nothrow_t)
#define MAKE_OWN(name) OWN_NAME(name);
#define LOOK(name)     ours &= name == hak_own_##name;

FORMS(MAKE_OWN)

static int all_are_ours(void)
{
    int ours = !NAMES_MALLOC_DIFFERS && !NAMES_FREE_DIFFERS;
    LOOK(_Znwm)
    LOOK(_Znam)
    LOOK(_ZnwmSt11align_val_t)
    LOOK(_ZnamSt11align_val_t)
    LOOK(_ZdlPv)
    LOOK(_ZdaPv)
    FORMS(LOOK)
    return ours;
}
#endif
