/* Tests of remote free: blocks that other threads free find their way back, in chains, within the
   bounds of theap.h. */
#include "heap/theap.h"

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstring>
#include <functional>
#include <gtest/gtest.h>
#include <mutex>
#include <set>
#include <thread>
#include <unistd.h>
#include <vector>

#include "base/options.h"
#include "base/stats.h"
#include "hakmem/hakmem.h"
#include "heap/common.h"
#include "heap/depot.h"
#include "heap/gate.h"
#include "heap/parked.h"
#include "superslab/superslab.h"
#include "testing/rng.h"

namespace
{

using hak_testing::Rng;

/* A thread that lives as long as this object, and obeys its orders. Between them it sleeps. */
class Worker
{
  public:
    Worker() : thread_([this] { loop(); })
    {
    }
    ~Worker()
    {
        order(nullptr);
        thread_.join();
    }
    void run(std::function<void()> f)
    {
        order(std::move(f));
        std::unique_lock<std::mutex> lock(mutex_);
        changed_.wait(lock, [this] { return !has_order_; });
    }

  private:
    void order(std::function<void()> f)
    {
        std::unique_lock<std::mutex> lock(mutex_);
        order_ = std::move(f);
        has_order_ = true;
        changed_.notify_all();
    }
    void loop()
    {
        for (;;) {
            std::unique_lock<std::mutex> lock(mutex_);
            changed_.wait(lock, [this] { return has_order_; });
            if (!order_) {
                return;
            }
            lock.unlock();
            order_();
            lock.lock();
            has_order_ = false;
            changed_.notify_all();
        }
    }
    std::mutex mutex_;
    std::condition_variable changed_;
    std::function<void()> order_;
    bool has_order_ = false;
    std::thread thread_;
};

class Remote : public testing::Test
{
  protected:
    void SetUp() override
    {
        saved_ = hak_options;
        hak_common_from = COMMON_THREADS; /* fewer have slabs of their own */
        hak_parked_most = 0;
        if (HAK_SECURE) {
            GTEST_SKIP() << "freed blocks wait in a quarantine first, and come back at random";
        }
        hak_options.purge_delay_ms = 3600000;
        hak_free(hak_malloc(1));
        (void)hak_purge();
        ASSERT_EQ(hak_stat_get(heap_used_bytes), 0);
    }
    void TearDown() override
    {
        hak_options = saved_;
        (void)hak_purge();
        EXPECT_EQ(hak_verify(), 0);
        EXPECT_EQ(hak_stat_get(heap_used_bytes), 0) << "a test left blocks behind";
    }

  private:
    struct options saved_;
};

std::vector<void *> allocate(size_t n, size_t size)
{
    std::vector<void *> blocks;
    for (size_t i = 0; i < n; i++) {
        void *p = hak_malloc(size);
        memset(p, 1, size);
        blocks.push_back(p);
    }
    return blocks;
}

/* What is loose in the depot is held from now on. */
void hold_loose()
{
    hak_lock_acquire(&hak_self->owner.lock);
    hak_depot_hold(hak_self);
    hak_lock_release(&hak_self->owner.lock);
}

void free_all(const std::vector<void *> &blocks)
{
    for (void *p : blocks) {
        hak_free(p);
    }
}

size_t chain_limit(uint32_t c)
{
    return std::max<size_t>(
        std::min<size_t>(OUTBOX_MAX_BYTES / hak_sc_table[c].size, OUTBOX_MAX_BLOCKS), 1);
}

size_t outbox_bytes(const struct theap *heap)
{
    size_t bytes = 0;
    for (const struct outbox_slot &slot : heap->outbox) {
        bytes += slot.count * hak_sc_table[TAG_CLASS(slot.tag)].size;
    }
    return bytes;
}

TEST_F(Remote, BlocksOfEveryClassComeBackToTheirOwner)
{
    Worker other;
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        size_t n = 2 * hak_sc_table[c].capacity;
        std::vector<void *> blocks = allocate(n, hak_sc_table[c].size);
        int64_t used = (hak_stat_get(heap_used_bytes) / static_cast<int64_t>(SS_UNIT_BYTES)),
                made = hak_stat_get(slabs_made);
        bool fits_inbox = n * hak_sc_table[c].size <=
                          INBOX_MAX_BYTES; /* else senders put them into their slabs */
        other.run([&] {
            free_all(blocks);
            hak_remote_send_all(hak_self);
        });
        std::vector<void *> again = allocate(n, hak_sc_table[c].size);
        /* What was in the bin before comes too. */
        EXPECT_LE((hak_stat_get(heap_used_bytes) / static_cast<int64_t>(SS_UNIT_BYTES)), used + 1)
            << hak_sc_table[c].size;
        EXPECT_LE(hak_stat_get(slabs_made), made + (fits_inbox ? 1 : 3)) << hak_sc_table[c].size;
        std::set<void *> first(blocks.begin(), blocks.end());
        size_t n_same = 0;
        for (void *p : again) {
            n_same += first.count(p);
        }
        EXPECT_GE(n_same * 10, fits_inbox ? n * 9 : n * 4) << hak_sc_table[c].size;
        free_all(again);
        EXPECT_EQ(hak_verify(), 0);
    }
}

