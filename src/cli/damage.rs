//! What a person is told about damaged pages of a cluster that has been backed up.

use crate::commands::backup::BackupDone;
use crate::error::Error;
use crate::layout::part_index::{DamagedFile, damage_line};

/// Why a finished backup is not a success: pages of the cluster are damaged. None when it is one.
///
/// Kind `Corrupt`: the command has to end differently, although the backup is complete and stays.
#[must_use]
pub fn of(done: &BackupDone) -> Option<Error> {
    let files = done.damaged.as_deref().unwrap_or_default();
    let first = files.first()?;
    let pages: u64 = files.iter().map(|file| file.count).sum();
    let (id, line) = (&done.backup.id, damage_line(files));
    let message =
        format!("backup \"{id}\" is complete and kept, but {pages} page(s) of the cluster are damaged: {line}");
    Some(Error::corrupt(message).with_hint(format!(
        "Find out what is damaged ({}). An index can be made anew with REINDEX; for the rows of a table restore an older \
         backup, from before the damage, beside the cluster. Look at the disk and its memory. The backup is marked in barback \
         list and can be restored, with the damage in it.",
        lookup(first)
    )))
}

/// How to learn which relation a file belongs to.
fn lookup(file: &DamagedFile) -> String {
    let names: Vec<&str> = file.path.split('/').collect();
    let (space, database, name) = match names.as_slice() {
        ["global", name] => ("1664", None, *name),
        ["base", database, name] => ("0", Some(*database), *name),
        ["pg_tblspc", space, _, database, name] => (*space, Some(*database), *name),
        _ => return format!("oid2name tells the relation of \"{}\"", file.path),
    };
    let number = name.split(['.', '_']).next().unwrap_or_default();
    let place = database.map_or(String::new(), |oid| {
        format!(", in the database that SELECT datname FROM pg_database WHERE oid = {oid} names")
    });
    format!("SELECT pg_filenode_relation({space}, {number}){place}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_relation_of_a_file_can_be_looked_up() {
        let of = |path: &str| lookup(&DamagedFile { path: path.to_owned(), blocks: Vec::new(), count: 1 });
        assert_eq!(of("global/1262"), "SELECT pg_filenode_relation(1664, 1262)");
        let in_database = ", in the database that SELECT datname FROM pg_database WHERE oid = 5 names";
        assert_eq!(of("base/5/16384_vm.1"), format!("SELECT pg_filenode_relation(0, 16384){in_database}"));
        let spaced = of("pg_tblspc/16400/PG_15_202209061/5/16384.1");
        assert_eq!(spaced, format!("SELECT pg_filenode_relation(16400, 16384){in_database}"));
        assert_eq!(of("odd"), "oid2name tells the relation of \"odd\"");
    }
}
