//! Which objects make up a backup, and that they are all there.

use std::collections::{BTreeMap, BTreeSet};

use crate::commands::archive::Archive;
use crate::commands::object_stream::PartToFetch;
use crate::domain::backup::Backup;
use crate::domain::compression::Compression;
use crate::error::{Error, ErrorKind, Result};
use crate::layout::keys::{PartFamily, parse_part_file_name};
use crate::layout::part_index::{DamagedFile, PartIndex};

/// An index lists at most a few thousand parts, some 150 bytes each.
const INDEX_LIMIT_BYTES: u64 = 16 << 20;

/// The objects of one backup.
#[derive(Debug, Clone)]
pub(crate) struct BackupParts {
    pub(crate) parts: Vec<PartToFetch>,
    /// The `backup_manifest`, where the backup has one.
    pub(crate) manifest: Option<PartToFetch>,
    /// Pages that the backup found damaged already when it read them; of Barman's backups nobody knows.
    pub(crate) damaged: Vec<DamagedFile>,
}

impl BackupParts {
    /// What the parts unpack to, as far as that is known.
    pub(crate) fn content_bytes(&self) -> u64 {
        self.parts.iter().filter_map(|part| part.content_bytes).fold(0, u64::saturating_add)
    }
}

/// What lies in a backup's directory: keys and sizes.
pub(crate) type Present = BTreeMap<String, u64>;

/// Finds a backup's parts: by its index where it has one, by their names (Barman's backups) where not.
///
/// One listing and at most one read. Errors: `Corrupt` when a part is missing or has another size than the index
/// says; for a backup without an index, when a family has no first part or a number is left out.
pub(crate) async fn find(archive: &Archive, backup: &Backup) -> Result<BackupParts> {
    find_among(archive, backup, &list(archive, backup).await?).await
}

/// Proves, before a backup is called DONE, that the store shows every object of its index in its full length: what an upload
/// was told and what is listed may differ.
///
/// One listing. Errors: `Corrupt` naming the first object that is missing or has another size; those of the store, since an
/// answer that did not come proves nothing.
pub(crate) async fn prove_stored(archive: &Archive, backup: &Backup, index: &PartIndex, json_bytes: u64) -> Result<()> {
    let present = list(archive, backup).await?;
    check_present(backup, &present, &archive.prefix.part_index(&backup.id), json_bytes)
        .and_then(|()| by_index(archive, backup, index, &present).map(drop))
        .map_err(|error| error.with_hint("The store lost what it had confirmed: look at it before the next backup."))
}

/// Lists a backup's directory.
pub(crate) async fn list(archive: &Archive, backup: &Backup) -> Result<Present> {
    let mut present = Present::new();
    archive
        .store
        .list(&archive.prefix.backup_dir(&backup.id), None, |object| {
            present.insert(object.key, object.bytes);
        })
        .await?;
    Ok(present)
}

/// The first family, the data directory before the tablespaces, whose first part is not there.
pub(crate) fn missing_family(archive: &Archive, backup: &Backup, present: &Present) -> Option<PartFamily> {
    let parts = present.keys().filter_map(|key| archive.prefix.part_from_key(&backup.id, key));
    let begun: BTreeSet<PartFamily> = parts.filter(|(_, number, _)| *number == 0).map(|(family, ..)| family).collect();
    let tablespaces = backup.tablespaces.iter().map(|there| PartFamily::Tablespace(there.oid));
    [PartFamily::Data].into_iter().chain(tablespaces).find(|family| !begun.contains(family))
}

