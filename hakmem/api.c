/* The public functions and the slow half of malloc and free. No locks of its own; the parts below take theirs. */
#include "hakmem/hakmem.h"

#include <errno.h>
#include <string.h>

#include "ace/ace.h"
#include "ace/ace_class.h"
#include "ace/adapt.h"
#include "base/error.h"
#include "base/fail.h"
#include "base/limit.h"
#include "base/options.h"
#include "base/os.h"
#include "base/stats.h"
#include "hakmem/background.h"
#include "hakmem/fallback.h"
#include "hakmem/fast.h"
#include "hakmem/hooks.h"
#include "hakmem/request.h"
#include "hakmem/user_heap.h"
#include "superslab/superslab.h"

/* A process that is refused everything tries to give back what is kept at most so often. */
#define RECLAIM_PAUSE_NS 10000000u

static void *no_memory(void)
{
    stat_add(failed_requests, 1);
    errno = ENOMEM;
    return NULL;
}

/* The end of a request on a slow path: what failed is told. */
static void *finish(void *p, size_t size, size_t align)
{
    if (HAK_UNLIKELY(!p || fail_any())) {
        fail_end(size, align, p);
    }
    return p ? p : no_memory();
}

/* Everything that is kept for reuse goes back. Returns bytes. */
static size_t reclaim(void)
{
    heap_trim_all();
    user_heap_trim_all();
    return ace_purge(0) + ss_purge(0);
}

/* Before a request is refused; a refusal that cannot be helped may come a million times in a row, and this is long, so it is
   done again only when RECLAIM_PAUSE_NS have passed. Returns 1 if it is worth to ask again. */
static int reclaim_for_request(void)
{
    static uint64_t last_ns;
    uint64_t now_ns = os_ops.clock_ns();
    if (atomic_load_relaxed(&last_ns) && now_ns - atomic_load_relaxed(&last_ns) < RECLAIM_PAUSE_NS &&
        stat_get(heap_dirty_bytes) + stat_get(large_cached_bytes) == 0 && ace_room() == 0) {
        return 0;
    }
    atomic_store_relaxed(&last_ns, now_ns);
    fail_reclaim();
    (void)reclaim();
    return 1;
}

/* After memory was taken: what the controller does not want any longer goes back, and above the soft limit all that is kept. */
static void mind_limits(void)
{
    (void)ace_purge_excess();
    if (HAK_UNLIKELY(limit_wants_purge())) {
        stat_add(soft_purges, 1);
        (void)reclaim();
        limit_purged();
    }
}

void *request(void *(*ask)(void *context), void *context, size_t size, size_t align)
{
    background_start_if_wanted();
    fail_begin();
    void *p = size <= PTRDIFF_MAX ? ask(context) : NULL;
    if (HAK_UNLIKELY(!p) && size <= PTRDIFF_MAX && reclaim_for_request()) {
        p = ask(context);
    }
    mind_limits();
    return finish(p, size, align);
}

enum large_kind { LARGE_PLAIN, LARGE_ZEROED, LARGE_GROWING };

static void *ask_ace(size_t size, size_t align, enum large_kind kind)
{
    return kind == LARGE_PLAIN    ? ace_alloc(size, align)
           : kind == LARGE_ZEROED ? ace_alloc_zeroed(size, align)
                                  : ace_alloc_growing(size);
}

static void *large_alloc(size_t size, size_t align, enum large_kind kind)
{
    (void)heap_acquire(); /* starts the process: options */
    if (HAK_UNLIKELY(fallback_all())) {
        return finish(fallback_alloc(size, align, kind == LARGE_ZEROED, 0), size, align);
    }
    background_start_if_wanted();
    fail_begin();
    void *p = ask_ace(size, align, kind);
    if (HAK_UNLIKELY(!p) && size <= PTRDIFF_MAX && reclaim_for_request()) {
        p = ask_ace(size, align, kind);
    }
    if (HAK_UNLIKELY(!p)) {
        p = fallback_alloc(size, align, kind == LARGE_ZEROED, 1);
    }
    mind_limits();
    return finish(p, size, align);
}

