/* The heap profile: which call sites hold how many bytes (docs/profile.md). A layer (entry.h) that
   meters: the fast paths go on while it samples, and a block that is not sampled costs it nothing
   when it is freed.

   A sampled block is known by its address, which is never the start of a block: the fast path of
   free refuses it, and the layer finds it in its table (sample.h). So it is taken from a block that
   is SHIFT bytes larger. In its place lies the block that it would have been, with the same life:
   by that is seen how full its slab is. Blocks above 32 KiB, which no fast path frees, and those of
   the secure variant, whose frees all come to a layer, lie as they are.

   Parts: meter.h (what is sampled), layer.c (the calls), sample.h (what is known), write.c (the raw
   profile), trigger.c (options, and when a profile is
   written), control.c (who asks from outside). No locks anywhere; nothing is
   written to a file while one is held. */
#ifndef HAKMEM_PROFILE_PROFILE_H
#define HAKMEM_PROFILE_PROFILE_H

#include "base/internal.h"

#include "hakmem/entry.h"
#include "profile/meter.h"

HAK_EXTERN_C_BEGIN

extern struct entry_layer hak_profile_layer HAK_HIDDEN;

/* Bytes between two samples on average; 0 while nothing is sampled. */
extern size_t hak_profile_period HAK_HIDDEN;
static inline int hak_profile_is_on(void)
{
    return atomic_load_relaxed(&hak_profile_period) != 0;
}
/* Switches it on, for whoever that is. */
int hak_profile_begin(size_t period);
/* When it was switched on first, and the period then or last. */
extern uint64_t hak_profile_began_ms HAK_HIDDEN;
extern size_t hak_profile_last_period HAK_HIDDEN;
/* Samples a second of each thread at the default period; what follows from it for the period. */
extern uint64_t hak_profile_rate HAK_HIDDEN;
extern struct profile_limit hak_profile_limit HAK_HIDDEN;
/* Sites are told apart by thread. */
extern int hak_profile_by_thread HAK_HIDDEN;

uint64_t hak_profile_now_ms(void);

/* What the calling thread allocates between the two is not sampled. Returns 0 if that is so
 * already.
 */
int hak_profile_enter(void);
void hak_profile_leave(void);

/* trigger.c. A profile is to be written: read on the layer's slow paths. */
extern uint32_t hak_profile_due HAK_HIDDEN;
/* After a sample: writes what is due. No lock held; what it allocates is not sampled. */
void hak_profile_mind(void);

/* control.c. At the start: answers who asks from outside. After a sample: ends what was asked for
   when its time is over. When the program itself starts a profile: it has no other owner. */
void hak_profile_hear(void);
void hak_profile_keep_lease(void);
void hak_profile_end_lease(void);

/* `path` has room for PATH_MAX bytes. %p in the pattern is the process's number, %n is `number`, %%
   is %; without any, .%p.%n is behind. */
void hak_profile_make_name(char *path, const char *pattern, uint32_t number);

/* write.c. Writes the raw profile. Returns 0, an errno value, or EBUSY while another thread writes
   one. */
int hak_profile_write_as(int fd, const char *reason);
/* The same to a new file, which has its name when it is whole. */
int hak_profile_write_file(const char *path, const char *reason);

/* A slab of which less than one block in so many is live is nearly empty. */
#define PROFILE_NEARLY_EMPTY 4u
/* The time line. Points lie at least `step_ms` apart; when there is no room, every second one goes,
   and the step doubles. One thread at a time adds: others leave it. */
#define PROFILE_POINTS 512u
extern struct profile_line {
    uint32_t is_busy, n;
    uint64_t step_ms, next_ms;
    struct profile_point {
        uint64_t elapsed_ms, live_bytes, resident_bytes;
    } points[PROFILE_POINTS];
} hak_profile_line HAK_HIDDEN;

/* Opens a file beside `path`, calls write with it, and gives it its name if that returns 0. 0 or an
   errno value. errno is kept. */
int hak_profile_replace_file(const char *path, int (*write)(int fd, const void *context),
                             const void *context);

/* A point of the time line, at most one in some milliseconds. */
void hak_profile_add_point(uint64_t now_ms);

HAK_EXTERN_C_END

#endif
