/* The table of blocks and the mark. No locks: nothing else runs (mark.h). Called by
   leaks_write.c. */
#include "profile/mark.h"

#include <errno.h>

#include "base/os.h"
#include "hakmem/walk.h"
#include "profile/leaks.h"
#include "profile/roots.h"

#define UNIT_SHIFT 16
#define UNIT_BYTES ((size_t)1 << UNIT_SHIFT)
/* Units of 4 GiB lie in one table; 48 bits of address. */
#define LEAF_SHIFT 16
#define LEAF_UNITS ((size_t)1 << LEAF_SHIFT)
#define N_LEAVES   ((size_t)1 << (48 - UNIT_SHIFT - LEAF_SHIFT))

/* The blocks that begin in the unit: those from `first` on. Where none does, the one before `first`
   may reach into it. */
struct mark_unit {
    uint32_t first, n;
};

static size_t whole_pages(size_t bytes)
{
    size_t page = hak_os_page_size();
    return (bytes + page - 1) & ~(page - 1);
}

struct mark *hak_mark_begin(size_t bytes)
{
    bytes = whole_pages(bytes);
    struct mark *mark = (struct mark *)hak_os_map_aligned(NULL, bytes, hak_os_page_size());
    if (mark) {
        mark->apart[mark->n_apart++] =
            (struct mark_area){(uintptr_t)mark, (uintptr_t)mark + bytes, 0};
    }
    return mark;
}

void *hak_mark_map(struct mark *mark, size_t bytes)
{
    size_t page = hak_os_page_size();
    bytes = whole_pages(bytes);
    void *memory = hak_os_map_aligned(NULL, bytes ? bytes : page, page);
    if (!memory) {
        mark->error = ENOMEM;
    } else if (mark->n_apart < MARK_APART) {
        mark->apart[mark->n_apart++] =
            (struct mark_area){(uintptr_t)memory, (uintptr_t)memory + bytes, 0};
    }
    return memory;
}

static struct mark_unit *unit_at(const struct mark *mark, uintptr_t address)
{
    struct mark_unit *leaf = mark->units[(address >> UNIT_SHIFT >> LEAF_SHIFT) % N_LEAVES];
    return leaf ? &leaf[(address >> UNIT_SHIFT) % LEAF_UNITS] : NULL;
}

/* --- the table of blocks --- */

static struct mark_unit *make_unit(struct mark *mark, uintptr_t address)
{
    struct mark_unit **leaf = &mark->units[(address >> UNIT_SHIFT >> LEAF_SHIFT) % N_LEAVES];
    if (!*leaf) {
        *leaf = (struct mark_unit *)hak_mark_map(mark, LEAF_UNITS * sizeof **leaf);
    }
    return *leaf ? unit_at(mark, address) : NULL;
}

/* 0 for one that was freed. */
static uint64_t word_of(const void *p, size_t bytes)
{
    struct leaks_told told;
    enum leaks_tail tail = hak_leaks_look(p, bytes, &told);
    return tail == LEAKS_FREED ? 0
                               : (uint64_t)bytes << MARK_FLAG_BITS |
                                     (uint64_t)(tail == LEAKS_LIVE ? MARK_KNOWN : 0);
}

static int count(void *p, size_t bytes, void *mark_)
{
    struct mark *mark = (struct mark *)mark_;
    uintptr_t start = (uintptr_t)p, end = start + bytes;
    if (!word_of(p, bytes)) {
        return 0;
    }
    /* Each unit that it reaches into is to be found. */
    for (uintptr_t at = start & ~(UNIT_BYTES - 1); at < end; at += LEAF_UNITS * UNIT_BYTES) {
        if (!make_unit(mark, at)) {
            return ENOMEM;
        }
    }
    if (!make_unit(mark, end - 1) || mark->n_blocks == UINT32_MAX) {
        return ENOMEM;
    }
    unit_at(mark, start)->n++;
    mark->n_blocks++;
    mark->lowest = start < mark->lowest ? start : mark->lowest;
    mark->highest = end > mark->highest ? end : mark->highest;
    return 0;
}

/* Where each unit's part of the array begins; `n` counts from 0 again. */
static void lay_out(struct mark *mark)
{
    uint32_t at = 0;
    for (size_t i = 0; i < N_LEAVES; i++) {
        for (size_t j = 0; mark->units[i] && j < LEAF_UNITS; j++) {
            struct mark_unit *unit = &mark->units[i][j];
            unit->first = at;
            at += unit->n;
            unit->n = 0;
        }
    }
}

