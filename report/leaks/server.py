"""server.py [REQUESTS]: a server in Python whose extension (parser.c) leaks 500 bytes a request."""

import sys

import parser


def answer(number):
    text = ("GET /%d " % number).ljust(500, "x")
    return parser.parse(text)


for request in range(int(sys.argv[1]) if len(sys.argv) > 1 else 20000):
    answer(request)
print(500 * (request + 1))
