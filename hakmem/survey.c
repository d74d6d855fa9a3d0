/* Takes a survey: walks superslabs and owners through a layout. No locks, no memory of its own.
   Called by hak_stat and hak_stats_json for this process, and by the `hakmem` command for others.
 */
#include "hakmem/survey.h"

#include <errno.h>
#include <string.h>

#include "ace/ace_class.h"
#include "heap/theap.h"
#include "limit/limit.h"
#include "owner/bank.h"

enum { MOST_ID_WORDS = 1024, BATCH = 64, SUPERSLAB_MOST = 2048, OUTBOX_MOST = 256 };

struct taking {
    const struct survey_source *source;
    const struct hak_layout *at;
    struct survey *out;
    struct survey_heap *heaps;
    uint32_t n_heaps;
    uint64_t slab_bytes, cached_bytes, n_slabs; /* live and cached blocks of slabs; cached; slabs */
    int error;
};

/* Reads n bytes; what cannot be read is 0, and the first error is kept. */
static void get(struct taking *self, const void *at, void *out, size_t n)
{
    int error = at ? self->source->read(self->source->context, at, out, n) : EFAULT;
    if (error) {
        memset(out, 0, n);
        self->error = self->error ? self->error : error;
    }
}

static const void *at_offset(const void *at, size_t offset)
{
    return at ? (const char *)at + offset : NULL;
}

static uint16_t field16(const void *bytes, uint32_t offset)
{
    uint16_t value;
    memcpy(&value, (const char *)bytes + offset, sizeof value);
    return value;
}

static uint32_t field32(const void *bytes, uint32_t offset)
{
    uint32_t value;
    memcpy(&value, (const char *)bytes + offset, sizeof value);
    return value;
}

static uint64_t field64(const void *bytes, uint32_t offset)
{
    uint64_t value;
    memcpy(&value, (const char *)bytes + offset, sizeof value);
    return value;
}

static const void *field_pointer(const void *bytes, uint32_t offset)
{
    return (const void *)(uintptr_t)field64(bytes, offset);
}

static struct survey_heap *heap_of(const struct taking *self, uint32_t id)
{
    return id < self->n_heaps ? &self->heaps[id] : NULL;
}

/* --- slabs --- */

/* What it says may be of two moments: no sum is taken for more than it can be. */
static void count_slab(struct taking *self, const char *slab)
{
    const struct hak_layout *at = self->at;
    uint32_t class = field16(slab, at->slab_class), capacity = field16(slab, at->slab_capacity),
             n_free = field16(slab, at->slab_n_free);
    /* The secure variant's slabs of the last class have fewer. */
    if (class >= SC_N_CLASSES || capacity > hak_sc_table[class].capacity || n_free > capacity) {
        return;
    }
    struct survey_class *row = &self->out->classes[class];
    uint64_t size = hak_sc_table[class].size;
    row->slabs++;
    row->free += n_free;
    row->live += capacity - n_free;
    self->n_slabs++;
    self->slab_bytes += (capacity - n_free) * size;
    struct survey_heap *heap = heap_of(self, field32(slab, at->slab_owner));
    if (heap) {
        heap->live_bytes += (capacity - n_free) * size;
        heap->free_bytes += SC_SLAB_BYTES - (capacity - n_free) * size;
    }
}

static void count_superslab(struct taking *self, const void *superslab)
{
    const struct hak_layout *at = self->at;
    _Alignas(8) char bytes[SUPERSLAB_MOST], slabs[SS_UNITS * sizeof(struct slab)];
    get(self, superslab, bytes, at->superslab_bytes);
    uint32_t mask = field32(bytes, at->superslab_mask);
    if (!mask || !field_pointer(bytes, at->superslab_base)) {
        return;
    }
    get(self, field_pointer(bytes, at->superslab_slabs), slabs, (size_t)SS_UNITS * at->slab_bytes);
    for (; mask; mask &= mask - 1) {
        count_slab(self, slabs + (size_t)__builtin_ctz(mask) * at->slab_bytes);
    }
}

static void count_superslabs(struct taking *self)
{
    const void *chunk = NULL, *batch[BATCH];
    uint32_t n = 0;
    get(self, at_offset(self->at->superslabs, self->at->numbered_n), &n, sizeof n);
    for (uint32_t i = 0; i < n && i / NUMBERED_CHUNK < NUMBERED_CHUNKS && !self->error; i++) {
        if (i % NUMBERED_CHUNK == 0) {
            get(self, at_offset(self->at->superslabs, i / NUMBERED_CHUNK * sizeof(void *)), &chunk,
                sizeof(void *));
        }
        if (i % BATCH == 0) {
            get(self, at_offset(chunk, i % NUMBERED_CHUNK * sizeof(void *)), batch, sizeof batch);
        }
        if (batch[i % BATCH]) {
            count_superslab(self, batch[i % BATCH]);
        }
    }
}

