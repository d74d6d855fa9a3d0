/* Looking at longer blocks, clearing and filling them, with few branches that depend on a length:
   a program that asks for many sizes makes each of them wrong half the time, and that costs as much
   as a hundred instructions.

   Included once for each set of instructions (zero.c, small.c): WIDE(name) is the function's name
   there, WIDE_ANY(v) 1 if any bit of a `four` is set. So no guard; what includes it sets both.

   A length is a number of steps of 512 bytes, and a rest of up to 512, as four pieces of 128 that
   overlap as far as the rest is shorter. So one branch depends on it. */
#include "base/internal.h"

#include "base/attributes.h"
#include "secure/tail.h"

#define WIDE_PIECE ((size_t)128) /* nothing shorter */
#define WIDE_STEP  (4 * WIDE_PIECE)
/* From so many bytes on, steps are looked at before they are cleared: lines, and pages, that no
   program wrote to stay clean. */
#define WIDE_LOOK_FIRST ((size_t)1024)

#if !defined(WIDE_TYPES)
#define WIDE_TYPES
typedef uint64_t four __attribute__((vector_size(32), aligned(8), may_alias));
typedef uint64_t four_anywhere __attribute__((vector_size(32), aligned(1), may_alias));
#endif

#define WIDE_OF(p)            (((p)[0] | (p)[1]) | ((p)[2] | (p)[3]))
#define WIDE_OF_ALL(a, b, c, d)                                                                    \
    ((WIDE_OF((const four *)(const void *)(a)) | WIDE_OF((const four *)(const void *)(b))) |       \
     (WIDE_OF((const four *)(const void *)(c)) | WIDE_OF((const four *)(const void *)(d))))
#define WIDE_LEAST(a, b) ((a) < (b) ? (a) : (b))

/* 1 if all is zero. `n`: whole words, WIDE_PIECE at least. `p` is aligned to words. */
static HAK_ALWAYS_INLINE int WIDE(is_zero)(const void *p, size_t n)
{
    const char *at = (const char *)p, *last = at + n - WIDE_PIECE, *end = at + n;
    for (; at + WIDE_STEP < end; at += WIDE_STEP) {
        four some = WIDE_OF_ALL(at, at + WIDE_PIECE, at + 2 * WIDE_PIECE, at + 3 * WIDE_PIECE);
        if (HAK_UNLIKELY(WIDE_ANY(some))) {
            return 0;
        }
    }
    const char *a = WIDE_LEAST(at, last), *b = WIDE_LEAST(at + WIDE_PIECE, last),
               *c = WIDE_LEAST(at + 2 * WIDE_PIECE, last);
    four rest = WIDE_OF_ALL(a, b, c, last);
    return !WIDE_ANY(rest);
}

static HAK_ALWAYS_INLINE void WIDE(clear_piece)(char *p)
{
    four *to = (four *)(void *)p;
    to[0] = to[1] = to[2] = to[3] = (four){0, 0, 0, 0};
}

static HAK_ALWAYS_INLINE void WIDE(clear_four)(char *a, char *b, char *c, char *d)
{
    WIDE(clear_piece)(a);
    WIDE(clear_piece)(b);
    WIDE(clear_piece)(c);
    WIDE(clear_piece)(d);
}

/* All becomes zero; of longer blocks, what is zero is not written. `n` and `p` as above. */
static HAK_ALWAYS_INLINE void WIDE(clear)(void *p, size_t n)
{
    char *at = (char *)p, *last = at + n - WIDE_PIECE, *end = at + n;
    int look_first = n >= WIDE_LOOK_FIRST;
    for (; at + WIDE_STEP < end; at += WIDE_STEP) {
        if (look_first) {
            four some = WIDE_OF_ALL(at, at + WIDE_PIECE, at + 2 * WIDE_PIECE, at + 3 * WIDE_PIECE);
            if (!WIDE_ANY(some)) {
                continue;
            }
        }
        WIDE(clear_four)(at, at + WIDE_PIECE, at + 2 * WIDE_PIECE, at + 3 * WIDE_PIECE);
        __asm__ volatile("" : "+r"(at)); /* or gcc makes a call of memset from the loop */
    }
    char *a = WIDE_LEAST(at, last), *b = WIDE_LEAST(at + WIDE_PIECE, last),
         *c = WIDE_LEAST(at + 2 * WIDE_PIECE, last);
    if (look_first) {
        four rest = WIDE_OF_ALL(a, b, c, last);
        if (!WIDE_ANY(rest)) {
            return;
        }
    }
    WIDE(clear_four)(a, b, c, last);
}

/* The filling (tail.h) of a block of WIDE_PIECE bytes at least before its tail: the end of the
   WIDE_PIECE bytes that end where it ends. */
HAK_STATIC_ASSERT(TAIL_FILLED == WIDE_PIECE, "the filling is the end of a piece");

static HAK_ALWAYS_INLINE char *WIDE(filled)(const void *p, size_t size, const uint64_t *tail,
                                            size_t *n)
{
    const char *at = (const char *)p + size;
    *n = (size_t)((const char *)tail - at);
    *n = WIDE_LEAST(*n, TAIL_FILLED);
    return (char *)(uintptr_t)at + *n - WIDE_PIECE;
}

#define WIDE_MASK(n, i) (((const four_anywhere *)(const void *)(hak_secure_tail_ends + (n)))[i])
#define WIDE_FILLING    (*(const four *)(const void *)hak_secure_secrets.fill)

/* The bytes of the piece before the filling are zero. */
static HAK_ALWAYS_INLINE void WIDE(fill)(void *p, size_t size, uint64_t *tail)
{
    size_t n;
    four_anywhere *to = (four_anywhere *)(void *)WIDE(filled)(p, size, tail, &n);
    to[0] = WIDE_FILLING & WIDE_MASK(n, 0);
    to[1] = WIDE_FILLING & WIDE_MASK(n, 1);
    to[2] = WIDE_FILLING & WIDE_MASK(n, 2);
    to[3] = WIDE_FILLING & WIDE_MASK(n, 3);
}

static HAK_ALWAYS_INLINE int WIDE(fill_is_right)(const void *p, size_t size, const uint64_t *tail)
{
    size_t n;
    const four_anywhere *from =
        (const four_anywhere *)(const void *)WIDE(filled)(p, size, tail, &n);
    four wrong = ((from[0] ^ WIDE_FILLING) & WIDE_MASK(n, 0)) |
                 ((from[1] ^ WIDE_FILLING) & WIDE_MASK(n, 1)) |
                 ((from[2] ^ WIDE_FILLING) & WIDE_MASK(n, 2)) |
                 ((from[3] ^ WIDE_FILLING) & WIDE_MASK(n, 3));
    return !WIDE_ANY(wrong);
}
