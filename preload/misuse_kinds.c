/* misuse_kinds [KIND]: misuses whatever malloc serves it in one way, and prints "passed" if it gets
   to the end, "harmed" if by then two owners have one block, or a block lies outside of what was
   allocated. Without an argument: the kinds and what they are. Run by misuse_kinds_test.py. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <malloc.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* C++'s sized delete, whoever has it; hakmem's heaps, if it is there. */
extern void _ZdlPvm(void *p, size_t size) __attribute__((weak));
struct hak_heap;
static struct hak_heap *(*heap_create)(void);
static void (*heap_destroy)(struct hak_heap *heap);
static void *(*heap_malloc)(struct hak_heap *heap, size_t size);
static void *(*heap_realloc)(struct hak_heap *heap, void *p, size_t size);

static int is_harmed;

/* Freed with a block of its size on either side of it still there. */
static char *freed(size_t size)
{
    char *volatile before = malloc(size);
    char *volatile p = malloc(size);
    char *volatile after = malloc(size);
    (void)before;
    (void)after;
    memset(p, 'p', size);
    free(p);
    return p;
}

/* Allocates some blocks; harmed if two are one. */
static void go_on(size_t size)
{
    char *volatile blocks[8];
    for (int i = 0; i < 8; i++) {
        blocks[i] = malloc(size);
        memset(blocks[i], i, size);
    }
    for (int i = 0; i < 8; i++) {
        is_harmed |= blocks[i][0] != i || blocks[i][size - 1] != i;
    }
    for (int i = 0; i < 8; i++) {
        free(blocks[i]);
    }
}

static void free_twice(size_t size, int n_between)
{
    void *volatile others[1000];
    for (int i = 0; i < n_between; i++) {
        others[i] = malloc(size);
    }
    char *volatile p = malloc(size);
    memset(p, 'p', size);
    free(p);
    for (int i = 0; i < n_between; i++) {
        free(others[i]);
    }
    free(p);
    go_on(size);
}

static void twice_in_a_row(void)
{
    free_twice(64, 0);
}
static void twice_after_one(void)
{
    free_twice(64, 1);
}
static void twice_after_many(void)
{
    free_twice(64, 100);
}
static void twice_after_purge(void)
{
    char *volatile kept = malloc(64);
    char *volatile p = malloc(64);
    free(p);
    malloc_trim(0);
    free(p);
    free(kept);
    go_on(64);
}
static void twice_reused(void)
{
    char *volatile p = malloc(64);
    free(p);
    char *volatile q = malloc(64); /* the same, as a rule */
    free(p);
    free(q);
    go_on(64);
}
static void twice_mid(void)
{
    free_twice(20000, 0);
}
static void twice_mid_after_one(void)
{
    free_twice(20000, 1);
}
static void twice_span(void)
{
    free_twice(200000, 0);
}
static void twice_span_after_one(void)
{
    free_twice(200000, 1);
}
static void twice_range(void)
{
    free_twice(5000000, 0);
}
static void twice_huge(void)
{
    free_twice((size_t)200 << 20, 0);
}

static void *free_it(void *p)
{
    free(p);
    return NULL;
}

static void in_thread(void *(*function)(void *), void *argument)
{
    pthread_t thread;
    pthread_create(&thread, NULL, function, argument);
    pthread_join(thread, NULL);
}

static void twice_two_threads(void)
{
    char *volatile p = malloc(600);
    in_thread(free_it, p);
    free(p);
    go_on(600);
}

static void *free_it_twice(void *p)
{
    free(p);
    free(p);
    return NULL;
}

static void twice_other_threads(void)
{
    char *volatile p = malloc(600);
    in_thread(free_it_twice, p);
    go_on(600);
}

static void bad_free(void *p)
{
    free(p);
    go_on(64);
}
static void *shifted(size_t size, size_t offset)
{
    char *volatile p = malloc(size);
    memset(p, 'p', size);
    return p + offset;
}

