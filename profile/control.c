/* Switches the profile on and off for who asks from outside (hakmem/profile_layout.h), and says
   where its tables lie. No locks. Called on slow paths of malloc with no lock held, and after a
   sample. Makes no system call but what switching makes: it reads a clock. */
#include <errno.h>

#include "base/os.h"
#include "hakmem/hakmem.h"
#include "hakmem/layout.h"
#include "hakmem/profile_layout.h"
#include "heap/theap.h"
#include "profile/profile.h"
#include "profile/sample.h"
#include "superslab/slab.h"

HAK_STATIC_ASSERT(sizeof PROFILE_LAYOUT_MAGIC == 16, "the magic number's field");

/* Written by the asker, too. */
static struct hak_profile_control control;

static int32_t switch_on(void)
{
    size_t period = atomic_load_relaxed(&control.period);
    if (hak_profile_is_on() && !control.until_ms) {
        return EBUSY; /* the program's own */
    }
    int error = hak_profile_is_on() ? 0 : hak_profile_begin(period);
    if (!error) {
        atomic_store_relaxed(&control.until_ms,
                             hak_profile_now_ms() + atomic_load_relaxed(&control.lease_ms));
    }
    return error;
}

static int32_t switch_off(void)
{
    if (!atomic_exchange_acq_rel(&control.until_ms, (uint64_t)0)) {
        return hak_profile_is_on() ? EBUSY : 0;
    }
    hak_profile_stop();
    return 0;
}

static void respond(void)
{
    uint32_t request = atomic_exchange_acq_rel(&hak_entry_asked, (uint32_t)PROFILE_ASK_NOTHING);
    if (request != PROFILE_ASK_NOTHING && atomic_load_relaxed(&control.epoch) == hak_theap_epoch) {
        int32_t error = request == PROFILE_ASK_ON ? switch_on() : switch_off();
        atomic_store_relaxed(&control.error, error);
        atomic_store_release(&control.n_answers, control.n_answers + 1);
    }
}

/* A handler that interrupted its thread while that switches, or samples, leaves it to another call.
 */
static void answer(void)
{
    if (hak_theap_holds_outside() || !hak_profile_enter()) {
        return;
    }
    hak_profile_leave();
    int saved = errno;
    respond();
    errno = saved;
}

/* A forked child was not asked. */
void hak_profile_keep_lease(void)
{
    /* Where nearly every call is sampled, hardly any other has the time to answer. */
    if (HAK_UNLIKELY(atomic_load_relaxed(&hak_entry_asked) != PROFILE_ASK_NOTHING)) {
        respond();
    }
    uint64_t until = atomic_load_relaxed(&control.until_ms);
    if (HAK_UNLIKELY(until && (hak_profile_now_ms() >= until ||
                               atomic_load_relaxed(&control.epoch) != hak_theap_epoch))) {
        (void)switch_off();
    }
}

void hak_profile_end_lease(void)
{
    atomic_store_relaxed(&control.until_ms, (uint64_t)0);
}

/* Writable, so that it is in the process's own pages. */
HAK_HIDDEN struct hak_profile_layout hak_profile_layout
    __attribute__((used, aligned(LAYOUT_ALIGN))) = {
        .magic = PROFILE_LAYOUT_MAGIC,
        .self = &hak_profile_layout,
        .version = PROFILE_LAYOUT_VERSION,
        .bytes = sizeof(struct hak_profile_layout),

        .request = &hak_entry_asked,
        .control = &control,
        .theap_epoch = &hak_theap_epoch,
        .period = &hak_profile_period,
        .last_period = &hak_profile_last_period,
        .began_ms = &hak_profile_began_ms,
        .peak = &hak_profile_peak,
        .samples = hak_profile_samples,
        .sites = hak_profile_sites,
        .points = hak_profile_line.points,
        .n_points = &hak_profile_line.n,

        .n_sample_buckets = PROFILE_SAMPLE_BUCKETS,
        .n_site_buckets = PROFILE_SITE_BUCKETS,
        .most_points = PROFILE_POINTS,
        .point_bytes = sizeof(struct profile_point),
        .stack_most = STACK_MOST,
        .object_unit = PROFILE_OBJECT,
        .nearly_empty = PROFILE_NEARLY_EMPTY,
        .slab_fresh = offsetof(struct slab, fresh),

        .sample_bytes = sizeof(struct profile_sample),
        .sample_key = offsetof(struct profile_sample, key),
        .sample_next = offsetof(struct profile_sample, next),
        .sample_kind = offsetof(struct profile_sample, kind),
        .sample_site = offsetof(struct profile_sample, site),
        .sample_start = offsetof(struct profile_sample, start),
        .sample_place = offsetof(struct profile_sample, place),
        .sample_objects = offsetof(struct profile_sample, weight.objects),

        .site_bytes = sizeof(struct profile_site),
        .site_next = offsetof(struct profile_site, next),
        .site_stack = offsetof(struct profile_site, stack),
        .site_thread = offsetof(struct profile_site, thread),
        .site_live_objects = offsetof(struct profile_site, live_objects),
        .site_live_bytes = offsetof(struct profile_site, live_bytes),
        .site_allocated_objects = offsetof(struct profile_site, allocated_objects),
        .site_allocated_bytes = offsetof(struct profile_site, allocated_bytes),
        .site_peak_objects = offsetof(struct profile_site, peak_objects),
        .site_peak_bytes = offsetof(struct profile_site, peak_bytes),
        .site_peak_seen = offsetof(struct profile_site, peak_seen),
        .site_freed_objects = offsetof(struct profile_site, freed_objects),
        .site_lifetime_ms = offsetof(struct profile_site, lifetime_ms),

        .stack_n = offsetof(struct stack, n),
        .stack_addresses = offsetof(struct stack, addresses),
};
HAK_STATIC_ASSERT(PROFILE_BLOCK == 0, "the kind that askers look at");

/* Nothing else names the layout: a linker that drops what is not used keeps it for this. */
void hak_profile_hear(void)
{
    __asm__ volatile("" : : "r"(&hak_profile_layout));
    hak_entry_answer = answer;
}
