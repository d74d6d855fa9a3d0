/* Client requests to Valgrind: what a program tells memcheck of its blocks. The encoding is a
   contract between programs and Valgrind (its manual, "The Client Request mechanism"): a sequence
   of instructions that does nothing elsewhere. Our own few lines, so that no build needs Valgrind's
   headers. Nothing happens on other processors. */
#ifndef HAKMEM_BASE_VALGRIND_H
#define HAKMEM_BASE_VALGRIND_H

#include "base/internal.h"

#include "base/attributes.h"

enum valgrind_request {
    VALGRIND_RUNNING = 0x1001,         /* how many Valgrinds this runs on */
    VALGRIND_BLOCK_ALLOCATED = 0x1301, /* address, size, red zone, is zeroed */
    VALGRIND_BLOCK_FREED = 0x1302,     /* address, red zone */
    VALGRIND_ERRORS_OFF = 0x1801,      /* 1: reports nothing in this thread; -1 undoes it */
    MEMCHECK_NO_ACCESS = 'M' << 24 | 'C' << 16, /* address, size; this and the next */
    MEMCHECK_UNDEFINED,
    MEMCHECK_DEFINED,
    MEMCHECK_DISCARD,
    MEMCHECK_FIRST_NO_ACCESS /* the first address in the range that may not be used, or 0 */
};

/* Returns 0 where no Valgrind listens. */
static inline uintptr_t hak_valgrind_ask(uintptr_t hak_request, uintptr_t a, uintptr_t b,
                                         uintptr_t c, uintptr_t d)
{
    volatile uintptr_t arguments[6] = {hak_request, a, b, c, d, 0};
    uintptr_t result = 0;
#if defined(__x86_64__)
    __asm__ volatile("rolq $3, %%rdi\n\trolq $13, %%rdi\n\trolq $61, %%rdi\n\trolq $51, "
                     "%%rdi\n\txchgq %%rbx, %%rbx"
                     : "+d"(result)
                     : "a"(arguments)
                     : "cc", "memory");
#elif defined(__aarch64__)
    register volatile uintptr_t *at __asm__("x4") = arguments;
    register uintptr_t answer __asm__("x3") = 0;
    __asm__ volatile("ror x12, x12, #3\n\tror x12, x12, #13\n\tror x12, x12, #51\n\tror x12, x12, "
                     "#61\n\torr x10, x10, x10"
                     : "+r"(answer)
                     : "r"(at)
                     : "cc", "memory");
    result = answer;
#else
    (void)arguments;
#endif
    return result;
}

#endif
