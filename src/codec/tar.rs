//! Tar archives as base backups hold them: written for `tar`, Barman and ourselves, read with suspicion.
//!
//! Format: POSIX.1-2001 (pax) — ustar headers, and extended headers (`x`) where ustar is too small. Barman 3.19.1 writes the same by
//! Python's `tarfile`, with fractional times; ours are whole seconds, so most members need no extended header.

mod header;
mod reader;
mod writer;

pub use header::Attributes;
pub use reader::{Entry, EntryKind, TarReader};
pub use writer::{Archived, TarWriter};

#[cfg(test)]
mod tests;
