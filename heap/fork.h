/* Fork, errors found inside, and what is put off while the gate is closed (gate.h; docs/fork.md).

   What is put off waits in lock-free lists, which the thread that opens the gate empties, or the
   one that put something in just after. Who must find nothing waiting (a walk, a purge, the end of
   a first-class heap) empties them too. Whoever opens the gate may be in a signal handler that has
   interrupted a fast path: so what waits is done by locks alone, as no thread's cache is whole
   then, and libc's blocks, for which no lock of ours would do, wait elsewhere
   (hakmem/fallback.h). */
#ifndef HAKMEM_HEAP_FORK_H
#define HAKMEM_HEAP_FORK_H

#include "base/internal.h"

#include <sys/types.h>

#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

struct theap;
struct owner;

/* What the rooms above do for a fork; hakmem defines it (entry.c). */
struct fork_parts {
    void (*free_large)(void *p);          /* into no thread's cache; inside the gate */
    void (*free_libcs)(void);             /* blocks of libc that wait */
    int (*end_heap)(struct owner *owner); /* ends a first-class heap; 0 if the owner is none */
    void (*mend)(void);                   /* the table of entry points is made whole */
    void (*in_child)(void);               /* what the child does above */
};
extern const struct fork_parts hak_entry_fork_parts HAK_HIDDEN;

/* Registers the handlers of fork. Once, no lock held, outside of the gate: the C library's own
   locks are taken. */
void hak_fork_start(void);

/* Forks by a bare system call: no handler of fork runs but ours, no lock of the C library is taken,
   and the child sends no signal when it ends (wait for it with __WALL). The child may use hakmem,
   and call raw system calls; it ends by one. Any thread, also in a signal handler. Returns 0 in the
   child, else its number, or -1 with errno. */
pid_t hak_fork_bare(void);

/* Each is called when hak_gate_enter has refused. */
/* A block of ours, its start, that free would take a lock for. Its first word is overwritten. */
void hak_fork_defer_block(void *p);
/* A first-class heap or a pool that is being destroyed. */
void hak_fork_defer_end(struct owner *owner);
/* A heap that its thread leaves with all that is in its cache. */
void hak_fork_defer_thread(struct theap *heap);
/* A block is in an orphan's inbox, which its sender would have emptied. Does nothing else, as who
   sends it has his outbox in hand: if the gate is open by now, he empties it himself. */
void hak_fork_defer_collect(void);
/* Does all that waits, if the gate is open. No lock held. May wait for the background thread's end,
   if a thread has ended while the gate was closed. Not from a signal handler. */
void hak_fork_catch_up(void);
/* The same, from a signal handler too, for who has opened the gate: libc's blocks wait on. */
void hak_fork_catch_up_opened(void);
/* The same inside the gate, where nothing that was put off before may wait any longer; but it does
   not wait. */
void hak_fork_catch_up_inside(void);

HAK_EXTERN_C_END

#endif
