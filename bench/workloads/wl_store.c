// wl_store [THREADS [STEPS [FLUSH [CACHE [SEED]]]]]: a log-structured store: memory table, flushes,
// and a cache of pages.
//
// Nine steps of ten put a key and a value of 50 to 400 bytes into a skip list of the thread; after
// FLUSH of them the list is written out: its entries are copied into pages of 4 to 8 KiB, the list
// is freed from its start. Each tenth step reads a page of 4 to 8 KiB from a cache of CACHE pages;
// its number is random, most often one of a few. On a miss it drops a page and allocates another
// one. An operation is one step.
//
// Stresses: thousands of small blocks of one generation freed at once, between pages of long and
// random lifetime. The idea is that of RocksDB among the programs of Leijen's suite. No locks,
// nothing shared.
#include "bench/workloads/workload.h"

enum { MAX_HEIGHT = 12, MIN_VALUE = 50, MAX_VALUE = 400, MIN_PAGE = 4096, MAX_PAGE = 8192 };

struct entry {
    uint64_t key;
    void *value;
    uint32_t height;
    struct entry *next[];
};

struct table {
    struct entry *first[MAX_HEIGHT];
    uint64_t count;
};

struct cache {
    void **pages;
    uint64_t *numbers; // of the page in each place
};

static uint64_t steps, flush_at, n_pages;

static void put(struct table *table, uint64_t key, uint64_t random)
{
    uint32_t height = 1;
    while (height < MAX_HEIGHT && (random >> (2 * height)) % 4 == 0)
        height++;
    struct entry *entry = wl_malloc(sizeof(struct entry) + height * sizeof(struct entry *));
    entry->key = key;
    entry->height = height;
    entry->value = wl_new(wl_size(random, MIN_VALUE, MAX_VALUE), random << 32);
    struct entry **links = table->first;
    for (uint32_t level = MAX_HEIGHT; level > 0; level--) {
        while (links[level - 1] != NULL && links[level - 1]->key < key)
            links = links[level - 1]->next;
        if (level > height)
            continue;
        entry->next[level - 1] = links[level - 1];
        links[level - 1] = entry;
    }
    table->count++;
}

// Copies all values in order into pages, and frees the entries.
static uint64_t flush(struct table *table)
{
    uint64_t sum = 0;
    size_t used = 0;
    char *page = wl_malloc(MAX_PAGE);
    for (struct entry *entry = table->first[0], *next; entry != NULL; entry = next) {
        size_t size = (uint32_t)wl_read(entry->value);
        next = entry->next[0];
        if (used + size > MAX_PAGE) {
            free(page);
            page = wl_malloc(MAX_PAGE);
            used = 0;
        }
        memcpy(page + used, entry->value, size);
        used += size;
        sum += (unsigned char)page[used - 1] + wl_delete(entry->value);
        free(entry);
    }
    free(page);
    memset(table, 0, sizeof(*table));
    return sum;
}

// Seven questions of eight are for the first eighth of the pages there are, which would all fit.
static uint64_t ask(struct cache *cache, uint64_t random)
{
    uint64_t number =
        bench_scale((uint32_t)(random >> 32), (uint32_t)(n_pages * (random % 8 != 0 ? 1 : 8)));
    uint64_t place = number % n_pages;
    if (cache->pages[place] != NULL && cache->numbers[place] == number)
        return wl_read(cache->pages[place]);
    uint64_t sum = cache->pages[place] != NULL ? wl_delete(cache->pages[place]) : 0;
    cache->pages[place] = wl_new(wl_size(random << 8, MIN_PAGE, MAX_PAGE), random << 32);
    cache->numbers[place] = number;
    return sum;
}

static void *work(void *argument)
{
    struct wl_thread *thread = argument;
    uint64_t random = thread->random, sum = 0;
    struct table table = {0};
    struct cache cache = {wl_table(n_pages * sizeof(void *)), wl_table(n_pages * sizeof(uint64_t))};
    for (uint64_t i = 0; i < steps; i++) {
        random = bench_next(random);
        if (i % 10 == 9)
            sum += ask(&cache, random);
        else
            put(&table, random, bench_seed(random));
        if (table.count == flush_at)
            sum += flush(&table);
    }
    sum += flush(&table);
    for (uint64_t i = 0; i < n_pages; i++)
        sum += cache.pages[i] != NULL ? wl_delete(cache.pages[i]) : 0;
    thread->sum = sum;
    return NULL;
}

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"THREADS", 1, WL_MAX_THREADS, 2, 0}, {"STEPS", 1, UINT64_C(1) << 32, 500000, 0},
        {"FLUSH", 1, 1 << 24, 4096, 0},       {"CACHE", 1, 1 << 20, 1024, 0},
        {"SEED", 0, UINT64_MAX, 42, 0},
    };
    bench_args(argc, argv, args, 5);
    steps = args[1].value;
    flush_at = args[2].value;
    n_pages = args[3].value;
    uint64_t start = bench_now_ns();
    uint64_t sum = wl_run((unsigned)args[0].value, work, args[4].value);
    wl_finish(args[0].value * steps, steps, n_pages, start, sum);
    return 0;
}
