/* A program that knows nothing of hakmem, except that it asks which malloc it runs on. With an
   argument (`hakmem` or `libc`) it fails if that is not so. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* NULL unless hakmem is linked in. */
__attribute__((weak)) int hak_owns(const void *p);

int main(int argc, char **argv)
{
    char *text = malloc(100);
    if (!text)
        return 1;
    strcpy(text, "C");
    const char *served_by = hak_owns && hak_owns(text) ? "hakmem" : "libc";
    printf("%s: malloc is served by %s\n", text, served_by);
    text = realloc(text, 100000);
    free(text);
    return argc > 1 && strcmp(argv[1], served_by) != 0;
}
