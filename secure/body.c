/* Bodies: getting, growing, cutting, moving and leaving pages. No locks: see pages.c. Called by
   large.c and grow.c. */
#include "secure/body.h"

#include <string.h>

#include "base/atomic.h"
#include "base/options.h"
#include "base/os.h"
#include "heap/gate.h"
#include "limit/limit.h"
#include "secure/pages.h"

#if HAK_SECURE

/* Parts that a body gets at once, at most. */
#define PARTS_AT_ONCE 3u
/* A body that grows by fewer pages, or by a smaller part of it, or that has so many parts, gets own
   ones: lent ones need more system calls, and parts. */
#define LENT_LEAST      16u
#define LENT_PART       8u
#define PARTS_THEN_NONE 8u
/* Pages of freed blocks that are kept: with those in use, twice as many as were in use lately,
   within these bounds. So many frees later a peak is half forgotten, about. */
#define PEAK_FREES 64u
#define KEPT_LEAST ((size_t)4 * HAK_MIB)
#define KEPT_MOST  ((size_t)64 * HAK_MIB)

/* Mappings of a body: it, and what is sealed behind it. */
#define BODY_MAPPINGS 2

static size_t used_bytes; /* of bodies; atomic, and about right */
static uint32_t n_bodies; /* that are not bare; likewise */
static size_t peak_bytes; /* the most of them lately; a lost update is harmless */

/* In pages, when so many bytes have just been freed. */
static size_t most_kept(size_t freed)
{
    size_t used = atomic_load_relaxed(&used_bytes), was = used + freed,
           peak = atomic_load_relaxed(&peak_bytes);
    peak = was > peak ? was : peak - (peak - was) / PEAK_FREES;
    atomic_store_relaxed(&peak_bytes, peak);
    size_t most = 2 * peak > used ? 2 * peak - used : 0;
    return (most < KEPT_LEAST  ? KEPT_LEAST
            : most < KEPT_MOST ? most
                               : KEPT_MOST) /
           hak_os_page_size();
}

/* Half of vm.max_map_count is most_mappings (limit.h). Those of lent runs are few (pages.c). */
int hak_secure_body_is_crowded(void)
{
    return hak_stat_get(mappings) + BODY_MAPPINGS * (int64_t)atomic_load_relaxed(&n_bodies) >=
           hak_limit_most_mappings + hak_limit_most_mappings / 2;
}

static void make_zero(char *at, size_t bytes)
{
    if (hak_os_purge(at, bytes)) {
        memset(at, 0, bytes);
    }
}

void hak_secure_body_seal(char *at, size_t bytes, int is_new)
{
    if (bytes && hak_os_seal(at, bytes, !is_new)) {
        if (hak_os_purge(at, bytes) && hak_os_protect(at, bytes, OS_WRITABLE) == 0) {
            memset(at, 0, bytes);
        }
        int refused = hak_os_protect(at, bytes, OS_UNTOUCHABLE);
        (void)refused; /* too many mappings: then it is no guard */
    }
}

/* --- parts --- */

static int is_lent(const struct part *part)
{
    return part->first < MOVED_PAGES;
}

int hak_secure_body_is_lent(const struct body *body)
{
    for (uint32_t i = 0; i < body->n_parts; i++) {
        if (is_lent(&body->parts[i])) {
            return 1;
        }
    }
    return 0;
}

static size_t bytes_of(const struct part *part)
{
    return part->n * hak_os_page_size();
}

static size_t bytes_of_parts(const struct body *body)
{
    size_t bytes = 0;
    for (uint32_t i = 0; i < body->n_parts; i++) {
        bytes += bytes_of(&body->parts[i]);
    }
    return bytes;
}

