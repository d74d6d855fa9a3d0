#!/bin/sh
# python.sh [--needs PROGRAM=PACKAGE]... SCRIPT ARGS: runs a Python script with the system's
# python3, leaving no byte code behind. For tests and for `bazel run`, in whose folder of run files
# SCRIPT is found. (Bazel 4.2's own Python rules start `python`, which Debian does not have.)
# A test whose PROGRAM is not there is skipped, which its log says; with NO_SKIP=1 in the
# environment (.ci/run) it fails.
PATH=/usr/bin:/bin:$PATH:/usr/sbin:/sbin
export PATH
while [ "$1" = --needs ]; do
    program=${2%%=*}
    if ! command -v "$program" >/dev/null; then
        echo "SKIPPED: $program is not installed (Debian: ${2#*=})"
        [ -z "${NO_SKIP-}" ]
        exit
    fi
    shift 2
done
exec python3 -B "$@"