/// [`find`] among the objects that a listing has shown.
pub(crate) async fn find_among(archive: &Archive, backup: &Backup, present: &Present) -> Result<BackupParts> {
    let index_key = archive.prefix.part_index(&backup.id);
    if !present.contains_key(&index_key) {
        return by_name(archive, backup, present);
    }
    let fetched = archive.store.get(&index_key, INDEX_LIMIT_BYTES).await?;
    let index = PartIndex::from_json(&fetched.content)
        .map_err(|error| error.context(format!("could not use index \"{index_key}\"")))?;
    if index.backup_id != backup.id {
        return Err(damaged(backup, &format!("its index is that of backup \"{}\"", index.backup_id)));
    }
    by_index(archive, backup, &index, present)
}

fn by_index(archive: &Archive, backup: &Backup, index: &PartIndex, present: &Present) -> Result<BackupParts> {
    let directory = archive.prefix.backup_dir(&backup.id);
    let mut parts = Vec::new();
    for part in &index.parts {
        let key = format!("{directory}{}", part.name);
        check_present(backup, present, &key, part.bytes)?;
        let (family, number, codec) = parse_part_file_name(&part.name)
            .ok_or_else(|| damaged(backup, &format!("the index names \"{}\", which is no part", part.name)))?;
        let (content_bytes, sha256) = (Some(part.content_bytes), Some(part.sha256.parse()?));
        parts.push(PartToFetch { key, bytes: part.bytes, codec, family, number, content_bytes, sha256 });
    }
    let manifest = match &index.manifest {
        None => None,
        Some(manifest) => {
            let key = archive.prefix.backup_manifest(&backup.id);
            check_present(backup, present, &key, manifest.bytes)?;
            let sha256 = Some(manifest.sha256.parse()?);
            let (family, codec, number) = (PartFamily::Data, Compression::Zstd, 0);
            let content_bytes = Some(manifest.content_bytes);
            Some(PartToFetch { key, bytes: manifest.bytes, codec, family, number, content_bytes, sha256 })
        }
    };
    Ok(BackupParts { parts, manifest, damaged: index.damaged.clone().unwrap_or_default() })
}

fn check_present(backup: &Backup, present: &Present, key: &str, bytes: u64) -> Result<()> {
    match present.get(key) {
        Some(there) if *there == bytes => Ok(()),
        Some(there) => Err(damaged(backup, &format!("\"{key}\" is {there} bytes long, the index says {bytes}"))),
        None => Err(damaged(backup, &format!("\"{key}\" is not there"))),
    }
}

/// Barman 3.19.1 records nowhere how many parts there are: a gap in the numbers and a family without its first part
/// can be seen, a missing last part cannot (there, the missing control file tells).
fn by_name(archive: &Archive, backup: &Backup, present: &Present) -> Result<BackupParts> {
    let mut parts = Vec::new();
    let mut numbers: BTreeMap<PartFamily, BTreeSet<u32>> = BTreeMap::new();
    for (key, bytes) in present {
        let Some((family, number, codec)) = archive.prefix.part_from_key(&backup.id, key) else { continue };
        if !numbers.entry(family).or_default().insert(number) {
            return Err(damaged(backup, &format!("part {number} of {family} is there twice, as \"{key}\" too")));
        }
        let (key, content_bytes) = (key.clone(), None);
        parts.push(PartToFetch { key, bytes: *bytes, codec, family, number, content_bytes, sha256: None });
    }
    let expected = backup.tablespaces.iter().map(|there| PartFamily::Tablespace(there.oid));
    for family in expected.chain([PartFamily::Data]) {
        let Some(numbers) = numbers.get(&family) else {
            return Err(damaged(backup, &format!("no part of {family} is there")));
        };
        if let Some(missing) =
            (0..).zip(numbers).find_map(|(expected, number)| (expected != *number).then_some(expected))
        {
            return Err(damaged(backup, &format!("part {missing} of {family} is not there, though later ones are")));
        }
    }
    Ok(BackupParts { parts, manifest: None, damaged: Vec::new() })
}

fn damaged(backup: &Backup, why: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("backup \"{}\" is not complete: {why}", backup.id))
        .with_hint("Choose another backup with --backup; barback list shows them.")
}
