/* Tests of the table of owners: ids that come back, a full table, all kinds, stale numbers, forks,
   and a stress of threads that make and end owners while others come by what the map said a moment
   ago. */
#include "owner/owner.h"

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <functional>
#include <gtest/gtest.h>
#include <set>
#include <thread>
#include <unistd.h>
#include <vector>

#include "base/options.h"
#include "base/os.h"
#include "base/stats.h"
#include "base/verify.h"
#include "testing/failing_os.h"
#include "testing/rng.h"

namespace
{

using hak_testing::FailingOs;
using hak_testing::Rng;

const struct owner_policy policy = {1, UINT32_MAX, UINT32_MAX, 4096, OWNER_FRESH_BYTES};

std::set<uint32_t> registered()
{
    std::set<uint32_t> ids;
    for (uint32_t id = 0; hak_owner_next(&id);) {
        ids.insert(id);
    }
    return ids;
}

class Owner : public testing::Test
{
  protected:
    void SetUp() override
    {
        hak_options.purge_delay_ms = 3600000;
        before = registered();
    }
    void TearDown() override
    {
        EXPECT_EQ(registered(), before) << "every test takes back what it registers";
        EXPECT_EQ(hak_owner_verify_all(), 0);
        EXPECT_EQ(hak_stat_get(heap_used_bytes), 0);
        hak_ss_purge(0);
        EXPECT_EQ(hak_ss_verify(), 0);
    }
    std::set<uint32_t> before;
};

/* For ever, since its lock stays in the list of all locks. */
struct owner *new_owner()
{
    return static_cast<struct owner *>(hak_os_meta_alloc(sizeof(struct owner)));
}

int start(struct owner *owner)
{
    return hak_owner_register(owner, OWNER_HEAP, LOCK_RANK_HEAP);
}

uint32_t take_from_bank(struct owner *owner, uint32_t size_class, uint32_t want, void **head)
{
    return hak_bank_take(&owner->bank, size_class, want, head, &policy);
}

char *take(struct owner *owner, uint32_t size_class)
{
    int is_clean;
    return static_cast<char *>(hak_owner_take_one(owner, size_class, take_from_bank, &is_clean));
}

TEST_F(Owner, TheVerifierFindsWhatIsWrong)
{
    static struct owner one;
    ASSERT_EQ(start(&one), 0);
    ASSERT_EQ(hak_owner_verify(&one), 0);
    one.bank.owner ^= 1;
    EXPECT_EQ(hak_owner_verify(&one), VERIFY_OWNER_ID);
    EXPECT_EQ(hak_owner_verify_all(), VERIFY_OWNER_ID);
    one.bank.owner ^= 1;
    one.bank.has_strays_sent = !one.bank.has_strays_sent;
    EXPECT_EQ(hak_owner_verify(&one), VERIFY_OWNER_KIND);
    one.bank.has_strays_sent = !one.bank.has_strays_sent;
    uint64_t *word = &hak_owner_table.ids[OWNER_ID_WORDS - 1 - one.id / 64];
    uint64_t bit = static_cast<uint64_t>(1) << (one.id % 64);
    ASSERT_TRUE(*word & bit);
    *word &= ~bit;
    EXPECT_EQ(hak_owner_verify_all(), VERIFY_OWNER_SET);
    *word |= bit;
    for (uint64_t *summary : {hak_owner_table.words_used, hak_owner_table.words_full}) {
        summary[0] ^= 1;
        EXPECT_EQ(hak_owner_verify_all(), VERIFY_OWNER_SUMMARY);
        summary[0] ^= 1;
    }
    EXPECT_EQ(hak_owner_verify_all(), 0);
    *word &= ~bit;
    *word |= bit;
    EXPECT_EQ(hak_owner_verify_all(), 0);
    hak_owner_unregister(&one);
}

void mend_table(struct lock *lock, void *n)
{
    if (lock->rank == LOCK_RANK_OWNERS) {
        lock->word = 2; /* another thread's */
        *static_cast<int *>(n) += hak_lock_mend(lock) && !lock->word;
    }
}

/* In a forked child that lacks the thread which was changing it. */
TEST_F(Owner, TheTableIsMended)
{
    std::vector<struct owner *> owners(70, nullptr);
    owners.resize(owners.size() < OWNER_MAX / 2 ? owners.size() : OWNER_MAX / 2);
    for (struct owner *&owner : owners) {
        ASSERT_EQ(hak_owner_make_pool(&owner), 0);
    }
    uint32_t id = owners.back()->id;
    uint64_t bit = (uint64_t)1 << (id % 64);
    uint64_t *word = &hak_owner_table.ids[OWNER_ID_WORDS - 1 - id / 64];
    for (uint64_t &summary :
         {std::ref(hak_owner_table.words_used[0]), std::ref(hak_owner_table.words_full[0])}) {
        *word &= ~bit; /* as of an owner that is half withdrawn, or half published */
        summary ^= ~(uint64_t)0;
        EXPECT_NE(hak_owner_verify_all(), 0);
        int n_mended = 0;
        hak_lock_for_each(mend_table, &n_mended);
        EXPECT_EQ(n_mended, 1);
        EXPECT_EQ(hak_owner_verify_all(), 0);
        EXPECT_TRUE(*word & bit);
    }
    struct owner *next = nullptr;
    ASSERT_EQ(hak_owner_make_pool(&next), 0);
    EXPECT_EQ(hak_owner_by_id(next->id), next);
    EXPECT_EQ(std::count(owners.begin(), owners.end(), next), 0);
    hak_owner_unmake_pool(next);
    for (struct owner *owner : owners) {
        hak_owner_unmake_pool(owner);
    }
}

TEST_F(Owner, IsFoundByItsIdUntilItEnds)
{
    static struct owner one, two;
    ASSERT_EQ(start(&one), 0);
    ASSERT_EQ(start(&two), 0);
    EXPECT_NE(one.id, 0u);
    EXPECT_NE(one.id, two.id);
    EXPECT_EQ(one.bank.owner, one.id);
    EXPECT_EQ(hak_owner_by_id(one.id), &one);
    EXPECT_EQ(hak_owner_by_id(two.id), &two);
    char *p = take(&one, 5);
    EXPECT_EQ(hak_owner_by_id(hak_super_lookup(p).owner), &one);
    EXPECT_EQ(TAG_OWNER(hak_map_find(p).tag), one.id);
    EXPECT_EQ(hak_owner_by_id(TAG_OWNER(hak_map_find(&one).tag)), nullptr)
        << "what is not ours has no owner";
    EXPECT_EQ(hak_owner_by_id(TAG_SPECIAL_OWNER), nullptr);
    EXPECT_EQ(hak_owner_by_id(OWNER_MAX + 1), nullptr);
    uint32_t id = one.id;
    hak_owner_unregister(&one);
    EXPECT_EQ(hak_owner_by_id(id), nullptr);
    EXPECT_EQ(hak_owner_hold(id), nullptr);
    hak_owner_unregister(&two);
}

TEST_F(Owner, IdsComeBackLowestFirst)
{
    static struct owner owners[5];
    for (struct owner &owner : owners) {
        ASSERT_EQ(start(&owner), 0);
    }
    uint32_t ids[5];
    std::transform(std::begin(owners), std::end(owners), ids,
                   [](const struct owner &owner) { return owner.id; });
    for (int i : {3, 1, 2}) {
        hak_owner_unregister(&owners[i]);
    }
    for (int i : {2, 3, 1}) {
        ASSERT_EQ(start(&owners[i]), 0);
    }
    EXPECT_EQ(owners[2].id, ids[1]);
    EXPECT_EQ(owners[3].id, ids[2]);
    EXPECT_EQ(owners[1].id, ids[3]);
    for (struct owner &owner : owners) {
        hak_owner_unregister(&owner);
    }
}

/* Set aside, an id has no owner and no owner gets it. */
TEST_F(Owner, AReservedIdIsKept)
{
    static struct owner kept, other;
    uint32_t id = hak_owner_reserve();
    ASSERT_NE(id, 0u);
    ASSERT_EQ(start(&other), 0);
    EXPECT_NE(other.id, id);
    EXPECT_EQ(hak_owner_by_id(id), nullptr);
    EXPECT_EQ(hak_owner_verify_all(), 0);
    hak_owner_register_as(&kept, id, OWNER_HEAP, LOCK_RANK_HEAP);
    EXPECT_EQ(hak_owner_by_id(id), &kept);
    hak_owner_unregister(&kept);
    hak_owner_unregister(&other);
}

TEST_F(Owner, AFullTable)
{
    std::vector<struct owner *> owners;
    for (;;) {
        owners.push_back(new_owner());
        if (int error = start(owners.back())) {
            EXPECT_EQ(error, EAGAIN);
            break;
        }
    }
    EXPECT_EQ(registered().size(), owners.size() - 1 + before.size());
    EXPECT_GE(owners.size(), size_t(OWNER_MAX) - 8) << "the process's own have some";
    EXPECT_LE(owners.size(), size_t(OWNER_MAX) + 1);
    EXPECT_EQ(hak_owner_reserve(), 0u);
    struct owner *spare = nullptr;
    EXPECT_EQ(hak_owner_make_pool(&spare), EAGAIN);
    EXPECT_EQ(spare, nullptr);
    EXPECT_EQ(hak_owner_verify_all(), 0);
    /* The highest id works like any other. */
    struct owner *last = owners[owners.size() - 2];
    char *p = take(last, 3);
    EXPECT_EQ(last->id, OWNER_MAX);
    EXPECT_EQ(hak_super_lookup(p).owner, OWNER_MAX);
    struct owner *middle = owners[owners.size() / 2];
    uint32_t id = middle->id;
    hak_owner_unregister(middle);
    ASSERT_EQ(start(owners.back()), 0);
    EXPECT_EQ(owners.back()->id, id);
    EXPECT_EQ(start(middle), EAGAIN);
    for (const auto &owner : owners) {
        if (owner != middle) {
            hak_owner_unregister(owner);
        }
    }
    EXPECT_EQ(hak_owner_make_pool(&spare), 0);
    hak_owner_unmake_pool(spare);
}

TEST_F(Owner, EndsWithAllItsSlabs)
{
    static struct owner ends, stays;
    ASSERT_EQ(start(&ends), 0);
    ASSERT_EQ(start(&stays), 0);
    char *kept = take(&stays, 0);
    std::vector<char *> blocks;
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        for (uint32_t i = 0; i < 2 * hak_sc_table[c].capacity && i < 300;
             i++) { /* full slabs and partial ones */
            blocks.push_back(take(&ends, c));
        }
    }
    EXPECT_GT(ends.bank.n_slabs, 64u) << "more than are given back at a time, in the tiny variant";
    int64_t used = hak_stat_get(heap_used_bytes), n = ends.bank.n_slabs;
    uint32_t id = ends.id;
    hak_owner_unregister(&ends);
    EXPECT_EQ(used - hak_stat_get(heap_used_bytes), n * int64_t(SS_UNIT_BYTES));
    for (char *block : blocks) {
        ASSERT_NE(TAG_OWNER(hak_map_find(block).tag), id)
            << "no tag carries the id of an owner that has ended";
    }
    EXPECT_EQ(hak_super_lookup(kept).is_allocated, 1);
    EXPECT_EQ(hak_owner_check(&stays), 0);
    hak_owner_unregister(&stays);
}

