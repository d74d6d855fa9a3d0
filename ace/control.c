/* The control law. Plain data, no lock, no clock: adapt.c has both. Called by adapt.c and by
   replays. */
#include "ace/control.h"

#include <string.h>

#include "base/atomic.h"
#include "base/time.h"
#include "base/verify.h"

#define EPOCH_MASK (CONTROL_EPOCHS - 1)
/* The horizon grows when more than this part of what was purged within it is fetched again, */
#define REGRET_SHIFT 2
/* and shrinks when the bytes kept over all of it without use are more than this part of what is
   live or kept. */
#define IDLE_SHIFT 3
#define AGE_SHIFT  3
/* A page costs 1.5 us to fetch (docs/ace_control.md): a pool that fetches more of what it purged
   than this many bytes a microsecond spends more than 1/32 of the time on it. */
#define DEAR_BYTES_A_US (4096u * 2 / (3 * 32))
/* The same in nanoseconds a byte, as a fraction. */
#define FETCH_NS_NUMERATOR   3u
#define FETCH_NS_DENOMINATOR 8u
/* Without help, fetching again what no thread would have purged in time may cost this part of the
   time for good, */
#define LONE_SHARE_SHIFT 6
/* and, in quarters, so many times the fetching of what a valley has purged in advance: to have been
   wrong twice may be chance, the third time it is a habit. Below the other value it is paid. */
#define LONE_LIFT_QUARTERS  8u
#define LONE_LOWER_QUARTERS 1u
/* The heap is in a valley below this part of its highest live bytes. */
#define VALLEY_PARTS 4u
/* Less than this is not worth a decision. */
#define GRAIN ((uint64_t)2 * HAK_MIB)

HAK_STATIC_ASSERT((CONTROL_EPOCHS & EPOCH_MASK) == 0, "epochs are counted modulo a power of two");

static const uint32_t least_slack[CONTROL_TOTAL] = {
    [CONTROL_SUPERSLABS] = CONTROL_MIN_SLACK_SUPERSLABS,
    [CONTROL_RANGES] = CONTROL_MIN_SLACK_RANGES,
};

static uint64_t highest(const uint64_t *peaks)
{
    uint64_t most = 0;
    for (uint32_t i = 0; i < CONTROL_EPOCHS; i++) {
        uint64_t peak = atomic_load_relaxed(&peaks[i]);
        most = peak > most ? peak : most;
    }
    return most;
}

static uint64_t sum(const uint64_t *values)
{
    uint64_t total = 0;
    for (uint32_t i = 0; i < CONTROL_EPOCHS; i++) {
        total += values[i];
    }
    return total;
}

/* Other threads may be counting in it: `live` is never written. */
static void start_class(struct control_class *class)
{
    atomic_store_relaxed(&class->hits, (uint64_t)0);
    atomic_store_relaxed(&class->misses, (uint64_t)0);
    atomic_store_relaxed(&class->age_ns, (uint64_t)0);
    for (uint32_t i = 0; i < CONTROL_EPOCHS; i++) {
        atomic_store_relaxed(&class->peaks[i], i ? 0 : atomic_load_relaxed(&class->live));
    }
}

HAK_COLD void hak_control_start(struct control *control, uint64_t now_ns, uint64_t base_ms)
{
    /* Before the first start nothing is in the classes but what was counted lately; and they are
       four pages, which short programs never touch. */
    for (uint32_t i = 0; i < ACE_CLASSES && control->slack[CONTROL_SUPERSLABS]; i++) {
        struct control_class *class = &control->classes[i];
        if (class->hits | class->misses |
            highest(class->peaks)) { /* else it is fresh, and its page perhaps untouched */
            start_class(class);
        }
    }
    memset(control->peaks, 0, sizeof control->peaks);
    memset(control->most, 0, sizeof control->most);
    memset(control->purged, 0, sizeof control->purged);
    atomic_store_relaxed(&control->epoch, 0u);
    control->ops = 0;
    memset(control->regret, 0, sizeof control->regret);
    control->n_longer = control->n_shorter = control->n_epochs = 0;
    control->epoch_started_ns = control->now_ns = now_ns;
    memcpy(control->slack, least_slack, sizeof control->slack);
    memset(control->repented, 0, sizeof control->repented);
    memset(control->owed, 0, sizeof control->owed);
    control->debt_ns = control->swing = 0;
    control->is_lifted = 0;
    control->base_ms = control->horizon_ms = base_ms > CONTROL_MIN_MS ? base_ms : CONTROL_MIN_MS;
}

