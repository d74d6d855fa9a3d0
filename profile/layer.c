/* The profile's table of entry points. No locks. State of a thread: its random numbers, how many
   bytes pass until its next large block is sampled, and, in its heap, how many blocks of each
   class.

   Signal handlers that allocate find a thread that samples already, and are not sampled. */
#include <errno.h>
#include <string.h>
#include <unistd.h>

#include "base/os.h"
#include "base/size_classes.h"
#include "hakmem/hakmem.h"
#include "hakmem/heap.h"
#include "hakmem/plain.h"
#include "hakmem/realloc.h"
#include "hakmem/request.h"
#include "heap/tcache.h"
#include "profile/known.h"
#include "profile/profile.h"
#include "profile/sample.h"
#include "superslab/map.h"

/* Of larger classes none is kept in the sampled one's place: p is large there, and with it the
   memory. */
#define PLACE_MOST 8192u
/* A list this long pays for a call of the layer. A shorter one waits for more from the layer below:
   else so few blocks would go round for ever. No more than that: each block that goes round is
   memory, and one that was freed a while ago is no longer in the processor's cache. */
#define LONG HAK_TINY_OR(1u, 4u)
/* In `meter_shift`: nothing was drawn for the class in this epoch yet. */
#define UNDRAWN 255u

size_t hak_profile_period;
size_t hak_profile_last_period;
uint64_t hak_profile_began_ms;
int hak_profile_by_thread;
uint64_t hak_profile_rate = PROFILE_RATE;
struct profile_limit hak_profile_limit;

/* Changes when the period does: what was drawn before is drawn again. */
static uint32_t epoch = 1;

static HAK_TLS struct {
    struct profile_random random;
    int64_t large_left;                /* bytes */
    uint32_t large_epoch, large_shift; /* by which it was drawn */
    int is_busy;
} own;

/* What is asked for. */
struct request {
    size_t size, alignment; /* SC_MIN_ALIGN for none */
    int is_zeroed;
    struct hak_heap *heap; /* first-class, or NULL */
    const void *caller;
};

static const struct entry_table *below(void)
{
    return hak_entry_below(&hak_profile_layer);
}

uint64_t hak_profile_now_ms(void)
{
    return hak_os_ops.clock_ns() / 1000000;
}

int hak_profile_enter(void)
{
    return own.is_busy ? 0 : (own.is_busy = 1);
}

void hak_profile_leave(void)
{
    own.is_busy = 0;
}

static struct profile_random *random_(void)
{
    if (HAK_UNLIKELY(!own.random.state)) {
        hak_profile_seed(&own.random);
    }
    return &own.random;
}

static size_t period_now(void)
{
    return atomic_load_relaxed(&hak_profile_period);
}

/* --- the layers below --- */

static void *ask(const struct request *r, size_t size)
{
    const struct entry_table *table = below();
    if (r->heap) {
        return table->heap_alloc(r->heap, size, r->alignment, r->is_zeroed);
    }
    return r->alignment > SC_MIN_ALIGN ? table->aligned(r->alignment, size)
           : r->is_zeroed              ? table->calloc(size)
                                       : table->malloc(size);
}

/* What the program has not asked for: if it is refused, no request of the program's was. */
static void *try_to_ask(const struct request *r, size_t size)
{
    hak_request_is_try = 1;
    void *p = ask(r, size);
    hak_request_is_try = 0;
    return p;
}

static size_t usable_below(const void *p)
{
    return below()->usable_size(p);
}

/* --- samples --- */

static HAK_NOINLINE struct profile_site *site_here(const void *caller)
{
    const void *addresses[STACK_MOST];
    size_t n = hak_stack_capture(addresses, STACK_MOST, caller);
    return hak_profile_site(hak_stack_keep(addresses, n),
                            hak_profile_by_thread ? (uint32_t)gettid() : 0);
}

static size_t doubled(size_t period, uint32_t shift)
{
    return period <= SIZE_MAX >> (shift + 1) ? period << shift : period;
}

/* How many blocks of the class pass from now on. */
static void draw(struct theap *heap, uint32_t size_class, size_t period)
{
    uint32_t shift = heap->meter_budget.shift;
    heap->meter_shift[size_class] = (uint8_t)shift;
    heap->metered[size_class].left =
        hak_profile_blocks(random_(), doubled(period, shift), hak_sc_table[size_class].size);
}

