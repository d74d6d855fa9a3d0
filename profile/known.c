/* Sampled blocks in use; see known.h. */
#include "profile/known.h"

#include "base/size_classes.h"
#include "profile/profile.h"
#include "superslab/map.h"

/* How far behind the start of its block a sampled one lies, at least. */
#define SHIFT SC_MIN_ALIGN

static uint64_t n_of_heaps; /* samples of first-class heaps */
static uint64_t n_aligned;  /* 1 once one lay further behind */

int hak_profile_keep(const void *p, const struct profile_sample *sample)
{
    /* First: a walk beside this one must find what is put. */
    if ((size_t)((const char *)p - (const char *)sample->start) > SHIFT) {
        atomic_store_relaxed(&n_aligned, (uint64_t)1);
    }
    if (!hak_profile_put(p, sample)) {
        return 0;
    }
    hak_profile_count_made(sample);
    if (sample->heap) {
        (void)atomic_add_relaxed(&n_of_heaps, (uint64_t)1);
    }
    return 1;
}

/* 0 if p is certainly none that was sampled: no sample has its hash, or it is the start of a block
   of a slab, where the variant has them shifted. */
static int may_be_sampled(const void *p)
{
    if (!hak_profile_may_have(p)) {
        return 0;
    }
    if (HAK_SECURE) {
        return 1;
    }
    uint32_t tag = hak_map_find(p).tag;
    const struct size_class *row = &hak_sc_table[TAG_CLASS(tag)];
    return !TAG_IS_SLAB(tag) ||
           !hak_sc_is_block((uint32_t)((uintptr_t)p & (SC_SLAB_BYTES - 1)), row->magic, row->limit);
}

int hak_profile_look_known(const void *p, struct profile_sample *sample)
{
    return may_be_sampled(p) && hak_profile_look(p, sample) && sample->kind == PROFILE_BLOCK;
}

int hak_profile_take_known(const void *p, struct profile_sample *sample)
{
    if (!may_be_sampled(p) || !hak_profile_take(p, sample)) {
        return 0;
    }
    hak_profile_count_freed(sample, hak_profile_now_ms());
    if (sample->heap) {
        (void)atomic_sub_relaxed(&n_of_heaps, (uint64_t)1);
    }
    return 1;
}

void hak_profile_drop_place(const struct entry_table *below, void *place)
{
    struct profile_sample sample;
    if (place && hak_profile_take(place, &sample)) {
        below->free(place);
    }
}

int hak_profile_free_known(const struct entry_table *below, void *p)
{
    struct profile_sample sample;
    if (!hak_profile_take_known(p, &sample)) {
        return 0;
    }
    below->free(sample.start);
    hak_profile_drop_place(below, sample.place);
    return 1;
}

static void forget(const struct profile_sample *seen, void *heap)
{
    struct profile_sample sample;
    if (seen->heap == heap && hak_profile_take_known((const void *)seen->key, &sample) &&
        sample.place) {
        (void)hak_profile_take(sample.place, &sample);
    }
}

void hak_profile_forget_heap(const struct hak_heap *heap)
{
    if (atomic_load_relaxed(&n_of_heaps)) {
        hak_profile_each_sample(forget, (void *)heap);
    }
}

size_t hak_profile_walk_known(void **p, size_t size)
{
    struct profile_sample sample;
    if (!atomic_load_relaxed(&hak_profile_n_samples)) {
        return size;
    }
    if (hak_profile_look(*p, &sample)) {
        return sample.kind == PROFILE_PLACE ? 0 : sample.usable;
    }
    size_t most = atomic_load_relaxed(&n_aligned) ? SC_SMALL_MAX : SHIFT;
    for (size_t shift = SHIFT; shift <= most; shift *= 2) {
        char *block = (char *)*p + shift;
        if (hak_profile_look(block, &sample) && sample.start == *p) {
            *p = block;
            return sample.usable;
        }
    }
    return size;
}
