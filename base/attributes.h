/* Compiler attributes and assertions that every part of hakmem shares. No locks, no state. */
#ifndef HAKMEM_BASE_ATTRIBUTES_H
#define HAKMEM_BASE_ATTRIBUTES_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
#define HAK_EXTERN_C_BEGIN         extern "C" {
#define HAK_EXTERN_C_END           }
#define HAK_STATIC_ASSERT(e, text) static_assert(e, text)
#else
#define HAK_EXTERN_C_BEGIN
#define HAK_EXTERN_C_END
#define HAK_STATIC_ASSERT(e, text) _Static_assert(e, text)
#endif

#define HAK_LIKELY(e)     __builtin_expect(!!(e), 1)
#define HAK_UNLIKELY(e)   __builtin_expect(!!(e), 0)
#define HAK_NOINLINE      __attribute__((noinline))
#define HAK_COLD          __attribute__((noinline, cold))
#define HAK_ALWAYS_INLINE inline __attribute__((always_inline))
#define HAK_EXPORT        __attribute__((visibility("default")))
#define HAK_HIDDEN        __attribute__((visibility("hidden")))
#define HAK_CACHE_ALIGNED __attribute__((aligned(64)))
/* A large table, of which a small program touches little or nothing: it lies apart from the small
   variables, so that these fill few pages (preload/layout.ld). Zeros at first, or not. */
#define HAK_LARGE_ZEROS __attribute__((section(".bss.large")))
#define HAK_LARGE_DATA  __attribute__((section(".data.large")))
#define HAK_MUST_CHECK  __attribute__((warn_unused_result))
#define HAK_FALLTHROUGH __attribute__((fallthrough))
/* A function that may be called with a stack that is not aligned as the ABI says. */
#ifdef __x86_64__
#define HAK_ANY_STACK __attribute__((force_align_arg_pointer))
#else
#define HAK_ANY_STACK
#endif
/* Thread-local variables are reached without a call, `hak_self` (heap/theap.h) on each fast path:
   initial-exec TLS. */
#define HAK_TLS __thread __attribute__((tls_model("initial-exec")))

#define HAK_KIB ((size_t)1024)
#define HAK_MIB (HAK_KIB * 1024)

/* Constants that the `tiny` variant shrinks, so that tests reach every edge. */
#ifdef HAKMEM_TINY
#define HAK_TINY_OR(tiny, normal) (tiny)
#else
#define HAK_TINY_OR(tiny, normal) (normal)
#endif

#ifdef HAKMEM_VALIDATE
#define HAK_VALIDATE 1
#else
#define HAK_VALIDATE 0
#endif

/* The secure variant (secure/secure.h). */
#ifdef HAKMEM_SECURE
#define HAK_SECURE 1
#else
#define HAK_SECURE 0
#endif

#ifdef HAKMEM_DEBUG
#define HAK_DEBUG 1
#else
#define HAK_DEBUG 0
#endif

#ifndef HAKMEM_VARIANT
#define HAKMEM_VARIANT "unnamed"
#endif

#endif
