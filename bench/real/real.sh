#!/bin/sh
# real_NAME ARGS: real.py with the allocator that this script is named after. It lies beside, or in
# this program's runfiles.
here=$(dirname "$0")
[ -e "$here/real.py" ] || here=$0.runfiles/hakmem/bench/real
exec /usr/bin/python3 -B "$here/real.py" --allocator "${0##*real_}" "$@"
