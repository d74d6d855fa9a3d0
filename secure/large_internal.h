/* Records of large blocks, as large.c, grow.c and quarantine.c share them. */
#ifndef HAKMEM_SECURE_LARGE_INTERNAL_H
#define HAKMEM_SECURE_LARGE_INTERNAL_H

#include "base/internal.h"

#include "base/address_table.h"
#include "base/atomic.h"
#include "base/lock.h"
#include "base/os.h"
#include "hakmem/entry.h"
#include "secure/body.h"
#include "secure/edges.h"
#include "secure/large.h"
#include "secure/secure.h"

#if HAK_SECURE

HAK_EXTERN_C_BEGIN

struct large {
    struct address_node by_address; /* first; the container's */
    char *start;                    /* of the block */
    size_t size;
    struct body body;
    size_t bytes; /* of the container, whole pages */
    struct hak_heap *heap;
    uint32_t family;
    uint32_t state;
    uint32_t watched; /* edges */
    uint32_t is_open; /* freed, touchable, and the plain functions': its container may be linked in
                         the list of what waits for the gate (fork.h), and is not to be changed */
    uint32_t is_bare; /* made where there were too many mappings: its body is bare, and nothing of
                         its container is sealed; not in the quarantine */
    struct large *next_stuck;
};

extern struct lock hak_secure_large_lock HAK_HIDDEN;
extern struct address_table hak_secure_large_table HAK_HIDDEN; /* with the lock held */

/* Where a block lies in its body: at the end, or, if it may grow, so many bytes from the start. */
struct spot {
    size_t offset;  /* AT_END */
    size_t brought; /* bytes of pages that a block brings which has become too small */
};
#define AT_END SIZE_MAX

static inline const struct entry_table *hak_secure_below(void)
{
    return hak_entry_below(&hak_secure_layer);
}

static inline size_t hak_secure_round_to(size_t size, size_t align)
{
    return (size + align - 1) & ~(align - 1);
}

static inline char *hak_secure_container_of(const struct large *large)
{
    return (char *)(uintptr_t)large->by_address.address;
}

static inline struct edges hak_secure_edges_of(const struct large *large)
{
    return (struct edges){large->start, large->start + large->size, large->body.start,
                          large->body.start + large->body.bytes};
}

/* The record of a container, or NULL. The lock is held. */
struct large *hak_secure_large_record_of(const void *container);
/* The used block that begins at p, or NULL. It is the caller's: nothing of it changes. */
struct large *hak_secure_large_look(const void *p);
/* Edges of a block that has become used, or another size, are chosen, `edges` among them, and
   filled. */
void hak_secure_large_watch(struct large *large, unsigned edges);
/* Aborts if an edge was written to. */
void hak_secure_large_check_edges(const struct large *large);
/* A block that was not handed out. Inside the gate. */
void hak_secure_large_abandon(struct large *large);
/* The same while the gate is closed. */
void hak_secure_large_abandon_later(struct large *large);
/* The used block is changing from now on, and no check of another thread looks at it any more. 0:
   it is not used, or this cannot be. */
int hak_secure_large_begin_change(struct large *large);
/* A block that may grow, at that place in its body, and with what it is to be brought missing: the
   caller's, changing, its edges not filled. NULL. */
struct large *hak_secure_large_make_growing(size_t size, struct spot spot);

HAK_EXTERN_C_END

#endif
#endif
