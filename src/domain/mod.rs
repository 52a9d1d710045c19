//! Pure rules: what is a segment, which backup serves a target, what a restore must do.
//!
//! No async, files, sockets, clock, environment or randomness: time and ids come in as arguments.

pub mod archive_command;
pub mod archive_health;
pub mod backup;
pub mod barman_choice;
pub mod barman_retention;
pub mod catalog;
pub mod cluster;
pub mod compression;
pub mod decimal;
pub mod delivery;
pub mod drill;
pub mod drill_checks;
pub mod drill_forecast;
pub mod expiry;
pub mod fetch_ahead;
pub mod finding;
pub mod host;
pub mod host_health;
pub mod lsn;
pub mod measure;
pub mod needed_wal;
pub mod paths;
pub mod private_settings;
pub mod recoverability;
pub mod recovery_target;
pub mod restorable;
pub mod restore_plan;
pub mod retention;
pub mod segment;
pub mod store_health;
pub mod table_comparison;
pub mod tablespace_place;
pub mod timeline;
pub mod verification;
pub mod verify_choice;
pub mod wal_flow;
pub mod wal_needs;
pub mod wal_removal;
pub mod window;

#[cfg(test)]
mod expiry_model;
#[cfg(test)]
mod plan_model;
