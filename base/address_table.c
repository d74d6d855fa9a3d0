/* Hash tables of addresses. The caller's lock. Called by first-class heaps (large blocks) and by
   the fallback (libc's blocks). */
#include "base/address_table.h"

#include "base/os.h"

/* Blocks are aligned to 16 bytes at least, large ones to 8 KiB: the product's upper bits depend
   on all bits. */
static struct address_node **bucket_of(struct address_table *table, const void *p)
{
    return &table->buckets[(size_t)((uint64_t)((uintptr_t)p >> 4) * 0x9E3779B97F4A7C15u >> 40) %
                           ADDRESS_BUCKETS];
}

void *hak_address_new(struct address_table *table, size_t size)
{
    struct address_node *node = table->unused;
    if (!node) {
        return hak_os_meta_alloc(size);
    }
    table->unused = node->next;
    return node;
}

void hak_address_add(struct address_table *table, struct address_node *node, const void *p)
{
    struct address_node **bucket = bucket_of(table, p);
    node->address = p;
    node->next = *bucket;
    *bucket = node;
    atomic_store_relaxed(&table->n, table->n + 1);
}

struct address_node **hak_address_find(struct address_table *table, const void *p)
{
    struct address_node **link = bucket_of(table, p);
    while (*link && (*link)->address != p) {
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