void hak_control_set_helped(struct control *control, int is_helped)
{
    control->is_helped = is_helped;
}

void hak_control_set_spans(struct control *control, uint64_t bytes)
{
    control->spans = bytes;
}

void hak_control_set_untouched(struct control *control, uint64_t bytes)
{
    control->untouched = bytes;
}

static uint64_t fetch_ns(uint64_t bytes)
{
    return bytes / FETCH_NS_DENOMINATOR * FETCH_NS_NUMERATOR;
}

/* No thread helps, and little is live of what was lately: these may be the last calls. */
static int is_in_valley(const struct control *control)
{
    return !control->is_helped && !control->is_lifted &&
           control->live[CONTROL_TOTAL] < control->most[CONTROL_TOTAL] / VALLEY_PARTS;
}

/* What a swing takes from valleys: what they have purged, but not what was never wanted again of a
   heap that was larger then. */
static uint64_t swing_bytes(const struct control *control)
{
    uint64_t owed = control->owed[CONTROL_SUPERSLABS] + control->owed[CONTROL_RANGES];
    uint64_t most = control->most[CONTROL_TOTAL] > GRAIN ? control->most[CONTROL_TOTAL] : GRAIN;
    return owed < GRAIN ? GRAIN : owed < most ? owed : most;
}

/* Time goes by, and pays. */
static void pay(struct control *control, uint64_t elapsed_ns)
{
    uint64_t paid = elapsed_ns >> LONE_SHARE_SHIFT;
    control->debt_ns -= paid < control->debt_ns ? paid : control->debt_ns;
    if (!control->debt_ns) {
        control->swing = swing_bytes(control);
    }
    if (control->debt_ns < fetch_ns(control->swing) / 4 * LONE_LOWER_QUARTERS) {
        control->is_lifted = 0;
    }
}

/* `bytes` have been fetched, perhaps again. */
static void owe(struct control *control, enum control_pool pool, uint64_t bytes)
{
    uint64_t again = bytes < control->owed[pool] ? bytes : control->owed[pool];
    control->owed[pool] -= again;
    control->debt_ns += fetch_ns(again);
    if (control->debt_ns > fetch_ns(control->swing) / 4 * LONE_LIFT_QUARTERS) {
        control->is_lifted = 1;
    }
}

/* Whether the pool has fetched much of what it had purged. (What one pool fetches after the
   other purged it is a change of phase, and no mistake.) */
static int regrets(const struct control *control, enum control_pool pool)
{
    return control->regret[pool] > GRAIN &&
           control->regret[pool] > sum(control->purged[pool]) >> REGRET_SHIFT;
}

/* What the pool has fetched again since the epoch began costs more than its share of the time: it
   gets as much more slack as would have spared the rest, at once. */
static void adapt_slack(struct control *control, enum control_pool pool)
{
    uint64_t elapsed_ns = control->now_ns - control->epoch_started_ns;
    uint64_t least_ns = hak_time_ns_of_ms(control->base_ms) / CONTROL_EPOCHS;
    uint64_t dear = (elapsed_ns > least_ns ? elapsed_ns : least_ns) / 1000 * DEAR_BYTES_A_US;
    uint64_t free = (dear > GRAIN ? dear : GRAIN) + control->repented[pool];
    uint64_t part = control->most[pool] / CONTROL_SLACK_PARTS;
    if (part && control->regret[pool] >= free + part && control->slack[pool] < CONTROL_MAX_SLACK) {
        uint64_t parts = (control->regret[pool] - free) / part;
        uint32_t room = CONTROL_MAX_SLACK - control->slack[pool];
        parts = parts < room ? parts : room;
        control->slack[pool] += (uint32_t)parts;
        control->repented[pool] += parts * part;
    }
}

