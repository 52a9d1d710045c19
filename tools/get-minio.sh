#!/usr/bin/env bash
# Makes the MinIO server available for the tests and prints MINIO=PATH.
#
# Looked for in this order: BARBACK_MINIO; minio in the tools directory (BARBACK_TOOLS, else /var/cache/barback-tools for
# root, else ~/.cache/barback-tools); PATH. Else it is built with `go install` (about four minutes, once).
# Exit 1 when there is none and CI=true or BARBACK_REQUIRE_SERVERS=1; otherwise a warning says that its tests are skipped.
set -euo pipefail
# shellcheck source=tools/common.sh
. "$(dirname "$0")/common.sh"

readonly MODULE=github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c

TOOLS="$(tools_dir)"

main() {
    local minio
    if ! minio="$(find_minio)"; then
        build_minio >&2 || true
        minio="$(find_minio)" || { none; return; }
    fi
    printf 'MINIO=%s\n' "$minio"
}

find_minio() {
    local candidate
    for candidate in "${BARBACK_MINIO:-}" "$TOOLS/minio" "$(command -v minio || true)"; do
        if [[ -n "$candidate" && "$("$candidate" --version 2>/dev/null)" == "minio version"* ]]; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    return 1
}

build_minio() {
    local go
    go="$(command -v go || command -v /usr/local/go/bin/go)" || { say "could not build MinIO: go is not installed"; return 1; }
    say "building MinIO with $("$go" version) into $TOOLS (about four minutes, once)"
    new_scratch || return 1
    # Hundreds of lines name what is downloaded: shown only when they matter.
    if ! GOBIN="$SCRATCH" "$go" install -ldflags '-s -w' "$MODULE" >"$SCRATCH/log" 2>&1; then
        tail -n 20 "$SCRATCH/log"
        return 1
    fi
    publish "$SCRATCH/minio" "$TOOLS/minio"
}

none() {
    servers_required && die "could not get MinIO (see above)"
    warn "could not get MinIO: the tests on it are SKIPPED"
}

main "$@"
