/* The statistics table and its text form. No locks. */
#include "base/stats.h"

#include "base/error.h"

struct hak_stats hak_stats;

void hak_stat_print_row(int fd, const char *name, int64_t value, const char *unit,
                        const char *whose)
{
    struct hak_line line = {0, {0}};
    hak_line_text(&line, "hakmem: ");
    hak_line_text(&line, name);
    hak_line_text(&line, " = ");
    hak_line_text(&line, value < 0 ? "-" : "");
    hak_line_unsigned(&line, value < 0 ? -(uint64_t)value : (uint64_t)value);
    hak_line_text(&line, " ");
    hak_line_text(&line, unit);
    if (whose) {
        hak_line_text(&line, " (");
        hak_line_text(&line, whose);
        hak_line_text(&line, ")");
    }
    hak_line_write(&line, fd);
}

void hak_stat_print_of(int fd, const char *whose)
{
#define STAT(name, kind, unit, text) hak_stat_print_row(fd, #name, hak_stat_get(name), unit, whose);
#include "base/stats.def"
}

void hak_stat_print(int fd)
{
    hak_stat_print_of(fd, NULL);
}