/* Blocks of a unit come in order, nearly always. */
static int fill(void *p, size_t bytes, void *mark_)
{
    struct mark *mark = (struct mark *)mark_;
    uint64_t word = word_of(p, bytes);
    if (!word) {
        return 0;
    }
    struct mark_unit *unit = unit_at(mark, (uintptr_t)p);
    struct mark_block *at = &mark->blocks[unit->first + unit->n++];
    while (at > &mark->blocks[unit->first] && at[-1].start > (char *)p) {
        *at = at[-1];
        at--;
    }
    *at = (struct mark_block){(char *)p, word};
    return 0;
}

static int find_blocks(struct mark *mark)
{
    mark->lowest = UINTPTR_MAX;
    mark->units = (struct mark_unit **)hak_mark_map(mark, N_LEAVES * sizeof *mark->units);
    int error = mark->units ? hak_walk_as_it_is(mark->walked, count, mark) : ENOMEM;
    if (!error) {
        size_t n = mark->n_blocks;
        mark->blocks = (struct mark_block *)hak_mark_map(mark, n * sizeof *mark->blocks);
        mark->pushed = (uint32_t *)hak_mark_map(mark, n * sizeof *mark->pushed);
        error = mark->error;
    }
    if (!error) {
        lay_out(mark);
        error = hak_walk_as_it_is(mark->walked, fill, mark);
    }
    return error;
}

/* The last of n blocks that begins at or before the address; the first of them does. */
static struct mark_block *last_before(struct mark_block *first, uint32_t n, uintptr_t address)
{
    uintptr_t low = (uintptr_t)first[0].start, high = (uintptr_t)first[n - 1].start;
    if (address >= high) {
        return &first[n - 1];
    }
    /* Blocks of one size lie at equal distances. */
    uint32_t guess = (uint32_t)((address - low) / ((high - low) / (n - 1)));
    if (guess < n - 1 && (uintptr_t)first[guess].start <= address &&
        address < (uintptr_t)first[guess + 1].start) {
        return &first[guess];
    }
    while (n > 1) {
        uint32_t half = n / 2;
        if ((uintptr_t)first[half].start <= address) {
            first += half;
            n -= half;
        } else {
            n = half;
        }
    }
    return first;
}

/* The block that the address lies in, or NULL. */
static HAK_ALWAYS_INLINE struct mark_block *find(const struct mark *mark, uintptr_t address)
{
    if (HAK_LIKELY(address - mark->lowest >= mark->highest - mark->lowest)) {
        return NULL;
    }
    const struct mark_unit *unit = unit_at(mark, address);
    if (!unit) {
        return NULL;
    }
    struct mark_block *first = &mark->blocks[unit->first], *block;
    if (unit->n && (uintptr_t)first->start <= address) {
        block = last_before(first, unit->n, address);
    } else if (unit->first) {
        block = first - 1;
    } else {
        return NULL;
    }
    return address - (uintptr_t)block->start < hak_mark_bytes(block) ? block : NULL;
}

/* --- words --- */

typedef void (*meeter)(struct mark *mark, struct mark_block *block, void *context);

/* Calls `meet` for each block that a word of the memory points to. */
__attribute__((no_sanitize("address", "thread"))) static HAK_ALWAYS_INLINE void
scan(struct mark *mark, const void *start, const void *end, meeter meet, void *context)
{
    const uintptr_t *at =
        (const uintptr_t *)(((uintptr_t)start + sizeof *at - 1) & ~(uintptr_t)(sizeof *at - 1));
    for (; at + 1 <= (const uintptr_t *)end; at++) {
        struct mark_block *block = find(mark, *at);
        if (block) {
            meet(mark, block, context);
        }
    }
}

/* A block of which some pages cannot be read, page by page. */
static void scan_partly(struct mark *mark, uintptr_t at, uintptr_t end, meeter meet, void *context)
{
    uintptr_t words[512];
    size_t n;
    for (; at < end; at += n) {
        n = sizeof words - at % sizeof words;
        n = n < end - at ? n : end - at;
        if (hak_roots_read(at, words, n)) {
            scan(mark, words, (char *)words + n, meet, context);
        }
    }
}

static HAK_ALWAYS_INLINE void scan_block(struct mark *mark, const struct mark_block *block,
                                         meeter meet, void *context)
{
    size_t bytes = hak_mark_bytes(block) - (block->word & MARK_KNOWN ? LEAKS_TAIL : 0);
    if (HAK_UNLIKELY(block->word & MARK_PARTLY)) {
        scan_partly(mark, (uintptr_t)block->start, (uintptr_t)block->start + bytes, meet, context);
    } else {
        scan(mark, block->start, block->start + bytes, meet, context);
    }
}

