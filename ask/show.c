/* Prints looks as text: summaries, tables, lines. */
#include "ask/show.h"

#include <getopt.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "ace/ace_class.h"
#include "owner/owner.h"

const char *show_bytes(double bytes)
{
    static char buffers[8][24];
    static unsigned next;
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    char *out = buffers[next++ % 8];
    size_t unit = 0;
    double size = bytes < 0 ? -bytes : bytes;
    while (size >= 1024 && unit < 4) {
        size /= 1024;
        unit++;
    }
    snprintf(out, sizeof buffers[0], "%s%.*f %s", bytes < 0 ? "-" : "", unit && size < 1000 ? 1 : 0,
             size, units[unit]);
    return out;
}

static const char *limit_text(uint64_t limit)
{
    return limit ? show_bytes((double)limit) : "none";
}

static void count_heaps(const struct ask_look *look, unsigned counts[4])
{
    memset(counts, 0, 4 * sizeof *counts);
    for (uint32_t i = 0; i < look->n_heaps; i++) {
        const struct survey_heap *heap = &look->heaps[i];
        if (heap->kind == OWNER_THREAD) {
            counts[heap->state == SURVEY_LIVE ? 0 : 1]++;
        } else if (heap->kind) {
            counts[heap->kind == OWNER_HEAP ? 2 : 3]++;
        }
    }
}

void show_summary(FILE *out, const struct ask_target *target, const struct ask_look *look)
{
    const struct survey *survey = &look->survey;
    const struct hak_stats *stats = &survey->stats;
    unsigned heaps[4];
    count_heaps(look, heaps);
    fprintf(out, "%s (%s): hakmem %s %s\n", target->name, target->program, survey->layout.release,
            survey->layout.variant);
#define LINE(name, value) fprintf(out, "  %-16s%12s", name, show_bytes((double)(value)))
    LINE("live", survey->derived.live_bytes);
    fprintf(out, "  in blocks that the program holds\n");
    LINE("cached", survey->derived.cached_bytes);
    fprintf(out, "  freed, in thread caches and on their way back\n");
    LINE("free in slabs", survey->derived.slab_free_bytes);
    fprintf(out, "  of which %s were never touched\n",
            show_bytes((double)stats->heap_untouched_bytes));
    LINE("kept", survey->derived.kept_bytes);
    fprintf(out, "  freed, for reuse; ACE would keep %s\n",
            show_bytes((double)hak_survey_keep(survey, CONTROL_SUPERSLABS) +
                       (double)hak_survey_keep(survey, CONTROL_RANGES)));
    LINE("held", survey->derived.held_bytes);
    fprintf(out, "  %s committed (at most %s), %s metadata\n",
            show_bytes((double)(stats->committed_bytes + stats->limbo_bytes)),
            show_bytes((double)stats->committed_peak_bytes),
            show_bytes((double)survey->derived.metadata_bytes));
    if (look->resident) {
        LINE("resident", look->resident);
        fprintf(out, "  of the whole process\n");
    }
    uint64_t fragmentation = hak_survey_fragmentation(survey);
    fprintf(out, "  %-16s%10" PRIu64 ".%" PRIu64 "%%  of what is held is not live\n",
            "fragmentation", fragmentation / 10, fragmentation % 10);
    fprintf(out, "  %-16s%12s  soft %s\n", "limit", limit_text(survey->limit_hard),
            limit_text(survey->limit_soft));
    fprintf(out, "  %-16s%12u  of threads; %u of ended threads, %u first-class, %u pools\n",
            "heaps", heaps[0], heaps[1], heaps[2], heaps[3]);
    fprintf(out,
            "  %-16s%12" PRId64 "  requests; steps: threshold %" PRId64 ", exhaustion %" PRId64
            ", system %" PRId64 "\n",
            "failed", stats->failed_requests, stats->fail_threshold, stats->fail_exhaustion,
            stats->fail_map);
    fprintf(out,
            "  %-16s%9" PRIu64 " ms  horizon; %" PRIu64 " epochs, longer %" PRIu64
            " times, shorter %" PRIu64 " times\n",
            "ACE", survey->control.horizon_ms, survey->control.n_epochs, survey->control.n_longer,
            survey->control.n_shorter);
#undef LINE
}

