/* The span cache: freed spans that a thread keeps for its next requests, without a lock.

   Each heap of a thread has one. A span in it is set aside (superslab/pool.h): the pool counts it
   as used, every function as freed. A slot is one word, 0 or a span's address plus its granules.
   The heap's thread alone fills slots; whoever has made a slot 0 by compare-and-swap has the span:
   the thread itself, the background thread when the span has not been used for a tick, whoever
   trims. A request gets the front of the smallest span that holds it, and the rest stays; a span
   that comes in is joined with what it touches. Both are done with the slots empty.
   All this is outside of the gate, and a signal handler that interrupts it may allocate and free,
   as far as the program dares: while the thread is_busy with the cache, that goes to the pool, and
   the slots that the thread has chosen stay as they are.
   Always: the spans' bytes <= `reserved`, and span_cache_bytes is the sum of all `reserved`. The
   thread raises `reserved` as far as the controller lets memory be kept (adapt.h counts it as kept,
   and what was taken out since then too, so that a pair of calls changes nothing that is shared).
   It lowers it when requests find no span of their size; whoever takes a span out for the pool
   lowers it by the span's bytes, before that: the thread, which looks at the slots first, never
   sees more than is reserved. (Between the two, less is reserved than there is.)
   Before a thread takes memory from the system for a slab or a span, its spans go back to the pool:
   they do not make a heap grow.
   The controller counts live bytes by class. A span that is freed into the cache is `untold` until
   one of its class is taken out again, or until there are many, so that such pairs write nothing
   that is shared: what the controller counts is never less than what is live.
   hak_spans_verify checks.

   Nothing is kept in the secure variant, where large blocks have guards, nor with
   HAKMEM_CACHE_BYTES=0 or HAKMEM_PURGE_DELAY_MS=0. */
#ifndef HAKMEM_ACE_SPAN_CACHE_H
#define HAKMEM_ACE_SPAN_CACHE_H

#include "base/internal.h"

#include "base/atomic.h"
#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

#define SPAN_CACHE_SLOTS 8u
/* Of one cache, and what it begins with (span_cache.c); and of a block that it keeps. */
#define SPAN_CACHE_BYTES   HAK_TINY_OR((size_t)512 * 1024, (size_t)4 * 1024 * 1024)
#define SPAN_CACHE_LEAST   HAK_TINY_OR((size_t)128 * 1024, (size_t)1024 * 1024)
#define SPAN_CACHE_LARGEST SPAN_CACHE_LEAST
/* Classes of such blocks: 40 KiB to 1 MiB. */
#define SPAN_CACHE_CLASSES 20u

struct span_cache {
    uint64_t slots[SPAN_CACHE_SLOTS];
    int64_t reserved;                    /* bytes */
    uint32_t untold[SPAN_CACHE_CLASSES]; /* granules; its thread adds, any thread takes away */
    uint8_t ticks[SPAN_CACHE_SLOTS];     /* when the slot was filled; its thread's */
    uint8_t is_busy;     /* its thread takes or puts in; what a handler sees that interrupts it */
    uint8_t n_doublings; /* of the bytes that it may keep; its thread's, as n_since: requests that
                            found a span since it had, or the thread took from the system */
    /* By its thread alone: what is in the slots and how many bytes, unless others took some out
       since it looked; the slot that was filled last; whether the cache is worth its cost
       (span_cache.c): calls in this window, and how many more it is off. */
    uint16_t *words[SPAN_CACHE_SLOTS]; /* hak_ss_span_word of what is in the slot */
    size_t seen_bytes;
    uint32_t seen_slots; /* a bit each */
    uint32_t last, n_hits, n_slow, off, off_last, n_since;
};

/* The calling thread's cache, or NULL; set once, before there is one. */
extern struct span_cache *(*hak_spans_own)(void)HAK_HIDDEN;

/* A block of `size` bytes at a multiple of `align`, as hak_ace_alloc; NULL if the cache has none.
   `is_zeroed`: it reads as zero. By the cache's thread. No lock is taken. */
void *hak_spans_take_kept(struct span_cache *cache, size_t size, size_t align, int is_zeroed);
static inline void *hak_spans_take(struct span_cache *cache, size_t size, size_t align,
                                   int is_zeroed)
{
    return atomic_load_relaxed(&cache->reserved)
               ? hak_spans_take_kept(cache, size, align, is_zeroed)
               : NULL;
}
/* Keeps the block at p, which is being freed; returns 0 if it did not, since there is no room, or p
   needs the longer way: then nothing has changed. By the cache's thread. No lock is taken. */
int hak_spans_put_reserved(struct span_cache *cache, void *p);
static inline int hak_spans_put(struct span_cache *cache, void *p)
{
    return atomic_load_relaxed(&cache->reserved) && hak_spans_put_reserved(cache, p);
}
/* The same, but makes room for it: reserves bytes, and returns other spans. Inside the gate; no
   lock held. */
int hak_spans_make_room(struct span_cache *cache, void *p);
static inline int hak_spans_put_surely(struct span_cache *cache, void *p)
{
    return !cache->off && hak_spans_make_room(cache, p);
}
/* Returns all spans to the pool; any thread, inside the gate, no lock held. Returns bytes. */
size_t hak_spans_flush(struct span_cache *cache);
/* The same by the cache's thread, or when it has ended: nothing is reserved then. */
size_t hak_spans_end(struct span_cache *cache);
/* A request of the cache's thread found nothing. Inside the gate; no lock held. */
void hak_spans_missed(struct span_cache *cache);
/* Returns the calling thread's, see struct ss_policy. */
uint32_t hak_spans_give_own(void);
/* The calling thread has taken memory from the system. */
void hak_spans_fetched(void);
/* For the background thread: begins a tick; and returns what has been unused since before the
   last one. Returns 1 if there is more. */
void hak_spans_tick(void);
int hak_spans_rest(struct span_cache *cache);
/* 0 if the equations hold. By the cache's thread. */
int hak_spans_verify(struct span_cache *cache);

HAK_EXTERN_C_END

#endif
