/* The table of stacks. No locks: a bucket is a list to whose front a stack is put by one exchange,
   and memory is cut off a chunk by an addition. Two threads that keep the same new stack at once
   see each other's at the exchange; so a forked child finds all whole, whatever the others did. */
#include <string.h>

#include "base/atomic.h"
#include "base/os.h"
#include "stack/stack.h"

#define N_BUCKETS   HAK_TINY_OR(16u, 16384u)
#define CHUNK_BYTES HAK_TINY_OR((size_t)16 * 1024, (size_t)256 * 1024)

/* Of one mapping; `used` may be above its size. */
struct chunk {
    size_t used;
    max_align_t bytes[];
};

const struct stack hak_stack_unknown;
static HAK_LARGE_ZEROS struct stack *buckets[N_BUCKETS];
static struct chunk *chunk;
static size_t n_stacks, table_bytes;

static uint32_t hash_of(const void *const *addresses, size_t n)
{
    uint64_t hash = n;
    for (size_t i = 0; i < n; i++) {
        hash = (hash ^ (uint64_t)(uintptr_t)addresses[i]) * UINT64_C(0x9e3779b97f4a7c15);
        hash ^= hash >> 32;
    }
    return (uint32_t)hash;
}

/* The bucket's first stack of these addresses before `end`. */
static struct stack *find(struct stack *stack, const struct stack *end, uint32_t hash,
                          const void *const *addresses, size_t n)
{
    for (; stack != end; stack = stack->next) {
        if (stack->hash == hash && stack->n == n &&
            memcmp(stack->addresses, addresses, n * sizeof(addresses[0])) == 0) {
            return stack;
        }
    }
    return NULL;
}

/* Puts a new chunk in the place of `full`, or finds that another thread did. */
static int add_chunk(struct chunk *full)
{
    if (atomic_add_relaxed(&table_bytes, CHUNK_BYTES) + CHUNK_BYTES > STACK_TABLE_BYTES) {
        atomic_sub_relaxed(&table_bytes, CHUNK_BYTES);
        return 0;
    }
    struct chunk *fresh = (struct chunk *)hak_os_map_guarded(CHUNK_BYTES);
    if (!fresh) {
        atomic_sub_relaxed(&table_bytes, CHUNK_BYTES);
        return 0;
    }
    fresh->used = sizeof(struct chunk);
    if (!atomic_cas_strong(&chunk, &full, fresh)) {
        atomic_sub_relaxed(&table_bytes, CHUNK_BYTES);
        hak_os_unmap_guarded(fresh, CHUNK_BYTES);
    } else {
        hak_os_note_own(fresh, CHUNK_BYTES);
    }
    return 1;
}

static struct stack *take_memory(size_t n)
{
    size_t size = sizeof(struct stack) + n * sizeof(const void *);
    for (;;) {
        struct chunk *from = atomic_load_acquire(&chunk);
        if (from) {
            size_t at = atomic_add_relaxed(&from->used, size);
            if (at + size <= CHUNK_BYTES) {
                return (struct stack *)(void *)((char *)from + at);
            }
        }
        if (!add_chunk(from)) {
            return NULL;
        }
    }
}

/* Puts it in front, unless another thread has put the same there in between. */
static struct stack *put(struct stack **bucket, struct stack *seen, struct stack *stack)
{
    struct stack *end = seen;
    stack->next = seen;
    while (!atomic_cas_strong(bucket, &stack->next, stack)) {
        struct stack *same = find(stack->next, end, stack->hash, stack->addresses, stack->n);
        if (same) {
            return same; /* the memory of ours is lost */
        }
        end = stack->next;
    }
    (void)atomic_add_relaxed(&n_stacks, (size_t)1);
    return stack;
}

const struct stack *hak_stack_keep(const void *const *addresses, size_t n)
{
    n = n < STACK_MOST ? n : STACK_MOST;
    if (n == 0) {
        return &hak_stack_unknown;
    }
    uint32_t hash = hash_of(addresses, n);
    struct stack **bucket = &buckets[hash % N_BUCKETS];
    struct stack *seen = atomic_load_acquire(bucket);
    struct stack *stack = find(seen, NULL, hash, addresses, n);
    if (stack) {
        return stack;
    }
    stack = take_memory(n);
    if (!stack) {
        return &hak_stack_unknown;
    }
    stack->hash = hash;
    stack->n = (uint32_t)n;
    memcpy(stack->addresses, addresses, n * sizeof(addresses[0]));
    return put(bucket, seen, stack);
}

void hak_stack_each(void (*visit)(const struct stack *stack, void *context), void *context)
{
    for (uint32_t i = 0; i < N_BUCKETS; i++) {
        for (const struct stack *stack = atomic_load_acquire(&buckets[i]); stack;
             stack = stack->next) {
            visit(stack, context);
        }
    }
}

size_t hak_stack_count(void)
{
    return atomic_load_relaxed(&n_stacks);
}

size_t hak_stack_bytes(void)
{
    return atomic_load_relaxed(&table_bytes);
}
