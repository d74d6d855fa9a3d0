/* What the child of a leak report does: marks, adds up by stack, writes. No locks: nothing else
   runs in it. Memory is mapped and stays so. Called by leaks_start.c. */
#include <errno.h>
#include <string.h>

#include "base/atomic.h"
#include "base/os.h"
#include "profile/leaks.h"
#include "profile/mark.h"
#include "profile/profile.h"
#include "profile/raw.h"

/* Milliseconds. */
#define WAITS 10000

/* Blocks of one stack. */
struct row {
    const struct stack *stack;
    uint64_t direct_objects, direct_bytes; /* no lost block leads to them */
    uint64_t held_objects, held_bytes;     /* only they lead to these */
    uint32_t first;                        /* pair, from 1 up; 0: none */
};

/* Blocks of the second row's stack to which blocks of the first one's lead. */
struct pair {
    uint32_t direct, held, next;
    uint64_t objects, bytes;
};

struct sums {
    struct mark mark; /* the first: hak_mark_begin */
    struct row *rows; /* a hash table; [n_rows] is for stacks that are not known */
    struct pair *pairs;
    uint32_t *pair_of; /* a hash table of numbers from 1 up */
    uint32_t n_rows, n_pairs, most_pairs;
    struct leaks_result *result;
    struct profile_out out;
    struct profile_maps maps;
};

static uint32_t hash_of(uint64_t key)
{
    return (uint32_t)(key * UINT64_C(0x9e3779b97f4a7c15) >> 32);
}

/* The row of a stack, or, if it has none, the free one where it belongs. */
static struct row *row_at(struct sums *sums, const struct stack *stack)
{
    uint32_t i = hash_of((uintptr_t)stack);
    while (sums->rows[i %= sums->n_rows].stack && sums->rows[i].stack != stack) {
        i++;
    }
    return &sums->rows[i];
}

static void add_row(const struct stack *stack, void *sums)
{
    row_at((struct sums *)sums, stack)->stack = stack;
}

/* A tail that looks right by chance names no stack of the table. */
static struct row *row_of(struct sums *sums, const struct stack *stack)
{
    struct row *row = row_at(sums, stack);
    return row->stack ? row : &sums->rows[sums->n_rows];
}

static void add_pair(struct sums *sums, struct row *direct, const struct row *held, size_t size)
{
    uint32_t a = (uint32_t)(direct - sums->rows), b = (uint32_t)(held - sums->rows);
    uint32_t i = hash_of((uint64_t)a << 32 | b), *number;
    for (;; i++) {
        number = &sums->pair_of[i % (2 * sums->most_pairs)];
        if (!*number ||
            (sums->pairs[*number - 1].direct == a && sums->pairs[*number - 1].held == b)) {
            break;
        }
    }
    if (!*number) {
        if (sums->n_pairs == sums->most_pairs) {
            return; /* the sums have it */
        }
        sums->pairs[sums->n_pairs] = (struct pair){a, b, direct->first, 0, 0};
        direct->first = *number = ++sums->n_pairs;
    }
    sums->pairs[*number - 1].objects++;
    sums->pairs[*number - 1].bytes += size;
}

static void add_block(void *sums_, const struct mark_block *block, const struct mark_block *direct)
{
    struct sums *sums = (struct sums *)sums_;
    struct leaks_told told = {NULL, 0}, by = {NULL, 0};
    (void)hak_leaks_look(block->start, hak_mark_bytes(block), &told);
    (void)hak_leaks_look(direct->start, hak_mark_bytes(direct), &by);
    struct row *row = row_of(sums, by.stack);
    sums->result->n_blocks++;
    sums->result->bytes += told.size;
    if (block == direct) {
        row->direct_objects++;
        row->direct_bytes += told.size;
    } else {
        row->held_objects++;
        row->held_bytes += told.size;
        add_pair(sums, row, row_of(sums, told.stack), told.size);
    }
}

static int make_tables(struct sums *sums)
{
    size_t n = hak_stack_count();
    sums->n_rows = (uint32_t)(2 * n + 16);
    sums->most_pairs = (uint32_t)(4 * n + 1024);
    sums->rows =
        (struct row *)hak_mark_map(&sums->mark, ((size_t)sums->n_rows + 1) * sizeof *sums->rows);
    sums->pairs = (struct pair *)hak_mark_map(&sums->mark, sums->most_pairs * sizeof *sums->pairs);
    sums->pair_of =
        (uint32_t *)hak_mark_map(&sums->mark, 2 * (size_t)sums->most_pairs * sizeof *sums->pair_of);
    if (sums->mark.error) {
        return sums->mark.error;
    }
    hak_stack_each(add_row, sums);
    add_row(&hak_stack_unknown, sums);
    return 0;
}