/* What was kept beyond the least was kept in vain: a quarter of it less. */
static void less_slack(struct control *control)
{
    for (int pool = 0; pool < CONTROL_TOTAL; pool++) {
        control->slack[pool] -= (control->slack[pool] - least_slack[pool] + 3) / 4;
    }
}

/* Once a horizon: a pool that regrets nothing tries with one part less. */
static void try_less_slack(struct control *control)
{
    for (int pool = 0; pool < CONTROL_TOTAL; pool++) {
        if (control->slack[pool] > least_slack[pool] && control->regret[pool] <= GRAIN) {
            control->slack[pool]--;
        }
    }
}

/* Of a horizon that ends: was what went back wanted again, was what was kept of use? */
static void adapt_horizon(struct control *control, uint64_t forgotten)
{
    uint64_t live = control->live[CONTROL_TOTAL], still = control->most[CONTROL_TOTAL];
    if (regrets(control, CONTROL_RANGES) || regrets(control, CONTROL_SUPERSLABS)) {
        if (control->horizon_ms < control->base_ms * CONTROL_LONGEST) {
            control->horizon_ms *= 2;
            control->n_longer++;
        }
        memset(control->purged, 0, sizeof control->purged);
    } else if (forgotten > still + GRAIN && forgotten - still > forgotten >> IDLE_SHIFT &&
               forgotten > live) {
        /* A peak of more than 1/8 above all later ones is forgotten: what was kept for it was kept
           in vain. */
        if (control->horizon_ms > control->base_ms) {
            control->horizon_ms /= 2;
            control->n_shorter++;
        }
        less_slack(control);
    }
    if (control->epoch == 0) {
        try_less_slack(control);
    }
    memset(control->regret, 0, sizeof control->regret);
    memset(control->repented, 0, sizeof control->repented);
}

static void next_epoch(struct control *control)
{
    uint32_t next = (control->epoch + 1) & EPOCH_MASK;
    uint64_t forgotten = control->peaks[CONTROL_TOTAL][next];
    atomic_store_relaxed(&control->epoch, next);
    control->ops = 0;
    control->n_epochs++;
    for (int pool = 0; pool < CONTROL_POOLS; pool++) {
        control->peaks[pool][next] = control->live[pool];
        control->most[pool] = highest(control->peaks[pool]);
    }
    for (uint32_t i = 0; i < ACE_CLASSES; i++) {
        struct control_class *class = &control->classes[i];
        uint64_t live = atomic_load_relaxed(&class->live);
        if (atomic_load_relaxed(&class->peaks[next]) != live) {
            atomic_store_relaxed(&class->peaks[next], live);
        }
    }
    adapt_horizon(control, forgotten);
    control->purged[CONTROL_SUPERSLABS][next] = control->purged[CONTROL_RANGES][next] = 0;
}

static void end_epochs(struct control *control, uint64_t now_ns)
{
    uint64_t epoch_ns = hak_time_ns_of_ms(control->horizon_ms) / CONTROL_EPOCHS;
    if (now_ns < control->now_ns) {
        return; /* another thread read the clock later, and was first */
    }
    control->now_ns = now_ns;
    for (uint32_t n = 0; n < CONTROL_EPOCHS && now_ns - control->epoch_started_ns >= epoch_ns;
         n++) {
        next_epoch(control);
        control->epoch_started_ns += epoch_ns;
        epoch_ns = hak_time_ns_of_ms(control->horizon_ms) / CONTROL_EPOCHS;
    }
    if (now_ns - control->epoch_started_ns >= epoch_ns) {
        control->epoch_started_ns = now_ns; /* a long silence: all is forgotten */
    }
    if (++control->ops >= CONTROL_EPOCH_OPS) {
        next_epoch(control);
        control->epoch_started_ns = now_ns;
    }
}

static void set_live(struct control *control, uint64_t superslabs, uint64_t ranges)
{
    control->live[CONTROL_SUPERSLABS] = superslabs;
    control->live[CONTROL_RANGES] = ranges;
    control->live[CONTROL_TOTAL] = superslabs + control->untouched + ranges;
}

