/* The span cache: freed spans that a thread keeps for its next requests, without a lock.

   Each heap of a thread has one. A span in it is set aside (superslab/pool.h): the pool counts it
   as used, every function as freed. A slot is one word, 0 or a span's address plus its granules;
   starts, ends and keys have what is searched for of it. A request gets the front of the smallest
   span that holds it, and the rest stays; a span that comes in is joined with what it touches.
   All this is outside of the gate. Who holds the cache (`holder`) alone changes it: its thread, for
   each request and each free; the background thread, for spans that have not been used for a tick;
   who trims. Its thread never waits: while another thread holds the cache, or a signal handler has
   interrupted the thread in it, requests and frees go to the pool. Another thread waits for a
   bounded time, and takes no lock while it holds it. So a call of the thread's has one atomic
   operation for the cache, and a free one more, which finds a block freed by two threads at once.
   Always, while no thread holds it: the spans' bytes are `bytes` <= `reserved`, and
   span_cache_bytes is the sum of all `reserved`. The thread raises `reserved` as far as the
   controller lets memory be kept (adapt.h counts it as kept, and what was taken out since then too,
   so that a pair of calls changes nothing that is shared). It lowers it when requests find no span
   of their size; whoever takes a span out for the pool lowers it by the span's bytes. Before a
   thread takes memory from the system for a slab or a span, its spans go back to the pool: they do
   not make a heap grow. The controller counts live bytes by class. A span that is freed into the
   cache is `untold` until one of its class is taken out again, or until there are many, so that
   such pairs write nothing that is shared: what the controller counts is never less than what is
   live. hak_spans_verify checks.

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

/* Who has the cache. */
enum span_cache_holder { SPAN_CACHE_FREE, SPAN_CACHE_OWN, SPAN_CACHE_OTHERS };

struct span_cache {
    uint64_t slots[SPAN_CACHE_SLOTS];
    /* Of the span in the slot, 0 if it is empty: the granules, counted from address 0, where it
       starts and ends, their lower 32 bits; how many, times SPAN_CACHE_SLOTS, plus the slot. */
    uint32_t starts[SPAN_CACHE_SLOTS], ends[SPAN_CACHE_SLOTS];
    uint16_t keys[SPAN_CACHE_SLOTS];
    uint32_t holder;  /* enum span_cache_holder */
    uint32_t filled;  /* a bit for each slot that is not empty */
    size_t bytes;     /* in all slots */
    int64_t reserved; /* bytes; read by its thread at any time */
    uint32_t last;    /* the slot that was filled last */
    uint32_t n_hits;  /* whether the cache is worth its cost (span_cache.c): calls in this */
    uint32_t n_slow;  /* window, and how many more it is off */
    uint32_t off, off_last;
    uint32_t n_since;    /* requests that found a span since it had more bytes, or the thread took
                            from the system */
    uint8_t n_doublings; /* of the bytes that it may keep */
    uint8_t ticks[SPAN_CACHE_SLOTS];     /* when the slot was filled */
    uint16_t *words[SPAN_CACHE_SLOTS];   /* hak_ss_span_word of what is in the slot */
    uint32_t untold[SPAN_CACHE_CLASSES]; /* granules */
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
/* In a forked child, of the calling thread's: who held it may be a thread that the child does not
   have. */
void hak_spans_fork_child(struct span_cache *cache);
/* The cache's thread ends, perhaps by a handler that has interrupted it in the cache. */
void hak_spans_let_go(struct span_cache *cache);
/* For the background thread: begins a tick; and returns what has been unused since before the
   last one. Returns 1 if there is more. */
void hak_spans_tick(void);
int hak_spans_rest(struct span_cache *cache);
/* 0 if the equations hold. By the cache's thread. */
int hak_spans_verify(struct span_cache *cache);

HAK_EXTERN_C_END

#endif
