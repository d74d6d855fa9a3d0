/* Purging superslabs. What goes is taken out of the lists with the pool's lock held (`leaving`),
   goes without it, and comes back clean, or, where the system refused, as it was. So no one waits
   for the system but who purges; and a call purges a bounded part of what is due. Called by span.c,
   by who has released an owner's lock, by trims and the background thread. */
#include "superslab/lists.h"

#include "base/os.h"
#include "base/stats.h"
#include "base/time.h"
#include "limit/limit.h"

/* A superslab that is marked for huge pages loses the mark when it is purged with less than this
   part of it in use: each small block there would bring 2 MiB back. */
#define HUGE_SPARSE 2u
/* What one call of hak_ss_purge_due does at least, as far as it is due: so much, or four times what
   was freed since the last one, so that it is ahead of the program; and at most: a purge of 4 MiB
   takes 0.1 to 0.2 ms. */
#define DUE_LEAST SS_BYTES
#define DUE_MOST  ((size_t)4 * HAK_MIB)
/* And no more system calls than that, except for the superslab that it has begun with. */
#define DUE_CALLS 24u
/* Others leave what is due to a thread that is in the system with it, for so long at most. */
#define BUSY_NS 10000000u

/* Granules of one superslab on their way. */
struct batch {
    struct superslab *ss;
    char *base;
    struct granules set;  /* what leaves */
    struct granules kept; /* of it, what the system refused */
    int is_whole;         /* nothing of the superslab is used: it has left the map, too */
    int is_unmapped;      /* the region is unmapped, or shall be */
    int is_sparse;        /* the region shall have small pages again */
    uint32_t n_calls;
};

static uint32_t is_due;
/* A thread is in a system call with what is due, at most until then: another one would only wait
   for it. A moment and no flag, since a forked child may have lost the thread. */
static uint64_t busy_until_ns;
static size_t freed; /* bytes, since hak_ss_purge_due was last busy with them */

/* Whether the oldest one is due. Pool lock held. */
static int oldest_is_due(uint64_t now_ns, uint64_t delay_ns, size_t keep)
{
    const struct superslab *ss = hak_pool_lists.aged.first;
    if (!ss) {
        return 0;
    }
    uint64_t age_ns = now_ns > ss->dirty_since_ns ? now_ns - ss->dirty_since_ns : 0;
    return age_ns >= delay_ns || hak_pool_purgeable_bytes() > keep;
}

static int is_due_by_policy(uint64_t now_ns)
{
    const struct ss_policy *policy = hak_pool_policy();
    return oldest_is_due(now_ns, hak_time_ns_of_ms(policy->delay_ms()), policy->keep_bytes());
}

void hak_pool_note_freed(size_t bytes, uint64_t now_ns)
{
    freed += bytes;
    if (!is_due && is_due_by_policy(now_ns)) {
        atomic_store_relaxed(&is_due, 1u);
    }
}

/* Whether the system has nothing of ours beside it, so that unmapping it splits no mapping. */
static int is_at_edge(const struct superslab *ss)
{
    return !hak_map_get(ss->base - 1).tag || !hak_map_get(ss->base + SS_BYTES).tag;
}

/* Whether unmapping it leaves the process with mappings enough. */
static int may_unmap(const struct superslab *ss)
{
    return hak_limit_may_split() || is_at_edge(ss);
}

/* A superslab leaves as a whole, and with it what was refused. Pool lock held. */
static void take_out_whole(struct batch *batch)
{
    struct superslab *ss = batch->ss;
    batch->set = ss->dirty;
    batch->is_whole = 1;
    batch->is_unmapped = may_unmap(ss);
    hak_pool_lists.refused_bytes -=
        hak_granules_count(&ss->refused, 0, SS_GRANULES) * SS_GRANULE_BYTES;
    hak_pool_leave(ss);
    hak_map_set(ss->base, SS_UNITS, 0, 0);
    atomic_store_relaxed(&ss->base, NULL);
    hak_stat_sub(superslabs, 1);
}

