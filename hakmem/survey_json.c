/* A survey as JSON. No locks, no memory: lines by write(2). Called by hak_stats_json, and by the
   `hakmem` command. */
#include "hakmem/survey.h"

#include "ace/ace_class.h"
#include "base/error.h"
#include "base/time.h"

static void number(struct hak_line *line, const char *name, int64_t value)
{
    hak_line_text(line, "\"");
    hak_line_text(line, name);
    hak_line_text(line, value < 0 ? "\":-" : "\":");
    hak_line_unsigned(line, value < 0 ? -(uint64_t)value : (uint64_t)value);
}

/* null for 0. */
static void number_or_null(struct hak_line *line, const char *name, uint64_t value)
{
    if (value) {
        number(line, name, (int64_t)value);
    } else {
        hak_line_text(line, "\"");
        hak_line_text(line, name);
        hak_line_text(line, "\":null");
    }
}

/* Bytes that are no ASCII are left as they are if they are UTF-8; others become `?`. */
static size_t utf8_bytes(const unsigned char *c)
{
    size_t n = *c < 0x80 ? 1 : *c >= 0xC2 && *c < 0xE0 ? 2 : *c >= 0xE0 && *c < 0xF0 ? 3 : 0;
    n = *c >= 0xF0 && *c < 0xF5 ? 4 : n;
    for (size_t i = 1; i < n; i++) {
        if ((c[i] & 0xC0) != 0x80) {
            return 0;
        }
    }
    int is_bad = (c[0] == 0xE0 && c[1] < 0xA0) || (c[0] == 0xED && c[1] > 0x9F) ||
                 (c[0] == 0xF0 && c[1] < 0x90) || (c[0] == 0xF4 && c[1] > 0x8F);
    return n > 1 && is_bad ? 0 : n;
}

static void text(struct hak_line *line, const char *name, const char *value)
{
    hak_line_text(line, "\"");
    hak_line_text(line, name);
    hak_line_text(line, "\":\"");
    for (const unsigned char *c = (const unsigned char *)value; *c && line->length < 800;) {
        char piece[8] = {0};
        size_t n = utf8_bytes(c);
        if (*c == '"' || *c == '\\') {
            piece[0] = '\\';
            piece[1] = (char)*c;
        } else if (*c < 0x20) {
            const char *escape = *c < 16 ? "\\u000" : "\\u001";
            for (size_t i = 0; i < 5; i++) {
                piece[i] = escape[i];
            }
            piece[5] = "0123456789abcdef"[*c % 16];
        } else {
            piece[0] = '?';
            for (size_t i = 0; i < n; i++) {
                piece[i] = (char)c[i];
            }
        }
        hak_line_text(line, piece);
        c += n ? n : 1;
    }
    hak_line_text(line, "\"");
}

static void comma(struct hak_line *line)
{
    hak_line_text(line, ",");
}

struct list {
    int fd, n;
};

/* Begins an entry's line of a list. */
static struct hak_line next(struct list *list)
{
    struct hak_line line = {0, {0}};
    hak_line_text(&line, list->n++ ? ",{" : "{");
    return line;
}

static void end(struct list *list, struct hak_line *line)
{
    hak_line_text(line, "}");
    hak_line_write(line, list->fd);
}

static void plain(int fd, const char *words)
{
    struct hak_line line = {0, {0}};
    hak_line_text(&line, words);
    hak_line_write(&line, fd);
}

static void write_head(const struct survey *survey, const struct survey_subject *subject, int fd)
{
    struct hak_line line = {0, {0}};
    hak_line_text(&line, "{");
    text(&line, "schema", "hakmem-stats/1");
    comma(&line);
    number(&line, "pid", subject->pid);
    comma(&line);
    text(&line, "version", survey->layout.release);
    comma(&line);
    text(&line, "variant", survey->layout.variant);
    comma(&line);
    number_or_null(&line, "resident_bytes", subject->resident);
    comma(&line);
    number_or_null(&line, "limit_soft", survey->limit_soft);
    comma(&line);
    number_or_null(&line, "limit_hard", survey->limit_hard);
    hak_line_text(&line, ",\"fragmentation\":");
    hak_line_ratio(&line, hak_survey_fragmentation(survey));
    comma(&line);
    hak_line_write(&line, fd);
    text(&line, "program", subject->program);
    hak_line_text(&line, ",");
    hak_line_write(&line, fd);
}

