//! The settings of a server that is started to be looked into: small, silent, and out of everybody's reach.

/// What standbys must have at least as much of as the server whose WAL they replay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StandbyLimits {
    /// `max_connections`.
    pub connections: u32,
    /// `max_worker_processes`.
    pub worker_processes: u32,
    /// `max_wal_senders`; zero where the control file does not say (before version 12).
    pub wal_senders: u32,
    /// `max_prepared_transactions`.
    pub prepared_transactions: u32,
    /// `max_locks_per_transaction`.
    pub locks_per_transaction: u32,
}

/// Libraries that do nothing on their own, and may be needed to read the data or are of no harm. All others are left out: what runs jobs,
/// connects elsewhere or changes data cannot be told by its name.
const PASSIVE_LIBRARIES: [&str; 16] = [
    "pg_stat_statements",
    "auto_explain",
    "pg_stat_kcache",
    "pg_stat_monitor",
    "pg_qualstats",
    "pg_wait_sampling",
    "pg_hint_plan",
    "pg_trgm",
    "plpgsql",
    "plpgsql_check",
    "pgaudit",
    "set_user",
    "passwordcheck",
    "credcheck",
    "pg_store_plans",
    TIMESCALEDB,
];

/// Its tables cannot be read without it; while it restores, it runs no jobs.
const TIMESCALEDB: &str = "timescaledb";

/// What a server keeps for itself at most, in MiB: the drill runs beside others.
const SHARED_BUFFERS_MIB: u64 = 128;

/// And this share of what the host has.
const OF_MEMORY: u64 = 8;

/// What is left of `shared_preload_libraries`: those that are installed here and known to do nothing on their own; and what was left out.
pub fn preload_libraries(configured: &str, is_installed: impl Fn(&str) -> bool) -> (Vec<String>, Vec<String>) {
    let names = configured.split(',').map(|name| name.trim().trim_matches('"')).filter(|name| !name.is_empty());
    let bare = |name: &str| name.trim_start_matches("$libdir/").to_owned();
    let (kept, out): (Vec<&str>, Vec<&str>) =
        names.partition(|name| PASSIVE_LIBRARIES.contains(&bare(name).as_str()) && is_installed(name));
    let owned = |names: Vec<&str>| names.into_iter().map(str::to_owned).collect();
    (owned(kept), owned(out))
}

