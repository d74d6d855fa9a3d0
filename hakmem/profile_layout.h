/* Where the heap profile's tables lie in a process, and how it is switched on and off from outside:
   for who reads and writes its memory, as `hakmem profile PID` does (ask/sampled.c). Found as
   struct hak_layout is (layout.h): by its own magic number at a multiple of 64, followed by its own
   address. There is one where the profile is linked in.

   What it points to is never unmapped. Sites, stacks and samples are lists to whose front is put
   and from which nothing is taken (profile/sample.h), so that who reads from outside finds each
   list whole at any moment. Offsets are those of the variant; `version` changes with the meaning of
   a field.

   Asking. Whoever asks writes `epoch`, `period` and `lease_ms` of the control, and then *request.
   The process looks at that word on the slow paths of malloc, where no lock is held: the thread
   that sees it takes it, does what it says, writes `error`, and adds 1 to `n_answers`. It ends what
   was asked for by itself after `lease_ms`, unless it is asked again before: so that it samples no
   longer than a program wants to know. A forked child has another epoch: it passes the request by,
   and ends what was asked of its parent.
   A profile that the process's environment or the program has started is none of an asker's. */
#ifndef HAKMEM_HAKMEM_PROFILE_LAYOUT_H
#define HAKMEM_HAKMEM_PROFILE_LAYOUT_H

#include "base/internal.h"

HAK_EXTERN_C_BEGIN

#define PROFILE_LAYOUT_VERSION 1u
#define PROFILE_LAYOUT_MAGIC   "\177hakmem-profil\n" /* 16 bytes with its NUL */

enum profile_request { PROFILE_ASK_NOTHING, PROFILE_ASK_ON, PROFILE_ASK_OFF };

struct hak_profile_control {
    /* Of whoever asks. */
    uint64_t period, lease_ms;
    uint32_t epoch; /* hak_theap_epoch of the process that is asked */
    /* Of the process. */
    uint32_t n_answers;
    uint64_t until_ms; /* on its coarse monotonic clock; 0: none */
    int32_t error;     /* an errno value of the last answer; EBUSY: not the asker's profile */
    uint32_t unused;
};

struct hak_profile_layout {
    char magic[16];
    const struct hak_profile_layout *self;
    uint32_t version, bytes; /* PROFILE_LAYOUT_VERSION, sizeof(struct hak_profile_layout) */

    uint32_t *request; /* enum profile_request */
    struct hak_profile_control *control;
    const uint32_t *theap_epoch;
    const size_t *period, *last_period; /* period: 0 while nothing is sampled */
    const uint64_t *began_ms;           /* 0: never */
    const uint64_t *peak;               /* sample.h */
    const void *samples, *sites;        /* buckets: first elements of lists */
    const void *points;                 /* of the time line */
    const uint32_t *n_points;

    uint32_t n_sample_buckets, n_site_buckets, most_points, point_bytes, stack_most, object_unit;
    uint32_t nearly_empty, slab_fresh; /* what `pinned` counts (docs/profile.md) */
    /* Offsets and sizes. */
    uint32_t sample_bytes, sample_key, sample_next, sample_kind, sample_site, sample_start,
        sample_place, sample_objects;
    uint32_t site_bytes, site_next, site_stack, site_thread, site_live_objects, site_live_bytes,
        site_allocated_objects, site_allocated_bytes, site_peak_objects, site_peak_bytes,
        site_peak_seen, site_freed_objects, site_lifetime_ms;
    uint32_t stack_n, stack_addresses;
};

HAK_EXTERN_C_END

#endif
