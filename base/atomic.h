/* Atomics on plain fields by compiler builtins, so that internal headers compile as C17 and as
   C++17 (tests). */
#ifndef HAKMEM_BASE_ATOMIC_H
#define HAKMEM_BASE_ATOMIC_H

#include "base/internal.h"

#define atomic_load_relaxed(p)        __atomic_load_n((p), __ATOMIC_RELAXED)
#define atomic_load_acquire(p)        __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define atomic_load_seq(p)            __atomic_load_n((p), __ATOMIC_SEQ_CST)
#define atomic_store_relaxed(p, v)    __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define atomic_store_release(p, v)    __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define atomic_store_seq(p, v)        __atomic_store_n((p), (v), __ATOMIC_SEQ_CST)
#define atomic_add_relaxed(p, v)      __atomic_fetch_add((p), (v), __ATOMIC_RELAXED)
#define atomic_sub_relaxed(p, v)      __atomic_fetch_sub((p), (v), __ATOMIC_RELAXED)
#define atomic_exchange_acq_rel(p, v) __atomic_exchange_n((p), (v), __ATOMIC_ACQ_REL)
#define atomic_exchange_seq(p, v)     __atomic_exchange_n((p), (v), __ATOMIC_SEQ_CST)
/* `expected` is a pointer, updated on failure. */
#define atomic_cas_weak_seq(p, expected, v)                                                        \
    __atomic_compare_exchange_n((p), (expected), (v), 1, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED)
#define atomic_cas_strong(p, expected, v)                                                          \
    __atomic_compare_exchange_n((p), (expected), (v), 0, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)

#define atomic_fence_seq() __atomic_thread_fence(__ATOMIC_SEQ_CST)

/* Writes what is there, of 4 bytes at least. For memory that may never have been touched, before it
   is read and then written: a page of zeros that was read costs a second fault (0.7 and 2.4 us
   instead of 1.6). */
#define hak_atomic_touch(p) ((void)__atomic_fetch_or((uint32_t *)(void *)(p), 0u, __ATOMIC_RELAXED))

static inline void hak_atomic_pause(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

#endif