/* Of the bytes that come, as a new line: they have no past. */
static void draw_large(const struct theap *heap, size_t period)
{
    own.large_shift = heap->meter_budget.shift;
    own.large_left = (int64_t)hak_profile_distance(random_(), doubled(period, own.large_shift));
}

/* Of a class whose next block is not sampled, what comes behind that block has no past. */
static HAK_COLD void draw_shorter(struct theap *heap, size_t period)
{
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        if (heap->metered[c].left && heap->meter_shift[c] > heap->meter_budget.shift) {
            draw(heap, c, period);
            heap->metered[c].left++;
        }
    }
    if (own.large_shift > heap->meter_budget.shift) {
        draw_large(heap, period);
    }
}

static void spend(struct theap *heap, size_t period)
{
    if (heap != &hak_theap_none &&
        hak_profile_spend(&heap->meter_budget, &hak_profile_limit, hak_profile_now_ms())) {
        draw_shorter(heap, period);
    }
}

/* Writes a sample down. Returns 0 if there is no memory for it. */
static int note(const void *p, struct profile_sample *sample, const void *caller)
{
    sample->kind = PROFILE_BLOCK;
    sample->site = site_here(caller);
    sample->made_ms = hak_profile_now_ms();
    if (!sample->site || !hak_profile_keep(p, sample)) {
        return 0;
    }
    hak_profile_add_point(sample->made_ms);
    return 1;
}

/* The block that the request would have got stays allocated as long as the sampled one. */
static void *take_place(const struct request *r, size_t natural)
{
    static const struct profile_sample place = {.kind = PROFILE_PLACE};
    void *p = natural <= PLACE_MOST ? try_to_ask(r, r->size) : NULL;
    if (p && !hak_profile_put(p, &place)) {
        below()->free(p);
        p = NULL;
    }
    return p;
}

/* A small request, of a class of `natural` bytes, that is sampled. NULL if it cannot be. */
static void *sample_small(const struct request *r, size_t period, size_t natural)
{
    size_t shift = HAK_SECURE ? 0 : r->alignment;
    struct profile_sample sample = {.heap = r->heap, .weight = hak_profile_weight(period, natural)};
    char *start = (char *)try_to_ask(r, HAK_SECURE ? r->size : natural + shift);
    if (!start) {
        return NULL;
    }
    size_t usable = usable_below(start);
    if (usable > SC_SMALL_MAX) {
        shift = 0; /* no fast path frees it */
    }
    sample.start = start;
    sample.usable = HAK_SECURE ? usable : natural; /* as if it were not sampled */
    sample.place = shift ? take_place(r, natural) : NULL;
    if (!note(start + shift, &sample, r->caller)) {
        hak_profile_drop_place(below(), sample.place);
        below()->free(start);
        return NULL;
    }
    return start + shift;
}

static void sample_large(void *p, size_t size, struct hak_heap *heap, size_t period,
                         const void *caller)
{
    size_t usable = usable_below(p);
    struct profile_sample sample = {.heap = heap,
                                    .start = p,
                                    .usable = usable,
                                    .weight =
                                        hak_profile_weight(doubled(period, own.large_shift), size)};
    sample.weight.bytes = sample.weight.objects * usable / PROFILE_OBJECT;
    (void)note(p, &sample, caller);
    spend(hak_theap_own, period);
    draw_large(hak_theap_own, period);
    hak_profile_mind();
}

/* The line of bytes ends within this block, or was of another epoch. Behind a block that hakmem
   asks for itself a new line begins. */
static HAK_NOINLINE void end_large(void *p, size_t size, struct hak_heap *heap, const void *caller)
{
    int saved = errno;
    size_t period = period_now();
    uint32_t now = atomic_load_relaxed(&epoch);
    if (!period) {
        own.large_left = INT64_MAX; /* until the epoch changes */
        own.large_epoch = now;
        return;
    }
    if (own.large_epoch != now) {
        own.large_epoch = now;
        draw_large(hak_theap_own, period);
        own.large_left -= (int64_t)size;
    }
    if (own.large_left < 0 && own.is_busy) {
        draw_large(hak_theap_own, period);
    } else if (own.large_left < 0) {
        own.is_busy = 1;
        sample_large(p, size ? size : 1, heap, period, caller);
        own.is_busy = 0;
    }
    errno = saved;
}

