/* Trims of all that is kept for reuse: before a request is refused, and above the soft limit. No
   lock is held over more than one owner's share of it. One lock of its own, for what a trim in vain
   is remembered by; whoever finds it taken does without. Called by every request of the slow paths,
   and by hak_purge. */
#include "ace/ace.h"
#include "base/os.h"
#include "base/stats.h"
#include "base/time.h"
#include "hakmem/entry.h"
#include "hakmem/request.h"
#include "heap/theap.h"
#include "limit/fail.h"
#include "limit/limit.h"
#include "superslab/apart.h"
#include "superslab/superslab.h"

/* No program gets more address space than this, unless it asks the system for more itself. */
#if defined(__x86_64__)
#define ADDRESS_SPACE ((size_t)1 << 47)
#else
#define ADDRESS_SPACE ((size_t)1 << 48)
#endif
/* How long a trim in vain is remembered. */
#define VAIN_MS 100u

/* Of what is kept, so small a part of a request's size makes no difference to it. */
#define VAIN_SHARE 8

/* The last trim that did not help, and what there was right after it. A request of at least that
   size is refused without another trim, which would end like the last, unless
   - less is really in use now (slabs, spans, ranges). The calling thread's own heap is trimmed
   first, which takes no look at other heaps; or
   - more is kept for reuse, by a part of the request's size that counts: dirty and cached memory,
     address space ahead of blocks that may grow, and slabs that became empty and stay with their
     owners. (Where as much is in use, it lies elsewhere now: more may be in one piece.)
   Two things do not show: what was sent to threads that sleep, and what has changed outside, as the
   system's or the user's limits. So it is remembered for VAIN_MS only. */
struct vain {
    uint64_t ns; /* when; 0: never */
    size_t size;
    int64_t in_use, kept;
};
static struct vain vain;
static void forget_vain(void);
static LOCK_DEFINE_MENDED(vain_lock, LOCK_RANK_META, forget_vain);

static void forget_vain(void)
{
    vain = (struct vain){0, 0, 0, 0};
}

size_t hak_request_reclaim(void)
{
    int (*reclaim)(void) = atomic_load_acquire(&hak_entry_reclaim);
    if (reclaim) {
        (void)reclaim();
    }
    hak_theap_trim_all();
    size_t bytes = hak_ace_purge(0) + hak_ss_purge(0);
    while (reclaim && reclaim()) {
        bytes += hak_ace_purge(0) + hak_ss_purge(0);
    }
    return bytes;
}

static struct vain now(size_t size)
{
    int64_t kept = hak_stat_get(heap_dirty_bytes) + hak_stat_get(large_cached_bytes) +
                   (int64_t)hak_ace_room() + (int64_t)(hak_bank_n_empty() * SS_UNIT_BYTES);
    return (struct vain){hak_os_ops.clock_ns(), size,
                         hak_stat_get(heap_used_bytes) + hak_stat_get(large_bytes), kept};
}

static struct vain remembered(void)
{
    struct vain last = {0, 0, 0, 0};
    if (hak_lock_try(&vain_lock)) {
        last = vain;
        hak_lock_release(&vain_lock);
    }
    return last;
}

static void remember(const struct vain *last)
{
    if (hak_lock_try(&vain_lock)) {
        vain = *last;
        hak_lock_release(&vain_lock);
    }
}

static int is_vain(size_t size)
{
    struct vain last = remembered();
    if (!last.ns || size < last.size) {
        return 0;
    }
    hak_theap_trim_own();
    struct vain present = now(size);
    return present.ns - last.ns < hak_time_ns_of_ms(VAIN_MS) && present.in_use >= last.in_use &&
           present.kept - last.kept <= (int64_t)(size / VAIN_SHARE);
}

void *hak_request_again(void *(*ask)(void *context), void *context, size_t size, size_t align)
{
    size_t least = size > align ? size : align;
    if (least > ADDRESS_SPACE || is_vain(least)) {
        return NULL;
    }
    hak_fail_reclaim();
    (void)hak_request_reclaim();
    struct vain after = now(least);
    void *p = ask(context);
    if (!p && hak_ss_forget_classes()) {
        (void)hak_ss_purge(0);
        p = ask(context);
    }
    if (!p) {
        remember(&after);
    }
    return p;
}

void hak_request_mind_limits(void)
{
    (void)hak_ace_purge_excess();
    if (HAK_UNLIKELY(hak_limit_wants_purge())) {
        hak_stat_add(soft_purges, 1);
        (void)hak_request_reclaim();
        (void)hak_theap_purge_all();
        hak_limit_purged();
    }
}
