#!/bin/sh
# python.sh SCRIPT ARGS: runs a Python script with the system's python3, leaving no byte code
# behind. For tests and for `bazel run`, in whose folder of run files SCRIPT is found. (Bazel 4.2's
# own Python rules start `python`, which Debian does not have.)
PATH=/usr/bin:/bin:$PATH
export PATH
exec python3 -B "$@"