static void *ask_heap(uint32_t size_class, int *is_clean)
{
    struct heap *heap = heap_acquire();
    if (!heap) {
        *is_clean = 0;
        return heap_alloc_uncached(size_class);
    }
    struct bin *bin = &heap->bins[size_class];
    if (HAK_UNLIKELY(bin->head != NULL)) {
        /* Making the background thread allocates too, and has filled this very bin; or calls are hooked, and the fast path saw no
           heap. */
        void *first = bin->head;
        bin->head = *(void **)first;
        bin->room++;
        *is_clean = 0;
        unmark_free(first);
        return first;
    }
    void *block = tc_refill(heap, size_class);
    *is_clean = heap->refill_is_clean;
    if (block && !*is_clean) {
        unmark_free(block);
    }
    return block;
}

/* *is_clean: the block reads as zero behind its first word. `align`: what the class's blocks are
   aligned to anyway; libc has to be told. */
static void *class_alloc(uint32_t size_class, size_t align, int *is_clean)
{
    *is_clean = 0;
    size_t size = sc_table[size_class].size;
    (void)heap_acquire();
    if (HAK_UNLIKELY(fallback_all())) {
        return finish(fallback_alloc(size, align, 0, 0), size, align);
    }
    background_start_if_wanted();
    fail_begin();
    void *block = ask_heap(size_class, is_clean);
    if (HAK_UNLIKELY(!block)) {
        int saved = errno;
        if (reclaim_for_request()) {
            block = ask_heap(size_class, is_clean);
        }
        if (!block) {
            *is_clean = 0;
            block = fallback_alloc(size, align, 0, 1);
        }
        errno = saved;
    }
    mind_limits();
    return finish(block, size, align);
}

void *refill_malloc(size_t size)
{
    int is_clean;
    if (HAK_UNLIKELY(hooks_wanted())) {
        return hooked_malloc(size);
    }
    return class_alloc(sc_of(size), 16, &is_clean);
}

void *slow_malloc(size_t size)
{
    if (HAK_UNLIKELY(hooks_wanted())) {
        return hooked_malloc(size);
    }
    return large_alloc(size, 1, LARGE_PLAIN);
}

#if HAK_VALIDATE
void validate_free(const void *p)
{
    struct ss_lookup found = hak_super_lookup(p);
    HAK_CHECK(found.kind == SS_SLAB && found.start == p, "invalid pointer freed (not the start of a block)", p);
    HAK_CHECK(found.is_allocated, "block freed twice", p);
}

void validate_size(const void *p, size_t size)
{
    /* realloc may have left it in a block of up to twice the size, and small ones in any. */
    HAK_CHECK(!p || size <= hak_usable_size(p), "freed with a size that is not the block's", p);
}

void validate_alignment(const void *p, size_t alignment)
{
    HAK_CHECK(!p || (alignment && (uintptr_t)p % alignment == 0), "freed with an alignment that is not the block's", p);
}
#endif

void overflow_free(struct heap *heap, size_t bin_offset)
{
    tc_overflow(heap, (uint32_t)(bin_offset >> TAG_BIN_SHIFT));
}

/* A block of a slab: ours but outside the window, another heap's, or one that the fast path found wrong. */
static void free_in_slab(void *p, uint32_t tag)
{
    uint32_t size_class = TAG_CLASS(tag);
    uint32_t offset = (uint32_t)((uintptr_t)p & (SC_SLAB_BYTES - 1));
    HAK_CHECK(sc_is_multiple(offset, sc_table[size_class].magic), "invalid pointer freed (not the start of a block)",
              p);
    validate_free(p);
    struct heap *heap = heap_own;
    if (HAK_UNLIKELY((tag ^ heap->owner_tag) <= TAG_LOW_MASK)) {
        struct bin *bin = &heap->bins[size_class];
        HAK_CHECK(bin->head != p && !(is_marked_free(heap, p) && tc_holds(heap, size_class, p)), "block freed twice",
                  p);
        mark_free(heap, p);
        *(void **)p = bin->head;
        bin->head = p;
        if (--bin->room < 0) {
            tc_overflow(heap, size_class);
        }
        return;
    }
    if (HAK_UNLIKELY(heap == &heap_none)) {
        heap = heap_acquire();
        if (!heap) {
            remote_free_now(p, tag);
            return;
        }
        if (TAG_OWNER(tag) == heap->id) {
            free_in_slab(p, tag); /* adopted the very heap that owns the block */
            return;
        }
    }
    remote_free(heap, p, tag);
}

