/* Tests of hash tables of addresses: against an oracle, at sizes at which they have doubled often,
   and where memory for buckets is refused. */
#include "base/address_table.h"

#include <algorithm>
#include <gtest/gtest.h>
#include <unordered_map>
#include <vector>

#include "base/lock_holds.h"
#include "testing/failing_os.h"
#include "testing/rng.h"

namespace
{

using hak_testing::Rng;

struct Node {
    struct address_node by_address; /* first */
    uint64_t value;
};

struct lock lock = LOCK_INIT(LOCK_RANK_OWNED);

Node *add(struct address_table *table, const void *p, uint64_t value)
{
    Node *node = static_cast<Node *>(hak_address_new(table, &lock, sizeof(Node)));
    if (node) {
        node->value = value;
        hak_lock_acquire(&lock);
        hak_address_add(table, &node->by_address, p);
        hak_lock_release(&lock);
    }
    return node;
}

Node *find(struct address_table *table, const void *p)
{
    hak_lock_acquire(&lock);
    Node *node = reinterpret_cast<Node *>(*hak_address_find(table, p));
    hak_lock_release(&lock);
    return node;
}

void take_out(struct address_table *table, const void *p)
{
    hak_lock_acquire(&lock);
    struct address_node *node = hak_address_take_out(table, hak_address_find(table, p));
    hak_address_drop(table, node);
    hak_lock_release(&lock);
}

const void *address(uint64_t i)
{
    return reinterpret_cast<const void *>(0x7f0000000000u + i * 8192);
}

void check_all(struct address_table *table, const std::unordered_map<uint64_t, uint64_t> &oracle)
{
    ASSERT_EQ(hak_address_count(table), oracle.size());
    for (const auto &one : oracle) {
        Node *node = find(table, address(one.first));
        ASSERT_NE(node, nullptr) << one.first;
        ASSERT_EQ(node->value, one.second);
    }
}

TEST(AddressTable, RandomCallsAgreeWithAnOracle)
{
    static struct address_table table;
    std::unordered_map<uint64_t, uint64_t> oracle;
    Rng rng(1);
    for (int step = 0; step < 60000; step++) {
        uint64_t i = rng.below(40000);
        if (oracle.count(i)) {
            take_out(&table, address(i));
            oracle.erase(i);
            ASSERT_EQ(find(&table, address(i)), nullptr);
        } else {
            oracle[i] = rng.next();
            ASSERT_NE(add(&table, address(i), oracle[i]), nullptr);
        }
    }
    check_all(&table, oracle);
    EXPECT_GT(table.n_more, 0u) << "it has grown";
}

/* The longest chain of all buckets. */
size_t longest_chain(const struct address_table *table)
{
    size_t longest = 0;
    for (size_t i = 0; i < ADDRESS_BUCKETS + table->n_more; i++) {
        size_t n = 0, part = 0;
        while (i >= ADDRESS_BUCKETS << part) {
            part++;
        }
        const struct address_node *node =
            part ? table->more[part - 1][i - (ADDRESS_BUCKETS << (part - 1))] : table->buckets[i];
        for (; node; node = node->next) {
            n++;
        }
        longest = std::max(longest, n);
    }
    return longest;
}

/* As many buckets as nodes: chains stay short at any size, and so does the longest hold. */
TEST(AddressTable, ChainsStayShort)
{
    static struct address_table table;
    for (uint64_t i = 0; i < 300000; i++) {
        ASSERT_NE(add(&table, address(i), i), nullptr);
    }
    EXPECT_GE(ADDRESS_BUCKETS + table.n_more, 299999u);
    EXPECT_LE(longest_chain(&table), 12u);
#if HAK_DEBUG
    hak_lock_forget_worst();
    for (uint64_t i = 0; i < 300000; i++) {
        take_out(&table, address(i));
        ASSERT_NE(add(&table, address(i + 300000), i), nullptr);
    }
    EXPECT_LE(hak_lock_worst(LOCK_RANK_OWNED).steps, 24u);
    EXPECT_EQ(hak_lock_worst(LOCK_RANK_OWNED).system_calls, 0u);
#endif
}

/* Without memory for buckets it goes on with those that it has, and grows when there is some. */
TEST(AddressTable, RefusedMemory)
{
    static struct address_table table;
    hak_testing::FailingOs os;
    uint64_t n = 0;
    for (; n < 2 * ADDRESS_BUCKETS; n++) {
        ASSERT_NE(add(&table, address(n), n), nullptr);
    }
    for (uint64_t i = 0; i < n; i++) {
        take_out(&table, address(i)); /* nodes to use again */
    }
    for (uint32_t part = 1; part < ADDRESS_DOUBLINGS; part++) {
        EXPECT_EQ(table.more[part], nullptr);
    }
    os.fail_always(hak_testing::OS_MMAP);
    while (hak_os_meta_alloc(64)) {
    }
    for (uint64_t i = 0; i < n; i++) {
        ASSERT_NE(add(&table, address(i), i), nullptr);
    }
    EXPECT_EQ(add(&table, address(n), n), nullptr) << "no node is left, nor memory for one";
    os.reset();
    for (; n < 8 * ADDRESS_BUCKETS; n++) {
        ASSERT_NE(add(&table, address(n), n), nullptr);
    }
    for (uint64_t i = 0; i < n; i++) {
        ASSERT_EQ(find(&table, address(i))->value, i);
    }
    EXPECT_GE(table.n_more, 6 * ADDRESS_BUCKETS);
}

} // namespace
