//! Pure knowledge of WAL bytes: what a segment's first page proves about it, which segments are whole, what records say.

pub mod completeness;
mod page;
pub mod page_header;
pub mod proof;
mod record;
pub mod records;