/// The settings of a private server of `major` version, which replays WAL of a server with `limits` on a host with
/// `memory_bytes`. No network address and no directory is among them.
#[must_use]
pub fn private_settings(
    major: u32,
    limits: StandbyLimits,
    preload: &[String],
    memory_bytes: Option<u64>,
) -> Vec<(String, String)> {
    let buffers_mib = memory_bytes.map_or(SHARED_BUFFERS_MIB, |bytes| (bytes >> 20) / OF_MEMORY);
    let mut settings: Vec<(&str, String)> = vec![
        // Nothing leaves the copy.
        ("archive_mode", "off".into()),
        ("archive_command", String::new()),
        ("primary_conninfo", String::new()),
        ("primary_slot_name", String::new()),
        ("max_logical_replication_workers", "0".into()),
        ("synchronous_standby_names", String::new()),
        ("shared_preload_libraries", preload.join(",")),
        ("session_preload_libraries", String::new()),
        ("local_preload_libraries", String::new()),
        ("ssl", "off".into()),
        ("unix_socket_permissions", "0700".into()),
        ("archive_cleanup_command", String::new()),
        ("recovery_end_command", String::new()),
        // It is seen into, and says where it is.
        ("hot_standby", "on".into()),
        ("logging_collector", "off".into()),
        ("log_destination", "stderr".into()),
        ("log_min_messages", "warning".into()),
        ("log_line_prefix", "%m [%p] ".into()),
        ("log_timezone", "GMT".into()),
        ("lc_messages", "C".into()),
        ("cluster_name", "barback drill".into()),
        // It fits beside others.
        ("shared_buffers", format!("{}MB", buffers_mib.clamp(16, SHARED_BUFFERS_MIB))),
        ("huge_pages", "off".into()),
        ("work_mem", "4MB".into()),
        ("maintenance_work_mem", "64MB".into()),
        ("max_wal_size", "1GB".into()),
        ("autovacuum", "off".into()),
        ("jit", "off".into()),
        ("max_parallel_workers", "2".into()),
        ("data_sync_retry", "off".into()),
        // Of as many origins of replication as any source has, the state is replayed.
        ("max_replication_slots", "256".into()),
        ("restart_after_crash", "off".into()),
        // Not less than its source had, or it could not be looked into while it recovers.
        ("max_connections", limits.connections.max(20).to_string()),
        ("max_worker_processes", limits.worker_processes.max(8).to_string()),
        ("max_wal_senders", limits.wal_senders.to_string()),
        ("max_prepared_transactions", limits.prepared_transactions.to_string()),
        ("max_locks_per_transaction", limits.locks_per_transaction.max(64).to_string()),
    ];
    if major >= 15 {
        settings.push(("archive_library", String::new()));
    }
    if major >= 18 {
        settings.push(("max_active_replication_origins", "256".into()));
    }
    if major >= 17 {
        settings.push(("sync_replication_slots", "off".into()));
        settings.push(("summarize_wal", "off".into()));
        settings.push(("event_triggers", "off".into()));
    }
    if preload.iter().any(|name| name.ends_with(TIMESCALEDB)) {
        settings.push(("timescaledb.restoring", "on".into()));
    }
    settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: StandbyLimits = StandbyLimits {
        connections: 500,
        worker_processes: 16,
        wal_senders: 12,
        prepared_transactions: 7,
        locks_per_transaction: 256,
    };

    fn value(settings: &[(String, String)], name: &str) -> String {
        settings.iter().find(|(known, _)| known == name).map_or("not set".to_owned(), |(_, value)| value.clone())
    }

    #[test]
    fn a_private_server_has_what_its_source_had_where_replay_needs_it_and_little_else() {
        let settings = private_settings(18, LIMITS, &[], Some(512 << 20));
        for (name, expected) in [
            ("max_connections", "500"),
            ("max_worker_processes", "16"),
            ("max_wal_senders", "12"),
            ("max_prepared_transactions", "7"),
            ("max_locks_per_transaction", "256"),
            ("shared_buffers", "64MB"),
            ("archive_mode", "off"),
            ("max_logical_replication_workers", "0"),
            ("archive_library", ""),
        ] {
            assert_eq!(value(&settings, name), expected, "{name}");
        }
        assert_eq!(value(&private_settings(13, LIMITS, &[], None), "archive_library"), "not set");
        assert_eq!(value(&private_settings(13, LIMITS, &[], None), "shared_buffers"), "128MB");
        assert_eq!(value(&private_settings(13, LIMITS, &[], Some(1 << 50)), "shared_buffers"), "128MB");
        assert_eq!(value(&private_settings(13, LIMITS, &[], Some(1 << 20)), "shared_buffers"), "16MB");
    }

    #[test]
    fn libraries_that_act_on_their_own_or_are_not_here_are_left_out() {
        let installed = |name: &str| name != "pg_stat_monitor";
        let (kept, out) = preload_libraries(
            "pg_stat_statements, pg_cron,\"auto_explain\",pg_stat_monitor, $libdir/pglogical",
            installed,
        );
        assert_eq!(kept, ["pg_stat_statements", "auto_explain"]);
        assert_eq!(out, ["pg_cron", "pg_stat_monitor", "$libdir/pglogical"]);
        assert_eq!(preload_libraries("", installed).0, [""; 0]);
        // Nobody knows what it does.
        assert_eq!(preload_libraries("somebody_s_own, timescaledb", installed).0, ["timescaledb"]);
        let settings = private_settings(16, LIMITS, &["timescaledb".to_owned()], None);
        assert_eq!(value(&settings, "timescaledb.restoring"), "on");
    }
}
