#!/usr/bin/env bash
# How much memory a backup and a restore of a 3 GB cluster hold, with --jobs 2 on a real S3 server, and how long they take.
#
# pgbench fills a scratch cluster; MinIO on loopback takes the backup. Everything lies in one directory under /tmp (some
# 15 GB) and is removed at the end. Works as root (servers then run as nobody) and as a plain user. Exit 1 when a peak is
# above the limit. BARBACK_MEMORY_SCALE is pgbench's scale (200), BARBACK_MEMORY_LIMIT_MIB the limit (300),
# BARBACK_MEMORY_ARGS what `barback backup` is given besides.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tools/common.sh
. tools/common.sh

readonly SCALE="${BARBACK_MEMORY_SCALE:-200}"
readonly LIMIT_MIB="${BARBACK_MEMORY_LIMIT_MIB:-300}"
read -ra EXTRA <<<"${BARBACK_MEMORY_ARGS:-}"

main() {
    make --no-print-directory build >&2
    local found
    found="$(BARBACK_REQUIRE_SERVERS=1 tools/get-postgres.sh any)"
    BIN="${found#*=}"
    found="$(BARBACK_REQUIRE_SERVERS=1 tools/get-minio.sh)"
    MINIO="${found#*=}"
    prepare_directory
    start_store
    say "filling a cluster at scale $SCALE with PostgreSQL from $BIN"
    start_cluster

    say "measuring"
    measured backup --fast --jobs 2 ${EXTRA[@]+"${EXTRA[@]}"}
    measured restore "$PLACE/restored" --jobs 2
    if [[ -x "$BIN/pg_verifybackup" ]]; then
        pg pg_verifybackup -n "$PLACE/restored" >&2
    fi
    printf 'cluster %s MiB, stored %s MiB\n' "$(mib_of "$PLACE/data/base")" "$(mib_of "$PLACE/store/bkt")"
    [[ "$TOO_MUCH" == 0 ]] || die "more than $LIMIT_MIB MiB"
}

prepare_directory() {
    PLACE="$(mktemp -d /tmp/barback-memory-XXXXXX)"
    trap clean_up EXIT
    mkdir -p "$PLACE/log" "$PLACE/store/bkt"
    install -m 755 "${CARGO_TARGET_DIR:-target}/release/barback" "$PLACE/barback"
    ! is_root || chown -R "$UNPRIVILEGED_ID:$UNPRIVILEGED_ID" "$PLACE"
    PORT=54339
    export PGHOST="$PLACE" PGPORT=$PORT PGUSER=postgres PGDATABASE=postgres HOME="$PLACE"
    export AWS_ACCESS_KEY_ID=memorykey AWS_SECRET_ACCESS_KEY=memorysecret AWS_REGION=us-east-1
    export AWS_ENDPOINT_URL="http://127.0.0.1:54340" BARBACK_STORE=s3://bkt/pfx BARBACK_SERVER=memory
    unset BARBACK_CONFIG AWS_PROFILE AWS_ENDPOINT_URL_S3
}

start_store() {
    export MINIO_ROOT_USER="$AWS_ACCESS_KEY_ID" MINIO_ROOT_PASSWORD="$AWS_SECRET_ACCESS_KEY" MINIO_BROWSER=off MINIO_CI_CD=on
    as_server "$MINIO" server --quiet --address "${AWS_ENDPOINT_URL#http://}" "$PLACE/store" >"$PLACE/log/minio" 2>&1 &
    STORE_PID=$!
    for _ in $(seq 600); do
        (exec 3<>/dev/tcp/127.0.0.1/54340) 2>/dev/null && return
        sleep 0.1
    done
    tail -n 20 "$PLACE/log/minio" >&2
    die "MinIO did not start"
}

start_cluster() {
    pg initdb -D "$PLACE/data" -U postgres -A trust -k >"$PLACE/log/initdb"
    cat >>"$PLACE/data/postgresql.conf" <<CONF
listen_addresses = ''
unix_socket_directories = '$PLACE'
fsync = off
max_wal_size = 1GB
CONF
    pg pg_ctl -D "$PLACE/data" -l "$PLACE/log/server" -w start >/dev/null
    pg pgbench -q -i -s "$SCALE" postgres >"$PLACE/log/pgbench" 2>&1
}

# Runs barback, and looks at its peak while it runs: VmHWM only grows, so the last reading is the peak.
TOO_MUCH=0
measured() {
    local began ended line peak_kib=0
    began="$(date +%s%N)"
    as_server "$PLACE/barback" "$@" >"$PLACE/log/$1" 2>"$PLACE/log/$1.err" &
    local pid=$!
    while line="$(grep -s VmHWM "/proc/$pid/status")"; do
        line="${line//[!0-9]/}"
        [[ -z "$line" ]] || peak_kib="$line"
        sleep 0.05
    done
    wait "$pid" || { cat "$PLACE/log/$1.err" >&2; die "barback $1 failed"; }
    ended="$(date +%s%N)"
    printf '%-8s peak %4d MiB (limit %d), took %d.%d s\n' "$1" "$((peak_kib / 1024))" "$LIMIT_MIB" \
        "$(((ended - began) / 1000000000))" "$(((ended - began) / 100000000 % 10))"
    [[ "$((peak_kib / 1024))" -lt "$LIMIT_MIB" ]] || TOO_MUCH=1
}

# The process itself, not a shell around it: for commands whose process id is wanted.
as_server() {
    local user=()
    ! is_root || user=(setpriv "--reuid=$UNPRIVILEGED_ID" "--regid=$UNPRIVILEGED_ID" --clear-groups)
    exec ${user[@]+"${user[@]}"} "$@"
}

mib_of() { du -sm "$1" | cut -f1; }
pg() { unprivileged "$BIN/$1" "${@:2}"; }

clean_up() {
    local code=$?
    [[ ! -f "$PLACE/data/postmaster.pid" ]] || pg pg_ctl -D "$PLACE/data" -m immediate stop >/dev/null 2>&1 || true
    [[ -z "${STORE_PID:-}" ]] || kill "$STORE_PID" 2>/dev/null || true
    wait 2>/dev/null || true
    if [[ "${BARBACK_KEEP:-}" == 1 ]]; then say "kept: $PLACE"; else rm -rf "$PLACE"; fi
    exit "$code"
}

main "$@"
