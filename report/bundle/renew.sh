#!/bin/sh
# Makes bundle.min.js, licenses.txt and SHA256SUMS again, from the versions in package-lock.json.
# Needs node and npm, and a network; nothing else in this repository does. Bazel does not run it:
# what it makes is checked in. After a change of package.json: renew.sh --update
set -eu
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
cp package.json entry.js "$work"
if [ "${1:-}" = --update ]; then
    (cd "$work" && npm install --omit-lockfile-registry-resolved --no-audit --no-fund >&2)
    cp "$work/package-lock.json" .
else
    cp package-lock.json "$work"
    (cd "$work" && npm ci --no-audit --no-fund >&2)
fi
(cd "$work" && node_modules/.bin/esbuild entry.js --bundle --minify --format=iife \
    --global-name=d3 --loader:.css=empty --legal-comments=none --charset=ascii \
    --outfile=bundle.min.js)
cp "$work/bundle.min.js" .
{
    echo "bundle.min.js holds parts of these packages, under the licenses that follow."
    for folder in "$work"/node_modules/d3-* "$work"/node_modules/internmap; do
        node -p 'const p = require(process.argv[1] + "/package.json");
                 `\n==== ${p.name} ${p.version} (${p.license})\n`' "$folder"
        cat "$folder"/LICENSE*
    done
} >licenses.txt
sha256sum bundle.min.js licenses.txt entry.js package.json package-lock.json >SHA256SUMS
