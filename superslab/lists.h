/* What the files of the pool share: the lists that superslabs are in, and what changes them. Pool
   lock held, where nothing else is said. */
#ifndef HAKMEM_SUPERSLAB_LISTS_H
#define HAKMEM_SUPERSLAB_LISTS_H

#include "base/internal.h"

#include "base/bits.h"
#include "superslab/apart.h"
#include "superslab/pool.h"

HAK_EXTERN_C_BEGIN

/* A bit for each length of a run, 0 to SS_GRANULES. */
#define RUN_BITS (SS_GRANULES + 64)

struct ss_list {
    struct superslab *first, *last;
};

struct pool_lists {
    uint32_t touched_first; /* beside what it touches: hak_pool_touch alone writes it, */
    struct ss_list by_run[SS_GRANULES + 1]; /* by largest_run */
    uint64_t runs_present[RUN_BITS / 64];
    struct ss_list by_units[SS_UNITS + 1]; /* by n_whole */
    uint64_t units_present;                /* a bit for each of these lists that is not empty */
    uint32_t touched_units;                /* and this */
    struct ss_list virgin;                 /* instead: those that keep classes, if n_whole > 0 */
    struct ss_list aged;                   /* with something to purge, oldest first */
    struct ss_list refused;                /* whose dirty granules were all refused */
    uint32_t n_aged, n_refused, n_empty;   /* lengths of the two, and of the last by_units */
    size_t refused_bytes;                  /* in both */
};

extern struct pool_lists hak_pool_lists HAK_HIDDEN;

/* Enters a superslab into the lists that its sets say, or takes it out of all. */
void hak_pool_enter(struct superslab *ss);
void hak_pool_leave(struct superslab *ss);
/* After `free` changed: into the lists where it belongs. */
void hak_pool_relist(struct superslab *ss);
/* n granules from `first` on, which are in `free`, have just become so; or leave it. The superslab
   goes into the lists where it belongs. */
void hak_pool_add_free(struct superslab *ss, uint32_t first, uint32_t n);
void hak_pool_remove_free(struct superslab *ss, uint32_t first, uint32_t n);
/* What n_whole and largest_run are to be, and the list of its n_whole. */
uint32_t hak_pool_whole_units(const struct superslab *ss);
uint32_t hak_pool_longest_run(const struct superslab *ss);
struct ss_list *hak_pool_units_list(const struct superslab *ss, uint32_t n_whole);
/* Whether nothing of it is used, and its region may go. */
static inline int hak_pool_is_empty(const struct superslab *ss)
{
    return ss->n_whole == SS_UNITS && !hak_pool_keeps_classes(ss);
}
/* After `dirty` or `refused` changed: into aged, refused, or neither. What gets into aged was freed
   just now. */
void hak_pool_refile(struct superslab *ss);
/* Granules of it became dirty just now. */
void hak_pool_file_youngest(struct superslab *ss, uint64_t now_ns);
/* Behind all others that have as many whole units. */
void hak_pool_put_last(struct superslab *ss);
/* Takes it out of both, until the next hak_pool_refile. */
void hak_pool_unfile(struct superslab *ss);
/* Granules that are to be used are not dirty any more; they stay committed. Returns how many were.
 */
uint32_t hak_pool_clean(struct superslab *ss, uint32_t first, uint32_t n);
/* Units that are wholly free, or about to be, are marked so in the map, among those of granules
   `first` to `first + n - 1`. */
void hak_pool_mark_free_units(const struct superslab *ss, uint32_t first, uint32_t n);
/* The same where all these are in `free`. `were_span`: no unit of them was a slab. */
void hak_pool_mark_free_part(const struct superslab *ss, uint32_t first, uint32_t n, int were_span);

/* The time, or that of the last one that was filed as aged, if it is later: clocks may go back. */
uint64_t hak_pool_not_before_last(uint64_t now_ns);
/* Bytes that could be purged, what was refused left out. */
size_t hak_pool_purgeable_bytes(void);

/* region.c: a superslab with a new region, all free and clean, entered into the lists; NULL when
   the system refuses memory. `n` granules at a multiple of `align` fit; n = 0: it is for slabs.
   Called with no lock of the pool held, and returns with it held. */
struct superslab *hak_pool_map_region(uint32_t n, uint32_t align);
/* Opens what the process's first region keeps closed. Returns whether there is more now. Without
   the pool's lock while the system works. */
int hak_pool_open(void);
/* It is in the lists, and hak_pool_open may come to it if it has closed units; or it leaves them as
   a whole. Pool lock held. */
void hak_pool_keep_closed(struct superslab *ss);
void hak_pool_forget_closed(const struct superslab *ss);
/* Whether superslabs for slabs have guards. */
int hak_pool_is_guarded(void);
/* Its description, whose region has gone, for the next one. Pool lock held. */
void hak_pool_drop_description(struct superslab *ss);
/* purge.c: notes whether something is due for hak_ss_purge_due, after granules were freed. */
void hak_pool_note_freed(size_t bytes, uint64_t now_ns);

HAK_EXTERN_C_END

#endif
