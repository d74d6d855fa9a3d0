/* hak_super_lookup: what any address belongs to. No locks: reads the pointer map, and
   descriptions that live for ever. A unit may change hands between any two reads, also between
   those of its tag and of its number. So nothing is believed that does not fit: a superslab
   whose region does not hold p, an index beyond the bitmap that was found. What was read counts
   if the map says the same afterwards; else it is read again, which happens only if another
   thread has got on. */
#include "base/atomic.h"
#include "superslab/pool.h"

struct ss_lookup (*hak_ss_limbo_lookup)(const void *p, uint32_t ref);

static const struct ss_lookup not_ours = {SS_NOT_OURS, 0, 0, NULL, 0, 0};
static const struct ss_lookup free_unit = {SS_FREE_UNIT, 0, 0, NULL, 0, 0};

/* 1 if the block is allocated: neither free nor held. */
static int is_allocated(const struct slab *slab, uint32_t index)
{
    const uint64_t *bits = atomic_load_relaxed(&slab->bits);
    /* NULL, or a bitmap too short for the index: the slab has gone, and another one may have
       come. */
    if (!bits || (bits == slab->inline_bits && index / 64 >= SLAB_INLINE_WORDS)) {
        return 0;
    }
    uint64_t word = atomic_load_relaxed(&bits[index / 64]) | hak_slab_held(slab);
    return !(word >> (index % 64) & 1);
}

static struct ss_lookup lookup_slab(const struct superslab *ss, const void *p, uint32_t tag)
{
    uint32_t unit = (uint32_t)(((uintptr_t)p & (SS_BYTES - 1)) / SS_UNIT_BYTES);
    const struct slab *slab = &ss->slabs[unit];
    uint32_t size_class = atomic_load_relaxed(&slab->size_class);
    struct ss_lookup result = {SS_SLAB, TAG_OWNER(tag), size_class, NULL, 0, 0};
    uint32_t offset = (uint32_t)((uintptr_t)p & (SS_UNIT_BYTES - 1));
    uint32_t index = hak_sc_index_of(size_class, offset);
    if (index < hak_sc_table[size_class].capacity) {
        result.size = hak_sc_table[size_class].size;
        result.start = (char *)((uintptr_t)p - offset) + index * result.size;
        result.is_allocated = is_allocated(slab, index);
    }
    return result;
}

/* The span that holds p: the nearest one that starts at or below it, if it reaches so far. */
static struct ss_lookup lookup_span(const struct superslab *ss, const void *p)
{
    uint32_t granule = (uint32_t)(((uintptr_t)p & (SS_BYTES - 1)) / SS_GRANULE_BYTES),
             first = granule, word;
    /* Read once: a thread that keeps the span may cut it, and hand the front out. */
    while ((word = atomic_load_relaxed(&ss->span_granules[first])) == 0 && first) {
        first--;
    }
    uint32_t n = word & ~SPAN_BITS;
    if (n <= granule - first || word & SPAN_ASIDE) {
        return free_unit;
    }
    char *base = (char *)((uintptr_t)p & ~(uintptr_t)(SS_BYTES - 1));
    return (struct ss_lookup){
        SS_SPAN, 0, 0, base + first * SS_GRANULE_BYTES, hak_pool_span_usable(word), 1};
}

static struct ss_lookup describe(const struct superslab *ss, const void *p, struct map_entry entry)
{
    if (entry.tag == TAG_RANGE) {
        return hak_pool_policy()->range_lookup(p, entry.ref);
    }
    if (entry.tag == TAG_LIMBO) {
        return atomic_load_relaxed(&hak_ss_limbo_lookup)(p,
                                                         entry.ref); /* set before there is one */
    }
    if (!ss) {
        return free_unit; /* the number is another owner's already */
    }
    return entry.tag == TAG_SPAN ? lookup_span(ss, p) : lookup_slab(ss, p, entry.tag);
}

/* hak_map_find as it is for pointers that are no addresses, too. */
static struct map_entry look(const void *p)
{
    return (uintptr_t)p >> 48 ? (struct map_entry){0, 0} : hak_map_find(p);
}

/* The map says the same at the end as at the beginning, and no slab was made in between: a unit
   that became free, and then a slab of the same owner and class again, would look the same, with a
   description that was neither's. */
struct ss_lookup hak_super_lookup(const void *p)
{
    struct map_entry entry = look(p), now;
    for (;; entry = now) {
        if (entry.tag == 0) {
            return not_ours;
        }
        if (entry.tag == TAG_FREE_UNIT) {
            return free_unit;
        }
        const struct superslab *ss = entry.tag == TAG_RANGE || entry.tag == TAG_LIMBO
                                         ? NULL
                                         : hak_pool_superslab_around(entry.ref, p);
        uint32_t version = ss ? atomic_load_acquire(&ss->slab_version) : 0;
        struct ss_lookup result = describe(ss, p, entry);
        __atomic_thread_fence(__ATOMIC_ACQUIRE);
        now = look(p);
        int is_same = now.tag == entry.tag && now.ref == entry.ref;
        if (HAK_LIKELY(is_same && (!ss || atomic_load_relaxed(&ss->slab_version) == version))) {
            return result;
        }
    }
}