TEST_F(Owner, WalksSeeAllKindsInOrder)
{
    /* Thread heaps stay for ever; this one for the other tests too. */
    static struct owner thread, heap;
    struct owner *pool;
    ASSERT_EQ(hak_owner_register(&thread, OWNER_THREAD, LOCK_RANK_HEAP), 0);
    ASSERT_EQ(start(&heap), 0);
    ASSERT_EQ(hak_owner_make_pool(&pool), 0);
    struct Seen {
        std::vector<struct owner *> owners;
        const struct owner *stop_at;
        bool all_locked = true;
    } seen{{}, nullptr};
    auto visit = [](struct owner *owner, void *context) -> int {
        Seen *s = static_cast<Seen *>(context);
        s->owners.push_back(owner);
        s->all_locked = s->all_locked && owner->lock.word != 0;
        return owner == s->stop_at ? 77 : 0;
    };
    EXPECT_EQ(hak_owner_for_each(visit, &seen), 0);
    EXPECT_TRUE(seen.all_locked);
    EXPECT_EQ(heap.lock.word, 0u);
    auto at = [&seen](const struct owner *owner) {
        return std::find(seen.owners.begin(), seen.owners.end(), owner) - seen.owners.begin();
    };
    EXPECT_LT(at(&thread), at(&heap));
    EXPECT_LT(at(&heap), at(pool));
    EXPECT_EQ(size_t(at(pool)), seen.owners.size() - 1);
    EXPECT_TRUE(thread.bank.has_strays_sent);
    EXPECT_FALSE(heap.bank.has_strays_sent || pool->bank.has_strays_sent)
        << "only thread heaps send blocks on";
    EXPECT_TRUE(!thread.bank.keeps_empty && heap.bank.keeps_empty && pool->bank.keeps_empty);
    size_t n = size_t(at(&heap)) + 1;
    seen = {{}, &heap};
    EXPECT_EQ(hak_owner_for_each(visit, &seen), 77);
    EXPECT_EQ(seen.owners.size(), n);
    hak_owner_unregister(&heap);
    hak_owner_unmake_pool(pool);
    before = registered();
}