/* A block above 32 KiB, which lies as it is; or any of the secure variant that has moved. What it
   takes is asked for only if it is sampled: the distance is counted in bytes that were asked for.
 */
static HAK_ALWAYS_INLINE void count_large(void *p, size_t size, struct hak_heap *heap,
                                          const void *caller)
{
    if (HAK_LIKELY(p != NULL) && (HAK_UNLIKELY(own.large_epoch != atomic_load_relaxed(&epoch)) ||
                                  HAK_UNLIKELY((own.large_left -= (int64_t)size) < 0))) {
        end_large(p, size, heap, caller);
    }
}

/* --- small requests --- */

/* A class's first distance is drawn when the class is used. */
static HAK_COLD void begin_epoch(struct theap *heap, uint32_t now)
{
    hak_profile_begin_budget(&heap->meter_budget, &hak_profile_limit, hak_profile_now_ms());
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        heap->metered[c].left = 0;
        heap->meter_shift[c] = UNDRAWN;
    }
    heap->meter_epoch = now;
}

static void push_list(struct bin *bin, void *list)
{
    while (list) {
        void *next = hak_link_next(list);
        hak_tc_bin_push(bin, list);
        list = next;
    }
}

/* The last ones before the next sample. */
static void *pass_some(struct theap *heap, const struct request *r, uint32_t size_class)
{
    if (!hak_tc_bin_first(&heap->metered[size_class])) {
        uint32_t *left = &heap->metered[size_class].left;
        *left -= hak_tc_meter(heap, size_class, *left);
    }
    void *block = hak_tc_bin_take(&heap->metered[size_class]);
    return !block         ? ask(r, r->size)
           : r->is_zeroed ? memset(block, 0, hak_sc_table[size_class].size)
                          : block;
}

/* One that passes, where the bin has too few for a call of the layer each time: the layer below
   gives one and fills the bin, and those few are put behind. */
static void *pass(struct theap *heap, const struct request *r, uint32_t size_class)
{
    struct bin *bin = &heap->bins[size_class];
    int is_metered = atomic_load_acquire(&heap->is_metered) && !r->heap;
    if (is_metered && hak_tc_count(heap, size_class) > heap->metered[size_class].left) {
        return pass_some(heap, r, size_class);
    }
    void *few = is_metered ? hak_tc_bin_first(bin) : NULL;
    uint32_t n_few = few ? hak_tc_count(heap, size_class) : 0;
    if (few) {
        hak_tc_bin_set(bin, NULL);
        bin->room = heap->limits[size_class];
    }
    void *block = ask(r, r->size);
    if (block && heap->metered[size_class].left) {
        heap->metered[size_class].left--;
    }
    if (is_metered && !hak_tc_bin_first(&heap->metered[size_class])) {
        uint32_t *left = &heap->metered[size_class].left;
        *left -= hak_tc_meter(heap, size_class, *left);
    }
    if (few && HAK_LIKELY(!hak_tc_bin_first(bin))) {
        hak_tc_bin_set(bin, few);
        bin->room = (int32_t)heap->limits[size_class] - (int32_t)n_few;
        few = NULL;
    }
    push_list(bin, few);
    return block;
}

/* A small request that no metered block serves. */
static HAK_NOINLINE void *small(const struct request *r, uint32_t size_class)
{
    size_t period = period_now();
    struct theap *heap = own.is_busy || !period ? NULL : hak_theap_acquire();
    if (!heap) {
        return ask(r, r->size);
    }
    uint32_t now = atomic_load_relaxed(&epoch);
    if (HAK_UNLIKELY(heap->meter_epoch != now)) {
        begin_epoch(heap, now);
    }
    if (HAK_UNLIKELY(heap->meter_lists != now) && atomic_load_acquire(&heap->is_metered)) {
        heap->meter_lists = now; /* the metered bins have been made */
    }
    if (HAK_UNLIKELY(!heap->metered[size_class].left && heap->meter_shift[size_class] == UNDRAWN)) {
        draw(heap, size_class, period);
    }
    if (HAK_LIKELY(heap->metered[size_class].left != 0)) {
        void *block = pass(heap, r, size_class);
        if (HAK_UNLIKELY(atomic_load_relaxed(&hak_profile_due) != 0)) {
            hak_profile_mind();
        }
        return block;
    }
    int saved = errno;
    size_t natural = hak_sc_table[size_class].size;
    own.is_busy = 1;
    void *block = sample_small(r, doubled(period, heap->meter_shift[size_class]), natural);
    spend(heap, period);
    draw(heap, size_class, period);
    hak_profile_mind();
    own.is_busy = 0;
    errno = saved;
    return block ? block : ask(r, r->size);
}