static void free_interior(void)
{
    bad_free(shifted(64, 16));
}
static void free_unaligned(void)
{
    bad_free(shifted(64, 1));
}
static void free_interior_mid(void)
{
    bad_free(shifted(5000, 4096));
}
static void free_interior_span(void)
{
    bad_free(shifted(200000, 65536));
}
static void free_interior_range(void)
{
    bad_free(shifted(5000000, 1 << 20));
}
static void free_tail(void)
{
    char *volatile p = malloc(48), *volatile near = malloc(300);
    char *volatile tail = (char *)((uintptr_t)p & ~(uintptr_t)65535) + 65520;
    free(tail);
    is_harmed = malloc(48) == (void *)tail;
    (void)near;
}
static void free_never_allocated(void)
{
    char *volatile p = malloc(64);
    free(p + malloc_usable_size(p)); /* the next block's start, as it may be */
    go_on(64);
}
static void free_stack(void)
{
    char local[256];
    bad_free((char *)((uintptr_t)(local + 63) & ~(uintptr_t)15));
}
static void free_static(void)
{
    static char block[256] __attribute__((aligned(64)));
    bad_free(block + 64);
}
static void free_code(void)
{
    bad_free((void *)(uintptr_t)free_code);
}
static void free_wild(void)
{
    bad_free((void *)0x12345670);
}
static void free_not_canonical(void)
{
    bad_free((void *)0x6b6b6b6b6b6b6b60);
}
static void free_high(void)
{
    bad_free((void *)(UINTPTR_MAX - 15));
}
static void free_small_number(void)
{
    bad_free((void *)16);
}
static void free_mapping(void)
{
    char *p = mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    bad_free(p + 4096);
}

static void bad_realloc(void *p, size_t size)
{
    char *volatile q = realloc(p, size);
    char *volatile r = malloc(size);
    is_harmed = q == r;
    (void)q;
}
static void realloc_freed(void)
{
    bad_realloc(freed(64), 60);
}
static void realloc_freed_and_grow(void)
{
    bad_realloc(freed(64), 600);
}
static void realloc_freed_after_one(void)
{
    char *volatile other = malloc(64);
    void *p = freed(64);
    free(other);
    bad_realloc(p, 60);
}
static void realloc_freed_span(void)
{
    bad_realloc(freed(200000), 190000);
}
static void realloc_interior(void)
{
    bad_realloc(shifted(3000, 1008), 2900);
}
static void realloc_interior_span(void)
{
    bad_realloc(shifted(200000, 65536), 300000);
}
static void realloc_wild(void)
{
    bad_realloc((void *)0x12345670, 60);
}

static volatile size_t seen_size;

static void size_freed(void)
{
    seen_size = malloc_usable_size(freed(64));
}
static void size_interior(void)
{
    seen_size = malloc_usable_size(shifted(3000, 1008));
}
static void size_wild(void)
{
    seen_size = malloc_usable_size((void *)0x12345670);
}
static void delete_wrong_size(void)
{
    _ZdlPvm(malloc(64), 5000);
    go_on(64);
}

/* One byte behind a block of which all is used, with a used block behind it. */
static void overflow_by_one(void)
{
    char *volatile p = malloc(64), *volatile q = malloc(64);
    p[malloc_usable_size(p)] = 0x41;
    free(q);
    free(p);
    go_on(64);
}
/* Over the first word of the blocks behind it, which are free. */
static void overflow_into_free(void)
{
    char *volatile p[4];
    for (int i = 0; i < 4; i++) {
        p[i] = malloc(64);
    }
    size_t usable = malloc_usable_size(p[0]);
    for (int i = 1; i < 4; i++) {
        free(p[i]);
    }
    memset(p[0] + usable, 'A', 32 + 2 * usable);
    go_on(64);
}
static void underflow(void)
{
    char *volatile before = malloc(64), *volatile p = malloc(64);
    memset(p - 16, 'A', 16);
    (void)before;
    free(p);
    go_on(64);
}

static void use_after_free(int value, size_t from, size_t n)
{
    char *volatile p = freed(64);
    memset(p + from, value, n);
    go_on(64);
}
static void write_first_word(void)
{
    use_after_free('A', 0, 8);
}
static void write_second_word(void)
{
    use_after_free('A', 8, 8);
}
static void write_all(void)
{
    use_after_free('A', 0, 64);
}
static void write_zeros(void)
{
    use_after_free(0, 0, 64);
}
static void write_ones(void)
{
    use_after_free(0xFF, 0, 64);
}
static void write_address(void)
{
    static char target[256] __attribute__((aligned(64)));
    char *volatile p = freed(64), *volatile to = target;
    memcpy(p, (void *)&to, sizeof to);
    char *volatile q = malloc(64), *volatile r = malloc(64);
    is_harmed = q == target || r == target;
}
static void write_after_other_thread(void)
{
    char *volatile p = malloc(600);
    in_thread(free_it, p);
    memset(p, 'A', 600);
    for (int i = 0; i < 300; i++) {
        go_on(600);
        void *volatile kept = malloc(600);
        (void)kept;
    }
}
static void write_freed_mid(void)
{
    char *volatile p = freed(20000);
    memset(p, 'A', 20000);
    go_on(20000);
}
static void write_freed_span(void)
{
    char *volatile p = freed(200000);
    memset(p, 'A', 200000);
    go_on(200000);
}

