/* The plain functions: what serves, below every layer (entry.h). They never ask whether anybody
   watches, and call each other, not the public names. Any thread; no lock held. */
#ifndef HAKMEM_HAKMEM_PLAIN_H
#define HAKMEM_HAKMEM_PLAIN_H

#include "base/internal.h"

#include "base/attributes.h"
#include "hakmem/entry.h"

HAK_EXTERN_C_BEGIN

/* plain.c */
void *hak_plain_malloc(size_t size);
void *hak_plain_calloc(size_t bytes);
void hak_plain_free(void *p); /* not NULL; errno is kept */
/* The same where nothing of that is frequent; `tag`: what the thread's view shows. */
void hak_plain_free_by_tag(void *p, uint32_t tag);
size_t hak_plain_usable_size(const void *p);
/* Bytes of the block at p; aborts, naming `asker`, if p is none or is freed. Freed is what its
   slab's bitmap or a list's first block shows; variants that validate also find what else this
   thread keeps for reuse. */
enum plain_asker { PLAIN_USABLE_SIZE, PLAIN_REALLOC };
size_t hak_plain_size_for(const void *p, enum plain_asker asker);
/* 1 if the block of that bin's class, which starts at p in a slab of the thread's heap, is in use
   although its first word may be a link, as in a block that was not written to there: its slab's
   bitmap does not show it free, nor does what hak_plain_size_for would look at. 0: it is not known,
   or more is to be done, and that looks. */
struct theap;
struct bin;
int hak_plain_is_in_use(const struct theap *heap, const struct bin *bin, const void *p);
/* hak_plain_size_for such a block for PLAIN_USABLE_SIZE, in a few instructions; what may be freed,
   or must be looked at further, is left to `otherwise`. */
size_t hak_plain_size_unless_free(const struct theap *heap, const struct bin *bin, const void *p,
                                  size_t (*otherwise)(const void *p));
size_t hak_plain_walked(void **p, size_t usable);
/* Blocks know nothing of these. */
void hak_plain_name(void *p, enum entry_family family);
void hak_plain_claim(void *p, const struct entry_claim *claim);
/* aligned.c */
void *hak_plain_aligned(size_t alignment, size_t size);
/* realloc.c */
void *hak_plain_realloc(void *p, size_t size, struct hak_heap *heap, int is_zeroed);
/* heap.c */
void *hak_plain_heap_alloc(struct hak_heap *heap, size_t size, size_t alignment, int is_zeroed);
void hak_plain_heap_destroy(struct hak_heap *heap);

HAK_EXTERN_C_END

#endif
