/* Stacks of sampled blocks: the layer, and the records. No locks. Started by layer.c; blame.c asks
   what is known. */
#include "secure/stacks.h"

#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/error.h"
#include "base/lock_holds.h"
#include "base/os.h"
#include "hakmem/entry.h"
#include "secure/cache.h"
#include "stack/stack.h"
#include "stack/trace.h"

#if HAK_SECURE

#define STANDARD_ERROR 2

enum { ALLOCATED, FREED, N_EVENTS };
enum record_state { LIVE, MOVING, ENDED };

struct call {
    const struct stack *stack;
    uint32_t thread;
};

struct record {
    const void *block;
    uint32_t is_busy, state; /* enum record_state; MOVING: in realloc, which may free it */
    struct call calls[N_EVENTS];
};

static struct entry_layer layer;
static struct record *records;
static uint32_t rate_;

static const struct entry_table *below(void)
{
    return hak_entry_below(&layer);
}

/* --- records --- */

static struct record *record_of(const void *block)
{
    uint64_t hash = (uint64_t)(uintptr_t)block * 0x9E3779B97F4A7C15u;
    return &records[(hash >> 32) % STACKS_RECORDS];
}

/* Returns whether it is the caller's now. */
static int begin(struct record *record)
{
    uint32_t no = 0;
    return atomic_cas_strong(&record->is_busy, &no, 1u);
}

static void end(struct record *record)
{
    atomic_store_release(&record->is_busy, 0u);
}

static struct call call_here(void)
{
    const void *frames[STACK_TRACE_FRAMES];
    int saved = errno;
    size_t n = hak_stack_capture(frames, STACK_TRACE_FRAMES, NULL);
    struct call call = {hak_stack_keep(frames, n), (uint32_t)syscall(SYS_gettid)};
    errno = saved;
    return call;
}

static int is_of(const struct record *record, const void *block)
{
    return HAK_UNLIKELY(atomic_load_relaxed(&record->block) == block);
}

static int is_drawn(void)
{
    uint32_t rate = atomic_load_relaxed(&rate_);
    struct secure_cache *cache =
        hak_secure_cache_now(); /* whose sequence of numbers is drawn from */
    return rate && cache && hak_secure_draw(cache, rate) == 0;
}

/* A block was handed out. What was known of its address is of an earlier one. */
static void *note_new(void *p)
{
    if (HAK_UNLIKELY(!p)) {
        return NULL;
    }
    struct record *record = record_of(p);
    int is_sampled = is_drawn();
    if (HAK_LIKELY(!is_sampled) && !is_of(record, p)) {
        return p;
    }
    struct call call = {NULL, 0};
    if (is_sampled) {
        call = call_here();
    }
    if (begin(record)) {
        atomic_store_relaxed(&record->block, is_sampled ? (const void *)p : NULL);
        atomic_store_relaxed(&record->state, (uint32_t)LIVE);
        record->calls[ALLOCATED] = call;
        record->calls[FREED].stack = NULL;
        end(record);
    }
    return p;
}

/* A block that is in use is about to be freed, by free or by realloc. */
static void note_end(const void *p, enum record_state state)
{
    struct record *record = record_of(p);
    if (!is_of(record, p)) {
        return;
    }
    struct call call = call_here();
    if (begin(record)) {
        if (record->block == p && record->state == LIVE) {
            record->calls[FREED] = call;
            atomic_store_relaxed(&record->state, (uint32_t)state);
        }
        end(record);
    }
}

/* realloc has returned, and has freed the block or not. */
static void note_moved(const void *p, int was_freed)
{
    struct record *record = record_of(p);
    if (is_of(record, p) && begin(record)) {
        if (record->block == p && record->state == MOVING) {
            atomic_store_relaxed(&record->state, (uint32_t)(was_freed ? ENDED : LIVE));
        }
        end(record);
    }
}

/* --- the layer --- */

static void *stacks_malloc(size_t size)
{
    return note_new(below()->malloc(size));
}

static void *stacks_calloc(size_t bytes)
{
    return note_new(below()->calloc(bytes));
}

static void *stacks_aligned(size_t alignment, size_t size)
{
    return note_new(below()->aligned(alignment, size));
}

