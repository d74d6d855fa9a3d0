/* What `hakmem advise` compares, measures and concludes. One process; the programs that it measures
   run one at a time. */
#ifndef HAKMEM_ADVISE_ADVISE_H
#define HAKMEM_ADVISE_ADVISE_H

#include <limits.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

enum { ADVISE_MOST_CONTENDERS = 24, ADVISE_MOST_ROUNDS = 99, ADVISE_FEWEST_ROUNDS = 6 };

/* What is measured of a run: seconds, the most bytes resident, and the mean of them. Of both kinds
   of bytes what the replay's own tables need is taken off. */
enum advise_kind { ADVISE_TIME, ADVISE_PEAK, ADVISE_RESIDENT, ADVISE_N_KINDS };

/* An allocator, or a setting of hakmem. */
struct advise_contender {
    const char *name;       /* as people read it: "HAKMEM_BIN_ADAPT=0", "jemalloc" */
    const char *setting;    /* "NAME=VALUE" for the environment, or NULL */
    char library[PATH_MAX]; /* to preload; "" for libc's malloc */
    double value[ADVISE_N_KINDS][ADVISE_MOST_ROUNDS];
};

struct advise_plan {
    struct advise_contender contenders[ADVISE_MOST_CONTENDERS]; /* the first one is hakmem itself */
    size_t n_contenders, n_rounds;
    const char *missing[ADVISE_MOST_CONTENDERS]; /* allocators that are not installed */
    size_t n_missing;
};

/* Fills in hakmem under `library`, its settings, libc's malloc, and the allocators that are
   installed. */
void advise_find_contenders(struct advise_plan *plan, const char *library);

/* Plays a trace once and sets value[kind][round]. Returns NULL, or what went wrong; a round of
   SIZE_MAX proves instead that the contender serves malloc. `replay` is the program. */
const char *advise_measure(struct advise_contender *contender, const char *replay,
                           const char *trace, unsigned repeat, size_t round);

/* --- conclusions --- */

/* By how much a contender differs from hakmem with its defaults, as a ratio of the two: 0.9 is a
   tenth less. The interval holds the true median with the confidence that is left when all
   contenders are judged at once: 95 % together. */
struct advise_interval {
    double median, low, high;
    int is_told_apart; /* the interval does not hold 1 */
};

/* The n values are sorted in place. By order statistics (the sign test turned round): whatever the
   distribution is. With too few values the interval is from 0 to infinity. */
struct advise_interval advise_interval_of(double *ratios, size_t n, size_t n_contenders);

/* Of contender c (not 0) against contender 0, round by round. */
struct advise_interval advise_compare(const struct advise_plan *plan, size_t c,
                                      enum advise_kind kind);

/* The median of a contender's own values. */
double advise_median(const struct advise_plan *plan, size_t c, enum advise_kind kind);

/* Which contender needs least, if it is told apart from hakmem's defaults; else 0. With
   settings_alone among hakmem's settings. */
size_t advise_best(const struct advise_plan *plan, enum advise_kind kind, int settings_alone);

/* The sentence on one kind: what would be gained, by what, and what that would cost. */
void advise_write_sentence(const struct advise_plan *plan, enum advise_kind kind, FILE *out);

/* What was recorded, for the outputs. */
struct advise_trace {
    const char *program;
    uint64_t calls, threads, peak_bytes;
};

void advise_write_text(const struct advise_plan *plan, const struct advise_trace *trace, FILE *out);

/* One page that loads nothing. */
void advise_write_page(const struct advise_plan *plan, const struct advise_trace *trace, FILE *out);

#endif