static void take_out_part(struct batch *batch, int is_retry)
{
    struct superslab *ss = batch->ss;
    for (uint32_t i = 0; i < SS_GRANULE_WORDS; i++) {
        uint64_t word = ss->dirty.word[i] & (is_retry ? ~(uint64_t)0 : ~ss->refused.word[i]);
        batch->set.word[i] = word;
        hak_pool_lists.refused_bytes -=
            (size_t)__builtin_popcountll(ss->refused.word[i] & word) * SS_GRANULE_BYTES;
        ss->refused.word[i] &= ~word;
        ss->dirty.word[i] &= ~word;
        ss->free.word[i] &= ~word;
        ss->leaving.word[i] |= word;
    }
    hak_pool_relist(ss);
    hak_pool_refile(ss);
}

/* Pool lock held. `is_retry`: also what was refused before. */
static void take_out(struct batch *batch, struct superslab *ss, int is_retry)
{
    uint32_t n_free = hak_granules_count(&ss->free, 0, SS_GRANULES);
    *batch = (struct batch){.ss = ss, .base = ss->base};
    batch->is_sparse = ss->is_huge && n_free > SS_GRANULES - SS_GRANULES / HUGE_SPARSE;
    if (n_free + hak_pool_guard_granules(ss) == SS_GRANULES && !hak_pool_keeps_classes(ss)) {
        hak_pool_forget_closed(ss);
        take_out_whole(batch);
    } else {
        take_out_part(batch, is_retry);
    }
    size_t bytes = hak_granules_count(&batch->set, 0, SS_GRANULES) * SS_GRANULE_BYTES;
    hak_stat_add_locked(heap_dirty_bytes, -(int64_t)(bytes));
    hak_limit_uncommit(bytes); /* at once: who is refused at this moment would not ask again */
}

/* What described its slabs is not needed any more, and reads as 0 then. */
static void drop_slabs(const struct superslab *ss)
{
    if (sizeof(struct superslab_slabs) % hak_os_page_size() == 0) {
        int refused = hak_os_purge(ss->slabs, sizeof(struct superslab_slabs));
        (void)refused; /* then it stays, which costs no more than before */
    }
}

/* No lock held, and no other thread knows of what leaves. */
static void purge_batch(struct batch *batch)
{
    uint32_t end;
    if (batch->is_whole) {
        batch->n_calls += 2;
        batch->is_unmapped = batch->is_unmapped && hak_os_unmap(batch->base, SS_BYTES) == 0;
        drop_slabs(batch->ss);
    }
    if (batch->is_unmapped) {
        hak_map_purge(batch->base, SS_BYTES);
        return;
    }
    if (batch->is_sparse) {
        hak_os_small_pages(batch->base, SS_BYTES);
        batch->n_calls++;
    }
    for (uint32_t first = hak_granules_next(&batch->set, 0, 1); first < SS_GRANULES;
         first = hak_granules_next(&batch->set, end, 1)) {
        end = hak_granules_next(&batch->set, first, 0);
        batch->n_calls++;
        if (hak_os_purge(batch->base + first * SS_GRANULE_BYTES,
                         (end - first) * SS_GRANULE_BYTES)) {
            hak_granules_set(&batch->kept, first, end - first);
        }
    }
}

/* The region has gone. Pool lock held. */
static void forget_region(struct superslab *ss)
{
    hak_limit_count_mappings(HAK_SECURE && hak_pool_guards(ss) ? -(int)SS_UNITS : -1);
    hak_pool_drop_description(ss);
    hak_limit_unmap(SS_BYTES);
}

