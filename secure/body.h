/* The pages of a large block: those that may be touched while it is used.

   A body lies in a container that is sealed: no page of it may be touched, nor is one there. It
   gets pages of its own, or lent ones (pages.h), in *parts*, each of which is one mapping, as
   mremap needs it. It may grow into what is sealed behind it, be cut, and move into another
   container. What it leaves is sealed, in one system call: pages go at once.

   Always: its parts lie one behind the other, and make up its bytes; those that another body will
   bring, at its start, are sealed until then. Who owns the block calls these; no lock. */
#ifndef HAKMEM_SECURE_BODY_H
#define HAKMEM_SECURE_BODY_H

#include "base/internal.h"

#include "base/attributes.h"
#include "secure/pages.h"

HAK_EXTERN_C_BEGIN

#define BODY_PARTS 24u
/* In place of a lent run's first page: own pages; and own ones that have moved, which no mapping
   behind them joins. */
#define OWN_PAGES   UINT32_MAX
#define MOVED_PAGES (UINT32_MAX - 1)

struct part {
    size_t n; /* pages */
    uint32_t first;
};

struct body {
    char *start;
    size_t bytes; /* whole pages */
    uint32_t n_parts;
    uint16_t may_be_lent, is_bare;
    struct part parts[BODY_PARTS];
};

/* Whole pages are sealed. Where the system refuses that, they are zero, and may be touched by none
   or, if it refuses that too, by all. `is_new`: a container, around which not all is sealed. */
void hak_secure_body_seal(char *at, size_t bytes, int is_new);
/* [start, start + bytes) is sealed, and becomes the body; `brought` of it, at the start, will come
   from another one (hak_secure_body_move). Returns 0 if the system refuses: then all is sealed. */
HAK_MUST_CHECK int hak_secure_body_get(struct body *body, char *start, size_t bytes, size_t brought,
                                       int may_be_lent);
/* 1 if the process has so many mappings that a body gets none of its own: of vm.max_map_count a
   quarter is left to the program. */
int hak_secure_body_is_crowded(void);
/* [start, start + bytes), which may be touched, and so may what lies around it, becomes a *bare*
   body: zero, without parts, and neither extended, cut nor moved. Left, it is zero. */
void hak_secure_body_get_bare(struct body *body, char *start, size_t bytes);
/* Its end moves, to where it is sealed. Returns 0 if the system refuses, and nothing has changed.
 */
HAK_MUST_CHECK int hak_secure_body_extend(struct body *body, size_t bytes);
/* Returns 0 while another thread forks, if what goes is lent. */
HAK_MUST_CHECK int hak_secure_body_cut(struct body *body, size_t bytes);
/* All pages of `from` become the first ones of `to`, which waits for them; `from` is sealed then.
   Returns 0 if the system refuses, or there are too many parts: then `from` is as it was. Inside
   the gate, like the next ones. */
HAK_MUST_CHECK int hak_secure_body_move(struct body *from, struct body *to);
/* No thread touches it any more: its pages return, or go to the system. */
void hak_secure_body_leave(struct body *body);
/* Its container becomes new: lent pages are lost. */
void hak_secure_body_forget(struct body *body);
/* How much of it is touched is learnt, before it is left or becomes another size. */
void hak_secure_body_learn(const struct body *body);
/* Whether some of its pages are lent: then those are there. */
int hak_secure_body_is_lent(const struct body *body);

HAK_EXTERN_C_END

#endif
