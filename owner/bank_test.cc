/* Tests of banks: blocks of all classes against an oracle, the one empty slab a class, bad
   pointers, refused memory. */
#include "owner/bank.h"

#include <algorithm>
#include <cstring>
#include <gtest/gtest.h>
#include <map>
#include <set>
#include <vector>

#include "base/options.h"
#include "base/stats.h"
#include "base/verify.h"
#include "testing/failing_os.h"
#include "testing/rng.h"

namespace
{

using hak_testing::FailingOs;
using hak_testing::Rng;

const uint32_t KEEP_EMPTY_MAX = 4096;
const struct owner_policy policy = {1, UINT32_MAX, UINT32_MAX, KEEP_EMPTY_MAX, OWNER_FRESH_BYTES};

class Bank : public testing::Test
{
  protected:
    void SetUp() override
    {
        hak_options.purge_delay_ms = 3600000;
        hak_bank_init(&bank, 5);
        hak_bank_init(&other, 6);
    }
    void TearDown() override
    {
        hak_bank_release_empty(&bank);
        hak_bank_release_empty(&other);
        EXPECT_EQ(bank.n_slabs + other.n_slabs, 0u);
        EXPECT_EQ(hak_stat_get(heap_used_bytes), 0);
        hak_ss_purge(0);
        EXPECT_EQ(hak_ss_verify(), 0);
    }
    struct bank bank, other;
};

std::vector<char *> take(struct bank *bank, uint32_t size_class, uint32_t want)
{
    void *head;
    uint32_t n = hak_bank_take(bank, size_class, want, &head, &policy);
    struct slab *slab = n ? nullptr : hak_bank_make(size_class);
    if (slab) {
        EXPECT_EQ(hak_super_lookup(slab->base).kind, SS_FREE_UNIT) << "nobody's yet";
        hak_bank_add(bank, slab);
        n = hak_bank_take(bank, size_class, want, &head, &policy);
    }
    std::vector<char *> blocks;
    for (; head; head = hak_link_next(head)) {
        blocks.push_back(static_cast<char *>(head));
    }
    EXPECT_EQ(blocks.size(), n);
    EXPECT_LE(n, want);
    return blocks;
}

TEST_F(Bank, RandomCallsAgreeWithAnOracle)
{
    Rng rng(4);
    struct Block {
        uint32_t size_class;
        unsigned char pattern;
    };
    std::map<char *, Block> live;
    for (int step = 0; step < 3000; step++) {
        if (live.size() < 50 || rng.one_in(2)) {
            uint32_t c = static_cast<uint32_t>(rng.below(SC_N_CLASSES)),
                     size = hak_sc_table[c].size;
            std::vector<char *> blocks = take(&bank, c, static_cast<uint32_t>(rng.between(1, 40)));
            ASSERT_GT(blocks.size(), 0u);
            for (char *block : blocks) {
                auto next = live.lower_bound(block);
                ASSERT_TRUE(next == live.end() || block + size <= next->first);
                ASSERT_TRUE(next == live.begin() ||
                            std::prev(next)->first +
                                    hak_sc_table[std::prev(next)->second.size_class].size <=
                                block);
                unsigned char pattern = static_cast<unsigned char>(rng.next());
                memset(block, pattern, size);
                live[block] = {c, pattern};
            }
        } else {
            /* A list of blocks of several slabs. */
            void *head = nullptr;
            uint32_t n = static_cast<uint32_t>(rng.between(1, 40));
            for (uint32_t i = 0; i < n; i++) {
                auto it = std::next(live.begin(), static_cast<long>(rng.below(live.size())));
                char *block = it->first;
                for (uint32_t k = 0; k < hak_sc_table[it->second.size_class].size; k++) {
                    ASSERT_EQ(static_cast<unsigned char>(block[k]), it->second.pattern);
                }
                live.erase(it);
                if (rng.one_in(3)) {
                    hak_bank_put(&bank, block, &policy);
                    n--;
                    i--;
                } else {
                    hak_link_set(block, head);
                    head = block;
                }
            }
            EXPECT_EQ(hak_bank_put_list(&bank, head, &policy), n);
        }
        ASSERT_EQ(hak_bank_verify(&bank), 0) << step;
    }
    for (const auto &block : live) {
        hak_bank_put(&bank, block.first, &policy);
    }
    EXPECT_EQ(hak_bank_verify(&bank), 0);
    EXPECT_LE(bank.n_slabs, static_cast<uint32_t>(SC_N_CLASSES)) << "one empty slab a class";
    EXPECT_EQ(hak_bank_put_list(&bank, nullptr, &policy), 0u);
}

/* A row that goes on into the next slab, upwards and downwards, of a class that divides the slab.
 */
TEST_F(Bank, RowsAcrossSlabsComeBack)
{
    uint32_t c = hak_sc_of(1024);
    for (bool is_down : {false, true}) {
        std::vector<char *> blocks;
        while (bank.n_slabs < 5 || hak_bank_n_partial(&bank, c)) {
            std::vector<char *> some = take(&bank, c, UINT32_MAX);
            blocks.insert(blocks.end(), some.begin(), some.end());
        }
        std::sort(blocks.begin(), blocks.end());
        if (is_down) {
            std::reverse(blocks.begin(), blocks.end());
        }
        for (size_t i = 0; i < blocks.size(); i++) {
            hak_link_set(blocks[i], i + 1 < blocks.size() ? blocks[i + 1] : nullptr);
        }
        EXPECT_EQ(hak_bank_put_list(&bank, blocks[0], &policy), blocks.size());
        EXPECT_EQ(hak_bank_verify(&bank), 0);
        EXPECT_EQ(bank.n_slabs, 1u);
    }
}

void *link_all(const std::vector<char *> &blocks)
{
    void *head = nullptr;
    for (size_t i = blocks.size(); i > 0; i--) {
        hak_link_set(blocks[i - 1], head);
        head = blocks[i - 1];
    }
    return head;
}

/* By one list each, whatever list they were held in. */
void let_go_each(struct bank *bank, uint32_t size_class, const std::vector<char *> &blocks)
{
    for (char *block : blocks) {
        hak_bank_let_go_list(bank, size_class, link_all({block}), 1);
    }
}

/* Held blocks are neither free nor in use. Those of another bank's slabs stay in the list. */
TEST_F(Bank, HoldsAndLetsGo)
{
    uint32_t c = hak_sc_of(5000);
    bank.has_strays_sent = other.has_strays_sent = 1;
    std::vector<char *> blocks;
    while (blocks.size() < 60 || hak_bank_n_partial(&bank, c)) {
        std::vector<char *> some = take(&bank, c, UINT32_MAX);
        blocks.insert(blocks.end(), some.begin(), some.end());
    }
    void *head = link_all(blocks);
    EXPECT_EQ(hak_bank_hold_list(&bank, c, head), blocks.back());
    EXPECT_EQ(hak_bank_verify(&bank), 0);
    for (char *block : blocks) {
        EXPECT_TRUE(hak_bank_has_mark(block));
        EXPECT_FALSE(hak_super_lookup(block).is_allocated);
    }
    for (struct bank *any : {&bank, &other}) {
        EXPECT_EXIT(hak_bank_hold_list(any, c, link_all({blocks[7]})),
                    testing::KilledBySignal(SIGABRT), "block freed twice");
        EXPECT_EXIT(hak_bank_put_list(any, link_all({blocks[7]}), &policy),
                    testing::KilledBySignal(SIGABRT), "block freed twice");
    }
    hak_bank_let_go_list(&bank, c, head, static_cast<uint32_t>(blocks.size()));
    for (char *block : blocks) {
        EXPECT_FALSE(hak_bank_has_mark(block));
        EXPECT_TRUE(hak_super_lookup(block).is_allocated);
    }
    EXPECT_EXIT(hak_bank_hold_list(&bank, c, link_all({blocks[3] + 16})),
                testing::KilledBySignal(SIGABRT), "invalid pointer freed");
    EXPECT_EXIT(hak_bank_hold_list(&other, hak_sc_of(9000), link_all({blocks[0]})),
                testing::KilledBySignal(SIGABRT), "invalid pointer freed");
    /* A slab in the middle of the list goes to another bank, and one at its end. */
    (void)hak_bank_hold_list(&bank, c, link_all(blocks));
    std::set<struct slab *> moved;
    for (char *block : {blocks[20], blocks.back()}) {
        struct slab *slab = hak_pool_slab_of(hak_map_get(block).ref, block);
        if (!moved.insert(slab).second) {
            continue;
        }
        let_go_each(&bank, c, {block});
        hak_bank_put(&bank, block, &policy); /* so that it is partial */
        ASSERT_EQ(bank.partial[c], slab);
        hak_bank_move_one(&bank, &other, c);
        EXPECT_EQ(hak_slab_held(slab), 0u);
        blocks.erase(std::find(blocks.begin(), blocks.end(), block));
    }
    let_go_each(&bank, c, blocks);
    uint32_t n_others = 0;
    for (char *block : blocks) {
        EXPECT_FALSE(hak_bank_has_mark(block));
        n_others += hak_pool_slab_of(hak_map_get(block).ref, block)->owner == other.owner;
    }
    EXPECT_GT(n_others, 0u);
    /* The same the other way: some are this bank's, and were not when they were held. */
    EXPECT_EQ(hak_bank_hold_list(&other, c, link_all(blocks)), blocks.back());
    EXPECT_EQ(hak_bank_verify(&other), 0);
    let_go_each(&bank, c, blocks);
    let_go_each(&other, c, blocks); /* so that none of its is held */
    EXPECT_EQ(hak_bank_put_list(&bank, link_all(blocks), &policy), blocks.size());
    uint32_t n_strays = 0;
    for (void *p = bank.strays; p; p = hak_link_next(p)) {
        n_strays++;
    }
    EXPECT_EQ(n_strays, n_others);
    EXPECT_EQ(hak_bank_put_list(&other, bank.strays, &policy), n_strays);
    bank.strays = nullptr;
    EXPECT_EQ(hak_bank_verify(&bank), 0);
    EXPECT_EQ(hak_bank_verify(&other), 0);
}

/* Two lists become one, as long as the first block has room to note all. */
TEST_F(Bank, JoinsHeldLists)
{
    for (uint32_t c : {hak_sc_of(1100), hak_sc_of(5000)}) {
        uint32_t most = hak_bank_noted_most(c);
        std::vector<char *> blocks;
        while (blocks.size() < most + 1) {
            std::vector<char *> some =
                take(&bank, c, most + 1 - static_cast<uint32_t>(blocks.size()));
            blocks.insert(blocks.end(), some.begin(), some.end());
        }
        std::vector<char *> first(blocks.begin(), blocks.begin() + 3),
            rest(blocks.begin() + 3, blocks.end() - 1);
        uint32_t n = static_cast<uint32_t>(rest.size());
        void *head = link_all(first), *next = link_all(rest);
        void *last = hak_bank_hold_list(&bank, c, head);
        EXPECT_EQ(hak_bank_hold_list(&bank, c, next), rest.back());
        EXPECT_EQ(hak_bank_verify_held(head, 3, c), 0);
        EXPECT_EQ(hak_bank_verify_held(next, n, c), 0);
        hak_bank_join_held(head, 3, last, next, n);
        EXPECT_EQ(hak_bank_verify_held(head, most, c), 0);
        hak_bank_let_go_list(&bank, c, head, most);
        for (char *block : blocks) {
            EXPECT_FALSE(hak_bank_has_mark(block));
            EXPECT_TRUE(hak_super_lookup(block).is_allocated);
        }
        /* One more than can be noted: they are followed. */
        head = link_all(blocks);
        EXPECT_EQ(hak_bank_hold_list(&bank, c, head), blocks.back());
        EXPECT_EQ(hak_bank_verify_held(head, most + 1, c), 0);
        const uint64_t *words = static_cast<const uint64_t *>(head),
                       *tail = words + hak_sc_table[c].size / sizeof *words - 1;
        EXPECT_TRUE(!HAK_SECURE || *tail == 0);
        hak_bank_let_go_list(&bank, c, head, most + 1);
        EXPECT_FALSE(hak_bank_has_mark(blocks.back()));
        EXPECT_TRUE(!HAK_SECURE || std::all_of(words + 2, tail, [](uint64_t word) {
            return word == 0;
        })) << "free blocks are zero behind their links";
        EXPECT_EQ(hak_bank_put_list(&bank, head, &policy), most + 1);
        EXPECT_EQ(hak_bank_verify(&bank), 0);
    }
}

/* Their addresses alone, until the slab is full. */
TEST_F(Bank, PicksTheBlocksOfOneSlab)
{
    void *blocks[8];
    EXPECT_EQ(hak_bank_pick(&bank, 36, 8, blocks, &policy), 0u);
    std::vector<char *> all = take(&bank, 36, 1);
    uint32_t capacity = hak_sc_table[36].capacity, n;
    while ((n = hak_bank_pick(&bank, 36, 8, blocks, &policy)) != 0) {
        for (uint32_t i = 0; i < n; i++) {
            memset(blocks[i], 1, hak_sc_table[36].size);
            all.push_back(static_cast<char *>(blocks[i]));
        }
        ASSERT_EQ(hak_bank_verify(&bank), 0);
    }
    EXPECT_EQ(std::set<char *>(all.begin(), all.end()).size(), capacity);
    EXPECT_EQ(hak_bank_n_partial(&bank, 36), 0u) << "it is full";
    hak_bank_put(&bank, all[3], &policy);
    EXPECT_EQ(hak_bank_pick(&bank, 36, 8, blocks, &policy), 1u);
    EXPECT_EQ(blocks[0], all[3]);
    for (char *block : all) {
        hak_bank_put(&bank, block, &policy);
    }
}

/* Where each slab has one free block, a take goes on to the next slab; fresh blocks are left. */
TEST_F(Bank, TakesFromSeveralSlabsThatHaveLittle)
{
    for (uint32_t c : {hak_sc_of(5000), hak_sc_of(512)}) {
        std::map<char *, std::vector<char *>> slabs; /* by the unit */
        while (slabs.size() < 12 || hak_bank_n_partial(&bank, c)) {
            for (char *block : take(&bank, c, UINT32_MAX)) {
                slabs[block - reinterpret_cast<uintptr_t>(block) % SC_SLAB_BYTES].push_back(block);
            }
        }
        std::set<char *> freed;
        for (auto &slab : slabs) {
            freed.insert(slab.second.back());
            hak_bank_put(&bank, slab.second.back(), &policy);
            slab.second.pop_back();
        }
        std::vector<char *> again = take(&bank, c, 100);
        EXPECT_EQ(again.size(), HAK_TINY_OR(2u, 8u));
        EXPECT_FALSE(bank.took_clean);
        for (char *block : again) {
            EXPECT_EQ(freed.erase(block), 1u);
        }
        again = take(&bank, c, 1);
        EXPECT_EQ(again.size(), 1u);
        EXPECT_EQ(freed.erase(again[0]), 1u);
        while (!freed.empty()) {
            for (char *block : take(&bank, c, 100)) {
                EXPECT_EQ(freed.erase(block), 1u) << "a fresh one";
            }
        }
        EXPECT_EQ(hak_bank_verify(&bank), 0);
        (void)hak_bank_drop(&bank, UINT32_MAX);
    }
}

TEST_F(Bank, KeepsNoEmptySlabOfLargeBlocks)
{
    for (uint32_t c : {hak_sc_of(KEEP_EMPTY_MAX + 1), hak_sc_of(32768)}) {
        std::vector<char *> blocks = take(&bank, c, UINT32_MAX);
        EXPECT_EQ(bank.n_slabs, 1u);
        for (char *block : blocks) {
            hak_bank_put(&bank, block, &policy);
        }
        EXPECT_EQ(bank.n_slabs, 0u);
        EXPECT_EQ(hak_bank_verify(&bank), 0);
    }
}

TEST_F(Bank, KeepsAtMostOneEmptySlabAClass)
{
    for (uint32_t c : {hak_sc_of(16), hak_sc_of(1024), hak_sc_of(4096)}) {
        std::vector<char *> blocks;
        while (blocks.size() < 5 * hak_sc_table[c].capacity) {
            for (char *block : take(&bank, c, UINT32_MAX)) {
                blocks.push_back(block);
            }
        }
        EXPECT_EQ(bank.n_slabs, 5u);
        for (char *block : blocks) {
            hak_bank_put(&bank, block, &policy);
            ASSERT_TRUE(bank.n_slabs >= 1 && bank.n_slabs <= 5);
        }
        EXPECT_EQ(bank.n_slabs, 1u);
        int64_t made = hak_stat_get(slabs_made);
        char *block = take(&bank, c, 1)[0];
        EXPECT_EQ(hak_stat_get(slabs_made), made) << "the one that was kept";
        hak_bank_put(&bank, block, &policy);
        hak_bank_release_empty(&bank);
        EXPECT_EQ(bank.n_slabs, 0u);
    }
}

TEST_F(Bank, ReleaseEmptyLeavesUsedSlabs)
{
    char *block = take(&bank, 3, 1)[0];
    hak_bank_put(&bank, take(&bank, 9, 1)[0], &policy);
    EXPECT_EQ(bank.n_slabs, 2u);
    hak_bank_release_empty(&bank);
    EXPECT_EQ(bank.n_slabs, 1u);
    EXPECT_EQ(hak_bank_verify(&bank), 0);
    EXPECT_EQ(hak_super_lookup(block).is_allocated, 1);
    hak_bank_put(&bank, block, &policy);
}

TEST_F(Bank, RefusedMemory)
{
    hak_ss_purge(0);
    FailingOs os;
    os.fail_always(hak_testing::OS_MMAP);
    void *head = &head;
    EXPECT_EQ(hak_bank_take(&bank, 0, 10, &head, &policy), 0u);
    EXPECT_EQ(head, nullptr);
    EXPECT_EQ(os.calls(hak_testing::OS_MMAP), 0u) << "not with the owner's lock held";
    EXPECT_EQ(hak_bank_make(0), nullptr);
    EXPECT_EQ(bank.n_slabs, 0u);
    EXPECT_EQ(hak_bank_verify(&bank), 0);
    os.reset();
    std::vector<char *> blocks = take(&bank, 0, 10);
    EXPECT_EQ(blocks.size(), 10u);
    for (char *block : blocks) {
        hak_bank_put(&bank, block, &policy);
    }
}

TEST_F(Bank, VerifySeesEachBrokenEquation)
{
    char *block = take(&bank, 7, 1)[0];
    struct slab *slab = bank.partial[7];
    ASSERT_EQ(hak_bank_verify(&bank), 0);
    bank.n_slabs++;
    EXPECT_EQ(hak_bank_verify(&bank), VERIFY_BANK_COUNT);
    bank.n_slabs--;
    slab->owner = 6;
    EXPECT_EQ(hak_bank_verify(&bank), VERIFY_BANK_LIST);
    slab->owner = 5;
    slab->prev = slab;
    EXPECT_EQ(hak_bank_verify(&bank), VERIFY_BANK_LIST);
    slab->prev = nullptr;
    slab->n_free--;
    EXPECT_EQ(hak_bank_verify(&bank), VERIFY_SLAB_COUNT);
    slab->n_free++;
    slab->size += 16;
    EXPECT_EQ(hak_bank_verify(&bank), VERIFY_SLAB_GEOMETRY);
    slab->size -= 16;
    bank.n_partial[slab->size_class]++;
    EXPECT_EQ(hak_bank_verify(&bank), VERIFY_BANK_LENGTH);
    bank.n_partial[slab->size_class]--;
    slab->newer = 1;
    EXPECT_EQ(hak_bank_verify(&bank), VERIFY_BANK_BY_AGE);
    slab->newer = 0;
    slab->list = SLAB_AWAY;
    EXPECT_EQ(hak_bank_verify(&bank), VERIFY_BANK_LIST);
    slab->list = SLAB_PARTIAL;
    struct map_entry entry = hak_map_get(block);
    hak_map_set(slab->base, 1, TAG_SLAB(5, 8), entry.ref);
    EXPECT_EQ(hak_bank_verify(&bank), VERIFY_BANK_TAG);
    hak_map_set(slab->base, 1, entry.tag, entry.ref);
    EXPECT_EQ(hak_bank_verify(&bank), 0);
    hak_bank_put(&bank, block, &policy);
    bank.empty[7] = nullptr;
    EXPECT_EQ(hak_bank_verify(&bank), VERIFY_BANK_EMPTY);
    bank.empty[7] = slab;
    EXPECT_EQ(hak_bank_verify(&bank), 0);
}

/* All slabs are in the bank's lists, whatever state they are in. */
std::map<const struct slab *, int> slabs_of(struct bank *bank)
{
    std::map<const struct slab *, int> seen;
    auto visit = [](const struct slab *slab, void *context) {
        (*static_cast<std::map<const struct slab *, int> *>(context))[slab]++;
    };
    struct bank_walk walk, *others = bank->walks;
    hak_bank_walk_begin(bank, &walk);
    while (hak_bank_walk_some(bank, &walk, 2, visit, &seen)) {
    }
    hak_bank_walk_end(bank, &walk);
    EXPECT_EQ(bank->walks, others);
    return seen;
}

/* What is the bank's all the time is visited once, whatever comes, goes and changes its state
   between the steps of several walks. */
TEST_F(Bank, WalksGoOnWhileSlabsComeAndGo)
{
    const uint32_t c = hak_sc_of(20000), n_walks = 3;
    Rng rng(7);
    for (int round = 0; round < 40; round++) {
        std::vector<char *> blocks;
        while (bank.n_slabs < 30) {
            blocks.push_back(take(&bank, c, 1)[0]);
        }
        std::map<const struct slab *, int> before = slabs_of(&bank), seen[n_walks], gone;
        struct bank_walk walks[n_walks];
        bool more[n_walks] = {};
        auto visit = [](const struct slab *slab, void *context) {
            (*static_cast<std::map<const struct slab *, int> *>(context))[slab]++;
        };
        for (uint32_t w = 0; w < n_walks; w++) {
            hak_bank_walk_begin(&bank, &walks[w]);
            more[w] = true;
        }
        while (more[0] || more[1] || more[2]) {
            uint32_t w = static_cast<uint32_t>(rng.below(n_walks));
            more[w] = more[w] &&
                      hak_bank_walk_some(&bank, &walks[w], static_cast<uint32_t>(rng.between(1, 3)),
                                         visit, &seen[w]);
            if (rng.one_in(2) && !blocks.empty()) {
                size_t i = rng.below(blocks.size());
                hak_bank_put(&bank, blocks[i], &policy);
                blocks.erase(blocks.begin() + static_cast<std::ptrdiff_t>(i));
            } else {
                blocks.push_back(take(&bank, c, 1)[0]);
            }
            std::map<const struct slab *, int> now = slabs_of(&bank);
            for (auto &slab : before) {
                gone[slab.first] += !now.count(slab.first);
            }
            ASSERT_EQ(hak_bank_verify(&bank), 0);
        }
        for (uint32_t w = n_walks; w-- > 0;) {
            hak_bank_walk_end(&bank, &walks[round % 2 ? w : n_walks - 1 - w]);
            for (auto &slab : before) {
                EXPECT_EQ(gone[slab.first] ? 1 : seen[w][slab.first], 1);
                EXPECT_LE(seen[w][slab.first], 1);
            }
        }
        EXPECT_EQ(bank.walks, nullptr);
        for (char *p : blocks) {
            hak_bank_put(&bank, p, &policy);
        }
    }
}

/* An owner with the same id has come: the walk is over, and touches nothing. */
TEST_F(Bank, AWalkOfAnOwnerThatHasEndedIsOver)
{
    char *p = take(&bank, 7, 1)[0];
    struct bank_walk walk, others;
    hak_bank_walk_begin(&bank, &walk);
    bank.walks = nullptr; /* as hak_bank_init leaves it */
    hak_bank_walk_begin(&bank, &others);
    int n = 0;
    auto visit = [](const struct slab *, void *context) { ++*static_cast<int *>(context); };
    EXPECT_EQ(hak_bank_walk_some(&bank, &walk, 9, visit, &n), 0);
    EXPECT_EQ(n, 0);
    hak_bank_walk_end(&bank, &walk);
    EXPECT_EQ(bank.walks, &others);
    hak_bank_walk_end(&bank, &others);
    EXPECT_EQ(bank.walks, nullptr);
    hak_bank_put(&bank, p, &policy);
}

TEST_F(Bank, EachSlabIsInOneList)
{
    const uint32_t c = hak_sc_of(20000); /* three a slab */
    std::vector<char *> blocks;
    while (bank.n_slabs < 5) {
        blocks.push_back(take(&bank, c, 1)[0]);
    }
    blocks.push_back(take(&bank, hak_sc_of(64), 1)[0]);
    EXPECT_EQ(slabs_of(&bank).size(), 6u);
    EXPECT_EQ(hak_bank_n_partial(&bank, c), 1u) << "the others are full";
    hak_bank_put(&bank, blocks[0], &policy);
    EXPECT_EQ(hak_bank_n_partial(&bank, c), 2u);
    hak_bank_send_away(&bank, bank.partial[c]);
    EXPECT_EQ(hak_bank_n_partial(&bank, c), 1u);
    EXPECT_EQ(hak_bank_verify(&bank), 0);
    std::map<const struct slab *, int> seen = slabs_of(&bank);
    EXPECT_EQ(seen.size(), 6u);
    for (auto &slab : seen) {
        EXPECT_EQ(slab.second, 1);
    }
    hak_bank_take_back(&bank, bank.away);
    EXPECT_EQ(hak_bank_verify(&bank), 0);
    for (size_t i = 1; i < blocks.size(); i++) {
        hak_bank_put(&bank, blocks[i], &policy);
    }
}

/* A slab that is away gets blocks back, and gives none. */
TEST_F(Bank, ASlabThatIsAwayStaysWhatItIs)
{
    const uint32_t c = hak_sc_of(20000);
    other.keeps_empty = 0;
    std::vector<char *> blocks = {take(&bank, c, 1)[0], take(&bank, c, 1)[0]};
    struct slab *slab = bank.partial[c];
    hak_bank_send_away(&bank, slab);
    EXPECT_EQ(hak_bank_n_partial(&bank, c), 0u);
    hak_bank_move_one(&bank, &other, c);
    EXPECT_EQ(hak_bank_move_some(&bank, &other, 9), 0);
    EXPECT_EQ(other.n_slabs, 0u);
    char *elsewhere = take(&bank, c, 1)[0];
    EXPECT_NE(hak_super_lookup(elsewhere).start, nullptr);
    EXPECT_EQ(bank.n_slabs, 2u) << "a fresh one";
    hak_bank_put(&bank, blocks[0], &policy);
    EXPECT_EQ(hak_super_lookup(blocks[0]).is_allocated, 0);
    EXPECT_EQ(hak_super_lookup(blocks[1]).is_allocated, 1);
    hak_bank_put(&bank, blocks[1], &policy);
    hak_bank_release_empty(&bank);
    EXPECT_EQ(bank.n_slabs, 2u) << "not returned while it is away, though it is empty";
    EXPECT_EQ(hak_bank_verify(&bank), 0);
    hak_bank_take_back(&bank, slab);
    EXPECT_EQ(bank.n_slabs, 1u);
    hak_bank_put(&bank, elsewhere, &policy);
}

/* The owner ends: all slabs go, and one that is away is left behind for who has it. */
TEST_F(Bank, DropLeavesBehindWhatIsAway)
{
    const uint32_t c = hak_sc_of(20000);
    std::vector<char *> blocks;
    while (bank.n_slabs < 6) {
        blocks.push_back(take(&bank, c, 1)[0]);
    }
    struct slab *slab = bank.partial[c];
    hak_bank_send_away(&bank, slab);
    int n_rounds = 1;
    while (hak_bank_drop(&bank, 2)) {
        n_rounds++;
    }
    EXPECT_EQ(n_rounds, 3);
    EXPECT_EQ(bank.n_slabs, 0u);
    EXPECT_EQ(hak_bank_verify(&bank), 0);
    EXPECT_TRUE(hak_bank_has_left(slab));
    EXPECT_EQ(hak_super_lookup(blocks.back()).kind, SS_FREE_UNIT);
    EXPECT_EQ(hak_ss_verify(), 0);
    EXPECT_EQ(hak_stat_get(heap_used_bytes), int64_t(SS_UNIT_BYTES)) << "nobody else gets it yet";
    hak_pool_slab_free(slab);
}

/* Slabs change their bank; blocks that arrive at the old one are gathered. */
TEST_F(Bank, SlabsMoveAndStraysAreGathered)
{
    bank.has_strays_sent = other.has_strays_sent = 1;
    other.keeps_empty = 0;
    const uint32_t c = hak_sc_of(1000);
    std::vector<char *> blocks;
    while (bank.n_slabs < 4) {
        for (char *p : take(&bank, c, 100)) {
            blocks.push_back(p);
        }
    }
    for (size_t i = 0; i < blocks.size(); i += 10) {
        hak_bank_put(&bank, blocks[i], &policy);
    }
    EXPECT_EQ(hak_bank_n_partial(&bank, c), 4u);
    hak_bank_move_one(&bank, &other, c);
    EXPECT_EQ(hak_bank_n_partial(&bank, c), 3u);
    EXPECT_EQ(other.n_slabs, 1u);
    EXPECT_EQ(hak_map_get(other.partial[c]->base).tag, TAG_SLAB(other.owner, c));
    EXPECT_EQ(hak_bank_verify(&bank), 0);
    EXPECT_EQ(hak_bank_verify(&other), 0);
    EXPECT_EQ(hak_bank_move_some(&bank, &other, 2), 1);
    EXPECT_EQ(other.n_slabs, 3u);
    EXPECT_EQ(hak_bank_move_some(&bank, &other, 2), 0);
    EXPECT_EQ(bank.n_slabs, 0u);
    EXPECT_EQ(other.n_slabs, 4u);
    EXPECT_EQ(hak_bank_verify(&other), 0);
    hak_bank_move_one(&bank, &other, c);
    EXPECT_EQ(other.n_slabs, 4u) << "none is left";
    /* The rest comes to the bank that had them. */
    void *head = nullptr;
    uint32_t n = 0;
    for (size_t i = 0; i < blocks.size(); i++) {
        if (i % 10) {
            hak_link_set(blocks[i], head);
            head = blocks[i];
            n++;
        }
    }
    EXPECT_EQ(hak_bank_put_list(&bank, head, &policy), n);
    EXPECT_EQ(hak_bank_verify(&bank), 0);
    uint32_t strays = 0;
    for (const void *p = bank.strays; p; p = hak_link_next(p)) {
        strays++;
    }
    EXPECT_EQ(strays, n);
    EXPECT_EQ(hak_bank_put_list(&other, bank.strays, &policy), n);
    bank.strays = nullptr;
    EXPECT_EQ(other.n_slabs, 0u) << "a bank that keeps no empty slab";
}

using BankDeathTest = Bank;

TEST_F(BankDeathTest, BadPointersAbort)
{
    const char *invalid = "^hakmem: invalid pointer freed \\(not the start of a block\\): 0x";
    char *block = take(&bank, hak_sc_of(48), 1)[0], *foreign = take(&other, hak_sc_of(48), 1)[0];
    int local;
    EXPECT_EXIT(hak_bank_put(&bank, block + 16, &policy), testing::KilledBySignal(SIGABRT),
                invalid);
    EXPECT_EXIT(hak_bank_put(&bank, foreign, &policy), testing::KilledBySignal(SIGABRT), invalid);
    EXPECT_EXIT(hak_bank_put(&bank, &local, &policy), testing::KilledBySignal(SIGABRT), invalid);
    EXPECT_EXIT(hak_bank_put(&bank, nullptr, &policy), testing::KilledBySignal(SIGABRT), invalid);
    EXPECT_EXIT(hak_bank_put(&bank, reinterpret_cast<void *>(UINTPTR_MAX - 15), &policy),
                testing::KilledBySignal(SIGABRT), invalid);
    EXPECT_EXIT(
        {
            hak_bank_put(&bank, block, &policy);
            hak_bank_put(&bank, block, &policy);
        },
        testing::KilledBySignal(SIGABRT), "^hakmem: block freed twice: 0x");
    /* A list with another bank's block in it. */
    hak_link_set(block, foreign);
    hak_link_set(foreign, nullptr);
    EXPECT_EXIT(hak_bank_put_list(&bank, block, &policy), testing::KilledBySignal(SIGABRT),
                invalid);
    hak_link_set(block, block);
    EXPECT_EXIT(hak_bank_put_list(&bank, block, &policy), testing::KilledBySignal(SIGABRT),
                "block freed twice");
    hak_bank_put(&bank, block, &policy);
    hak_bank_put(&other, foreign, &policy);
}

} // namespace