static void heap_twice(void)
{
    struct hak_heap *heap = heap_create();
    heap_destroy(heap);
    heap_destroy(heap);
}
static void heap_block_after(void)
{
    struct hak_heap *heap = heap_create();
    void *p = heap_malloc(heap, 64);
    heap_destroy(heap);
    bad_free(p);
}
static void heap_block_twice(void)
{
    struct hak_heap *heap = heap_create();
    void *kept = heap_malloc(heap, 64), *p = heap_malloc(heap, 64);
    (void)kept;
    free(p);
    bad_free(p);
}
static void heap_block_realloc(void)
{
    heap_realloc(heap_create(), heap_malloc(heap_create(), 64), 5000);
}

static const struct kind {
    const char *name, *text;
    void (*run)(void);
    int needs; /* 1: sized delete; 2: hakmem's heaps */
} kinds[] = {
    {"twice_in_a_row", "a block freed twice in a row", twice_in_a_row, 0},
    {"twice_after_one", "freed twice, another one in between", twice_after_one, 0},
    {"twice_after_many", "freed twice, a hundred others in between", twice_after_many, 0},
    {"twice_after_purge", "freed twice, `malloc_trim` in between", twice_after_purge, 0},
    {"twice_reused", "freed, handed out again, freed by both", twice_reused, 0},
    {"twice_mid", "20,000 bytes freed twice in a row", twice_mid, 0},
    {"twice_mid_after_one", "20,000 bytes freed twice, another one in between", twice_mid_after_one,
     0},
    {"twice_span", "200,000 bytes freed twice in a row", twice_span, 0},
    {"twice_span_after_one", "200,000 bytes freed twice, another one in between",
     twice_span_after_one, 0},
    {"twice_range", "5 MB freed twice", twice_range, 0},
    {"twice_huge", "200 MiB freed twice", twice_huge, 0},
    {"twice_two_threads", "freed by another thread, and by its own", twice_two_threads, 0},
    {"twice_other_threads", "freed twice by another thread", twice_other_threads, 0},
    {"free_interior", "`free` of an address 16 bytes into a block", free_interior, 0},
    {"free_unaligned", "`free` one byte into a block", free_unaligned, 0},
    {"free_interior_mid", "`free` 4,096 into 5,000 bytes", free_interior_mid, 0},
    {"free_interior_span", "`free` 64 KiB into 200,000 bytes", free_interior_span, 0},
    {"free_interior_range", "`free` 1 MiB into 5 MB", free_interior_range, 0},
    {"free_tail", "`free` behind a slab's last block", free_tail, 0},
    {"free_never_allocated", "`free` of the start of a block that was not handed out",
     free_never_allocated, 0},
    {"free_stack", "`free` of the stack", free_stack, 0},
    {"free_static", "`free` of a static variable", free_static, 0},
    {"free_code", "`free` of a function", free_code, 0},
    {"free_wild", "`free` of an address where nothing is", free_wild, 0},
    {"free_not_canonical", "`free` of an address that cannot be", free_not_canonical, 0},
    {"free_high", "`free` of an address at the end of memory", free_high, 0},
    {"free_small_number", "`free` of 16", free_small_number, 0},
    {"free_mapping", "`free` of the program's own mapping", free_mapping, 0},
    {"realloc_freed", "`realloc` of a freed block, smaller", realloc_freed, 0},
    {"realloc_freed_and_grow", "`realloc` of a freed block, larger", realloc_freed_and_grow, 0},
    {"realloc_freed_after_one", "`realloc` of a freed block, another freed since",
     realloc_freed_after_one, 0},
    {"realloc_freed_span", "`realloc` of freed 200,000 bytes", realloc_freed_span, 0},
    {"realloc_interior", "`realloc` 1,008 into 3,000 bytes", realloc_interior, 0},
    {"realloc_interior_span", "`realloc` 64 KiB into 200,000 bytes", realloc_interior_span, 0},
    {"realloc_wild", "`realloc` of an address where nothing is", realloc_wild, 0},
    {"size_freed", "`malloc_usable_size` of a freed block", size_freed, 0},
    {"size_interior", "`malloc_usable_size` 1,008 into 3,000 bytes", size_interior, 0},
    {"size_wild", "`malloc_usable_size` of an address where nothing is", size_wild, 0},
    {"delete_wrong_size", "`operator delete` with a larger size", delete_wrong_size, 1},
    {"overflow_by_one", "a byte written behind a block, before one in use", overflow_by_one, 0},
    {"overflow_into_free", "written behind a block, over free ones", overflow_into_free, 0},
    {"underflow", "16 bytes written before a block", underflow, 0},
    {"write_first_word", "a freed block's first word written", write_first_word, 0},
    {"write_second_word", "a freed block's second word written", write_second_word, 0},
    {"write_all", "a freed block filled with text", write_all, 0},
    {"write_zeros", "a freed block filled with zeros", write_zeros, 0},
    {"write_ones", "a freed block filled with ones", write_ones, 0},
    {"write_address", "an address written into a freed block", write_address, 0},
    {"write_after_other_thread", "a block written to after another thread freed it",
     write_after_other_thread, 0},
    {"write_freed_mid", "20,000 freed bytes written to", write_freed_mid, 0},
    {"write_freed_span", "200,000 freed bytes written to", write_freed_span, 0},
    {"heap_twice", "a first-class heap destroyed twice", heap_twice, 2},
    {"heap_block_after", "`free` of a destroyed heap's block", heap_block_after, 2},
    {"heap_block_twice", "a heap's block freed twice", heap_block_twice, 2},
    {"heap_block_realloc", "`hak_heap_realloc` of another heap's block", heap_block_realloc, 2},
};

