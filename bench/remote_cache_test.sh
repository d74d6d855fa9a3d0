#!/bin/sh
# A comparison through a remote HTTP cache: nginx (Debian's package) keeps the cache on loopback; a
# first Bazel server measures one workload, a second one with an empty output base gets the same
# test result, its outputs included, from the cache. Skips with a clear line without nginx with its
# DAV module. Manual: it runs Bazel inside of a test.
set -eu
nginx=$(PATH=$PATH:/usr/sbin command -v nginx) || {
    echo "SKIPPED: nginx is not installed (Debian: nginx-light)"
    [ -z "${NO_SKIP-}" ]
    exit
}
top=$(dirname "$(dirname "$(readlink -f "$0")")")
work=$(mktemp -d)
port=$((20000 + $$ % 20000))
bazel() {
    base=$1
    shift
    (cd "$top" && command bazel --output_base="$work/$base" "$@")
}
finish() {
    bazel first shutdown >/dev/null 2>&1 || true
    bazel second shutdown >/dev/null 2>&1 || true
    [ ! -f "$work/pid" ] || kill "$(cat "$work/pid")"
    chmod -R u+w "$work" && rm -rf "$work"
}
trap finish EXIT
mkdir -p "$work/cache" "$work/tmp"
cat >"$work/nginx.conf" <<END
user $(id -un);
error_log $work/error.log;
pid $work/pid;
events {}
http {
    access_log $work/access.log;
    client_body_temp_path $work/tmp;
    client_max_body_size 0;
    server {
        listen 127.0.0.1:$port;
        location / {
            root $work/cache;
            dav_methods PUT;
            create_full_put_path on;
        }
    }
}
END
"$nginx" -c "$work/nginx.conf" 2>"$work/nginx.txt" || {
    if grep -q dav_methods "$work/nginx.txt"; then
        echo "SKIPPED: this nginx has no DAV module"
        [ -z "${NO_SKIP-}" ]
        exit
    fi
    cat "$work/nginx.txt" >&2
    exit 1
}
measure() {
    bazel "$1" test --symlink_prefix=/ --remote_cache="http://127.0.0.1:$port" \
        --test_output=summary --test_arg=--quick --jobs=2 //bench:workload_random_mixed_256
    outputs=$(bazel "$1" info bazel-testlogs)/bench/workload_random_mixed_256/test.outputs
    cp "$outputs/outputs.zip" "$work/$1.zip"
}
measure first
measure second >"$work/second.txt" 2>&1 || { cat "$work/second.txt"; exit 1; }
grep -q "(cached) PASSED" "$work/second.txt" || { cat "$work/second.txt"; exit 1; }
cmp "$work/first.zip" "$work/second.zip"
grep -q '"GET /ac/.* 200 ' "$work/access.log"
echo "PASSED: the second server took the first one's result from the cache"
