/* The advice as text and as a page. No locks, no threads. */
#include <math.h>
#include <string.h>

#include "advise/advise.h"

static const struct {
    const char *name, *less, *more;
} kinds[ADVISE_N_KINDS] = {
    [ADVISE_TIME] = {"time", "less time", "more time"},
    [ADVISE_PEAK] = {"peak memory", "less peak memory", "more peak memory"},
    [ADVISE_RESIDENT] = {"resident memory", "less resident memory", "more resident memory"},
};

enum { CELL = 64, WIDTH = 28 };

/* 0.9 -> -10 */
static double percent(double ratio)
{
    return (ratio - 1) * 100;
}

static void print_value(char *out, enum advise_kind kind, double value)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB"};
    size_t unit = 0;
    if (kind == ADVISE_TIME) {
        snprintf(out, CELL, value < 1 ? "%.1f ms" : "%.2f s", value < 1 ? value * 1000 : value);
        return;
    }
    for (; value >= 1024 && unit < 3; unit++) {
        value /= 1024;
    }
    snprintf(out, CELL, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
}

/* "+3.1 % (+1.0 to +5.2)"; "-" where nothing can be said. */
static void print_interval(char *out, const struct advise_interval *interval)
{
    if (!isfinite(interval->high) || !isfinite(interval->median)) {
        snprintf(out, CELL, "-");
        return;
    }
    snprintf(out, CELL, "%+.1f %% (%+.1f to %+.1f)", percent(interval->median),
             percent(interval->low), percent(interval->high));
}

/* "12 % less peak memory (10 to 14)" */
static void write_change(enum advise_kind kind, const struct advise_interval *interval, FILE *out)
{
    int is_less = interval->median < 1;
    double a = fabs(percent(is_less ? interval->high : interval->low));
    double b = fabs(percent(is_less ? interval->low : interval->high));
    fprintf(out, "%.1f %% %s (%.1f to %.1f)", fabs(percent(interval->median)),
            is_less ? kinds[kind].less : kinds[kind].more, a, b);
}

/* "NAME would need 12 % less peak memory (10 to 14), and 3 % more time (1 to 5)" */
static void write_gain(const struct advise_plan *plan, size_t c, enum advise_kind kind, FILE *out)
{
    struct advise_interval gain = advise_compare(plan, c, kind);
    fprintf(out, "%s would need ", plan->contenders[c].name);
    write_change(kind, &gain, out);
    for (int other = 0; other < ADVISE_N_KINDS; other++) {
        struct advise_interval price = advise_compare(plan, c, (enum advise_kind)other);
        if (other != (int)kind && price.is_told_apart) {
            fputs(", and ", out);
            write_change((enum advise_kind)other, &price, out);
        }
    }
}

void advise_write_sentence(const struct advise_plan *plan, enum advise_kind kind, FILE *out)
{
    size_t best = advise_best(plan, kind, 0), setting = advise_best(plan, kind, 1);
    fprintf(out, "%c%s: ", kinds[kind].name[0] - 'a' + 'A', kinds[kind].name + 1);
    if (!isfinite(advise_compare(plan, 1, kind).high)) {
        fputs("too few rounds to say.", out);
    } else if (!best) {
        fputs("nothing needs less than hakmem with its defaults.", out);
    } else {
        write_gain(plan, best, kind, out);
        if (setting && setting != best) {
            fputs("; of hakmem's settings, ", out);
            write_gain(plan, setting, kind, out);
        }
        fputc('.', out);
    }
}

static const char limits[] =
    "Played were the calls of malloc and free alone: not the program's work between them, nor the "
    "time that passes there. What a setting does while a program sleeps cannot be seen so.";

static void write_missing(const struct advise_plan *plan, FILE *out)
{
    for (size_t i = 0; i < plan->n_missing; i++) {
        fprintf(out, "%s%s", i ? ", " : "Not installed, and not compared: ", plan->missing[i]);
    }
    fputs(plan->n_missing ? ".\n" : "", out);
}

