/* The leak report's table of entry points. No locks. State: of each thread, whether it notes a
   stack just now: what that allocates has none. */
#include "profile/leaks.h"

#include <errno.h>
#include <string.h>

#include "base/size_classes.h"
#include "hakmem/heap.h"
#include "hakmem/plain.h"
#include "hakmem/realloc.h"
#include "heap/gate.h"
#include "superslab/map.h"

#define ADDRESS_BITS 48

static HAK_TLS uint8_t is_noting;

static const struct entry_table *below(void)
{
    return hak_entry_below(&hak_leaks_layer);
}

int hak_leaks_is_busy(void)
{
    return is_noting || hak_gate_is_inside() || hak_gate_is_mine();
}

/* --- tails --- */

struct tail {
    uint64_t size, word;
};
_Static_assert(sizeof(struct tail) == LEAKS_TAIL, "a block's last bytes");

static struct tail tail_of(const void *p, const struct stack *stack, uint64_t size)
{
    uint64_t address = (uintptr_t)stack & ((UINT64_C(1) << ADDRESS_BITS) - 1);
    uint64_t check = ((uintptr_t)p ^ address << 1 ^ size << 17) * UINT64_C(0x9e3779b97f4a7c15);
    return (struct tail){size, address | (check >> ADDRESS_BITS | 1) << ADDRESS_BITS};
}

/* In the child the block may be one that memcheck or AddressSanitizer does not let us read. */
__attribute__((no_sanitize("address", "thread"))) static struct tail read_tail(const char *at)
{
    struct __attribute__((packed, may_alias)) anywhere {
        uint64_t size, word;
    };
    const volatile struct anywhere *from = (const volatile struct anywhere *)(const void *)at;
    return (struct tail){from->size, from->word};
}

enum leaks_tail hak_leaks_look(const void *p, size_t usable, struct leaks_told *told)
{
    if (usable < LEAKS_TAIL) {
        return LEAKS_NONE;
    }
    struct tail tail = read_tail((const char *)p + usable - LEAKS_TAIL);
    const struct stack *stack =
        (const struct stack *)(uintptr_t)(tail.word & ((UINT64_C(1) << ADDRESS_BITS) - 1));
    if (tail.size > usable - LEAKS_TAIL || tail.word != tail_of(p, stack, tail.size).word) {
        return LEAKS_NONE;
    }
    *told = (struct leaks_told){stack, tail.size};
    return stack ? LEAKS_LIVE : LEAKS_FREED;
}

static void put(void *p, size_t usable, const struct stack *stack, size_t size)
{
    struct tail tail = tail_of(p, stack, size);
    memcpy((char *)p + usable - LEAKS_TAIL, &tail, sizeof tail);
}

static HAK_NOINLINE const struct stack *stack_here(const void *caller)
{
    const void *addresses[STACK_MOST];
    if (is_noting) {
        return &hak_stack_unknown;
    }
    int saved = errno;
    is_noting = 1;
    const struct stack *stack =
        hak_stack_keep(addresses, hak_stack_capture(addresses, STACK_MOST, caller));
    is_noting = 0;
    errno = saved;
    return stack;
}

static void mind(void)
{
    if (HAK_UNLIKELY(atomic_load_relaxed(&hak_leaks_due) != 0)) {
        hak_leaks_mind();
    }
}

/* What was just allocated. */
static void *note(void *p, size_t size, const void *caller)
{
    if (HAK_LIKELY(p != NULL)) {
        put(p, below()->usable_size(p), stack_here(caller), size);
    }
    mind();
    return p;
}

/* What is asked for below. */
static size_t with_tail(size_t size)
{
    return size <= SIZE_MAX - LEAKS_TAIL ? size + LEAKS_TAIL : SIZE_MAX;
}

/* Another thread's cache may keep the block, where a walk takes it for one in use. Its fields
   stay as they are if p is none, for whoever says so. The secure variant's walks know. */
static void mark_freed(void *p)
{
    struct leaks_told told;
    uint32_t tag = hak_map_find(p).tag;
    const struct size_class *row = &hak_sc_table[TAG_CLASS(tag)];
    if (!HAK_SECURE && TAG_IS_SLAB(tag) &&
        hak_sc_is_block((uint32_t)((uintptr_t)p & (SC_SLAB_BYTES - 1)), row->magic, row->limit) &&
        hak_leaks_look(p, row->size, &told) == LEAKS_LIVE) {
        put(p, row->size, NULL, 0);
    }
}