TEST_F(Owner, TrimGivesEmptySlabsBack)
{
    struct owner *pool;
    ASSERT_EQ(hak_owner_make_pool(&pool), 0);
    char *p = take(pool, 2), *q = take(pool, 9);
    hak_lock_acquire(&pool->lock);
    hak_bank_put(&pool->bank, p, &policy);
    hak_owner_release(pool);
    EXPECT_EQ(pool->bank.n_slabs, 2u);
    hak_owner_trim(pool);
    EXPECT_EQ(pool->bank.n_slabs, 1u);
    EXPECT_EQ(hak_super_lookup(q).is_allocated, 1);
    hak_owner_unmake_pool(pool);
}

/* The memory of pools that were unmade is used again. */
TEST_F(Owner, PoolsTakeNoMemoryForEver)
{
    struct owner *pool;
    ASSERT_EQ(hak_owner_make_pool(&pool), 0);
    hak_owner_unmake_pool(pool);
    size_t meta = hak_os_meta_bytes();
    for (int i = 0; i < 5000; i++) {
        ASSERT_EQ(hak_owner_make_pool(&pool), 0);
        hak_owner_unmake_pool(pool);
    }
    EXPECT_EQ(hak_os_meta_bytes(), meta);
}

TEST_F(Owner, NoMemoryForAPool)
{
    std::vector<struct owner *> pools;
    int error = 0;
    {
        FailingOs os;
        os.fail_always(hak_testing::OS_MMAP);
        struct owner *pool;
        while ((error = hak_owner_make_pool(&pool)) == 0) {
            pools.push_back(pool);
        }
        EXPECT_EQ(pool, nullptr);
    }
    EXPECT_TRUE(error == ENOMEM ||
                error == EAGAIN); /* the tiny variant has fewer ids than memory */
    for (struct owner *pool : pools) {
        hak_owner_unmake_pool(pool);
    }
}

