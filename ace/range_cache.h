/* The records of ranges: descriptions, and the lists of cached ranges. For range*.c alone; every
   function is called with the ACE lock held, and those that let go of it in between say so.

   A cached range is in the list of its kind, in the order of its age (what is cut from one or
   merged into it leaves it its place, all else goes to the newest end, so that no list is ever
   walked), and in the class
   list of the largest class that it can serve: one for ranges with pages (dirty, stuck), one for
   clean ones. */
#ifndef HAKMEM_ACE_RANGE_CACHE_H
#define HAKMEM_ACE_RANGE_CACHE_H

#include "base/internal.h"

#include "ace/ace_class.h"
#include "ace/range.h"
#include "base/lock.h"
#include "base/numbered.h"
#include "superslab/map.h"

HAK_EXTERN_C_BEGIN

extern struct lock hak_range_lock HAK_HIDDEN;

struct range_records {
    struct numbered all;
    uint64_t n_origins;
    struct range *idle;
    uint32_t n_idle, n_busy;
    struct range *oldest[RANGE_KINDS], *newest[RANGE_KINDS];
    struct range *classes[2][ACE_CLASSES]; /* with pages; clean */
    uint64_t present[2][ACE_CLASSES / 64];
    size_t class_cached[ACE_CLASSES]; /* bytes with pages */
    struct range *roomy, *last_roomy; /* used ranges with room, not pinned */
};
extern struct range_records hak_range_records HAK_HIDDEN;

static inline size_t hak_range_round(size_t size)
{
    return (size + SS_UNIT_BYTES - 1) & ~(SS_UNIT_BYTES - 1);
}

/* Makes sure that hak_range_new gives `n` times; if there are too few idle descriptions it lets go
   of the lock and asks for metadata. Without memory there may be fewer. */
void hak_range_ready(uint32_t n);
/* A busy range without a place, or NULL. */
struct range *hak_range_new(void);
/* A busy range becomes idle. */
void hak_range_drop(struct range *range);
/* Counts busy ranges. */
void hak_range_set_state(struct range *range, enum range_state state);
/* Its end changes. */
void hak_range_set_bytes(struct range *range, size_t bytes);
/* Where it lies changes. */
void hak_range_set_extent(struct range *range, char *base, size_t bytes);
/* Writes its units into the map, or clears them there. No lock needed: it is busy or pinned. */
void hak_range_write_map(const struct range *range);
void hak_range_clear_map(const struct range *range);

/* The smallest cached range that fits, among the first ones of the lowest class that has one; those
   with pages first. NULL if there is none. */
struct range *hak_range_best(size_t bytes, size_t align);
/* Of the cached ranges that are full of pages and can be moved: the largest that is smaller, down
   to 128 KiB; the smallest that is as large. NULL if there is none. */
struct range *hak_range_full_below(size_t bytes);
struct range *hak_range_full_above(size_t bytes);
/* The cached range of the same origin that begins where `range` ends, or NULL. */
struct range *hak_range_after(const struct range *range);
/* The cached range that holds the unit at p, or NULL. */
struct range *hak_range_cached_at(const char *p);
/* A busy range becomes cached, at the newest end, or merged with neighbours of its kind: then it
   is as old as the largest part, and the lock is let go in between. */
void hak_range_push(struct range *range, enum range_kind kind, uint64_t now_ns);
/* A cached range becomes busy. */
void hak_range_take(struct range *range);
/* The first or last bytes of a cached range become a busy range, whose units are still to be
   written; NULL if there is no description. */
struct range *hak_range_take_front(struct range *range, size_t bytes);
struct range *hak_range_take_back(struct range *range, size_t bytes);
/* Those bytes are no longer of the cached range: the range before it takes them over. */
void hak_range_cut_front(struct range *range, size_t bytes);
/* Bytes with pages that are cached in the class of that size. */
size_t hak_range_class_cached(size_t bytes);

/* Of a used range: address space behind the units that its block may be filled to. */
static inline size_t hak_range_room_of(const struct range *range)
{
    return range->bytes - hak_range_round(range->usable);
}
/* A used range's room has changed, or it is pinned or not any more: it is in the list of those with
   room exactly if it should be. */
void hak_range_note_room(struct range *range);
/* The end of a used range changes, and with it how much room there is. */
void hak_range_set_used_bytes(struct range *range, size_t bytes);
void hak_range_set_usable(struct range *range, size_t usable);

/* --- range_reuse.c: pages that move to other addresses --- */

/* Of all that is mapped for a block every page may be touched. */
void hak_range_count_mapped(size_t bytes);
/* Address space of which the map has leaves; NULL if it cannot be had. No lock. */
char *hak_range_map_space(size_t bytes, size_t align);
/* Moves the pages of a range that is busy or pinned to a new place of `bytes` at a multiple of
   `align`, which is in the map then, if `committed` bytes of it may be committed. NULL if it cannot
   be: then it is in the map where it was. No lock. */
char *hak_range_move(struct range *range, size_t bytes, size_t align, size_t committed);
/* So it lies there now, in a mapping that the system merges with no other. */
void hak_range_set_moved(struct range *range, char *place, size_t bytes);
/* No cached range fits: there may be one now, which has the memory of a superslab that holds
   nothing. Returns whether there is one more. Lets go of the lock. */
int hak_range_refill(size_t size, enum range_use use);
/* Nor then: a busy range that has the pages of a smaller one, and *fresh bytes that are to be
   fetched. NULL if there is none. Lets go of the lock. */
struct range *hak_range_enlarge(size_t size, size_t align, enum range_use use, size_t *fresh);

/* --- range_return.c: to the system --- */

/* The system, or the limit, has refused `bytes`: purges as much, if there is as much. Returns
   bytes; 0 if it is of no use to ask again. Lets go of the lock. `round` is of
   hak_range_round_begin and the same for all tries of a request. */
size_t hak_range_make_way(size_t bytes, uint64_t round);
/* A new round: what the system refuses in it is not asked for again in it. */
uint64_t hak_range_round_begin(void);
/* After `freed` bytes were cached: purges some of what is due, no more than in proportion. Lets go
   of the lock. */
void hak_range_purge_some(size_t freed);

HAK_EXTERN_C_END

#endif
