/* Heaps: what one thread allocates from. Internal to //hakmem.

   struct heap is owned by one thread at a time (`hak_self` points to it), outlives it as an orphan, and is adopted whole by
   a later thread; it is never freed. Three parts:
   - the thread cache (bins, spares, outbox): touched by the owning thread alone, without a lock;
   - what lies behind the heap's lock (bank, returned chains): the owner's slow paths, and anybody who collects;
   - the inbox: one word that every thread may push to.

   Bins. A bin is a LIFO list of free blocks of one class, linked through their first words (link.h).
     blocks in the bin = limit - room     (room < 0 for a moment: the push that makes it so calls tc_overflow)
   A spare is one more list of the class, at most limit + 1 blocks. Blocks in bins, spares, outboxes, inboxes and returned
   chains count as allocated in their slabs.

   Slabs change hands. When a thread ends, its slabs with free blocks go to the shared heap (an orphan that nobody adopts), full
   ones stay with the orphan and follow when a block of theirs comes back; likewise those of a heap whose inbox only senders
   empty. A heap that would else take fresh memory first takes such a slab over, or one from a live heap that has several
   of the class. Both heaps' locks are held meanwhile (the shared heap's is taken last; of two live heaps' one is only tried),
   and the slab's tag changes. A free that read the old tag is a stray: whoever empties that inbox or bin finds, with the
   lock held, that the slab is not this heap's, and sends the block on. A block on its way counts as allocated, so that its
   slab can neither be given back nor change its class; bins may hold blocks of other heaps' slabs for the same reason.

   What may be held back (bytes, also tested in heap_test):
   - bins and spares: 2 x (HAKMEM_BIN_BYTES or one block) a class, within first small limits (TC_FIRST_BYTES) plus the
     process's budget HAKMEM_CACHE_BYTES;
   - an outbox: OUTBOX_SLOTS chains of at most OUTBOX_MAX_BLOCKS blocks and OUTBOX_MAX_BYTES (or one block) each;
   - an inbox: INBOX_MAX_BYTES plus a chain for each sender, then the sender collects; while somebody holds the lock, who is
     then collecting or refilling, INBOX_WAIT_BYTES, then the sender waits for the lock; an orphan's inbox: nothing, the
     sender collects at once;
   - returned chains: RETURNED_MAX_BYTES; empty slabs: one a class (bank.h).

   heap_verify checks all of it. */
#ifndef HAKMEM_HAKMEM_HEAP_H
#define HAKMEM_HAKMEM_HEAP_H

#include "base/link.h"
#include "base/lock.h"
#include "base/size_classes.h"
#include "superslab/bank.h"

HAK_EXTERN_C_BEGIN

#define TC_FIRST_BYTES HAK_TINY_OR(64u, 2048u)
#define TC_MAX_BLOCKS  HAK_TINY_OR(4u, 2048u)
#define TC_FULL_SIZE   128u /* bins of larger tiny blocks may hold half of HAKMEM_BIN_BYTES */
/* A window in which a bin may be found asleep, in the heap's slow paths. */
#define TC_SLEEP_WINDOW    HAK_TINY_OR(16u, 1024u)
#define OUTBOX_SLOTS       HAK_TINY_OR(2u, 128u)
#define OUTBOX_MAX_BLOCKS  HAK_TINY_OR(3u, 32u)
#define OUTBOX_MAX_BYTES   4096u
#define INBOX_MAX_BYTES    HAK_TINY_OR(4096, 262144)
#define INBOX_WAIT_BYTES   ((int64_t)4 * INBOX_MAX_BYTES)
#define RETURNED_MAX_BYTES HAK_TINY_OR(1024u, 262144u)
#define TINY_GRANULES      ((SC_TINY_MAX >> SC_GRANULE_SHIFT) + 1)

struct bin {
    void *head; /* link_end if the bin is empty (link.h) */
    int32_t room;
    uint32_t magic, limit; /* of the class, for the check that a freed pointer is the start of a block */
    uint32_t size;
    uint64_t unused;
};
HAK_STATIC_ASSERT(sizeof(struct bin) == 1u << TAG_BIN_SHIFT, "the tag's lower bits are the bin's offset");

/* The bin's first block; NULL if there is none. */
static inline void *bin_first(const struct bin *bin)
{
    return bin->head == (const void *)link_end ? NULL : bin->head;
}

static inline void bin_set(struct bin *bin, void *head)
{
    bin->head = head ? head : (void *)(uintptr_t)link_end;
}

static inline void bin_push(struct bin *bin, void *block)
{
    link_write(block, bin->head);
    bin->head = block;
    bin->room--;
}

struct spare {
    void *head;
    uint32_t count;
};

/* A chain of blocks of one owner and class that is being gathered: `count` blocks, at most `limit`; see remote.c. A limit of 0:
   the owner has no thread, and its blocks are kept in the own bins. */
struct outbox_slot {
    void *head;
    uint32_t tag;
    uint16_t count, limit;
};

enum heap_state { HEAP_LIVE, HEAP_ORPHAN };

struct heap {
    struct bin bins[SC_N_CLASSES]; /* first, so that an offset into it is an offset into the heap */
    uint32_t owner_tag;            /* id << TAG_OWNER_SHIFT: a tag XOR this is the bin's offset if the slab is ours */
    uint32_t id;
    uint16_t tiny_bin[TINY_GRANULES]; /* offset of the bin for (size + 15) / 16 */

