#!/usr/bin/env bash
# barback beside every peer on this machine: archiving, restoring, base backups, whole recoveries; time, CPU, memory, bytes.
#
#   benches/peers/run.sh [--rounds N] [--only ROW]... [--small]
#
# One run: the same cluster, the same WAL, the same S3 server (MinIO with TLS), and in every round everybody in turn. Peers:
# barman-cloud (tools/get-barman.sh), pgBackRest (tools/get-pgbackrest.sh), WAL-G (tools/get-walg.sh); who is not found is left
# out aloud. The report goes to stdout, every single measurement to benches/peers/results/. --small takes some minutes, a
# whole run an hour or two and some 40 GB below TMPDIR (/tmp). BARBACK_BINARY names a barback that is already built.
# Works as root (all that is measured then runs as nobody) and as a plain user; needs zstd, curl and openssl.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tools/common.sh
. tools/common.sh

main() {
    local program
    for program in zstd curl openssl python3; do
        command -v "$program" >/dev/null || die "$program is not installed"
    done
    [[ -n "${BARBACK_BINARY:-}" ]] || make --no-print-directory build >&2
    find_programs
    prepare_directory
    local commit
    commit="$(git describe --always --dirty 2>/dev/null || printf unknown)"
    [[ -z "${BARBACK_BINARY:-}" ]] || commit="of BARBACK_BINARY, unknown"
    local arguments=(--scratch "$PLACE" --commit "$commit") given
    for given in "${PROGRAMS[@]}"; do arguments+=(--program "$given"); done
    # Not in the background: Python puts its servers away when it is interrupted.
    local outcome=0
    unprivileged env -C "$PLACE" PYTHONDONTWRITEBYTECODE=1 HOME="$PLACE" "$PYTHON" "$PLACE/code/run.py" "${arguments[@]}" "$@" || outcome=$?
    if compgen -G "$PLACE/results/peers-*" >/dev/null; then
        mkdir -p benches/peers/results
        cp "$PLACE"/results/peers-* benches/peers/results/
        say "results: benches/peers/results/$(basename "$PLACE"/results/peers-*.jsonl); for docs/performance.md: python3 benches/peers/publish.py"
    fi
    return "$outcome"
}

# PROGRAMS: name=path of all that takes part.
PROGRAMS=()
find_programs() {
    local found
    found="$(BARBACK_REQUIRE_SERVERS=1 tools/get-minio.sh)"
    PROGRAMS+=("minio=${found#*=}")
    PROGRAMS+=("postgres=$(find_postgres)")
    found="$(BARBACK_REQUIRE_SERVERS='' CI='' tools/get-barman.sh)"
    [[ -z "$found" ]] || PROGRAMS+=("barman=${found#*=}")
    found="$(BARBACK_REQUIRE_SERVERS='' CI='' tools/get-pgbackrest.sh)"
    [[ -z "$found" ]] || PROGRAMS+=("pgbackrest=${found#*=}")
    found="$(BARBACK_REQUIRE_SERVERS='' CI='' tools/get-walg.sh)"
    [[ -z "$found" ]] || PROGRAMS+=("walg=${found#*=}")
    # As root everything runs as nobody, who cannot run a Python below a closed home.
    for PYTHON in "$(command -v python3)" /usr/bin/python3; do
        unprivileged "$PYTHON" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null && return
    done
    die "no Python 3.10 or newer that servers can run"
}

# 15 where it is to be had with its clients: Debian's pgBackRest may not know a newer one.
find_postgres() {
    local found
    found="$(BARBACK_REQUIRE_SERVERS='' CI='' tools/get-postgres.sh 15)"
    [[ -x "${found#*=}/psql" && -x "${found#*=}/pg_basebackup" ]] || found="$(tools/get-postgres.sh any)"
    printf '%s\n' "${found#*=}"
}

prepare_directory() {
    PLACE="$(mktemp -d "${TMPDIR:-/tmp}/barback-peers-XXXXXX")"
    trap clean_up EXIT
    chmod 755 "$PLACE"
    mkdir "$PLACE/code" "$PLACE/bin" "$PLACE/links"
    cp benches/peers/*.py "$PLACE/code/"
    install -m 755 "${BARBACK_BINARY:-${CARGO_TARGET_DIR:-target}/release/barback}" "$PLACE/bin/barback"
    local command
    for command in wal-archive wal-restore; do ln -s ../bin/barback "$PLACE/links/barman-cloud-$command"; done
    PROGRAMS+=("barback=$PLACE/bin/barback" "links=$PLACE/links")
    ! is_root || chown -R "$UNPRIVILEGED_ID:$UNPRIVILEGED_ID" "$PLACE"
}

clean_up() {
    if [[ "${BARBACK_KEEP:-}" == 1 ]]; then say "kept: $PLACE"; else rm -rf "$PLACE"; fi
}

main "$@"
