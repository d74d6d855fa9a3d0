/* Blocks that were sampled, as the profile's table of entry points finds them again: their sizes,
   frees and walks, and the heaps that they are of. A sampled block of a slab lies a little behind
   the start of a larger block, and the one that it would have been stays allocated as long as it:
   its place. No locks. Called by layer.c. */
#ifndef HAKMEM_PROFILE_KNOWN_H
#define HAKMEM_PROFILE_KNOWN_H

#include "base/internal.h"

#include "base/attributes.h"
#include "hakmem/entry.h"
#include "profile/sample.h"

HAK_EXTERN_C_BEGIN

/* The block at p is a sample from now on, also in the site's numbers. Returns 0 if the system
   refuses memory for that. */
int hak_profile_keep(const void *p, const struct profile_sample *sample);
/* Copies the sample of the block at p. Returns 0 if it was not sampled. */
int hak_profile_look_known(const void *p, struct profile_sample *sample);
/* The same, and it is none any more. */
int hak_profile_take_known(const void *p, struct profile_sample *sample);
/* Frees a sample's place, if it has one. `below`: the table that serves the layer. */
void hak_profile_drop_place(const struct entry_table *below, void *place);
/* Frees the block at p, and its place, if it was sampled; else returns 0. */
int hak_profile_free_known(const struct entry_table *below, void *p);
/* The heap is being destroyed: its samples are none any more. */
void hak_profile_forget_heap(const struct hak_heap *heap);
/* A walk has come to a block of `size` bytes at *p. Returns how many the program may use, and *p is
   where they begin; 0 if the program does not know of it. Not of the secure variant, where sampled
   blocks lie where they are. */
size_t hak_profile_walk_known(void **p, size_t size);

HAK_EXTERN_C_END

#endif
