/* Small blocks that are not in hand: walked, and looked at on demand and at exit, while other
   threads may use or free them. Their owner's lock (rank HEAP or COMMON) is held for one block at a
   time. Called by layer.c. */
#include "secure/small.h"

#include "hakmem/heap.h"
#include "heap/gate.h"
#include "secure/blame.h"
#include "secure/cache.h"
#include "secure/short.h"
#include "secure/tail.h"

#if HAK_SECURE

/* How often a block of another thread must look wrong. */
#define LOOKS 100

int hak_secure_small_is_of_pool(uint32_t tag)
{
    const struct owner *owner = hak_owner_by_id(TAG_OWNER(tag));
    return owner && (owner->kind & ~(uint32_t)OWNER_LOST) == OWNER_POOL;
}

/* While the owner is held, its slab stays. Another thread may have returned it, or may free the
   block. */
struct held {
    enum gate_reader how;
    struct owner *owner;
};

/* If the unit still has a slab of that class, and a block of it begins at p: who asks may have p
   from an earlier slab's walk. */
static struct held hold(const void *p, uint32_t size_class)
{
    const struct size_class *row = &hak_sc_table[size_class];
    struct held held = {hak_gate_enter_to_read(), NULL};
    uint32_t tag = held.how == GATE_REFUSED ? 0 : hak_map_find(p).tag;
    uint32_t offset = (uint32_t)((uintptr_t)p & (SC_SLAB_BYTES - 1));
    if (TAG_IS_SLAB(tag) && TAG_CLASS(tag) == size_class &&
        hak_sc_is_block(offset, row->magic, row->limit)) {
        held.owner = hak_owner_hold(TAG_OWNER(tag));
        if (held.owner && hak_map_find(p).tag != tag) {
            hak_lock_release(&held.owner->lock);
            held.owner = NULL;
        }
    }
    return held;
}

static void let_go(struct held held)
{
    if (held.owner) {
        hak_lock_release(&held.owner->lock);
    }
    hak_gate_leave_reader(held.how);
}

static size_t walked(void *p, size_t class_bytes, int end)
{
    uint64_t *tail = hak_secure_tail_of(p, class_bytes), key = hak_secure_tail_key(tail);
    struct tail says = hak_secure_tail_decode(atomic_load_relaxed(tail), key);
    if (!says.is_right || !says.family) {
        return 0;
    }
    if (end) {
        if (HAK_UNLIKELY(!hak_secure_tail_fill_is_right(p, says.size, tail))) {
            hak_secure_overflowed(p);
        }
        atomic_store_relaxed(tail, key); /* first, for who looks (looks_right) */
        __atomic_thread_fence(__ATOMIC_RELEASE);
        hak_secure_zero_before(p, says.size, class_bytes - TAIL_BYTES);
    }
    return says.size;
}

size_t hak_secure_small_walked(void *p, uint32_t tag, int end)
{
    size_t class_bytes = hak_sc_table[TAG_CLASS(tag)].size;
    if (hak_secure_small_is_of_pool(tag)) {
        return class_bytes;
    }
    struct held held = hold(p, TAG_CLASS(tag));
    size_t size = held.owner ? walked(p, class_bytes, end) : 0;
    let_go(held);
    return size;
}

static int is_all_zero(const char *p, size_t n)
{
    uint64_t any = 0;
    for (size_t i = 0; i < n / sizeof any; i++) {
        any |= ((const uint64_t *)(const void *)p)[i];
    }
    return !any;
}

void hak_secure_small_check_freed(const void *p, uint32_t size_class, enum secure_kept how)
{
    const uint64_t *tail = hak_secure_tail_of(p, hak_sc_table[size_class].size);
    uint64_t word = atomic_load_relaxed(tail), key = hak_secure_tail_key(tail);
    const char *from = (const char *)p + (how == SECURE_KEPT_LINKED ? sizeof(uint64_t) : 0);
    if (how == SECURE_KEPT_STRAY) {
        if (word == key) { /* see hak_secure_cache_check_stray */
            hak_secure_blame("block freed twice", p);
        }
        key ^= hak_secure_tail_stray();
    }
    if ((word && word != key) || !is_all_zero(from, (size_t)((const char *)tail - from))) {
        hak_secure_written_after_free(p);
    }
}

/* 1 if the block looks right, or another thread frees it. */
static int looks_right(const void *p, size_t class_bytes)
{
    const uint64_t *tail = hak_secure_tail_of(p, class_bytes);
    uint64_t word = atomic_load_acquire(tail);
    struct tail says = hak_secure_tail_decode(word, hak_secure_tail_key(tail));
    if (!says.is_right) {
        return word == 0;
    }
    if (!says.family || says.size > class_bytes - TAIL_BYTES) {
        return !says.family;
    }
    int is_right = hak_secure_tail_fill_is_right(p, says.size, tail);
    __atomic_thread_fence(__ATOMIC_ACQUIRE);
    return is_right || atomic_load_relaxed(tail) != word;
}

/* Looked at again where it looks wrong: between two reads another thread may have freed it, and a
   third one got it with the same size. */
static void check(const void *p, size_t class_bytes)
{
    for (int i = 0; !looks_right(p, class_bytes); i++) {
        if (i == LOOKS) {
            hak_secure_overflowed(p);
        }
    }
}

/* Where no other thread has a heap, none changes or returns a slab. */
static int is_alone(void)
{
    return hak_theap_own != &hak_theap_none && hak_theap_n_live() < 2;
}

void hak_secure_small_check(const void *p, uint32_t tag)
{
    if (hak_secure_small_is_of_pool(tag)) {
        return;
    }
    if (is_alone()) {
        check(p, hak_sc_table[TAG_CLASS(tag)].size);
    } else {
        struct held held = hold(p, TAG_CLASS(tag));
        if (held.owner) {
            check(p, hak_sc_table[TAG_CLASS(tag)].size);
        }
        let_go(held);
    }
}

/* Blocks of one word of a slab's bits, the first of which is at `first`. */
static void check_word(char *first, uint32_t size_class, uint64_t used)
{
    const size_t class_bytes = hak_sc_table[size_class].size;
    const uint32_t tag = hak_map_find(first).tag;
    int is_its =
        TAG_IS_SLAB(tag) && TAG_CLASS(tag) == size_class && !hak_secure_small_is_of_pool(tag);
    for (; is_its && used; used &= used - 1) {
        const char *p = first + (size_t)__builtin_ctzll(used) * class_bytes;
        if (is_alone()) { /* still: a thread may get its heap at any time */
            check(p, class_bytes);
        } else {
            hak_secure_small_check(p, tag);
        }
    }
}

uint32_t hak_secure_small_check_slab(char *base, uint32_t size_class, const uint64_t *free)
{
    const struct size_class *row = &hak_sc_table[size_class];
    uint32_t n = 0;
    for (uint32_t first = 0; first < row->capacity; first += 64) {
        uint32_t left = row->capacity - first;
        uint64_t used = ~free[first / 64];
        used &= left < 64 ? ((uint64_t)1 << left) - 1 : ~(uint64_t)0;
        check_word(base + (size_t)first * row->size, size_class, used);
        n += (uint32_t)__builtin_popcountll(used);
    }
    return n;
}

#endif
