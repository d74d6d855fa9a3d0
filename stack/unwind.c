/* Walks the calling thread's stack. No locks: the cache of rules is of words that are written and
   read each at once, in pairs that check each other; a thread's bounds are its own. Called by
   layers that sample, and by their signal handlers. */
#include "stack/stack.h"

#include <dlfcn.h>
#include <pthread.h>
#include <sys/auxv.h>
#include <sys/resource.h>
#include <ucontext.h>
#include <unistd.h>

#include "base/atomic.h"
#include "base/os.h"
#include "stack/cfi.h"

#if defined(__x86_64__) && defined(__GLIBC_PREREQ)
#if __GLIBC_PREREQ(2, 35)
#define HAS_CFI 1
#endif
#endif
#ifndef HAS_CFI
#define HAS_CFI 0
#endif
#if !HAS_CFI && !defined(__aarch64__) && __has_include(<execinfo.h>)
#include <execinfo.h>
#define HAS_BACKTRACE 1
#else
#define HAS_BACKTRACE 0
#endif

#define N_RULES HAK_TINY_OR(64u, 4096u)
/* A caller's frame is searched for among so many. */
#define INNERMOST 16u
/* Below the main thread's stack the kernel leaves at least 128 MiB free, unless the limit is
   larger. */
#define MAIN_STACK_LEAST (8 * HAK_MIB)
#define MAIN_STACK_MOST  (1024 * HAK_MIB)
/* pthread_getattr_np's code is shorter. */
#define ASKING_BYTES 4096u
/* No frame is larger than this. */
#define FRAME_MOST (64 * HAK_MIB)

struct registers {
    uintptr_t pc, sp, fp;
};

/* Where words may be read: up to `high` or a byte behind it. */
struct bounds {
    uintptr_t low, high;
};

static struct bounds main_stack; /* {0, 0} if not known */
static struct bounds own_code;   /* of the library that hakmem is; empty if it is the program */
static struct bounds libc_code;  /* likewise */
static uint32_t is_started;
static HAK_TLS struct bounds thread_stack;
static HAK_TLS uint8_t is_in_first_call;

/* --- start --- */

/* The program's name, for which the kernel puts AT_EXECFN, lies behind all frames of the main
   thread. */
static struct bounds find_main_stack(void)
{
    uintptr_t high = (uintptr_t)getauxval(AT_EXECFN) & ~(uintptr_t)15;
    struct rlimit limit;
    size_t size = MAIN_STACK_LEAST;
    if (!high) {
        return (struct bounds){0, 0};
    }
    if (getrlimit(RLIMIT_STACK, &limit) == 0 && limit.rlim_cur > size) {
        size = limit.rlim_cur < MAIN_STACK_MOST ? (size_t)limit.rlim_cur : MAIN_STACK_MOST;
    }
    return (struct bounds){high - size, high};
}

#if HAS_CFI
static const void *find_header(uintptr_t pc)
{
    struct dl_find_object found;
    return _dl_find_object((void *)pc, &found) == 0 ? found.dlfo_eh_frame : NULL;
}

static struct bounds find_object_of(uintptr_t address)
{
    struct dl_find_object own, program;
    if (_dl_find_object((void *)address, &own) != 0 ||
        (_dl_find_object((void *)(uintptr_t)getauxval(AT_ENTRY), &program) == 0 &&
         own.dlfo_map_start == program.dlfo_map_start)) {
        return (struct bounds){0, 0};
    }
    return (struct bounds){(uintptr_t)own.dlfo_map_start, (uintptr_t)own.dlfo_map_end};
}
#else
static struct bounds find_object_of(uintptr_t address)
{
    (void)address;
    return (struct bounds){0, 0};
}
#endif

void hak_stack_start(void)
{
    if (!atomic_load_acquire(&is_started)) {
        main_stack = find_main_stack();
        own_code = find_object_of((uintptr_t)hak_stack_start);
        libc_code = find_object_of((uintptr_t)pthread_getattr_np);
#if HAS_BACKTRACE
        void *some[2];
        (void)backtrace(some, 2); /* loads what it needs */
#endif
        atomic_store_release(&is_started, 1u);
    }
}

/* --- bounds --- */