/* --- text --- */

static void put_numbers(struct profile_out *out, const uint64_t *numbers, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        hak_profile_put_char(out, ' ');
        hak_profile_put_number(out, numbers[i], 10);
    }
}

static void put_stack(struct profile_out *out, const struct stack *stack)
{
    hak_profile_put_text(out, " :");
    for (size_t i = 0; stack && i < stack->n; i++) {
        hak_profile_put_text(out, " 0x");
        hak_profile_put_number(out, (uintptr_t)stack->addresses[i], 16);
    }
    hak_profile_put_char(out, '\n');
}

static void put_row(struct sums *sums, const struct row *row)
{
    const uint64_t numbers[] = {row->direct_bytes, row->direct_objects, row->held_bytes,
                                row->held_objects};
    hak_profile_put_text(&sums->out, "stack");
    put_numbers(&sums->out, numbers, 4);
    put_stack(&sums->out, row->stack);
    for (uint32_t i = row->first; i; i = sums->pairs[i - 1].next) {
        const struct pair *pair = &sums->pairs[i - 1];
        const uint64_t held[] = {pair->bytes, pair->objects};
        hak_profile_put_text(&sums->out, "held");
        put_numbers(&sums->out, held, 2);
        put_stack(&sums->out, sums->rows[pair->held].stack);
    }
}

static int put_all(struct sums *sums, const char *reason, pid_t process)
{
    hak_profile_put_head(&sums->out, process, reason, hak_leaks_elapsed_ms());
    hak_profile_put_row(&sums->out, "lost_objects", sums->result->n_blocks);
    hak_profile_put_row(&sums->out, "lost_bytes", sums->result->bytes);
    hak_profile_put_text(&sums->out,
                         "fields direct_bytes direct_objects held_bytes held_objects\n");
    for (uint32_t i = 0; i <= sums->n_rows; i++) {
        if (sums->rows[i].direct_objects) {
            put_row(sums, &sums->rows[i]);
        }
    }
    hak_profile_put_maps(&sums->out, &sums->maps);
    hak_profile_put_text(&sums->out, "end\n");
    hak_profile_flush(&sums->out);
    return sums->out.error;
}

/* --- two passes --- */

/* The bit of a block: *word and the bit in it. */
static uint64_t bit_of(struct leaks_result *result, const struct mark_block *block, uint64_t **word)
{
    struct leaks_told told = {NULL, 0};
    (void)hak_leaks_look(block->start, hak_mark_bytes(block), &told);
    uint64_t key = ((uintptr_t)block->start ^ (uintptr_t)told.stack << 20 ^ told.size << 44) *
                   UINT64_C(0x9e3779b97f4a7c15);
    key = (key ^ key >> 32) % LEAKS_LOST;
    *word = &result->lost[key / 64];
    return UINT64_C(1) << key % 64;
}

static int note_lost(void *result, const struct mark_block *block)
{
    uint64_t *word, bit = bit_of((struct leaks_result *)result, block, &word);
    *word |= bit;
    return 1;
}

static int was_lost(void *result, const struct mark_block *block)
{
    uint64_t *word, bit = bit_of((struct leaks_result *)result, block, &word);
    return (*word & bit) != 0;
}

/* The process decides while its child marks; it may have been killed. */
static uint32_t await_pass(const struct leaks_result *result)
{
    uint32_t pass = LEAKS_UNDECIDED;
    for (int i = 0; i < WAITS && (pass = atomic_load_acquire(&result->pass)) == LEAKS_UNDECIDED;
         i++) {
        hak_leaks_sleep_ms(1);
    }
    return pass == LEAKS_UNDECIDED ? LEAKS_ALONE : pass;
}

static size_t walked(void **p, size_t usable)
{
    return hak_entry_below(&hak_leaks_layer)->walked(p, usable);
}

int hak_leaks_find(int fd, const char *reason, pid_t process, const void *stack_end,
                   struct leaks_result *result)
{
    struct sums *sums = (struct sums *)(void *)hak_mark_begin(sizeof *sums);
    if (!sums) {
        return ENOMEM;
    }
    sums->result = result;
    sums->out.fd = fd;
    int error = hak_mark_all(&sums->mark, walked, stack_end, result->words, result->n_words);
    uint32_t pass = await_pass(result);
    if (!error && pass != LEAKS_ALONE) {
        hak_mark_ask(&sums->mark, pass == LEAKS_FIRST ? note_lost : was_lost, result);
    }
    if (pass == LEAKS_FIRST) {
        return error ? error : ECANCELED; /* nothing is to be left as the report */
    }
    error = error ? error : make_tables(sums);
    error = error ? error : hak_mark_lost(&sums->mark, add_block, sums);
    return error || fd < 0 ? error : put_all(sums, reason, process);
}
