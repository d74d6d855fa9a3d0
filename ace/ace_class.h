/* Size classes above 32 KiB, up to 1 MiB: four a doubling (40, 48, 56, 64, 80, ... KiB). Pure
   arithmetic. */
#ifndef HAKMEM_ACE_ACE_CLASS_H
#define HAKMEM_ACE_ACE_CLASS_H

#include "base/internal.h"

#include "base/attributes.h"

#define ACE_CLASS_SHIFT 2    /* log2 of the classes in a doubling */
#define ACE_CLASSES     192u /* indices of sizes below 2^48, which all that is mapped has */

/* `size` rounded up to one of 2^ACE_CLASS_SHIFT steps a doubling; size >= 8. Sizes of 32 KiB and
   more become multiples of 8 KiB. */
static inline size_t hak_ace_class_bytes(size_t size)
{
    unsigned log2 = 63u - (unsigned)__builtin_clzll((unsigned long long)size - 1);
    size_t step = (size_t)1 << (log2 - ACE_CLASS_SHIFT);
    return (size + step - 1) & ~(step - 1);
}

/* The number of the class that holds sizes up to its hak_ace_class_bytes: grows by one from class
   to class. */
static inline unsigned hak_ace_class_index(size_t class_bytes)
{
    unsigned log2 = 63u - (unsigned)__builtin_clzll((unsigned long long)class_bytes);
    return (log2 << ACE_CLASS_SHIFT) + (unsigned)((class_bytes >> (log2 - ACE_CLASS_SHIFT)) & 3u);
}

#endif