/* The region stays: it is there again, all free. Pool lock held. */
static void restore_region(const struct batch *batch)
{
    struct superslab *ss = batch->ss;
    ss->free = hak_pool_all_granules(ss);
    for (uint32_t i = 0; i < SS_GRANULE_WORDS; i++) {
        ss->dirty.word[i] = ss->refused.word[i] = ss->leaving.word[i] = 0;
    }
    atomic_store_relaxed(&ss->base, batch->base);
    hak_map_set(ss->base, SS_UNITS, TAG_FREE_UNIT, ss->number);
    hak_stat_add(superslabs, 1);
    hak_pool_enter(ss);
    hak_pool_keep_closed(ss);
}

/* Pool lock held. Returns how many bytes went. */
static size_t put_back(const struct batch *batch)
{
    struct superslab *ss = batch->ss;
    size_t bytes = hak_granules_count(&batch->set, 0, SS_GRANULES) * SS_GRANULE_BYTES;
    size_t kept = hak_granules_count(&batch->kept, 0, SS_GRANULES) * SS_GRANULE_BYTES;
    if (batch->is_unmapped) {
        forget_region(batch->ss);
    } else {
        if (batch->is_whole) {
            restore_region(batch);
        }
        for (uint32_t i = 0; i < SS_GRANULE_WORDS; i++) {
            ss->leaving.word[i] &= ~batch->set.word[i];
            ss->free.word[i] |= batch->set.word[i];
            ss->dirty.word[i] |= batch->kept.word[i];
            ss->refused.word[i] |= batch->kept.word[i];
        }
        ss->is_huge = ss->is_huge && !batch->is_sparse;
        ss->was_huge = ss->was_huge || batch->is_sparse;
        hak_pool_lists.refused_bytes += kept;
        hak_stat_add_locked(heap_dirty_bytes, kept);
        hak_limit_commit(kept);
        if (!batch->is_whole) {
            hak_pool_mark_free_units(ss, 0, SS_GRANULES);
        }
        hak_pool_relist(ss);
        hak_pool_refile(ss);
    }
    hak_stat_add(heap_purged_bytes, bytes - kept);
    if (bytes > kept) {
        hak_pool_policy()->purged(bytes - kept);
    }
    return bytes - kept;
}

/* Pool lock held; released while the system works. Returns how many bytes went. */
static size_t purge_one(struct superslab *ss, int is_retry, uint32_t *n_calls)
{
    struct batch batch;
    take_out(&batch, ss, is_retry);
    atomic_store_relaxed(&busy_until_ns, hak_os_ops.clock_ns() + BUSY_NS);
    hak_lock_release(&hak_pool_lock);
    purge_batch(&batch);
    hak_lock_acquire(&hak_pool_lock);
    atomic_store_relaxed(&busy_until_ns, (uint64_t)0);
    *n_calls += batch.n_calls;
    return put_back(&batch);
}

/* Pool lock held. */
static size_t purge_some(uint64_t now_ns)
{
    size_t bytes = 0, wanted = 4 * freed;
    uint32_t n_calls = 0;
    wanted = wanted > DUE_LEAST ? wanted : DUE_LEAST;
    wanted = wanted < DUE_MOST ? wanted : DUE_MOST;
    freed -= freed < wanted ? freed : wanted;
    while (bytes < wanted && n_calls < DUE_CALLS && is_due_by_policy(now_ns)) {
        bytes += purge_one(hak_pool_lists.aged.first, 0, &n_calls);
    }
    return bytes;
}

void hak_ss_purge_due(void)
{
    if (HAK_LIKELY(!atomic_load_relaxed(&is_due))) {
        return;
    }
    uint64_t now_ns = hak_os_ops.clock_ns();
    if (atomic_load_relaxed(&busy_until_ns) > now_ns) {
        return;
    }
    hak_lock_acquire(&hak_pool_lock);
    (void)purge_some(now_ns);
    if (!is_due_by_policy(now_ns)) {
        atomic_store_relaxed(&is_due, 0u);
        freed = 0;
    }
    hak_lock_release(&hak_pool_lock);
}

