/* Ranges: mappings of their own, whole units long, kept for reuse when freed: blocks above 1 MiB,
   and smaller ones that grow by realloc.

   struct range describes one; descriptions live for ever and are reused by number. States: used;
   cached (range_cache.h says in which lists); idle (describes nothing); busy: one thread alone has
   it, in no list, while it calls the system or writes the pointer map without the lock. A used
   range is pinned while a call of its block's owner does the same. No system call is made, and the
   map is not written, with the ACE lock held.

   Fields are written with the ACE lock held, or by the thread that has the range busy or pinned
   (`bytes` and `base` of a pinned one with the lock all the same), except for is_fresh and dirt,
   which the thread that allocates the block may write before anybody else knows it. `base` and
   `usable` of a used range change only in calls about that very block; its `bytes` may shrink to
   what holds `usable` when the system refuses memory. `state` changes with the lock held. `version`
   is odd while `base` changes. These are written atomically (relaxed): hak_range_describe reads
   them without a lock. Origin: a number for each mapping of the kernel; what is cut from one keeps
   it, and a fresh neighbour of it takes it on. Ranges of one origin that touch can be moved as one
   by mremap: only such neighbours are merged. (Where the kernel thinks otherwise, mremap says
   EFAULT and the block is copied.)

   Always, when the lock is free: every unit of a range that is cached, or used and not pinned, has
   {TAG_RANGE, number} in the pointer map (units of a busy range may have any number: who finds a
   range by the map looks whether it holds the unit); two neighbouring cached ranges of one origin
   and one kind are merged; stats.large_bytes, large_room_bytes, large_cached_bytes,
   large_clean_bytes and large_growing are the sums over used and cached ranges; busy ones are
   counted apart. hak_range_verify checks. */
#ifndef HAKMEM_ACE_RANGE_H
#define HAKMEM_ACE_RANGE_H

#include "base/internal.h"

#include "base/attributes.h"
#include "superslab/superslab.h"

HAK_EXTERN_C_BEGIN

/* A block that grows may be filled to 1/16 above what was asked for, and is not asked about again
   within that. Programs account by malloc_usable_size, so that all the room would be too much. */
#define GROW_USABLE_SHIFT 4

enum range_state { RANGE_IDLE, RANGE_USED, RANGE_CACHED, RANGE_BUSY };
/* Of a cached range. */
enum range_kind {
    RANGE_DIRTY, /* pages may be resident; it is purged when it is due */
    RANGE_CLEAN, /* no page is resident: it reads as zero, and counts as address space alone */
    RANGE_STUCK, /* as dirty, but the system has refused to take it: asked again by a trim only */
    RANGE_KINDS
};
/* What hak_range_alloc is asked for. */
enum range_use {
    RANGE_FIXED,  /* a block of that size */
    RANGE_ZEROED, /* reads as zero */
    RANGE_GROWING /* grows by realloc: address space ahead is welcome */
};

struct range {
    char *base;
    size_t bytes;   /* mapped, a multiple of 64 KiB */
    size_t usable;  /* used: what the block may be filled to; the rest of `bytes` is room to grow */
    size_t touched; /* used: what was asked for since the end was last purged, at most; beyond
                       it hardly a page is resident */
    size_t dirt;    /* so many bytes of it are resident, by what was learnt: for a used one, those
                       that it brought along */
    uint64_t origin;
    uint32_t number, version;
    enum range_state state;
    uint8_t kind; /* cached: enum range_kind */
    uint8_t use;  /* used: enum range_use */
    uint8_t is_cut,
        n_regrown; /* used: pages of its end were purged; how often they were missed (range.c) */
    uint8_t is_pinned;         /* used: in a call of its block's owner */
    uint8_t is_fresh;          /* used: handed out without resident pages */
    uint8_t is_roomy;          /* used: in the list of those with room */
    uint8_t is_huge, is_moved; /* of its mapping: marked for huge pages; moved by mremap */
    uint8_t is_torn;           /* perhaps several mappings: the system would not move it */
    struct range *next, *prev; /* cached: of its kind, by age; used: those with room; idle: next */
    struct range *class_next, *class_prev; /* cached: of one class */
    uint64_t cached_at_ns;
    uint64_t refused_in; /* cached: the round (range_return.c) in which the system last refused */
};

/* The range of that number, which was given out. ACE lock held, or the block is the caller's. */
struct range *hak_range_at(uint32_t number);
void *hak_range_alloc(size_t size, size_t align, enum range_use use);
/* Whether one more growing range is welcome: each is a mapping of its own, of which a process may
   have only so many. */
int hak_range_may_grow(void);
/* Whether the block at p, which is in a range, may stay there as one of at most 32 KiB: it has
   grown by realloc, and few have. */
int hak_range_may_be_small(const void *p);
void hak_range_free(void *p);
size_t hak_range_size(const void *p);
void *hak_range_resize(void *p, size_t size);
/* Purges some of the cached ranges that were unused for so long; there may be more if it returns
   bytes. 0: all of them, those again that the system has refused, and address space that holds
   nothing. Returns bytes of memory. The lock is held for a range at a time. */
size_t hak_range_purge(uint64_t delay_ms);
/* Purges some of what is more than the controller wants to keep. Returns bytes. */
size_t hak_range_purge_excess(void);
/* See struct ss_policy. */
char *hak_range_give_region(size_t *dirty);
struct ss_lookup hak_range_describe(const void *p, uint32_t number);
/* Purges the address space that is kept ahead of growing ranges. Returns bytes, of which hardly
   any were memory. */
size_t hak_range_purge_room(void);
/* How much of that there is to be had. */
size_t hak_range_room(void);
/* Whether the system has refused address space when about as much was mapped as is now: then none
   is kept ahead. */
int hak_range_is_scarce(void);
int hak_range_verify(void);

HAK_EXTERN_C_END

#endif