void hak_control_note(struct control *control, uint64_t superslab_live, uint64_t range_live,
                      uint64_t now_ns)
{
    uint64_t before_ns = control->now_ns;
    end_epochs(control, now_ns);
    set_live(control, superslab_live, range_live);
    for (int pool = 0; pool < CONTROL_POOLS; pool++) {
        uint64_t *peak = &control->peaks[pool][control->epoch];
        *peak = control->live[pool] > *peak ? control->live[pool] : *peak;
        control->most[pool] = *peak > control->most[pool] ? *peak : control->most[pool];
    }
    pay(control, control->now_ns - before_ns);
}

void hak_control_skip(struct control *control, uint32_t n, uint64_t superslab_live,
                      uint64_t range_live)
{
    if (n) {
        control->ops += n < CONTROL_EPOCH_OPS ? n : CONTROL_EPOCH_OPS;
        set_live(control, superslab_live, range_live);
    }
}

void hak_control_class_note(struct control *control, unsigned class_index, int64_t bytes)
{
    struct control_class *class = &control->classes[class_index];
    uint64_t live = atomic_add_relaxed(&class->live, (uint64_t)bytes) + (uint64_t)bytes;
    uint64_t *peak = &class->peaks[atomic_load_relaxed(&control->epoch)];
    if (bytes > 0 && live > atomic_load_relaxed(peak)) {
        atomic_store_relaxed(peak, live);
    }
}

void hak_control_hit(struct control *control, unsigned class_index, uint64_t age_ns)
{
    struct control_class *class = &control->classes[class_index];
    uint64_t age = atomic_load_relaxed(&class->age_ns);
    uint64_t hits = atomic_load_relaxed(&class->hits);
    age = hits ? age - (age >> AGE_SHIFT) + (age_ns >> AGE_SHIFT) : age_ns;
    atomic_store_relaxed(&class->hits, hits + 1);
    atomic_store_relaxed(&class->age_ns, age);
}

void hak_control_miss(struct control *control, unsigned class_index)
{
    uint64_t *misses = &control->classes[class_index].misses;
    atomic_store_relaxed(misses, atomic_load_relaxed(misses) + 1);
}

void hak_control_fresh(struct control *control, enum control_pool pool, uint64_t bytes)
{
    uint64_t gone = sum(control->purged[pool]);
    uint64_t most = gone > control->regret[pool] ? gone - control->regret[pool] : 0;
    control->regret[pool] += bytes < most ? bytes : most;
    adapt_slack(control, pool);
    owe(control, pool, bytes);
}

void hak_control_purged(struct control *control, enum control_pool pool, uint64_t bytes)
{
    control->purged[pool][control->epoch] += bytes;
    if (is_in_valley(control)) {
        control->owed[pool] += bytes;
        uint64_t swing = swing_bytes(control);
        control->swing = swing > control->swing ? swing : control->swing;
    }
}

/* What a pool has beyond its highest live bytes `most`. */
static uint64_t slack_bytes(const struct control *control, enum control_pool pool, uint64_t most)
{
    uint64_t part = most / CONTROL_SLACK_PARTS;
    uint64_t spare = pool == CONTROL_RANGES
                         ? part * CONTROL_SPARE_PARTS
                         : control->spans / CONTROL_SLACK_PARTS * CONTROL_SPARE_PARTS_SPANS;
    return part * control->slack[pool] + (spare < CONTROL_SPARE ? spare : CONTROL_SPARE);
}

/* At a valley's edge all that the heap has had, and less by VALLEY_PARTS times what is freed, as
   fast as frees purge: there a heap that swings loses little. Further down twice what is live: the
   heap is in use, calls will come. */
static uint64_t lone_of_live(const struct control *control)
{
    uint64_t live = control->live[CONTROL_TOTAL];
    uint64_t depth = control->most[CONTROL_TOTAL] / VALLEY_PARTS;
    uint64_t falling = VALLEY_PARTS * live > depth ? VALLEY_PARTS * live - depth : 0;
    return falling > 2 * live ? falling : 2 * live;
}

