/* Statistics for the program itself: hak_stat, hak_stats_json, hak_print_stats. No lock of hakmem;
   a survey lies in a mapping of its own while it is needed. Called by programs. */
#include "hakmem/tell.h"

#include <errno.h>
#include <unistd.h>

#include "base/lock_holds.h"
#include "base/os.h"
#include "base/stats.h"
#include "hakmem/hakmem.h"
#include "hakmem/survey.h"
#include "heap/fork.h"

struct told {
    struct survey survey;
    uint32_t n_heaps;
    size_t bytes; /* of the mapping */
    struct survey_heap heaps[];
};

static void drop(struct told *told)
{
    int error = hak_os_unmap(told, told->bytes);
    (void)error; /* then it stays: some pages */
}

/* NULL if the system refuses memory. */
static struct told *take(int with_heaps)
{
    size_t page = hak_os_page_size();
    uint32_t n = with_heaps ? hak_survey_n_heaps(&hak_survey_own, &hak_layout) : 0;
    size_t bytes = (sizeof(struct told) + n * sizeof(struct survey_heap) + page - 1) & ~(page - 1);
    struct told *told = (struct told *)hak_os_map_aligned(NULL, bytes, page);
    if (told) {
        told->bytes = bytes;
        told->n_heaps = n;
        if (hak_survey_take(&hak_survey_own, &hak_layout, &told->survey, told->heaps, n) != 0) {
            drop(told); /* its own memory can be read: not reached */
            told = NULL;
        }
    }
    return told;
}

int hak_stat(const char *name, long long *value)
{
    int64_t found = 0;
    int saved = errno, error = 0;
    if (!hak_survey_find_kept(name, &found)) {
        struct told *told = take(0);
        error = told ? hak_survey_find(&told->survey, name, &found) : ENOMEM;
        if (told) {
            drop(told);
        }
    }
    if (!error) {
        *value = (long long)found;
    }
    errno = saved;
    return error;
}

int hak_stats_json(int fd)
{
    int saved = errno;
    struct told *told = take(1);
    if (!told) {
        errno = saved;
        return ENOMEM;
    }
    struct survey_subject self = {(int64_t)getpid(), program_invocation_short_name, 0};
    hak_survey_json(&told->survey, told->heaps, told->n_heaps, &self, fd);
    drop(told);
    errno = saved;
    return 0;
}

void hak_tell_stats(int fd, const char *whose)
{
    int saved = errno;
    hak_stat_print_of(fd, whose);
    struct told *told = take(0);
    if (told) {
#define DERIVED(name, kind, unit, text)                                                            \
    hak_stat_print_row(fd, #name, told->survey.derived.name, unit, whose);
#include "base/stats.def"
        drop(told);
    }
    hak_lock_print_worst(fd);
    errno = saved;
}

void hak_print_stats(int fd)
{
    hak_tell_stats(fd, NULL);
}
