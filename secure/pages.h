/* Pages of large blocks that are lent to them. A freed block loses its pages at once; but a page
   that goes to the system costs a fault when the next block touches it. So the pages of blocks that
   are touched lie in a *home*, from which mremap moves them into a block, and back when it is
   freed: the block's addresses wait in the quarantine, its pages do not.

   Home is address space for HOME_PAGES pages that no block has. A run of pages is there, free, or
   lent; what comes back comes to its own place, so that free runs join, and the system joins their
   mappings. Pages are made resident there (else the system would not join them), and are zero when
   they are free.
   How much of blocks of a size is touched is learnt, as in ace/zero.h: blocks that are hardly
   touched get no pages.

   Lock: one of rank OWNED, for the bits; the system is called without it, by the thread that has
   the run. Always, when it is free: hak_secure_pages_kept counts the free pages that are resident;
   a page that is lent is not free. All of these inside the gate. */
#ifndef HAKMEM_SECURE_PAGES_H
#define HAKMEM_SECURE_PAGES_H

#include "base/internal.h"

#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

#define HOME_PAGES ((size_t)65536)

/* A run of pages of the home. `n` 0: none. */
struct pages {
    uint32_t first, n;
};

extern size_t hak_secure_pages_kept HAK_HIDDEN; /* pages; atomic */

/* Moves `n` zero pages to `to`, which is untouchable and becomes writable. None if the system or
   the home has none. */
struct pages hak_secure_pages_lend(char *to, size_t n);
/* The same, or, where no `n` in a row are resident, fewer that are. */
struct pages hak_secure_pages_lend_some(char *to, size_t n);
/* Of lent ones, those behind the first `n` are a run of their own from now on. */
struct pages hak_secure_pages_split(struct pages *lent, size_t n);
/* They come back from [from, from + n pages), as far as they are still there: of the lent ones, the
   first `n`, and as many as make the kept pages `most`. They are cleared. Returns how many have
   left [from, from + n pages); the others have not. */
size_t hak_secure_pages_return(struct pages lent, char *from, size_t n, size_t most);
/* Returns pages to the system until at most `most` are kept. Returns whether some went. */
int hak_secure_pages_trim(size_t most);
/* Whether blocks with so many bytes of pages are touched, as far as is known. */
int hak_secure_pages_are_wanted(size_t body_bytes);
/* A block is freed, whose pages are [body, body + body_bytes): some are looked at, if that costs no
   page fault (`is_resident`) or may be worth it. */
void hak_secure_pages_learn(const char *body, size_t body_bytes, int is_resident);
/* Whether the equation above holds. */
int hak_secure_pages_verify(void);

HAK_EXTERN_C_END

#endif
