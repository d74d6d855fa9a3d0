/* The shared pool of superslabs: hands out units (slabs) and spans to every heap.

   struct superslab describes one region of 2 MiB and lives apart from it, for ever; a region that
   was unmapped leaves its description for the next one. All fields are written with the pool lock
   held, except for the bits of a span in span_granules, which the span's owner sets without it.
   slabs[i] and far_bits[i] belong to the owner of unit i while it is a slab. `base` and
   span_granules are written atomically (relaxed), since hak_super_lookup reads them without a lock.
   A granule is used (by a slab or a span), free, or leaving: on its way to the system, by a thread
   that holds no lock while it waits for it (purge.c). A free granule is dirty (its pages may be
   resident) or clean (reads as 0); a dirty one may be refused: the system would not take it when it
   was asked, and is not asked again before the granule was used, or a trim asks for everything. A
   superslab that leaves as a whole has no base while it does, and is in no list.
   A span that is set aside (ace/span_cache.h) is used, but no block any more. Whoever has set it
   aside cuts it, and joins such ones that touch, without the lock. In between, another span begins
   within one that is set aside: it is written before the longer one is shortened, and cleared after
   it was made longer.
   A guard (the secure variant's) is neither used nor free.
   A superslab that keeps classes (the secure variant's, for slabs) has no spans, and its region
   stays: a unit is virgin until it is a slab, and then one of that class alone for ever, so that no
   pointer to a freed block comes to lie in a block of another size (apart.c). Its largest_run is 0,
   its n_whole counts virgin units; `listed` are those that are wholly free and not virgin: each is
   in the list of its class.
   Always: dirty is a subset of free, and refused of dirty; largest_run = length of the longest run
   in free; n_whole = units that are wholly free (SS_UNITS if all but guards are); the superslab is
   in the list of its largest_run and in that of its n_whole; in the list of aged ones, which is
   ordered by dirty_since_ns, exactly if it has a dirty granule that was not refused; in the list of
   refused ones exactly if it has dirty ones, and all were refused; span_granules[i] > 0 exactly for
   the first granule i of a span, and all its granules are used; in the pointer map each unit that
   is wholly free or leaving has TAG_FREE_UNIT, each other one that is no slab TAG_SPAN.
   hak_ss_verify checks. */
#ifndef HAKMEM_SUPERSLAB_POOL_H
#define HAKMEM_SUPERSLAB_POOL_H

#include "base/internal.h"

#include "base/lock.h"
#include "base/numbered.h"
#include "superslab/granules.h"
#include "superslab/map.h"
#include "superslab/slab.h"
#include "superslab/superslab.h"

HAK_EXTERN_C_BEGIN

/* So many regions lie apart, each in a mapping of its own. While a mapping changes, as when the
   kernel merges a fresh neighbour with it, no thread's page fault in it goes on, and the change
   waits for those under way. Beyond, the kernel's mappings are what is scarce. (The secure variant
   has its own distances.) */
#define REGIONS_APART HAK_TINY_OR(2, 512)

/* Rank POOL. */
extern struct lock hak_pool_lock HAK_HIDDEN;

/* The lists that a superslab may be in. */
enum ss_list_kind { SS_BY_RUN, SS_BY_UNITS, SS_BY_AGE, SS_N_LISTS };
/* Which list SS_BY_AGE stands for. */
enum ss_age_list { SS_NOT_DIRTY, SS_AGED, SS_REFUSED };

/* What describes the slabs of a superslab: whole pages, purged when the region is unmapped (they
   read as 0 then). */
struct superslab_slabs {
    struct slab slabs[SS_UNITS];
    uint64_t far_bits[SS_UNITS][SLAB_MAX_WORDS];
};

struct superslab {
    struct slab *slabs;
    uint64_t (*far_bits)[SLAB_MAX_WORDS];
    char *base; /* NULL while there is no region */
    char *last_base;
    struct granules free, dirty, refused, leaving;
    uint32_t number;
    uint32_t slab_mask; /* units that are slabs */
    uint32_t
        guards; /* units that may not be touched: neither used nor free, while it has a region */
    uint32_t
        slab_version;  /* slabs made in it so far; grows, atomically, before its tag is written */
    const void *taker; /* NULL, or the growing thread that took memory of it last (pool.c), */
    uint32_t taken_at; /* and when */
    uint16_t largest_run, n_whole;
    uint8_t is_huge;       /* marked for huge pages */
    uint8_t was_huge;      /* once: pages that were never touched may be resident */
    uint8_t age_list;      /* enum ss_age_list */
    uint8_t keeps_classes; /* units keep the class of their first slab */
    uint32_t virgin, listed;
    struct superslab *next[SS_N_LISTS], *prev[SS_N_LISTS];
    uint64_t dirty_since_ns; /* when a granule last became dirty */
    uint16_t span_granules[SS_GRANULES];
};