/* --- owners --- */

static uint64_t cache_class(struct taking *self, uint32_t class, uint64_t n)
{
    struct survey_class *row = &self->out->classes[class];
    uint64_t from_live = n < row->live ? n : row->live;
    row->cached += from_live;
    row->live -= from_live;
    return n * hak_sc_table[class].size;
}

static uint64_t count_bins(struct taking *self, const void *theap)
{
    const struct hak_layout *at = self->at;
    _Alignas(8) char bins[SC_N_CLASSES * sizeof(struct bin)],
        spares[SC_N_CLASSES * sizeof(struct spare)];
    uint16_t limits[SC_N_CLASSES];
    uint64_t bytes = 0;
    get(self, at_offset(theap, at->theap_bins), bins, (size_t)SC_N_CLASSES * at->bin_bytes);
    get(self, at_offset(theap, at->theap_spares), spares, (size_t)SC_N_CLASSES * at->spare_bytes);
    get(self, at_offset(theap, at->theap_limits), limits, sizeof limits);
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        int64_t n = (int64_t)limits[c] - (int32_t)field32(bins, c * at->bin_bytes + at->bin_room);
        n = n > 0 && n <= UINT16_MAX ? n : 0;
        bytes += cache_class(self, c,
                             (uint64_t)n + field32(spares, c * at->spare_bytes + at->spare_count));
    }
    return bytes;
}

/* Of a heap whose calls a layer meters, or has metered. The room of such a bin is minus the number
   of its blocks. */
static uint64_t count_metered(struct taking *self, const void *theap)
{
    const struct hak_layout *at = self->at;
    _Alignas(8) char bins[SC_N_CLASSES * sizeof(struct bin)];
    uint32_t has_metered = 0;
    uint64_t bytes = 0;
    get(self, at_offset(theap, at->theap_has_metered), &has_metered, sizeof has_metered);
    if (!has_metered) {
        return 0;
    }
    get(self, at_offset(theap, at->theap_metered), bins, (size_t)SC_N_CLASSES * at->bin_bytes);
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        int64_t n = -(int64_t)(int32_t)field32(bins, c * at->bin_bytes + at->bin_room);
        bytes += cache_class(self, c, n > 0 && n <= UINT16_MAX ? (uint64_t)n : 0);
    }
    return bytes;
}

static uint64_t count_outbox(struct taking *self, const void *theap)
{
    const struct hak_layout *at = self->at;
    _Alignas(8) char slots[OUTBOX_MOST * sizeof(struct outbox_slot)];
    uint64_t bytes = 0;
    get(self, at_offset(theap, at->theap_outbox), slots,
        (size_t)at->outbox_slots * at->outbox_bytes);
    for (uint32_t i = 0; i < at->outbox_slots; i++) {
        const char *slot = slots + (size_t)i * at->outbox_bytes;
        uint32_t class = TAG_CLASS(field32(slot, at->outbox_tag));
        uint16_t n = field16(slot, at->outbox_count);
        if (n && class < SC_N_CLASSES) {
            bytes += cache_class(self, class, n);
        }
    }
    return bytes;
}

static uint64_t count_depot(struct taking *self, const void *theap)
{
    uint32_t blocks[SC_N_CLASSES];
    uint64_t bytes = 0;
    get(self, at_offset(theap, self->at->theap_depot_blocks), blocks, sizeof blocks);
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        bytes += cache_class(self, c, blocks[c]);
    }
    return bytes;
}