static HAK_ALWAYS_INLINE void push(struct mark *mark, struct mark_block *block)
{
    mark->pushed[mark->n_pushed++] = (uint32_t)(block - mark->blocks);
}

/* --- what can be reached --- */

static void reach(struct mark *mark, struct mark_block *block, void *context)
{
    (void)context;
    if (!(block->word & MARK_REACHED)) {
        block->word |= MARK_REACHED;
        push(mark, block);
    }
}

static void follow(struct mark *mark, meeter meet, void *context)
{
    while (mark->n_pushed) {
        scan_block(mark, &mark->blocks[mark->pushed[--mark->n_pushed]], meet, context);
    }
}

static void scan_root(void *mark_, const void *words, size_t bytes)
{
    struct mark *mark = (struct mark *)mark_;
    scan(mark, words, (const char *)words + bytes, reach, NULL);
    follow(mark, reach, NULL);
}

/* Blocks that reach into pages that cannot be read. */
static void note_hole(struct mark *mark, uintptr_t start, uintptr_t end)
{
    start = start > mark->lowest ? start : mark->lowest;
    end = end < mark->highest ? end : mark->highest;
    for (uintptr_t at = start & ~(UNIT_BYTES - 1); at < end;) {
        const struct mark_unit *unit = unit_at(mark, at);
        if (!unit) { /* none in 4 GiB */
            at = (at | (LEAF_UNITS * UNIT_BYTES - 1)) + 1;
            continue;
        }
        for (uint32_t i = unit->first ? unit->first - 1 : 0; i < unit->first + unit->n; i++) {
            struct mark_block *block = &mark->blocks[i];
            if ((uintptr_t)block->start < end &&
                (uintptr_t)block->start + hak_mark_bytes(block) > start) {
                block->word |= MARK_PARTLY;
            }
        }
        at += UNIT_BYTES;
    }
}

int hak_mark_all(struct mark *mark, size_t (*walked)(void **p, size_t usable),
                 const void *stack_end, const uintptr_t *words, size_t n_words)
{
    mark->walked = walked;
    int error = hak_roots_find(mark, stack_end);
    error = error ? error : find_blocks(mark);
    if (error || !mark->n_blocks) {
        return error;
    }
    for (uint32_t i = 0; i < mark->n_holes; i++) {
        note_hole(mark, mark->holes[i].start, mark->holes[i].end);
    }
    scan_root(mark, words, n_words * sizeof *words);
    return hak_roots_each(mark, scan_root);
}

/* --- what cannot --- */

static int is_lost(const struct mark_block *block)
{
    return (block->word & (MARK_KNOWN | MARK_REACHED)) == MARK_KNOWN;
}

void hak_mark_ask(struct mark *mark, int (*is_lost_)(void *context, const struct mark_block *block),
                  void *context)
{
    for (uint32_t i = 0; i < mark->n_blocks; i++) {
        if (is_lost(&mark->blocks[i]) && !is_lost_(context, &mark->blocks[i])) {
            reach(mark, &mark->blocks[i], NULL);
            follow(mark, reach, NULL);
        }
    }
}

/* `context` is the block that points there. A block is not lost because of itself. */
static void point(struct mark *mark, struct mark_block *block, void *context)
{
    (void)mark;
    if (block != (struct mark_block *)context) {
        block->word |= MARK_POINTED;
    }
}

/* Those that `direct` leads to. One that was thought to be direct, and what it led to, are its too.
 */
static void claim(struct mark *mark, struct mark_block *block, void *direct)
{
    uint32_t number = (uint32_t)((struct mark_block *)direct - mark->blocks);
    if (!is_lost(block) || block == direct || block->word & MARK_INDIRECT) {
        return;
    }
    if (!(block->word & MARK_DIRECT)) {
        push(mark, block);
    }
    block->word = (block->word & ~(uint64_t)MARK_DIRECT) | MARK_INDIRECT;
    mark->leader[block - mark->blocks] = number;
}

static void claim_from(struct mark *mark, struct mark_block *block)
{
    block->word |= MARK_DIRECT;
    mark->leader[block - mark->blocks] = (uint32_t)(block - mark->blocks);
    push(mark, block);
    follow(mark, claim, block);
}

/* --- rings, which nothing outside of them points to --- */

/* Lost blocks of one stack that nothing has claimed. */
struct group {
    const struct stack *stack;
    uint32_t first; /* a block's number from 1 up; 0: none */
};

struct groups {
    struct group *all;       /* a hash table, and then a list */
    uint32_t n, room, *next; /* of each block: the next one's number from 1 up */
};

