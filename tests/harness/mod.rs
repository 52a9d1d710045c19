//! What end-to-end tests stand on: directories, an unprivileged user, real PostgreSQL, real S3 servers and our binary.
//!
//! A test reads like this:
//!
//! ```no_run
//! #[test]
//! fn a_segment_archived_on_s3_is_restored() {
//!     for_each_version(|version| {
//!         let dir = TestDir::new();
//!         let s3 = S3Server::start();
//!         let archive = format!("{} wal-archive %p", barback_binary().display());
//!         let options = ClusterOptions::default()
//!             .set("archive_mode", "on")
//!             .set("archive_command", &archive)
//!             .envs(&s3.env())
//!             .env("BARBACK_STORE", "s3://bkt/pfx");
//!         let mut primary = Cluster::init(&dir, version, options);
//!         primary.start();
//!         primary.pgbench(&["-i", "-s", "1"]);
//!         let segment = primary.archive_everything();
//!         barback(&["wal-restore", &segment, "/dev/null"]).envs(&s3.env()).env("BARBACK_STORE", "s3://bkt/pfx").success();
//!     });
//! }
//! ```
//!
//! As root everything but the test itself runs as the unprivileged user, as PostgreSQL demands; as anybody else nothing is
//! special. Servers stop and directories vanish on drop; a failing test keeps its directory and says where it is.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stderr,
    clippy::missing_panics_doc,
    reason = "a helper of tests fails the test that called it"
)]

mod azurite;
mod backups;
mod barman;
mod barman_process;
mod certificate;
mod chromium;
mod cluster;
mod directory;
mod disk_faults;
mod fault_proxy;
mod gcs_server;
mod minio;
mod postgres;
mod process;
mod random;
mod recovery;
mod s3_server;
mod secrets;
mod skip;
mod store;
mod wal;
mod web_server;

pub use azurite::{AZURE_ACCOUNT, AZURE_KEY};
pub use backups::{
    StoreEnv, backup_run, check_pgbench, files_named, id_of, list_backups, on_disk, on_s3, restore_copy,
    running_cluster, start_copy, take_backup,
};
pub use barman::{BARMAN_COMMANDS, BARMAN_VERSION, Barman, Face};
pub use barman_process::BarmanProcess;
pub use certificate::Certificate;
pub use chromium::Chromium;
pub use cluster::{Checked, Cluster, ClusterOptions};
pub use directory::{TestDir, give_away};
pub use disk_faults::{DiskError, DiskFaults};
pub use fault_proxy::{ENDING, FaultPlan, FaultProxy, PASSING, Trouble};
pub use gcs_server::{GCS_PAGE, GcsServer};
pub use minio::Minio;
pub use postgres::{PgVersion, Postgres, for_each_version};
pub use process::{Finished, Run, Running, barback, barback_binary, server_user};
pub use random::Random;
pub use recovery::{Site, files_below, snapshot};
pub use s3_server::{BUCKET, Fault, S3Server, Seen, block_on, s3_client, signed};
pub use secrets::{TEST_PASSWORD, expect_no_secret};
pub use skip::{pass_over, skip};
pub use store::{Object, TestStore, archive_of, for_each_store, store_options};
pub use wal::{Filling, SYSTEM_IDENTIFIER, segment, segment_of};
pub use web_server::WebServer;
