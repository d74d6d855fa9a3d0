/* An interpreter of bytes as calls of hakmem.h, with an oracle: which intervals are live, how they
   are aligned, what they hold.

   The oracle: live blocks do not overlap; a block is aligned as asked, and to 16 bytes; its usable
   size is at least what was asked for, and stays; all of it can be written, and holds what was
   written until it is freed; calloc's is zero; realloc keeps the contents, and leaves the block
   where it fails; rezalloc adds zeroes; a walk reports each live block once, and no other; only
   a request that cannot be met fails, with the right errno; hak_verify() is 0 after every step
   (VERIFY_EVERY); at the end nothing is in use. A request that cannot be met is one that is too
   large for the machine, or any while a memory limit is set or a call of the system has been made
   to fail.

   New operations get a row in `operations`; rows are only added at the end of their group, or the
   corpus changes its meaning. */
#include "checks/fuzz/api_fuzz.h"

#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <optional>
#include <thread>

#include "base/size_classes.h"
#include "base/stats.h"
#include "hakmem/hakmem.h"
#include "testing/failing_os.h"

namespace
{

using hak_testing::FailingOs;
using hak_testing::OsCall;

constexpr size_t N_SLOTS = 64;
constexpr size_t N_HEAPS = 3;
constexpr size_t MAX_THREADS = 16; /* at once; with the heaps less than the numbers that tiny has */
constexpr size_t MAX_STEPS = 2000;
constexpr size_t MAX_LIVE_BYTES = size_t(96) << 20;
constexpr size_t MAX_USUAL_BYTES = size_t(8) << 20;
constexpr size_t N_SAMPLES = 24; /* words of the pattern in the middle of a block */
constexpr size_t EDGE_BYTES = 256;
constexpr size_t VERIFY_EVERY = HAK_TINY_OR(1u, 4u);

struct Block {
    unsigned char *p = nullptr;
    size_t usable = 0;
    uint64_t key = 0;
    size_t asked = 0, align = 1; /* what the program asked for */
    struct hak_heap *heap = nullptr;
};

[[noreturn]] void fail(const char *what, const void *p, size_t size)
{
    fprintf(stderr, "api_fuzz: %s: block %p, size %zu (%s)\n", what, p, size, hak_variant());
    abort();
}

void check(bool holds, const char *what, const void *p = nullptr, size_t size = 0)
{
    if (!holds) {
        fail(what, p, size);
    }
}

/* --- the bytes --- */

class Input
{
  public:
    Input(const uint8_t *data, size_t size) : at_(data), end_(data + size)
    {
    }
    bool is_empty() const
    {
        return at_ == end_;
    }
    uint8_t byte()
    {
        return is_empty() ? 0 : *at_++;
    }
    size_t two_bytes()
    {
        size_t low = byte();
        return low | size_t(byte()) << 8;
    }

    /* Mostly the edges of size classes; what the two lowest bits of the first byte say. */
    size_t size()
    {
        uint8_t kind = byte();
        switch (kind & 3) {
        case 0: {
            size_t edge = hak_sc_table[(kind >> 2) % SC_N_CLASSES].size;
            return edge + byte() % 4 - 2;
        }
        case 1:
            return two_bytes();
        case 2:
            return two_bytes() << (kind >> 2) % 8;
        default:
            return size_t(kind >> 2) << (byte() % 14);
        }
    }

