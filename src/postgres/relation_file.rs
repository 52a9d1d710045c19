//! Names of relation files, told apart as PostgreSQL does (`storage/file/reinit.c`, `fd.c`).

/// A file of an ordinary relation: `<number>[_fsm|_vm|_init][.<segment>]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct RelationFile {
    /// The relation's file number.
    pub(super) number: u32,
    /// True for the init fork, which only unlogged relations have.
    pub(super) is_init_fork: bool,
}

impl RelationFile {
    /// Reads a file name; `None` when it is not one (`parse_filename_for_nontemp_relation`).
    pub(super) fn parse(name: &str) -> Option<Self> {
        let (number, rest) = number(name)?;
        let is_init_fork = rest.starts_with("_init");
        is_fork_and_segment(rest).then_some(Self { number, is_init_fork })
    }
}

/// True for a file of a temporary relation: `t<backend>_<number>[_<fork>][.<segment>]` (`looks_like_temp_rel_name`).
pub(super) fn is_temporary(name: &str) -> bool {
    let after_backend = name.strip_prefix('t').map(|rest| rest.trim_start_matches(|c: char| c.is_ascii_digit()));
    let backend_given = name.as_bytes().get(1).is_some_and(u8::is_ascii_digit);
    let rest = after_backend.and_then(|rest| rest.strip_prefix('_')).unwrap_or_default();
    let after_number = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    backend_given && after_number.len() < rest.len() && is_fork_and_segment(after_number)
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

fn is_fork_and_segment(rest: &str) -> bool {
    let forks = ["_fsm", "_vm", "_init"];
    let segment = forks.iter().find_map(|fork| rest.strip_prefix(fork)).unwrap_or(rest);
    match segment.strip_prefix('.') {
        Some(digits) => digits.bytes().all(|b| b.is_ascii_digit()) && !digits.is_empty(),
        None => segment.is_empty(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relation_files_are_told_from_others() {
        let file = |number, is_init_fork| Some(RelationFile { number, is_init_fork });
        for (name, expected) in [
            ("16384", file(16384, false)),
            ("16384.1", file(16384, false)),
            ("16384_fsm", file(16384, false)),
            ("16384_vm.12", file(16384, false)),
            ("16384_init", file(16384, true)),
            ("4294967295", file(u32::MAX, false)),
            ("4294967296", None),
            ("016384", None),
            ("16384_main", None),
            ("16384.", None),
            ("16384.x", None),
            ("16384x", None),
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
}