/* --- kinds that are tried at several sizes --- */

extern void *_Znwm(size_t size) __attribute__((weak));
extern void *_Znam(size_t size) __attribute__((weak));
extern void _ZdlPv(void *p) __attribute__((weak));
extern void _ZdaPv(void *p) __attribute__((weak));
extern void _ZdlPvSt11align_val_t(void *p, size_t alignment) __attribute__((weak));
extern void _ZdaPvm(void *p, size_t size) __attribute__((weak));
static void (*free_sized_)(void *p, size_t size);
static void (*free_aligned_sized_)(void *p, size_t alignment, size_t size);

#define MIB ((size_t)1 << 20)

/* 1 while the program touches what it must not: a fault there is one that was meant. */
static volatile sig_atomic_t is_touching;

static void on_fault(int signal_)
{
    if (is_touching) {
        _exit(42);
    }
    signal(signal_, SIG_DFL);
    raise(signal_);
}

static void touch(char *at, int value, size_t n)
{
    is_touching = 1;
    memset(at, value, n);
    is_touching = 0;
}

/* What is read where nothing of the program's should be. */
static volatile char seen;
static int holds(const char *at, char value, size_t n)
{
    is_touching = 1;
    for (size_t i = 0; i < n; i++) {
        seen = at[i];
        if (seen == value) {
            is_touching = 0;
            return 1;
        }
    }
    is_touching = 0;
    return 0;
}

