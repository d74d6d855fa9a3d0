#!/usr/bin/env python3
"""gen_consumer.py NAMES > FILE.c: a program whose globals carry the names, and that allocates."""

import sys

names = open(sys.argv[1], encoding="utf-8").read().split()
print("#include <stdio.h>\n#include <stdlib.h>\n")
for number, name in enumerate(names):
    print("long %s = %d;" % (name, number))
print("static long *const all[] = {%s};" % ", ".join("&" + name for name in names))
print(
    """
int main(void)
{
    long sum = 0, n = (long)(sizeof all / sizeof all[0]);
    for (long i = 0; i < n; i++) {
        char *p = malloc((size_t)(i * 100 + 1));
        if (!p) {
            return 1;
        }
        p[0] = 1;
        free(p);
        sum += *all[i];
    }
    printf("%ld names\\n", n);
    return n < 200 || sum != n * (n - 1) / 2;
}"""
)