  private:
    const uint8_t *at_, *end_;
};

/* --- contents --- */

uint64_t word_of(uint64_t key, size_t at)
{
    return (key + at) * 0x9E3779B97F4A7C15u;
}

/* Calls f(offset) for the words of a block of `size` bytes that carry a pattern: both edges, and
   some in between. The same words for the same size. */
template <class F> void for_words(size_t size, F f)
{
    size_t first = size < EDGE_BYTES ? size / 8 * 8 : EDGE_BYTES;
    for (size_t at = 0; at + 8 <= first; at += 8) {
        f(at);
    }
    size_t stride = (size / N_SAMPLES + 8) & ~size_t(7);
    for (size_t at = first; at + 8 <= size; at += stride) {
        f(at);
    }
    if (size >= EDGE_BYTES + 8) {
        f((size - 8) & ~size_t(7)); /* usable sizes of the secure variant are any */
    }
}

void fill(Block &block)
{
    for_words(block.usable, [&](size_t at) {
        uint64_t word = word_of(block.key, at);
        memcpy(block.p + at, &word, 8);
    });
}

/* The contents that a block of `usable` bytes got, as far as `kept` bytes. */
void check_contents(const Block &block, const unsigned char *p, size_t kept)
{
    for_words(block.usable, [&](size_t at) {
        uint64_t expected = word_of(block.key, at), word;
        if (at + 8 <= kept) {
            memcpy(&word, p + at, 8);
            check(word == expected, "contents changed", p, kept);
        }
    });
}

void check_zero(const unsigned char *p, size_t size)
{
    size_t dense = size < 65536 ? size : 65536, stride = 4096 + 8;
    for (size_t at = 0; at < size; at += at < dense ? 1 : stride) {
        check(p[at] == 0, "calloc gave bytes that are not zero", p, size);
    }
    check(size == 0 || p[size - 1] == 0, "calloc gave bytes that are not zero", p, size);
}

/* --- the world --- */

struct World {
    explicit World(const Input &bytes) : in(bytes)
    {
        size_t committed;
        hak_limit_get(&soft, &hard, &committed);
    }

