/* The tail of a small block: its last eight bytes, and the filling between what was asked for and
   them.

   A tail is the block's key, its address times a secret plus another one, with 18 bits in its
   middle exchanged: the family of functions that allocated the block (0: it is free) and the
   size that was asked for (of a free one 0, or 1: another thread than its heap's has freed it, and
   keeps it in its quarantine); and its upper 18 bits with these times an odd number, so that no
   change of them alone is taken for right. All 64 bits must fit, so that a tail is neither guessed
   nor copied from another block. Its lowest byte, which a program that writes one byte too many
   hits first, and the filling, are one byte, the same in the whole process: 0xF5 to 0xFC, which no
   text and hardly a number begins with. The next one is 0: a string without an end is read as far
   as there, and no string function writes what is right there and beyond.

   Always, when no thread is in a function of the layer: of a block that the program has, the tail
   and the filling (its first TAIL_FILLED bytes) are right; of one that was freed and is not handed
   out yet, the tail says free, and all before it is zero but a list's link in the first word; of
   one that was never handed out, or whose page was purged, all is zero but the link (a slab's unit
   is cleared where it was another class's slab, or was left with blocks in use, superslab/pool.c).
 */
#ifndef HAKMEM_SECURE_TAIL_H
#define HAKMEM_SECURE_TAIL_H

#include "base/internal.h"

#include <string.h>

#include "base/atomic.h"
#include "base/size_classes.h"

HAK_EXTERN_C_BEGIN

#define TAIL_BYTES       sizeof(uint64_t)
#define TAIL_FILLED      ((size_t)128) /* bytes of the filling at most */
#define TAIL_INFO_SHIFT  24
#define TAIL_INFO_BITS   18
#define TAIL_CHECK       0x9E3Bu /* odd */
#define TAIL_SIZE_BITS   16
#define SECURE_SMALL_MAX SC_SMALL_MAX
HAK_STATIC_ASSERT(SECURE_SMALL_MAX < 1u << TAIL_SIZE_BITS, "the tail has bits for every size");
HAK_STATIC_ASSERT(!HAK_SECURE || SECURE_SMALL_MAX + TAIL_BYTES <= SC_LAST_BYTES,
                  "the last class has room for a tail");

/* Bytes of a class for a request: never the smallest class, since a chain of remote frees keeps its
   link in the second word of its first block (heap/remote.c). */
static HAK_ALWAYS_INLINE size_t hak_secure_tail_room(size_t size)
{
    return (size > TAIL_BYTES ? size : TAIL_BYTES + 1) + TAIL_BYTES;
}

/* The class for a request of at most SECURE_SMALL_MAX bytes. */
static HAK_ALWAYS_INLINE uint32_t hak_secure_class_of(size_t size)
{
    size_t room = hak_secure_tail_room(size);
    return hak_sc_of(room < SC_SMALL_MAX ? room : SC_SMALL_MAX);
}

/* What is read from memory costs no register. */
struct tail_secrets {
    uint64_t factor;  /* odd, times 2^16: no two addresses have the same key */
    uint64_t plus;    /* the lowest byte is the filling's, and the next one 0: so are a key's */
    uint64_t fill[8]; /* the byte, 64 times */
    uint64_t spread;  /* no secret: TAIL_SPREAD */
    uint64_t pick;    /* nor this: the bits that are exchanged, TAIL_PICK */
};
/* Puts what a tail says into its two places, which do not overlap. */
#define TAIL_PICK   ((((uint64_t)1 << TAIL_INFO_BITS) - 1) << TAIL_INFO_SHIFT)
#define TAIL_SPREAD ((uint64_t)1 << TAIL_INFO_SHIFT | (uint64_t)TAIL_CHECK << (64 - TAIL_INFO_BITS))
extern struct tail_secrets hak_secure_secrets HAK_HIDDEN; /* written once, at the start */

/* What a tail says. `is_right` 0: nothing. */
struct tail {
    uint32_t family, size;
    int is_right;
};

static HAK_ALWAYS_INLINE uint64_t *hak_secure_tail_of(const void *p, size_t class_bytes)
{
    return (uint64_t *)(void *)((char *)(uintptr_t)p + class_bytes - TAIL_BYTES);
}

static HAK_ALWAYS_INLINE uint64_t hak_secure_tail_key(const uint64_t *tail)
{
    return (uint64_t)(uintptr_t)tail * hak_secure_secrets.factor + hak_secure_secrets.plus;
}

/* What is exchanged of the key; 0 of a free block, whose tail is its key. */
static HAK_ALWAYS_INLINE uint64_t hak_secure_tail_info_word(uint64_t info)
{
    return info * hak_secure_secrets.spread;
}

static HAK_ALWAYS_INLINE uint64_t hak_secure_tail_info(uint32_t family, size_t size)
{
    return hak_secure_tail_info_word(family << TAIL_SIZE_BITS | (uint32_t)size);
}

static HAK_ALWAYS_INLINE struct tail hak_secure_tail_decode(uint64_t word, uint64_t key)
{
    uint64_t x = word ^ key;
    uint32_t info = (uint32_t)(x >> TAIL_INFO_SHIFT) & ((1u << TAIL_INFO_BITS) - 1);
    return (struct tail){info >> TAIL_SIZE_BITS, info & ((1u << TAIL_SIZE_BITS) - 1),
                         x == hak_secure_tail_info_word(info)};
}

