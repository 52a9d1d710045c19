//! Pure knowledge of WAL bytes: what a segment's first page proves about it.

pub mod page_header;
pub mod proof;