/* --- the table --- */

static void *leaks_malloc(size_t size)
{
    return note(below()->malloc(with_tail(size)), size, __builtin_return_address(0));
}

static void *leaks_calloc(size_t bytes)
{
    return note(below()->calloc(with_tail(bytes)), bytes, __builtin_return_address(0));
}

static void *leaks_aligned(size_t alignment, size_t size)
{
    return note(below()->aligned(alignment, with_tail(size)), size, __builtin_return_address(0));
}

static void *leaks_heap_alloc(struct hak_heap *heap, size_t size, size_t alignment, int is_zeroed)
{
    return note(below()->heap_alloc(heap, with_tail(size), alignment, is_zeroed), size,
                __builtin_return_address(0));
}

static void leaks_free(void *p)
{
    mark_freed(p);
    below()->free(p);
    mind();
}

/* The table below asks again in a realloc of its own, and says what is wrong with p. */
static size_t usable_for_realloc(const void *p)
{
    return below() == &hak_entry_plain ? hak_plain_size_for(p, PLAIN_REALLOC)
                                       : below()->usable_size(p);
}

static void *allocate(size_t size, struct hak_heap *heap, int is_zeroed)
{
    size = with_tail(size);
    return heap        ? below()->heap_alloc(heap, size, SC_MIN_ALIGN, is_zeroed)
           : is_zeroed ? below()->calloc(size)
                       : below()->malloc(size);
}

/* The block becomes the caller's who has made it larger or smaller. Its tail is in the way of what
   a zeroed one has behind its end, and is still there if nothing has changed. */
static void *leaks_realloc(void *p, size_t size, struct hak_heap *heap, int is_zeroed)
{
    const void *caller = __builtin_return_address(0);
    struct leaks_told told;
    if (!p) {
        return note(allocate(size, heap, is_zeroed), size, caller);
    }
    if (size == 0) {
        mark_freed(p);
        void *q = below()->realloc(p, 0, heap, is_zeroed);
        mind();
        return q;
    }
    size_t usable = usable_for_realloc(p);
    int is_live = hak_leaks_look(p, usable, &told) == LEAKS_LIVE;
    if (is_live) {
        memset((char *)p + usable - LEAKS_TAIL, 0, LEAKS_TAIL);
    }
    void *q = below()->realloc(p, with_tail(size), heap, is_zeroed);
    if (!q && is_live) {
        put(p, usable, told.stack, told.size);
    }
    return note(q, size, caller);
}

static size_t leaks_usable_size(const void *p)
{
    struct leaks_told told;
    size_t size = below()->usable_size(p);
    return hak_leaks_look(p, size, &told) == LEAKS_NONE ? size : size - LEAKS_TAIL;
}

static size_t leaks_walked(void **p, size_t usable)
{
    struct leaks_told told;
    size_t size = below()->walked(p, usable);
    enum leaks_tail tail = size ? hak_leaks_look(*p, size, &told) : LEAKS_FREED;
    return tail == LEAKS_FREED ? 0 : tail == LEAKS_LIVE ? size - LEAKS_TAIL : size;
}

static void leaks_heap_destroy(struct hak_heap *heap)
{
    below()->heap_destroy(heap);
}

static void leaks_name(void *p, enum entry_family family)
{
    below()->name(p, family);
}

/* The size that was asked for, below. */
static void leaks_claim(void *p, const struct entry_claim *claim)
{
    struct entry_claim larger = *claim;
    larger.size = with_tail(claim->size);
    below()->claim(p, &larger);
}

struct entry_layer hak_leaks_layer = {
    .place = ENTRY_PLACE_LEAKS,
    .below = &hak_entry_plain,
    .table =
        {
            .malloc = leaks_malloc,
            .calloc = leaks_calloc,
            .aligned = leaks_aligned,
            .realloc = leaks_realloc,
            .free = leaks_free,
            .usable_size = leaks_usable_size,
            .heap_alloc = leaks_heap_alloc,
            .heap_destroy = leaks_heap_destroy,
            .walked = leaks_walked,
            .name = leaks_name,
            .claim = leaks_claim,
        },
};