uint64_t hak_control_lone(const struct control *control)
{
    uint64_t part = control->most[CONTROL_TOTAL] / CONTROL_LONE_PARTS;
    if (!is_in_valley(control)) {
        return UINT64_MAX;
    }
    uint64_t of_live = lone_of_live(control);
    part = part > of_live ? part : of_live;
    return part > CONTROL_LONE_LEAST ? part : CONTROL_LONE_LEAST;
}

uint64_t hak_control_most(const struct control *control, enum control_pool pool)
{
    uint64_t slack;
    if (pool == CONTROL_TOTAL) {
        /* Not the sum: the two pools' highest need not be at the same time. And of what is in use
           in this epoch: a pool that rests needs none. */
        const uint64_t superslabs = slack_bytes(control, CONTROL_SUPERSLABS,
                                                control->peaks[CONTROL_SUPERSLABS][control->epoch]),
                       ranges = slack_bytes(control, CONTROL_RANGES,
                                            control->peaks[CONTROL_RANGES][control->epoch]);
        slack = superslabs > ranges ? superslabs : ranges;
    } else {
        slack = slack_bytes(control, pool, control->most[pool]);
    }
    return control->most[pool] + CONTROL_LEAST + slack;
}

uint64_t hak_control_keep(const struct control *control, enum control_pool pool, uint64_t budget)
{
    uint64_t most = hak_control_most(control, pool), live = control->live[pool];
    if (pool == CONTROL_TOTAL) {
        uint64_t lone = hak_control_lone(control);
        budget = lone < budget ? lone : budget;
    }
    uint64_t keep = most > live ? most - live : 0;
    return keep < budget ? keep : budget;
}

uint64_t hak_control_ends_ns(const struct control *control)
{
    return control->epoch_started_ns + hak_time_ns_of_ms(control->horizon_ms) / CONTROL_EPOCHS;
}

uint64_t hak_control_valley(const struct control *control)
{
    return is_in_valley(control)                      ? UINT64_MAX
           : control->is_helped || control->is_lifted ? 0
                                                      : control->most[CONTROL_TOTAL] / VALLEY_PARTS;
}

uint64_t hak_control_class_keep(const struct control *control, unsigned class_index)
{
    const struct control_class *class = &control->classes[class_index];
    uint64_t most = highest(class->peaks), live = atomic_load_relaxed(&class->live);
    return most > live ? most - live : 0;
}

int hak_control_verify_pools(const struct control *control)
{
    if (!control->base_ms) {
        return 0; /* not started yet */
    }
    for (int pool = 0; pool < CONTROL_POOLS; pool++) {
        if (control->peaks[pool][control->epoch] < control->live[pool] ||
            control->most[pool] != highest(control->peaks[pool])) {
            return VERIFY_CONTROL_PEAKS;
        }
    }
    for (int pool = 0; pool < CONTROL_TOTAL; pool++) {
        if (control->slack[pool] < least_slack[pool] || control->slack[pool] > CONTROL_MAX_SLACK) {
            return VERIFY_CONTROL_SLACK;
        }
    }
    if (control->is_lifted && !control->debt_ns) {
        return VERIFY_CONTROL_LIFTED;
    }
    uint64_t ratio = control->horizon_ms / control->base_ms;
    int is_power =
        ratio && (ratio & (ratio - 1)) == 0 && ratio * control->base_ms == control->horizon_ms;
    return is_power && ratio <= CONTROL_LONGEST ? 0 : VERIFY_CONTROL_HORIZON;
}

/* Without the peaks where other threads count in the classes. */
static int verify_classes(const struct control *control, int with_peaks)
{
    for (uint32_t i = 0; i < ACE_CLASSES; i++) {
        const struct control_class *class = &control->classes[i];
        uint64_t live = atomic_load_relaxed(&class->live);
        uint64_t most = with_peaks ? class->peaks[control->epoch] : (uint64_t)PTRDIFF_MAX;
        if (live > most || live > (uint64_t)PTRDIFF_MAX) {
            return VERIFY_CONTROL_CLASS;
        }
    }
    return 0;
}

int hak_control_verify_classes(const struct control *control)
{
    return verify_classes(control, 0);
}

int hak_control_verify(const struct control *control)
{
    int result = verify_classes(control, 1);
    return result ? result : hak_control_verify_pools(control);
}
