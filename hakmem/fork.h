/* Fork, errors found inside, and what is put off while the gate is closed (gate.h; docs/fork.md). Internal to //hakmem.

   What is put off waits in lock-free lists, which the thread that opens the gate empties, or the one that put something in just
   after. Who must find nothing waiting (a walk, a purge, the end of a first-class heap) empties them too. */
#ifndef HAKMEM_HAKMEM_FORK_H
#define HAKMEM_HAKMEM_FORK_H

#include "base/internal.h"

#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

struct heap;
struct owner;

/* Registers the handlers of fork. Once, no lock held, outside of the gate: the C library's own locks are taken. */
void fork_start(void);

/* Each is called when gate_enter has refused. */
/* A block, its start, that free would take a lock for. Its first word is overwritten. */
void fork_defer_block(void *p);
/* A first-class heap or a pool that is being destroyed. */
void fork_defer_end(struct owner *owner);
/* A heap that its thread leaves with all that is in its cache. */
void fork_defer_thread(struct heap *heap);
/* Does all that waits, if the gate is open. No lock held. May wait for the background thread's end, if a thread has ended
   meanwhile. */
void fork_catch_up(void);

HAK_EXTERN_C_END

#endif
