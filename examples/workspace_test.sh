#!/bin/bash
# Copies hakmem's files and the example workspace, as they are handed to this test, to a folder of
# their own, then builds and runs the example there: `malloc =`, `--custom_malloc`, and each
# component alone.
set -euo pipefail

work=$TEST_TMPDIR/work
output_root=$TEST_TMPDIR/bazel
mkdir -p "$work" "$output_root"
cp -rL "$TEST_SRCDIR/$TEST_WORKSPACE/." "$work"
rm -rf "$work/external"
cp -rL "$TEST_SRCDIR/example_workspace" "$work/examples/workspace"
cd "$work/examples/workspace"

# Nothing of the user's may leak in: no rc file of the home folder, no environment.
clean_bazel() {
    env -i PATH=/usr/bin:/bin HOME="$TEST_TMPDIR" USER=test \
        bazel --nohome_rc --output_user_root="$output_root" --max_idle_secs=10 \
        --host_jvm_args=-Xmx512m "$@"
}

run_bazel() {
    local command=$1
    shift
    clean_bazel "$command" --noshow_progress --ui_event_filters=-info --jobs=2 "$@"
}

clean_up() {
    clean_bazel shutdown
    chmod -R u+w "$output_root"
    rm -rf "$output_root" "$work"
}
trap clean_up EXIT

fail() {
    echo "FAILED: $*"
    exit 1
}

echo "== malloc = \"@hakmem//hakmem:malloc\", and each component alone"
run_bazel test --test_output=all //... || fail "the example workspace"

echo "== public headers can be included, internal ones cannot"
public="hakmem/hakmem.h superslab/superslab.h mid_mt/mid_mt.h ace/ace.h base/attributes.h"
refused='this header is internal to hakmem; include hakmem/hakmem.h'
for header in $public; do
    run_bazel build "//:includes_${header//\//_}" ||
        fail "$header is public, and cannot be included"
done
for header in heap/theap.h superslab/pool.h base/lock.h; do
    if run_bazel build "//:includes_${header//\//_}" >"$TEST_TMPDIR/out" 2>&1; then
        fail "$header is internal, and a consumer builds with it"
    fi
    grep -q "$refused" "$TEST_TMPDIR/out" || fail "$header: $(cat "$TEST_TMPDIR/out")"
done
# All of them, by the compiler that Bazel calls.
count=0
for path in ../../{base,limit,superslab,mid_mt,ace,hakmem}/*.h; do
    header=${path#../../}
    case " $public " in *" $header "*) continue ;; esac
    [ "$header" != base/internal.h ] || continue
    count=$((count + 1))
    if gcc -I ../.. "-DHEADER=\"$header\"" -fsyntax-only includes.c 2>"$TEST_TMPDIR/out"; then
        fail "$header is internal, and can be included"
    fi
    grep -q "$refused" "$TEST_TMPDIR/out" || fail "$header does not say why it cannot be included"
done
[ "$count" -gt 20 ] || fail "only $count internal headers were tried"

echo "== without it: libc"
run_bazel build //:plain_c_program //:plain_cpp_program
.bazel/bin/plain_c_program libc || fail "a plain C program should run on libc"
.bazel/bin/plain_cpp_program libc || fail "a plain C++ program should run on libc"

echo "== --custom_malloc"
run_bazel build --custom_malloc=@hakmem//hakmem:malloc //:plain_c_program //:plain_cpp_program
.bazel/bin/plain_c_program hakmem || fail "--custom_malloc does not reach a C program"
.bazel/bin/plain_cpp_program hakmem || fail "--custom_malloc does not reach a C++ program"

echo "== another variant"
run_bazel build --@hakmem//tools/config:variant=debug //:hakmem_alone
.bazel/bin/hakmem_alone | tee "$TEST_TMPDIR/out"
grep -q '(debug)' "$TEST_TMPDIR/out" || fail "the variant flag does not reach an imported hakmem"