TEST_F(Remote, ChainsAreSentWhole)
{
    Worker other;
    for (size_t size : {size_t(16), size_t(256), size_t(4096)}) {
        size_t limit = chain_limit(hak_sc_of(size)), n = 20 * limit;
        std::vector<void *> blocks = allocate(n, size);
        int64_t sent = hak_stat_get(chains_sent);
        other.run([&] { free_all(blocks); });
        EXPECT_GE(hak_stat_get(chains_sent) - sent, 18) << size;
        /* And a few for blocks that are not this heap's: what other tests' threads have left is
           kept for reuse. */
        EXPECT_LE(hak_stat_get(chains_sent) - sent, 30) << "one push for each full chain";
        other.run([] { hak_remote_send_all(hak_self); });
    }
}

TEST_F(Remote, AnOutboxIsBounded)
{
    /* Owners and classes in plenty: every slot is used. */
    std::vector<Worker> owners(6);
    std::vector<void *> blocks;
    for (Worker &owner : owners) {
        owner.run([&] {
            for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
                for (int i = 0; i < 80; i++) {
                    blocks.push_back(hak_malloc(hak_sc_table[c].size));
                }
            }
        });
    }
    Rng rng(8);
    for (size_t i = blocks.size(); i > 1; i--) {
        std::swap(blocks[i - 1], blocks[rng.below(i)]);
    }
    size_t most = 0, bound = 0;
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        bound = std::max(bound, chain_limit(c) * hak_sc_table[c].size);
    }
    for (void *p : blocks) {
        hak_free(p);
        for (const struct outbox_slot &slot : hak_self->outbox) {
            ASSERT_LE(slot.count, OUTBOX_MAX_BLOCKS);
            ASSERT_TRUE(slot.count <= 1 ||
                        slot.count * hak_sc_table[TAG_CLASS(slot.tag)].size <= OUTBOX_MAX_BYTES);
        }
        most = std::max(most, outbox_bytes(hak_self));
    }
    EXPECT_GT(most, 0u);
    EXPECT_LE(most, OUTBOX_SLOTS * bound);
    hak_remote_send_all(hak_self);
    EXPECT_EQ(outbox_bytes(hak_self), 0u);
}

TEST_F(Remote, ASlowPathNowAndThenSendsWhatWaits)
{
    Worker owner;
    void *p = nullptr;
    owner.run([&] { p = hak_malloc(100); });
    hak_free(p);
    EXPECT_EQ(outbox_bytes(hak_self), 112u);
    std::vector<void *> blocks = allocate(HAK_TINY_OR(600u, 20000u), 1000); /* refills */
    EXPECT_EQ(outbox_bytes(hak_self), 0u);
    free_all(blocks);
}

