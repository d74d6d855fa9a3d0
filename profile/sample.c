/* The tables of samples and of sites. No locks: lists to whose front is put by compare-and-swap,
   and from which nothing is ever taken. Called by layer.c and write.c. */
#include "profile/sample.h"

#include "base/os.h"

#define CHUNK_BYTES HAK_TINY_OR((size_t)16 * 1024, (size_t)256 * 1024)
#define KEY_BUSY    ((uintptr_t)1)

struct chunk {
    size_t used;
    max_align_t bytes[];
};

HAK_LARGE_ZEROS struct profile_sample *hak_profile_samples[PROFILE_SAMPLE_BUCKETS];
HAK_LARGE_ZEROS struct profile_site *hak_profile_sites[PROFILE_SITE_BUCKETS];
HAK_LARGE_ZEROS uint16_t hak_profile_counts[PROFILE_COUNTS];
static struct chunk *chunk;
static uint64_t peak_bytes; /* the highest of hak_profile_live_bytes */
uint64_t hak_profile_peak;
uint64_t hak_profile_live_bytes;
uint64_t hak_profile_n_samples;

/* Memory for ever, zeroed; NULL if the system refuses. */
static void *take_memory(size_t size)
{
    for (;;) {
        struct chunk *from = atomic_load_acquire(&chunk);
        if (from) {
            size_t at = atomic_add_relaxed(&from->used, size);
            if (at + size <= CHUNK_BYTES) {
                return (char *)from + at;
            }
        }
        struct chunk *fresh =
            (struct chunk *)hak_os_map_aligned(NULL, CHUNK_BYTES, hak_os_page_size());
        if (!fresh) {
            return NULL;
        }
        fresh->used = sizeof(struct chunk);
        if (!atomic_cas_strong(&chunk, &from, fresh)) {
            hak_os_unmap_untouched(fresh, CHUNK_BYTES);
        } else {
            hak_os_note_own(fresh, CHUNK_BYTES);
        }
    }
}

/* --- samples --- */

/* A sample of the bucket becomes the caller's (KEY_BUSY). */
static struct profile_sample *claim(struct profile_sample **bucket)
{
    struct profile_sample *sample = atomic_load_acquire(bucket);
    for (; sample; sample = sample->next) {
        uintptr_t unused = 0;
        if (!atomic_load_relaxed(&sample->key) &&
            atomic_cas_strong(&sample->key, &unused, KEY_BUSY)) {
            return sample;
        }
    }
    sample = (struct profile_sample *)take_memory(sizeof *sample);
    if (sample) {
        sample->key = KEY_BUSY;
        sample->next = atomic_load_acquire(bucket);
        while (!atomic_cas_strong(bucket, &sample->next, sample)) {
        }
    }
    return sample;
}

static void copy(struct profile_sample *to, const struct profile_sample *from)
{
    to->kind = from->kind;
    to->site = from->site;
    to->heap = from->heap;
    to->start = from->start;
    to->place = from->place;
    to->usable = from->usable;
    to->made_ms = from->made_ms;
    to->weight = from->weight;
}

int hak_profile_put(const void *p, const struct profile_sample *sample)
{
    struct profile_sample *own = claim(&hak_profile_samples[hak_profile_bucket(p)]);
    if (!own) {
        return 0;
    }
    copy(own, sample);
    (void)atomic_add_relaxed(&hak_profile_n_samples, (uint64_t)1);
    (void)atomic_add_relaxed(&hak_profile_counts[hak_profile_hash(p) % PROFILE_COUNTS],
                             (uint16_t)1);
    atomic_store_release(&own->key, (uintptr_t)p);
    return 1;
}

static struct profile_sample *find(const void *p)
{
    struct profile_sample *sample =
        atomic_load_acquire(&hak_profile_samples[hak_profile_bucket(p)]);
    while (sample && atomic_load_acquire(&sample->key) != (uintptr_t)p) {
        sample = sample->next;
    }
    return sample;
}

int hak_profile_take(const void *p, struct profile_sample *sample)
{
    struct profile_sample *found = find(p);
    uintptr_t key = (uintptr_t)p;
    if (!found || !atomic_cas_strong(&found->key, &key, KEY_BUSY)) {
        return 0;
    }
    copy(sample, found);
    (void)atomic_sub_relaxed(&hak_profile_n_samples, (uint64_t)1);
    (void)atomic_sub_relaxed(&hak_profile_counts[hak_profile_hash(p) % PROFILE_COUNTS],
                             (uint16_t)1);
    atomic_store_release(&found->key, (uintptr_t)0);
    return 1;
}

