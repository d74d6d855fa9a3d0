/* server [REQUESTS]: a server that leaks, for docs/profiling.md. It answers so many requests
   (20,000 by default), of which each leaves a copy of its header behind; what else it keeps is
   bounded. Prints how many bytes it leaked. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_CACHED = 256, BODY = 2000 };

struct request {
    char *header;
    char *body;
};

static char *cache[N_CACHED];
static size_t leaked;
char *last_header; /* so that the compiler keeps the copies */

/* Who calls this owns the copy. */
static char *copy_header(const char *text)
{
    size_t size = strlen(text) + 1;
    char *copy = malloc(size);
    if (!copy) {
        abort();
    }
    leaked += size;
    last_header = copy;
    return memcpy(copy, text, size);
}

static void parse_request(struct request *request, const char *text)
{
    request->header = copy_header(text);
    request->body = calloc(1, BODY);
}

/* Replaces what was there: at most N_CACHED blocks are kept. */
static void remember(int key, char *body)
{
    free(cache[key % N_CACHED]);
    cache[key % N_CACHED] = body;
}

static void answer(int number)
{
    struct request request;
    char text[600];
    snprintf(text, sizeof text, "GET /%d %*s", number, 500, "agent");
    parse_request(&request, text);
    remember(number, request.body);
    /* request.header is lost here. */
}

int main(int argc, char **argv)
{
    int requests = argc > 1 ? atoi(argv[1]) : 20000;
    for (int i = 0; i < requests; i++) {
        answer(i);
    }
    printf("%zu\n", leaked);
    return 0;
}