static void *stacks_heap_alloc(struct hak_heap *heap, size_t size, size_t alignment, int is_zeroed)
{
    return note_new(below()->heap_alloc(heap, size, alignment, is_zeroed));
}

static void *stacks_realloc(void *p, size_t size, struct hak_heap *heap, int is_zeroed)
{
    if (p) {
        note_end(p, MOVING);
    }
    void *q = below()->realloc(p, size, heap, is_zeroed);
    if (p) {
        note_moved(p, q != p && (q || !size));
    }
    return q == p ? q : note_new(q);
}

static void stacks_free(void *p)
{
    note_end(p, ENDED);
    below()->free(p);
}

static size_t stacks_usable_size(const void *p)
{
    return below()->usable_size(p);
}

static void stacks_heap_destroy(struct hak_heap *heap)
{
    below()->heap_destroy(heap);
}

static size_t stacks_walked(void **p, size_t usable)
{
    return below()->walked(p, usable);
}

static void stacks_name(void *p, enum entry_family family)
{
    below()->name(p, family);
}

static void stacks_claim(void *p, const struct entry_claim *claim)
{
    below()->claim(p, claim);
}

static struct entry_layer layer = {
    .place = ENTRY_PLACE_STACKS,
    .below = &hak_entry_plain,
    .table =
        {
            .malloc = stacks_malloc,
            .calloc = stacks_calloc,
            .aligned = stacks_aligned,
            .realloc = stacks_realloc,
            .free = stacks_free,
            .usable_size = stacks_usable_size,
            .heap_alloc = stacks_heap_alloc,
            .heap_destroy = stacks_heap_destroy,
            .walked = stacks_walked,
            .name = stacks_name,
            .claim = stacks_claim,
        },
};

int hak_secure_stacks_start(uint32_t rate)
{
    atomic_store_relaxed(&rate_, rate);
    if (!records) {
        records = (struct record *)hak_os_meta_alloc(STACKS_RECORDS * sizeof *records);
    }
    if (!records) {
        return ENOMEM;
    }
    hak_stack_start();
    hak_entry_add(&layer);
    return 0;
}

/* --- saying --- */

/* Returns whether there is something to say. */
static int set_trace(struct stack_trace *trace, const struct call *call)
{
    const struct stack *stack = call->stack;
    trace->thread = call->thread;
    trace->n = !stack ? 0 : stack->n < STACK_TRACE_FRAMES ? stack->n : STACK_TRACE_FRAMES;
    if (trace->n) {
        memcpy(trace->frames, stack->addresses, trace->n * sizeof trace->frames[0]);
    }
    return stack != NULL;
}

static void say(struct hak_line *line, const char *text, const struct stack_trace *trace)
{
    hak_line_write(line, STANDARD_ERROR);
    hak_stack_trace_line(line, text, trace);
}

/* Sets the traces of the block's events that are known; returns how many. */
static size_t find_traces(const void *block, struct stack_trace *traces)
{
    struct record *record = records ? record_of(block) : NULL;
    if (!record || record->block != block || !begin(record)) {
        return 0;
    }
    int is_known =
            record->block == block && set_trace(&traces[ALLOCATED], &record->calls[ALLOCATED]),
        is_freed =
            is_known && record->state == ENDED && set_trace(&traces[FREED], &record->calls[FREED]);
    end(record);
    return (size_t)(is_known + is_freed);
}

void hak_secure_stacks_say(struct hak_line *line, const void *block,
                           const struct stack_trace *touched)
{
    static const char *const texts[] = {
        [ALLOCATED] = "hakmem: allocated", [FREED] = "hakmem: freed"};
    struct stack_trace traces[N_EVENTS];
    const struct stack_trace *said[N_EVENTS + 1];
    size_t n = find_traces(block, traces), n_said = 0;
    if (!n && !touched) {
        return;
    }
    (void)hak_lock_refuse_system_calls(0);
    if (touched) {
        say(line, "hakmem: touched", touched);
        said[n_said++] = touched;
    }
    for (size_t i = 0; i < n; i++) {
        say(line, texts[i], &traces[i]);
        said[n_said++] = &traces[i];
    }
    hak_stack_trace_maps(line, said, n_said);
}

#endif
