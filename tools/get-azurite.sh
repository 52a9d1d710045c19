#!/usr/bin/env bash
# Makes Azurite, Microsoft's emulator of Azure Blob Storage, available for the tests and prints AZURITE=PATH.
#
# Looked for in this order: BARBACK_AZURITE; the tools directory (BARBACK_TOOLS, else /var/cache/barback-tools for root, else
# ~/.cache/barback-tools). Else it is installed there with npm (about half a minute, once); it runs on node.
# Exit 1 when there is none and CI=true or BARBACK_REQUIRE_SERVERS=1; otherwise a warning says that its tests are skipped.
set -euo pipefail
# shellcheck source=tools/common.sh
. "$(dirname "$0")/common.sh"

# The last version that runs on Node 20.
readonly VERSION=3.35.0

TOOLS="$(tools_dir)"

main() {
    local azurite
    if ! azurite="$(find_azurite)"; then
        install_azurite >&2 || true
        azurite="$(find_azurite)" || { none; return; }
    fi
    printf 'AZURITE=%s\n' "$azurite"
}

find_azurite() {
    local candidate
    for candidate in "${BARBACK_AZURITE:-}" "$TOOLS/azurite-$VERSION/node_modules/.bin/azurite-blob"; do
        if [[ -n "$candidate" && "$("$candidate" --version 2>/dev/null)" == "$VERSION" ]]; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    return 1
}

install_azurite() {
    command -v npm >/dev/null || { say "could not install Azurite: npm is not installed"; return 1; }
    say "installing Azurite $VERSION with npm into $TOOLS (about half a minute, once)"
    new_scratch || return 1
    mkdir "$SCRATCH/azurite"
    # It runs no scripts of its packages: none is needed.
    if ! npm install --prefix "$SCRATCH/azurite" --ignore-scripts --no-audit --no-fund "azurite@$VERSION" >"$SCRATCH/log" 2>&1; then
        tail -n 20 "$SCRATCH/log"
        return 1
    fi
    publish "$SCRATCH/azurite" "$TOOLS/azurite-$VERSION"
}

none() {
    servers_required && die "could not get Azurite (see above)"
    warn "could not get Azurite: the tests on it are SKIPPED"
}

main "$@"
