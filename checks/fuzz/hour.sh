#!/bin/sh
# hour [--seconds N] [--variant release|guarded|secure|tiny] [--keep]: fuzzes the public interface
# from the corpus on; clang's libFuzzer, with UBSan. Without --variant a quarter of the time each;
# `guarded` is release with guards, and secure has guards and small quarantines. --keep writes the
# minimised corpus back. An input that fails is left in a folder that is named at the end:
# `./bazelw run //checks/fuzz:corpus_main -- FILE` repeats it.
set -eu
seconds=3600 variants="tiny release guarded secure" keep=
while [ $# -gt 0 ]; do
    case $1 in
    --seconds) seconds=$2 && shift ;;
    --variant) variants=$2 && shift ;;
    --keep) keep=1 ;;
    *) sed -n 2,6p "$0" >&2 && exit 2 ;;
    esac
    shift
done

cd "${BUILD_WORKSPACE_DIRECTORY:-.}"
tools/packages fuzz
work=$(mktemp -d)
corpus=checks/fuzz/corpus.tar.xz
mkdir "$work/corpus"
tar -xJf $corpus -C "$work/corpus"

flags="-DHAKMEM_INTERNAL=1 -D_GNU_SOURCE -fPIC -pthread -I. -g1 -O1"
flags="$flags -fno-builtin-malloc -fno-builtin-calloc -fno-builtin-realloc -fno-builtin-free"
checks="-fsanitize=undefined -fno-sanitize-recover=all"

# Of every room of the library.
sources() {
    for room in $(grep -l -e '^hak_component(' */BUILD.bazel); do
        ls "${room%/BUILD.bazel}"/*.c
    done
}

# What a variant runs with.
settings() {
    case $1 in
    guarded | secure) echo HAKMEM_GUARD=3 HAKMEM_GUARD_LARGE=256k HAKMEM_GUARD_SLOTS=8 ;;
    esac
    case $1 in
    secure) echo HAKMEM_SECURE_LARGE_QUARANTINE=1m HAKMEM_SECURE_QUARANTINE=512 ;;
    esac
}

# build VARIANT: the fuzzer, as $work/VARIANT/fuzz.
build() {
    case $1 in
    release | guarded) defines="-DHAKMEM_BUILD_RELEASE=1 -DNDEBUG" ;;
    secure) defines="-DHAKMEM_BUILD_RELEASE=1 -DHAKMEM_SECURE=1 -DNDEBUG" ;;
    tiny) defines="-DHAKMEM_TINY=1 -DHAKMEM_DEBUG=1 -DHAKMEM_VALIDATE=1" ;;
    *) echo "hour: no variant '$1': release, guarded, secure, tiny" >&2 && exit 2 ;;
    esac
    mkdir "$work/$1"
    for source in $(sources); do
        clang -std=c17 $flags $defines "-DHAKMEM_VARIANT=\"$1\"" $checks \
            -fsanitize=fuzzer-no-link -c "$source" -o "$work/$1/$(echo "$source" | tr / _).o"
    done
    clang++ -std=c++17 $flags $defines $checks -fsanitize=fuzzer \
        checks/fuzz/api_fuzz.cc checks/fuzz/libfuzzer.cc "$work/$1"/*.o -o "$work/$1/fuzz"
}

share=$((seconds / $(echo "$variants" | wc -w)))
export HAKMEM_BACKGROUND=0
for variant in $variants; do
    build "$variant"
    (cd "$work/$variant" && env $(settings "$variant") ./fuzz -max_total_time=$share \
        -max_len=800 -timeout=60 -rss_limit_mb=4000 -print_final_stats=1 -verbosity=1 \
        "$work/corpus" 2>log) || {
        tail -30 "$work/$variant/log" >&2
        echo "hour: $variant failed; the input lies in $work/$variant" >&2
        exit 1
    }
    grep -E '^(Done|stat::number_of|stat::new_units)|DONE' "$work/$variant/log"
done
mkdir "$work/least"
for variant in $variants; do
    "$work/$variant/fuzz" -merge=1 "$work/least" "$work/corpus" 2>>"$work/$variant/log"
done
if [ -n "$keep" ]; then
    # The same inputs are the same file.
    tar --sort=name --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX --mtime=@0 \
        -cf - -C "$work/least" . | xz -9 >$corpus
fi
rm -r "$work"
