/* SuperSlab: 2 MiB regions cut into 32 units of 64 KiB. A unit holds a slab of equal blocks, or
   parts of spans, which are cut in granules of 8 KiB. All metadata lies apart from the blocks.

   This header is the part's public contract: spans, and the pointer map behind hak_super_lookup.
   Every function may be called by any thread. Internal structure: map.h (pointer map), pool.h
   (superslabs and spans), slab.h (slabs). */
#ifndef HAKMEM_SUPERSLAB_SUPERSLAB_H
#define HAKMEM_SUPERSLAB_SUPERSLAB_H

#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

#define SS_BYTES      ((size_t)2 * 1024 * 1024)
#define SS_UNIT_BYTES ((size_t)64 * 1024)
#define SS_UNITS      32u
/* What spans are cut in. */
#define SS_GRANULE_BYTES ((size_t)8 * 1024)
#define SS_GRANULES      256u

/* What a pointer belongs to. */
enum ss_kind {
    SS_NOT_OURS,  /* never handed out by hakmem, NULL, the stack, wild */
    SS_FREE_UNIT, /* inside a superslab, in a unit or a granule that holds nothing */
    SS_SLAB,      /* in a slab: a block of a size class, or its tail */
    SS_SPAN,      /* in a span of granules */
    SS_RANGE,     /* in another mapping of hakmem's: a range, or limbo */
};

struct ss_lookup {
    enum ss_kind kind;
    uint32_t owner;      /* SS_SLAB: id of the heap that owns the slab */
    uint32_t size_class; /* SS_SLAB */
    void *start; /* first byte of the block, span or range that holds the pointer; NULL in a slab's
                    tail */
    size_t size; /* its bytes */
    int is_allocated; /* 0 if the slab's own bitmap says that the block is free; a block that waits
                         in a thread's cache counts as allocated */
};

/* Tells what any address belongs to: ours, freed, interior, stack, NULL or wild. Never faults,
   takes no lock. Of memory that another thread allocates or frees at the same time it tells what
   was so at one moment of the call; while one owner's unit becomes another's that may be free
   memory. */
HAK_EXPORT struct ss_lookup hak_super_lookup(const void *p);

/* Spans: whole granules of 8 KiB in a row within one superslab, aligned to at least a granule and a
   page. */

/* Granules of a span that may hold old data, relative to its superslab, and perhaps others around
   it; what of the span is not in it reads as zero. */
struct ss_dirt {
    uint64_t word[SS_GRANULES / 64];
    uint64_t since_ns; /* when its superslab last got such a granule */
    size_t size;       /* bytes of the span */
    size_t dirty;      /* bytes of it that may hold old data */
    int is_huge;       /* in huge pages, perhaps */
};

/* Allocates a span of `size` bytes (at most 2 MiB), rounded up to granules and pages, aligned to
   `align` (a power of two, at most 2 MiB). *dirt (or NULL) tells what has to be cleared, see
   hak_ss_clear_dirt. NULL when the system refuses memory; then *dirt stays as it is. */
void *hak_ss_span_alloc(size_t size, size_t align, struct ss_dirt *dirt);
/* The same for a block that may be filled to `usable` bytes, at most `size`, or about that. */
void *hak_ss_span_alloc_for(size_t usable, size_t size, size_t align, struct ss_dirt *dirt);
/* Makes the span's dirty granules read as zero, by calling `clear` for each run of them. Returns 0
   if one of the calls did. */
int hak_ss_clear_dirt(void *p, const struct ss_dirt *dirt, int (*clear)(void *start, size_t size));
/* Makes the span's other granules resident, as far as its first `size` bytes reach. A refusal is
   harmless. */
void hak_ss_populate(void *p, size_t size, const struct ss_dirt *dirt);
/* A mark that the span's owner may set, clear and read until the span is freed; 0 at first. */
void hak_ss_span_set_mark(void *p);
void hak_ss_span_clear_mark(void *p);
/* hak_ss_span_size, and whether the span has the mark. */
size_t hak_ss_span_look(const void *p, int *is_marked);
/* Frees a span by its start. A pointer that is none aborts. */
void hak_ss_span_free(void *p);
/* Bytes of the span that starts at p, or 0 if none starts there. */
size_t hak_ss_span_size(const void *p);
/* What the block in it may be filled to: all of it at first and when it was resized, or about what
   its owner has said, which is at most its size. */
size_t hak_ss_span_usable(const void *p);
void hak_ss_span_set_usable(void *p, size_t usable);
/* Tries to make the span at p `size` bytes long in place, growing into free granules or freeing
   the tail. Returns 1 on success; otherwise nothing has changed. */
int hak_ss_span_resize(void *p, size_t size);

/* What the superslabs' user decides, and what is reported to it. Functions that are called with the
   pool's lock held say so. */
struct ss_policy {
    /* Memory was taken, `fresh` bytes of it from the system; returned to the pool (at that
       time); purged, or unmapped. Pool lock. */
    void (*taken)(size_t fresh);
    void (*given)(uint64_t now_ns);
    void (*purged)(size_t bytes);
    /* How many bytes of freed memory may stay resident for reuse, and for how long (ms): what is
       more, or older, is due (hak_ss_purge_due). Pool lock. */
    size_t (*keep_bytes)(void);
    uint64_t (*delay_ms)(void);
    /* Describes what the pointer map holds besides superslabs, from the map's number at p. No lock:
       never faults, whatever the number, and gives start NULL if that number's range does not hold
       p (any more). */
    struct ss_lookup (*range_lookup)(const void *p, uint32_t number);
    /* Memory would be taken from the system: the spans that the calling thread has set aside
       return before (hak_ss_span_give_aside). Returns how many there were. Pool lock. */
    uint32_t (*give_aside)(void);
    /* A region would be mapped: one instead that is mapped already, SS_BYTES at a multiple of it,
       of which the first *dirty bytes may be resident. NULL: there is none. No lock. */
    char *(*region)(size_t *dirty);
};
/* Replaces the default: nothing is reported, all is kept for HAKMEM_PURGE_DELAY_MS, there are no
   ranges. Called once, at the start of the process; *policy is never freed. */
void hak_ss_set_policy(const struct ss_policy *policy);
/* The region of a superslab that holds nothing, but *dirty bytes of resident memory, at least half
   of it: it is the caller's, and committed as a whole. NULL: there is none, or the limit would not
   have it. */
char *hak_ss_take_region(size_t *dirty);
/* Whether there may be one. */
int hak_ss_has_region(void);
/* Purges the free memory of superslabs where none was freed for `delay_ms`, and of the longest
   unused ones while more than the policy's keep_bytes are resident. With a delay of 0 purges all,
   asks also for what the system has refused before, and unmaps what is wholly free. Returns bytes.
 */
size_t hak_ss_purge(uint64_t delay_ms);
/* The same for one superslab at most; *is_last: there was none that is due. */
size_t hak_ss_purge_step(uint64_t delay_ms, int *is_last);
/* Purges a bounded part of what the policy does not want kept any longer, if there is something.
   Called after memory was freed, with no lock held; spans do so by themselves. */
void hak_ss_purge_due(void);
/* Walks all superslabs and checks every equation of pool.h. 0 if all hold, else a number that tells
   which failed. */
int hak_ss_verify(void);

HAK_EXTERN_C_END

#endif