static void count_owner(struct taking *self, uint32_t id, const void *owner)
{
    const struct hak_layout *at = self->at;
    uint32_t kind = 0, state = 0, is_live = 0, n_slabs = 0, epoch = 0;
    uint64_t cached = 0;
    int64_t inbox = 0;
    get(self, at_offset(owner, at->owner_kind), &kind, sizeof kind);
    get(self, at_offset(owner, at->owner_state), &state, sizeof state);
    get(self, at_offset(owner, at->owner_is_live), &is_live, sizeof is_live);
    get(self, at_offset(owner, at->owner_n_slabs), &n_slabs, sizeof n_slabs);
    get(self, at->theap_epoch, &epoch, sizeof epoch);
    if (kind == OWNER_THREAD) {
        const char *theap = (const char *)owner - at->theap_owner;
        get(self, at_offset(owner, at->owner_inbox_bytes), &inbox, sizeof inbox);
        cached = count_depot(self, theap) + (uint64_t)(inbox > 0 ? inbox : 0);
        /* An orphan may be parked (parked.h); what lost threads had in their caches is forgotten.
         */
        if (state == epoch || state == HEAP_ORPHAN) {
            cached +=
                count_bins(self, theap) + count_metered(self, theap) + count_outbox(self, theap);
        }
    }
    self->cached_bytes += cached;
    struct survey_heap *heap = heap_of(self, id);
    if (heap) {
        heap->id = id;
        heap->kind = kind;
        heap->slabs = n_slabs;
        heap->cached_bytes = cached;
        heap->live_bytes -= cached < heap->live_bytes ? cached : heap->live_bytes;
        heap->state = kind == OWNER_THREAD ? (state == epoch ? SURVEY_LIVE
                                              : state        ? SURVEY_STALE
                                                             : SURVEY_ORPHAN)
                      : is_live            ? SURVEY_LIVE
                                           : SURVEY_ORPHAN;
    }
}

uint32_t hak_survey_n_heaps(const struct survey_source *source, const struct hak_layout *layout)
{
    uint32_t n_words = 0;
    int error = source->read(source->context, at_offset(layout->owners, layout->owners_n_words),
                             &n_words, sizeof n_words);
    return error || n_words > layout->owner_id_words || n_words > MOST_ID_WORDS ? 0 : n_words * 64;
}

static void count_owners(struct taking *self)
{
    const struct hak_layout *at = self->at;
    const void *batch[BATCH];
    uint32_t n_words = 0;
    get(self, at_offset(at->owners, at->owners_n_words), &n_words, sizeof n_words);
    uint32_t n = n_words <= MOST_ID_WORDS ? n_words * 64 : 0;
    for (uint32_t id = 0; id < n && id <= at->owner_most; id += BATCH) {
        uint32_t left = at->owner_most + 1 - id;
        memset(batch, 0, sizeof batch);
        get(self, at_offset(at->owners, id * sizeof(void *)), batch,
            (left < BATCH ? left : BATCH) * sizeof(void *));
        for (uint32_t i = 0; i < BATCH; i++) {
            if (batch[i]) {
                count_owner(self, id + i, batch[i]);
            }
        }
    }
}

/* --- the sums --- */

static int64_t difference(uint64_t a, uint64_t b)
{
    return a > b ? (int64_t)(a - b) : 0;
}

static void derive(struct taking *self)
{
    struct survey *out = self->out;
    const struct hak_stats *stats = &out->stats;
    size_t meta = 0;
    get(self, self->at->meta_bytes, &meta, sizeof meta);
    uint64_t of_slabs = self->n_slabs * SC_SLAB_BYTES, used = (uint64_t)stats->heap_used_bytes;
    out->derived.cached_bytes = (int64_t)self->cached_bytes;
    out->derived.slab_free_bytes = difference(of_slabs, self->slab_bytes);
    out->derived.live_bytes =
        difference(self->slab_bytes, self->cached_bytes) + difference(used, of_slabs) +
        difference((uint64_t)stats->large_bytes, (uint64_t)stats->large_room_bytes) +
        stats->limbo_bytes;
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        out->derived.live_blocks += (int64_t)out->classes[c].live;
    }
    out->derived.kept_bytes = stats->heap_dirty_bytes + stats->large_cached_bytes;
    out->derived.metadata_bytes = (int64_t)meta;
    out->derived.held_bytes = stats->committed_bytes + stats->limbo_bytes + (int64_t)meta;
    for (uint32_t i = 0; i < ACE_CLASSES; i++) {
        out->derived.large_hits += (int64_t)out->control.classes[i].hits;
        out->derived.large_misses += (int64_t)out->control.classes[i].misses;
    }
}

static void read_limits(struct taking *self)
{
    struct survey *out = self->out;
    uint64_t cgroup = 0;
    get(self, self->at->limit_soft, &out->limit_soft, sizeof out->limit_soft);
    get(self, self->at->limit_hard, &out->limit_hard, sizeof out->limit_hard);
    get(self, self->at->limit_cgroup, &cgroup, sizeof cgroup);
    out->limit_soft = hak_limit_soft_of(out->limit_soft, cgroup);
    out->limit_hard = hak_limit_hard_of(out->limit_hard, cgroup);
}

