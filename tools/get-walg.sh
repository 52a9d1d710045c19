#!/usr/bin/env bash
# Finds WAL-G for the benches beside it and prints WALG=PATH.
#
# Looked for in this order: BARBACK_WALG; PATH; wal-g in the tools directory (BARBACK_TOOLS, else /var/cache/barback-tools for
# root, else ~/.cache/barback-tools). It is not fetched: the package registries that the other tools come from do not have it.
# The program of a release of the WAL-G project, for PostgreSQL, belongs there.
# Exit 1 when there is none and CI=true or BARBACK_REQUIRE_SERVERS=1; otherwise a warning says that it is left out.
set -euo pipefail
# shellcheck source=tools/common.sh
. "$(dirname "$0")/common.sh"

TOOLS="$(tools_dir)"

main() {
    local candidate
    for candidate in "${BARBACK_WALG:-}" "$(command -v wal-g || true)" "$TOOLS/wal-g"; do
        if [[ -n "$candidate" && "$(unprivileged "$candidate" --version 2>/dev/null)" == "wal-g version"* ]]; then
            printf 'WALG=%s\n' "$candidate"
            return
        fi
    done
    servers_required && die "could not find WAL-G: put its program on the PATH or at $TOOLS/wal-g"
    warn "could not find WAL-G on the PATH or at $TOOLS/wal-g: it is LEFT OUT"
}

main "$@"
