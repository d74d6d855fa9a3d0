/* The statistics table and its text form. No locks. */
#include "base/stats.h"

#include "base/error.h"

struct hak_stats hak_stats;

static void print_row(int fd, const char *name, int64_t value, const char *unit)
{
    struct hak_line line = {0, {0}};
    hak_line_text(&line, "hakmem: ");
    hak_line_text(&line, name);
    hak_line_text(&line, " = ");
    hak_line_text(&line, value < 0 ? "-" : "");
    hak_line_unsigned(&line, value < 0 ? -(uint64_t)value : (uint64_t)value);
    hak_line_text(&line, " ");
    hak_line_text(&line, unit);
    hak_line_write(&line, fd);
}

void hak_stat_print(int fd)
{
#define STAT(name, kind, unit, text) print_row(fd, #name, hak_stat_get(name), unit);
#include "base/stats.def"
#undef STAT
}
