//! The map of the house. barback archives PostgreSQL's WAL, takes base backups and restores a data directory to a
//! chosen moment, on S3 or a plain directory.
//!
//! Read this page, then the one file in [`commands`] for your way:
//!
//! | way | file | requests when all is well |
//! |---|---|---|
//! | archive one WAL file | [`commands::wal_archive`] | 1 put |
//! | restore one WAL file | [`commands::wal_restore`] | 1 get |
//! | restore WAL while PostgreSQL replays | [`commands::wal_restore_ahead`], [`commands::fetch_ahead`] | 1 get for each file |
//! | take a base backup | [`commands::backup`] | parts, manifest, index, `backup.info` last |
//! | lay a backup's files down | [`commands::lay_down`] | parts, `global/pg_control` last |
//! | verify backups and WAL | [`commands::verify`] | one listing; deep: everything there is |
//! | restore to a moment | [`commands::restore`] | catalogue, WAL names, parts, `global/pg_control` last |
//!
//! ```text
//! main -> cli -> commands -> { store, postgres, codec } -> disk, { layout, wal } -> domain -> error
//! ```
//!
//! `domain`, `layout` and `wal` are pure; `store` has not heard of WAL, `postgres` has not heard of buckets;
//! `commands` holds order and cleanup, and no rules; `cli` alone reads arguments and environment, and alone prints.

pub mod cli;
pub mod codec;
pub mod commands;
pub mod disk;
pub mod domain;
pub mod error;
pub mod layout;
pub mod postgres;
pub mod secret;
pub mod store;
pub mod wal;