/* The main thread's are known without asking: glibc reads a file for them. */
static struct bounds find_thread_stack(uintptr_t sp)
{
    struct bounds found = {0, 0};
    pthread_attr_t attributes;
    if (sp - main_stack.low < main_stack.high - main_stack.low || getpid() == gettid()) {
        return main_stack;
    }
    if (pthread_getattr_np(pthread_self(), &attributes) == 0) {
        void *low;
        size_t size;
        if (pthread_attr_getstack(&attributes, &low, &size) == 0) {
            found = (struct bounds){(uintptr_t)low, (uintptr_t)low + size};
        }
        (void)pthread_attr_destroy(&attributes);
    }
    return found;
}

/* What of the stack may be read from `sp` on: all that is in use of the thread's own stack; else
   what lies in the page of sp. */
static struct bounds readable_from(uintptr_t sp)
{
    if (sp >= thread_stack.low && sp < thread_stack.high) {
        return (struct bounds){sp, thread_stack.high};
    }
    if (sp >= main_stack.low && sp < main_stack.high) {
        return (struct bounds){sp, main_stack.high};
    }
    return (struct bounds){sp, sp | (hak_os_page_size() - 1)};
}

/* 1 if the stack pointer, which another part of the program may have left anywhere, is within a
   known stack or in the page of this function's frame. */
static int is_readable(uintptr_t sp)
{
    uintptr_t own = (uintptr_t)__builtin_frame_address(0);
    return (sp >= thread_stack.low && sp < thread_stack.high) ||
           (sp >= main_stack.low && sp < main_stack.high) || (sp ^ own) / hak_os_page_size() == 0;
}

static int read_word(const struct bounds *bounds, uintptr_t at, uintptr_t *word)
{
    if (at % sizeof(void *) || at < bounds->low || at > bounds->high - (sizeof(void *) - 1)) {
        return 0;
    }
    *word = *(const uintptr_t *)at;
    return 1;
}

/* --- rules --- */

#if HAS_CFI
/* A rule in a word, and beside it the address XOR that word: a pair of which another thread has
   written one half does not fit. */
static HAK_LARGE_ZEROS struct {
    uint64_t key, rule;
} rules[N_RULES];

static uint64_t pack(struct cfi_rule rule)
{
    return (uint64_t)rule.cfa << 52 | (uint64_t)rule.fp << 48 |
           ((uint64_t)(uint32_t)rule.cfa_offset & 0xffffff) << 24 |
           ((uint64_t)(uint32_t)rule.fp_offset & 0xffffff);
}

static struct cfi_rule unpack(uint64_t word)
{
    return (struct cfi_rule){(uint8_t)(word >> 52), (uint8_t)(word >> 48 & 15),
                             (int32_t)((uint32_t)(word >> 24) << 8) >> 8,
                             (int32_t)((uint32_t)word << 8) >> 8};
}

static uint32_t rule_slot(uintptr_t pc)
{
    return (uint32_t)((uint64_t)pc * UINT64_C(0x9e3779b97f4a7c15) >> 40) % N_RULES;
}

static HAK_NOINLINE struct cfi_rule learn(uintptr_t pc, uintptr_t look_at, int may_keep)
{
    const void *header = find_header(look_at);
    struct cfi_rule rule = {CFI_NONE, CFI_FP_SAME, 0, 0};
    if (header) {
        rule = hak_cfi_find(header, look_at);
    }
    if (may_keep && rule.cfa != CFI_NONE) {
        uint32_t slot = rule_slot(pc);
        atomic_store_relaxed(&rules[slot].key, (uint64_t)pc ^ pack(rule));
        atomic_store_relaxed(&rules[slot].rule, pack(rule));
    }
    return rule;
}

/* A return address belongs to the call before it, which may be the function's last instruction. */
static struct cfi_rule rule_at(uintptr_t pc, int is_return_address)
{
    if (!is_return_address) {
        return learn(pc, pc, 0);
    }
    uint32_t slot = rule_slot(pc);
    uint64_t word = atomic_load_relaxed(&rules[slot].rule);
    return HAK_LIKELY((atomic_load_relaxed(&rules[slot].key) ^ word) == pc) ? unpack(word)
                                                                            : learn(pc, pc - 1, 1);
}

/* --- steps --- */

