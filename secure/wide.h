/* Looking at longer blocks, clearing and filling them, with few branches that depend on a length:
   a program that asks for many sizes makes each of them wrong half the time, and that costs as much
   as a hundred instructions.

   Included once for each set of instructions (zero.c, small.c): hak_secure_wide(name) is the
   function's name there, WIDE_VECTOR the type of what is handled at once, of 32 bytes or 64,
   WIDE_ANY(v) 1 if any bit of one is set. So no guard; what includes it sets all three, and this
   file takes them away.

   A length is a first vector, then, from the next multiple of a vector's length on, a number of
   steps of 512 bytes, and a rest of up to 512, as four pieces of 128 that overlap as far as the
   rest is shorter. So one branch depends on it; and what lies in the steps lies across no two
   lines, which costs as much as twice the bytes: blocks of most classes do not begin at lines. */
#include "base/internal.h"

#include "base/attributes.h"
#include "secure/tail.h"

#define WIDE_PIECE ((size_t)128) /* nothing shorter */
#define WIDE_STEP  (4 * WIDE_PIECE)
/* From so many bytes on, steps are looked at before they are cleared: lines, and pages, that no
   program wrote to stay clean. */
#define WIDE_LOOK_FIRST ((size_t)1024)

/* Those of a piece, of four pieces. */
#define WIDE_AT(p)              ((WIDE_VECTOR *)(void *)(uintptr_t)(p))
#define WIDE_IN_TWO             (WIDE_PIECE == 2 * sizeof(WIDE_VECTOR))
#define WIDE_FIRST(p)           (WIDE_AT(p)[0] | WIDE_AT(p)[1])
#define WIDE_SECOND(p)          (WIDE_AT(p)[2] | WIDE_AT(p)[3])
#define WIDE_OF(p)              (WIDE_IN_TWO ? WIDE_FIRST(p) : WIDE_FIRST(p) | WIDE_SECOND(p))
#define WIDE_OF_ALL(a, b, c, d) ((WIDE_OF(a) | WIDE_OF(b)) | (WIDE_OF(c) | WIDE_OF(d)))
#define WIDE_LEAST(a, b)        ((a) < (b) ? (a) : (b))
/* Where the steps begin. */
#define WIDE_STEPS(p) (((uintptr_t)(p) & ~(sizeof(WIDE_VECTOR) - 1)) + sizeof(WIDE_VECTOR))

/* 1 if all is zero. `n`: whole words, WIDE_PIECE at least. `p` is aligned to words. */
static HAK_ALWAYS_INLINE int hak_secure_wide(is_zero)(const void *p, size_t n)
{
    const char *last = (const char *)p + n - WIDE_PIECE, *end = last + WIDE_PIECE,
               *at = (const char *)WIDE_STEPS(p);
    WIDE_VECTOR first = *WIDE_AT(p);
    for (; at + WIDE_STEP < end; at += WIDE_STEP) {
        WIDE_VECTOR some =
            WIDE_OF_ALL(at, at + WIDE_PIECE, at + 2 * WIDE_PIECE, at + 3 * WIDE_PIECE);
        if (HAK_UNLIKELY(WIDE_ANY(some))) {
            return 0;
        }
    }
    const char *a = WIDE_LEAST(at, last), *b = WIDE_LEAST(at + WIDE_PIECE, last),
               *c = WIDE_LEAST(at + 2 * WIDE_PIECE, last);
    WIDE_VECTOR rest = WIDE_OF_ALL(a, b, c, last) | first;
    return !WIDE_ANY(rest);
}

static HAK_ALWAYS_INLINE void hak_secure_wide(clear_piece)(char *p)
{
    WIDE_AT(p)[0] = WIDE_AT(p)[1] = (WIDE_VECTOR){0};
    if (!WIDE_IN_TWO) {
        WIDE_AT(p)[2] = WIDE_AT(p)[3] = (WIDE_VECTOR){0};
    }
}

static HAK_ALWAYS_INLINE void hak_secure_wide(clear_four)(char *a, char *b, char *c, char *d)
{
    hak_secure_wide(clear_piece)(a);
    hak_secure_wide(clear_piece)(b);
    hak_secure_wide(clear_piece)(c);
    hak_secure_wide(clear_piece)(d);
}

/* All becomes zero; of longer blocks, what is zero is not written. `n` and `p` as above. Returns
   how far behind p the last step lies that was written, and has no byte of the filling. */
