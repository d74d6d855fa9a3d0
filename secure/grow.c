/* Large blocks that become another size. The records' lock (rank OWNED) to find them alone. Called
   by layer.c. */
#include <string.h>

#include "heap/gate.h"
#include "secure/blame.h"
#include "secure/large_internal.h"
#include "secure/quarantine.h"

#if HAK_SECURE

/* A block that shrinks stays where it is if it keeps this part of its container, or so many bytes:
   the rest is address space. To copy it would make pages resident that it never touched. */
#define KEEP_PART  16u
#define KEEP_WHOLE ((size_t)256 * HAK_KIB)
/* A block that is made larger by realloc takes its pages along if it has so many bytes. */
#define MOVED_LEAST ((size_t)32 * HAK_KIB)

/* The filling that lies within the first `bytes` of the body goes. */
static void unfill(const struct large *large, size_t bytes)
{
    char *end = large->start + large->size, *to = large->body.start + bytes;
    if (large->watched & EDGE_BEHIND && end < to) {
        memset(end, 0, (size_t)(to - end));
    }
}

static int set_body_bytes(struct large *large, size_t bytes)
{
    size_t was = large->body.bytes;
    if (bytes < was) {
        hak_secure_body_learn(&large->body);
        return hak_secure_body_cut(&large->body, bytes);
    }
    return bytes == was || hak_secure_body_extend(&large->body, bytes);
}

/* A check of another thread (hak_secure_large_check) must not see the edges half done: the block is
   not there for it until then. */
int hak_secure_large_resize(void *p, size_t size, int must_stay)
{
    size_t page = hak_os_page_size();
    struct large *large = hak_secure_large_look(p);
    if (!large || size > large->bytes) {
        return 0;
    }
    size_t was = large->body.bytes,
           bytes = hak_secure_round_to((size_t)(large->start - large->body.start) + size, page);
    int may = large->body.start + bytes + page <= hak_secure_container_of(large) + large->bytes &&
              (bytes >= large->bytes / KEEP_PART || bytes >= KEEP_WHOLE || must_stay);
    if (!may) {
        return 0;
    }
    hak_secure_large_check_edges(large);
    if (!hak_secure_large_begin_change(large)) {
        return 0;
    }
    int is_done = set_body_bytes(large, bytes);
    if (is_done) {
        int is_shorter = size < large->size; /* what it leaves in its last page is overwritten */
        unfill(large, bytes < was ? bytes : was);
        large->size = size;
        hak_secure_large_watch(large, is_shorter ? EDGE_BEHIND : 0);
    }
    atomic_store_release(&large->state, (uint32_t)LARGE_USED);
    return is_done;
}

/* The pages of `from` become the first ones of `to`, whose blocks begin at the same place of their
   bodies. Returns 0 if the system refuses, and nothing has changed. Both are the caller's. */
static int move_all(struct large *from, struct large *to)
{
    size_t bytes = from->body.bytes;
    char *end = to->start + from->size;
    hak_secure_body_learn(&from->body);
    if (!hak_secure_body_move(&from->body, &to->body)) {
        return 0;
    }
    if (from->watched & EDGE_BEHIND) {
        memset(end, 0, (size_t)(to->body.start + bytes - end));
    }
    hak_secure_large_watch(to, 0);
    return 1;
}

/* Inside the gate. */
static int move_and_end(struct large *from, struct large *to)
{
    int is_mine = hak_secure_large_begin_change(from), is_moved = is_mine && move_all(from, to);
    if (!is_moved) {
        hak_secure_large_abandon(to);
        if (is_mine) {
            atomic_store_release(&from->state, (uint32_t)LARGE_USED);
        }
        return 0;
    }
    atomic_store_release(&to->state, (uint32_t)LARGE_USED);
    atomic_store_release(&from->state, (uint32_t)LARGE_FREED);
    hak_secure_quarantine_take(from);
    return 1;
}

void *hak_secure_large_move(void *p, size_t size)
{
    struct large *from = hak_secure_large_look(p);
    if (!from || from->heap || from->is_bare || size <= from->size ||
        from->body.bytes < MOVED_LEAST) {
        return NULL;
    }
    hak_secure_large_check_edges(from);
    if (from->family != ENTRY_MALLOC) {
        hak_secure_family_differs(p, (enum entry_family)from->family, ENTRY_MALLOC);
    }
    struct large *to = hak_secure_large_make_growing(
        size, (struct spot){(size_t)(from->start - from->body.start), from->body.bytes});
    if (!to) {
        return NULL;
    }
    if (!hak_gate_enter()) { /* a fork has begun */
        hak_secure_large_abandon_later(to);
        return NULL;
    }
    int is_moved = move_and_end(from, to);
    hak_gate_leave();
    return is_moved ? to->start : NULL;
}

#endif
