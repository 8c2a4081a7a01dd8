#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs fuzz targets, all of them by default, for some seconds each: tests/fuzz/run.sh [SECONDS [TARGET...]], default 20.
# The corpora are kept in .demo/fuzz for the next run.
set -euo pipefail

root=$(cd "$(dirname "$0")/../.." && pwd)
seconds=${1:-20}
shift || true
tools=$root/.demo/tools/bin
export PATH=$tools:$PATH
# Coverage instrumentation needs a compiler option that stable Rust hides. Without the address sanitizer, which would
# halve the speed: the workspace denies unsafe code, and its few reasoned exceptions (system calls in `worker` and `cli`)
# are not in the code that the targets call.
export RUSTC_BOOTSTRAP=1
cd "$root/tests"
mapfile -t targets < <(cargo fuzz list)
[ $# -eq 0 ] || targets=("$@")
cargo fuzz build --sanitizer none --target-dir "$root/target/fuzz"
passed=0
failed=0
for target in "${targets[@]}"; do
    corpus=$root/.demo/fuzz/$target
    mkdir -p "$corpus"
    echo "fuzzing $target for $seconds s"
    if cargo fuzz run --sanitizer none --target-dir "$root/target/fuzz" "$target" "$corpus" -- \
        -max_total_time="$seconds" -rss_limit_mb=1024 -timeout=10 -print_final_stats=1 2>"$corpus.log"; then
        grep -E 'number_of_executed_units|peak_rss' "$corpus.log" || true
        passed=$((passed + 1))
    else
        tail -40 "$corpus.log"
        failed=$((failed + 1))
    fi
done
echo "fuzz targets: $passed passed, $failed failed"
[ "$failed" = 0 ]