/* A block between two others of its size. */
static char *between(size_t size)
{
    char *volatile before = malloc(size), *volatile p = malloc(size),
                   *volatile after = malloc(size);
    (void)before;
    (void)after;
    memset(p, 'p', size);
    return p;
}
static void over(size_t size, size_t n, int value)
{
    char *volatile p = between(size);
    touch(p + size, value, n);
    free(p);
    go_on(size);
}
static void under(size_t size, size_t n)
{
    char *volatile p = between(size);
    touch(p - n, 'A', n);
    free(p);
    go_on(size);
}
static void over_1(size_t size)
{
    over(size, 1, 'A');
}
static void over_nul(size_t size)
{
    over(size, 1, 0);
}
static void over_8(size_t size)
{
    over(size, 8, 'A');
}
static void over_32(size_t size)
{
    over(size, 32, 'A');
}
static void over_1m(size_t size)
{
    over(size, MIB, 'A');
}
static void under_1(size_t size)
{
    under(size, 1);
}
static void under_32(size_t size)
{
    under(size, 32);
}
static void under_1m(size_t size)
{
    under(size, MIB);
}
static char *freed_between(size_t size)
{
    char *volatile p = between(size);
    free(p);
    return p;
}
static void read_freed(size_t size)
{
    is_harmed = holds(freed_between(size), 'p', size);
}
static void write_freed(size_t size, size_t at, size_t n)
{
    char *volatile p = freed_between(size);
    touch(p + at, 'A', n);
    go_on(size);
}
static void write_freed_start(size_t size)
{
    write_freed(size, 0, 8);
}
static void write_freed_middle(size_t size)
{
    write_freed(size, size / 2, 1);
}
static void write_freed_end(size_t size)
{
    write_freed(size, size - 1, 1);
}
/* As many are allocated as bring a freed block round again. */
static void bring_round(size_t size)
{
    for (int i = 0; i < 300; i++) {
        void *volatile q = malloc(size);
        free(q);
    }
}
static void write_freed_reuse(size_t size)
{
    char *volatile p = freed_between(size);
    touch(p + size / 2, 'A', 1);
    bring_round(size);
}
static void write_moved(size_t size)
{
    char *volatile p = between(size);
    char *volatile q = realloc(p, 3 * size);
    if (q != p) {
        touch(p + size / 2, 'A', 1);
    }
    go_on(size);
}
static void read_moved(size_t size)
{
    char *volatile p = between(size);
    char *volatile q = realloc(p, 3 * size);
    is_harmed = q != p && holds(p, 'p', size);
}
static void read_fresh(size_t size)
{
    char *volatile p[200];
    int n = size > 100000 ? 4 : 200;
    for (int i = 0; i < n; i++) {
        p[i] = malloc(size);
        memset(p[i], 'p', size);
    }
    for (int i = 0; i < n; i++) {
        free(p[i]);
    }
    for (int i = 0; i < n; i++) {
        is_harmed |= holds(malloc(size), 'p', size);
    }
}
static void two(size_t size)
{
    char *volatile p = between(size);
    free(p);
    free(p);
    go_on(size);
}
static void two_delayed(size_t size)
{
    char *volatile p = between(size), *volatile q[100];
    for (int i = 0; i < 100; i++) {
        q[i] = malloc(size);
    }
    free(p);
    for (int i = 0; i < 100; i++) {
        free(q[i]);
    }
    free(p);
    go_on(size);
}
static void two_interleaved(size_t size)
{
    char *volatile p = malloc(size), *volatile q = malloc(size);
    free(p);
    free(q);
    free(p);
    go_on(size);
}
static void two_threads(size_t size)
{
    char *volatile p = between(size);
    in_thread(free_it, p);
    free(p);
    go_on(size);
}
static void inside(size_t size)
{
    char *volatile p = between(size);
    free(p + (size / 2 + 15 & ~(size_t)15));
    go_on(size);
}
static void unaligned(size_t size)
{
    char *volatile p = between(size);
    free(p + 1);
    go_on(size);
}
static void before(size_t size)
{
    char *volatile p = between(size);
    free(p - 16);
    go_on(size);
}
static void realloc_freed_of(size_t size)
{
    char *volatile p = freed_between(size);
    bad_realloc(p, size - 1);
}
static void size_freed_of(size_t size)
{
    seen_size = malloc_usable_size(freed_between(size));
}
static void usable_is_more(size_t size)
{
    char *volatile p = malloc(size);
    seen_size = malloc_usable_size(p);
    is_harmed = seen_size > size;
}
static void wrong_sized(size_t size)
{
    _ZdlPvm(_Znwm(size), size - 1);
    go_on(size);
}
static void wrong_free_sized(size_t size)
{
    free_sized_(malloc(size), size - 1);
    go_on(size);
}
static void wrong_alignment(size_t size)
{
    char *volatile p = _Znwm(size), *volatile q = _Znwm(size);
    _ZdlPvSt11align_val_t((uintptr_t)p % 65536 ? p : q, 65536);
    go_on(size);
}
static void delete_of_malloc(size_t size)
{
    _ZdlPv(malloc(size));
    go_on(size);
}
static void free_of_new(size_t size)
{
    free(_Znwm(size));
    go_on(size);
}
static void delete_of_array(size_t size)
{
    _ZdlPv(_Znam(size));
    go_on(size);
}
static void array_delete_of_new(size_t size)
{
    _ZdaPv(_Znwm(size));
    go_on(size);
}
static void realloc_of_new(size_t size)
{
    char *volatile p = realloc(_Znwm(size), 2 * size);
    free(p);
}

static void over_page(size_t size)
{
    over(size, 4096, 'A');
}
static void under_8(size_t size)
{
    under(size, 8);
}
static void under_page(size_t size)
{
    under(size, 4096);
}
/* A string that is longer by one than the block that it is copied to. */
static void over_string(size_t size)
{
    char *volatile p = between(size), *volatile text = malloc(2 * size);
    memset(text, 's', size);
    text[size] = 0;
    is_touching = 1;
    strcpy(p, text);
    is_touching = 0;
    free(p);
    go_on(size);
}

/* --- reads of what lies beside a block --- */