/* What lies beyond the window, is large, free or no block at all. */
static HAK_NOINLINE void free_elsewhere(void *p)
{
    struct map_entry entry = map_find(p);
    if (entry.tag == 0 && fallback_free(p)) {
        return;
    }
    HAK_CHECK(entry.tag != 0, "invalid pointer freed (not allocated by hakmem)", p);
    HAK_CHECK(entry.tag != TAG_FREE_UNIT, "block freed twice, or invalid pointer freed (in free memory)", p);
    if (TAG_OWNER(entry.tag) == TAG_SPECIAL_OWNER) {
        user_heap_forget(p);
        ace_free(p);
        background_poke();
    } else {
        free_in_slab(p, entry.tag);
    }
}

void slow_free(void *p)
{
    if (!p) { /* before anything is saved: programs free NULL often */
        return;
    }
    if (HAK_UNLIKELY(hooks_wanted())) {
        hooked_free(p);
        return;
    }
    /* First what is frequent: a small block of another heap. */
    size_t unit = map_window_unit(p);
    if (HAK_LIKELY(unit < MAP_LEAF_UNITS)) {
        uint32_t tag = atomic_load_relaxed(&map_window->tag[unit]);
        if (HAK_LIKELY(tag && TAG_OWNER(tag) != TAG_SPECIAL_OWNER)) {
            int saved = errno; /* a free may need memory of its own, as for its thread's heap */
            free_in_slab(p, tag);
            errno = saved;
            return;
        }
    }
    int saved = errno;
    free_elsewhere(p);
    errno = saved;
}

void *hak_malloc(size_t size)
{
    return fast_malloc(size);
}

void hak_free(void *p)
{
    fast_free(p);
}

static HAK_NOINLINE void *refill_calloc(size_t bytes)
{
    int is_clean;
    if (HAK_UNLIKELY(hooks_wanted())) {
        return hooked_calloc(bytes);
    }
    uint32_t size_class = sc_of(bytes);
    void *p = class_alloc(size_class, 16, &is_clean);
    if (p) {
        /* Fresh memory of the system needs no clearing but where the list's link was. */
        memset(p, 0, is_clean ? sizeof(void *) : sc_table[size_class].size);
    }
    return p;
}

static HAK_NOINLINE void *large_calloc(size_t bytes)
{
    if (HAK_UNLIKELY(hooks_wanted())) {
        return hooked_calloc(bytes);
    }
    return large_alloc(bytes, 1, LARGE_ZEROED);
}

void *hak_calloc(size_t n, size_t size)
{
    size_t bytes;
    if (HAK_UNLIKELY(__builtin_mul_overflow(n, size, &bytes))) {
        return no_memory();
    }
    if (noted_wanted()) {
        return noted_calloc(bytes);
    }
    if (HAK_UNLIKELY(bytes > SC_SMALL_MAX)) {
        return large_calloc(bytes);
    }
    uint32_t size_class = sc_of(bytes);
    struct bin *bin = &atomic_load_relaxed(&hak_self)->bins[size_class];
    void *block = bin->head;
    if (HAK_UNLIKELY(!block)) {
        return refill_calloc(bytes);
    }
    bin->head = *(void **)block;
    bin->room++;
    /* The whole block, so that what malloc_usable_size promises is zero too. */
    return memset(block, 0, sc_table[size_class].size);
}

size_t hak_usable_size(const void *p)
{
    if (noted_wanted()) {
        return noted_usable_size(p);
    }
    struct map_entry entry = map_find(p);
    if (entry.tag == 0 || entry.tag == TAG_FREE_UNIT) {
        return fallback_size(p);
    }
    if (TAG_OWNER(entry.tag) == TAG_SPECIAL_OWNER) {
        return ace_usable_size(p);
    }
    return sc_table[TAG_CLASS(entry.tag)].size;
}

size_t realloc_fast_max = SC_SMALL_MAX;

static HAK_NOINLINE void *slow_realloc(void *p, size_t size)
{
    if (HAK_UNLIKELY(hooks_wanted())) {
        return hooked_realloc(p, size);
    }
    if (HAK_UNLIKELY(!p)) {
        return hak_malloc(size);
    }
    if (HAK_UNLIKELY(size == 0)) {
        hak_free(p);
        return NULL;
    }
    size_t usable = hak_usable_size(p);
    if (HAK_LIKELY(request_fits(usable, size))) {
        return p;
    }
    HAK_CHECK(usable, "invalid pointer given to realloc", p);
    struct hak_heap *home = user_heap_of(p);
    if (HAK_UNLIKELY(home != NULL)) {
        return hak_heap_realloc(home, p, size);
    }
    if (map_find(p).tag && usable > SC_SMALL_MAX && size > SC_SMALL_MAX) {
        void *resized = ace_resize(p, size);
        if (resized) {
            mind_limits();
            return resized;
        }
    }
    void *moved = size > usable && size > SC_SMALL_MAX ? large_alloc(size, 1, LARGE_GROWING) : hak_malloc(size);
    if (!moved) {
        return size <= usable ? p : NULL;
    }
    memcpy(moved, p, size < usable ? size : usable);
    hak_free(p);
    return moved;
}