TEST_F(Owner, VerifySeesEachBrokenEquation)
{
    static struct owner owner, other;
    ASSERT_EQ(start(&owner), 0);
    ASSERT_EQ(start(&other), 0);
    uint32_t id = owner.id;
    EXPECT_EQ(hak_owner_verify_all(), 0);
    auto broken = [](auto *field, auto wrong) {
        auto right = *field;
        *field = wrong;
        bool is_seen = hak_owner_verify_all() != 0;
        *field = right;
        return is_seen && hak_owner_verify_all() == 0;
    };
    EXPECT_TRUE(broken(&owner.bank.owner, other.id));
    EXPECT_TRUE(broken(&owner.kind, 0u));
    EXPECT_TRUE(broken(&owner.kind, 4u));
    EXPECT_TRUE(broken(&owner.bank.has_strays_sent, uint8_t(1)));
    EXPECT_TRUE(broken(&owner.bank.n_slabs, 1u)) << "the bank's own";
    uint64_t *word = &hak_owner_table.ids[OWNER_ID_WORDS - 1 - id / 64];
    EXPECT_TRUE(broken(word, *word & ~(uint64_t(1) << (id % 64))))
        << "an id in the table that is not set aside";
    owner.bank.owner = 0;
    EXPECT_NE(hak_owner_verify(&owner), 0);
    owner.bank.owner = id;
    hak_owner_unregister(&owner);
    EXPECT_NE(hak_owner_verify(&owner), 0) << "it is nobody any more";
    hak_owner_unregister(&other);
}

