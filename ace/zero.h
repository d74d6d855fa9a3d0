/* How a reused block is made to read as zero: cleared by the processor, or purged: returned to the
   system, which hands out zeroed pages for those that are touched.

   Measured (Zen 4, Linux 6.18): clearing takes 0.05 us a page of 4 KiB, a page fault 1.5 us, a
   purge 0.7 us a call and 0.1 us a resident page. So a purge is faster where less than about one
   page in thirty is touched afterwards, and it is what keeps memory that a program asks for, and
   does not use, from becoming resident.

   What a program touches is learnt: of blocks that were handed out without resident pages, some are
   looked at when they are freed, at a few pages each. A page that holds a byte other than zero was
   touched. No system call tells more without risk (mincore is one that sandboxes forbid), and
   looking at an untouched page makes nothing resident: the kernel shows its one page of zeros (0.5
   us). A page in which the program left only zeros counts as untouched: never wrong, but such a
   block pays its page faults again. A program may free a block of which it has made pages
   unreadable (mprotect): one mprotect before the looks restores the right to read and write.
   What is learnt of malloc's blocks tells whether their fresh pages are worth fetching together.
   Blocks that are not looked at are handed out as they were left, as by other allocators
   (docs/misuse.md). */
#ifndef HAKMEM_ACE_ZERO_H
#define HAKMEM_ACE_ZERO_H

#include "base/internal.h"

#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

/* Makes the bytes read as zero. Whole pages. Any thread, no lock. Returns 1 if it left no page
   resident. */
typedef int (*hak_zero_way)(void *start, size_t size);
/* The way for parts of a block of `size` bytes, by what was learnt of blocks of that size. */
hak_zero_way hak_zero_choose(size_t size);
/* A block of `size` bytes that was handed out without resident pages (`is_zeroed`: by calloc) is
   freed: learns which part of it was touched. */
void hak_zero_learn(const void *start, size_t size, int is_zeroed);
/* The learnt part of blocks of about `size` bytes that gets touched, in 256ths; of those that were
   asked to be zero, or of the others. */
unsigned hak_zero_touched(size_t size, int is_zeroed);
/* Whether `bytes` fresh ones of a block of `size` had better be fetched together than one by one:
   such blocks are touched all over, by what was learnt. Each 1 is one that was earned. */
int hak_zero_fetch_together(size_t size, int is_zeroed, size_t bytes);
/* Whether there is something to learn from a block of that size: the first one, and some later
   ones. */
int hak_zero_is_curious(size_t size, int is_zeroed);
/* So many bytes of a block of `size` are expected to be touched; all, if nothing was learnt. */
size_t hak_zero_expected(size_t size);
/* The part of these pages, in 256ths, that holds a byte other than zero, by a look at some of them.
   No thread writes to them, and they become writable. */
unsigned hak_zero_seen(const void *start, size_t size);
/* Forgets all that was learnt. For tests and replays. */
void hak_zero_forget(void);

HAK_EXTERN_C_END

#endif
