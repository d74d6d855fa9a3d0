/* A hash table of addresses: nodes that begin with a struct address_node, in metadata, reused
   when they are taken out. The owner has a lock for it, which is held unless a function says
   otherwise. It grows by one bucket at a time (linear hashing), so that chains stay short and no
   call moves more than one of them. Always: n = nodes in the buckets (read without the lock: where
   there is none, one load says so); at most one bucket a node is added to the first ones; the node
   of an address is in the bucket that hak_address_find looks into. */
#ifndef HAKMEM_BASE_ADDRESS_TABLE_H
#define HAKMEM_BASE_ADDRESS_TABLE_H

#include "base/internal.h"

#include "base/atomic.h"
#include "base/attributes.h"
#include "base/lock.h"

HAK_EXTERN_C_BEGIN

#define ADDRESS_BUCKETS HAK_TINY_OR((size_t)4, (size_t)4096)
/* How often the number of buckets may double. */
#define ADDRESS_DOUBLINGS 20u

struct address_node {
    const void *address;
    struct address_node *next; /* in its bucket, or of unused ones */
};

struct address_table {
    struct address_node *buckets[ADDRESS_BUCKETS];
    /* ADDRESS_BUCKETS << i further ones each; NULL until there are so many nodes, or if the system
       refused memory. */
    struct address_node **more[ADDRESS_DOUBLINGS];
    size_t n_more; /* buckets of `more` in use */
    struct address_node *unused;
    size_t n;
};

/* A node of `size` bytes that is in no bucket; NULL if the system refuses memory. One size a
   table. `lock` is the owner's; it is not held, and is taken and released. */
void *hak_address_new(struct address_table *table, struct lock *lock, size_t size);
/* Into the table, under the address. */
void hak_address_add(struct address_table *table, struct address_node *node, const void *p);
/* The link that points to the address's node, or to NULL if it has none. */
struct address_node **hak_address_find(struct address_table *table, const void *p);
/* Takes the node of that link out of the table. It is the caller's until hak_address_drop. */
struct address_node *hak_address_take_out(struct address_table *table, struct address_node **link);
void hak_address_drop(struct address_table *table, struct address_node *node);

static inline size_t hak_address_count(const struct address_table *table)
{
    return atomic_load_relaxed(&table->n);
}

HAK_EXTERN_C_END

#endif