TEST_F(Remote, TheInboxOfASleepingOwnerIsBounded)
{
    Worker owner;
    const size_t size = 1024, n = 32 * HAK_MIB / size;
    std::vector<void *> blocks;
    struct theap *heap = nullptr;
    owner.run([&] {
        blocks = allocate(n, size);
        heap = hak_self;
    });
    EXPECT_GE(hak_stat_get(heap_used_bytes), static_cast<int64_t>(n * size));
    int64_t most = 0;
    const int64_t bound =
        static_cast<int64_t>(INBOX_MAX_BYTES + chain_limit(hak_sc_of(size)) * size);
    for (void *p : blocks) {
        hak_free(p);
        most = std::max(most, atomic_load_relaxed(&heap->owner.inbox_bytes));
    }
    hak_remote_send_all(hak_self);
    EXPECT_LE(most, bound);
    EXPECT_GT(hak_stat_get(chains_drained_by_sender), 0);
    /* The owner sleeps, its memory is back: what waits in the inbox, one empty slab, the slab at
       hand. */
    EXPECT_LE(hak_stat_get(heap_used_bytes), bound + 4 * static_cast<int64_t>(SS_UNIT_BYTES));
    EXPECT_EQ(hak_verify(), 0);
    (void)hak_purge(); /* drains the sleeper's inbox too; what is left is in its bins */
    EXPECT_LE(hak_stat_get(heap_used_bytes), 4 * static_cast<int64_t>(SS_UNIT_BYTES));
}

TEST_F(Remote, TheInboxIsBoundedWithManySenders)
{
    Worker owner;
    const size_t size = 2048, n = 8 * HAK_MIB / size;
    const int n_senders = 4;
    std::vector<std::vector<void *>> blocks(n_senders);
    struct theap *heap = nullptr;
    owner.run([&] {
        for (std::vector<void *> &part : blocks) {
            part = allocate(n, size);
        }
        heap = hak_self;
    });
    std::vector<std::thread> senders;
    for (std::vector<void *> &part : blocks) {
        senders.emplace_back([&part] { free_all(part); });
    }
    for (std::thread &sender : senders) {
        sender.join();
    }
    size_t waiting = 0;
    for (void *chain = heap->owner.inbox; chain;
         chain = reinterpret_cast<void *>(static_cast<uintptr_t *>(chain)[1] & 0xFFFFFFFFFFFFu)) {
        for (void *block = chain; block; block = hak_link_next(block)) {
            waiting += size;
        }
    }
    EXPECT_LE(waiting, INBOX_MAX_BYTES + 2 * n_senders * chain_limit(hak_sc_of(size)) * size);
    EXPECT_LE(hak_stat_get(heap_used_bytes),
              static_cast<int64_t>(waiting) +
                  (2 * n_senders + 8) * static_cast<int64_t>(SS_UNIT_BYTES));
}

TEST_F(Remote, ReturnedChainsAreBounded)
{
    Worker other;
    std::vector<void *> blocks = allocate(8 * HAK_MIB / 128, 128);
    const struct theap *owner = hak_self;
    size_t n_freed = 0;
    other.run([&] {
        /* The last ones go one by one, until one waits in an inbox that was not drained by this
           sender. */
        size_t i = 0;
        for (; i < blocks.size() - 100; i++) {
            hak_free(blocks[i]);
        }
        for (; i < blocks.size() && !atomic_load_relaxed(&owner->owner.inbox); i++) {
            hak_free(blocks[i]);
            hak_remote_send_all(hak_self);
        }
        n_freed = i;
        hak_remote_send_all(hak_self);
    });
    void *p = hak_malloc(5000); /* a refill receives what is left of it */
    EXPECT_GT(hak_self->depot_bytes[0], 0u);
    EXPECT_LE(hak_self->depot_bytes[0], DEPOT_LEAST_BYTES);
    size_t counted = 0;
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        for (void *chain = hak_self->depot[c]; chain;
             chain =
                 reinterpret_cast<void *>(static_cast<uintptr_t *>(chain)[1] & 0xFFFFFFFFFFFFu)) {
            for (void *block = chain; block; block = hak_link_next(block)) {
                counted += hak_sc_table[c].size;
            }
        }
    }
    EXPECT_EQ(counted, hak_self->depot_bytes[0]);
    hak_free(p);
    for (; n_freed < blocks.size(); n_freed++) {
        hak_free(blocks[n_freed]);
    }
}

