#!/usr/bin/env bash
# Fuzzes every parser of outside bytes with cargo-fuzz, one target after another, and prints a table of what was done.
#
# SECONDS_EACH (default 600) is for one target; TARGETS names some of them, all when empty. Needs a nightly compiler.
# cargo-fuzz is installed into the tools directory if it is missing. The corpus in fixtures/fuzz is copied: what is learnt stays in
# target/fuzz-corpus, and the repository as it was. Exit 1 on a finding, which stays in target/fuzz-findings.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tools/common.sh
. tools/common.sh

readonly VERSION=0.13.2
# A decoder's largest window is 128 MB; the sanitizer and what it keeps of freed memory take the rest.
readonly MEMORY_LIMIT_MB=512
export ASAN_OPTIONS="quarantine_size_mb=32${ASAN_OPTIONS:+:$ASAN_OPTIONS}"
readonly INPUT_LIMIT_BYTES=16384

WORK="${CARGO_TARGET_DIR:-target}"
SECONDS_EACH="${SECONDS_EACH:-600}"
TABLE=""
found=0

main() {
    find_nightly
    local fuzzer targets target
    fuzzer="$(cargo_tool cargo-fuzz "$VERSION")"
    PATH="$(dirname "$fuzzer"):$PATH"
    export PATH
    read -ra targets <<<"${TARGETS:-$(cargo +nightly fuzz list | tr '\n' ' ')}"
    say "== building"
    cargo +nightly fuzz build --target-dir "$WORK/fuzz"
    TABLE="$(mktemp)"
    trap 'rm -f "$TABLE"' EXIT
    printf 'target\texecutions\tseconds\tpeak MB\tfindings\n' >"$TABLE"
    for target in "${targets[@]}"; do
        say "== $target, $SECONDS_EACH s"
        fuzz "$target"
    done
    column -t -s $'\t' "$TABLE"
    return "$found"
}

find_nightly() {
    cargo +nightly --version >/dev/null 2>&1 && return
    die "cargo-fuzz needs a nightly compiler, and there is none: rustup toolchain install nightly.
The same targets run without one: cargo test --test suite fuzz::"
}

fuzz() {
    local target="$1" corpus="$WORK/fuzz-corpus/$1" findings="$WORK/fuzz-findings/$1" log="$WORK/fuzz-findings/$1.log"
    mkdir -p "$corpus" "$findings"
    cp -u "fixtures/fuzz/$target"/* "$corpus/"
    local before after
    before="$(count "$findings")"
    cargo +nightly fuzz run --target-dir "$WORK/fuzz" --jobs 1 "$target" "$corpus" -- \
        -max_total_time="$SECONDS_EACH" -max_len="$INPUT_LIMIT_BYTES" -rss_limit_mb="$MEMORY_LIMIT_MB" -timeout=10 \
        -artifact_prefix="$findings/" -print_final_stats=1 -verbosity=1 >"$log" 2>&1 || true
    after="$(count "$findings")"
    printf '%s\t%s\t%s\t%s\t%s\n' "$target" "$(stat_of number_of_executed_units "$log")" "$(seconds_of "$log")" \
        "$(stat_of peak_rss_mb "$log")" "$((after - before))" >>"$TABLE"
    if ((after > before)) || ! grep -q '^Done ' "$log"; then
        found=1
        # What was panicked about, or where it was when it took too long or too much.
        grep -m 1 -A 25 'panicked at\|ERROR: ' "$log" >&2 || tail -n 40 "$log" >&2
        say "replay: cargo +nightly fuzz run --target-dir $WORK/fuzz $target FILE, with a file of $findings"
        say "then put the file into fixtures/fuzz/$target"
    fi
}

count() { find "$1" -type f | wc -l; }
stat_of() { sed -n "s/^stat::$1: *//p" "$2" | tail -n 1; }
seconds_of() { sed -n 's/^Done .* in \([0-9]*\) second.*/\1/p' "$1" | tail -n 1; }

main "$@"