/* What the arrays above have room for. */
static int is_readable(const struct hak_layout *at)
{
    return memcmp(at->magic, LAYOUT_MAGIC, sizeof at->magic) == 0 &&
           at->version == LAYOUT_VERSION && at->bytes == sizeof *at &&
           at->n_stats == sizeof(struct hak_stats) / sizeof(int64_t) &&
           at->n_classes == SC_N_CLASSES && at->control_bytes == sizeof(struct control) &&
           at->superslab_bytes <= SUPERSLAB_MOST && at->slab_bytes <= sizeof(struct slab) &&
           at->bin_bytes <= sizeof(struct bin) && at->spare_bytes <= sizeof(struct spare) &&
           at->outbox_bytes <= sizeof(struct outbox_slot) && at->outbox_slots <= OUTBOX_MOST;
}

int hak_survey_take(const struct survey_source *source, const void *layout, struct survey *out,
                    struct survey_heap *heaps, uint32_t n_heaps)
{
    struct taking self = {.source = source, .out = out, .heaps = heaps, .n_heaps = n_heaps};
    memset(out, 0, sizeof *out);
    get(&self, layout, &out->layout, sizeof out->layout);
    if (self.error || !is_readable(&out->layout)) {
        return self.error ? self.error : EPROTO;
    }
    self.at = &out->layout;
    get(&self, out->layout.stats, &out->stats, sizeof out->stats);
    get(&self, out->layout.control, &out->control, sizeof out->control);
    read_limits(&self);
    count_superslabs(&self);
    count_owners(&self);
    derive(&self);
    return self.error;
}

/* --- this process --- */

/* Word by word, so that none is torn that another thread writes. */
__attribute__((no_sanitize("thread", "address"))) static int read_own(void *context, const void *at,
                                                                      void *out, size_t n)
{
    (void)context;
    const volatile uint16_t *from = (const volatile uint16_t *)at;
    uint16_t *to = (uint16_t *)out;
    int is_aligned = ((uintptr_t)at | (uintptr_t)out) % sizeof(uint64_t) == 0;
    while (is_aligned && n >= sizeof(uint64_t)) {
        *(uint64_t *)(void *)to = *(const volatile uint64_t *)(const volatile void *)from;
        from += 4;
        to += 4;
        n -= sizeof(uint64_t);
    }
    for (; n; n -= sizeof *from) {
        *to++ = *from++;
    }
    return 0;
}

const struct survey_source hak_survey_own = {read_own, NULL};

/* --- what it says --- */

int hak_survey_find_kept(const char *name, int64_t *value)
{
#define STAT(row, kind, unit, text)                                                                \
    if (strcmp(name, #row) == 0) {                                                                 \
        *value = hak_stat_get(row);                                                                \
        return 1;                                                                                  \
    }
#include "base/stats.def"
    return 0;
}

int hak_survey_find(const struct survey *survey, const char *name, int64_t *value)
{
#define STAT(row, kind, unit, text)                                                                \
    if (strcmp(name, #row) == 0) {                                                                 \
        *value = survey->stats.row;                                                                \
        return 0;                                                                                  \
    }
#define DERIVED(row, kind, unit, text)                                                             \
    if (strcmp(name, #row) == 0) {                                                                 \
        *value = survey->derived.row;                                                              \
        return 0;                                                                                  \
    }
#include "base/stats.def"
    return ENOENT;
}

uint64_t hak_survey_fragmentation(const struct survey *survey)
{
    uint64_t held = (uint64_t)survey->derived.held_bytes,
             live = (uint64_t)survey->derived.live_bytes;
    return held > live ? (held - live) * 1000 / held : 0;
}

uint64_t hak_survey_keep(const struct survey *survey, enum control_pool pool)
{
    return survey->control.base_ms ? hak_control_keep(&survey->control, pool, UINT64_MAX) : 0;
}

const char *hak_survey_kind_name(const struct survey_heap *heap)
{
    return heap->kind & OWNER_LOST      ? "lost"
           : heap->kind == OWNER_THREAD ? "thread"
           : heap->kind == OWNER_HEAP   ? "first-class"
                                        : "pool";
}

const char *hak_survey_state_name(const struct survey_heap *heap)
{
    static const char *const names[] = {"live", "orphan", "stale"};
    return names[heap->state];
}
