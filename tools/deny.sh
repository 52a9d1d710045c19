#!/usr/bin/env bash
# Holds the dependencies against deny.toml with cargo-deny: licences, bans, sources, and known advisories.
#
# cargo-deny is installed into the tools directory if it is missing. The advisories are in a repository on GitHub: where that cannot
# be reached they are NOT checked, which is said, and the exit code is 2. 1 for a dependency that is refused.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tools/common.sh
. tools/common.sh

readonly VERSION=0.20.2
deny="$(cargo_tool cargo-deny "$VERSION")"
"$deny" --locked check licenses bans sources || exit 1
if ! timeout 120 "$deny" fetch db >/dev/null 2>&1; then
    warn "the advisory database could not be fetched: advisories were NOT checked"
    exit 2
fi
"$deny" --locked check advisories || exit 1