/* --- stale numbers --- */

/* Who waits for the lock of an owner while that owner ends gets nothing, also when the id has a new
   owner by then. */
TEST_F(Owner, AStaleNumberLeadsToNobody)
{
    static struct owner old, next;
    for (int round = 0; round < 300; round++) {
        ASSERT_EQ(start(&old), 0);
        uint32_t id = old.id;
        std::atomic<int> phase{0};
        struct owner *got = nullptr;
        bool is_exact = true;
        std::thread late([&] {
            phase = 1;
            got = hak_owner_hold(id);
            if (got) {
                is_exact = got->id == id && hak_owner_by_id(id) == got && got->bank.owner == id;
                hak_lock_release(&got->lock);
            }
        });
        while (phase == 0) {
            std::this_thread::yield();
        }
        hak_owner_unregister(&old);
        int error = start(&next);
        late.join();
        ASSERT_EQ(error, 0);
        ASSERT_EQ(next.id, id) << "the id has come back";
        EXPECT_TRUE(is_exact);
        hak_owner_unregister(&next);
    }
}

/* The same, in the one order that matters: the late one has the old owner's address, and waits. */
TEST_F(Owner, AnOwnerThatEndedIsNotHeldForItsSuccessor)
{
    static struct owner old, next;
    ASSERT_EQ(start(&old), 0);
    uint32_t id = old.id;
    hak_owner_unregister(&old);
    ASSERT_EQ(start(&next), 0);
    ASSERT_EQ(next.id, id);
    /* As if the late one had read the table before. */
    hak_owner_table.at[id] = &old;
    EXPECT_EQ(hak_owner_hold(id), nullptr);
    EXPECT_EQ(old.lock.word, 0u);
    hak_owner_table.at[id] = &next;
    struct owner *held = hak_owner_hold(id);
    EXPECT_EQ(held, &next);
    hak_lock_release(&held->lock);
    hak_owner_unregister(&next);
}

/* --- forks --- */

/* In the child of a fork that a signal handler made while other threads were inside: a thread that
   came by a stale number has locked an owner which is in no table, and is gone. */
TEST_F(Owner, AChildIsNotStuckOnTheLockOfAnOwnerThatHadEnded)
{
    static struct owner ended, lives;
    ASSERT_EQ(start(&ended), 0);
    hak_owner_unregister(&ended);
    ASSERT_EQ(start(&lives), 0);
    ended.lock.word = 1 << 20; /* by that thread */
    EXPECT_EQ(hak_owner_lose(&ended.lock, nullptr), 1);
    alarm(60); /* or it would wait for ever */
    ASSERT_EQ(start(&ended), 0);
    EXPECT_NE(take(&ended, 1), nullptr);
    EXPECT_NE(take(&lives, 1), nullptr);
    alarm(0);
    EXPECT_EQ(hak_owner_verify_all(), 0);
    hak_owner_unregister(&ended);
    hak_owner_unregister(&lives);
}

