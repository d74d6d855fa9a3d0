/* What ends the process, and what is said of the block. No locks but those of lookups. */
#include "secure/blame.h"

#include "base/error.h"
#include "secure/large.h"
#include "secure/secure.h"
#include "secure/stacks.h"
#include "secure/tail.h"
#include "superslab/map.h"
#include "superslab/superslab.h"

#if HAK_SECURE

static void say(struct hak_line *line, const char *text, uint64_t n)
{
    hak_line_text(line, text);
    hak_line_unsigned(line, n);
}

static void describe_small(struct hak_line *line, const struct ss_lookup *found)
{
    const uint64_t *tail = hak_secure_tail_of(found->start, found->size);
    struct tail says = hak_secure_tail_decode(*tail, hak_secure_tail_key(tail));
    if (says.is_right && says.family) {
        say(line, " (a block of ", says.size);
        say(line, " bytes, size class ", found->size);
    } else {
        say(line, says.is_right ? " (a freed block, size class " : " (a block of size class ",
            found->size);
    }
    hak_line_text(line, ")");
}

/* Never faults: what is read of a slab's block is its tail. */
static void describe(struct hak_line *line, const void *p)
{
    struct ss_lookup found = hak_super_lookup(p);
    const void *block = p;
    if (found.kind == SS_SLAB && found.start) {
        describe_small(line, &found);
        block = found.start;
    } else if ((found.kind == SS_SPAN || found.kind == SS_RANGE) && found.start) {
        struct large_block block = hak_secure_large_find(found.start); /* by its container */
        if (block.size) {
            say(line, block.state != LARGE_FREED ? " (a block of " : " (a freed block of ",
                block.size);
            hak_line_text(line, " bytes, large)");
        }
    }
    hak_secure_stacks_say(line, block, NULL);
}

void hak_secure_blame(const char *reason, const void *p)
{
    hak_fatal_about(reason, p, describe);
}

void hak_secure_overflowed(const void *p)
{
    hak_secure_blame("block written to behind its end", p);
}

void hak_secure_underflowed(const void *p)
{
    hak_secure_blame("block written to before its start", p);
}

void hak_secure_written_after_free(const void *p)
{
    hak_secure_blame("freed block written to", p);
}

/* [what it is][what it is given to] */
static const char *const family_reasons[ENTRY_NEW_ARRAY + 1][ENTRY_NEW_ARRAY + 1] = {
    [ENTRY_MALLOC] = {[ENTRY_NEW] = "block of malloc given to operator delete",
                      [ENTRY_NEW_ARRAY] = "block of malloc given to operator delete[]"},
    [ENTRY_NEW] = {[ENTRY_MALLOC] = "block of operator new given to free or realloc",
                   [ENTRY_NEW_ARRAY] = "block of operator new given to operator delete[]"},
    [ENTRY_NEW_ARRAY] = {[ENTRY_MALLOC] = "block of operator new[] given to free or realloc",
                         [ENTRY_NEW] = "block of operator new[] given to operator delete"},
};

void hak_secure_family_differs(const void *p, enum entry_family is, enum entry_family asked)
{
    const char *reason = is <= ENTRY_NEW_ARRAY ? family_reasons[is][asked] : NULL;
    hak_secure_blame(reason ? reason : "block freed by another family of functions", p);
}

void hak_secure_check_claim(const void *p, enum entry_family family, size_t size,
                            const struct entry_claim *claim)
{
    if (family != claim->family) {
        hak_secure_family_differs(p, family, claim->family);
    }
    /* Forms of new ask for 1 byte where 0 are wanted. */
    if (claim->size != SIZE_MAX && claim->size != size && !(size == 1 && claim->size == 0)) {
        hak_secure_blame("freed with a size that is not the block's", p);
    }
    if (claim->alignment && (uintptr_t)p & (claim->alignment - 1)) {
        hak_secure_blame("freed with an alignment that is not the block's", p);
    }
}

#endif
