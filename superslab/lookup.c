/* hak_super_lookup: what any address belongs to. No locks: reads the pointer map and words of the slab's bitmap. Ranges are
   described by whoever keeps them (ACE), through ss_range_lookup. */
#include "superslab/pool.h"

struct ss_lookup (*ss_range_lookup)(const void *p, uint32_t ref);
struct ss_lookup (*ss_limbo_lookup)(const void *p, uint32_t ref);

static struct ss_lookup lookup_slab(const void *p, struct map_entry entry)
{
    struct ss_lookup result = {SS_SLAB, TAG_OWNER(entry.tag), TAG_CLASS(entry.tag), NULL, 0, 0};
    const struct slab *slab = pool_slab_of(entry.ref, p);
    uint32_t offset = (uint32_t)((uintptr_t)p & (SS_UNIT_BYTES - 1));
    uint32_t index = sc_index_of(result.size_class, offset);
    if (index < sc_table[result.size_class].capacity) {
        result.size = sc_table[result.size_class].size;
        result.start = (char *)((uintptr_t)p - offset) + index * result.size;
        const uint64_t *bits = atomic_load_relaxed(&slab->bits);
        /* NULL while the region goes back: nothing in it was allocated. */
        result.is_allocated = bits && !(atomic_load_relaxed(&bits[index / 64]) >> (index % 64) & 1);
    }
    return result;
}

/* The span that holds p: the nearest one that starts at or below it, if it reaches so far. */
static struct ss_lookup lookup_span(const void *p)
{
    struct ss_lookup result = {SS_FREE_UNIT, 0, 0, NULL, 0, 0};
    char *start = (char *)((uintptr_t)p & ~(uintptr_t)(SS_GRANULE_BYTES - 1));
    char *first = (char *)((uintptr_t)p & ~(uintptr_t)(SS_BYTES - 1));
    for (; start >= first; start -= SS_GRANULE_BYTES) {
        size_t size = ss_span_size(start);
        if (size > (size_t)((const char *)p - start)) {
            return (struct ss_lookup){SS_SPAN, 0, 0, start, size, 1};
        }
        if (size) {
            break;
        }
    }
    return result;
}

struct ss_lookup hak_super_lookup(const void *p)
{
    struct ss_lookup nothing = {SS_NOT_OURS, 0, 0, NULL, 0, 0};
    struct map_entry entry = map_get(p);
    if (entry.tag == 0) {
        return nothing;
    }
    if (entry.tag == TAG_FREE_UNIT) {
        nothing.kind = SS_FREE_UNIT;
        return nothing;
    }
    if (entry.tag == TAG_SPAN) {
        return lookup_span(p);
    }
    if (entry.tag == TAG_RANGE || entry.tag == TAG_LIMBO) {
        struct ss_lookup (*look_up)(const void *, uint32_t) =
            atomic_load_relaxed(entry.tag == TAG_RANGE ? &ss_range_lookup : &ss_limbo_lookup);
        return look_up ? look_up(p, entry.ref) : nothing;
    }
    return lookup_slab(p, entry);
}
