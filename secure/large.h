/* Large blocks of the secure variant.

   A block lies in a *container*, which the plain functions serve: a page that may not be touched,
   the body, and one or more such pages. The block ends with the body, as far as its alignment lets
   it: one byte too many is a fault. What is left behind it is filled (tail.h), what lies before it
   in the body is zero; both are checked when it is freed. Freed, it loses its pages at once, to the
   system or to where the next block gets them from (pages.h). It waits untouchable in a quarantine
   of the process, as small ones do in their thread's (cache.h); then its container serves a request
   for as much, or goes back. Where the process has too many mappings, a block is *bare*: nothing
   around it is sealed, its edges alone are watched, and freed it is cleared and goes back at once.

   struct large describes one, in a hash table by the container's start. States: used; changing: its
   owner makes it another size; freed: in the quarantine, ready for the next, or on its way between.
   Written with the lock held (rank OWNED), inside the gate; while the gate is closed `state` alone,
   atomically. Always, when the lock is free: what is in the quarantine or ready is freed, not bare,
   and no page of it may be touched; every node's container is a block of the plain functions. */
#ifndef HAKMEM_SECURE_LARGE_H
#define HAKMEM_SECURE_LARGE_H

#include "base/internal.h"

#include "hakmem/entry.h"
#include "secure/secure.h"

HAK_EXTERN_C_BEGIN

struct hak_heap;

/* Bytes of the containers in the quarantine; lock held. */
extern size_t hak_secure_large_waiting HAK_HIDDEN;

enum large_state { LARGE_USED, LARGE_FREED, LARGE_CHANGING };

/* What is known of a large block. `size` 0: nothing begins there. */
struct large_block {
    void *start; /* of the program's block */
    void *container;
    size_t size;
    enum entry_family family;
    enum large_state state;
};

/* A block of `size` bytes, all zero, at a multiple of `alignment` (a power of two), of the heap
   unless it is NULL. NULL and ENOMEM. Any thread; no lock held, as of all of these. */
void *hak_secure_large_alloc(struct hak_heap *heap, size_t alignment, size_t size);
/* *p, of any size, is limbo's or libc's, and not aligned so: another one comes in its stead, zero,
   or NULL. Returns 0 if the fork that closed the gate is over, so that *p is none: the plain
   functions' blocks have neither record nor tail. */
int hak_secure_serve_anew(struct hak_heap *heap, void **p, size_t alignment, size_t size);
/* The same for a block of no heap that has been made larger by realloc: with address space ahead.
 */
void *hak_secure_large_alloc_growing(size_t size);
/* Makes the block that begins at p `size` bytes, at least 1, where it lies; 0 if its container has
   no room, or too much, or the system refuses. `must_stay` as with small ones. */
int hak_secure_large_resize(void *p, size_t size, int must_stay);
/* A larger block with the contents, and the pages, of the one that begins at p, which is freed;
   NULL, and nothing has changed, if that would not be worth it or cannot be. */
void *hak_secure_large_move(void *p, size_t size);
/* `p` lies in a span or a range. Aborts if it is no block. errno may change. */
void hak_secure_large_free(void *p);
/* The block that begins at p, or whose container does. */
struct large_block hak_secure_large_find(const void *p);
void hak_secure_large_name(const void *p, enum entry_family family);
/* The heap is about to be destroyed: its block in that container ends. */
void hak_secure_large_forget(const struct hak_heap *heap, const void *container);
/* Returns to the system what waits or is ready. Returns whether there was some. */
int hak_secure_large_flush(void);
/* Whether there may be some. */
int hak_secure_large_waits(void);
/* Whether there is some that the system did not let go. */
int hak_secure_large_is_stuck(void);
/* Aborts if the edges of the used block in that container were written to. Other threads may free
   it at that time. */
void hak_secure_large_check(const void *container);
/* What the quarantine draws from now on goes on by chance. */
void hak_secure_large_draw_anew(uint32_t chance);
/* 0 if the equations above hold. */
int hak_secure_large_verify(void);

HAK_EXTERN_C_END

#endif