void advise_write_text(const struct advise_plan *plan, const struct advise_trace *trace, FILE *out)
{
    char cells[ADVISE_N_KINDS][CELL], alive[CELL];
    print_value(alive, ADVISE_PEAK, (double)trace->peak_bytes);
    fprintf(out, "%s: %llu calls of %llu thread%s, at most %s alive; %zu rounds\n\n",
            trace->program, (unsigned long long)trace->calls, (unsigned long long)trace->threads,
            trace->threads == 1 ? "" : "s", alive, plan->n_rounds);
    for (int kind = 0; kind < ADVISE_N_KINDS; kind++) {
        advise_write_sentence(plan, (enum advise_kind)kind, out);
        fputc('\n', out);
    }
    fprintf(out, "\n%-28s", "");
    for (int kind = 0; kind < ADVISE_N_KINDS; kind++) {
        fprintf(out, "  %*s", WIDTH, kinds[kind].name);
    }
    for (size_t c = 0; c < plan->n_contenders; c++) {
        fprintf(out, "\n%-28s", plan->contenders[c].name);
        for (int kind = 0; kind < ADVISE_N_KINDS; kind++) {
            if (c == 0) {
                print_value(cells[kind], (enum advise_kind)kind,
                            advise_median(plan, c, (enum advise_kind)kind));
            } else {
                struct advise_interval against = advise_compare(plan, c, (enum advise_kind)kind);
                print_interval(cells[kind], &against);
            }
            fprintf(out, "  %*s", WIDTH, cells[kind]);
        }
    }
    fprintf(out, "\n\nIn brackets: where the median lies, with 95 %% for all rows together.\n%s\n",
            limits);
    write_missing(plan, out);
}

/* ------------------------------------------------------------------------------------------------
   the page */

static const char style[] =
    ":root { color-scheme: light dark; --back: #fbfbfa; --card: #fff; --ink: #1c1d20;"
    " --dim: #62656d; --line: #dcdde2; --less: #1a7f37; --more: #b42318; --same: #868e96; }\n"
    "@media (prefers-color-scheme: dark) { :root { --back: #131417; --card: #1b1d21;"
    " --ink: #e8e9ec; --dim: #a1a4ad; --line: #33363d; --less: #4ac26b; --more: #ff7b72;"
    " --same: #8b8f98; } }\n"
    "* { box-sizing: border-box; }\n"
    "body { margin: 0 auto; max-width: 1180px; padding: 18px 20px 40px; background: var(--back);"
    " color: var(--ink); font: 15px/1.45 system-ui, sans-serif; }\n"
    "h1 { font-size: 22px; margin: 0 0 6px; overflow-wrap: anywhere; }\n"
    "h2 { font-size: 18px; margin: 0 0 6px; }\n"
    "p { margin: 4px 0 10px; overflow-wrap: anywhere; }\n"
    ".dim { color: var(--dim); font-size: 13px; }\n"
    "section { background: var(--card); border: 1px solid var(--line); border-radius: 10px;"
    " padding: 14px 16px; margin: 14px 0; }\n"
    ".row { display: grid; grid-template-columns: 240px 1fr 230px; gap: 4px 14px; font-size: 13px;"
    " padding: 3px 0; border-bottom: 1px solid var(--line); align-items: center;"
    " font-variant-numeric: tabular-nums; }\n"
    ".row span:first-child { overflow-wrap: anywhere; }\n"
    ".row span:last-child { text-align: right; }\n"
    ".scale { position: relative; height: 16px; margin: 0 6px; }\n"
    ".scale i { position: absolute; top: 6px; height: 4px; border-radius: 2px; }\n"
    ".scale b { position: absolute; top: 3px; width: 10px; height: 10px; margin-left: -5px;"
    " border-radius: 5px; }\n"
    ".scale u { position: absolute; top: 0; width: 1px; height: 16px; background: var(--dim); }\n"
    ".less { background: var(--less); } .more { background: var(--more); }"
    " .same { background: var(--same); }\n"
    "@media (max-width: 700px) { body { padding: 12px 10px 40px; } .row {"
    " grid-template-columns: 1fr 1fr; } .scale { grid-row: 2; grid-column: 1 / -1; } }\n";