/* --- tables --- */

/* A size class, small or large. */
struct row {
    uint64_t size, live_blocks, live_bytes, cached, free, slabs, hits, misses;
    double rate; /* of live bytes, a second */
};

enum { MOST_ROWS = SC_N_CLASSES + ACE_CLASSES };

static unsigned collect(const struct ask_look *look, struct row *rows)
{
    unsigned n = 0;
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        const struct survey_class *class = &look->survey.classes[c];
        uint64_t size = hak_sc_table[c].size;
        rows[n++] = (struct row){.size = size,
                                 .live_blocks = class->live,
                                 .live_bytes = class->live * size,
                                 .cached = class->cached * size,
                                 .free = class->free * size,
                                 .slabs = class->slabs};
    }
    size_t size = hak_ace_class_bytes(SC_SMALL_MAX + 1);
    for (unsigned i = hak_ace_class_index(size); i < ACE_CLASSES;
         size = hak_ace_class_bytes(size + 1), i = hak_ace_class_index(size)) {
        const struct control_class *class = &look->survey.control.classes[i];
        rows[n++] = (struct row){
            .size = size, .live_bytes = class->live, .hits = class->hits, .misses = class->misses};
    }
    return n;
}

static double seconds(const struct ask_look *look, const struct ask_look *before)
{
    double passed = before ? (double)(look->at_ns - before->at_ns) / 1e9 : 0;
    return passed > 0 ? passed : 0;
}

static uint64_t cost(const struct row *row)
{
    return row->live_bytes + row->cached + row->free;
}

static int by_cost(const void *a, const void *b)
{
    uint64_t x = cost(a), y = cost(b);
    return x < y ? 1 : x > y ? -1 : 0;
}

void show_classes(FILE *out, const struct ask_look *look, const struct ask_look *before,
                  unsigned most)
{
    static struct row rows[MOST_ROWS], earlier[MOST_ROWS];
    double passed = seconds(look, before);
    unsigned n = collect(look, rows);
    if (before) {
        (void)collect(before, earlier);
    }
    for (unsigned i = 0; i < n && passed > 0; i++) {
        rows[i].rate = ((double)rows[i].live_bytes - (double)earlier[i].live_bytes) / passed;
    }
    if (most) {
        qsort(rows, n, sizeof *rows, by_cost);
    }
    fprintf(out, "%10s %10s %10s %10s %10s %7s %10s %10s%s\n", "size", "live", "blocks", "cached",
            "free", "slabs", "hits", "misses", before ? "   live/s" : "");
    unsigned shown = 0;
    for (unsigned i = 0; i < n && (!most || shown < most); i++) {
        const struct row *row = &rows[i];
        int is_large = row->size > SC_SMALL_MAX;
        if (!cost(row) && !row->hits && !row->misses) {
            continue;
        }
        shown++;
        fprintf(out, "%10s %10s ", show_bytes((double)row->size),
                show_bytes((double)row->live_bytes));
        if (is_large) {
            fprintf(out, "%10s %10s %10s %7s %10" PRIu64 " %10" PRIu64, "-", "-", "-", "-",
                    row->hits, row->misses);
        } else {
            fprintf(out, "%10" PRIu64 " %10s %10s %7" PRIu64 " %10s %10s", row->live_blocks,
                    show_bytes((double)row->cached), show_bytes((double)row->free), row->slabs, "-",
                    "-");
        }
        fprintf(out, before ? " %10s\n" : "\n", show_bytes(row->rate));
    }
}

static int by_slabs(const void *a, const void *b)
{
    const struct survey_heap *x = *(const struct survey_heap *const *)a,
                             *y = *(const struct survey_heap *const *)b;
    return x->slabs != y->slabs ? (x->slabs < y->slabs ? 1 : -1) : (x->id < y->id ? -1 : 1);
}