static void write_stats(const struct survey *survey, int fd)
{
    struct hak_line line = {0, {0}};
    int n = 0;
    hak_line_text(&line, "\"stats\":{");
#define ROW(name, value)                                                                           \
    hak_line_text(&line, n++ ? "," : "");                                                          \
    number(&line, name, value);                                                                    \
    if (line.length > 800) {                                                                       \
        hak_line_write(&line, fd);                                                                 \
    }
#define STAT(name, kind, unit, text)    ROW(#name, survey->stats.name)
#define DERIVED(name, kind, unit, text) ROW(#name, survey->derived.name)
#include "base/stats.def"
#undef ROW
    hak_line_text(&line, "},");
    hak_line_write(&line, fd);
}

static void write_ace(const struct survey *survey, int fd)
{
    struct hak_line line = {0, {0}};
    const struct control *control = &survey->control;
    hak_line_text(&line, "\"ace\":{");
    number(&line, "kept_superslabs", survey->stats.heap_dirty_bytes);
    comma(&line);
    number(&line, "keep_superslabs", (int64_t)hak_survey_keep(survey, CONTROL_SUPERSLABS));
    comma(&line);
    number(&line, "kept_ranges", survey->stats.large_cached_bytes);
    comma(&line);
    number(&line, "keep_ranges", (int64_t)hak_survey_keep(survey, CONTROL_RANGES));
    comma(&line);
    number(&line, "horizon_ms", (int64_t)control->horizon_ms);
    comma(&line);
    number(&line, "epochs", (int64_t)control->n_epochs);
    comma(&line);
    number(&line, "longer", (int64_t)control->n_longer);
    comma(&line);
    number(&line, "shorter", (int64_t)control->n_shorter);
    hak_line_text(&line, "},");
    hak_line_write(&line, fd);
}

static void write_classes(const struct survey *survey, int fd)
{
    struct list list = {fd, 0};
    plain(fd, "\"classes\":[");
    for (uint32_t c = 0; c < SC_N_CLASSES; c++) {
        const struct survey_class *row = &survey->classes[c];
        if (row->slabs) {
            struct hak_line line = next(&list);
            number(&line, "bytes", (int64_t)hak_sc_table[c].size);
            comma(&line);
            number(&line, "slabs", (int64_t)row->slabs);
            comma(&line);
            number(&line, "live", (int64_t)row->live);
            comma(&line);
            number(&line, "cached", (int64_t)row->cached);
            comma(&line);
            number(&line, "free", (int64_t)row->free);
            end(&list, &line);
        }
    }
}

static void write_large_classes(const struct survey *survey, int fd)
{
    struct list list = {fd, 0};
    plain(fd, "],\"large_classes\":[");
    for (size_t bytes = hak_ace_class_bytes(SC_SMALL_MAX + 1); bytes <= (size_t)1 << 46;
         bytes = hak_ace_class_bytes(bytes + 1)) {
        unsigned i = hak_ace_class_index(bytes);
        const struct control_class *row = &survey->control.classes[i];
        if (i < ACE_CLASSES && row->hits + row->misses) {
            struct hak_line line = next(&list);
            number(&line, "bytes", (int64_t)bytes);
            comma(&line);
            number(&line, "live_bytes", (int64_t)row->live);
            comma(&line);
            number(&line, "hits", (int64_t)row->hits);
            comma(&line);
            number(&line, "misses", (int64_t)row->misses);
            comma(&line);
            number(&line, "age_ms", (int64_t)hak_time_ms_of_ns(row->age_ns));
            end(&list, &line);
        }
    }
}

static void write_heaps(const struct survey_heap *heaps, uint32_t n_heaps, int fd)
{
    struct list list = {fd, 0};
    plain(fd, "],\"heaps\":[");
    for (uint32_t i = 0; i < n_heaps; i++) {
        if (heaps[i].kind) {
            struct hak_line line = next(&list);
            number(&line, "id", (int64_t)heaps[i].id);
            comma(&line);
            text(&line, "kind", hak_survey_kind_name(&heaps[i]));
            comma(&line);
            text(&line, "state", hak_survey_state_name(&heaps[i]));
            comma(&line);
            number(&line, "slabs", (int64_t)heaps[i].slabs);
            comma(&line);
            number(&line, "live_bytes", (int64_t)heaps[i].live_bytes);
            comma(&line);
            number(&line, "cached_bytes", (int64_t)heaps[i].cached_bytes);
            comma(&line);
            number(&line, "free_bytes", (int64_t)heaps[i].free_bytes);
            end(&list, &line);
        }
    }
    plain(fd, "]}");
}

void hak_survey_json(const struct survey *survey, const struct survey_heap *heaps, uint32_t n_heaps,
                     const struct survey_subject *subject, int fd)
{
    write_head(survey, subject, fd);
    write_stats(survey, fd);
    write_ace(survey, fd);
    write_classes(survey, fd);
    write_large_classes(survey, fd);
    write_heaps(heaps, n_heaps, fd);
}
