/* Options: constants after start, read once from the environment. See options.def for the table. No
   locks: written by hak_opt_init alone, which runs before the first allocation returns. */
#ifndef HAKMEM_BASE_OPTIONS_H
#define HAKMEM_BASE_OPTIONS_H

#include "base/internal.h"

#include "base/attributes.h"
#include "base/error.h"

HAK_EXTERN_C_BEGIN

struct options {
#define OPTION(name, env, type, def, min, max, unit, text) uint64_t name;
#include "base/options.def"
#undef OPTION
};

/* A rate is a number, or on for OPT_RATE_ON, or off for 0. */
enum opt_type { OPT_NUMBER, OPT_SWITCH, OPT_RATIO, OPT_LIMIT, OPT_RATE, OPT_TEXT };
#define OPT_RATE_ON 5000u

/* A row of the table, for printing and for tests. Arrays, since each pointer in a shared object
   costs the start of every process a relocation, and memory of its own. */
struct opt_row {
    char name[24], env[32], unit[24];
    uint32_t offset; /* in struct options */
    enum opt_type type;
    uint64_t def, min, max;
};

extern struct options hak_options;
extern const struct opt_row hak_opt_rows[];
extern const size_t hak_opt_n_rows;

/* Sets every option to its default. */
void hak_opt_defaults(struct options *out);
/* Reads one value (a C string) for a row. Returns 0, or EINVAL for junk and ERANGE outside [min,
   max]; *value is written on success alone. */
int hak_opt_parse(const struct opt_row *row, const char *text, uint64_t *value);
/* Appends a value as one would write it for the row: a ratio with its point, `auto`. */
void hak_opt_line_value(struct hak_line *line, const struct opt_row *row, uint64_t value);
/* The path that a switch with the unit `file` has got instead of 0 or 1, as it lies in the
   environment: to be copied at the start; NULL if it has none. */
static inline const char *hak_opt_file(uint64_t value)
{
    return value >= 4096 ? (const char *)(uintptr_t)value : NULL; /* no path lies in page 0 */
}
/* Defaults, then the environment. Every HAKMEM_* variable that is unknown or malformed is named on
   standard error with what is allowed, and the default stays. Never allocates. */
void hak_opt_init(struct options *out, char **environment);

HAK_EXTERN_C_END

#endif
