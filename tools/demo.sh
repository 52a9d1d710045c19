#!/usr/bin/env bash
# The main job on a scratch cluster, in one minute: archive WAL while pgbench runs, take a base backup, drop a table,
# restore to the moment before, and look; then a drill does all of that on its own. Everything happens in one directory under /tmp and is removed at the end
# (BARBACK_KEEP=1 keeps it). Works as root (the server then runs as nobody) and as a plain user.
set -euo pipefail
cd "$(dirname "$0")/.."
# shellcheck source=tools/common.sh
. tools/common.sh

# How much pgbench data: 10 is about 150 MB.
readonly SCALE="${BARBACK_DEMO_SCALE:-10}"

main() {
    local start=$SECONDS
    step "build barback and find PostgreSQL"
    make --no-print-directory build >&2
    local found
    found="$(tools/get-postgres.sh any)"
    BIN="${found#*=}"
    prepare_directory
    say "PostgreSQL ${found%%=*} from $BIN, scratch directory $DEMO"

    step "start a cluster that archives with barback"
    start_cluster
    step "take a base backup while pgbench runs (scale $SCALE)"
    pg pgbench -q -i -s "$SCALE" postgres >"$DEMO/log/pgbench-init" 2>&1
    pg pgbench -n -c 2 -T 6 postgres >"$DEMO/log/pgbench" 2>&1 &
    local load=$!
    barback backup --fast --name demo
    wait "$load"
    grep -E "^tps" "$DEMO/log/pgbench" >&2 || true

    step "note the time, then lose a table"
    sql "INSERT INTO pgbench_history SELECT 1, 1, 1, 42, now(), 'the last good row'" >/dev/null
    local before moment
    before="$(sql "SELECT count(*) FROM pgbench_history")"
    moment="$(sql "SELECT clock_timestamp() AT TIME ZONE 'UTC' || '+00'")"
    sleep 0.1
    sql "DROP TABLE pgbench_history" >/dev/null
    sql "SELECT pg_switch_wal()" >/dev/null
    say "at $moment there were $before rows in pgbench_history; now the table is gone"
    wait_for_archiver

    step "restore to the moment before"
    barback list
    barback restore "$DEMO/restored" --target-time "$moment" --target-action promote --plan
    barback restore "$DEMO/restored" --target-time "$moment" --target-action promote

    step "start the copy and count"
    pg pg_ctl -D "$DEMO/restored" -o "-p $PORT_COPY" -l "$DEMO/log/restored" -w -t 60 start >/dev/null ||
        { tail -n 20 "$DEMO/log/restored" >&2; die "the restored copy did not start"; }
    until [[ "$(PGPORT=$PORT_COPY sql "SELECT pg_is_in_recovery()")" == f ]]; do sleep 0.1; done
    local after
    after="$(PGPORT=$PORT_COPY sql "SELECT count(*) FROM pgbench_history")"
    [[ "$after" == "$before" ]] || die "the copy has $after rows, $before were expected"

    step "drill: let barback prove all of that"
    mkdir "$DEMO/drills" "$DEMO/report"
    ! is_root || chown "$UNPRIVILEGED_ID:$UNPRIVILEGED_ID" "$DEMO/drills" "$DEMO/report"
    barback drill --target-time "$moment" --objective 1m --pg-bindir "$BIN" --workdir "$DEMO/drills" --report "$DEMO/report"
    finish_steps
    local report="${CARGO_TARGET_DIR:-target}/demo-drill"
    mkdir -p "$report"
    cp "$DEMO"/report/drill.* "$report/"
    printf '\nThe table is back: %s rows, as at %s.\nThe drill'"'"'s report: %s/drill.html\n\n' "$after" "$moment" "$(cd "$report" && pwd)"
    print_steps $((SECONDS - start))
}

prepare_directory() {
    DEMO="$(mktemp -d /tmp/barback-demo-XXXXXX)"
    trap clean_up EXIT
    mkdir "$DEMO/log" "$DEMO/bin" "$DEMO/sockets"
    install -m 755 "${CARGO_TARGET_DIR:-target}/release/barback" "$DEMO/bin/barback"
    ! is_root || chown -R "$UNPRIVILEGED_ID:$UNPRIVILEGED_ID" "$DEMO"
    PORT=54329 PORT_COPY=54330
    export PGHOST="$DEMO/sockets" PGPORT=$PORT PGUSER=postgres PGDATABASE=postgres HOME="$DEMO"
    export BARBACK_STORE="file://$DEMO/archive" BARBACK_SERVER=demo
    unset BARBACK_CONFIG
}

start_cluster() {
    pg initdb -D "$DEMO/data" -U postgres -A trust -k >"$DEMO/log/initdb"
    cat >>"$DEMO/data/postgresql.conf" <<CONF
listen_addresses = ''
unix_socket_directories = '$DEMO/sockets'
archive_mode = on
archive_command = '$DEMO/bin/barback wal-archive --store file://$DEMO/archive --server demo %p'
CONF
    pg pg_ctl -D "$DEMO/data" -o "-p $PORT" -l "$DEMO/log/server" -w start >/dev/null
}

wait_for_archiver() {
    local wanted
    wanted="$(sql "SELECT pg_walfile_name(pg_current_wal_lsn() - 1)")"
    for _ in $(seq 300); do
        [[ ! "$(sql "SELECT last_archived_wal FROM pg_stat_archiver")" < "$wanted" ]] && return
        sql "SELECT pg_switch_wal()" >/dev/null
        sleep 0.1
    done
    tail -n 20 "$DEMO/log/server" >&2
    die "the archiver did not come to $wanted"
}

pg() { unprivileged "$BIN/$1" "${@:2}"; }
sql() { pg psql -XAtq -v ON_ERROR_STOP=1 -c "$1"; }
barback() { unprivileged "$DEMO/bin/barback" "$@"; }

# The phases and how long each took, in tenths of a second.
STEP_NAMES=() STEP_TOOK=() STEP_BEGAN=""
now_ds() { local ns; ns="$(date +%s%N)"; printf '%s\n' "$((ns / 100000000))"; }
finish_steps() { [[ -z "$STEP_BEGAN" ]] || STEP_TOOK+=("$(($(now_ds) - STEP_BEGAN))"); }
step() {
    finish_steps
    STEP_NAMES+=("$1") STEP_BEGAN="$(now_ds)"
    printf '\n== %s\n' "$1" >&2
}
print_steps() {
    local at
    for at in "${!STEP_NAMES[@]}"; do
        printf '  %-52s %4d.%d s  %s\n' "${STEP_NAMES[at]}" "$((STEP_TOOK[at] / 10))" "$((STEP_TOOK[at] % 10))" \
            "$(printf '%*s' "$(((STEP_TOOK[at] + 4) / 5))" '' | tr ' ' '#' | cut -c1-60)"
    done
    printf '  %-52s %4d   s\n' "in all" "$1"
}

clean_up() {
    local code=$?
    for data in "$DEMO/restored" "$DEMO/data"; do
        [[ ! -f "$data/postmaster.pid" ]] || pg pg_ctl -D "$data" -m immediate stop >/dev/null 2>&1 || true
    done
    if [[ "${BARBACK_KEEP:-}" == 1 ]]; then say "kept: $DEMO"; else rm -rf "$DEMO"; fi
    exit "$code"
}

main "$@"