    struct spare spares[SC_N_CLASSES];
    uint16_t limits[SC_N_CLASSES];
    uint8_t n_overflows[SC_N_CLASSES]; /* since the last refill */
    struct outbox_slot outbox[OUTBOX_SLOTS];
    uint32_t last_slot; /* of the outbox, in use */
    uint32_t slow_count;
    uint32_t window_left; /* slow paths until a window of TC_SLEEP_WINDOW ends */
    uint64_t awake;       /* a bit for each class that took one in it */
    int refill_is_clean;  /* the block that tc_refill gave last reads as zero behind its first word */
    uint64_t budget;      /* bytes of the process's budget that the limits use */

    struct lock lock;
    struct bank bank;
    void *returned[SC_N_CLASSES]; /* chains that came back, linked through the head blocks' second words */
    uint64_t returned_bytes;
    uint32_t n_uses; /* changes when anybody uses what is behind the lock; `seen_uses`: at the last heap_rest_all */
    uint32_t seen_uses, has_rested;
    struct heap *next_orphan; /* HEAPS lock */
    struct heap **self_at;    /* its thread's hak_self; HEAPS lock */

    /* Pushed to by every thread: on a line of its own. */
    HAK_CACHE_ALIGNED void *inbox;
    int64_t inbox_bytes;
    uint32_t state; /* enum heap_state; written under `lock` */
};

HAK_STATIC_ASSERT(offsetof(struct heap, bins) == 0, "bins come first");

/* The thread's heap; heap_none until its first allocation and after its end. Never NULL. `hak_self` is what the fast paths see: the
   same, or heap_none while calls go to a layer (entry.h), which any thread may add at any time. */
extern HAK_TLS struct heap *heap_own HAK_HIDDEN;
extern HAK_TLS struct heap *hak_self HAK_HIDDEN;
/* All bins empty, an id that no slab has: every fast path falls through. Read-only. */
extern struct heap heap_none HAK_HIDDEN;

/* The heap of that id, or NULL (also for pools of mid_mt). */
struct heap *heap_by_id(uint32_t id);
/* This thread's heap, made or adopted at need; NULL if there can be none (no memory, too many, or the thread is ending). */
struct heap *heap_acquire(void);
/* Releases the heap's lock, and sends on what bank_put_list found to be another heap's by now. Returns 1 if there was any. */
int heap_unlock(struct heap *heap);
/* bank_take from the heap's own slabs, or from one that an ended thread left. Heap lock held. */
uint32_t heap_take(struct heap *heap, uint32_t size_class, uint32_t want, void **head);
/* For a heap whose thread has ended or sleeps: what came back goes to its slabs, and slabs with free blocks go to the shared
   heap. Heap lock held. */
void heap_tidy(struct heap *heap);
/* Allocates one block without a thread cache, for threads that can have no heap. NULL when the system refuses. */
void *heap_alloc_uncached(uint32_t size_class);
/* Gives empty slabs and returned chains of every heap back, and this thread's cache. */
void heap_trim_all(void);
/* For the background thread. Collects for heaps that no thread has used since the last call, gives their empty slabs back, and
   in all heaps the pages of slabs that nobody has taken from or freed to since then. */
void heap_rest_all(void);
/* Heaps that have a thread now. */
uint32_t heap_n_live(void);
/* Does `change` with the HEAPS lock held, which returns whether the table of entry points is another than the plain one: then every
   thread's heap is hidden from the fast paths, else it is shown. So it is at the start, until entry.c has made up its mind. */
void heap_switch(int (*change)(void *context), void *context);
/* The calling thread gets no heap. */
void heap_refuse(void);
/* 0 if all heaps' equations hold. Other threads may run; their bins are not looked at. */
int heap_verify_all(void);

/* Thread cache, slow half (tcache.c). */
void tc_init(struct heap *heap);
void *tc_refill(struct heap *heap, uint32_t size_class);
void tc_overflow(struct heap *heap, uint32_t size_class);
/* Gives all bins, spares and the outbox back; limits return to their first values. */
void tc_flush(struct heap *heap);
int tc_verify(const struct heap *heap);
/* 1 if the block is among the first `most` of one of its class's two lists. By the heap's thread. */
int tc_holds(const struct heap *heap, uint32_t size_class, const void *p, uint32_t most);

/* Remote free (remote.c). */
void remote_free(struct heap *heap, void *block, uint32_t tag);
/* Sends one block without an outbox. */
void remote_free_now(void *block, uint32_t tag);
/* Sends a list of blocks, linked through their first words, each to whom its tag names now. No lock held. */
void remote_send_list(void *head);
void remote_send_all(struct heap *heap);
/* Takes the inbox: chains become `returned`, beyond RETURNED_MAX_BYTES go to their slabs. Heap lock held. */
void remote_receive(struct heap *heap);
/* Gives inbox and returned chains to their slabs. Heap lock held. */
void remote_collect(struct heap *heap);
/* Takes a returned chain of the class as a list linked through first words: its head, or NULL; *count its blocks. Heap lock held. */
void *remote_take_returned(struct heap *heap, uint32_t size_class, uint32_t *count);
/* 0 if the calling thread's outbox is sound. */
int remote_verify(const struct heap *heap);

HAK_EXTERN_C_END

#endif
