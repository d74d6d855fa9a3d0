#!/bin/sh
# A C++ library that is loaded by a C program under the preload gets bad_alloc, and its new-handler.
# late_test.sh LIBHAKMEM PROGRAM LIBRARY
set -eu
"$2" "$PWD/$3"
LD_PRELOAD="$PWD/$1" "$2" "$PWD/$3"
