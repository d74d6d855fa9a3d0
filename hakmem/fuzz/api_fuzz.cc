/* An interpreter of bytes as calls of hakmem.h, with an oracle: which intervals are live, how they are aligned, what they hold.

   The oracle: live blocks do not overlap; a block is aligned as asked, and to 16 bytes; its usable size is at least what was
   asked for, and stays; all of it can be written, and holds what was written until it is freed; calloc's is zero; realloc
   keeps the contents, and leaves the block where it fails; only a request that cannot be met fails, with the right errno;
   hak_verify() is 0 after every step (VERIFY_EVERY); at the end nothing is in use.
   A request that cannot be met is one that is too large for the machine, or any while a memory limit is set or a call of the
   system has been made to fail.

   New operations get a row in `operations`; rows are only added at the end of their group, or the corpus changes its meaning. */
#include "hakmem/fuzz/api_fuzz.h"

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
            size_t edge = sc_table[(kind >> 2) % SC_N_CLASSES].size;
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

/* Calls f(offset) for the words of a block of `size` bytes that carry a pattern: both edges, and some in between. The same
   words for the same size. */
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
        f(size - 8);
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
void remember(World &world, Block &slot, void *p, size_t size, size_t align)
{
    uintptr_t start = reinterpret_cast<uintptr_t>(p);
    size_t usable = hak_usable_size(p);
    check(usable >= size, "usable size is less than was asked for", p, size);
    check(start % 16 == 0 && start % align == 0, "misaligned", p, align);
    check(hak_owns(p) && hak_owns(static_cast<char *>(p) + usable - 1), "a block that hakmem does not own", p, size);
    auto after = world.intervals.lower_bound(start);
    check(after == world.intervals.end() || start + usable <= after->first, "overlaps the next block", p, usable);
    check(after == world.intervals.begin() || std::prev(after)->first + std::prev(after)->second <= start,
          "overlaps the block before", p, usable);
    world.intervals[start] = usable;
    world.live_bytes += usable;
    slot.p = static_cast<unsigned char *>(p);
    slot.usable = usable;
    slot.key = world.next_key++;
    fill(slot);
}

void free_slot(World &world, Block &slot)
{
    if (slot.p) {
        check(hak_usable_size(slot.p) == slot.usable, "usable size changed", slot.p, slot.usable);
        check_contents(slot, slot.p, slot.usable);
    }
    unsigned char *p = slot.p;
    if (p) {
        forget(world, slot);
    }
    errno = 77;
    hak_free(p);
    check(errno == 77, "free changed errno", p);
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

void do_realloc(World &world)
{
    Block &slot = next_slot(world);
    size_t size = usual_size(world);
    Block old = slot;
    void *p = hak_realloc(old.p, size);
    if (p) {
        check_contents(old, static_cast<unsigned char *>(p), old.usable < size ? old.usable : size);
        if (old.p) {
            forget(world, slot);
        }
        remember(world, slot, p, size, 1);
    } else if (old.p && size == 0) {
        forget(world, slot);
    } else {
        check_failure(world, errno, size);
        check_contents(old, old.p, old.usable);
    }
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
    check(errno == 78, "posix_memalign changed errno", p, align);
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
    size_t from = world.in.byte() % N_SLOTS, n = world.in.byte() % N_SLOTS, step = world.in.byte() % 5 + 1;
    for (size_t i = 0; i < n; i++) {
        free_slot(world, world.slots[(from + i * step) % N_SLOTS]);
    }
}

void do_malloc_many(World &world)
{
    size_t from = world.in.byte() % N_SLOTS, n = world.in.byte() % N_SLOTS, size = usual_size(world) % 65536;
    for (size_t i = 0; i < n; i++) {
        Block &slot = world.slots[(from + i) % N_SLOTS];
        free_slot(world, slot);
        void *p = hak_malloc(size);
        p ? remember(world, slot, p, size, 1) : check_failure(world, errno, size);
    }
}

/* Sizes that no machine has: NULL and ENOMEM from everybody, and the old block stays. */
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
    check(!hak_aligned_alloc(4096, size) && errno == ENOMEM, "aligned_alloc of too much", nullptr, size);
    check(hak_posix_memalign(&p, 4096, size) == ENOMEM && !p, "posix_memalign of too much", nullptr, size);
    errno = 0;
    check(!hak_memalign(size, 10) && (errno == ENOMEM || errno == EINVAL), "memalign to too much", nullptr, size);
}

void do_bad_alignment(World &world)
{
    size_t align = world.in.two_bytes();
    if (align & (align - 1) || align == 0) {
        errno = 0;
        check(!hak_aligned_alloc(align, world.in.byte()) && errno == EINVAL, "aligned_alloc, bad alignment", nullptr,
              align);
    }
}

void do_check_slot(World &world)
{
    const Block &slot = next_slot(world);
    check(hak_usable_size(slot.p) == slot.usable, "usable size changed", slot.p, slot.usable);
    check_contents(slot, slot.p, slot.usable);
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

/* The next operations in a thread of their own, which ends: remote frees, an orphan, its adoption. */
void do_thread(World &world)
{
    size_t n = world.in.byte() % 16 + 1;
    std::thread([&] { run_steps(world, n); }).join();
}

void do_version(World &world)
{
    struct hak_ace_class state;
    hak_ace_class(world.in.size(), &state);
    check(state.class_bytes % 16 == 0, "a class of ACE that is no multiple of 16", nullptr, state.class_bytes);
}

/* Often used ones stand several times. 32 rows: one byte has eight chances of each. */
using Operation = void (*)(World &);
const Operation operations[32] = {
    do_malloc,      do_malloc,      do_malloc,     do_calloc,     do_calloc,        do_realloc,   do_realloc,
    do_realloc,     do_free,        do_free,       do_free,       do_aligned_alloc, do_memalign,  do_posix_memalign,
    do_malloc_many, do_malloc_many, do_free_range, do_free_range, do_check_slot,    do_too_large, do_bad_alignment,
    do_purge,       do_limit,       do_heal,       do_fail_os,    do_thread,        do_thread,    do_version,
    do_free,        do_malloc,      do_realloc,    do_free_range,
};

void run_steps(World &world, size_t n_most)
{
    for (size_t i = 0; i < n_most && !world.in.is_empty() && world.n_steps < MAX_STEPS; i++) {
        operations[world.in.byte() % 32](world);
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
    for (Block &slot : world.slots) {
        free_slot(world, slot);
    }
    (void)hak_purge();
    check(hak_verify() == 0, "hak_verify at the end");
    check(stat_get(heap_used_bytes) == 0, "units in use at the end", nullptr, size_t(stat_get(heap_used_bytes)));
    check(stat_get(large_bytes) == 0, "large blocks at the end", nullptr, size_t(stat_get(large_bytes)));
    return world.n_steps;
}