    Input in;
    Block slots[N_SLOTS];
    struct hak_heap *heaps[N_HEAPS] = {};
    size_t n_threads = 0;                  /* that wait for another of theirs to end */
    std::map<uintptr_t, size_t> intervals; /* start and usable bytes of the live ones */
    size_t live_bytes = 0, n_steps = 0;
    uint64_t next_key = 1;
    size_t soft, hard; /* limits at the start */
    bool may_fail = false;
    std::optional<FailingOs> os;
};

void run_steps(World &world, size_t n_most);

void forget(World &world, Block &block)
{
    world.intervals.erase(reinterpret_cast<uintptr_t>(block.p));
    world.live_bytes -= block.usable;
    block = Block();
}

/* A block that an allocation gave: into the slot, patterned. */
void remember(World &world, Block &slot, void *p, size_t size, size_t align,
              struct hak_heap *heap = nullptr)
{
    uintptr_t start = reinterpret_cast<uintptr_t>(p);
    size_t usable = hak_usable_size(p);
    check(usable >= size, "usable size is less than was asked for", p, size);
    check(start % 16 == 0 && start % align == 0, "misaligned", p, align);
    check(hak_owns(p) && hak_owns(static_cast<char *>(p) + (usable ? usable - 1 : 0)),
          "a block that hakmem does not own", p, size);
    auto after = world.intervals.lower_bound(start);
    check(after == world.intervals.end() || start + usable <= after->first,
          "overlaps the next block", p, usable);
    check(after == world.intervals.begin() ||
              std::prev(after)->first + std::prev(after)->second <= start,
          "overlaps the block before", p, usable);
    world.intervals[start] = usable;
    world.live_bytes += usable;
    slot.p = static_cast<unsigned char *>(p);
    slot.usable = usable;
    slot.key = world.next_key++;
    slot.asked = size;
    slot.align = align;
    slot.heap = heap;
    fill(slot);
}

void check_block(const Block &block)
{
    check(hak_usable_size(block.p) == block.usable, "usable size changed", block.p, block.usable);
    check_contents(block, block.p, block.usable);
}

/* The block of the slot, for a call that frees it; NULL if there is none. */
Block take_slot(World &world, Block &slot)
{
    Block block = slot;
    if (block.p) {
        check_block(block);
        forget(world, slot);
    }
    return block;
}

void free_slot(World &world, Block &slot)
{
    Block block = take_slot(world, slot);
    errno = 77;
    hak_free(block.p);
    check(errno == 77, "free changed errno", block.p);
}

Block &next_slot(World &world)
{
    return world.slots[world.in.byte() % N_SLOTS];
}

/* A slot to allocate into, and a size that the oracle can afford. */
Block &empty_slot(World &world)
{
    Block &slot = next_slot(world);
    free_slot(world, slot);
    return slot;
}

size_t usual_size(World &world)
{
    size_t size = world.in.size();
    return size > MAX_USUAL_BYTES || world.live_bytes + size > MAX_LIVE_BYTES ? size % 65536 : size;
}

void check_failure(const World &world, int error, size_t size)
{
    check(world.may_fail, "a request failed that could be met", nullptr, size);
    check(error == ENOMEM, "a request failed with another errno than ENOMEM", nullptr, size);
}

/* --- operations --- */

void do_malloc(World &world)
{
    Block &slot = empty_slot(world);
    size_t size = usual_size(world);
    void *p = hak_malloc(size);
    p ? remember(world, slot, p, size, 1) : check_failure(world, errno, size);
}

void do_calloc(World &world)
{
    Block &slot = empty_slot(world);
    size_t size = usual_size(world), n = world.in.byte() % 4 + 1;
    void *p = hak_calloc(n, size / n);
    if (p) {
        check_zero(static_cast<unsigned char *>(p), size / n * n);
        remember(world, slot, p, size / n * n, 1);
    } else {
        check_failure(world, errno, size);
    }
}

/* What a realloc of the slot's block to `size` bytes gave. The block stays in its heap. */
void after_realloc(World &world, Block &slot, void *p, size_t size, struct hak_heap *heap)
{
    Block old = slot;
    if (p) {
        check_contents(old, static_cast<unsigned char *>(p), old.usable < size ? old.usable : size);
        if (old.p) {
            forget(world, slot);
        }
        remember(world, slot, p, size, 1, heap);
    } else if (old.p && size == 0) {
        forget(world, slot);
    } else {
        check_failure(world, errno, size);
        check_contents(old, old.p, old.usable);
    }
}

void do_realloc(World &world)
{
    Block &slot = next_slot(world);
    size_t size = usual_size(world);
    void *p = hak_realloc(slot.p, size);
    after_realloc(world, slot, p, size, slot.heap);
}

/* What lies behind the old usable size is zero, whatever the block was. */
void do_rezalloc(World &world)
{
    Block &slot = next_slot(world);
    size_t size = usual_size(world), old_usable = slot.usable;
    auto *p = static_cast<unsigned char *>(hak_rezalloc(slot.p, size));
    if (p && size > old_usable) {
        check_zero(p + old_usable, size - old_usable);
    }
    after_realloc(world, slot, p, size, slot.heap);
}

/* A block that begins with calloc and is written as far as was asked for, no further: what each
   rezalloc adds is zero. */
void do_rezalloc_chain(World &world)
{
    Block &slot = empty_slot(world);
    size_t size = usual_size(world) % 262144 + 1;
    auto *p = static_cast<unsigned char *>(world.in.byte() % 2 ? hak_calloc(size, 1)
                                                               : hak_rezalloc(nullptr, size));
    if (!p) {
        check_failure(world, errno, size);
        return;
    }
    check_zero(p, size);
    for (size_t n = world.in.byte() % 4; n; n--) {
        memset(p, 0xA5, size);
        size_t larger = usual_size(world) % 262144 + 1;
        auto *q = static_cast<unsigned char *>(hak_rezalloc(p, larger));
        if (!q) {
            check_failure(world, errno, larger);
            break;
        }
        size_t kept = size < larger ? size : larger;
        check(q[0] == 0xA5 && q[kept - 1] == 0xA5, "rezalloc lost contents", q, larger);
        check_zero(q + kept, larger - kept);
        p = q;
        size = larger;
    }
    remember(world, slot, p, size, 1);
}

void do_aligned_alloc(World &world)
{
    Block &slot = empty_slot(world);
    size_t align = size_t(1) << world.in.byte() % 23, size = usual_size(world);
    void *p = hak_aligned_alloc(align, size);
    p ? remember(world, slot, p, size, align) : check_failure(world, errno, size);
}

void do_memalign(World &world)
{
    Block &slot = empty_slot(world);
    size_t align = world.in.two_bytes(), size = usual_size(world);
    void *p = hak_memalign(align, size);
    size_t rounded = 1;
    while (rounded < align) {
        rounded *= 2;
    }
    p ? remember(world, slot, p, size, rounded) : check_failure(world, errno, size);
}

void do_posix_memalign(World &world)
{
    Block &slot = empty_slot(world);
    size_t align = world.in.byte(), size = usual_size(world);
    align = align < 128 ? align : size_t(1) << align % 23;
    bool is_valid = align >= sizeof(void *) && (align & (align - 1)) == 0;
    void *const untouched = &world;
    void *p = untouched;
    errno = 78;
    int error = hak_posix_memalign(&p, align, size);
    check(errno == (error == ENOMEM ? ENOMEM : 78), "posix_memalign and errno", p, align);
    if (error == 0) {
        check(is_valid, "posix_memalign took an invalid alignment", p, align);
        remember(world, slot, p, size, align);
        return;
    }
    check(p == untouched, "posix_memalign failed, and changed the pointer", p, align);
    if (is_valid) {
        check_failure(world, error, size);
    } else {
        check(error == EINVAL, "posix_memalign did not say EINVAL", p, align);
    }
}

void do_free(World &world)
{
    free_slot(world, next_slot(world));
}

void do_free_range(World &world)
{
    size_t from = world.in.byte() % N_SLOTS, n = world.in.byte() % N_SLOTS,
           step = world.in.byte() % 5 + 1;
    for (size_t i = 0; i < n; i++) {
        free_slot(world, world.slots[(from + i * step) % N_SLOTS]);
    }
}

void do_malloc_many(World &world)
{
    size_t from = world.in.byte() % N_SLOTS, n = world.in.byte() % N_SLOTS,
           size = usual_size(world) % 65536;
    for (size_t i = 0; i < n; i++) {
        Block &slot = world.slots[(from + i) % N_SLOTS];
        free_slot(world, slot);
        void *p = hak_malloc(size);
        p ? remember(world, slot, p, size, 1) : check_failure(world, errno, size);
    }
}

/* Sizes that no machine has: NULL and ENOMEM from every function, and the old block stays. */
void do_too_large(World &world)
{
    Block &slot = next_slot(world);
    size_t size = SIZE_MAX - world.in.two_bytes() * (world.in.byte() + size_t(1));
    size = world.in.byte() % 2 ? size : size / 2;
    void *p = nullptr;
    errno = 0;
    check(!hak_malloc(size) && errno == ENOMEM, "malloc of too much", nullptr, size);
    errno = 0;
    check(!hak_calloc(size / 2 + 1, 3) && errno == ENOMEM, "calloc of too much", nullptr, size);
    errno = 0;
    check(!hak_realloc(slot.p, size) && errno == ENOMEM, "realloc to too much", nullptr, size);
    check_contents(slot, slot.p, slot.usable);
    errno = 0;
    check(!hak_aligned_alloc(4096, size) && errno == ENOMEM, "aligned_alloc of too much", nullptr,
          size);
    check(hak_posix_memalign(&p, 4096, size) == ENOMEM && !p, "posix_memalign of too much", nullptr,
          size);
    errno = 0;
    check(!hak_memalign(size, 10) && (errno == ENOMEM || errno == EINVAL), "memalign to too much",
          nullptr, size);
}

void do_bad_alignment(World &world)
{
    size_t align = world.in.two_bytes();
    if (align & (align - 1) || align == 0) {
        errno = 0;
        check(!hak_aligned_alloc(align, world.in.byte()) && errno == EINVAL,
              "aligned_alloc, bad alignment", nullptr, align);
    }
}

void do_check_slot(World &world)
{
    check_block(next_slot(world));
}

void do_malloc_at_least(World &world)
{
    Block &slot = empty_slot(world);
    size_t size = usual_size(world);
    struct hak_sized_block got = hak_malloc_at_least(size);
    if (got.block) {
        check(got.size == hak_usable_size(got.block), "malloc_at_least told another size",
              got.block, got.size);
        remember(world, slot, got.block, world.in.byte() % 2 ? size : got.size, 1);
    } else {
        check(got.size == 0, "malloc_at_least failed, and told a size", nullptr, got.size);
        check_failure(world, errno, size);
    }
}

void do_free_sized(World &world)
{
    Block block = take_slot(world, next_slot(world));
    errno = 77;
    if (block.align > 1) {
        hak_free_aligned_sized(block.p, block.align, block.asked);
    } else {
        hak_free_sized(block.p, block.asked);
    }
    check(errno == 77, "free_sized changed errno", block.p);
}

/* --- many at once --- */

void do_malloc_batch(World &world)
{
    size_t from = world.in.byte() % N_SLOTS, n = world.in.byte() % (N_SLOTS + 1),
           size = usual_size(world) % 131072;
    void *out[N_SLOTS];
    for (size_t i = 0; i < n; i++) {
        free_slot(world, world.slots[(from + i) % N_SLOTS]);
        out[i] = &world;
    }
    errno = 77;
    size_t n_got = hak_malloc_batch(size, n, out);
    check(n_got <= n, "a batch gave more than was asked for", nullptr, n_got);
    if (n_got < n) {
        check_failure(world, errno, size);
    }
    for (size_t i = 0; i < n; i++) {
        if (i < n_got) {
            remember(world, world.slots[(from + i) % N_SLOTS], out[i], size, 1);
        } else {
            check(out[i] == &world, "a batch wrote behind what it gave", nullptr, i);
        }
    }
}

void do_free_batch(World &world)
{
    size_t from = world.in.byte() % N_SLOTS, n = world.in.byte() % (N_SLOTS + 1);
    void *blocks[N_SLOTS];
    for (size_t i = 0; i < n; i++) {
        blocks[i] = take_slot(world, world.slots[(from + i) % N_SLOTS]).p;
    }
    hak_free_batch(blocks, n);
}

/* --- first-class heaps --- */

/* The heap that the input names, made at need; NULL where it cannot be. */
struct hak_heap *next_heap(World &world)
{
    struct hak_heap *&heap = world.heaps[world.in.byte() % N_HEAPS];
    if (!heap) {
        heap = hak_heap_create();
        if (!heap) {
            check_failure(world, errno, 0);
        }
    }
    return heap;
}

void destroy_heap(World &world, struct hak_heap *&heap)
{
    for (Block &slot : world.slots) {
        if (heap && slot.heap == heap) {
            (void)take_slot(world, slot);
        }
    }
    hak_heap_destroy(heap);
    heap = nullptr;
}

void do_heap_destroy(World &world)
{
    destroy_heap(world, world.heaps[world.in.byte() % N_HEAPS]);
}

void do_heap_malloc(World &world)
{
    struct hak_heap *heap = next_heap(world);
    Block &slot = empty_slot(world);
    size_t size = usual_size(world);
    if (heap) {
        void *p = hak_heap_malloc(heap, size);
        p ? remember(world, slot, p, size, 1, heap) : check_failure(world, errno, size);
    }
}

void do_heap_malloc_many(World &world)
{
    struct hak_heap *heap = next_heap(world);
    size_t from = world.in.byte() % N_SLOTS, n = world.in.byte() % N_SLOTS,
           size = usual_size(world) % 65536;
    for (size_t i = 0; heap && i < n; i++) {
        Block &slot = world.slots[(from + i) % N_SLOTS];
        free_slot(world, slot);
        void *p = hak_heap_malloc(heap, size);
        p ? remember(world, slot, p, size, 1, heap) : check_failure(world, errno, size);
    }
}

void do_heap_calloc(World &world)
{
    struct hak_heap *heap = next_heap(world);
    Block &slot = empty_slot(world);
    size_t size = usual_size(world);
    void *p = heap ? hak_heap_calloc(heap, 1, size) : nullptr;
    if (p) {
        check_zero(static_cast<unsigned char *>(p), size);
        remember(world, slot, p, size, 1, heap);
    } else if (heap) {
        check_failure(world, errno, size);
    }
}

void do_heap_aligned_alloc(World &world)
{
    struct hak_heap *heap = next_heap(world);
    Block &slot = empty_slot(world);
    size_t align = size_t(1) << world.in.byte() % 23, size = usual_size(world);
    if (heap) {
        void *p = hak_heap_aligned_alloc(heap, align, size);
        p ? remember(world, slot, p, size, align, heap) : check_failure(world, errno, size);
    }
}

/* Of a block of the heap; any other leaves first. */
void do_heap_realloc(World &world)
{
    struct hak_heap *heap = next_heap(world);
    Block &slot = next_slot(world);
    size_t size = usual_size(world);
    if (!heap) {
        return;
    }
    if (slot.heap != heap) {
        free_slot(world, slot);
    }
    void *p = hak_heap_realloc(heap, slot.p, size);
    after_realloc(world, slot, p, size, heap);
}

/* --- walks --- */

struct Walk {
    std::map<uintptr_t, size_t> told;
    size_t stop_after;
};

int visit(void *block, size_t size, void *context)
{
    auto *walk = static_cast<Walk *>(context);
    check(walk->told.emplace(reinterpret_cast<uintptr_t>(block), size).second,
          "a walk told of a block twice", block, size);
    return walk->told.size() == walk->stop_after ? 5 : 0;
}

/* The walk reported every live block (of one heap, or of all) with its size; and, if the walk is
   exact, nothing else. */
void check_walk(const World &world, const Walk &walk, const struct hak_heap *heap, bool is_exact)
{
    size_t n_live = 0;
    for (const Block &slot : world.slots) {
        /* Of a block where nothing is (size 0, secure or guarded) no walk tells. */
        if (slot.p && slot.usable && (!heap || slot.heap == heap)) {
            auto found = walk.told.find(reinterpret_cast<uintptr_t>(slot.p));
            check(found != walk.told.end(), "a walk did not tell of a block", slot.p, slot.usable);
            check(found->second == slot.usable, "a walk told another size", slot.p, found->second);
            n_live++;
        }
    }
    check(!is_exact || walk.told.size() == n_live, "a walk told of blocks that are not live",
          nullptr, walk.told.size());
}

void do_heap_walk(World &world)
{
    struct hak_heap *heap = next_heap(world);
    Walk walk{{}, world.in.byte() % 2 ? SIZE_MAX : world.in.byte() % 8 + size_t(1)};
    if (heap) {
        int result = hak_heap_walk(heap, visit, &walk);
        check(result == (walk.told.size() == walk.stop_after ? 5 : 0),
              "a walk returned something else");
        if (result == 0) {
            check_walk(world, walk, heap, true);
        }
    }
}

void do_walk(World &world)
{
    Walk walk{{}, SIZE_MAX};
    check(hak_walk(visit, &walk) == 0, "a walk returned something else");
    check_walk(world, walk, nullptr, world.n_threads == 0);
}

/* --- hooks --- */

struct Hooked {
    size_t n_before = 0, n_after = 0;
} hooked;

void hook_before(const struct hak_hook_call *call, void *context)
{
    auto *counts = static_cast<Hooked *>(context);
    check(counts->n_before++ == counts->n_after, "a hooked call within another", call->block,
          call->size);
}

void hook_after(const struct hak_hook_call *call, void *context)
{
    auto *counts = static_cast<Hooked *>(context);
    check(++counts->n_after == counts->n_before, "a hooked call that did not begin", call->block,
          call->size);
    check(call->kind != HAK_HOOK_FREE || call->block, "free(NULL) was told");
}

const struct hak_hooks hooks = {hook_before, hook_after, &hooked};

void do_hooks(World &world)
{
    hak_hooks_set(world.in.byte() % 2 ? &hooks : nullptr);
}

/* The hooks are called once for a slot's block that is freed while they are set. */
void do_hooked_free(World &world)
{
    hak_hooks_set(&hooks);
    size_t n = hooked.n_after;
    Block &slot = next_slot(world);
    bool is_block = slot.p != nullptr;
    free_slot(world, slot);
    check(hooked.n_after == n + is_block, "a free was not told once");
}

void do_purge(World &)
{
    (void)hak_purge();
}

/* A hard limit a little above what is committed: requests may fail until it is lifted. */
void do_limit(World &world)
{
    size_t soft, hard, committed, above = world.in.two_bytes() << world.in.byte() % 10;
    hak_limit_get(&soft, &hard, &committed);
    hak_limit_set(world.in.byte() % 2 ? committed / 2 + 1 : 0, committed + above + 1);
    world.may_fail = true;
}

/* From here on every request must be met again. */
void do_heal(World &world)
{
    hak_limit_set(world.soft, world.hard);
    if (world.os) {
        world.os->reset();
    }
    world.may_fail = false;
}

/* From the n-th call on, `more` calls of one function of the system fail. */
void do_fail_os(World &world)
{
    if (!world.os) {
        world.os.emplace();
    }
    OsCall call = static_cast<OsCall>(world.in.byte() % hak_testing::OS_N_CALLS);
    uint64_t n = world.in.byte() % 16 + 1u;
    world.os->fail(call, n, world.in.byte() % 4);
    world.may_fail = true;
}

/* The next operations in a thread of their own, which ends: remote frees, an orphan, its
   adoption. */
void do_thread(World &world)
{
    size_t n = world.in.byte() % 16 + 1;
    if (world.n_threads == MAX_THREADS) {
        return;
    }
    world.n_threads++;
    std::thread([&] { run_steps(world, n); }).join();
    world.n_threads--;
}

void do_version(World &world)
{
    struct hak_ace_class state;
    hak_ace_class(world.in.size(), &state);
    check(state.class_bytes % 16 == 0, "a class of ACE that is no multiple of 16", nullptr,
          state.class_bytes);
}

/* Often used ones stand several times. 64 rows: one byte has four chances of each. */
constexpr size_t N_OPERATIONS = 64;
using Operation = void (*)(World &);
const Operation operations[N_OPERATIONS] = {
    do_malloc,
    do_malloc,
    do_malloc,
    do_calloc,
    do_calloc,
    do_realloc,
    do_realloc,
    do_realloc,
    do_free,
    do_free,
    do_free,
    do_aligned_alloc,
    do_memalign,
    do_posix_memalign,
    do_malloc_many,
    do_malloc_many,
    do_free_range,
    do_free_range,
    do_check_slot,
    do_too_large,
    do_bad_alignment,
    do_purge,
    do_limit,
    do_heal,
    do_fail_os,
    do_thread,
    do_thread,
    do_version,
    do_free,
    do_malloc,
    do_realloc,
    do_free_range,
    /* the second half */
    do_heap_malloc,
    do_heap_malloc,
    do_heap_malloc,
    do_heap_malloc_many,
    do_heap_malloc_many,
    do_heap_calloc,
    do_heap_aligned_alloc,
    do_heap_realloc,
    do_heap_realloc,
    do_heap_destroy,
    do_heap_walk,
    do_heap_walk,
    do_walk,
    do_malloc_batch,
    do_malloc_batch,
    do_malloc_batch,
    do_free_batch,
    do_free_batch,
    do_malloc_at_least,
    do_malloc_at_least,
    do_free_sized,
    do_free_sized,
    do_free_sized,
    do_rezalloc,
    do_rezalloc,
    do_rezalloc_chain,
    do_rezalloc_chain,
    do_hooks,
    do_hooked_free,
    do_thread,
    do_free_range,
    do_heal,
};

void run_steps(World &world, size_t n_most)
{
    for (size_t i = 0; i < n_most && !world.in.is_empty() && world.n_steps < MAX_STEPS; i++) {
        operations[world.in.byte() % N_OPERATIONS](world);
        if (++world.n_steps % VERIFY_EVERY == 0) {
            int error = hak_verify();
            check(error == 0, "hak_verify", nullptr, static_cast<size_t>(error));
        }
    }
}

} // namespace

size_t hak_fuzz::run_api(const uint8_t *data, size_t size)
{
    World world{Input(data, size)};
    run_steps(world, SIZE_MAX);
    world.os.reset();
    hak_limit_set(world.soft, world.hard);
    for (struct hak_heap *&heap : world.heaps) {
        destroy_heap(world, heap);
    }
    for (Block &slot : world.slots) {
        free_slot(world, slot);
    }
    hak_hooks_set(nullptr);
    (void)hak_purge();
    check(hak_verify() == 0, "hak_verify at the end");
    check(hak_stat_get(heap_used_bytes) == 0, "units in use at the end", nullptr,
          size_t(hak_stat_get(heap_used_bytes)));
    check(hak_stat_get(large_bytes) == 0, "large blocks at the end", nullptr,
          size_t(hak_stat_get(large_bytes)));
    return world.n_steps;
}