/* What is left in the metered bin: a layer or a realloc filled it in between. */
static HAK_ALWAYS_INLINE void *take_left(struct bin *bin)
{
    void *first = hak_tc_bin_first(bin), *block = hak_tc_bin_take(bin);
    if (HAK_UNLIKELY(!block)) {
        hak_link_broken(first);
    }
    return block;
}

/* The bin's `count` blocks may all pass: its list goes to the metered bin, which is empty, without
   the first of them, which is returned. */
static HAK_ALWAYS_INLINE void *meter_rest(struct theap *heap, uint32_t size_class, uint32_t count)
{
    struct bin *bin = &heap->bins[size_class], *to = &heap->metered[size_class];
    void *first = bin->head;
    int64_t link = *(int64_t *)first;
    heap->metered[size_class].left -= count;
    bin->head = (void *)(uintptr_t)hak_link_end;
    bin->room = heap->limits[size_class];
    if (HAK_UNLIKELY(hak_link_decode(&link))) {
        hak_link_broken(first);
    }
    to->head = (void *)(uintptr_t)link;
    to->room = 1 - (int32_t)count;
    hak_tc_unmark_free(first);
    return first;
}

/* The heap if what is allocated may be metered without a further look, else NULL. */
static HAK_ALWAYS_INLINE struct theap *metered_heap(void)
{
    struct theap *heap = hak_theap_own;
    return HAK_LIKELY(heap->meter_lists == atomic_load_relaxed(&epoch)) ? heap : NULL;
}

/* For calls other than malloc: a block from the bin's list, which goes to the metered bin; NULL if
   one of its blocks is to be sampled, or it is short. */
static HAK_NOINLINE void *try_metered(uint32_t size_class)
{
    struct theap *heap = metered_heap();
    if (!heap) {
        return NULL;
    }
    struct bin *to = &heap->metered[size_class];
    uint32_t count = hak_tc_count(heap, size_class);
    if (hak_tc_bin_first(to)) {
        return take_left(to);
    }
    return HAK_LIKELY(count - 1 < to->left) && count >= LONG ? meter_rest(heap, size_class, count)
                                                             : NULL;
}

/* --- the table --- */

static HAK_NOINLINE void *large_malloc(size_t size, const void *caller)
{
    void *p = below()->malloc(size);
    count_large(p, size, NULL, caller);
    return p;
}

static HAK_NOINLINE void *slow_malloc(size_t size, const void *caller)
{
    struct request r = {size, SC_MIN_ALIGN, 0, NULL, caller};
    return small(&r, hak_sc_of(size));
}

/* The class's spare list goes to the metered bin, which is empty; its first block is returned. The
   bin keeps its few. */
static HAK_NOINLINE void *meter_spare(struct theap *heap, uint32_t size_class)
{
    struct spare *spare = &heap->spares[size_class];
    struct bin *to = &heap->metered[size_class];
    void *first = spare->head;
    uint32_t count = spare->count;
    *spare = (struct spare){NULL, 0};
    heap->awake |= (uint64_t)1 << size_class;
    heap->n_overflows[size_class] = 0;
    hak_tc_bin_set(to, hak_link_next(first));
    to->room = 1 - (int32_t)count;
    to->left -= count;
    hak_tc_unmark_free(first);
    return first;
}

/* What was put aside goes back. */
static HAK_NOINLINE void *put_back(void *block, struct bin *bin, void *few, uint32_t n_few)
{
    if (n_few && !hak_tc_bin_first(bin)) {
        bin->head = few;
        bin->room -= (int32_t)n_few;
    } else if (n_few) {
        push_list(bin, few);
    }
    return block;
}

/* The bin has few blocks or none, all of which and one more may pass, and the metered bin none: the
   spare list serves, if all of it may pass, or the few are put aside while the layer below gives a
   block, and more into the bin. */
