//! The ways: one file each, the only place where the edges meet the rules.

pub mod answer;
pub mod archive;
pub mod backup;
pub mod backup_records;
mod backup_request;
pub mod catalog;
mod catalog_entry;
mod claims;
mod copy;
pub mod delete;
mod extract;
pub mod interrupt;
pub mod keep;
pub mod lay_down;
mod ownership;
mod part_upload;
mod parts;
mod prefetch;
pub mod progress;
pub mod restore;
pub mod spool;
pub mod target_directory;
mod unpack;
pub mod wal_archive;
pub mod wal_archive_check;
pub mod wal_presence;
pub mod wal_restore;
