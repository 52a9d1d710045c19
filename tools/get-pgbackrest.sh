#!/usr/bin/env bash
# Makes pgBackRest available for the benches beside it and prints PGBACKREST=PATH.
#
# Looked for in this order: BARBACK_PGBACKREST; PATH; pgbackrest in the tools directory (BARBACK_TOOLS, else
# /var/cache/barback-tools for root, else ~/.cache/barback-tools). Else Debian's package is downloaded and unpacked there:
# nothing is installed, no right of root is needed. Libraries that the machine lacks lie in `lib` beside it, for LD_LIBRARY_PATH.
# Exit 1 when there is none and CI=true or BARBACK_REQUIRE_SERVERS=1; otherwise a warning says that it is left out.
set -euo pipefail
# shellcheck source=tools/common.sh
. "$(dirname "$0")/common.sh"

TOOLS="$(tools_dir)"

main() {
    local program
    if ! program="$(find_pgbackrest)"; then
        unpack_pgbackrest >&2 || true
        program="$(find_pgbackrest)" || { none; return; }
    fi
    printf 'PGBACKREST=%s\n' "$program"
}

find_pgbackrest() {
    local candidate
    for candidate in "${BARBACK_PGBACKREST:-}" "$(command -v pgbackrest || true)" "$TOOLS/pgbackrest/bin/pgbackrest"; do
        if [[ -n "$candidate" ]] && answers "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    return 1
}

answers() {
    local said
    said="$(unprivileged env LD_LIBRARY_PATH="$(dirname "$1")/../lib" "$1" version 2>/dev/null)" && [[ "$said" == "pgBackRest "* ]]
}

unpack_pgbackrest() {
    command -v apt-get >/dev/null || { say "could not fetch pgBackRest: only Debian's package is known, and apt-get is not installed"; return 1; }
    say "fetching Debian's pgbackrest into $TOOLS (half a megabyte, once)"
    new_scratch || return 1
    mkdir -p "$SCRATCH/deb" "$SCRATCH/tree" "$SCRATCH/pgbackrest/bin"
    download pgbackrest || return 1
    cp "$SCRATCH/tree/usr/bin/pgbackrest" "$SCRATCH/pgbackrest/bin/"
    if ldd "$SCRATCH/pgbackrest/bin/pgbackrest" | grep -q 'not found'; then
        local libraries
        libraries="$(apt-cache depends pgbackrest | sed -n 's/^ *Depends: \(lib[a-z0-9.-]*\)$/\1/p' | grep -v '^libc6$')"
        # shellcheck disable=SC2086
        download $libraries || return 1
        mkdir "$SCRATCH/pgbackrest/lib"
        find "$SCRATCH/tree" -name '*.so*' -exec cp -P -t "$SCRATCH/pgbackrest/lib" {} +
    fi
    if [[ -e "$TOOLS/pgbackrest" ]]; then
        mv -T "$TOOLS/pgbackrest" "$SCRATCH/unusable" || return 1
    fi
    publish "$SCRATCH/pgbackrest" "$TOOLS/pgbackrest"
}

# download PACKAGE...: unpacked into SCRATCH/tree. The lists of packages may be old or not there yet: then they are renewed.
download() {
    (
        cd "$SCRATCH/deb"
        apt-get -q download "$@" >log 2>&1 || { is_root && apt-get -q update >log 2>&1 && apt-get -q download "$@" >log 2>&1; } ||
            { tail -n 5 log; exit 1; }
        local package
        for package in ./*.deb; do dpkg -x "$package" "$SCRATCH/tree"; done
    )
}

none() {
    servers_required && die "could not get pgBackRest (see above)"
    warn "could not get pgBackRest: it is LEFT OUT"
}

main "$@"