static HAK_ALWAYS_INLINE size_t hak_secure_wide(clear)(void *p, size_t n)
{
    char *last = (char *)p + n - WIDE_PIECE, *end = last + WIDE_PIECE, *at = (char *)WIDE_STEPS(p),
         *written = (char *)p;
    int look_first = n >= WIDE_LOOK_FIRST;
    if (!look_first || HAK_LIKELY(WIDE_ANY(*WIDE_AT(p)))) {
        *WIDE_AT(p) = (WIDE_VECTOR){0};
    }
    for (; at + WIDE_STEP < end; at += WIDE_STEP) {
        if (look_first) {
            WIDE_VECTOR some =
                WIDE_OF_ALL(at, at + WIDE_PIECE, at + 2 * WIDE_PIECE, at + 3 * WIDE_PIECE);
            if (!WIDE_ANY(some)) {
                continue;
            }
        }
        hak_secure_wide(clear_four)(at, at + WIDE_PIECE, at + 2 * WIDE_PIECE, at + 3 * WIDE_PIECE);
        written = at + WIDE_STEP + TAIL_FILLED < end ? at : written;
        __asm__ volatile("" : "+r"(at)); /* or gcc makes a call of memset from the loop */
    }
    char *a = WIDE_LEAST(at, last), *b = WIDE_LEAST(at + WIDE_PIECE, last),
         *c = WIDE_LEAST(at + 2 * WIDE_PIECE, last);
    if (look_first) {
        WIDE_VECTOR rest = WIDE_OF_ALL(a, b, c, last);
        if (!WIDE_ANY(rest)) {
            return (size_t)(written - (char *)p);
        }
    }
    hak_secure_wide(clear_four)(a, b, c, last);
    return (size_t)(written - (char *)p);
}

/* The filling (tail.h) of a block of WIDE_PIECE bytes at least before its tail: the end of the
   WIDE_PIECE bytes that end where it ends. */
HAK_STATIC_ASSERT(TAIL_FILLED == WIDE_PIECE, "the filling is the end of a piece");

static HAK_ALWAYS_INLINE char *hak_secure_wide(filled)(const void *p, size_t size,
                                                       const uint64_t *tail, size_t *n)
{
    const char *at = (const char *)p + size;
    *n = (size_t)((const char *)tail - at);
    *n = WIDE_LEAST(*n, TAIL_FILLED);
    return (char *)(uintptr_t)at + *n - WIDE_PIECE;
}

#define WIDE_FILLING    (*WIDE_AT(hak_secure_secrets.fill))
#define WIDE_MASK(n, i) (WIDE_AT(hak_secure_tail_ends + (n))[i])

/* The bytes of the piece before the filling are zero. */
static HAK_ALWAYS_INLINE void hak_secure_wide(fill)(void *p, size_t size, uint64_t *tail)
{
    size_t n;
    char *to = hak_secure_wide(filled)(p, size, tail, &n);
    WIDE_AT(to)[0] = WIDE_FILLING & WIDE_MASK(n, 0);
    WIDE_AT(to)[1] = WIDE_FILLING & WIDE_MASK(n, 1);
    if (!WIDE_IN_TWO) {
        WIDE_AT(to)[2] = WIDE_FILLING & WIDE_MASK(n, 2);
        WIDE_AT(to)[3] = WIDE_FILLING & WIDE_MASK(n, 3);
    }
}

static HAK_ALWAYS_INLINE int hak_secure_wide(fill_is_right)(const void *p, size_t size,
                                                            const uint64_t *tail)
{
    size_t n;
    const char *from = hak_secure_wide(filled)(p, size, tail, &n);
    WIDE_VECTOR wrong = ((WIDE_AT(from)[0] ^ WIDE_FILLING) & WIDE_MASK(n, 0)) |
                        ((WIDE_AT(from)[1] ^ WIDE_FILLING) & WIDE_MASK(n, 1));
    if (!WIDE_IN_TWO) {
        wrong |= ((WIDE_AT(from)[2] ^ WIDE_FILLING) & WIDE_MASK(n, 2)) |
                 ((WIDE_AT(from)[3] ^ WIDE_FILLING) & WIDE_MASK(n, 3));
    }
    return !WIDE_ANY(wrong);
}

#undef hak_secure_wide
#undef WIDE_ANY
#undef WIDE_VECTOR
