// wl_strings [ROUNDS [WORDS [SEED]]]: text that is built up, split, copied and joined.
//
// A round appends WORDS random words of 1 to 12 letters to one growing string (realloc to twice the
// size), splits it into copies of its words, joins each ten of these into a line of exact length
// (by realloc, word by word), and frees words and lines. An operation is one call of the allocator.
//
// Stresses: strings as scripts and parsers make them: many very small ones, realloc by a few bytes,
// and now and then a buffer that doubles. No threads.
#include "bench/workloads/workload.h"

enum { MAX_WORD = 12, WORDS_A_LINE = 10, FIRST_CAPACITY = 16 };

struct text {
    char *bytes;
    size_t length, capacity;
};

static uint64_t n_calls;

static void append(struct text *text, const char *bytes, size_t length)
{
    while (text->length + length + 1 > text->capacity) {
        text->capacity = text->capacity != 0 ? 2 * text->capacity : FIRST_CAPACITY;
        text->bytes = wl_check(realloc(text->bytes, text->capacity));
        n_calls++;
    }
    memcpy(text->bytes + text->length, bytes, length);
    text->length += length;
    text->bytes[text->length] = '\0';
}

static uint64_t random_text(struct text *text, uint64_t n_words, uint64_t random)
{
    char word[MAX_WORD + 1];
    for (uint64_t i = 0; i < n_words; i++) {
        random = bench_next(random);
        size_t length = 1 + bench_scale((uint32_t)(random >> 32), MAX_WORD);
        for (size_t j = 0; j < length; j++)
            word[j] = (char)('a' + (random >> (4 * j)) % 16);
        word[length] = ' ';
        append(text, word, length + 1);
    }
    return random;
}

// Copies of the words of a text, which each end in a blank there.
static uint64_t split(const struct text *text, char **words)
{
    uint64_t n = 0;
    const char *from = text->bytes, *blank;
    for (; (blank = strchr(from, ' ')) != NULL; from = blank + 1) {
        size_t length = (size_t)(blank - from);
        words[n] = wl_malloc(length + 1);
        memcpy(words[n], from, length);
        words[n++][length] = '\0';
    }
    n_calls += n;
    return n;
}

// The words from `from` to `to` with a blank after each, in a block that always fits exactly.
static char *join(char **words, uint64_t from, uint64_t to)
{
    size_t length = 0;
    char *line = NULL;
    for (uint64_t i = from; i < to; i++) {
        size_t added = strlen(words[i]);
        line = wl_check(realloc(line, length + added + 2));
        memcpy(line + length, words[i], added);
        length += added;
        line[length++] = ' ';
        line[length] = '\0';
    }
    n_calls += to - from;
    return line;
}

static uint64_t hash(const char *bytes)
{
    uint64_t sum = 0;
    for (; *bytes != '\0'; bytes++)
        sum = sum * 31 + (unsigned char)*bytes;
    return sum;
}

static uint64_t free_all(char **strings, uint64_t n)
{
    uint64_t sum = 0;
    for (uint64_t i = 0; i < n; i++) {
        sum += hash(strings[i]);
        free(strings[i]);
    }
    n_calls += n;
    return sum;
}

int main(int argc, char **argv)
{
    struct bench_arg args[] = {
        {"ROUNDS", 1, UINT64_C(1) << 32, 60, 0},
        {"WORDS", 1, 1 << 24, 50000, 0},
        {"SEED", 0, UINT64_MAX, 42, 0},
    };
    bench_args(argc, argv, args, 3);
    uint64_t n_words = args[1].value, random = bench_seed(args[2].value), sum = 0;
    char **words = wl_table(n_words * sizeof(char *)), **lines = wl_table(n_words * sizeof(char *));
    uint64_t start = bench_now_ns();
    for (uint64_t round = 0; round < args[0].value; round++) {
        struct text text = {0};
        random = random_text(&text, n_words, random);
        uint64_t n = split(&text, words), n_lines = 0;
        for (uint64_t i = 0; i < n; i += WORDS_A_LINE)
            lines[n_lines++] = join(words, i, i + WORDS_A_LINE < n ? i + WORDS_A_LINE : n);
        sum += free_all(words, n) + free_all(lines, n_lines);
        free(text.bytes);
        n_calls++;
    }
    wl_finish(n_calls, args[0].value, n_words, start, sum);
    return 0;
}
