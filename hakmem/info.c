/* What programs ask of the library as a whole: whose an address is, whether all is in order, memory
   limits, ACE's state, statistics, the variant. No locks of its own. Called by programs. */
#include <string.h>

#include "ace/ace.h"
#include "ace/ace_class.h"
#include "ace/adapt.h"
#include "base/error.h"
#include "base/stats.h"
#include "base/time.h"
#include "hakmem/entry.h"
#include "hakmem/hakmem.h"
#include "hakmem/heap.h"
#include "hakmem/request.h"
#include "heap/fork.h"
#include "heap/gate.h"
#include "heap/theap.h"
#include "limit/fail.h"
#include "limit/limit.h"
#include "superslab/map.h"
#include "superslab/superslab.h"

int hak_owns(const void *p)
{
    return hak_map_get(p).tag != 0;
}

size_t hak_purge(void)
{
    hak_fork_catch_up();
    if (!hak_gate_enter()) {
        return 0; /* a trim may do nothing, and never waits for a fork */
    }
    size_t bytes = hak_request_reclaim();
    hak_gate_leave();
    return bytes + hak_theap_purge_all();
}

int hak_verify(void)
{
    enum gate_reader how = hak_gate_enter_to_read();
    if (how == GATE_REFUSED) {
        return 0; /* an error has been found, and the program lives on: no call may look at it */
    }
    int result = hak_theap_verify_all();
    result = result ? result : hak_heap_verify();
    result = result ? result : hak_ace_verify();
    result = result ? result : hak_ss_verify();
    hak_gate_leave_reader(how);
    int (*verify)(void) = atomic_load_acquire(&hak_entry_verify);
    return result || !verify ? result : verify();
}

const char *hak_variant(void)
{
    return HAKMEM_VARIANT;
}

const char *hak_version(void)
{
    return HAKMEM_VERSION;
}

static hak_fail_callback user_callback;

/* From the names of limit/fail.h to those of the public header. */
static void tell_user(size_t size, size_t align, const struct fail_path *path, int failed,
                      void *context)
{
    struct hak_fail fail = {size, align, failed, 0, {0}};
    hak_fail_callback call = atomic_load_acquire(&user_callback);
    while (fail.n_steps < HAK_FAIL_STEPS && path->reasons[fail.n_steps] != FAIL_NONE) {
        fail.steps[fail.n_steps] =
            hak_fail_reason_name((enum fail_reason)path->reasons[fail.n_steps]);
        fail.n_steps++;
    }
    if (call) {
        call(&fail, context);
    }
}

void hak_ace_on_fail(hak_fail_callback callback, void *context)
{
    hak_fail_set_callback(NULL, NULL);
    atomic_store_release(&user_callback, callback);
    hak_fail_set_callback(callback ? tell_user : NULL, context);
}

static hak_corruption_callback corruption_callback;
static void *corruption_context;

static void tell_corruption(const char *reason, const void *address)
{
    hak_corruption_callback call = atomic_load_acquire(&corruption_callback);
    if (call) {
        call(reason, address, corruption_context);
    }
}

void hak_on_corruption(hak_corruption_callback callback, void *context)
{
    atomic_store_release(&corruption_callback, (hak_corruption_callback)NULL);
    corruption_context = context;
    atomic_store_release(&corruption_callback, callback);
    atomic_store_release(&hak_fatal_tell, tell_corruption);
}

void hak_ace_state(struct hak_ace_state *out)
{
    struct adapt_summary now;
    enum gate_reader how = hak_gate_enter_to_read();
    memset(&now, 0, sizeof now);
    if (how != GATE_REFUSED) {
        hak_adapt_state(&now);
        hak_gate_leave_reader(how);
    }
    *out = (struct hak_ace_state){now.live[CONTROL_SUPERSLABS],
                                  now.live[CONTROL_RANGES],
                                  (size_t)hak_stat_get(heap_dirty_bytes),
                                  (size_t)hak_stat_get(large_cached_bytes),
                                  hak_adapt_superslab_keep(),
                                  hak_adapt_range_keep(),
                                  now.horizon_ms,
                                  now.n_epochs,
                                  now.n_longer,
                                  now.n_shorter};
}

void hak_ace_class(size_t size, struct hak_ace_class *out)
{
    struct control_class found;
    size_t bytes = size > SC_SMALL_MAX ? size : SC_SMALL_MAX + 1;
    bytes = bytes < PTRDIFF_MAX / 2 ? hak_ace_class_bytes(bytes) : PTRDIFF_MAX / 2;
    enum gate_reader how = hak_gate_enter_to_read();
    memset(out, 0, sizeof *out);
    if (how != GATE_REFUSED) {
        hak_adapt_class_state(bytes, &found);
        *out = (struct hak_ace_class){bytes,      found.live,   hak_adapt_class_keep(bytes),
                                      found.hits, found.misses, hak_time_ms_of_ns(found.age_ns)};
        hak_gate_leave_reader(how);
    }
}

static void print_field(struct hak_line *line, const char *name, size_t value)
{
    hak_line_text(line, name);
    hak_line_unsigned(line, value);
}

void hak_ace_print(int fd)
{
    struct hak_ace_state now;
    struct hak_line line = {0, {0}};
    hak_ace_state(&now);
    print_field(&line, "hakmem: ACE live=", now.live_superslabs + now.live_ranges);
    print_field(&line, " kept_superslabs=", now.kept_superslabs);
    print_field(&line, " of ", now.keep_superslabs);
    print_field(&line, " kept_ranges=", now.kept_ranges);
    print_field(&line, " of ", now.keep_ranges);
    print_field(&line, " horizon_ms=", now.horizon_ms);
    print_field(&line, " epochs=", now.epochs);
    hak_line_write(&line, fd);
    for (size_t bytes = hak_ace_class_bytes(SC_SMALL_MAX + 1); bytes <= (size_t)1 << 40;
         bytes = hak_ace_class_bytes(bytes + 1)) {
        struct hak_ace_class found;
        hak_ace_class(bytes, &found);
        if (found.hits + found.misses) {
            line.length = 0;
            print_field(&line, "hakmem: ACE class=", bytes);
            print_field(&line, " live=", found.live);
            print_field(&line, " keep=", found.keep);
            print_field(&line, " hits=", found.hits);
            print_field(&line, " misses=", found.misses);
            print_field(&line, " age_ms=", found.age_ms);
            hak_line_write(&line, fd);
        }
    }
}

void hak_limit_set(size_t soft, size_t hard)
{
    (void)hak_theap_acquire(); /* the options come first */
    if ((soft == HAK_LIMIT_AUTO || hard == HAK_LIMIT_AUTO) && !hak_limit_has_read_cgroup()) {
        hak_limit_read_cgroup();
    }
    hak_limit_configure(soft == HAK_LIMIT_AUTO ? LIMIT_AUTO : soft,
                        hard == HAK_LIMIT_AUTO ? LIMIT_AUTO : hard);
    if (hak_limit_soft() && hak_limit_committed() > hak_limit_soft()) {
        (void)hak_purge();
    }
}

void hak_limit_get(size_t *soft, size_t *hard, size_t *committed)
{
    *soft = (size_t)hak_limit_soft();
    *hard = (size_t)hak_limit_hard();
    *committed = (size_t)hak_limit_committed();
}