/* While a chain of its class is gathered, where the start of a block is looked for by another way.
 */
TEST_F(Remote, InteriorPointersOfAnothersBlocksAbort)
{
    Worker owner;
    std::vector<void *> blocks;
    owner.run([&] { blocks = allocate(8, 100); });
    hak_free(blocks[0]);
    hak_free(blocks[1]);
    for (size_t offset : {8u, 16u, 100u}) {
        EXPECT_EXIT(hak_free(static_cast<char *>(blocks[2]) + offset),
                    testing::KilledBySignal(SIGABRT), "not the start of a block");
    }
    EXPECT_EXIT(hak_free(blocks[1]), testing::KilledBySignal(SIGABRT), "block freed twice");
    for (size_t i = 2; i < blocks.size(); i++) {
        hak_free(blocks[i]);
    }
    hak_remote_send_all(hak_self);
    EXPECT_EQ(hak_verify(), 0);
    EXPECT_EQ(outbox_bytes(hak_self), 0u);
}

/* One allocates, another frees, for long: memory stays bounded. */
TEST_F(Remote, AProducerAndAConsumer)
{
    const size_t n_slots = 4096, n = HAK_TINY_OR(100000u, 300000u);
    std::vector<void *> ring(n_slots);
    std::atomic<size_t> written(0), read(0);
    std::atomic<int64_t> most(0);
    std::atomic<size_t> n_wrong(0);
    std::thread consumer([&] {
        for (size_t i = 0; i < n; i++) {
            while (written.load(std::memory_order_acquire) == i) {
                sched_yield();
            }
            size_t *p = static_cast<size_t *>(ring[i % n_slots]);
            n_wrong += *p != i;
            hak_free(p);
            read.store(i + 1, std::memory_order_release);
        }
    });
    std::thread producer([&] {
        Rng rng(5);
        for (size_t i = 0; i < n; i++) {
            while (i - read.load(std::memory_order_acquire) == n_slots) {
                sched_yield();
            }
            size_t *p = static_cast<size_t *>(hak_malloc(rng.between(8, 1024)));
            *p = i;
            ring[i % n_slots] = p;
            written.store(i + 1, std::memory_order_release);
            if (i % 1024 == 0) {
                most = std::max<int64_t>(most, hak_stat_get(heap_used_bytes));
            }
        }
    });
    producer.join();
    consumer.join();
    EXPECT_EQ(n_wrong, 0u);
    /* 4 MiB in the ring; about as much again for inbox, outbox, bins and slabs partly used, a unit
       a class at least. */
    EXPECT_LE(most, (64 + 64 + 4 * 28) * static_cast<int64_t>(SS_UNIT_BYTES));
    EXPECT_EQ(hak_stat_get(heap_used_bytes), 0) << "both have ended";
}

/* A thread that allocates of a mid class keeps what it frees of another's, and hands it out again;
   one that only frees sends it home. */
