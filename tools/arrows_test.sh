#!/bin/sh
# arrows_test.sh [path|none SOURCE TARGET FILE]...: FILE, the answer to somepath(SOURCE, TARGET),
# must hold a path, or none.
set -u
failed=0
checked=0
while [ $# -ge 4 ]; do
    kind=$1 source=$2 target=$3 file=$4
    shift 4
    checked=$((checked + 1))
    if [ "$kind" = path ] && [ ! -s "$file" ]; then
        echo "$source should depend on $target, but no path leads there"
        failed=1
    elif [ "$kind" = none ] && [ -s "$file" ]; then
        echo "$source must not depend on $target, but this path leads there:"
        cat "$file"
        failed=1
    elif [ ! -e "$file" ]; then
        echo "$file is missing"
        failed=1
    fi
done
echo "$checked pairs checked"
[ "$checked" -gt 0 ] && exit $failed
