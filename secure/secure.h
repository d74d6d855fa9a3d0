/* The secure variant: a layer (entry.h) over the plain functions that ends the process at misuse
   which the other variants do not see. In other variants there is nothing of it.

   Small blocks (up to SECURE_SMALL_MAX) come from the size classes, for 8 bytes more than was asked
   for: the block's last word is its *tail* (tail.h), which says whether it is in use, by whose
   functions, and how many bytes were asked for; what lies between is filled, so that the first byte
   behind the request is found changed. A freed block is zero, and checked when it is handed out
   again; so every block that is handed out is zero. Between the two it waits in its thread's
   quarantine, and what is handed out is drawn from several (cache.h).
   Large blocks (large.h) end at a page that may not be touched, begin behind one, and lose their
   pages when they are freed.
   Blocks of size 0 (empty.h) lie where nothing can be read or written.
   Usable sizes are those that were asked for. Blocks of limbo and of libc's malloc (fallback.h) are
   handed through as they are.

   Locks: OWNED for large blocks' records. docs/secure.md says what is found and what it costs. */
#ifndef HAKMEM_SECURE_SECURE_H
#define HAKMEM_SECURE_SECURE_H

#include "base/internal.h"

#include "hakmem/entry.h"
#include "superslab/map.h"

HAK_EXTERN_C_BEGIN

#if HAK_SECURE
extern struct entry_layer hak_secure_layer HAK_HIDDEN;
#endif

/* The map's tag; 0 for what is no address, which is beyond the map's window too. */
static HAK_ALWAYS_INLINE uint32_t hak_secure_tag_of(const void *p)
{
    size_t unit = hak_map_window_unit(p);
    if (HAK_LIKELY(unit < MAP_LEAF_UNITS)) {
        return atomic_load_acquire(&hak_map_window->tag[unit]);
    }
    return !((uintptr_t)p >> 48) ? hak_map_get(p).tag : 0;
}

/* What a pointer given to a function is wrong for. */
enum secure_asker { SECURE_FREE, SECURE_USABLE_SIZE, SECURE_REALLOC, SECURE_N_ASKERS };

/* Ends the process: a block of that family reaches a function of another one. */
HAK_COLD __attribute__((noreturn)) void
hak_secure_family_differs(const void *p, enum entry_family is, enum entry_family asked);
/* Checks a claim (entry.h) against what is known of the block; aborts if they differ. */
void hak_secure_check_claim(const void *p, enum entry_family family, size_t size,
                            const struct entry_claim *claim);

/* Serves what is no small block's size: a large one's, or 0. */
void *hak_secure_malloc_other(size_t size);
/* Frees what is no small block: a large one, one of size 0, or what the plain functions know. errno
   is kept. `tag` is the map's of p. */
void hak_secure_free_other(void *p, uint32_t tag);

HAK_EXTERN_C_END

#endif