void *hak_realloc(void *p, size_t size)
{
    if (noted_wanted()) {
        return noted_realloc(p, size);
    }
    size_t unit = map_window_unit(p);
    if (HAK_UNLIKELY(unit >= MAP_LEAF_UNITS || size - 1 >= atomic_load_relaxed(&realloc_fast_max))) {
        return slow_realloc(p, size);
    }
    uint32_t tag = atomic_load_relaxed(&map_window->tag[unit]);
    if (HAK_UNLIKELY(!TAG_IS_SLAB(tag))) {
        return slow_realloc(p, size);
    }
    /* From small to small: the ways of malloc and free without their calls. */
    size_t usable = sc_table[TAG_CLASS(tag)].size;
    if (request_fits(usable, size)) {
        return p;
    }
    if (HAK_UNLIKELY((tag ^ heap_own->owner_tag) > TAG_LOW_MASK)) {
        return slow_realloc(p, size); /* perhaps a first-class heap's */
    }
    void *moved = fast_malloc(size);
    if (HAK_UNLIKELY(!moved)) {
        return size <= usable ? p : NULL;
    }
    memcpy(moved, p, size < usable ? size : usable);
    fast_free(p);
    return moved;
}

uint32_t request_class(size_t size, size_t align)
{
    if (size > SC_SMALL_MAX || align > SC_SMALL_MAX) {
        return SC_N_CLASSES;
    }
    return align <= 16 ? sc_of(size) : sc_of_aligned(size, align);
}

static int is_power_of_two(size_t n)
{
    return n && !(n & (n - 1));
}

static void *aligned_small(uint32_t size_class, size_t alignment)
{
    struct bin *bin = &atomic_load_relaxed(&hak_self)->bins[size_class];
    void *block = bin->head;
    int is_clean;
    if (HAK_UNLIKELY(!block)) {
        return class_alloc(size_class, alignment, &is_clean);
    }
    bin->head = *(void **)block;
    bin->room++;
    unmark_free(block);
    return block;
}

/* `alignment` is a power of two. */
static void *aligned(size_t alignment, size_t size)
{
    if (noted_wanted()) {
        return noted_aligned(alignment, size);
    }
    if (alignment <= 16) {
        return hak_malloc(size);
    }
    if (HAK_UNLIKELY(hooks_wanted())) {
        return hooked_aligned(alignment, size);
    }
    uint32_t size_class = request_class(size, alignment);
    if (size_class < SC_N_CLASSES) {
        return aligned_small(size_class, alignment);
    }
    return large_alloc(size, alignment, LARGE_PLAIN);
}

void *hak_aligned_alloc(size_t alignment, size_t size)
{
    if (!is_power_of_two(alignment)) {
        errno = EINVAL;
        return NULL;
    }
    return aligned(alignment, size);
}

void *hak_memalign(size_t alignment, size_t size)
{
    if (alignment > (size_t)PTRDIFF_MAX + 1) { /* which has no power of two above it */
        errno = EINVAL;
        return NULL;
    }
    while (!is_power_of_two(alignment)) {
        alignment = alignment ? (alignment | (alignment - 1)) + 1 : 1;
    }
    return aligned(alignment, size);
}

int hak_posix_memalign(void **out, size_t alignment, size_t size)
{
    if (!is_power_of_two(alignment) || alignment % sizeof(void *)) {
        return EINVAL;
    }
    int saved = errno;
    void *p = aligned(alignment, size);
    if (!p) {
        return ENOMEM; /* which errno is too, as with glibc: programs look there */
    }
    errno = saved;
    *out = p;
    return 0;
}

int hak_owns(const void *p)
{
    return hak_super_lookup(p).kind != SS_NOT_OURS;
}

size_t hak_purge(void)
{
    return reclaim();
}

int hak_verify(void)
{
    int result = heap_verify_all();
    result = result ? result : user_heap_verify();
    result = result ? result : ace_verify();
    return result ? result : ss_verify();
}

