/* Hash tables of addresses. The caller's lock. Called by first-class heaps (large blocks) and by
   the fallback (libc's blocks). */
#include "base/address_table.h"

#include "base/lock_holds.h"
#include "base/os.h"

/* Blocks are aligned to 16 bytes at least, large ones to 8 KiB: the product's upper bits depend
   on all bits. */
static size_t hash_of(const void *p)
{
    return (size_t)((uint64_t)((uintptr_t)p >> 4) * 0x9E3779B97F4A7C15u >> 32);
}

/* Which part of `more` has bucket `i`, one of those behind the first ones: its number is the
   doubling, and it begins with bucket ADDRESS_BUCKETS << number. */
static uint32_t part_of(size_t i)
{
    return 63u - (uint32_t)__builtin_clzll(i / ADDRESS_BUCKETS);
}

static struct address_node **bucket_at(struct address_table *table, size_t i)
{
    if (i < ADDRESS_BUCKETS) {
        return &table->buckets[i];
    }
    uint32_t part = part_of(i);
    return &table->more[part][i - (ADDRESS_BUCKETS << part)];
}

static size_t n_buckets(const struct address_table *table)
{
    return ADDRESS_BUCKETS + atomic_load_relaxed(&table->n_more);
}

/* Linear hashing: buckets up to the last doubling are found by as many bits, those that have been
   split since, and their halves, by one bit more. */
static size_t index_of(const struct address_table *table, const void *p)
{
    size_t n = n_buckets(table), doubled = ADDRESS_BUCKETS << (part_of(n) + 1);
    size_t i = hash_of(p) & (doubled - 1);
    return i < n ? i : i & (doubled / 2 - 1);
}

/* Whether there is memory for one more bucket. */
static int has_bucket(const struct address_table *table)
{
    uint32_t part = part_of(n_buckets(table));
    return part < ADDRESS_DOUBLINGS && atomic_load_acquire(&table->more[part]) != NULL;
}

/* No lock held. If the system refuses, chains become longer. What comes second is lost: metadata
   does not go back. */
static void make_part(struct address_table *table)
{
    uint32_t part = part_of(n_buckets(table));
    struct address_node **none = NULL;
    if (part < ADDRESS_DOUBLINGS && hak_address_count(table) >= n_buckets(table) &&
        !has_bucket(table)) {
        struct address_node **fresh = (struct address_node **)hak_os_meta_alloc(
            (ADDRESS_BUCKETS << part) * sizeof(struct address_node *));
        (void)atomic_cas_strong(&table->more[part], &none, fresh);
    }
}

/* One more bucket: it takes from the one that held its nodes what belongs to it. */
static void split_one(struct address_table *table)
{
    size_t i = n_buckets(table);
    struct address_node **from = bucket_at(table, i - (ADDRESS_BUCKETS << part_of(i)));
    struct address_node **to = bucket_at(table, i), *node = *from;
    atomic_store_relaxed(&table->n_more, table->n_more + 1);
    *from = NULL;
    while (node) {
        struct address_node *next = node->next;
        struct address_node **bucket = index_of(table, node->address) == i ? to : from;
        hak_lock_step(1);
        node->next = *bucket;
        *bucket = node;
        node = next;
    }
}

void *hak_address_new(struct address_table *table, struct lock *lock, size_t size)
{
    hak_lock_acquire(lock);
    struct address_node *node = table->unused;
    if (node) {
        table->unused = node->next;
    }
    hak_lock_release(lock);
    make_part(table);
    return node ? node : hak_os_meta_alloc(size);
}

void hak_address_add(struct address_table *table, struct address_node *node, const void *p)
{
    if (table->n >= n_buckets(table) && has_bucket(table)) {
        split_one(table);
    }
    struct address_node **bucket = bucket_at(table, index_of(table, p));
    node->address = p;
    node->next = *bucket;
    *bucket = node;
    atomic_store_relaxed(&table->n, table->n + 1);
}

struct address_node **hak_address_find(struct address_table *table, const void *p)
{
    struct address_node **link = bucket_at(table, index_of(table, p));
    while (*link && (*link)->address != p) {
        hak_lock_step(1);
        link = &(*link)->next;
    }
    return link;
}

struct address_node *hak_address_take_out(struct address_table *table, struct address_node **link)
{
    struct address_node *node = *link;
    *link = node->next;
    atomic_store_relaxed(&table->n, table->n - 1);
    return node;
}

void hak_address_drop(struct address_table *table, struct address_node *node)
{
    node->next = table->unused;
    table->unused = node;
}
