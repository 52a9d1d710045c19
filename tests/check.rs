//! `check`: what keeps a host from archiving is found, said in one line, and told apart from what could not be found out.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails the test that called it")]

use std::collections::BTreeMap;
use std::path::Path;

use barback::commands::host_state::{self, HostState};
use barback::error::ErrorKind;
use barback::postgres::conninfo::Conninfo;

mod harness;
use harness::{Cluster, ClusterOptions, TestDir, block_on, for_each_version};

fn state_of(cluster: &Cluster, pgdata: Option<&Path>) -> barback::error::Result<HostState> {
    let conninfo = Conninfo::resolve(Some(&cluster.connect_string()), &BTreeMap::new()).unwrap();
    block_on(host_state::read(&conninfo, pgdata))
}

#[test]
fn the_state_of_a_host_is_what_the_server_and_its_directory_say() {
    for_each_version(|version| {
        let dir = TestDir::new();
        let options = ClusterOptions::default().set("archive_mode", "on").set("archive_command", "false");
        let mut cluster = Cluster::init(&dir, version, options);
        cluster.start();
        cluster.psql("SELECT pg_create_physical_replication_slot('idle', true)");
        cluster.psql("SELECT pg_create_restore_point('x'); SELECT pg_switch_wal()");
        cluster.wait_until("SELECT failed_count > 0 FROM pg_stat_archiver", "t", std::time::Duration::from_mins(1));
        let state = state_of(&cluster, None).unwrap();
        let identifier = cluster.psql("SELECT system_identifier FROM pg_control_system()");
        assert_eq!(state.system_identifier.to_string(), identifier);
        assert_eq!(state.archive_mode.as_deref(), Some("on"));
        assert_eq!(state.settings.as_ref().unwrap().get("archive_command"), Some("false"));
        let archiver = state.archiver.as_ref().unwrap();
        assert!(archiver.is_failing() && archiver.archived_count == 0, "{archiver:?}");
        assert_eq!((state.ready_segments, state.ready_bytes), (Some(1), Some(16 << 20)));
        assert!(state.ready_since.is_some() && state.wal_free_bytes > Some(0));
        assert_eq!(state.slots.len(), 1);
        assert!(state.kept_by(&state.slots[0]) > Some(0), "{:?} {:?}", state.slots, state.current_lsn);
        assert_eq!(state.data_directory.as_deref(), Some(cluster.data()));
        assert!(state.earlier_segments.is_empty() && state.unknown.is_empty(), "{:?}", state.unknown);

        // The same server seen by a role that may see little, and the directory without the server.
        cluster.psql("CREATE ROLE little LOGIN");
        let conninfo = cluster.connect_string().replace("user=postgres", "user=little");
        let conninfo = Conninfo::resolve(Some(&conninfo), &BTreeMap::new()).unwrap();
        let little = block_on(host_state::read(&conninfo, None)).unwrap();
        assert_eq!((little.ready_segments, little.data_directory), (None, None));
        assert_eq!(little.unknown.len(), 1, "{:?}", little.unknown);
        let named = block_on(host_state::read(&conninfo, Some(cluster.data()))).unwrap();
        assert_eq!(named.ready_segments, Some(1));

        let other = Cluster::init(&dir, version, ClusterOptions::default().name("other"));
        assert_eq!(state_of(&cluster, Some(other.data())).unwrap_err().kind(), ErrorKind::Mismatch);

        cluster.stop("immediate");
        assert!(state_of(&cluster, None).is_err());
        let alone = host_state::read_without_server(cluster.data(), state.now).unwrap();
        assert_eq!(alone.system_identifier, state.system_identifier);
        assert_eq!((alone.ready_segments, alone.archiver), (Some(1), None));
    });
}
