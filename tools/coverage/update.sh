#!/bin/sh
# update: runs the parts' tests with coverage, and writes docs/coverage.md from it. Fails if a part
# is below the bounds.
set -eu
cd "${BUILD_WORKSPACE_DIRECTORY:-.}"
./bazelw coverage //base/... //limit/... //superslab/... //owner/... //tiny/... //mid_mt/... \
    //ace/... //heap/... //hakmem/... //observe/... //malloc/... //preload/...
report=$(./bazelw info output_path)/_coverage/_coverage_report.dat
exec python3 -B tools/coverage/report.py "$report" --write docs/coverage.md