static HAK_NOINLINE void *refill(size_t size, struct theap *heap, uint32_t size_class,
                                 uint32_t n_few)
{
    struct bin *bin = &heap->bins[size_class], *to = &heap->metered[size_class];
    const struct spare *spare = &heap->spares[size_class];
    const uint16_t *limit = &heap->limits[size_class];
    if (spare->head && spare->count <= to->left) {
        return meter_spare(heap, size_class);
    }
    void *few = bin->head;
    bin->head = (void *)(uintptr_t)hak_link_end;
    bin->room = *limit;
    void *block = below()->malloc(size);
    if (HAK_UNLIKELY(!block || !to->left)) { /* a nested call may have changed it */
        return put_back(block, bin, few, n_few);
    }
    uint32_t more = (uint32_t)(*limit - bin->room), left = to->left--;
    if (HAK_UNLIKELY(more - 1 >= left - 1 || to->head != (void *)(uintptr_t)hak_link_end)) {
        return put_back(block, bin, few, n_few);
    }
    void *list = bin->head;
    bin->head = few;
    bin->room = *limit - (int32_t)n_few;
    to->left -= more;
    to->room = -(int32_t)more;
    to->head = list;
    return block;
}

/* The metered bin has blocks, or the bin has few or none; NULL if one that it has is to be sampled.
 */
static HAK_NOINLINE void *take_or_refill(size_t size, struct theap *heap, uint32_t size_class,
                                         int *is_refused)
{
    struct bin *to = &heap->metered[size_class];
    uint32_t count = hak_tc_count(heap, size_class);
    if (HAK_UNLIKELY(hak_tc_bin_first(to) != NULL)) {
        return take_left(to);
    }
    if (HAK_UNLIKELY(count >= to->left)) {
        return NULL;
    }
    void *block = refill(size, heap, size_class, count);
    *is_refused = !block;
    return block;
}

/* All of malloc but what is frequent. */
static HAK_NOINLINE void *other_malloc(size_t size, const void *caller)
{
    if (HAK_UNLIKELY(size > SC_SMALL_MAX)) {
        return large_malloc(size, caller);
    }
    struct theap *heap = metered_heap();
    if (HAK_UNLIKELY(!heap)) {
        return slow_malloc(size, caller);
    }
    uint32_t size_class = hak_sc_of(size), count = hak_tc_count(heap, size_class);
    struct bin *to = &heap->metered[size_class];
    if (HAK_LIKELY(!hak_tc_bin_first(to) && count < to->left)) {
        return refill(size, heap, size_class, count);
    }
    return hak_tc_bin_first(to) ? take_left(to) : slow_malloc(size, caller);
}

/* 1 if the bin's list may go to the metered bin, which is empty. */
static HAK_ALWAYS_INLINE int may_meter(struct theap *heap, uint32_t size_class, uint32_t count)
{
    const struct bin *to = &heap->metered[size_class];
    return HAK_LIKELY(to->head == (const void *)hak_link_end && count < to->left) &&
           HAK_LIKELY(count >= LONG);
}

/* Alone, so that what is frequent saves no register. */
static void *profile_malloc(size_t size)
{
    struct theap *heap = hak_theap_own;
    if (HAK_LIKELY(size <= SC_SMALL_MAX && heap->meter_lists == atomic_load_relaxed(&epoch))) {
        uint32_t size_class = hak_sc_of(size), count = hak_tc_count(heap, size_class);
        const struct bin *to = &heap->metered[size_class];
        if (HAK_LIKELY(to->head == (const void *)hak_link_end && count < to->left)) {
            return HAK_LIKELY(count >= LONG) ? meter_rest(heap, size_class, count)
                                             : refill(size, heap, size_class, count);
        }
    }
    return other_malloc(size, __builtin_return_address(0));
}

/* For calls other than malloc: a block of the metered bins, or that passes them; NULL if it is to
   be sampled, or if there is no memory, which *is_refused then says. */
static void *pass_small(size_t size, int *is_refused)
{
    struct theap *heap = metered_heap();
    *is_refused = 0;
    if (HAK_UNLIKELY(!heap)) {
        return NULL;
    }
    uint32_t size_class = hak_sc_of(size), count = hak_tc_count(heap, size_class);
    return HAK_LIKELY(may_meter(heap, size_class, count))
               ? meter_rest(heap, size_class, count)
               : take_or_refill(size, heap, size_class, is_refused);
}

