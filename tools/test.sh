#!/usr/bin/env bash
# The whole test suite: formatting, lints, the servers it needs, every test, and last what was skipped.
#
# Works as root (servers then run as nobody) and as a plain user. With CI=true or BARBACK_REQUIRE_SERVERS=1 a server that
# cannot be had is a failure; else the tests on it are skipped and the last lines say so. Arguments go to `cargo test`.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tools/common.sh
. tools/common.sh

servers_required && export BARBACK_REQUIRE_SERVERS=1
BARBACK_SKIPPED_FILE="$(mktemp)"
export BARBACK_SKIPPED_FILE
trap 'rm -f "$BARBACK_SKIPPED_FILE"' EXIT

say "== format and lints"
cargo fmt --check
cargo clippy --locked --all-targets -- -D warnings

say "== servers"
find_servers

say "== tests"
outcome=0
cargo test --locked --no-fail-fast "$@" || outcome=$?

if [[ -s "$BARBACK_SKIPPED_FILE" ]]; then
    say ""
    say "== SKIPPED on this machine (CI does not skip):"
    sort "$BARBACK_SKIPPED_FILE" | uniq -c >&2
fi
exit "$outcome"
