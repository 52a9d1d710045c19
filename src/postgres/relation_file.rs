//! Names of relation files, told apart as PostgreSQL does (`storage/file/reinit.c`, `fd.c`).

use std::ffi::OsStr;
use std::path::Path;

/// A file of an ordinary relation: `<number>[_fsm|_vm|_init][.<segment>]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RelationFile {
    /// The relation's file number.
    pub(super) number: u32,
    /// True for the init fork, which only unlogged relations have.
    pub(super) is_init_fork: bool,
    /// Which file of the fork it is: they are cut at 1 GiB by default.
    segment: u32,
}

impl RelationFile {
    /// Reads a file name; `None` when it is not one (`parse_filename_for_nontemp_relation`).
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (number, rest) = number(name)?;
        let is_init_fork = rest.starts_with("_init");
        Some(Self { number, is_init_fork, segment: fork_and_segment(rest)? })
    }
}

/// The number of the first block in the file at `path`, relative to its data directory or tablespace as in a backup's tar.
/// None for what does not consist of data pages: only those have checksums.
#[must_use]
pub fn relation_blocks(path: &Path, blocks_per_segment: u32) -> Option<u32> {
    let names: Option<Vec<&str>> = path.iter().map(OsStr::to_str).collect();
    let is_version = |name: &str| name.starts_with("PG_");
    let name = match names?.as_slice() {
        ["global", name] => *name,
        ["base", database, name] if is_oid(database) => *name,
        // A tablespace by itself, and one that lies in the data directory.
        [version, database, name] if is_version(version) && is_oid(database) => *name,
        ["pg_tblspc", space, version, database, name] if is_oid(space) && is_version(version) && is_oid(database) => {
            *name
        }
        _ => return None,
    };
    RelationFile::parse(name)?.segment.checked_mul(blocks_per_segment)
}

/// True for a file of a temporary relation: `t<backend>_<number>[_<fork>][.<segment>]` (`looks_like_temp_rel_name`).
pub(super) fn is_temporary(name: &str) -> bool {
    let after_backend = name.strip_prefix('t').map(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()));
    let backend_given = name.as_bytes().get(1).is_some_and(u8::is_ascii_digit);
    let rest = after_backend.and_then(|rest| rest.strip_prefix('_')).unwrap_or_default();
    let after_number = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    backend_given && after_number.len() < rest.len() && fork_and_segment(after_number).is_some()
}

/// True for a database's directory: its name is an OID.
pub(super) fn is_oid(name: &str) -> bool {
    number(name).is_some_and(|(_, rest)| rest.is_empty())
}

/// Splits a number without leading zeros off.
fn number(name: &str) -> Option<(u32, &str)> {
    let rest = name.trim_start_matches(|c: char| c.is_ascii_digit());
    let digits = name.strip_suffix(rest)?;
    if digits.starts_with('0') {
        return None;
    }
    Some((digits.parse().ok()?, rest))
}

/// The number of the file in `[_<fork>][.<number>]`, 0 for the first, which has none. PostgreSQL's end at 2^32 blocks.
fn fork_and_segment(rest: &str) -> Option<u32> {
    let forks = ["_fsm", "_vm", "_init"];
    let segment = forks.iter().find_map(|fork| rest.strip_prefix(fork)).unwrap_or(rest);
    match segment.strip_prefix('.') {
        Some(digits) if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok(),
        Some(_) => None,
        None => segment.is_empty().then_some(0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relation_files_are_told_from_others() {
        let file = |number, is_init_fork, segment| Some(RelationFile { number, is_init_fork, segment });
        for (name, expected) in [
            ("16384", file(16384, false, 0)),
            ("16384.1", file(16384, false, 1)),
            ("16384_fsm", file(16384, false, 0)),
            ("16384_vm.12", file(16384, false, 12)),
            ("16384_init", file(16384, true, 0)),
            ("4294967295", file(u32::MAX, false, 0)),
            ("4294967296", None),
            ("016384", None),
            ("16384_main", None),
            ("16384.", None),
            ("16384.x", None),
            ("16384x", None),
            ("16384.4294967296", None),
            ("t3_16384", None),
            ("pg_filenode.map", None),
            ("PG_VERSION", None),
            ("", None),
        ] {
            assert_eq!(RelationFile::parse(name), expected, "{name}");
        }
    }

    #[test]
    fn temporary_relations_are_told_from_others() {
        for name in ["t3_16384", "t10_16384.1", "t3_16384_fsm", "t3_16384_vm.2", "t3_16384_init"] {
            assert!(is_temporary(name), "{name}");
        }
        for name in ["t3", "t_16384", "t3_", "t3_x", "3_16384", "t3_16384_main", "t3_16384.", "tx_1", "", "t"] {
            assert!(!is_temporary(name), "{name}");
        }
    }

    #[test]
    fn the_first_block_of_every_file_with_pages_is_known_and_of_no_other() {
        for (path, expected) in [
            ("global/1262", Some(0)),
            ("base/5/16384", Some(0)),
            ("base/5/16384.2", Some(262_144)),
            ("base/5/16384_vm.1", Some(131_072)),
            ("base/5/16384_init", Some(0)),
            ("PG_15_202209061/5/16384.1", Some(131_072)),
            ("pg_tblspc/16400/PG_15_202209061/5/16384.1", Some(131_072)),
            ("global/pg_control", None),
            ("base/5/pg_filenode.map", None),
            ("base/5/PG_VERSION", None),
            ("base/5/t3_16384", None),
            ("base/pgsql_tmp/16384", None),
            ("base/5/sub/16384", None),
            ("base/5", None),
            ("16384", None),
            ("pg_xact/0000", None),
            ("pg_multixact/offsets/1234", None),
            ("pg_subtrans/1234", None),
            ("base/5/16384.99999", None),
        ] {
            assert_eq!(relation_blocks(Path::new(path), 131_072), expected, "{path}");
        }
    }
}