struct three {
    char *volatile before, *volatile p, *volatile after;
    size_t size;
};
static struct three three(size_t size)
{
    struct three blocks = {malloc(size), malloc(size), malloc(size), size};
    memset(blocks.p, 'p', size);
    return blocks;
}
static void fill_neighbours(const struct three *blocks, int value)
{
    memset(blocks->before, value, blocks->size);
    memset(blocks->after, value, blocks->size);
}
/* So many bytes in a row, at most 16, have that value. */
static int has_run(const char *at, char value, size_t n)
{
    size_t wanted = n < 16 ? n : 16, run = 0;
    is_touching = 1;
    for (size_t i = 0; i < n && run < wanted; i++) {
        seen = at[i];
        run = seen == value ? run + 1 : 0;
    }
    is_touching = 0;
    return run == wanted;
}
/* Harmed if they are a neighbour's: they change as that does. */
static void look_beside(const struct three *blocks, const char *at, size_t n)
{
    fill_neighbours(blocks, 'n');
    int was = has_run(at, 'n', n);
    fill_neighbours(blocks, 'm');
    is_harmed = was && has_run(at, 'm', n);
}
static void look_behind(size_t size, size_t n)
{
    struct three blocks = three(size);
    look_beside(&blocks, blocks.p + size, n);
}
static void look_before(size_t size, size_t n)
{
    struct three blocks = three(size);
    look_beside(&blocks, blocks.p - n, n);
}
static void over_read_1(size_t size)
{
    look_behind(size, 1);
}
static void over_read_8(size_t size)
{
    look_behind(size, 8);
}
static void over_read_page(size_t size)
{
    look_behind(size, 4096);
}
static void over_read_1m(size_t size)
{
    look_behind(size, MIB);
}
static void under_read_1(size_t size)
{
    look_before(size, 1);
}
static void under_read_8(size_t size)
{
    look_before(size, 8);
}
static void under_read_page(size_t size)
{
    look_before(size, 4096);
}
static void under_read_1m(size_t size)
{
    look_before(size, MIB);
}
/* A string without an end: where it ends. */
static void string_read(size_t size)
{
    struct three blocks = three(size);
    fill_neighbours(&blocks, 'n');
    is_touching = 1;
    size_t length = strlen(blocks.p);
    is_harmed = memchr(blocks.p, 'n', length) != NULL && length >= size + 16;
    is_touching = 0;
}

/* --- later, and others --- */

static char *freed_long_ago(size_t size)
{
    char *volatile p = between(size), *volatile q[100];
    for (int i = 0; i < 100; i++) {
        q[i] = malloc(size);
    }
    free(p);
    for (int i = 0; i < 100; i++) {
        free(q[i]);
    }
    return p;
}
static void read_freed_delayed(size_t size)
{
    is_harmed = holds(freed_long_ago(size), 'p', size);
}
static void write_freed_delayed(size_t size)
{
    char *volatile p = freed_long_ago(size);
    touch(p + size / 2, 'A', 1);
    bring_round(size);
}
/* What realloc adds to a block, after others had it. */
static void read_grown(size_t size)
{
    char *volatile p[50];
    int n = size > 100000 ? 4 : 50;
    for (int i = 0; i < n; i++) {
        p[i] = malloc(2 * size);
        memset(p[i], 'p', 2 * size);
    }
    for (int i = 0; i < n; i++) {
        free(p[i]);
    }
    for (int i = 0; i < n; i++) {
        char *volatile q = realloc(malloc(size), 2 * size);
        is_harmed |= holds(q + size, 'p', size);
    }
}
static void reused_at_once(size_t size)
{
    char *volatile p = malloc(size);
    free(p);
    char *volatile q = malloc(size);
    is_harmed = p == q;
}
static void two_by_realloc(size_t size)
{
    char *volatile p = between(size);
    char *volatile q = realloc(p, 0);
    (void)q;
    free(p);
    go_on(size);
}
static void two_by_delete(size_t size)
{
    char *volatile p = _Znwm(size);
    _ZdlPv(p);
    _ZdlPv(p);
    go_on(size);
}
static void near_it(size_t size)
{
    char *volatile p = between(size);
    free(p + MIB);
    go_on(size);
}
static void far_from_it(size_t size)
{
    char *volatile p = between(size);
    free(p + 1024 * MIB);
    go_on(size);
}
static void realloc_inside(size_t size)
{
    char *volatile p = between(size);
    bad_realloc(p + (size / 2 + 15 & ~(size_t)15), size);
}
static void realloc_unaligned(size_t size)
{
    char *volatile p = between(size);
    bad_realloc(p + 1, size);
}
static void size_inside(size_t size)
{
    char *volatile p = between(size);
    seen_size = malloc_usable_size(p + (size / 2 + 15 & ~(size_t)15));
}
static void size_unaligned(size_t size)
{
    char *volatile p = between(size);
    seen_size = malloc_usable_size(p + 1);
}
static void larger_sized(size_t size)
{
    _ZdlPvm(_Znwm(size), 2 * size);
    go_on(size);
}
static void wrong_array_sized(size_t size)
{
    _ZdaPvm(_Znam(size), size - 1);
    go_on(size);
}
static void wrong_aligned_sized(size_t size)
{
    free_aligned_sized_(aligned_alloc(64, (size + 63) & ~(size_t)63), 64, size - 1);
    go_on(size);
}

