/* The option parser, from options.def. No locks. Called once, by the first heap. */
#include "base/options.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

#include "base/error.h"

#define OPTION(name, env, type, def, min, max, unit, text) .name = (def),
static const struct options defaults = {
#include "base/options.def"
};
struct options hak_options = {
#include "base/options.def"
};
#undef OPTION

const struct opt_row hak_opt_rows[] = {
#define OPTION(name, env, type, def, min, max, unit, text)                                         \
    {#name, env, unit, offsetof(struct options, name), OPT_##type, (def), (min), (max)},
#include "base/options.def"
#undef OPTION
};

#define ROOM(field) sizeof(((struct opt_row *)0)->field)
enum { NAME_ROOM = ROOM(name), ENV_ROOM = ROOM(env), UNIT_ROOM = ROOM(unit) };
/* The docs have the texts. */
#define OPTION(name, env, type, def, min, max, unit, text)                                         \
    HAK_STATIC_ASSERT(sizeof #name <= NAME_ROOM, "room for the name");                             \
    HAK_STATIC_ASSERT(sizeof(env) <= ENV_ROOM, "room for the variable");                           \
    HAK_STATIC_ASSERT(sizeof(unit) <= UNIT_ROOM, "room for the unit");                             \
    HAK_STATIC_ASSERT(sizeof(text) > 21, "says what it is for");
#include "base/options.def"
#undef OPTION

const size_t hak_opt_n_rows = sizeof hak_opt_rows / sizeof hak_opt_rows[0];

/* Variables that other parts of the project read: not options of the library, and not mistakes. */
static const char *const foreign[] = {"HAKMEM_LIBRARY", "HAKMEM_SECURE_LIBRARY"};

static uint64_t *slot_of(struct options *out, const struct opt_row *row)
{
    return (uint64_t *)(void *)((char *)out + row->offset);
}

void hak_opt_defaults(struct options *out)
{
    *out = defaults;
}

static int is_word(const char *text, const char *word)
{
    for (; *text && *word; text++, word++) {
        char c = *text;
        if (c >= 'A' && c <= 'Z') {
            c = (char)(c - 'A' + 'a');
        }
        if (c != *word) {
            return 0;
        }
    }
    return *text == *word;
}

static int parse_switch(const char *text, uint64_t *value)
{
    static const char *const words[] = {"0", "1", "off", "on", "no", "yes", "false", "true"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++) {
        if (is_word(text, words[i])) {
            *value = i & 1;
            return 0;
        }
    }
    return EINVAL;
}

static int suffix_shift(const char *text)
{
    static const char *const suffixes[] = {"", "k", "m", "g"};
    for (int i = 0; i < 4; i++) {
        if (is_word(text, suffixes[i])) {
            return 10 * i;
        }
    }
    return -1;
}

static int parse_number(const char *text, int is_bytes, uint64_t *value)
{
    uint64_t n = 0;
    const char *start = text;
    for (; *text >= '0' && *text <= '9'; text++) {
        if (__builtin_mul_overflow(n, (uint64_t)10, &n) ||
            __builtin_add_overflow(n, (uint64_t)(*text - '0'), &n)) {
            return ERANGE;
        }
    }
    int shift = is_bytes ? suffix_shift(text) : (*text ? -1 : 0);
    if (text == start || shift < 0) {
        return EINVAL;
    }
    return __builtin_mul_overflow(n, (uint64_t)1 << shift, value) ? ERANGE : 0;
}

/* Digits, and perhaps a point and one to three more. The value is in thousandths. */
static int parse_ratio(const char *text, uint64_t *value)
{
    char whole[24] = {0};
    uint64_t n;
    size_t i = 0;
    for (; text[i] >= '0' && text[i] <= '9' && i < sizeof whole - 1; i++) {
        whole[i] = text[i];
    }
    int error = parse_number(whole, 0, &n);
    if (error || __builtin_mul_overflow(n, (uint64_t)1000, &n)) {
        return error ? error : ERANGE;
    }
    if (text[i] == '.') {
        uint64_t place = 100;
        for (i++; text[i] >= '0' && text[i] <= '9' && place; i++, place /= 10) {
            n += (uint64_t)(text[i] - '0') * place;
        }
        if (place == 100) {
            return EINVAL;
        }
    }
    *value = n;
    return text[i] ? EINVAL : 0;
}

static int parse_limit(const char *text, uint64_t *value)
{
    if (is_word(text, "auto")) {
        *value = UINT64_MAX;
        return 0;
    }
    return parse_number(text, 1, value);
}

static int parse_rate(const char *text, uint64_t *value)
{
    if (is_word(text, "on") || is_word(text, "off")) {
        *value = is_word(text, "on") ? OPT_RATE_ON : 0;
        return 0;
    }
    return parse_number(text, 0, value);
}

/* A copy: programs write their titles over the environment's texts. The same text is copied once.
 */
static int parse_text(const char *text, uint64_t *value)
{
    static HAK_LARGE_ZEROS char texts[2 * PATH_MAX];
    size_t at = 0, n = strlen(text) + 1;
    while (texts[at] && strcmp(texts + at, text) != 0) {
        at += strlen(texts + at) + 1;
    }
    if (n == 1 || n > sizeof texts - at - 1) {
        return n == 1 ? EINVAL : ERANGE;
    }
    memcpy(texts + at, text, n);
    *value = (uint64_t)(uintptr_t)(texts + at);
    return 0;
}

static int parse_as(const struct opt_row *row, const char *text, uint64_t *value)
{
    switch (row->type) {
    case OPT_SWITCH:
        return parse_switch(text, value);
    case OPT_RATIO:
        return parse_ratio(text, value);
    case OPT_LIMIT:
        return parse_limit(text, value);
    case OPT_RATE:
        return parse_rate(text, value);
    case OPT_TEXT:
        return parse_text(text, value);
    default:
        return parse_number(text, is_word(row->unit, "bytes"), value);
    }
}

static int may_be_file(const struct opt_row *row)
{
    return row->type == OPT_SWITCH && is_word(row->unit, "file");
}

int hak_opt_parse(const struct opt_row *row, const char *text, uint64_t *value)
{
    uint64_t parsed = 0;
    if (may_be_file(row) && strchr(text, '/')) {
        return parse_text(text, value);
    }
    int error = parse_as(row, text, &parsed);
    if (error) {
        return error;
    }
    if (row->type != OPT_TEXT && (parsed < row->min || parsed > row->max)) {
        return ERANGE;
    }
    *value = parsed;
    return 0;
}

/* A value as the user wrote it, cut so that the rest of the line fits behind it. */
static void line_value(struct hak_line *line, const char *text)
{
    char start[64] = {0};
    strncpy(start, text, sizeof start - 1);
    hak_line_text(line, start);
    hak_line_text(line, strlen(text) > strlen(start) ? "..." : "");
}

void hak_opt_line_value(struct hak_line *line, const struct opt_row *row, uint64_t value)
{
    if (row->type == OPT_LIMIT && value == UINT64_MAX) {
        hak_line_text(line, "auto");
    } else if (row->type == OPT_TEXT) {
        line_value(line, value ? (const char *)(uintptr_t)value : "none");
    } else if (row->type == OPT_RATIO) {
        hak_line_ratio(line, value);
    } else if (may_be_file(row) && hak_opt_file(value)) {
        line_value(line, hak_opt_file(value));
    } else {
        hak_line_unsigned(line, value);
    }
}

static void line_bounds(struct hak_line *line, const struct opt_row *row)
{
    hak_line_text(line, row->type == OPT_RATE ? "on, off, or " : "");
    hak_line_text(line, row->type == OPT_LIMIT ? "auto, or a number of bytes (suffix k, m or g)"
                                               : "a number from ");
    if (row->type != OPT_LIMIT) {
        hak_opt_line_value(line, row, row->min);
        hak_line_text(line, " to ");
        hak_opt_line_value(line, row, row->max);
        hak_line_text(line, *row->unit ? " " : "");
        hak_line_text(line, row->unit);
        hak_line_text(line, is_word(row->unit, "bytes") ? " (suffix k, m or g)" : "");
    }
}

static void complain(const struct opt_row *row, const char *text)
{
    struct hak_line line = {0, {0}};
    hak_line_text(&line, "hakmem: ");
    hak_line_text(&line, row->env);
    hak_line_text(&line, "='");
    line_value(&line, text);
    if (row->type == OPT_SWITCH) {
        hak_line_text(&line, "' is not allowed: 0, 1, off, on, no, yes, false or true");
        hak_line_text(&line, may_be_file(row) ? ", or a file's path, with a slash" : "");
    } else if (row->type == OPT_TEXT) {
        hak_line_text(&line, "' is not allowed: the name of a ");
        hak_line_text(&line, row->unit);
    } else {
        hak_line_text(&line, "' is not allowed: ");
        line_bounds(&line, row);
    }
    hak_line_text(&line, "; using ");
    hak_opt_line_value(&line, row, row->def);
    hak_line_write(&line, 2);
}

/* The text behind `NAME=` if this entry is of that name, else NULL. */
static const char *value_of(const char *entry, const char *name)
{
    size_t n = strlen(name);
    return strncmp(entry, name, n) == 0 && entry[n] == '=' ? entry + n + 1 : NULL;
}

static int is_foreign(const char *entry)
{
    for (size_t i = 0; i < sizeof foreign / sizeof foreign[0]; i++) {
        if (value_of(entry, foreign[i])) {
            return 1;
        }
    }
    return 0;
}

static void complain_unknown(const char *entry)
{
    struct hak_line line = {0, {0}};
    hak_line_text(&line, "hakmem: unknown option '");
    line_value(&line, entry);
    hak_line_text(&line, "' ignored; allowed:");
    for (size_t i = 0; i < hak_opt_n_rows; i++) {
        hak_line_text(&line, " ");
        hak_line_text(&line, hak_opt_rows[i].env);
    }
    hak_line_write(&line, 2);
}

static void read_entry(struct options *out, const char *entry)
{
    for (size_t i = 0; i < hak_opt_n_rows; i++) {
        const char *text = value_of(entry, hak_opt_rows[i].env);
        if (text) {
            if (hak_opt_parse(&hak_opt_rows[i], text, slot_of(out, &hak_opt_rows[i]))) {
                complain(&hak_opt_rows[i], text);
            }
            return;
        }
    }
    if (!is_foreign(entry)) {
        complain_unknown(entry);
    }
}

/* Without a function of the C library, since every process comes here at its start: where no other
   part of it is needed, that would map 64 KiB of libc. */
static int is_own(const char *entry)
{
    static const char prefix[] = {'H', 'A', 'K', 'M', 'E', 'M', '_'};
    size_t i = 0;
    while (i < sizeof prefix && entry[i] == prefix[i]) {
        i++;
    }
    return i == sizeof prefix;
}

HAK_COLD void hak_opt_init(struct options *out, char **environment)
{
    hak_opt_defaults(out);
    for (char **entry = environment; entry && *entry; entry++) {
        if (is_own(*entry)) {
            read_entry(out, *entry);
        }
    }
}
