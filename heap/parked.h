/* Parked heaps: what an ended thread had at hand waits for the next thread.

   A heap whose thread ends is an orphan. Emptying its bins block by block, handing its slabs to the
   shared heap, and taking them over again one by one for the thread that starts next is most of
   what a short thread costs. So the heaps of the threads that ended last keep their bins, spares,
   limits and slabs: they are parked, and the thread that starts next gets the one that was parked
   last.

   A parked heap is an orphan (owner.state), except that it is in no list of orphans, and keeps its
   slabs when what comes back to its inbox is collected. No chain is lost: whoever takes it out
   clears is_parked and then looks into the inbox, a sender pushes and then reads is_parked. Who
   takes it out of `hak_parked` has it alone, cache included: a thread that starts, or who ends it,
   that is does what else its thread had done.

   What may be held back: PARKED_MOST heaps with PARKED_BYTES in lists each, and PARKED_INBOX_BYTES
   in the depot and in the inbox each: what others free of its blocks waits there for the next
   thread, as lists, and who sends more collects all of it. No outbox, no spans, no empty slabs;
   nothing of the process's budget. What a heap has used of that (at most PARKED_BUDGET: one with
   more begins with the first limits again) it uses again when it is taken, or is emptied first if
   there is no more. Slabs with free blocks serve others, as those of the shared heap do
   (hak_theap_take). What keeps even that from being kept for nothing:
   - before a process grows, for a slab or a large block, the one that was parked first is ended,
     unless as many bytes of the pool are resident;
   - one that no thread has taken within a tick of the background thread is ended, or within a
     window of some heap's slow paths (TC_SLEEP_WINDOW);
   - when one thread is left, one of them stays;
   - trims end all.
   The secure variant parks none: blocks of an ended thread leave its quarantine. A metered heap
   keeps its metered lists too, which count as its bins do: how many blocks may pass until the next
   sample goes on with its next thread. One lock of rank HEAPS; no other is taken while it is held.
 */
#ifndef HAKMEM_HEAP_PARKED_H
#define HAKMEM_HEAP_PARKED_H

#include "base/internal.h"

#include "heap/theap.h"

HAK_EXTERN_C_BEGIN

#define PARKED_MOST   HAK_TINY_OR(2u, 4u)
#define PARKED_BYTES  HAK_TINY_OR(4096u, 131072u)
#define PARKED_BUDGET HAK_TINY_OR(16384u, 1048576u)

/* In the order in which they were parked; the first NULL ends them. Read without the lock, it is a
   hint. */
extern struct theap *hak_parked[PARKED_MOST] HAK_HIDDEN;
static inline int hak_parked_is_any(void)
{
    return HAK_UNLIKELY(atomic_load_relaxed(&hak_parked[0]) != NULL);
}

/* So many at most: PARKED_MOST, unless a test says otherwise. */
extern uint32_t hak_parked_most HAK_HIDDEN;

/* 1 if the heap of a thread that ends may be parked. By that thread. */
int hak_parked_may(void);
/* Parks an orphan that is the caller's alone, with is_parked set; 0 if there are enough by now. */
HAK_MUST_CHECK int hak_parked_put(struct theap *heap);
/* The one that was parked last, which is the caller's; NULL if there is none. Inside the gate, no
   lock held. */
struct theap *hak_parked_take_one(void);
static inline struct theap *hak_parked_take(void)
{
    return hak_parked_is_any() ? hak_parked_take_one() : NULL;
}

/* Inside the gate, no lock held: */
/* All but the last `most` are ended. */
void hak_parked_end(uint32_t most);
/* Those that were parked before the last call are ended. */
void hak_parked_rest(void);
/* The process is about to grow by so many bytes. */
void hak_parked_relieve_by(size_t bytes);
static inline void hak_parked_relieve(size_t bytes)
{
    if (hak_parked_is_any()) {
        hak_parked_relieve_by(bytes);
    }
}
/* Before a fork: what lies in their inboxes goes to their slabs. Inside the gate, no lock held. */
void hak_parked_collect(void);
/* In a forked child: those whose owners are lost are none any more. */
void hak_parked_fork_child(void);
/* 0 if the caches of all of them are sound. */
int hak_parked_verify(void);

HAK_EXTERN_C_END

#endif
