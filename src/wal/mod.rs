//! Pure knowledge of WAL bytes: what a segment's first page proves about it, and what its records say.

mod page;
pub mod page_header;
pub mod proof;
mod record;
pub mod records;