/* In span_granules, above the granules: the owner's mark; freed, but not returned yet; how many
   64ths of the span lie behind what its block may be filled to. */
#define SPAN_MARK         0x8000u
#define SPAN_ASIDE        0x4000u
#define SPAN_UNUSED_SHIFT 9
#define SPAN_UNUSED_MOST  31u
#define SPAN_UNUSED       (SPAN_UNUSED_MOST << SPAN_UNUSED_SHIFT)
#define SPAN_BITS         (SPAN_MARK | SPAN_ASIDE | SPAN_UNUSED)
#define SPAN_PART_BYTES   (SS_GRANULE_BYTES / 64) /* of each granule */
HAK_STATIC_ASSERT(SS_GRANULES < 1u << SPAN_UNUSED_SHIFT, "a span's granules and bits are one word");

/* The secure variant guards slabs: of superslabs that are mapped for them every second unit may not
   be touched, as far as the process may have so many mappings. Once, at the start. */
void hak_pool_set_guarded(void);
/* Units of the superslab that may not be touched: guards, or, in the other variants, what the
   process's first region has not opened yet (region.c). */
static inline uint32_t hak_pool_guards(const struct superslab *ss)
{
    return ss->guards;
}
static inline uint32_t hak_pool_guard_granules(const struct superslab *ss)
{
    return (uint32_t)__builtin_popcount(hak_pool_guards(ss)) * SS_GRANULES_OF_A_UNIT;
}
/* The secure variant's superslabs for slabs keep classes. Once, at the start; there alone. */
void hak_pool_set_apart(void);
static inline int hak_pool_keeps_classes(const struct superslab *ss)
{
    return HAK_SECURE && ss->keeps_classes;
}
/* All granules but those of guards. */
static inline struct granules hak_pool_all_granules(const struct superslab *ss)
{
    struct granules all = {{~(uint64_t)0, ~(uint64_t)0, ~(uint64_t)0, ~(uint64_t)0}};
    for (uint32_t guards = hak_pool_guards(ss); guards; guards &= guards - 1) {
        hak_granules_clear(&all, (uint32_t)__builtin_ctz(guards) * SS_GRANULES_OF_A_UNIT,
                           SS_GRANULES_OF_A_UNIT);
    }
    return all;
}

static inline uint32_t hak_pool_span_granules(const struct superslab *ss, uint32_t first)
{
    return atomic_load_relaxed(&ss->span_granules[first]) & ~SPAN_BITS;
}

/* What the word says of bytes that the block may be filled to. */
static inline size_t hak_pool_span_usable(uint32_t word)
{
    return (word & ~SPAN_BITS) *
           (SS_GRANULE_BYTES - ((word & SPAN_UNUSED) >> SPAN_UNUSED_SHIFT) * SPAN_PART_BYTES);
}

/* The bits for a block of `size` bytes in n granules: as many 64ths as are left for certain. */
static inline uint32_t hak_pool_span_unused(uint32_t n, size_t size)
{
    uint32_t unused = (uint32_t)((n * SS_GRANULE_BYTES - size) / SPAN_PART_BYTES);
    uint32_t parts = unused < n ? 0 : unused / n;
    return (parts < SPAN_UNUSED_MOST ? parts : SPAN_UNUSED_MOST) << SPAN_UNUSED_SHIFT;
}

/* Where span_granules says what starts at p; NULL if no span does, set aside or not. No lock. */
uint16_t *hak_ss_span_word(const void *p);
/* Granules of a span that holds `size` bytes, whole pages; 0 if there is none of that size. */
uint32_t hak_ss_span_granules_for(size_t size);
/* A span that is set aside, and that the caller alone knows of, returns to the pool. Pool lock
   held; see hak_pool_give. */
void hak_ss_span_give_aside(const void *p);