/* What lies behind the last part becomes writable. Returns 0 if the system refuses. */
static int add_own(struct body *body, char *at, size_t bytes)
{
    size_t n = bytes / hak_os_page_size();
    int joins = body->n_parts && body->parts[body->n_parts - 1].first == OWN_PAGES;
    if ((!joins && body->n_parts == BODY_PARTS) || hak_os_protect(at, bytes, OS_WRITABLE)) {
        return 0;
    }
    if (hak_options.huge_page_bytes && bytes >= hak_options.huge_page_bytes &&
        hak_secure_pages_are_wanted(bytes)) {
        hak_os_huge_pages(at, bytes); /* as ranges of the plain functions do (ace/range.c) */
    }
    if (joins) {
        body->parts[body->n_parts - 1].n += n;
    } else {
        body->parts[body->n_parts++] = (struct part){n, OWN_PAGES};
    }
    return 1;
}

/* As many lent pages as there are; returns their bytes. Inside the gate. */
static size_t add_lent(struct body *body, char *at, size_t bytes)
{
    size_t page = hak_os_page_size(), done = 0;
    uint32_t most = body->n_parts + PARTS_AT_ONCE;
    while (body->n_parts < most && done < bytes) {
        size_t n = (bytes - done) / page;
        struct pages run = body->n_parts + 1 < most ? hak_secure_pages_lend_some(at + done, n)
                                                    : hak_secure_pages_lend(at + done, n);
        if (!run.n) {
            break;
        }
        body->parts[body->n_parts++] = (struct part){run.n, run.first};
        done += run.n * page;
    }
    return done;
}

/* The last part, from its page `n` on, leaves the body; it lies at `at`. What of it does not return
   to where it was lent from is still there. */
static void drop_last(struct body *body, size_t n, char *at, size_t most)
{
    struct part *last = &body->parts[body->n_parts - 1];
    struct pages run = {last->first, (uint32_t)last->n};
    if (is_lent(last)) {
        if (n) {
            run = hak_secure_pages_split(&run, n);
        }
        (void)hak_secure_pages_return(run, at, run.n, most);
    }
    last->n = n;
    body->n_parts -= n == 0;
}

/* All parts from `keep` on leave the body, which is `bytes` long. */
static void drop(struct body *body, size_t keep, size_t bytes, size_t most)
{
    while (body->n_parts && bytes > keep) {
        size_t last = bytes_of(&body->parts[body->n_parts - 1]),
               kept = bytes - keep < last ? last - (bytes - keep) : 0;
        bytes -= last - kept;
        drop_last(body, kept / hak_os_page_size(), body->start + bytes, most);
    }
}

/* Whether [from, to) gets lent pages, if there are some. */
static int may_lend(const struct body *body, size_t from, size_t to)
{
    return body->may_be_lent &&
           (from == 0 ||
            (body->n_parts < PARTS_THEN_NONE && to - from >= LENT_LEAST * hak_os_page_size() &&
             (to - from) >= to / LENT_PART)) &&
           hak_secure_pages_are_wanted(to);
}

/* What lies behind its parts, [from, to), gets pages. */
static int add(struct body *body, size_t from, size_t to)
{
    int is_inside = may_lend(body, from, to) && hak_gate_enter(), is_done = 1;
    size_t lent = is_inside ? add_lent(body, body->start + from, to - from) : 0;
    if (from + lent < to && !add_own(body, body->start + from + lent, to - from - lent)) {
        is_done = 0;
        if (lent) {
            drop(body, from, from + lent, SIZE_MAX);
            hak_secure_body_seal(body->start + from, lent, 0);
        }
    }
    if (is_inside) {
        hak_gate_leave();
    }
    return is_done;
}

/* --- all of it --- */

int hak_secure_body_get(struct body *body, char *start, size_t bytes, size_t brought,
                        int may_be_lent)
{
    body->start = start;
    body->bytes = bytes;
    body->n_parts = 0;
    body->may_be_lent = (uint16_t)may_be_lent;
    body->is_bare = 0;
    if (brought < bytes && !add(body, brought, bytes)) {
        return 0;
    }
    (void)atomic_add_relaxed(&used_bytes, bytes);
    (void)atomic_add_relaxed(&n_bodies, 1u);
    return 1;
}