const char *hak_variant(void)
{
    return HAKMEM_VARIANT;
}

const char *hak_version(void)
{
    return HAKMEM_VERSION;
}

static hak_fail_callback user_callback;

/* From the names of base/fail.h to those of the public header. */
static void tell_user(size_t size, size_t align, const struct fail_path *path, int failed, void *context)
{
    struct hak_fail fail = {size, align, failed, 0, {0}};
    hak_fail_callback call = atomic_load_acquire(&user_callback);
    while (fail.n_steps < HAK_FAIL_STEPS && path->reasons[fail.n_steps] != FAIL_NONE) {
        fail.steps[fail.n_steps] = fail_reason_name((enum fail_reason)path->reasons[fail.n_steps]);
        fail.n_steps++;
    }
    if (call) {
        call(&fail, context);
    }
}

void hak_ace_on_fail(hak_fail_callback callback, void *context)
{
    fail_set_callback(NULL, NULL);
    atomic_store_release(&user_callback, callback);
    fail_set_callback(callback ? tell_user : NULL, context);
}

void hak_ace_state(struct hak_ace_state *out)
{
    struct adapt_summary now;
    adapt_state(&now);
    *out = (struct hak_ace_state){now.live[CONTROL_SUPERSLABS],
                                  now.live[CONTROL_RANGES],
                                  (size_t)stat_get(heap_dirty_bytes),
                                  (size_t)stat_get(large_cached_bytes),
                                  atomic_load_relaxed(&ss_keep_bytes),
                                  adapt_range_keep(),
                                  now.horizon_ms,
                                  now.n_epochs,
                                  now.n_longer,
                                  now.n_shorter};
}

void hak_ace_class(size_t size, struct hak_ace_class *out)
{
    struct control_class found;
    size_t bytes = size > SC_SMALL_MAX ? size : SC_SMALL_MAX + 1;
    bytes = bytes < PTRDIFF_MAX / 2 ? ace_class_bytes(bytes) : PTRDIFF_MAX / 2;
    adapt_class_state(bytes, &found);
    *out = (struct hak_ace_class){bytes,      found.live,   adapt_class_keep(bytes),
                                  found.hits, found.misses, found.age_ns / 1000000u};
}

static void print_field(struct hak_line *line, const char *name, size_t value)
{
    hak_line_text(line, name);
    hak_line_unsigned(line, value);
}

void hak_ace_print(int fd)
{
    struct hak_ace_state now;
    struct hak_line line = {0, {0}};
    hak_ace_state(&now);
    print_field(&line, "hakmem: ACE live=", now.live_superslabs + now.live_ranges);
    print_field(&line, " kept_superslabs=", now.kept_superslabs);
    print_field(&line, " of ", now.keep_superslabs);
    print_field(&line, " kept_ranges=", now.kept_ranges);
    print_field(&line, " of ", now.keep_ranges);
    print_field(&line, " horizon_ms=", now.horizon_ms);
    print_field(&line, " epochs=", now.epochs);
    hak_line_write(&line, fd);
    for (size_t bytes = ace_class_bytes(SC_SMALL_MAX + 1); bytes <= (size_t)1 << 40;
         bytes = ace_class_bytes(bytes + 1)) {
        struct hak_ace_class found;
        hak_ace_class(bytes, &found);
        if (found.hits + found.misses) {
            line.length = 0;
            print_field(&line, "hakmem: ACE class=", bytes);
            print_field(&line, " live=", found.live);
            print_field(&line, " keep=", found.keep);
            print_field(&line, " hits=", found.hits);
            print_field(&line, " misses=", found.misses);
            print_field(&line, " age_ms=", found.age_ms);
            hak_line_write(&line, fd);
        }
    }
}

void hak_limit_set(size_t soft, size_t hard)
{
    (void)heap_acquire(); /* the options come first */
    limit_set(soft == HAK_LIMIT_AUTO ? LIMIT_AUTO : soft, hard == HAK_LIMIT_AUTO ? LIMIT_AUTO : hard);
    if (limit_soft() && limit_committed() > limit_soft()) {
        (void)reclaim();
    }
}

void hak_limit_get(size_t *soft, size_t *hard, size_t *committed)
{
    *soft = (size_t)limit_soft();
    *hard = (size_t)limit_hard();
    *committed = (size_t)limit_committed();
}

void hak_print_stats(int fd)
{
    stat_print(fd);
}