/* Takes n granules in a row at a multiple of `align` (a power of two) and tells which may hold old
   data, and how many of these n; NULL when the system refuses memory. Writes no map entry. Pool
   lock held, and released while the system is asked for a new region. */
struct superslab *hak_pool_take(uint32_t n, uint32_t align, uint32_t *first, struct granules *dirty,
                                uint32_t *n_dirty);
/* Takes granules `first` to `first + n - 1` if all are free; returns whether it did. Pool lock
   held. */
int hak_pool_take_at(struct superslab *ss, uint32_t first, uint32_t n);
/* A span's granules become free and dirty, and units that are wholly free are marked so in the map.
   Pool lock held; hak_ss_purge_due follows when it, and every other lock, is released. */
void hak_pool_give(struct superslab *ss, uint32_t first, uint32_t n);
extern struct numbered hak_pool_superslabs HAK_HIDDEN;
/* The superslab of that number, which was given out. */
static inline struct superslab *hak_pool_superslab(uint32_t number)
{
    return (struct superslab *)hak_numbered_get(&hak_pool_superslabs, number);
}
/* The superslab of that number if its region holds p now, else NULL. Any number, no lock: for who
   reads the map while units may change hands. */
static inline struct superslab *hak_pool_superslab_around(uint32_t number, const void *p)
{
    struct superslab *ss = (struct superslab *)hak_numbered_find(&hak_pool_superslabs, number);
    uintptr_t base = ss ? (uintptr_t)atomic_load_relaxed(&ss->base) : 0;
    return base && base == ((uintptr_t)p & ~(uintptr_t)(SS_BYTES - 1)) ? ss : NULL;
}
/* hak_ss_span_word, in line. */
static inline uint16_t *hak_pool_span_word(const void *p)
{
    struct map_entry entry = hak_map_find(p);
    struct superslab *ss = entry.tag == TAG_SPAN && ((uintptr_t)p & (SS_GRANULE_BYTES - 1)) == 0
                               ? hak_pool_superslab_around(entry.ref, p)
                               : NULL;
    uint16_t *word =
        ss ? &ss->span_granules[((uintptr_t)p & (SS_BYTES - 1)) / SS_GRANULE_BYTES] : NULL;
    return word && atomic_load_relaxed(word) ? word : NULL;
}
/* A fresh slab of the class, its tag in the map written; the tag names the owner. NULL when the
   system refuses memory. */
struct slab *hak_pool_slab_alloc(uint32_t tag, uint32_t size_class);
/* The lists of superslabs will be read, and then written: perhaps for the first time. No lock. */
void hak_pool_touch(void);
/* The first pages of such a slab, if it has none, are fetched together. No lock held. */
void hak_pool_slab_populate(struct slab *slab, uint32_t bytes);
/* Returns a slab to the pool: its blocks are all free, and the caller has it in no list; or its
   owner ends, blocks and lists included. In the secure variant all free blocks are zero except for
   their first words and tails, unless n_free says that not all are free. Makes no system call,
   since the owner's lock is held: hak_ss_purge_due follows when it is released. */
void hak_pool_slab_free(struct slab *slab);
/* The slab that holds p, whose map entry `ref` was read as a slab's. */
static inline struct slab *hak_pool_slab_of(uint32_t ref, const void *p)
{
    return &hak_pool_superslab(ref)->slabs[((uintptr_t)p & (SS_BYTES - 1)) / SS_UNIT_BYTES];
}
/* A slab by a number: never 0, and its own as long as it is in use. */
static inline uint32_t hak_slab_number(uint32_t ref, const void *p)
{
    return ref * SS_UNITS + (uint32_t)(((uintptr_t)p & (SS_BYTES - 1)) / SS_UNIT_BYTES) + 1;
}
struct slab *hak_pool_slab_numbered(uint32_t number);

/* Descriptions made so far: numbers are below it. */
uint32_t hak_pool_n_superslabs(void);
/* Which units of that superslab are slabs now, and where it begins; 0 if it has no region. A hint:
   the owners may return slabs at any time. */
uint32_t hak_pool_slab_mask(uint32_t number, char **base);

/* The policy in force; never NULL. */
const struct ss_policy *hak_pool_policy(void);
/* Set by limbo: describes a unit of it from its map entry, for hak_super_lookup. */
extern struct ss_lookup (*hak_ss_limbo_lookup)(const void *p, uint32_t ref) HAK_HIDDEN;

HAK_EXTERN_C_END

#endif
