/* Links of lists of free blocks: the first word of each block leads to the next one, encoded.

   A link is the next block's address plus hak_link_key, a number near the largest that a signed
   word can hold, made at random when the process starts. So every value below hak_link_key is no
   link: zero, small numbers, addresses, text, every byte repeated but a few. Whoever takes a link
   subtracts the key, and the borrow of that one instruction tells that the block was written to
   after it was freed; that is found before the block is handed out. What a program wants to pass
   for a link, it must guess. The last block leads to hak_link_end, which is no block and holds no
   link, so that an empty list looks like a broken one, and one test finds both (fast.h).

   Lists are named by their first block; NULL is the empty one. No locks: whoever has the list. */
#ifndef HAKMEM_BASE_LINK_H
#define HAKMEM_BASE_LINK_H

#include "base/internal.h"

#include "base/atomic.h"
#include "base/attributes.h"
#include "base/error.h"

HAK_EXTERN_C_BEGIN

/* Above the sum of what a program may write by chance and any address, below 2^63 - 2^49: no sum
   overflows. */
#define LINK_KEY_LEAST (INT64_MAX - ((int64_t)1 << 50) + 1)
#define LINK_KEY_MASK  (((int64_t)1 << 49) - 1)

extern int64_t hak_link_key HAK_HIDDEN; /* written once, before the first block is handed out */
extern const uint64_t hak_link_end[2] HAK_HIDDEN; /* aligned as a block */

/* Makes the key. Once, before there is a list. */
void hak_link_start(void);

/* A number that no program can guess, for who needs one of its own; the same at each call. After
   hak_link_start. */
uint64_t hak_link_secret(void);

/* Names the block and aborts. */
HAK_COLD __attribute__((noreturn)) void hak_link_broken(const void *block);

/* From a block's first word to an address. Returns 1 if it is no link. */
static HAK_ALWAYS_INLINE int hak_link_decode(int64_t *word)
{
#if defined(__x86_64__)
    int is_less;
    __asm__("subq %2, %0" : "+r"(*word), "=@ccl"(is_less) : "m"(hak_link_key));
    return is_less;
#else
    int is_less = *word < hak_link_key;
    *word -= hak_link_key;
    return is_less;
#endif
}

/* 1 if the block's first word may be a link: of every block in a list, and of blocks that have gone
   from a list to their slab or to the program and were not written to since. */
static HAK_ALWAYS_INLINE int hak_link_may_be(const void *block)
{
    /* Atomic, for it may be the program's block, which another thread writes to. */
    return atomic_load_relaxed((const int64_t *)block) >= hak_link_key;
}

/* 1 once pages of free blocks were purged: the links of these blocks read as 0. */
extern uint32_t hak_link_are_zeroed HAK_HIDDEN;

/* hak_link_may_be, also of blocks whose link may have been purged. */
static HAK_ALWAYS_INLINE int hak_link_may_be_or_was(const void *block)
{
    int64_t word = atomic_load_relaxed((const int64_t *)block);
    return HAK_UNLIKELY(word == 0) ? (int)atomic_load_relaxed(&hak_link_are_zeroed)
                                   : word >= hak_link_key;
}

/* The first word of a block that leads to `next`, a block or hak_link_end. */
static HAK_ALWAYS_INLINE int64_t hak_link_word(const void *next)
{
    return (int64_t)(uintptr_t)next + hak_link_key;
}

static HAK_ALWAYS_INLINE void hak_link_write(void *block, const void *next)
{
    *(int64_t *)block = hak_link_word(next);
}

/* `next` NULL: the block is the last. */
static inline void hak_link_set(void *block, const void *next)
{
    hak_link_write(block, next ? next : hak_link_end);
}

/* The block after this one, NULL if it is the last; *is_broken, and NULL, if it is not known. */
static inline void *hak_link_look(const void *block, int *is_broken)
{
    int64_t word = *(const int64_t *)block;
    *is_broken = hak_link_decode(&word);
    return *is_broken || (uintptr_t)word == (uintptr_t)hak_link_end ? NULL
                                                                    : (void *)(uintptr_t)word;
}

/* The block after this one, hak_link_end if it is the last; aborts if it is not known. */
static HAK_ALWAYS_INLINE void *hak_link_follow(const void *block)
{
    int64_t word = *(const int64_t *)block;
    if (HAK_UNLIKELY(hak_link_decode(&word))) {
        hak_link_broken(block);
    }
    return (void *)(uintptr_t)word;
}

/* What hak_link_follow gave: NULL for hak_link_end. */
static HAK_ALWAYS_INLINE void *hak_link_block(void *block)
{
    return block == (const void *)hak_link_end ? NULL : block;
}

/* The block after this one, NULL if it is the last; aborts if it is not known. */
static inline void *hak_link_next(const void *block)
{
    return hak_link_block(hak_link_follow(block));
}

HAK_EXTERN_C_END

#endif