/* As the kernel lays out what a handler returns to: sp points to the ucontext. */
static int step_from_signal(struct registers *at, const struct bounds *bounds)
{
    uintptr_t registers = at->sp + offsetof(ucontext_t, uc_mcontext.gregs);
    struct registers next;
    if (!read_word(bounds, registers + REG_RIP * sizeof(greg_t), &next.pc) ||
        !read_word(bounds, registers + REG_RSP * sizeof(greg_t), &next.sp) ||
        !read_word(bounds, registers + REG_RBP * sizeof(greg_t), &next.fp)) {
        return 0;
    }
    *at = next;
    return 1;
}

static int step_by_frame_pointer(struct registers *at, const struct bounds *bounds)
{
    struct registers next = {0, at->fp + 2 * sizeof(void *), 0};
    if (at->fp < at->sp || !read_word(bounds, at->fp, &next.fp) ||
        !read_word(bounds, at->fp + sizeof(void *), &next.pc)) {
        return 0;
    }
    *at = next;
    return 1;
}

static int step_by_rule(struct registers *at, const struct bounds *bounds, struct cfi_rule rule)
{
    struct registers next = {
        0, (rule.cfa == CFI_FROM_SP ? at->sp : at->fp) + (uintptr_t)(intptr_t)rule.cfa_offset,
        at->fp};
    if (rule.cfa == CFI_AT_FP && !read_word(bounds, next.sp, &next.sp)) {
        return 0;
    }
    uintptr_t fp_from = rule.fp == CFI_FP_AT_CFA ? next.sp : at->fp;
    if (rule.fp != CFI_FP_SAME &&
        !read_word(bounds, fp_from + (uintptr_t)(intptr_t)rule.fp_offset, &next.fp)) {
        return 0;
    }
    if (next.sp - at->sp - 1 >= FRAME_MOST ||
        !read_word(bounds, next.sp - sizeof(void *), &next.pc)) {
        return 0;
    }
    *at = next;
    return 1;
}

/* To the caller's frame; 0 if there is none, or none is known. `is_return`: what *at's pc is, and
   becomes. */
static int step(struct registers *at, struct bounds *bounds, int *is_return)
{
    struct cfi_rule rule = rule_at(at->pc, *is_return);
    *is_return = 1;
    switch (rule.cfa) {
    case CFI_FROM_SP:
    case CFI_FROM_FP:
    case CFI_AT_FP:
        return step_by_rule(at, bounds, rule);
    case CFI_SIGNAL:
        *is_return = 0;
        if (!step_from_signal(at, bounds)) {
            return 0;
        }
        *bounds = readable_from(at->sp); /* the handler may have had a stack of its own */
        return 1;
    case CFI_NONE:
        return step_by_frame_pointer(at, bounds);
    default:
        return 0;
    }
}

static size_t walk(struct registers at, int is_return, const void **addresses, size_t most)
{
    struct bounds bounds = readable_from(at.sp);
    size_t n = 0;
    while (n < most && at.pc) {
        addresses[n++] = (const void *)at.pc;
        if (!step(&at, &bounds, &is_return)) {
            break;
        }
    }
    return n;
}

static HAK_ALWAYS_INLINE struct registers registers_here(void)
{
    struct registers here;
    __asm__ volatile("leaq 0(%%rip), %0\n\tmovq %%rsp, %1\n\tmovq %%rbp, %2"
                     : "=&r"(here.pc), "=&r"(here.sp), "=&r"(here.fp));
    return here;
}

/* The first address is one within this function, behind an instruction, as behind a call. */
static HAK_NOINLINE size_t walk_here(const void **addresses, size_t most)
{
    return walk(registers_here(), 1, addresses, most);
}

#elif defined(__aarch64__)

/* The ABI wants a chain of frame records: the caller's record and the return address. */
static size_t walk_records(uintptr_t sp, uintptr_t fp, const void **addresses, size_t n,
                           size_t most)
{
    struct bounds bounds = readable_from(sp);
    uintptr_t next, pc;
    while (n < most && read_word(&bounds, fp, &next) &&
           read_word(&bounds, fp + sizeof(void *), &pc) && pc) {
        __asm__("mov x30, %1\n\thint #7\n\tmov %0, x30" : "=r"(pc) : "r"(pc) : "x30");
        addresses[n++] = (const void *)pc;
        if (next <= fp) {
            break;
        }
        fp = next;
    }
    return n;
}