static void *profile_calloc(size_t bytes)
{
    struct request r = {bytes, SC_MIN_ALIGN, 1, NULL, __builtin_return_address(0)};
    if (bytes > SC_SMALL_MAX) {
        void *p = below()->calloc(bytes);
        count_large(p, bytes, NULL, r.caller);
        return p;
    }
    uint32_t size_class = hak_sc_of(bytes);
    void *block = try_metered(size_class);
    return HAK_LIKELY(block != NULL) ? memset(block, 0, hak_sc_table[size_class].size)
                                     : small(&r, size_class);
}

static void *profile_aligned(size_t alignment, size_t size)
{
    struct request r = {size, alignment, 0, NULL, __builtin_return_address(0)};
    uint32_t size_class = hak_request_class(size, alignment);
    if (size_class >= SC_N_CLASSES) {
        void *p = below()->aligned(alignment, size);
        count_large(p, size, NULL, r.caller);
        return p;
    }
    void *block = try_metered(size_class);
    return HAK_LIKELY(block != NULL) ? block : small(&r, size_class);
}

static void *heap_alloc(const struct request *r)
{
    uint32_t size_class = hak_request_class(r->size, r->alignment);
    if (size_class < SC_N_CLASSES) {
        return small(r, size_class);
    }
    void *p = ask(r, r->size);
    count_large(p, r->size, r->heap, r->caller);
    return p;
}

static void *profile_heap_alloc(struct hak_heap *heap, size_t size, size_t alignment, int is_zeroed)
{
    struct request r = {size, alignment, is_zeroed, heap, __builtin_return_address(0)};
    return heap_alloc(&r);
}

/* --- frees and sizes --- */

static int free_sampled(void *p)
{
    return HAK_UNLIKELY(hak_profile_may_have(p)) && hak_profile_free_known(below(), p);
}

/* Where a layer below has put blocks elsewhere. The plain function asks about blocks that may have
   been sampled itself (hak_entry_free_known). */
static void profile_free(void *p)
{
    if (!hak_profile_free_known(below(), p)) {
        below()->free(p);
    }
}

static HAK_NOINLINE size_t look_for_size(const void *p)
{
    struct profile_sample sample;
    return hak_profile_look_known(p, &sample) ? sample.usable : below()->usable_size(p);
}

/* Alone, so that what is frequent saves no register: programs that count their memory ask after
   each malloc. */
static size_t profile_usable_size(const void *p)
{
    return HAK_LIKELY(!hak_profile_may_have(p)) ? below()->usable_size(p) : look_for_size(p);
}

/* --- realloc --- */

static struct hak_heap *home(struct hak_heap *heap, const void *p, size_t usable)
{
    struct profile_sample sample;
    (void)usable;
    /* What limbo serves is known by its start, to which a sample is not shifted. */
    int is_shifted = hak_map_find(p).tag == TAG_LIMBO && hak_profile_look_known(p, &sample);
    return hak_realloc_home(heap, is_shifted ? sample.start : p);
}

static size_t size_for_realloc(const void *p)
{
    struct profile_sample sample;
    return HAK_UNLIKELY(hak_profile_look_known(p, &sample)) ? sample.usable
           : below() == &hak_entry_plain                    ? hak_plain_size_for(p, PLAIN_REALLOC)
                                                            : below()->usable_size(p);
}

/* A realloc is one call of the thread's: what it takes has its caller. */
static HAK_TLS const void *realloc_caller;

static void *take_for_realloc(struct hak_heap *heap, size_t size, int is_growing, int is_zeroed)
{
    struct request r = {size, SC_MIN_ALIGN, is_zeroed, heap, realloc_caller};
    (void)is_growing;
    if (heap || size > SC_SMALL_MAX) {
        return heap_alloc(&r);
    }
    int is_refused = 0;
    void *block = is_zeroed ? NULL : pass_small(size, &is_refused);
    return block || is_refused ? block : small(&r, hak_sc_of(size));
}

static void give_for_realloc(void *p, const void *known)
{
    (void)known;
    hak_profile_layer.table.free(p);
}

static void clear(void *p, size_t start)
{
    memset((char *)p + start, 0, profile_usable_size(p) - start);
}

/* A block that may lie where it is, or that the system moves: it becomes another one, of the size
   that it has then. */
