/* hak_super_lookup while the unit changes hands: between any two instructions of the lookup
   everything may happen to the unit, and between any two instructions of a change the lookup may
   run. The processor's trap flag makes both certain. */
#include "superslab/superslab.h"

#include <algorithm>
#include <climits>
#include <cstring>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <ucontext.h>
#include <vector>

#include "ace/ace.h"
#include "base/options.h"
#include "base/os.h"
#include "superslab/pool.h"
#include "testing/steps.h"

namespace
{

#if HAK_CAN_STEP

const uint32_t kOwner = 9;
const size_t kFar = 60000; /* beyond the short bitmap of large blocks, as an index of small ones */
const size_t kProbes[] = {0, 100, 20000, kFar, 65535};

const size_t kReserved = 16 * SS_BYTES;

char *reserved; /* address space that no other mapping gets */
char *
    target; /* 2 MiB-aligned, in the middle of it; nothing lies there but what a state puts there */
char *next_place; /* where the next mapping of 2 MiB or more goes, or NULL */
struct slab *slab;
char *block;

bool is_reserved(const void *p)
{
    return static_cast<size_t>(static_cast<const char *>(p) - reserved) < kReserved;
}

void *mmap_hook(void *addr, size_t length, int prot, int flags, int fd, off_t offset)
{
    if (next_place && length >= SS_BYTES) {
        addr = next_place;
        flags |= MAP_FIXED;
    }
    return hak_os_real_ops.mmap(addr, length, prot, flags, fd, offset);
}

/* What goes back is gone, but stays reserved. */
int munmap_hook(void *addr, size_t length)
{
    if (!is_reserved(addr)) {
        return hak_os_real_ops.munmap(addr, length);
    }
    const int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
    return hak_os_real_ops.mmap(addr, length, PROT_NONE, flags, -1, 0) == MAP_FAILED ? -1 : 0;
}

/* --- what the unit may be; each begins and ends with nothing mapped there --- */

void nothing()
{
}

void purge_all()
{
    hak_ss_purge(0);
    hak_ace_purge(0);
}

template <uint32_t size_class> void enter_slab()
{
    slab = hak_pool_slab_alloc(kOwner << TAG_OWNER_SHIFT | size_class, size_class);
    void *head;
    hak_slab_take(slab, 40, 4096, &head);
}

void leave_slab()
{
    hak_pool_slab_free(slab);
    purge_all();
}

template <size_t size> void enter_span()
{
    block = static_cast<char *>(hak_ss_span_alloc(size, 1, nullptr));
}

void leave_span()
{
    hak_ss_span_free(block);
    purge_all();
}

/* Free units of a superslab that stays. */
void enter_free()
{
    enter_span<SS_UNIT_BYTES>();
    hak_ss_span_free(block);
}

template <size_t size> void enter_range()
{
    next_place = size > SS_BYTES ? target - SS_BYTES : target;
    block = static_cast<char *>(hak_ace_alloc(size, 1));
    next_place = target;
}

void leave_range()
{
    hak_ace_free(block);
    purge_all();
}

template <size_t size> void enter_cached()
{
    enter_range<size>();
    hak_ace_free(block);
}

struct State {
    const char *name;
    void (*enter)();
    void (*leave)();
    enum ss_kind kind; /* of target */
} const states[] = {
    {"unmapped", nothing, nothing, SS_NOT_OURS},
    {"free", enter_free, purge_all, SS_FREE_UNIT},
    {"slab of 16", enter_slab<0>, leave_slab, SS_SLAB},
    {"slab of 256", enter_slab<16>, leave_slab, SS_SLAB},
    {"slab of 32 KiB", enter_slab<SC_N_CLASSES - 1>, leave_slab, SS_SLAB},
    {"span", enter_span<SS_UNIT_BYTES>, leave_span, SS_SPAN},
    {"long span", enter_span<16 * SS_UNIT_BYTES>, leave_span, SS_SPAN},
    {"short span", enter_span<SS_GRANULE_BYTES>, leave_span, SS_SPAN},
    {"range", enter_range<SS_BYTES>, leave_range, SS_RANGE},
    {"range from below", enter_range<2 * SS_BYTES>, leave_range, SS_RANGE},
    {"cached range", enter_cached<SS_BYTES>, purge_all, SS_RANGE},
};

/* --- stepping --- */

const State *from, *to;
const char *probe;
int step, at_step;
struct ss_lookup before, after;
const char *stepped;
bool is_stepping_change;
int n_bad;

/* Where the lookup is after each of its instructions. To stop after one of them again, a breakpoint
   is set there: stepping to each from the start takes a million traps. */
const int kMostSteps = 4096;
unsigned char *path[kMostSteps];
unsigned char *breakpoint; /* or NULL */
unsigned char under_breakpoint;
const unsigned char kInt3 = 0xcc;

void set_breakpoint(unsigned char *at)
{
    const uintptr_t page = reinterpret_cast<uintptr_t>(at) & ~uintptr_t{4095};
    ASSERT_EQ(mprotect(reinterpret_cast<void *>(page), 4096, PROT_READ | PROT_WRITE | PROT_EXEC),
              0);
    breakpoint = at;
    under_breakpoint = *at;
    *at = kInt3;
}

void remove_breakpoint()
{
    if (breakpoint) {
        *breakpoint = under_breakpoint;
        breakpoint = nullptr;
    }
}

bool same(const struct ss_lookup &a, const struct ss_lookup &b)
{
    return a.kind == b.kind && a.owner == b.owner && a.size_class == b.size_class &&
           a.start == b.start && a.size == b.size && a.is_allocated == b.is_allocated;
}

/* What holds for every answer. */
bool is_sound(const struct ss_lookup &got)
{
    const char *start = static_cast<const char *>(got.start);
    bool holds = start && start <= probe && probe < start + got.size;
    return start ? holds && got.kind >= SS_SLAB : got.size == 0 && !got.is_allocated;
}

void change()
{
    from->leave();
    to->enter();
}

void trap(int, siginfo_t *, void *context)
{
    greg_t *registers = static_cast<ucontext_t *>(context)->uc_mcontext.gregs;
    if (breakpoint) {
        registers[REG_RIP] = reinterpret_cast<greg_t>(breakpoint);
        remove_breakpoint();
        step = at_step;
        change();
        return;
    }
    ++step;
    if (is_stepping_change) {
        /* On the way there the unit is free, or has no owner, or is a range being taken apart. */
        struct ss_lookup got = hak_super_lookup(probe);
        bool is_end = same(got, before) || same(got, after);
        bool is_between = got.kind != SS_SLAB || got.owner == kOwner;
        n_bad += !is_sound(got) || !(is_end || is_between);
    } else if (step == at_step) {
        registers[REG_EFL] &= ~0x100LL;
        change();
    } else if (step < kMostSteps) {
        path[step] = reinterpret_cast<unsigned char *>(registers[REG_RIP]);
    }
}

void fault(int, siginfo_t *info, void *)
{
    char line[200];
    int n = snprintf(line, sizeof line,
                     "fault at %p: %s becomes %s after instruction %d of %s, probe %zd\n",
                     info->si_addr, from->name, to->name, step, stepped, probe - target);
    (void)!write(2, line, static_cast<size_t>(n));
    _exit(1);
}

class LookupRace : public testing::Test
{
  protected:
    void SetUp() override
    {
        hak_options.purge_delay_ms = 3600000;
        hak_options.large_cache_bytes = hak_options.ace_keep = size_t(1) << 40;
        hak_options.huge_page_bytes = 0;
        reserved = static_cast<char *>(mmap(nullptr, kReserved, PROT_NONE,
                                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
        ASSERT_NE(reserved, MAP_FAILED);
        uintptr_t middle = reinterpret_cast<uintptr_t>(reserved) + kReserved / 2;
        target = reinterpret_cast<char *>(middle & ~(SS_BYTES - 1));
        struct sigaction action = {};
        action.sa_flags = SA_SIGINFO;
        action.sa_sigaction = trap;
        sigaction(SIGTRAP, &action, &old_trap);
        action.sa_sigaction = fault;
        sigaction(SIGSEGV, &action, &old_fault);
        purge_all();
        hak_os_ops.mmap = mmap_hook;
        hak_os_ops.munmap = munmap_hook;
    }
    void TearDown() override
    {
        next_place = nullptr;
        hak_os_ops = hak_os_real_ops;
        sigaction(SIGTRAP, &old_trap, nullptr);
        sigaction(SIGSEGV, &old_fault, nullptr);
        for (void *p : kept) {
            hak_ace_free(p);
        }
        hak_options.ace_keep = UINT64_MAX;
        purge_all();
        munmap(reserved, kReserved);
    }
    /* So that superslabs and ranges have other numbers: what is a number of the one is none of
       the other. */
    void keep(size_t n_superslabs, size_t n_ranges)
    {
        next_place = nullptr;
        for (size_t i = 0; i < n_superslabs; i++) {
            kept.push_back(hak_ss_span_alloc(SS_BYTES, 1, nullptr));
        }
        for (size_t i = 0; i < n_ranges; i++) {
            kept.push_back(hak_ace_alloc(SS_BYTES, 1));
        }
        next_place = target;
    }
    /* The answers without a change, at the ends of one. */
    void look_at_ends()
    {
        from->enter();
        before = hak_super_lookup(probe);
        ASSERT_EQ(hak_super_lookup(target).kind, from->kind) << from->name;
        change();
        after = hak_super_lookup(probe);
        ASSERT_EQ(hak_super_lookup(target).kind, to->kind) << to->name;
        to->leave();
        ASSERT_EQ(hak_super_lookup(target).kind, SS_NOT_OURS);
    }
    /* The first time that the lookup is there: a loop comes by again. */
    static bool is_first(int n)
    {
        return std::find(path + 1, path + n, path[n]) == path + n;
    }
    struct ss_lookup stepped_lookup()
    {
        step = 0;
        struct ss_lookup got;
        hak_testing::with_steps([&] { got = hak_super_lookup(probe); });
        return got;
    }
    /* Returns how many instructions the lookup has. */
    int step_lookup()
    {
        is_stepping_change = false;
        stepped = "the lookup";
        from->enter();
        at_step = INT_MAX;
        stepped_lookup();
        from->leave();
        const int n = step;
        int n_stops = 0;
        for (at_step = 1; at_step <= n && at_step < kMostSteps; at_step++) {
            from->enter();
            struct ss_lookup got;
            if (is_first(at_step)) {
                step = 0;
                set_breakpoint(path[at_step]);
                got = hak_super_lookup(probe);
                remove_breakpoint();
            } else {
                got = stepped_lookup();
            }
            if (step < at_step) { /* it went another way, or this is our own code behind it */
                from->leave();
                continue;
            }
            to->leave();
            n_stops++;
            EXPECT_TRUE(same(got, before) || same(got, after))
                << from->name << " becomes " << to->name << " after instruction " << at_step
                << ", probe " << probe - target << ": kind " << got.kind << " start " << got.start
                << " size " << got.size;
        }
        EXPECT_GT(n_stops, n * 3 / 4) << from->name << ", " << n << " instructions";
        return n;
    }
    void step_change()
    {
        is_stepping_change = true;
        stepped = "the change";
        from->enter();
        step = n_bad = 0;
        hak_testing::with_steps(change);
        EXPECT_GT(step, from == to ? 0 : 20);
        EXPECT_EQ(n_bad, 0) << from->name << " becomes " << to->name << ", probe "
                            << probe - target;
        to->leave();
    }
    void turn(const State &a, const State &b, size_t at)
    {
        from = &a;
        to = &b;
        probe = target + at;
        look_at_ends();
    }
    void every_change()
    {
        int longest = 0;
        size_t n = 0; /* 121 pairs, 5 probes: each state meets each probe */
        for (const State &a : states) {
            for (const State &b : states) {
                turn(a, b, kProbes[n++ % (sizeof kProbes / sizeof kProbes[0])]);
                longest = std::max(longest, step_lookup());
                if (HasFailure()) {
                    return;
                }
            }
        }
        /* Every change leads by way of nothing, so its instructions are those of two. */
        for (const State &a : states) {
            for (size_t at : kProbes) {
                turn(a, states[0], at);
                step_change();
                turn(states[0], a, at);
                step_change();
                if (HasFailure()) {
                    return;
                }
            }
        }
        EXPECT_GT(longest, 30) << "instructions of hak_super_lookup that were stepped through";
        EXPECT_EQ(hak_ss_verify(), 0);
        EXPECT_EQ(hak_ace_verify(), 0);
    }
    std::vector<void *> kept;
    struct sigaction old_trap, old_fault;
};

TEST_F(LookupRace, ManyRanges)
{
    keep(0, 50);
    every_change();
}

TEST_F(LookupRace, ManySuperslabs)
{
    keep(50, 0);
    every_change();
}

#else

TEST(LookupRace, ManyRanges)
{
    GTEST_SKIP() << "needs a trap flag, and a process without a sanitizer's own memory";
}

#endif

} // namespace
