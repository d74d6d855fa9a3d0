/* What the measurements say, and how sure that is. No locks, no threads. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "advise/advise.h"

/* Of all contenders together: one wrong verdict in twenty such reports. */
#define ALPHA 0.05

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double median_of(const double *sorted, size_t n)
{
    return n == 0 ? 0 : (sorted[(n - 1) / 2] + sorted[n / 2]) / 2;
}

/* The k for which the k-th value from below and from above (from 1) hold the median: the chance of
   fewer than k of n fair coins showing heads is at most alpha / 2. 0 if there is none. */
static size_t rank_of(size_t n, double alpha)
{
    double term = pow(0.5, (double)n), sum = 0;
    size_t k = 0;
    while (k < n && sum + term <= alpha / 2) {
        sum += term;
        term *= (double)(n - k) / (double)(k + 1);
        k++;
    }
    return k;
}

struct advise_interval advise_interval_of(double *ratios, size_t n, size_t n_contenders)
{
    struct advise_interval made = {0, 0, INFINITY, 0};
    qsort(ratios, n, sizeof *ratios, by_size);
    made.median = median_of(ratios, n);
    size_t k = rank_of(n, ALPHA / (double)(n_contenders ? n_contenders : 1));
    if (k > 0) {
        made.low = ratios[k - 1];
        made.high = ratios[n - k];
        made.is_told_apart = made.low > 1 || made.high < 1;
    }
    return made;
}

struct advise_interval advise_compare(const struct advise_plan *plan, size_t c,
                                      enum advise_kind kind)
{
    double ratios[ADVISE_MOST_ROUNDS] = {0};
    for (size_t i = 0; i < plan->n_rounds; i++) {
        ratios[i] = plan->contenders[c].value[kind][i] / plan->contenders[0].value[kind][i];
    }
    return advise_interval_of(ratios, plan->n_rounds, plan->n_contenders - 1);
}

double advise_median(const struct advise_plan *plan, size_t c, enum advise_kind kind)
{
    double values[ADVISE_MOST_ROUNDS];
    memcpy(values, plan->contenders[c].value[kind], plan->n_rounds * sizeof *values);
    qsort(values, plan->n_rounds, sizeof *values, by_size);
    return median_of(values, plan->n_rounds);
}

size_t advise_best(const struct advise_plan *plan, enum advise_kind kind, int settings_alone)
{
    size_t best = 0;
    double least = 1;
    for (size_t c = 1; c < plan->n_contenders; c++) {
        struct advise_interval against = advise_compare(plan, c, kind);
        if (settings_alone && !plan->contenders[c].setting) {
            continue;
        }
        if (against.is_told_apart && against.median < least) {
            least = against.median;
            best = c;
        }
    }
    return best;
}
