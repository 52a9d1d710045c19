//! Names and metadata in the bucket: the Barman layout and what barback stores beside it.
//!
//! Pure: keys and texts in, values out. A bucket written by Barman 3.19.1 is read, and what is written here is read
//! by Barman 3.19.1.

pub mod backup_info;
pub mod backup_record;
pub mod catalog_cache;
pub mod content_facts;
pub mod drill_chain;
pub mod drill_record;
pub mod expiry_lock;
pub mod identity;
mod json_document;
mod json_time;
pub mod keys;
pub mod manifest;
pub mod manifest_reader;
pub mod part_index;
pub mod python_json;
pub mod python_literal;
pub mod table_snapshot;
pub mod tar_objects;
pub mod verify_record;