bool lose_each_kind()
{
    static struct owner heap, thread, other;
    struct owner *pool, *next;
    if (start(&heap) || start(&other) || hak_owner_make_pool(&pool) ||
        hak_owner_register(&thread, OWNER_THREAD, LOCK_RANK_HEAP)) {
        return false;
    }
    char *block = static_cast<char *>(take(&heap, 1));
    if (!block || !take(&thread, 1) || !take(pool, 1)) {
        return false;
    }
    for (struct owner *owner : {&heap, &thread, pool}) {
        owner->lock.word = 1 << 20;
        if (hak_owner_lose(&owner->lock, owner) || !hak_owner_lose(&owner->lock, &other) ||
            !hak_owner_is_lost(owner) || hak_owner_hold(owner->id)) {
            return false;
        }
    }
    alarm(60);
    block[0] = 1;
    if (hak_owner_verify_all() || hak_owner_check(pool)) {
        return false;
    }
    hak_owner_trim(pool);
    hak_owner_unmake_pool(pool);
    return hak_owner_make_pool(&next) == 0 && next != pool && take(&other, 1) &&
           hak_owner_hold(other.id) == &other;
}

/* The same of owners of each kind that are in the table. Ends the process: what is lost stays lost.
 */
TEST_F(Owner, ALostOwnerIsPassedBy)
{
    EXPECT_EXIT(_exit(lose_each_kind() ? 0 : 1), testing::ExitedWithCode(0), "");
    static LOCK_DEFINE(elsewhere, LOCK_RANK_POOL);
    EXPECT_EQ(hak_owner_lose(&elsewhere, nullptr), 0);
}

/* Without a fork that thread still lives, and will release the lock: it is waited for. */
TEST_F(Owner, ALockThatIsHeldIsNotMadeAnew)
{
    static struct owner owner;
    ASSERT_EQ(start(&owner), 0);
    hak_owner_unregister(&owner);
    std::atomic<bool> is_held{false}, is_released{false};
    std::thread late([&] {
        hak_lock_acquire(&owner.lock);
        is_held = true;
        usleep(20000);
        is_released = true;
        hak_lock_release(&owner.lock);
    });
    while (!is_held) {
        std::this_thread::yield();
    }
    ASSERT_EQ(start(&owner), 0);
    EXPECT_TRUE(is_released);
    late.join();
    hak_owner_unregister(&owner);
}

/* --- stress --- */

