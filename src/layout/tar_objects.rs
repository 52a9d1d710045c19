//! Which objects of a backup's directory are its tar archives, by the names Barman gives them.

use std::collections::BTreeMap;

use crate::domain::compression::Compression;

/// The tar archives of a backup, and what is odd about them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TarObjects {
    /// Their keys: the data directory's, then each tablespace's; of each first the archive without a number.
    pub keys: Vec<String>,
    /// What Barman 3.19.1 warns of, in its words: archives that are missing, names with endings that mean nothing.
    pub warnings: Vec<String>,
}

/// Finds the tar archives among `keys`, which are all that begin with `directory` (ending in `/`).
///
/// As in Barman 3.19.1 an archive is `data` or the OID of one of the backup's `tablespaces`, with `_` and anything as its
/// number, and an ending; objects in directories below, and the archives of other tablespaces, are none. Of two archives
/// without a number that differ in their endings only the one listed last counts. `.tar.zst` and `.tar.xz` are ours alone:
/// Barman leaves them.
#[must_use]
pub fn tar_objects<'k>(
    directory: &str,
    keys: impl IntoIterator<Item = &'k str>,
    tablespaces: &[i64],
    server: &str,
) -> TarObjects {
    let mut oids = tablespaces.to_vec();
    oids.sort_unstable();
    oids.dedup();
    let names: Vec<String> = std::iter::once("data".to_owned()).chain(oids.iter().map(ToString::to_string)).collect();
    let mut families: BTreeMap<&str, Family> = names.iter().map(|name| (name.as_str(), Family::default())).collect();
    let mut found = TarObjects::default();
    for key in keys {
        let Some(file) = key.strip_prefix(directory).filter(|file| !file.contains('/')) else { continue };
        let Some((stem, ending)) = file.split_once('.') else { continue };
        let (name, is_numbered) = stem.split_once('_').map_or((stem, false), |(name, _)| (name, true));
        let Some(family) = families.get_mut(name) else { continue };
        if Compression::split_suffix(&format!(".{ending}")).0 != ".tar" {
            found.warnings.push(format!("Skipping unknown extension: {ending}"));
        } else if is_numbered {
            family.numbered.push(key.to_owned());
        } else {
            family.main = Some(key.to_owned());
        }
    }
    for name in &names {
        let family = families.remove(name.as_str()).unwrap_or_default();
        match family.main {
            Some(key) => found.keys.push(key),
            None => found.warnings.push(format!("Missing file {directory}{name}.* for server {server}")),
        }
        found.keys.extend(family.numbered);
    }
    found
}

/// The archives of the data directory or of a tablespace, as they were listed.
#[derive(Debug, Default)]
struct Family {
    main: Option<String>,
    numbered: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[&str], tablespaces: &[i64]) -> (Vec<String>, Vec<String>) {
        let mut keys: Vec<String> = files.iter().map(|file| format!("b/ID/{file}")).collect();
        keys.sort();
        let found = tar_objects("b/ID/", keys.iter().map(String::as_str), tablespaces, "main");
        (found.keys.iter().map(|key| key.replace("b/ID/", "")).collect(), found.warnings)
    }

    /// What Barman 3.19.1 said to the same names.
    #[test]
    fn archives_come_in_barman_s_order_data_first_and_tablespaces_by_number() {
        let files = [
            "16389_0001.tar",
            "16389.tar",
            "9.tar",
            "100000.tar",
            "9_0001.tar",
            "100000_0002.tar",
            "data.tar",
            "7.tar",
        ];
        let expected =
            ["data.tar", "9.tar", "9_0001.tar", "16389.tar", "16389_0001.tar", "100000.tar", "100000_0002.tar"];
        assert_eq!(found(&files, &[100_000, 16389, 9, 9]), (expected.map(str::to_owned).to_vec(), vec![]));
    }

    #[test]
    fn odd_names_are_taken_or_left_as_barman_takes_or_leaves_them() {
        let (keys, warnings) =
            found(&["data_x.tar", "data.tar", "data_0001_2.tar", "dataa.tar", "DATA.tar", "data", "backup.info"], &[]);
        assert_eq!(keys, ["data.tar", "data_0001_2.tar", "data_x.tar"]);
        assert!(warnings.is_empty());
        assert_eq!(found(&["data.tar.gz", "data.tar.lz4"], &[]).0, ["data.tar.lz4"]);
        assert_eq!(found(&["sub/data.tar", "annotations/keep"], &[]).0, [""; 0]);
        let (keys, warnings) = found(&["data.tgz", "data_0001.tar.gz.tmp", "16389_0001.tar"], &[16389]);
        assert_eq!(keys, ["16389_0001.tar"]);
        assert_eq!(
            warnings,
            [
                "Skipping unknown extension: tgz",
                "Skipping unknown extension: tar.gz.tmp",
                "Missing file b/ID/data.* for server main",
                "Missing file b/ID/16389.* for server main",
            ]
        );
    }

    #[test]
    fn archives_in_formats_of_ours_are_found_too() {
        assert_eq!(found(&["data.tar.zst", "data_0001.tar.xz"], &[]).0, ["data.tar.zst", "data_0001.tar.xz"]);
    }
}