TEST_F(Remote, WhoAllocatesOfAMidClassKeepsWhatItFrees)
{
    for (size_t size : {size_t(1500), size_t(5000), size_t(20000)}) {
        uint32_t c = hak_sc_of(size);
        Worker owner, user;
        std::vector<void *> theirs;
        size_t n = HAK_TINY_OR(10u, 200u);
        owner.run([&] { theirs = allocate(n, size); });
        user.run([&] {
            std::vector<void *> own = allocate(n, size);
            int64_t sent = hak_stat_get(chains_sent), made = hak_stat_get(slabs_made);
            size_t n_kept = hak_tc_count(hak_self, c) + hak_self->spares[c].count;
            free_all({theirs.begin(), theirs.begin() + 2});
            EXPECT_EQ(hak_stat_get(chains_sent), sent) << size;
            EXPECT_EQ(outbox_bytes(hak_self), 0u);
            EXPECT_EQ(hak_tc_count(hak_self, c) + hak_self->spares[c].count, n_kept + 2);
            void *p = hak_malloc(size);
            EXPECT_EQ(p, theirs[1]) << "what came last comes first";
            theirs[1] = p;
            hak_free(p);
            EXPECT_EQ(hak_stat_get(slabs_made), made);
            EXPECT_EQ(hak_verify(), 0);
            free_all(own);
        });
        Worker consumer;
        consumer.run([&] {
            hak_free(hak_malloc(1));
            free_all({theirs.begin() + 2, theirs.end()});
            hak_remote_send_all(hak_self);
            /* What lies in the shared heap's slabs by now is an orphan's. */
            EXPECT_LE(hak_tc_count(hak_self, c), hak_self->limits[c]) << size;
            EXPECT_LE(hak_self->depot_bytes[1],
                      uint64_t{hak_self->owner.bank.n_slabs} * SC_SLAB_BYTES / 4);
        });
    }
}

/* The slot of tag 0, which is what is no block's, has kept blocks of an ended thread's. */
TEST_F(Remote, WhatIsNoBlockIsNotKept)
{
    alignas(SC_SLAB_BYTES) static char no_block[256];
    memset(no_block, 1, sizeof no_block);
    uint32_t n_kept = 0;
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        void *p = nullptr;
        std::thread([&] { p = allocate(1, hak_sc_table[c].size)[0]; }).join();
        n_kept += hak_remote_slot(hak_self, hak_map_find(p).tag) == &hak_self->outbox[0];
        hak_free(p);
        hak_remote_send_all(hak_self);
        if (n_kept) {
            EXPECT_EXIT(hak_free(no_block + 64), testing::KilledBySignal(SIGABRT),
                        "invalid pointer freed");
            break;
        }
    }
    EXPECT_GT(n_kept, 0u);
}

/* Its depot holds other heaps' blocks within a share of its own slabs; what is left goes
 * home. */
TEST_F(Remote, ADepotHoldsOthersBlocks)
{
    const size_t size = 5000, n = HAK_TINY_OR(60u, 2000u);
    const uint32_t c = hak_sc_of(size);
    Worker owner;
    std::vector<void *> theirs, own = allocate(n, size);
    struct theap *heap = nullptr;
    owner.run([&] {
        theirs = allocate(n, size);
        heap = hak_self;
    });
    free_all({own.begin(), own.begin() + 2});
    own.erase(own.begin(), own.begin() + 2);
    own.push_back(hak_malloc(size)); /* it allocates of the class */
    size_t n_theirs = 0;
    for (void *p : theirs) {
        hak_free(p);
        ASSERT_LE(hak_self->depot_bytes[1],
                  std::max<uint64_t>(uint64_t{hak_self->owner.bank.n_slabs} * SC_SLAB_BYTES / 4,
                                     DEPOT_LEAST_BYTES));
    }
    EXPECT_EQ(hak_verify(), 0);
    hold_loose();
    for (void *head = hak_self->depot[c]; head; head = hak_link_next(head)) {
        n_theirs += TAG_OWNER(hak_map_find(head).tag) == heap->owner.id;
        EXPECT_TRUE(hak_bank_has_mark(head));
    }
    EXPECT_GT(n_theirs, 0u);
    (void)hak_purge();
    EXPECT_EQ(hak_self->depot_bytes[1], 0u);
    EXPECT_EQ(hak_verify(), 0);
    free_all(own);
}

/* Found at once, whatever was freed in between, as long as the block was not written to; what is
   loose in the depot when it is held. */