/* Each id is one owner's at a time. */
TEST_F(Owner, ConcurrentRegistrationGivesEachIdOnce)
{
    static std::atomic<int> taken[OWNER_MAX + 1];
    std::atomic<int> n_bad{0};
    std::vector<std::thread> threads;
    for (uint64_t t = 0; t < 4; t++) {
        threads.emplace_back([&, t] {
            Rng rng(t);
            std::vector<struct owner *> idle, live;
            for (int i = 0; i < 30;
                 i++) { /* 120 together: in the tiny variant the table is full at times */
                idle.push_back(new_owner());
            }
            auto end_one = [&] {
                size_t i = rng.below(live.size());
                std::swap(live[i], live.back());
                n_bad += taken[live.back()->id]-- != 1;
                hak_owner_unregister(live.back());
                idle.push_back(live.back());
                live.pop_back();
            };
            for (int step = 0; step < 60000; step++) {
                bool growing = step % 400 < 200;
                if (!idle.empty() && (live.empty() || rng.below(10) < (growing ? 7u : 3u))) {
                    if (start(idle.back())) {
                        continue;
                    }
                    n_bad += taken[idle.back()->id]++ != 0;
                    live.push_back(idle.back());
                    idle.pop_back();
                } else {
                    end_one();
                }
                if (step % 1000 == 0 && hak_owner_verify_all()) {
                    n_bad++;
                }
            }
            while (!live.empty()) {
                end_one();
            }
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    EXPECT_EQ(n_bad, 0);
}

/* Owners end and begin, with slabs; others read tags of any unit, hold the owner that a tag names,
   and look at the tag again: whoever then touches the slab must be alone. Ids and units are few, so
   that a unit often has another owner of the same id at once. */
TEST_F(Owner, WhoeverHoldsATagsOwnerIsAloneWithTheSlab)
{
    static std::atomic<int> busy[SS_UNITS];
    static struct owner first; /* its slab keeps the region */
    ASSERT_EQ(start(&first), 0);
    char *region =
        reinterpret_cast<char *>(reinterpret_cast<uintptr_t>(take(&first, 0)) & ~(SS_BYTES - 1));
    std::atomic<int> n_bad{0}, n_held{0}, n_writers{2};
    auto alone = [&](const char *unit) {
        std::atomic<int> &at = busy[static_cast<size_t>(unit - region) / SS_UNIT_BYTES];
        n_bad += at.exchange(1) != 0;
        for (int i = 0; i < 30; i++) {
            hak_atomic_pause();
        }
        at = 0;
    };
    std::vector<std::thread> threads;
    for (uint64_t t = 0; t < 2; t++) {
        threads.emplace_back([&, t] {
            Rng rng(t);
            static struct owner owners[2][2];
            for (int round = 0; round < 6000 || (n_held <= 10 && round < 1000000); round++) {
                struct owner *owner = &owners[t][round % 2]; /* not the one that has just ended */
                if (start(owner)) {
                    n_bad++;
                    continue;
                }
                for (uint64_t i = rng.between(1, 4); i > 0; i--) {
                    void *block;
                    struct slab *slab = hak_bank_make(SC_N_TINY);
                    hak_lock_acquire(&owner->lock);
                    hak_bank_add(&owner->bank, slab);
                    (void)hak_bank_take(&owner->bank, SC_N_TINY, 1, &block, &policy);
                    char *unit = reinterpret_cast<char *>(reinterpret_cast<uintptr_t>(block) &
                                                          ~(SS_UNIT_BYTES - 1));
                    if (unit - region < static_cast<ptrdiff_t>(SS_BYTES) && unit >= region) {
                        alone(unit);
                    }
                    hak_owner_release(owner);
                }
                hak_owner_unregister(owner);
            }
            n_writers--;
        });
    }
    for (uint64_t t = 0; t < 2; t++) {
        threads.emplace_back([&, t] {
            Rng rng(10 + t);
            while (n_writers > 0) {
                char *unit = region + rng.below(5) * SS_UNIT_BYTES;
                struct map_entry entry = hak_map_get(unit);
                struct owner *owner =
                    TAG_IS_SLAB(entry.tag) ? hak_owner_hold(TAG_OWNER(entry.tag)) : nullptr;
                if (!owner) {
                    continue;
                }
                if (hak_map_get(unit).tag == entry.tag) {
                    alone(unit);
                    n_held++;
                }
                n_bad += hak_owner_verify(owner) != 0;
                hak_lock_release(&owner->lock);
            }
        });
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    EXPECT_EQ(n_bad, 0);
    EXPECT_GT(n_held, 0);
    hak_owner_unregister(&first);
}

/* --- misuse --- */

using OwnerDeathTest = Owner;

TEST_F(OwnerDeathTest, EndsOnce)
{
    static struct owner owner;
    struct owner *pool;
    ASSERT_EQ(start(&owner), 0);
    hak_owner_unregister(&owner);
    EXPECT_EXIT(hak_owner_unregister(&owner), testing::KilledBySignal(SIGABRT),
                "^hakmem: heap destroyed twice: 0x");
    ASSERT_EQ(hak_owner_make_pool(&pool), 0);
    hak_owner_unmake_pool(pool);
    EXPECT_EXIT(hak_owner_unmake_pool(pool), testing::KilledBySignal(SIGABRT),
                "^hakmem: heap destroyed twice: 0x");
}

} // namespace
