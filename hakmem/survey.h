/* A survey: what the allocator's structures say at a moment, read through a struct hak_layout from
   the process itself, from another one, or from a core file. Nothing is locked, stopped or written:
   numbers that belong together may be some calls of malloc apart.

   What it counts (bytes): each block of a slab is free (its slab's bit), cached (in a bin, spare,
   outbox, depot or inbox), or live; spans and ranges are live, except for the room that growing
   ranges have ahead.
     heap_used_bytes = slabs * 64 KiB + spans
     slabs * 64 KiB  = live in slabs + cached_bytes + slab_free_bytes
     live_bytes      = live in slabs + spans + large_bytes - large_room_bytes + limbo_bytes
   (survey_test.cc). Any thread; no lock of hakmem. */
#ifndef HAKMEM_HAKMEM_SURVEY_H
#define HAKMEM_HAKMEM_SURVEY_H

#include "base/internal.h"

#include "base/size_classes.h"
#include "hakmem/layout.h"

HAK_EXTERN_C_BEGIN

/* Whose memory is read: 0, or an errno value if the bytes are not there. */
struct survey_source {
    int (*read)(void *context, const void *at, void *out, size_t n);
    void *context;
};

struct survey_class {
    uint64_t slabs, live, cached, free; /* blocks; what depots of tiny blocks and inboxes hold
                                           counts as live here */
};

/* An owner of slabs. */
struct survey_heap {
    uint32_t id;
    uint32_t kind;  /* enum owner_kind; 0: there is none */
    uint32_t state; /* enum survey_state */
    uint32_t slabs;
    uint64_t live_bytes, cached_bytes, free_bytes; /* in its slabs */
};
enum survey_state { SURVEY_LIVE, SURVEY_ORPHAN, SURVEY_STALE };

struct survey {
    struct hak_layout layout;
    struct hak_stats stats;
    struct {
#define DERIVED(name, kind, unit, text) int64_t name;
#include "base/stats.def"
    } derived;
    uint64_t limit_soft, limit_hard; /* in force; 0: none */
    struct survey_class classes[SC_N_CLASSES];
    struct control control;
};

/* 0; EPROTO if the layout is not one of this version's; else why memory could not be read.
   `heaps`: room for survey_heaps(source, layout) of them, by their ids, zeroed; or NULL. */
HAK_MUST_CHECK int hak_survey_take(const struct survey_source *source, const void *layout,
                                   struct survey *out, struct survey_heap *heaps, uint32_t n_heaps);
/* How many ids there are; 0 if that cannot be read. */
uint32_t hak_survey_n_heaps(const struct survey_source *source, const struct hak_layout *layout);

/* The calling process. */
extern const struct survey_source hak_survey_own HAK_HIDDEN;

/* The number of that name, of stats.def's rows: 0, or ENOENT. */
HAK_MUST_CHECK int hak_survey_find(const struct survey *survey, const char *name, int64_t *value);
/* 1 if the name is that of a row that is kept: then *value is what it is now. */
int hak_survey_find_kept(const char *name, int64_t *value);

/* Thousandths of held_bytes that are not live. */
uint64_t hak_survey_fragmentation(const struct survey *survey);
/* How many bytes ACE would keep of a pool. */
uint64_t hak_survey_keep(const struct survey *survey, enum control_pool pool);
/* "thread", "first-class", "pool" or "lost"; "live", "orphan" or "stale". */
const char *hak_survey_kind_name(const struct survey_heap *heap);
const char *hak_survey_state_name(const struct survey_heap *heap);

/* Who is surveyed, for outputs. `resident`: of the whole process, by the kernel; 0: not known. */
struct survey_subject {
    int64_t pid;
    const char *program;
    uint64_t resident;
};
/* One JSON document (docs/stats.md has its schema) in lines of at most 1,000 bytes, written to `fd`
   by write(2). */
void hak_survey_json(const struct survey *survey, const struct survey_heap *heaps, uint32_t n_heaps,
                     const struct survey_subject *subject, int fd);

HAK_EXTERN_C_END

#endif