/* Of 0 bytes; `size` is not used. */
static void empty_read(size_t size)
{
    (void)size;
    char *volatile p = malloc(0);
    is_touching = 1;
    seen = *p;
    is_touching = 0;
}
static void empty_write(size_t size)
{
    (void)size;
    char *volatile p = malloc(0);
    touch(p, 'A', 1);
    free(p);
}
static void empty_twice(size_t size)
{
    (void)size;
    char *volatile p = malloc(0);
    free(p);
    free(p);
}

static const struct sized_kind {
    const char *name, *text;
    void (*run)(size_t size);
    int needs; /* as below; 3: free_sized; 4: size 0 alone */
} sized_kinds[] = {
    {"over_1", "1 byte written behind", over_1, 0},
    {"over_nul", "a 0 written behind", over_nul, 0},
    {"over_8", "8 bytes written behind", over_8, 0},
    {"over_32", "32 bytes written behind", over_32, 0},
    {"over_1m", "1 MiB written behind", over_1m, 0},
    {"under_1", "1 byte written before", under_1, 0},
    {"under_32", "32 bytes written before", under_32, 0},
    {"under_1m", "1 MiB written before", under_1m, 0},
    {"read_freed", "read after free", read_freed, 0},
    {"read_moved", "read after realloc moved it", read_moved, 0},
    {"read_fresh", "read before it is written, after others had it", read_fresh, 0},
    {"write_freed_start", "the start written after free", write_freed_start, 0},
    {"write_freed_middle", "a byte in the middle written after free", write_freed_middle, 0},
    {"write_freed_end", "the last byte written after free", write_freed_end, 0},
    {"write_freed_reuse", "written after free, many allocated since", write_freed_reuse, 0},
    {"write_moved", "written after realloc moved it", write_moved, 0},
    {"two", "freed twice in a row", two, 0},
    {"two_delayed", "freed twice, 100 others in between", two_delayed, 0},
    {"two_interleaved", "freed twice, another one in between", two_interleaved, 0},
    {"two_threads", "freed by two threads", two_threads, 0},
    {"inside", "`free` of its middle", inside, 0},
    {"unaligned", "`free` 1 byte into it", unaligned, 0},
    {"before", "`free` of 16 bytes before it", before, 0},
    {"realloc_freed", "`realloc` after free", realloc_freed_of, 0},
    {"size_freed", "`malloc_usable_size` after free", size_freed_of, 0},
    {"usable", "`malloc_usable_size` allows more than was asked for", usable_is_more, 0},
    {"wrong_sized", "`operator delete` with a size less by 1", wrong_sized, 1},
    {"wrong_free_sized", "`free_sized` with a size less by 1", wrong_free_sized, 3},
    {"wrong_alignment", "`operator delete` with an alignment that it has not", wrong_alignment, 1},
    {"delete_of_malloc", "`malloc`, then `delete`", delete_of_malloc, 1},
    {"free_of_new", "`new`, then `free`", free_of_new, 1},
    {"delete_of_array", "`new[]`, then `delete`", delete_of_array, 1},
    {"array_delete_of_new", "`new`, then `delete[]`", array_delete_of_new, 1},
    {"realloc_of_new", "`new`, then `realloc`", realloc_of_new, 1},
    {"over_page", "4,096 bytes written behind", over_page, 0},
    {"over_string", "a string copied that is longer by its end", over_string, 0},
    {"under_8", "8 bytes written before", under_8, 0},
    {"under_page", "4,096 bytes written before", under_page, 0},
    {"over_read_1", "1 byte read behind", over_read_1, 0},
    {"over_read_8", "8 bytes read behind", over_read_8, 0},
    {"over_read_page", "4,096 bytes read behind", over_read_page, 0},
    {"over_read_1m", "1 MiB read behind", over_read_1m, 0},
    {"under_read_1", "1 byte read before", under_read_1, 0},
    {"under_read_8", "8 bytes read before", under_read_8, 0},
    {"under_read_page", "4,096 bytes read before", under_read_page, 0},
    {"under_read_1m", "1 MiB read before", under_read_1m, 0},
    {"string_read", "a string without an end read", string_read, 0},
    {"read_freed_delayed", "read after free, 100 others freed since", read_freed_delayed, 0},
    {"write_freed_delayed", "written after free, 100 others freed since", write_freed_delayed, 0},
    {"read_grown", "what `realloc` adds is read, after others had it", read_grown, 0},
    {"reused_at_once", "handed out again at once", reused_at_once, 0},
    {"two_by_realloc", "freed by `realloc` to 0, and by `free`", two_by_realloc, 0},
    {"two_by_delete", "deleted twice", two_by_delete, 1},
    {"near_it", "`free` of 1 MiB behind its start", near_it, 0},
    {"far_from_it", "`free` of 1 GiB behind its start", far_from_it, 0},
    {"realloc_inside", "`realloc` of its middle", realloc_inside, 0},
    {"realloc_unaligned", "`realloc` 1 byte into it", realloc_unaligned, 0},
    {"size_inside", "`malloc_usable_size` of its middle", size_inside, 0},
    {"size_unaligned", "`malloc_usable_size` 1 byte into it", size_unaligned, 0},
    {"larger_sized", "`operator delete` with twice its size", larger_sized, 1},
    {"wrong_array_sized", "`operator delete[]` with a size less by 1", wrong_array_sized, 1},
    {"wrong_aligned_sized", "`free_aligned_sized` with a size less by 1", wrong_aligned_sized, 3},
    {"empty_read", "a block of 0 bytes read", empty_read, 4},
    {"empty_write", "a block of 0 bytes written", empty_write, 4},
    {"empty_twice", "a block of 0 bytes freed twice", empty_twice, 4},
};
static const size_t kind_sizes[] = {24, 200, 5000, 20000, 196608, 5242880};
#define N_SIZES (sizeof kind_sizes / sizeof kind_sizes[0])