int hak_profile_look(const void *p, struct profile_sample *sample)
{
    struct profile_sample *found = find(p);
    if (!found) {
        return 0;
    }
    copy(sample, found);
    return atomic_load_acquire(&found->key) == (uintptr_t)p;
}

void hak_profile_each_sample(void (*visit)(const struct profile_sample *sample, void *context),
                             void *context)
{
    for (uint32_t i = 0; i < PROFILE_SAMPLE_BUCKETS; i++) {
        struct profile_sample *sample = atomic_load_acquire(&hak_profile_samples[i]);
        for (; sample; sample = sample->next) {
            uintptr_t key = atomic_load_acquire(&sample->key);
            struct profile_sample seen;
            if (key > KEY_BUSY) {
                copy(&seen, sample);
                seen.key = key;
                seen.next = NULL;
                if (atomic_load_acquire(&sample->key) == key) {
                    visit(&seen, context);
                }
            }
        }
    }
}

/* --- sites --- */

static struct profile_site *find_site(struct profile_site *site, const struct profile_site *end,
                                      const struct stack *stack, uint32_t thread)
{
    while (site != end && (site->stack != stack || site->thread != thread)) {
        site = site->next;
    }
    return site == end ? NULL : site;
}

struct profile_site *hak_profile_site(const struct stack *stack, uint32_t thread)
{
    struct profile_site **bucket =
        &hak_profile_sites[(hak_profile_hash(stack) ^ thread) % PROFILE_SITE_BUCKETS];
    struct profile_site *seen = atomic_load_acquire(bucket), *end = seen;
    struct profile_site *site = find_site(seen, NULL, stack, thread);
    if (site || !(site = (struct profile_site *)take_memory(sizeof *site))) {
        return site;
    }
    site->stack = stack;
    site->thread = thread;
    site->next = seen;
    while (!atomic_cas_strong(bucket, &site->next, site)) {
        struct profile_site *same = find_site(site->next, end, stack, thread);
        if (same) {
            return same; /* the memory of ours is lost */
        }
        end = site->next;
    }
    return site;
}

void hak_profile_each_site(void (*visit)(struct profile_site *site, void *context), void *context)
{
    for (uint32_t i = 0; i < PROFILE_SITE_BUCKETS; i++) {
        for (struct profile_site *site = atomic_load_acquire(&hak_profile_sites[i]); site;
             site = site->next) {
            visit(site, context);
        }
    }
}

/* Before its live numbers change: those of the last peak are kept. */
static void see_peak(struct profile_site *site)
{
    uint64_t peak = atomic_load_relaxed(&hak_profile_peak);
    if (atomic_load_relaxed(&site->peak_seen) != peak) {
        atomic_store_relaxed(&site->peak_objects, atomic_load_relaxed(&site->live_objects));
        atomic_store_relaxed(&site->peak_bytes, atomic_load_relaxed(&site->live_bytes));
        atomic_store_relaxed(&site->peak_seen, peak);
    }
}

static void add(uint64_t *number, uint64_t n)
{
    (void)atomic_add_relaxed(number, n);
}

void hak_profile_count_made(const struct profile_sample *sample)
{
    struct profile_site *site = sample->site;
    see_peak(site);
    add(&site->live_objects, sample->weight.objects);
    add(&site->live_bytes, sample->weight.bytes);
    add(&site->allocated_objects, sample->weight.objects);
    add(&site->allocated_bytes, sample->weight.bytes);
    uint64_t live =
        atomic_add_relaxed(&hak_profile_live_bytes, sample->weight.bytes) + sample->weight.bytes;
    uint64_t highest = atomic_load_relaxed(&peak_bytes);
    while (live > highest) {
        if (atomic_cas_strong(&peak_bytes, &highest, live)) {
            add(&hak_profile_peak, 1);
            break;
        }
    }
}

void hak_profile_count_freed(const struct profile_sample *sample, uint64_t now_ms)
{
    struct profile_site *site = sample->site;
    uint64_t lived_ms = now_ms - sample->made_ms;
    see_peak(site);
    (void)atomic_sub_relaxed(&site->live_objects, sample->weight.objects);
    (void)atomic_sub_relaxed(&site->live_bytes, sample->weight.bytes);
    (void)atomic_sub_relaxed(&hak_profile_live_bytes, sample->weight.bytes);
    add(&site->freed_objects, sample->weight.objects);
    add(&site->lifetime_ms, lived_ms * sample->weight.objects / PROFILE_OBJECT);
}
