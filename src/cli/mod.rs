//! The faces: grammar, configuration, exit codes, and everything that is printed.
//!
//! This layer alone reads arguments and environment, and alone prints.

pub mod barman;
pub mod check;
pub mod config;
pub mod damage;
pub mod drill;
pub mod drill_checks;
pub mod drill_history;
pub mod exit_code;
pub mod expire;
pub mod invocation;
pub mod links;
pub mod log;
pub mod native;
mod native_grammar;
mod native_requests;
pub mod output;
pub mod panic;
pub mod progress;
pub mod quantity;
pub mod run;
pub mod status;
mod store;
mod values;
pub mod verify;
pub mod wal_archive_all;
mod wal_restore;
pub mod zone;
