/* Filling, checking, learning. No locks; a lost update of what is learnt is harmless. Called by
   large.c and grow.c. */
#include "secure/edges.h"

#include <string.h>

#include "base/atomic.h"
#include "base/os.h"
#include "secure/blame.h"
#include "secure/tail.h"

#if HAK_SECURE

#define N_SIZES 64
/* Watched if at least this part (in 256ths) is touched on average. From all to less than that it
   takes ten blocks in a row, the other way one. */
#define SELDOM      16u
#define LEARN_SHIFT 2

/* By log2 of the size: 256ths that were not touched, on average. */
static uint32_t untouched_before[N_SIZES], untouched_behind[N_SIZES];
static uint32_t turn;

static unsigned index_of(size_t bytes)
{
    return 63u - (unsigned)__builtin_clzll(bytes);
}

unsigned hak_secure_edges_choose(size_t bytes, int is_resident)
{
    unsigned i = index_of(bytes), watched = 0;
    if (is_resident || atomic_load_relaxed(&untouched_before[i]) <= 256 - SELDOM) {
        watched |= EDGE_BEFORE;
    }
    if (is_resident || atomic_load_relaxed(&untouched_behind[i]) <= 256 - SELDOM) {
        watched |= EDGE_BEHIND;
    }
    if (watched != (EDGE_BEFORE | EDGE_BEHIND) &&
        atomic_add_relaxed(&turn, 1u) % EDGES_EVERY == 0) {
        watched = EDGE_BEFORE | EDGE_BEHIND;
    }
    return watched;
}

void hak_secure_edges_fill(const struct edges *edges, unsigned watched)
{
    if (watched & EDGE_BEHIND) {
        memset(edges->behind, (int)(hak_secure_secrets.fill[0] & 0xFF),
               (size_t)(edges->end - edges->behind));
    }
}

static int is_all(const char *from, const char *to, char value)
{
    size_t n = (size_t)(to - from);
    return n == 0 || (*from == value && memcmp(from, from + 1, n - 1) == 0);
}

unsigned hak_secure_edges_look(const struct edges *edges, unsigned watched)
{
    if (watched & EDGE_BEHIND &&
        !is_all(edges->behind, edges->end, (char)hak_secure_secrets.fill[0])) {
        return EDGE_BEHIND;
    }
    return watched & EDGE_BEFORE && !is_all(edges->first, edges->start, 0) ? EDGE_BEFORE : 0;
}

void hak_secure_edges_blame(const struct edges *edges, unsigned written)
{
    if (written == EDGE_BEHIND) {
        hak_secure_overflowed(edges->start);
    } else if (written == EDGE_BEFORE) {
        hak_secure_underflowed(edges->start);
    }
}

void hak_secure_edges_check(const struct edges *edges, unsigned watched)
{
    hak_secure_edges_blame(edges, hak_secure_edges_look(edges, watched));
}

static void learn(uint32_t *average, int is_untouched)
{
    uint32_t was = atomic_load_relaxed(average), part = 1u << LEARN_SHIFT;
    uint32_t now = was - was / part + (is_untouched ? 256 / part : 0);
    if (now != was) {
        atomic_store_relaxed(average, now);
    }
}

/* Where there is nothing around it, nothing is watched. */
void hak_secure_edges_learn(const struct edges *edges, unsigned watched)
{
    size_t page = hak_os_page_size(), size = (size_t)(edges->behind - edges->start);
    unsigned i = index_of((size_t)(edges->end - edges->first));
    if (watched & EDGE_BEFORE && edges->start > edges->first) {
        size_t n = page - (size_t)(edges->start - edges->first) % page;
        learn(&untouched_before[i], is_all(edges->start, edges->start + (n < size ? n : size), 0));
    }
    if (watched & EDGE_BEHIND && edges->end > edges->behind) {
        size_t n = page - (size_t)(edges->end - edges->behind);
        learn(&untouched_behind[i],
              is_all(edges->behind - (n < size ? n : size), edges->behind, 0));
    }
}

void hak_secure_edges_forget(void)
{
    memset(untouched_before, 0, sizeof untouched_before);
    memset(untouched_behind, 0, sizeof untouched_behind);
}

#endif