void hak_secure_body_get_bare(struct body *body, char *start, size_t bytes)
{
    *body = (struct body){.start = start, .bytes = bytes, .is_bare = 1};
    make_zero(start, bytes);
    (void)atomic_add_relaxed(&used_bytes, bytes);
}

/* It is none any more. */
static void end(const struct body *body)
{
    (void)atomic_sub_relaxed(&used_bytes, body->bytes);
    if (!body->is_bare) {
        (void)atomic_sub_relaxed(&n_bodies, 1u);
    }
}

int hak_secure_body_extend(struct body *body, size_t bytes)
{
    size_t more = bytes - body->bytes;
    if (body->is_bare || !add(body, body->bytes, bytes)) {
        return 0;
    }
    body->bytes = bytes;
    (void)atomic_add_relaxed(&used_bytes, more);
    return 1;
}

int hak_secure_body_cut(struct body *body, size_t bytes)
{
    size_t was = body->bytes;
    if (body->is_bare) {
        return 0;
    }
    int is_inside = hak_gate_enter();
    if (!is_inside && hak_secure_body_is_lent(body)) {
        return 0;
    }
    (void)atomic_sub_relaxed(&used_bytes, was - bytes);
    drop(body, bytes, was, most_kept(was - bytes));
    body->bytes = bytes;
    hak_secure_body_seal(body->start + bytes, was - bytes, 0);
    if (is_inside) {
        hak_gate_leave();
    }
    return 1;
}

void hak_secure_body_learn(const struct body *body)
{
    hak_secure_pages_learn(body->start, body->bytes, hak_secure_body_is_lent(body));
}

void hak_secure_body_leave(struct body *body)
{
    end(body);
    if (body->is_bare) {
        make_zero(body->start, body->bytes);
        return;
    }
    size_t most = most_kept(body->bytes);
    drop(body, body->bytes - bytes_of_parts(body), body->bytes, most);
    hak_secure_body_seal(body->start, body->bytes, 0);
    (void)hak_secure_pages_trim(most);
}

void hak_secure_body_forget(struct body *body)
{
    end(body);
    if (body->is_bare) {
        make_zero(body->start, body->bytes);
    }
    body->n_parts = 0;
}

/* --- moving --- */

/* The first `n` parts have moved: what they hold is copied back, and lent pages return. Where they
   were, they are own ones from now on. */
static void move_back(struct body *from, const struct body *to, uint32_t n)
{
    size_t at = 0;
    for (uint32_t i = 0; i < n; i++) {
        struct part *part = &from->parts[i];
        size_t bytes = bytes_of(part);
        memcpy(from->start + at, to->start + at, bytes);
        if (is_lent(part)) {
            struct pages run = {part->first, (uint32_t)part->n};
            (void)hak_secure_pages_return(run, to->start + at, run.n, SIZE_MAX);
        }
        part->first = MOVED_PAGES;
        at += bytes;
    }
    hak_secure_body_seal(to->start, at, 0);
}

int hak_secure_body_move(struct body *from, struct body *to)
{
    size_t at = 0;
    if (from->is_bare || to->is_bare) {
        return 0;
    }
    if (from->n_parts + to->n_parts > BODY_PARTS) {
        return 0;
    }
    for (uint32_t i = 0; i < from->n_parts; at += bytes_of(&from->parts[i++])) {
        if (hak_os_move_pages(from->start + at, bytes_of(&from->parts[i]), to->start + at)) {
            move_back(from, to, i);
            return 0;
        }
    }
    memmove(to->parts + from->n_parts, to->parts, to->n_parts * sizeof to->parts[0]);
    for (uint32_t i = 0; i < from->n_parts; i++) {
        to->parts[i] = from->parts[i];
        to->parts[i].first -= to->parts[i].first == OWN_PAGES; /* MOVED_PAGES */
    }
    to->n_parts += from->n_parts;
    hak_secure_body_seal(from->start, from->bytes, 0);
    end(from);
    from->bytes = from->n_parts = 0;
    return 1;
}

#endif
