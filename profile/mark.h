/* Which blocks can be reached: a conservative mark, in a process in which nothing else runs and
   that ends soon (leaks.h). What it needs it maps itself, and unmaps nothing.

   Blocks. All of them in one array, in the order of their addresses: 16 bytes for each. A table of
   units of 64 KiB says which part of the array begins in each unit, so that any word leads to its
   block in a bounded number of steps; a walk counts, the next one fills. Each block is pushed once
   onto a stack of numbers, so that there is no recursion, and the whole is linear in the bytes of
   blocks and roots.

   Roots: every readable private mapping, and shared memory without a file, of which pages were ever
   touched: globals, stacks, thread-local storage, and what the program has mapped itself. Not:
   hakmem's memory and its own variables where it is a library; the calling thread's stack below
   what is in use; files that are mapped shared; code. Aligned words count, wherever in a block they
   point. */
#ifndef HAKMEM_PROFILE_MARK_H
#define HAKMEM_PROFILE_MARK_H

#include "base/internal.h"

#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

struct stack;

/* States: not MARK_REACHED is lost, if it is MARK_KNOWN. Of those, MARK_DIRECT or MARK_INDIRECT
   after hak_mark_lost. */
enum mark_flags {
    MARK_KNOWN = 1,     /* its stack is known */
    MARK_REACHED = 2,   /* from a root */
    MARK_POINTED = 4,   /* a lost block points to it */
    MARK_DIRECT = 8,    /* no lost block leads to it, or it is the first of a ring */
    MARK_INDIRECT = 16, /* a lost block leads to it */
    MARK_PARTLY = 32,   /* some of its pages cannot be read */
};
#define MARK_FLAG_BITS 8

struct mark_block {
    char *start;
    uint64_t word; /* bytes above MARK_FLAG_BITS, which are flags; a tail is included */
};

static inline size_t hak_mark_bytes(const struct mark_block *block)
{
    return (size_t)(block->word >> MARK_FLAG_BITS);
}

/* Pages that may be read; readable at all, and a root. */
struct mark_area {
    uintptr_t start, end;
    int is_shared;
};

#define MARK_APART 1024u

struct mark {
    struct mark_block *blocks;
    uint32_t n_blocks;
    uint32_t *pushed, n_pushed;
    uint32_t *leader; /* of lost ones: the number of a block that leads to it, or its own */
    uintptr_t lowest, highest; /* of all blocks */
    struct mark_unit **units;  /* by the upper bits of the unit's number */
    struct mark_area *roots, *holes;
    struct mark_area apart[MARK_APART]; /* what is no root */
    uint32_t n_roots, n_holes, n_apart;
    size_t (*walked)(void **p, size_t usable);
    int error;
};

/* `*mark` is hak_mark_begin's. Finds all blocks and marks what the roots lead to. `walked`: blocks
   as the layer knows them. `stack_end`: the lowest
   address of the calling thread's stack that is in use. `words` are roots too. 0 or an errno
   value. */
int hak_mark_all(struct mark *mark, size_t (*walked)(void **p, size_t usable),
                 const void *stack_end, const uintptr_t *words, size_t n_words);

/* Asks about each block that was not reached: where `is_lost` returns 0, it is taken to be reached,
   and what it leads to. */
void hak_mark_ask(struct mark *mark, int (*is_lost)(void *context, const struct mark_block *block),
                  void *context);

/* Tells direct from indirect ones, of what was not reached. `found` is called for each lost block,
   with the direct one that leads to it, or that it is. 0 or an errno value. */
int hak_mark_lost(struct mark *mark,
                  void (*found)(void *context, const struct mark_block *block,
                                const struct mark_block *direct),
                  void *context);

/* A mapping for a struct mark and what is behind it, zeroed; NULL if the system refuses. */
struct mark *hak_mark_begin(size_t bytes);
/* Zeroed memory for as long as the process lives; NULL and mark->error if the system refuses. */
void *hak_mark_map(struct mark *mark, size_t bytes);

HAK_EXTERN_C_END

#endif