TEST_F(Remote, AnothersMidBlockThatIsFreedTwiceAborts)
{
    for (size_t size : {size_t(1500), size_t(5000), size_t(20000)}) {
        Worker owner;
        std::vector<void *> theirs;
        owner.run([&] { theirs = allocate(40, size); });
        std::vector<void *> own = allocate(HAK_TINY_OR(10u, 300u), size);
        free_all({theirs.begin(), theirs.begin() + 3});
        EXPECT_EXIT(hak_free(theirs[2]), testing::KilledBySignal(SIGABRT), "block freed twice");
        EXPECT_EXIT(hak_free(theirs[1]), testing::KilledBySignal(SIGABRT), "block freed twice");
        free_all({theirs.begin() + 3, theirs.end()});
        hold_loose();
        for (void *head = hak_self->depot[hak_sc_of(size)]; head; head = hak_link_next(head)) {
            EXPECT_EXIT(hak_free(head), testing::KilledBySignal(SIGABRT), "block freed twice");
        }
        EXPECT_EXIT(hak_free(static_cast<char *>(theirs[0]) + 512),
                    testing::KilledBySignal(SIGABRT), "not the start of a block");
        free_all(own);
        (void)hak_purge();
    }
}

/* Whose thread has allocated or freed since the last time keeps its depot and its slabs; of one
   that sleeps the slabs go to the shared heap. */
TEST_F(Remote, ASenderLeavesAnAwakeOwnerItsSlabs)
{
    std::thread([] { hak_free(hak_malloc(1)); }).join(); /* so that there is a shared heap */
    Worker sender;
    std::vector<void *> blocks = allocate(300, 64);
    struct theap *heap = hak_self;
    auto relieve = [&] {
        ASSERT_TRUE(hak_gate_enter());
        EXPECT_TRUE(hak_theap_relieve(heap, 1));
        hak_gate_leave();
    };
    sender.run([&] {
        free_all({blocks.begin(), blocks.begin() + 100});
        hak_remote_send_all(hak_self);
    });
    uint32_t before = heap->owner.bank.n_slabs;
    EXPECT_GT(before, 0u);
    heap->seen_slow = heap->n_slow - 1; /* since then its thread has come by */
    sender.run(relieve);
    EXPECT_EQ(heap->owner.bank.n_slabs, before);
    EXPECT_EQ(hak_verify(), 0);
    sender.run(relieve);
    EXPECT_LT(heap->owner.bank.n_slabs, before) << "it sleeps";
    EXPECT_EQ(hak_verify(), 0);
    free_all({blocks.begin() + 100, blocks.end()});
    EXPECT_EQ(hak_verify(), 0);
    (void)hak_purge();
}

/* Batches of mid blocks change threads, which end and begin, while slabs change heaps; each block
   is as its owner left it. */
TEST_F(Remote, BatchesOfMidBlocksChangeThreads)
{
    struct Batch {
        std::vector<std::pair<unsigned char *, size_t>> blocks;
        unsigned char pattern;
    };
    std::atomic<Batch *> cell(nullptr);
    std::atomic<size_t> n_wrong(0);
    auto end_batch = [&](Batch *batch, Rng &rng) {
        if (!batch) {
            return;
        }
        for (size_t left = batch->blocks.size(); left; left--) {
            std::swap(batch->blocks[rng.below(left)], batch->blocks[left - 1]);
            auto [p, size] = batch->blocks[left - 1];
            unsigned char pattern = batch->pattern;
            n_wrong += p[0] != pattern || p[9] != pattern || p[17] != pattern || p[25] != pattern ||
                       p[size / 2] != pattern || p[size - 1] != pattern;
            hak_free(p);
        }
        delete batch;
    };
    auto work = [&](uint64_t seed) {
        Rng rng(seed);
        Batch *table[3] = {};
        for (int round = 0; round < HAK_TINY_OR(20, 60); round++) {
            Batch *batch = new Batch{{}, static_cast<unsigned char>(rng.next())};
            for (size_t n = rng.between(10, HAK_TINY_OR(60, 400)); n; n--) {
                size_t size = rng.one_in(4) ? rng.between(32, 1024) : rng.between(1025, 20000);
                auto *p = static_cast<unsigned char *>(hak_malloc(size));
                p[0] = p[9] = p[17] = p[25] = p[size / 2] = p[size - 1] = batch->pattern;
                batch->blocks.emplace_back(p, size);
            }
            std::swap(batch, table[round % 3]);
            end_batch(rng.one_in(2) ? cell.exchange(batch) : batch, rng);
            if (rng.one_in(20)) {
                (void)hak_purge();
            }
        }
        for (Batch *batch : table) {
            end_batch(batch, rng);
        }
    };
    int error = 0;
    for (uint64_t round = 0; round < 4; round++) {
        std::vector<std::thread> threads;
        for (uint64_t t = 0; t < 3; t++) {
            threads.emplace_back(work, round * 10 + t);
        }
        for (int i = 0; i < 5 && !error; i++) {
            error = hak_verify();
        }
        for (std::thread &thread : threads) {
            thread.join();
        }
        error = error ? error : hak_verify();
    }
    Rng rng(1);
    end_batch(cell, rng);
    EXPECT_EQ(error, 0);
    EXPECT_EQ(n_wrong, 0u);
}

