//! Edge: a PostgreSQL server and its data directory.
//!
//! A connection and what the server says about itself, the begin and end of a base backup, and the files below a
//! data directory. Servers from PostgreSQL 13 to 18; nothing here knows where bytes go.

pub mod amcheck;
pub mod archive_status;
pub mod archiver;
pub mod base_backup;
pub mod configuration;
mod connect;
pub mod connection;
pub mod conninfo;
mod conninfo_syntax;
pub mod data_directory;
pub mod inspection;
pub mod os_user;
pub mod passfile;
pub mod pg_control;
pub mod private_server;
pub mod recovery;
pub mod recovery_log;
pub mod relation_file;
pub mod server;
pub mod settings;
pub mod tables;
mod tls;
pub mod wal_directory;
