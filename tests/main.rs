//! Every end-to-end test in one program: linked once, not once a file, which is most of what building the suite costs.
//!
//! `cargo test --test suite verify::` runs the tests of one file. A file of tests that is not named here would never
//! run; `house::every_file_of_tests_is_run` holds that.

mod archive_lies;
mod backup_interrupted;
mod backup_sources;
mod barman_backups;
mod barman_bucket;
mod barman_catalogue;
mod barman_differential;
mod barman_face;
mod barman_retention;
mod base_backup;
mod check;
mod credentials;
mod dialects;
mod documentation;
mod drill;
mod drill_checks;
mod drill_history;
mod drill_report;
mod expire;
mod expire_concurrent;
mod fuzz;
mod harness;
mod harness_works;
mod hostile_backup;
mod house;
mod least_privilege;
mod page_checksums;
mod point_in_time;
mod recovery_interrupted;
mod regressions;
mod restore_refused;
mod restored_directories;
mod ride_along;
mod secrets;
mod status;
mod store_access;
mod store_identities;
mod store_requests;
mod stores;
mod supply_chain;
mod survey;
mod time_targets;
mod timelines;
mod torture;
mod verify;
mod wal_archive_all;
mod wal_commands;
mod wal_records;
mod wal_restore_ahead;
mod wal_spool;
