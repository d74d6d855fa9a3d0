/* The controller: how many freed bytes are worth keeping, from what was wanted lately.
   docs/ace_control.md explains the law.

   It looks at live bytes (in use by the program) of each pool (superslabs, ranges), of both
   together, and of each ACE class. What slabs have never handed out is live in the sum alone. Time
   is cut into epochs, ended by the clock or by a number of operations; the horizon is the last
   CONTROL_EPOCHS of them. Target:
     keep = min(highest live bytes within the horizon - live bytes now, budget)
   for each pool, each class, and the total, where a pool's highest is taken a little higher
   (`slack`), since not every freed byte fits the next request. Both adapt: memory that is fetched
   again soon after it was purged makes the horizon twice as long and, if that costs much of the
   time, the pool's slack larger; kept memory that no request wanted for a whole horizon makes them
   shorter.

   Decisions only: no system call, no memory; the time is passed in, so that the same operations at
   the same times give the same state. Takes no lock: in the allocator adapt.c calls every function,
   but those that count a class, with its lock (rank CONTROL) held. */
#ifndef HAKMEM_ACE_CONTROL_H
#define HAKMEM_ACE_CONTROL_H

#include "base/internal.h"

#include "ace/ace_class.h"
#include "base/attributes.h"

HAK_EXTERN_C_BEGIN

#define CONTROL_EPOCHS      8u
#define CONTROL_MIN_MS      8u
#define CONTROL_LONGEST     8u /* the longest horizon, in shortest ones */
#define CONTROL_EPOCH_OPS   1048576u
#define CONTROL_SLACK_PARTS 32u
/* By pool: spans and slabs are cut from whatever is free; cached ranges serve what they fit. */
#define CONTROL_MIN_SLACK_SUPERSLABS 1u
#define CONTROL_MIN_SLACK_RANGES     2u
#define CONTROL_MAX_SLACK            24u
/* And large blocks have this part more, or so much: of the highest bytes of ranges, and of spans'
   bytes now. The fewer blocks there are, the more their sum swings, and the less fits. */
#define CONTROL_SPARE             ((uint64_t)16 * HAK_MIB)
#define CONTROL_SPARE_PARTS       20u
#define CONTROL_SPARE_PARTS_SPANS 12u
/* Kept beyond the slack, bytes: what a small heap swings by. */
#define CONTROL_LEAST ((uint64_t)256 * HAK_KIB)

enum control_pool { CONTROL_SUPERSLABS, CONTROL_RANGES, CONTROL_TOTAL, CONTROL_POOLS };

/* Where no other thread purges: at most so much is kept, or this part of the highest live bytes. */
#define CONTROL_LONE_LEAST ((uint64_t)8 * HAK_MIB)
#define CONTROL_LONE_PARTS 8u

struct control_class {
    uint64_t live, peaks[CONTROL_EPOCHS]; /* bytes now, and the highest of each epoch */
    uint64_t hits, misses; /* requests served from kept memory, and by fresh memory; of those at
                              the same time some are missed */
    uint64_t age_ns;       /* average age of kept memory when it is used again (moves by 1/8) */
};

struct control {
    struct control_class classes[ACE_CLASSES];
    uint64_t live[CONTROL_POOLS], peaks[CONTROL_POOLS][CONTROL_EPOCHS];
    uint64_t most[CONTROL_POOLS]; /* the highest of the peaks */
    uint32_t epoch;               /* index of the present one */
    uint32_t ops;                 /* in it */
    uint64_t epoch_started_ns;
    uint64_t base_ms; /* the shortest horizon */
    uint64_t horizon_ms;
    uint64_t untouched;               /* what slabs have never handed out, part of the total */
    uint64_t spans;                   /* live bytes of superslabs that large blocks have */
    uint32_t slack[CONTROL_TOTAL];    /* of CONTROL_SLACK_PARTS of the pool's highest live bytes */
    uint64_t repented[CONTROL_TOTAL]; /* of this epoch's regret: what made slack larger */
    uint64_t purged[CONTROL_TOTAL]
                   [CONTROL_EPOCHS]; /* bytes purged, by pool and epoch: wanted again soon? */
    uint64_t regret[CONTROL_TOTAL];  /* bytes that the pool has fetched again in this epoch */
    uint64_t n_longer, n_shorter, n_epochs;
    uint64_t now_ns;
    /* Whether another thread purges what falls due while the program sleeps. If not, see
       docs/ace_control.md: what was purged in valleys and not fetched again; what fetching has cost
       beyond its share of the time; the most that `owed` was since that was last paid, within what
       the heap was lately; whether so much is owed that more is kept. */
    int is_helped, is_lifted;
    uint64_t owed[CONTROL_TOTAL], debt_ns, swing;
};

/* An empty history, except for what is live; the horizon is between base_ms (the option's delay, at
   least CONTROL_MIN_MS) and CONTROL_LONGEST times that. Zeroed memory is a control before its
   start. */
void hak_control_start(struct control *control, uint64_t now_ns, uint64_t base_ms);
/* Whether another thread purges. At first none does. */
void hak_control_set_helped(struct control *control, int is_helped);
/* So many of superslabs' live bytes are large blocks'. At first none are. */
void hak_control_set_spans(struct control *control, uint64_t bytes);
/* Slabs have so many bytes more, which they have never handed out. At first none. */
void hak_control_set_untouched(struct control *control, uint64_t bytes);
/* Live bytes of the two pools are these now. Ends epochs as time goes by. */
void hak_control_note(struct control *control, uint64_t superslab_live, uint64_t range_live,
                      uint64_t now_ns);
/* So many operations were not noted, since no note would have changed anything; live bytes were
   these after the last of them. A note follows. */
void hak_control_skip(struct control *control, uint32_t n, uint64_t superslab_live,
                      uint64_t range_live);
/* A class's live bytes change. This and the next two may be called by several threads at once, and
   while another function runs: they count atomically, and a peak may miss what raced. */
void hak_control_class_note(struct control *control, unsigned class_index, int64_t bytes);
/* A request of the class was served from kept memory of that age. */
void hak_control_hit(struct control *control, unsigned class_index, uint64_t age_ns);
/* A request of the class needed fresh memory. */
void hak_control_miss(struct control *control, unsigned class_index);
/* The pool took `bytes` from the system. */
void hak_control_fresh(struct control *control, enum control_pool pool, uint64_t bytes);
/* The pool purged kept memory. */
void hak_control_purged(struct control *control, enum control_pool pool, uint64_t bytes);
/* Bytes worth keeping, within the budget. */
uint64_t hak_control_keep(const struct control *control, enum control_pool pool, uint64_t budget);
uint64_t hak_control_class_keep(const struct control *control, unsigned class_index);
/* What hak_control_keep is computed from, and what stays so until the pool's live bytes exceed the
   peak of this epoch, the epoch ends, bytes are fetched or purged, or the valley is entered or
   left: what the pool may have, live and kept together; what the total may keep at most
   (UINT64_MAX: no bound); below so many live bytes the heap is in a valley (UINT64_MAX: it is in
   one now); when the epoch ends by the clock. */
uint64_t hak_control_most(const struct control *control, enum control_pool pool);
uint64_t hak_control_lone(const struct control *control);
uint64_t hak_control_valley(const struct control *control);
uint64_t hak_control_ends_ns(const struct control *control);
/* 0 if its equations hold, of the pools and of each class. */
int hak_control_verify(const struct control *control);
/* The parts of it that hold while other threads call the functions of classes. */
int hak_control_verify_pools(const struct control *control);
int hak_control_verify_classes(const struct control *control);

HAK_EXTERN_C_END

#endif