/* Runs it if it is the one that is named, or prints it if none is. Returns whether it did run. */
static int sized(const struct sized_kind *kind, size_t size, const char *wanted)
{
    char name[64];
    snprintf(name, sizeof name, kind->needs == 4 ? "%s" : "%s_%zu", kind->name, size);
    if (!wanted) {
        printf(kind->needs == 4 ? "%s\t%s\n" : "%s\t%s: %zu\n", name, kind->text, size);
        return 0;
    }
    if (strcmp(name, wanted) != 0) {
        return 0;
    }
    if ((kind->needs == 1 && !_ZdlPvm) || (kind->needs == 3 && !free_sized_)) {
        puts("none");
        return 1;
    }
    signal(SIGSEGV, on_fault);
    signal(SIGBUS, on_fault);
    kind->run(size);
    puts(is_harmed ? "harmed" : "passed");
    return 1;
}

static int all_sized(const char *wanted)
{
    for (size_t i = 0; i < sizeof sized_kinds / sizeof sized_kinds[0]; i++) {
        size_t n = sized_kinds[i].needs == 4 ? 1 : N_SIZES;
        for (size_t k = 0; k < n; k++) {
            if (sized(&sized_kinds[i], kind_sizes[k], wanted)) {
                return 1;
            }
        }
    }
    return 0;
}

static void find_heaps(void)
{
    *(void **)&heap_create = dlsym(RTLD_DEFAULT, "hak_heap_create");
    *(void **)&heap_destroy = dlsym(RTLD_DEFAULT, "hak_heap_destroy");
    *(void **)&heap_malloc = dlsym(RTLD_DEFAULT, "hak_heap_malloc");
    *(void **)&heap_realloc = dlsym(RTLD_DEFAULT, "hak_heap_realloc");
    *(void **)&free_sized_ = dlsym(RTLD_DEFAULT, "free_sized");
    *(void **)&free_aligned_sized_ = dlsym(RTLD_DEFAULT, "free_aligned_sized");
}

int main(int argc, char **argv)
{
    static char buffer[65536];
    setvbuf(stdout, buffer, _IOFBF, sizeof buffer);
    find_heaps();
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        const struct kind *kind = &kinds[i];
        if (argc < 2) {
            printf("%s\t%s\n", kind->name, kind->text);
        } else if (strcmp(argv[1], kind->name) == 0) {
            if ((kind->needs == 1 && !_ZdlPvm) || (kind->needs == 2 && !heap_create)) {
                puts("none");
                return 0;
            }
            kind->run();
            puts(is_harmed ? "harmed" : "passed");
            return 0;
        }
    }
    return all_sized(argc < 2 ? NULL : argv[1]) || argc < 2 ? 0 : 2;
}