/* Everybody frees everybody's blocks. */
TEST_F(Remote, ManyThreadsFreeForEachOther)
{
    const size_t n_threads = 6, n_cells = 512;
    std::vector<std::atomic<uint64_t *>> cells(n_cells);
    for (auto &cell : cells) {
        cell = nullptr;
    }
    std::atomic<size_t> n_wrong(0);
    auto check_and_free = [&](uint64_t *p) {
        if (p) {
            size_t words = static_cast<size_t>(p[0]);
            for (size_t i = 1; i < words; i++) {
                n_wrong += p[i] != p[0] + i;
            }
            hak_free(p);
        }
    };
    std::vector<std::thread> threads;
    for (size_t t = 0; t < n_threads; t++) {
        threads.emplace_back([&, t] {
            Rng rng(t);
            for (int i = 0; i < 20000; i++) {
                size_t words = rng.one_in(20) ? rng.between(2, 4000) : rng.between(2, 60);
                uint64_t *p = static_cast<uint64_t *>(hak_malloc(words * 8));
                p[0] = words;
                for (size_t k = 1; k < words; k++) {
                    p[k] = words + k;
                }
                check_and_free(cells[rng.below(n_cells)].exchange(p));
            }
        });
    }
    int error = 0;
    for (int i = 0; i < 20 && !error; i++) {
        error = hak_verify(); /* while they run */
    }
    for (std::thread &thread : threads) {
        thread.join();
    }
    EXPECT_EQ(error, 0);
    for (auto &cell : cells) {
        check_and_free(cell);
    }
    EXPECT_EQ(n_wrong, 0u);
}

TEST_F(Remote, AnInboxIsEmptiedWhenTheOwnerEnds)
{
    {
        Worker owner;
        std::vector<void *> blocks;
        owner.run([&] { blocks = allocate(200, 16); });
        free_all(blocks);
        hak_remote_send_all(hak_self);
    }
    EXPECT_EQ(hak_stat_get(heap_used_bytes), 0);
}

/* A thread ends while others free into its heap: no chain is lost. */
TEST_F(Remote, NoChainIsLostWhenTheOwnerEnds)
{
    for (int round = 0; round < 60; round++) {
        std::vector<void *> blocks;
        std::atomic<int> phase(0);
        std::thread owner([&] {
            blocks = allocate(300, 100);
            phase = 1;
            while (phase != 2) {
                sched_yield();
            }
        });
        std::thread sender([&] {
            hak_free(hak_malloc(1));
            while (phase != 1) {
                sched_yield();
            }
            phase = 2;
            free_all(blocks);
        });
        owner.join();
        sender.join();
        ASSERT_EQ(hak_stat_get(heap_used_bytes), 0) << round;
    }
}

} // namespace