static void *realloc_below(void *p, size_t size, struct hak_heap *heap, int is_zeroed,
                           const void *caller)
{
    struct profile_sample sample;
    int was_sampled = p && hak_profile_take_known(p, &sample);
    void *q = below()->realloc(p, size, heap, is_zeroed);
    if (!q && size) {
        if (was_sampled) {
            (void)hak_profile_keep(p, &sample);
        }
        return NULL;
    }
    count_large(q, size, heap, caller);
    return q;
}

static void *profile_realloc(void *p, size_t size, struct hak_heap *heap, int is_zeroed)
{
    static const struct realloc_way way = {.usable_size = size_for_realloc,
                                           .home = home,
                                           .stays = hak_realloc_fits,
                                           .take = take_for_realloc,
                                           .give = give_for_realloc,
                                           .clear = clear};
    const void *caller = __builtin_return_address(0);
    struct profile_sample sample;
    if (!p && !heap && !is_zeroed) {
        return other_malloc(size, caller);
    }
    int is_shifted = p && hak_profile_look_known(p, &sample) && sample.start != p;
    if (p && (HAK_SECURE || (size > SC_SMALL_MAX && !is_shifted))) {
        return realloc_below(p, size, heap, is_zeroed, caller);
    }
    realloc_caller = caller;
    return hak_realloc_by(&way, heap, p, size, is_zeroed);
}

/* --- heaps and walks --- */

static void profile_heap_destroy(struct hak_heap *heap)
{
    hak_profile_forget_heap(heap);
    below()->heap_destroy(heap);
}

static size_t profile_walked(void **p, size_t usable)
{
    size_t size = below()->walked(p, usable);
    return HAK_SECURE || !size ? size : hak_profile_walk_known(p, size);
}

static void profile_name(void *p, enum entry_family family)
{
    below()->name(p, family);
}

static void profile_claim(void *p, const struct entry_claim *claim)
{
    below()->claim(p, claim);
}

struct entry_layer hak_profile_layer = {
    .place = ENTRY_PLACE_PROFILE,
    .below = &hak_entry_plain,
    .wants = ENTRY_WANTS_METERED,
    .free_over_layer = HAK_SECURE ? NULL : profile_free,
    .table =
        {
            .malloc = profile_malloc,
            .calloc = profile_calloc,
            .aligned = profile_aligned,
            .realloc = profile_realloc,
            .free = profile_free,
            .usable_size = profile_usable_size,
            .heap_alloc = profile_heap_alloc,
            .heap_destroy = profile_heap_destroy,
            .walked = profile_walked,
            .name = profile_name,
            .claim = profile_claim,
        },
};

/* --- on and off --- */

int hak_profile_begin(size_t period)
{
    period = period ? period : PROFILE_PERIOD;
    if (period > PTRDIFF_MAX) {
        return EINVAL;
    }
    if (!hak_profile_enter()) {
        return EBUSY;
    }
    hak_stack_start();
    hak_profile_begin_seed(hak_os_ops.precise_ns() ^ (uintptr_t)&period);
    if (!hak_profile_began_ms) {
        hak_profile_began_ms = hak_profile_now_ms();
    }
    hak_profile_limit = hak_profile_limit_for(hak_profile_rate, period);
    atomic_store_relaxed(&hak_profile_last_period, period);
    atomic_store_release(&hak_profile_period, period);
    (void)atomic_add_relaxed(&epoch, 1u);
    atomic_store_release(&hak_entry_free_known, free_sampled);
    atomic_store_release(&hak_entry_pass, pass_small);
    atomic_store_relaxed(&hak_profile_layer.wants, (int)ENTRY_WANTS_METERED);
    hak_entry_add(&hak_profile_layer);
    hak_profile_leave();
    return 0;
}

int hak_profile_start(size_t period)
{
    int error = hak_profile_begin(period);
    if (!error) {
        hak_profile_end_lease();
    }
    return error;
}

/* The layer stays: blocks that were sampled are still to be freed. */
void hak_profile_stop(void)
{
    if (atomic_exchange_acq_rel(&hak_profile_period, (size_t)0)) {
        (void)atomic_add_relaxed(&epoch, 1u); /* no list goes to a metered bin any more */
        atomic_store_relaxed(&hak_profile_layer.wants, (int)ENTRY_WANTS_SLOW);
        hak_entry_add(&hak_profile_layer);
    }
}