/* What is exchanged of a free block's that is a stray. */
static HAK_ALWAYS_INLINE uint64_t hak_secure_tail_stray(void)
{
    return TAIL_SPREAD;
}

/* Most often the filling is shorter than 16 bytes: the class is the next multiple of 16. Then it is
   the end of the two words before the tail, whose other bytes are the block's, and zero when it is
   written. Of hak_secure_tail_ends the second half is set: of any N bytes that end n bytes behind
   the first half the last n are. */
typedef uint64_t tail_pair __attribute__((vector_size(16), aligned(1), may_alias));
extern const unsigned char hak_secure_tail_ends[2 * TAIL_FILLED] HAK_HIDDEN;

static HAK_ALWAYS_INLINE tail_pair hak_secure_tail_end(size_t n)
{
    return *(const tail_pair *)(const void *)(hak_secure_tail_ends + TAIL_FILLED -
                                              sizeof(tail_pair) + n);
}

static HAK_ALWAYS_INLINE tail_pair hak_secure_tail_filling(void)
{
    return *(const tail_pair *)(const void *)hak_secure_secrets.fill;
}

/* n > 16: at most TAIL_FILLED of them, as pairs from both ends, which overlap in the middle. Calls
   EACH(i) for the pair that begins i bytes from `at`. */
#define TAIL_PAIR sizeof(tail_pair)
#define TAIL_EACH_LONG(n, EACH)                                                                    \
    do {                                                                                           \
        EACH(0);                                                                                   \
        EACH((n)-TAIL_PAIR);                                                                       \
        if ((n) > 2 * TAIL_PAIR) {                                                                 \
            EACH(TAIL_PAIR);                                                                       \
            EACH((n)-2 * TAIL_PAIR);                                                               \
        }                                                                                          \
        if ((n) > 4 * TAIL_PAIR) {                                                                 \
            EACH(2 * TAIL_PAIR);                                                                   \
            EACH(3 * TAIL_PAIR);                                                                   \
            EACH((n)-3 * TAIL_PAIR);                                                               \
            EACH((n)-4 * TAIL_PAIR);                                                               \
        }                                                                                          \
    } while (0)
HAK_STATIC_ASSERT(TAIL_FILLED == 8 * TAIL_PAIR, "four pairs from each end");

static HAK_ALWAYS_INLINE tail_pair *hak_secure_tail_pair(const char *at, size_t offset)
{
    return (tail_pair *)(void *)((char *)(uintptr_t)at + offset);
}

static HAK_ALWAYS_INLINE void hak_secure_tail_fill_long(char *at, size_t n)
{
    tail_pair fill = hak_secure_tail_filling();
    n = n < TAIL_FILLED ? n : TAIL_FILLED;
#define TAIL_WRITE(offset) (*hak_secure_tail_pair(at, offset) = fill)
    TAIL_EACH_LONG(n, TAIL_WRITE);
#undef TAIL_WRITE
}

static HAK_ALWAYS_INLINE tail_pair hak_secure_tail_wrong_long(const char *at, size_t n)
{
    tail_pair fill = hak_secure_tail_filling(), wrong = {0, 0};
    n = n < TAIL_FILLED ? n : TAIL_FILLED;
#define TAIL_LOOK(offset) (wrong |= *hak_secure_tail_pair(at, offset) ^ fill)
    TAIL_EACH_LONG(n, TAIL_LOOK);
#undef TAIL_LOOK
    return wrong;
}

/* n <= 16 */
static HAK_ALWAYS_INLINE void hak_secure_tail_fill_pair(size_t n, uint64_t *tail)
{
    *(tail_pair *)(void *)(tail - 2) = hak_secure_tail_filling() & hak_secure_tail_end(n);
}

static HAK_ALWAYS_INLINE void hak_secure_tail_fill(void *p, size_t size, uint64_t *tail)
{
    char *at = (char *)p + size;
    size_t n = (size_t)((const char *)tail - at);
    if (HAK_UNLIKELY(n > TAIL_PAIR)) {
        hak_secure_tail_fill_long(at, n);
    } else {
        hak_secure_tail_fill_pair(n, tail);
    }
}

/* The same where the block has contents. */
static inline void hak_secure_tail_fill_behind(void *p, size_t size, const uint64_t *tail)
{
    char *at = (char *)p + size;
    size_t n = (size_t)((const char *)tail - at);
    memset(at, (int)(hak_secure_secrets.fill[0] & 0xFF), n < TAIL_FILLED ? n : TAIL_FILLED);
}

/* 1 if the filling is as it was. */
static HAK_ALWAYS_INLINE int hak_secure_tail_fill_is_right(const void *p, size_t size,
                                                           const uint64_t *tail)
{
    const char *at = (const char *)p + size;
    size_t n = (size_t)((const char *)tail - at);
    tail_pair fill = hak_secure_tail_filling(), wrong;
    if (HAK_UNLIKELY(n > sizeof fill)) {
        wrong = hak_secure_tail_wrong_long(at, n);
    } else {
        wrong = (*(const tail_pair *)(const void *)(tail - 2) ^ fill) & hak_secure_tail_end(n);
    }
    return !(wrong[0] | wrong[1]);
}

HAK_EXTERN_C_END

#endif