void show_heaps(FILE *out, const struct ask_look *look, unsigned most)
{
    const struct survey_heap **heaps = calloc(look->n_heaps + 1, sizeof *heaps);
    unsigned n = 0;
    for (uint32_t i = 0; heaps && i < look->n_heaps; i++) {
        if (look->heaps[i].kind) {
            heaps[n++] = &look->heaps[i];
        }
    }
    if (most && n) {
        qsort(heaps, n, sizeof *heaps, by_slabs);
    }
    fprintf(out, "%6s %-12s %-7s %7s %10s %10s %10s\n", "heap", "kind", "state", "slabs", "live",
            "cached", "free");
    for (unsigned i = 0; i < n && (!most || i < most); i++) {
        fprintf(out, "%6u %-12s %-7s %7u %10s %10s %10s\n", heaps[i]->id,
                hak_survey_kind_name(heaps[i]), hak_survey_state_name(heaps[i]), heaps[i]->slabs,
                show_bytes((double)heaps[i]->live_bytes),
                show_bytes((double)heaps[i]->cached_bytes),
                show_bytes((double)heaps[i]->free_bytes));
    }
    if (most && n > most) {
        fprintf(out, "       and %u more\n", n - most);
    }
    free(heaps);
}

void show_rows(FILE *out, const struct ask_look *look)
{
#define STAT(name, kind, unit, text)                                                               \
    fprintf(out, "%s = %" PRId64 " %s\n", #name, look->survey.stats.name, unit);
#define DERIVED(name, kind, unit, text)                                                            \
    fprintf(out, "%s = %" PRId64 " %s\n", #name, look->survey.derived.name, unit);
#include "base/stats.def"
}

/* --- Prometheus --- */

static void label(FILE *out, const char *value)
{
    for (const char *c = value; *c; c++) {
        if (*c == '\n') {
            fputs("\\n", out);
        } else {
            fprintf(out, "%s%c", *c == '"' || *c == '\\' ? "\\" : "", *c);
        }
    }
}

struct prometheus {
    FILE *out;
    const struct ask_target *target;
};

static void metric(const struct prometheus *self, const char *name, const char *type,
                   const char *help)
{
    fprintf(self->out, "# HELP hakmem_%s %s\n# TYPE hakmem_%s %s\n", name, help, name, type);
}

/* One sample; `more` are further labels, each behind a comma. */
static void sample(const struct prometheus *self, const char *name, const char *more, double value)
{
    fprintf(self->out, "hakmem_%s{pid=\"%" PRId64 "\",program=\"", name, self->target->pid);
    label(self->out, self->target->program);
    fprintf(self->out, "\"%s} %.17g\n", more, value);
}

static void row(const struct prometheus *self, const char *name, const char *kind, const char *text,
                int64_t value)
{
    char full[96];
    int is_counter = strcmp(kind, "COUNTER") == 0;
    snprintf(full, sizeof full, "%s%s", name, is_counter ? "_total" : "");
    metric(self, full, is_counter ? "counter" : "gauge", text);
    sample(self, full, "", (double)value);
}

static void small_classes(const struct prometheus *self, const struct ask_look *look)
{
    char labels[96];
    metric(self, "class_blocks", "gauge", "Blocks of a size class in slabs, by what they are.");
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        const struct survey_class *class = &look->survey.classes[c];
        const uint64_t values[] = {class->live, class->cached, class->free};
        static const char *const states[] = {"live", "cached", "free"};
        for (size_t i = 0; class->slabs && i < 3; i++) {
            snprintf(labels, sizeof labels, ",size=\"%u\",state=\"%s\"", hak_sc_table[c].size,
                     states[i]);
            sample(self, "class_blocks", labels, (double)values[i]);
        }
    }
}

static void large_classes(const struct prometheus *self, const struct ask_look *look)
{
    static const char *const names[] = {"large_class_live_bytes", "large_class_hits_total",
                                        "large_class_misses_total"};
    static const char *const texts[] = {"Live bytes of a size class above 32 KiB.",
                                        "Requests of the class served from kept memory.",
                                        "Requests of the class that needed fresh memory."};
    static struct row rows[MOST_ROWS];
    char labels[96];
    unsigned n = collect(look, rows);
    for (size_t k = 0; k < 3; k++) {
        metric(self, names[k], k ? "counter" : "gauge", texts[k]);
        for (unsigned i = SC_N_CLASSES; i < n; i++) {
            const uint64_t values[] = {rows[i].live_bytes, rows[i].hits, rows[i].misses};
            if (rows[i].hits + rows[i].misses) {
                snprintf(labels, sizeof labels, ",size=\"%" PRIu64 "\"", rows[i].size);
                sample(self, names[k], labels, (double)values[k]);
            }
        }
    }
}

static void heaps(const struct prometheus *self, const struct ask_look *look)
{
    char labels[128];
    metric(self, "heap_bytes", "gauge", "Bytes of a heap's slabs, by what they are.");
    for (uint32_t i = 0; i < look->n_heaps; i++) {
        const struct survey_heap *heap = &look->heaps[i];
        const uint64_t values[] = {heap->live_bytes, heap->cached_bytes, heap->free_bytes};
        static const char *const states[] = {"live", "cached", "free"};
        for (size_t k = 0; heap->kind && k < 3; k++) {
            snprintf(labels, sizeof labels, ",heap=\"%u\",kind=\"%s\",owner=\"%s\",state=\"%s\"",
                     heap->id, hak_survey_kind_name(heap), hak_survey_state_name(heap), states[k]);
            sample(self, "heap_bytes", labels, (double)values[k]);
        }
    }
}

void show_prometheus(FILE *out, const struct ask_target *target, const struct ask_look *look)
{
    const struct prometheus self = {out, target};
    const struct survey *survey = &look->survey;
    char labels[128];
    metric(&self, "info", "gauge", "Version and variant of the library.");
    snprintf(labels, sizeof labels, ",version=\"%s\",variant=\"%s\"", survey->layout.release,
             survey->layout.variant);
    sample(&self, "info", labels, 1);
#define STAT(name, kind, unit, text)    row(&self, #name, #kind, text, survey->stats.name);
#define DERIVED(name, kind, unit, text) row(&self, #name, #kind, text, survey->derived.name);
#include "base/stats.def"
    row(&self, "process_resident_bytes", "LEVEL", "Resident memory of the whole process.",
        (int64_t)look->resident);
    row(&self, "limit_soft_bytes", "LEVEL", "Soft memory limit; 0: none.",
        (int64_t)survey->limit_soft);
    row(&self, "limit_hard_bytes", "LEVEL", "Hard memory limit; 0: none.",
        (int64_t)survey->limit_hard);
    metric(&self, "fragmentation_ratio", "gauge", "The part of held_bytes that is not live.");
    sample(&self, "fragmentation_ratio", "", (double)hak_survey_fragmentation(survey) / 1000);
    small_classes(&self, look);
    large_classes(&self, look);
    heaps(&self, look);
}

/* --- what all have in common --- */

int show_refusal(const struct subcommand *self, const struct ask_error *error)
{
    command_complain(self, "%s", error->text);
    return error->status;
}

int show_open(const struct subcommand *self, struct ask_target *target, char **operands,
              const char *core)
{
    struct ask_error error = {0, ""};
    if (core && operands[0]) {
        command_misused(self, "'%s' is one argument too many: --core takes the place of a PID",
                        operands[0]);
    }
    if (!core && !operands[0]) {
        command_misused(self, "needs a PID, or --core FILE");
    }
    if (!core && operands[1]) {
        command_misused(self, "'%s' is one argument too many", operands[1]);
    }
    int status = core ? ask_open_core(target, core, &error)
                      : ask_open_process(
                            target, (int64_t)command_number(self, "PID", operands[0], 1), &error);
    return status ? show_refusal(self, &error) : 0;
}