size_t hak_ss_purge_step(uint64_t delay_ms, int *is_last)
{
    size_t bytes = 0;
    uint32_t n_calls = 0;
    uint64_t now_ns = hak_os_ops.clock_ns();
    hak_lock_acquire(&hak_pool_lock);
    *is_last = !oldest_is_due(now_ns, hak_time_ns_of_ms(delay_ms), hak_pool_policy()->keep_bytes());
    if (!*is_last) {
        bytes = purge_one(hak_pool_lists.aged.first, 0, &n_calls);
    }
    hak_lock_release(&hak_pool_lock);
    return bytes;
}

/* The refused one that waits longest is asked for again. */
static size_t purge_refused(void)
{
    uint32_t n_calls = 0;
    hak_lock_acquire(&hak_pool_lock);
    struct superslab *ss = hak_pool_lists.refused.first;
    size_t bytes = ss ? purge_one(ss, 1, &n_calls) : 0;
    hak_lock_release(&hak_pool_lock);
    return bytes;
}

/* Unmaps the next region without a used granule that can be; else the next one's turn comes. */
static size_t unmap_empty(void)
{
    size_t bytes = 0;
    uint32_t n_calls = 0;
    hak_lock_acquire(&hak_pool_lock);
    struct superslab *ss = hak_pool_lists.by_units[SS_UNITS].first;
    if (ss && may_unmap(ss)) {
        bytes = purge_one(ss, 1, &n_calls);
    } else if (ss) {
        hak_pool_put_last(ss);
    }
    hak_lock_release(&hak_pool_lock);
    return bytes;
}

size_t hak_ss_purge(uint64_t delay_ms)
{
    size_t bytes = 0;
    int is_last = 0;
    hak_lock_acquire(&hak_pool_lock);
    uint32_t n_aged = hak_pool_lists.n_aged, n_refused = delay_ms ? 0 : hak_pool_lists.n_refused;
    hak_lock_release(&hak_pool_lock);
    /* Each once, whatever other threads free while this goes on. */
    for (; n_aged && !is_last; n_aged--) {
        bytes += hak_ss_purge_step(delay_ms, &is_last);
    }
    for (; n_refused; n_refused--) {
        bytes += purge_refused();
    }
    for (uint32_t n = delay_ms ? 0 : atomic_load_relaxed(&hak_pool_lists.n_empty); n; n--) {
        bytes += unmap_empty();
    }
    return bytes;
}

/* --- a region for others --- */

int hak_ss_has_region(void)
{
    return !HAK_SECURE && atomic_load_relaxed(&hak_pool_lists.n_empty) != 0;
}

/* All of it becomes committed. Pool lock held. */
static size_t takeable_bytes(const struct superslab *ss)
{
    size_t bytes = hak_granules_count(&ss->dirty, 0, SS_GRANULES) * SS_GRANULE_BYTES;
    int is_whole = !hak_pool_guards(ss) && !ss->is_huge && ss->age_list == SS_AGED;
    return is_whole && bytes >= SS_BYTES / 2 && hak_limit_has_room(SS_BYTES - bytes) ? bytes : 0;
}

char *hak_ss_take_region(size_t *dirty)
{
    struct batch batch = {.ss = NULL};
    hak_lock_acquire(&hak_pool_lock);
    struct superslab *ss = hak_pool_lists.by_units[SS_UNITS].first;
    if (!HAK_SECURE && ss && (*dirty = takeable_bytes(ss)) != 0) {
        batch = (struct batch){.ss = ss, .base = ss->base};
        take_out_whole(&batch);
        hak_stat_add_locked(heap_dirty_bytes, -(int64_t)(*dirty));
        hak_limit_commit(SS_BYTES - *dirty);
    }
    hak_lock_release(&hak_pool_lock);
    if (batch.ss) {
        drop_slabs(ss);
        hak_lock_acquire(&hak_pool_lock);
        forget_region(ss);
        hak_lock_release(&hak_pool_lock);
    }
    return batch.base;
}