static HAK_NOINLINE size_t walk_here(const void **addresses, size_t most)
{
    uintptr_t fp = (uintptr_t)__builtin_frame_address(0);
    return walk_records(fp, fp, addresses, 0, most);
}

#elif HAS_BACKTRACE

static HAK_NOINLINE size_t walk_here(const void **addresses, size_t most)
{
    int n = backtrace((void **)(uintptr_t)addresses, (int)most);
    return n > 0 ? (size_t)n : 0;
}

#else

static size_t walk_here(const void **addresses, size_t most)
{
    (void)addresses;
    (void)most;
    return 0;
}

#endif

/* --- captures --- */

static int is_within(const struct bounds *bounds, const void *address)
{
    return (uintptr_t)address - bounds->low < bounds->high - bounds->low;
}

static int is_own(const void *address)
{
    return is_within(&own_code, address);
}

/* How many of the innermost frames are hakmem's. */
static size_t count_own(const void *const *addresses, size_t n, const void *caller)
{
    size_t from = 0;
    for (size_t i = 0; caller && i < n && i < INNERMOST; i++) {
        if (addresses[i] == caller) {
            from = i;
            break;
        }
    }
    while (from < n && is_own(addresses[from])) {
        from++;
    }
    return from;
}

/* 1 if libc may be allocating for a thread that asks for its own stack, as runtimes do early: it
   holds a lock of the thread for which find_thread_stack would wait. Then what lies in the page of
   sp must do until the next capture. Where libc is no object of its own, its function itself is
   looked for in that page. */
static int may_be_asking(const void *caller)
{
    const struct bounds asking = {(uintptr_t)pthread_getattr_np,
                                  (uintptr_t)pthread_getattr_np + ASKING_BYTES};
    const void *found[INNERMOST];
    size_t n = walk_here(found, INNERMOST), from = count_own(found, n, caller);
    caller = caller ? caller : from < n ? found[from] : NULL;
    for (size_t i = from; i < n; i++) {
        if (is_within(&asking, found[i])) {
            return 1;
        }
    }
    return !caller || is_within(&libc_code, caller);
}

/* A thread's first call; what it allocates comes back here. */
static HAK_COLD int begin_thread(uintptr_t sp, const void *caller)
{
    if (is_in_first_call) {
        return 0;
    }
    if (may_be_asking(caller)) {
        return 1;
    }
    is_in_first_call = 1;
    struct bounds found = find_thread_stack(sp);
    thread_stack = found.high ? found : (struct bounds){1, 1};
    is_in_first_call = 0;
    return 1;
}

size_t hak_stack_capture(const void **addresses, size_t most, const void *caller)
{
    const void *found[STACK_MOST + INNERMOST];
    size_t count = 0;
    if (HAK_UNLIKELY(
            !atomic_load_acquire(&is_started) ||
            (!thread_stack.high && !begin_thread((uintptr_t)__builtin_frame_address(0), caller)))) {
        return 0;
    }
    size_t n = walk_here(found, sizeof(found) / sizeof(found[0]));
    for (size_t i = count_own(found, n, caller); i < n && count < most; i++) {
        addresses[count++] = found[i];
    }
    return count;
}

size_t hak_stack_capture_from(const void *ucontext, const void **addresses, size_t most)
{
#if HAS_CFI
    const greg_t *registers = ((const ucontext_t *)ucontext)->uc_mcontext.gregs;
    struct registers at = {(uintptr_t)registers[REG_RIP], (uintptr_t)registers[REG_RSP],
                           (uintptr_t)registers[REG_RBP]};
    if (!most) {
        return 0;
    }
    addresses[0] = (const void *)at.pc;
    return is_readable(at.sp) ? walk(at, 0, addresses, most) : 1;
#elif defined(__aarch64__)
    const mcontext_t *at = &((const ucontext_t *)ucontext)->uc_mcontext;
    if (!most) {
        return 0;
    }
    addresses[0] = (const void *)(uintptr_t)at->pc;
    if (!is_readable((uintptr_t)at->sp)) {
        return 1;
    }
    return walk_records((uintptr_t)at->sp, (uintptr_t)at->regs[29], addresses, 1, most);
#else
    (void)ucontext;
    (void)addresses;
    (void)most;
    return 0;
#endif
}