static void write_escaped(const char *text, FILE *out)
{
    for (; *text; text++) {
        switch (*text) {
        case '<':
            fputs("&lt;", out);
            break;
        case '&':
            fputs("&amp;", out);
            break;
        default:
            fputc(*text, out);
        }
    }
}

/* Where a ratio stands between the ends of the scale, in percent of its width. */
static double place(double ratio, double most)
{
    double at = 50 + 50 * percent(ratio) / most;
    return at < 0 ? 0 : at > 100 ? 100 : at;
}

/* Half of the scale: the largest difference of a median, with some room, at most 100 %. */
static double scale_of(const struct advise_plan *plan, enum advise_kind kind)
{
    double most = 2;
    for (size_t c = 1; c < plan->n_contenders; c++) {
        double far = fabs(percent(advise_compare(plan, c, kind).median));
        most = far > most ? far : most;
    }
    return most * 1.15 > 100 ? 100 : most * 1.15;
}

static void write_row(const struct advise_plan *plan, size_t c, enum advise_kind kind, double most,
                      FILE *out)
{
    char cell[CELL];
    struct advise_interval against = advise_compare(plan, c, kind);
    const char *kind_of_row = !against.is_told_apart ? "same"
                              : against.median < 1   ? "less"
                                                     : "more";
    fputs("<div class=\"row\"><span>", out);
    write_escaped(plan->contenders[c].name, out);
    fputs("</span><span class=\"scale\"><u style=\"left:50%\"></u>", out);
    if (isfinite(against.high)) {
        double low = place(against.low, most), high = place(against.high, most);
        fprintf(out, "<i class=\"%s\" style=\"left:%.1f%%;width:%.1f%%\"></i>", kind_of_row, low,
                high - low);
    }
    fprintf(out, "<b class=\"%s\" style=\"left:%.1f%%\"></b></span>", kind_of_row,
            place(against.median, most));
    print_interval(cell, &against);
    fprintf(out, "<span>%s</span></div>\n", cell);
}

static void write_kind(const struct advise_plan *plan, enum advise_kind kind, FILE *out)
{
    char cell[CELL];
    double most = scale_of(plan, kind);
    print_value(cell, kind, advise_median(plan, 0, kind));
    fprintf(out,
            "<section><h2>%c%s</h2>\n<p class=\"dim\">hakmem with its defaults: %s. The scale "
            "goes from %.0f %% less to %.0f %% more.</p>\n",
            kinds[kind].name[0] - 'a' + 'A', kinds[kind].name + 1, cell, most, most);
    for (size_t c = 1; c < plan->n_contenders; c++) {
        write_row(plan, c, kind, most, out);
    }
    fputs("</section>\n", out);
}

void advise_write_page(const struct advise_plan *plan, const struct advise_trace *trace, FILE *out)
{
    char alive[CELL];
    print_value(alive, ADVISE_PEAK, (double)trace->peak_bytes);
    fprintf(out,
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n"
            "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n"
            "<title>Advice on memory</title>\n<style>\n%s</style>\n</head>\n<body>\n<h1>",
            style);
    write_escaped(trace->program, out);
    fprintf(
        out,
        "</h1>\n<p class=\"dim\">%llu calls of %llu thread%s, at most %s alive; %zu rounds</p>\n",
        (unsigned long long)trace->calls, (unsigned long long)trace->threads,
        trace->threads == 1 ? "" : "s", alive, plan->n_rounds);
    for (int kind = 0; kind < ADVISE_N_KINDS; kind++) {
        fputs("<p>", out);
        advise_write_sentence(plan, (enum advise_kind)kind, out);
        fputs("</p>\n", out);
    }
    for (int kind = 0; kind < ADVISE_N_KINDS; kind++) {
        write_kind(plan, (enum advise_kind)kind, out);
    }
    fprintf(out,
            "<p class=\"dim\">A dot: the median of the rounds, against hakmem with its defaults in "
            "the same round. A bar: where it lies, with 95 %% for all rows of a table together; "
            "grey if it is not told apart from hakmem. %s ",
            limits);
    write_missing(plan, out);
    fputs("</p>\n</body>\n</html>\n", out);
}