static struct group *group_of(struct groups *groups, const struct mark_block *block)
{
    struct leaks_told told = {NULL, 0};
    (void)hak_leaks_look(block->start, hak_mark_bytes(block), &told);
    uint32_t i = (uint32_t)((uintptr_t)told.stack * UINT64_C(0x9e3779b97f4a7c15) >> 32);
    while (groups->all[i %= groups->room].first && groups->all[i].stack != told.stack) {
        i++;
    }
    /* There are as many as stacks; more if a tail looks right by chance: those share one. */
    struct group *group = &groups->all[groups->n < groups->room / 2 ? i : 0];
    if (!group->first) {
        groups->n++;
        group->stack = told.stack;
    }
    return group;
}

static int is_unclaimed(const struct mark_block *block)
{
    return is_lost(block) && !(block->word & (MARK_DIRECT | MARK_INDIRECT));
}

static int make_groups(struct mark *mark, struct groups *groups)
{
    groups->room = (uint32_t)(4 * hak_stack_count() + 64);
    groups->all = (struct group *)hak_mark_map(mark, groups->room * sizeof *groups->all);
    groups->next = (uint32_t *)hak_mark_map(mark, mark->n_blocks * sizeof *groups->next);
    for (uint32_t i = mark->n_blocks; !mark->error && i--;) {
        if (is_unclaimed(&mark->blocks[i])) {
            struct group *group = group_of(groups, &mark->blocks[i]);
            groups->next[i] = group->first;
            group->first = i + 1;
        }
    }
    return mark->error;
}

static void sift(struct group *heap, uint32_t n, uint32_t i)
{
    for (uint32_t child; n > 1 && i <= (n - 2) / 2; i = child) {
        child = 2 * i + 1;
        child += child + 1 < n && heap[child].stack < heap[child + 1].stack;
        if (heap[i].stack >= heap[child].stack) {
            return;
        }
        struct group above = heap[i];
        heap[i] = heap[child];
        heap[child] = above;
    }
}

/* The table becomes a list, in the order in which the stacks were seen first (nearly: that of their
   addresses). */
static void sort(struct groups *groups)
{
    uint32_t n = 0;
    for (uint32_t i = 0; i < groups->room; i++) {
        if (groups->all[i].first) {
            groups->all[n++] = groups->all[i];
        }
    }
    groups->n = n;
    for (uint32_t i = n / 2; i--;) {
        sift(groups->all, n, i);
    }
    while (n > 1) {
        struct group last = groups->all[--n];
        groups->all[n] = groups->all[0];
        groups->all[0] = last;
        sift(groups->all, n, 0);
    }
}

/* Of a ring, the stack that was seen first stands for all. What one of its blocks leads to may have
   been taken for the beginning of another one before: claim puts that right. */
static int claim_rings(struct mark *mark)
{
    struct groups groups = {NULL, 0, 0, NULL};
    int error = make_groups(mark, &groups);
    if (error) {
        return error;
    }
    sort(&groups);
    for (uint32_t i = 0; i < groups.n; i++) {
        for (uint32_t number = groups.all[i].first; number; number = groups.next[number - 1]) {
            if (is_unclaimed(&mark->blocks[number - 1])) {
                claim_from(mark, &mark->blocks[number - 1]);
            }
        }
    }
    return 0;
}

/* The direct one to which the block's claims lead, which becomes its own. */
static uint32_t leader_of(struct mark *mark, uint32_t number)
{
    uint32_t leader = number;
    while (mark->leader[leader] != leader) {
        leader = mark->leader[leader];
    }
    while (mark->leader[number] != leader) {
        uint32_t next = mark->leader[number];
        mark->leader[number] = leader;
        number = next;
    }
    return leader;
}

int hak_mark_lost(struct mark *mark,
                  void (*found)(void *context, const struct mark_block *block,
                                const struct mark_block *direct),
                  void *context)
{
    mark->leader = (uint32_t *)hak_mark_map(mark, mark->n_blocks * sizeof *mark->leader);
    if (!mark->leader) {
        return ENOMEM;
    }
    struct mark_block *end = mark->blocks + mark->n_blocks;
    for (struct mark_block *block = mark->blocks; block < end; block++) {
        if (is_lost(block)) {
            scan_block(mark, block, point, block);
        }
    }
    for (struct mark_block *block = mark->blocks; block < end; block++) {
        if (is_lost(block) && !(block->word & MARK_POINTED)) {
            claim_from(mark, block);
        }
    }
    int error = claim_rings(mark);
    for (uint32_t i = 0; !error && i < mark->n_blocks; i++) {
        if (is_lost(&mark->blocks[i])) {
            found(context, &mark->blocks[i], &mark->blocks[leader_of(mark, i)]);
        }
    }
    return error;
}
