/* Units that keep the class of their first slab (pool.h): the secure variant's. Pool lock held, if
   nothing else is said. */
#ifndef HAKMEM_SUPERSLAB_APART_H
#define HAKMEM_SUPERSLAB_APART_H

#include "base/internal.h"

#include "superslab/pool.h"

HAK_EXTERN_C_BEGIN

#if HAK_SECURE

/* Whether superslabs for slabs keep classes. */
int hak_pool_is_apart(void);
/* A wholly free unit for a slab of the class: one that was such a slab, resident ones first, else a
   virgin one. NULL if there is none. */
struct superslab *hak_pool_apart_choose(uint32_t size_class, uint32_t *unit);
/* A slab was made, of a unit that was resident or not. Free memory that is resident in units of
   other classes does not serve it: above a part of what is used, as much of it goes to the system.
   No lock held. */
void hak_pool_apart_made(int was_resident);
/* Its units that are wholly free and not virgin into the lists of their classes, others out of
   them: after `free` or `virgin` changed. */
void hak_pool_apart_refile(struct superslab *ss);
/* A number below n, for places that are not to be known. */
uint32_t hak_pool_apart_draw(uint32_t n);
/* They go on by chance. In a forked child, by its only thread. */
void hak_pool_apart_draw_anew(uint32_t chance);
/* Whether the equations of one that keeps classes hold; *n_listed: how many units are listed. */
int hak_pool_apart_is_right(const struct superslab *ss, uint32_t *n_listed);
/* Before a request is refused: superslabs of which nothing is used may go like others from now on.
   Returns how many. No lock held. */
uint32_t hak_ss_forget_classes(void);
/* Units in all lists of classes; UINT32_MAX if one is in a wrong list. */
uint32_t hak_pool_apart_count(void);

#else

static inline int hak_pool_is_apart(void)
{
    return 0;
}
static inline struct superslab *hak_pool_apart_choose(uint32_t size_class, uint32_t *unit)
{
    (void)size_class;
    (void)unit;
    return NULL;
}
static inline void hak_pool_apart_made(int was_resident)
{
    (void)was_resident;
}
static inline void hak_pool_apart_refile(struct superslab *ss)
{
    (void)ss;
}
static inline uint32_t hak_pool_apart_draw(uint32_t n)
{
    return n - 1;
}
static inline int hak_pool_apart_is_right(const struct superslab *ss, uint32_t *n_listed)
{
    *n_listed = 0;
    return ss != NULL;
}
static inline uint32_t hak_ss_forget_classes(void)
{
    return 0;
}
static inline uint32_t hak_pool_apart_count(void)
{
    return 0;
}

#endif

HAK_EXTERN_C_END

#endif
