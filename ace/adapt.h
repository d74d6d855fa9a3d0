/* The controller of this process: what control.h decides, applied to superslabs and ranges. Decides
   nothing while an option pins the choice (HAKMEM_ACE_KEEP, HAKMEM_ACE_HORIZON_MS), and nothing is
   kept with HAKMEM_PURGE_DELAY_MS=0.

   Any thread. One lock (rank CONTROL), held for the arithmetic alone; the locks of ACE and of the
   pool may be held. */
#ifndef HAKMEM_ACE_ADAPT_H
#define HAKMEM_ACE_ADAPT_H

#include "base/internal.h"

#include "ace/control.h"

HAK_EXTERN_C_BEGIN

/* Memory of a pool was taken, `fresh` bytes of it from the system; returned to the pool at
   that time; purged. */
void hak_adapt_taken(enum control_pool pool, size_t fresh);
void hak_adapt_given(uint64_t now_ns);
void hak_adapt_purged(enum control_pool pool, size_t bytes);
/* Bytes that ranges have kept are superslabs' now, who may keep them besides, until they are used
   or due. */
void hak_adapt_moved(size_t bytes);
/* Another thread purges what falls due from now on, or none does any more. Takes no lock. */
void hak_adapt_set_helped(int helped);
/* A block of the class was allocated just now, from memory that was kept since then (hit) or not;
   freed; or became another size. */
void hak_adapt_block_taken(size_t class_bytes, int is_hit, uint64_t since_ns);
void hak_adapt_block_given(size_t class_bytes);
void hak_adapt_block_resized(size_t before, size_t after);
/* Live bytes of a class change, as hak_adapt_block_taken and _given say: of what threads keep
   (span_cache.h). */
void hak_adapt_class_taken(size_t class_bytes);
void hak_adapt_class_given(unsigned class_index, size_t bytes);
/* How many bytes superslabs may keep besides what threads keep in spans; ranges, in all and of a
 * class; for how long (ms). */
size_t hak_adapt_superslab_keep(void);
size_t hak_adapt_range_keep(void);
/* Whether a thread may keep a span of so many bytes that is being freed, beyond what is reserved
   (span_cache.h). */
int hak_adapt_may_keep_span(size_t bytes);
size_t hak_adapt_class_keep(size_t class_bytes);
uint64_t hak_adapt_delay_ms(void);
/* 1 if ranges, or superslabs, keep clearly more than they should, since the other pool has grown.
 */
int hak_adapt_ranges_exceed(void);
/* 1 if more is kept, rows of tiny blocks in depots included, than superslabs may keep. */
int hak_adapt_lists_exceed(void);
int hak_adapt_superslabs_exceed(void);
/* The state now. */
struct adapt_summary {
    uint64_t live[CONTROL_POOLS];
    uint64_t horizon_ms, n_epochs, n_longer, n_shorter;
};
void hak_adapt_state(struct adapt_summary *out);
void hak_adapt_class_state(size_t class_bytes, struct control_class *out);
/* For who reads from outside (hakmem/layout.h). */
extern struct control hak_adapt_control HAK_HIDDEN;
/* Starts again with an empty history. For tests and replays. */
void hak_adapt_forget(void);
int hak_adapt_verify(void);

HAK_EXTERN_C_END

#endif
