#!/usr/bin/env bash
# Archiving and restoring WAL beside Barman 3.19.1: wall time, CPU, memory and stored bytes, interleaved in one run.
#
#   benches/peers/wal.sh [ROUNDS]      30 rounds by default, some five minutes; not part of the tests
#
# Makes its own WAL with a scratch PostgreSQL (inserts and updates of uuid, jsonb, md5 and timestamps under three
# indexes), starts its own MinIO, and runs barman-cloud-wal-archive by both programs on the same 16 MiB segments, one after
# the other, round after round. The table goes to stdout, every single measurement to benches/peers/results/. Exit 1 when a
# bar is missed. Works as root (servers then run as nobody) and as a plain user; needs GNU time.
set -euo pipefail
cd "$(dirname "$0")/../.."
# shellcheck source=tools/common.sh
. tools/common.sh

readonly ROUNDS="${1:-30}" SEGMENTS=4

main() {
    [[ -x /usr/bin/time ]] || die "GNU time is not installed (Debian: apt-get install time)"
    make --no-print-directory build >&2
    export BARBACK_REQUIRE_SERVERS=1
    local found barman minio
    found="$(tools/get-postgres.sh any)" && BIN="${found#*=}"
    found="$(tools/get-minio.sh)" && minio="${found#*=}"
    found="$(tools/get-barman.sh)" && barman="${found#*=}"
    prepare_directory
    start_store "$minio"
    say "making $SEGMENTS segments of WAL with PostgreSQL ${BIN}"
    make_wal
    say "measuring, $ROUNDS rounds"
    PYTHONDONTWRITEBYTECODE=1 "$barman/python3" benches/peers/wal.py --barman "$barman" --barback "$PLACE/barback" --wal "$PLACE/wal" \
        --scratch "$PLACE/scratch" --rounds "$ROUNDS" --results benches/peers/results
}

prepare_directory() {
    PLACE="$(mktemp -d /tmp/barback-peers-XXXXXX)"
    trap clean_up EXIT
    chmod 755 "$PLACE"
    mkdir -p "$PLACE/log" "$PLACE/store/bkt" "$PLACE/wal" "$PLACE/scratch"
    install -m 755 "${CARGO_TARGET_DIR:-target}/release/barback" "$PLACE/barback"
    ! is_root || chown -R "$UNPRIVILEGED_ID:$UNPRIVILEGED_ID" "$PLACE"
    export AWS_ACCESS_KEY_ID=peerskey AWS_SECRET_ACCESS_KEY=peerssecret AWS_REGION=us-east-1
    export AWS_ENDPOINT_URL="http://127.0.0.1:54342" AWS_EC2_METADATA_DISABLED=true BARBACK_CACHE_DIR="$PLACE/scratch/cache"
    unset AWS_PROFILE AWS_ENDPOINT_URL_S3 BARBACK_CONFIG
}

start_store() {
    export MINIO_ROOT_USER="$AWS_ACCESS_KEY_ID" MINIO_ROOT_PASSWORD="$AWS_SECRET_ACCESS_KEY" MINIO_BROWSER=off MINIO_CI_CD=on
    as_server "$1" server --quiet --address "${AWS_ENDPOINT_URL#http://}" "$PLACE/store" >"$PLACE/log/minio" 2>&1 &
    STORE_PID=$!
    local _
    for _ in $(seq 600); do
        (exec 3<>/dev/tcp/127.0.0.1/54342) 2>/dev/null && return
        sleep 0.1
    done
    tail -n 20 "$PLACE/log/minio" >&2
    die "MinIO did not start"
}

# Whole segments from the middle of a run: the first ones hold initdb's and the first full pages.
make_wal() {
    export PGHOST="$PLACE" PGPORT=54343 PGUSER=postgres PGDATABASE=postgres
    pg initdb -N -A trust -U postgres -E UTF8 --locale=C -D "$PLACE/data" >"$PLACE/log/initdb"
    pg pg_ctl -D "$PLACE/data" -w -t 60 -l "$PLACE/log/postgres" \
        -o "-p $PGPORT -k '$PLACE' -c listen_addresses='' -c fsync=off -c wal_keep_size=2GB -c max_wal_size=2GB" start >/dev/null
    sql "CREATE TABLE t (id uuid PRIMARY KEY DEFAULT gen_random_uuid(), at timestamptz DEFAULT clock_timestamp(),
             name text, facts jsonb, changes int DEFAULT 0);
         CREATE INDEX ON t (at); CREATE INDEX ON t (name);" >/dev/null
    local first
    for _ in $(seq 3); do more_wal; done
    first="$(sql "SELECT pg_walfile_name(pg_switch_wal())")"
    sql "CHECKPOINT" >/dev/null
    while (($(whole_segments_after "$first") < SEGMENTS)); do more_wal; done
    local name
    for name in $(sql "SELECT name FROM pg_ls_waldir() WHERE name > '$first' AND name < pg_walfile_name(pg_current_wal_lsn())
                       AND length(name) = 24 ORDER BY name LIMIT $SEGMENTS"); do
        cp "$PLACE/data/pg_wal/$name" "$PLACE/wal/"
    done
    pg pg_ctl -D "$PLACE/data" -m fast -w stop >/dev/null
}

more_wal() {
    sql "INSERT INTO t (name, facts) SELECT md5(random()::text), jsonb_build_object('n', n, 'kind', 'order', 'note',
             md5(n::text), 'at', clock_timestamp()) FROM generate_series(1, 4000) n;
         UPDATE t SET changes = changes + 1, at = clock_timestamp() WHERE random() < 0.02;" >/dev/null
}

whole_segments_after() {
    sql "SELECT count(*) FROM pg_ls_waldir() WHERE name > '$1' AND name < pg_walfile_name(pg_current_wal_lsn()) AND length(name) = 24"
}

pg() { unprivileged env -C "$PLACE" HOME="$PLACE" "$BIN/$1" "${@:2}"; }
sql() { pg psql -X -A -t -q -v ON_ERROR_STOP=1 -c "$1"; }

# The process itself, not a shell around it: its process id is wanted.
as_server() {
    local user=()
    ! is_root || user=(setpriv "--reuid=$UNPRIVILEGED_ID" "--regid=$UNPRIVILEGED_ID" --clear-groups)
    exec ${user[@]+"${user[@]}"} env HOME="$PLACE" "$@"
}

clean_up() {
    if [[ -e "$PLACE/data/postmaster.pid" ]]; then
        pg pg_ctl -D "$PLACE/data" -m immediate -w stop >/dev/null 2>&1 || true
    fi
    if [[ -n "${STORE_PID:-}" ]]; then
        kill "$STORE_PID" 2>/dev/null || true
        wait "$STORE_PID" 2>/dev/null || true
    fi
    rm -rf "$PLACE"
}

main "$@"
