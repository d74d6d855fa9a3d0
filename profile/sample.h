/* Sampled blocks, and what is known of each call site.

   struct profile_sample is a block that was sampled and is live. It lies in one bucket of a hash
   table of addresses for ever. States, by `key`: 0, free for the next sample of its bucket; 1, a
   thread writes or reads it; else the block's address, as the program knows it. Only who has
   changed the key to 1, by compare-and-swap, writes the other fields; others read them where a
   wrong answer does no harm (a walk, a report). struct profile_site is a call site: a stack, and a
   thread where threads are told apart. It is never freed. Its numbers are estimates, written by
   relaxed additions.

   Peak. `hak_profile_peak` counts the times that the live bytes were higher than ever before. A
   site that has seen the last of them has its bytes of that moment in peak_*; for another one they
   are its live ones, which have not changed since. So no call looks at all sites.

   No locks: a forked child finds everything whole, except for samples that other threads were
   writing, which it loses. */
#ifndef HAKMEM_PROFILE_SAMPLE_H
#define HAKMEM_PROFILE_SAMPLE_H

#include "base/internal.h"

#include "base/atomic.h"
#include "base/attributes.h"
#include "profile/meter.h"
#include "stack/stack.h"

HAK_EXTERN_C_BEGIN

struct hak_heap;

struct profile_site {
    struct profile_site *next; /* in its bucket */
    const struct stack *stack;
    uint32_t thread;                   /* 0 where threads are not told apart */
    uint64_t live_objects, live_bytes; /* objects in 1 / PROFILE_OBJECT */
    uint64_t allocated_objects, allocated_bytes;
    uint64_t peak_objects, peak_bytes, peak_seen;
    uint64_t freed_objects, lifetime_ms;
    uint64_t pinned_bytes; /* whoever writes the profile */
};

/* What lies under an address that the table knows. */
enum profile_kind {
    PROFILE_BLOCK,
    PROFILE_PLACE, /* the block that a sampled one would have been (layer.c) */
};

struct profile_sample {
    uintptr_t key;
    struct profile_sample *next; /* in its bucket */
    enum profile_kind kind;
    struct profile_site *site;
    struct hak_heap *heap; /* first-class, or NULL */
    void *start;           /* of the block, at or before the address */
    void *place;           /* or NULL */
    size_t usable;         /* bytes from the address on */
    uint64_t made_ms;
    struct profile_weight weight;
};

/* The tables' buckets, for who reads them from outside (hakmem/profile_layout.h). */
#define PROFILE_SAMPLE_BUCKETS HAK_TINY_OR(16u, 4096u)
#define PROFILE_SITE_BUCKETS   HAK_TINY_OR(16u, 4096u)
extern struct profile_sample *hak_profile_samples[PROFILE_SAMPLE_BUCKETS] HAK_HIDDEN;
extern struct profile_site *hak_profile_sites[PROFILE_SITE_BUCKETS] HAK_HIDDEN;

static inline uint32_t hak_profile_hash(const void *p)
{
    return (uint32_t)((uint64_t)((uintptr_t)p >> 4) * UINT64_C(0x9e3779b97f4a7c15) >> 36);
}
static inline uint32_t hak_profile_bucket(const void *p)
{
    return hak_profile_hash(p) % PROFILE_SAMPLE_BUCKETS;
}
/* How many samples of that hash there are: buckets, which keep their entries, fill with time. */
#define PROFILE_COUNTS HAK_TINY_OR(1024u, 16384u)
extern uint16_t hak_profile_counts[PROFILE_COUNTS] HAK_HIDDEN;
/* 0 if nothing lies under the address, for sure. */
static inline int hak_profile_may_have(const void *p)
{
    return atomic_load_relaxed(&hak_profile_counts[hak_profile_hash(p) % PROFILE_COUNTS]) != 0;
}

/* The site of a stack, made at need; NULL if the system refuses memory. */
struct profile_site *hak_profile_site(const struct stack *stack, uint32_t thread);

/* Puts a copy of the sample under the address. Returns 0 if the system refuses memory. */
int hak_profile_put(const void *p, const struct profile_sample *sample);
/* Takes what lies under the address out of the table, and copies it. Returns 0 if there is none. */
int hak_profile_take(const void *p, struct profile_sample *sample);
/* Copies it; 0 if there is none. It may be another thread's next one in the same moment. */
int hak_profile_look(const void *p, struct profile_sample *sample);

/* The numbers of the site, for a block that was made, or freed at `now_ms`. */
void hak_profile_count_made(const struct profile_sample *sample);
void hak_profile_count_freed(const struct profile_sample *sample, uint64_t now_ms);

/* Calls visit for each sample, or each site, that there is throughout. */
void hak_profile_each_sample(void (*visit)(const struct profile_sample *sample, void *context),
                             void *context);
void hak_profile_each_site(void (*visit)(struct profile_site *site, void *context), void *context);

extern uint64_t hak_profile_peak HAK_HIDDEN;
/* Estimates of all sites together. */
extern uint64_t hak_profile_live_bytes HAK_HIDDEN;
/* Addresses in the table. */
extern uint64_t hak_profile_n_samples HAK_HIDDEN;

HAK_EXTERN_C_END

#endif
