//! One backup looked at from outside: its objects as a listing shows them, against what its small objects say.

use std::collections::{BTreeMap, BTreeSet};

use crate::commands::archive::Archive;
use crate::commands::object_stream::PartToFetch;
use crate::commands::survey::Surveyed;
use crate::domain::backup::{Backup, BackupId};
use crate::domain::compression::Compression;
use crate::domain::restorable::bounds_of;
use crate::domain::verification::{Finding, Findings};
use crate::error::{Error, ErrorKind};
use crate::layout::keys::{
    BACKUP_INFO_NAME, BACKUP_MANIFEST_NAME, PART_INDEX_NAME, PartFamily, TABLE_SNAPSHOT_NAME, parse_part_file_name,
};
use crate::layout::part_index::PartIndex;
use crate::store::Listed;

/// An index lists at most a few thousand parts, some 150 bytes each.
const INDEX_LIMIT_BYTES: u64 = 16 << 20;

/// Where a keep annotation lies in the backup's directory.
const ANNOTATIONS: &str = "annotations/";

/// True for what lies in a backup's directory beside its parts.
fn is_known(name: &str) -> bool {
    [BACKUP_INFO_NAME, PART_INDEX_NAME, BACKUP_MANIFEST_NAME, TABLE_SNAPSHOT_NAME].contains(&name)
        || name.starts_with(ANNOTATIONS)
}

/// What a look at a backup from outside found, and what there is to read of it.
#[derive(Debug, Default)]
pub(crate) struct BackupLook {
    pub(crate) findings: Findings,
    /// Objects of the backup.
    pub(crate) objects: u64,
    /// What they come to.
    pub(crate) bytes: u64,
    /// Its parts that are there, with the size that the index says where there is one.
    pub(crate) parts: Vec<PartToFetch>,
    /// Its manifest, if it is there.
    pub(crate) manifest: Option<PartToFetch>,
    /// What says what the parts hold; Barman's backups have none.
    pub(crate) index: Option<PartIndex>,
    /// The index is there and could not be read: nobody knows which parts there should be.
    pub(crate) is_blind: bool,
    /// The store gave no answer.
    pub(crate) is_unreachable: bool,
}

/// Looks at one backup: at most one request, for its index.
pub(crate) async fn look_at(archive: &Archive, surveyed: &Surveyed) -> BackupLook {
    let backup = &surveyed.backup;
    let mut look =
        BackupLook { objects: surveyed.objects.len() as u64, bytes: surveyed.stored_bytes(), ..BackupLook::default() };
    if backup.is_snapshot {
        let why = "its files are in disk snapshots, which are not looked at";
        look.findings.push(Finding::notice(archive.prefix.backup_info(&backup.id), why));
        return look;
    }
    if let Err(why) = bounds_of(backup) {
        look.findings.push(Finding::damage(archive.prefix.backup_info(&backup.id), why));
    }
    let directory = archive.prefix.backup_dir(&backup.id);
    let present: BTreeMap<&str, &Listed> =
        surveyed.objects.iter().filter_map(|object| Some((object.key.strip_prefix(&directory)?, object))).collect();
    if present.contains_key(PART_INDEX_NAME) {
        look.by_index(archive, backup, &present).await;
    } else {
        look.by_name(archive, backup, &present);
    }
    look.families(archive, backup);
    look
}

/// What a request about an object of backup `id` proves that was listed a moment ago: an object that vanished together with
/// its backup was deleted by somebody who may, and is no damage.
pub(crate) async fn judge(archive: &Archive, id: &BackupId, key: &str, error: &Error) -> Finding {
    if error.kind() != ErrorKind::NotFound {
        return Finding::of_error(key, error);
    }
    match archive.store.head(&archive.prefix.backup_info(id)).await {
        Ok(None) => Finding::unknown(key, "the backup was deleted while it was looked at"),
        Ok(Some(_)) => Finding::damage(key, "it is not there"),
        Err(error) => Finding::of_error(key, &error),
    }
}

impl BackupLook {
    /// Every object that the index names, and those that it does not.
    async fn by_index(&mut self, archive: &Archive, backup: &Backup, present: &BTreeMap<&str, &Listed>) {
        let key = archive.prefix.part_index(&backup.id);
        let read = archive.store.get(&key, INDEX_LIMIT_BYTES).await;
        let index = match read.and_then(|fetched| PartIndex::from_json(&fetched.content)) {
            Ok(index) => index,
            Err(error) if error.kind() == ErrorKind::Corrupt => {
                self.findings.push(Finding::damage(key, error.to_string()));
                self.by_name(archive, backup, present);
                return;
            }
            Err(error) => {
                self.is_blind = true;
                self.is_unreachable = error.kind() == ErrorKind::Unreachable;
                self.findings.push(match error.kind() {
                    // Another version's index is no damage.
                    ErrorKind::Mismatch => Finding::unknown(key, error.to_string()),
                    _ => judge(archive, &backup.id, &key, &error).await,
                });
                return;
            }
        };
        self.contradictions(&key, backup, &index);
        let directory = archive.prefix.backup_dir(&backup.id);
        for part in &index.parts {
            let Some((family, number, codec)) = parse_part_file_name(&part.name) else { continue };
            let (content_bytes, sha256) = (Some(part.content_bytes), part.sha256.parse().ok());
            let key = format!("{directory}{}", part.name);
            let expected = PartToFetch { key, bytes: part.bytes, codec, family, number, content_bytes, sha256 };
            let found = self.check_object(expected, present.get(part.name.as_str()));
            self.parts.extend(found);
        }
        if let Some(manifest) = &index.manifest {
            let (family, codec, number) = (PartFamily::Data, Compression::Zstd, 0);
            let (content_bytes, sha256) = (Some(manifest.content_bytes), manifest.sha256.parse().ok());
            let key = archive.prefix.backup_manifest(&backup.id);
            let expected = PartToFetch { key, bytes: manifest.bytes, codec, family, number, content_bytes, sha256 };
            self.manifest = self.check_object(expected, present.get(BACKUP_MANIFEST_NAME));
        } else {
            self.findings.push(Finding::notice(key, "it names no manifest, so files cannot be held against one"));
        }
        let named: BTreeSet<&str> = index.parts.iter().map(|part| part.name.as_str()).collect();
        for (name, object) in present {
            if !is_known(name) && !named.contains(name) {
                self.findings.push(Finding::notice(&object.key, "the index does not name it, so no restore uses it"));
            }
        }
        self.index = Some(index);
    }

    /// The object, if it is there in its full length.
    fn check_object(&mut self, expected: PartToFetch, there: Option<&&Listed>) -> Option<PartToFetch> {
        match there {
            None => {
                let what = format!("it is not there; the index says {} bytes", expected.bytes);
                self.findings.push(Finding::damage(expected.key, what));
                None
            }
            Some(there) if there.bytes != expected.bytes => {
                let what = format!("it is {} bytes long, the index says {}", there.bytes, expected.bytes);
                self.findings.push(Finding::damage(expected.key, what));
                None
            }
            Some(_) => Some(expected),
        }
    }

    /// Where the index and `backup.info` do not say the same.
    fn contradictions(&mut self, key: &str, backup: &Backup, index: &PartIndex) {
        let text = |value: Option<String>| value.unwrap_or_else(|| "nothing".to_owned());
        let of_info = [
            ("backup id", Some(backup.id.to_string())),
            ("system identifier", backup.system_identifier.map(|value| value.to_string())),
            ("timeline", backup.timeline.map(|value| value.to_string())),
            ("begin LSN", backup.begin_lsn.map(|value| value.to_string())),
            ("end LSN", backup.end_lsn.map(|value| value.to_string())),
            ("begin segment", backup.begin_segment.map(|value| value.to_string())),
        ];
        let of_index = [
            index.backup_id.to_string(),
            index.system_identifier.to_string(),
            index.timeline.to_string(),
            index.begin_lsn.to_string(),
            index.end_lsn.to_string(),
            index.begin_segment.to_string(),
        ];
        for ((what, info), index) in of_info.into_iter().zip(of_index) {
            if info.as_deref() != Some(index.as_str()) {
                let what = format!("its {what} is {index}, that of {BACKUP_INFO_NAME} is {}", text(info));
                self.findings.push(Finding::damage(key, what));
            }
        }
    }

    /// Barman 3.19.1 records nowhere how many parts there are: a number left out and a family without a first part can be
    /// seen, a missing last part cannot (there, the control file is missing too, which is last of all).
    fn by_name(&mut self, archive: &Archive, backup: &Backup, present: &BTreeMap<&str, &Listed>) {
        if present.contains_key(BACKUP_MANIFEST_NAME) && !present.contains_key(PART_INDEX_NAME) {
            let what =
                format!("it is not there, though {BACKUP_MANIFEST_NAME} is: nothing says which parts there should be");
            self.findings.push(Finding::damage(archive.prefix.part_index(&backup.id), what));
        }
        let mut numbers: BTreeMap<PartFamily, BTreeSet<u32>> = BTreeMap::new();
        for (name, object) in present {
            let key = object.key.clone();
            let Some((family, number, codec)) = parse_part_file_name(name) else {
                if !is_known(name) {
                    self.findings.push(Finding::notice(key, "it is no part of a backup, so no restore uses it"));
                }
                continue;
            };
            if !numbers.entry(family).or_default().insert(number) {
                let what = format!("part {number} of {family} is there twice, so nobody knows which is meant");
                self.findings.push(Finding::damage(key, what));
                continue;
            }
            if object.bytes == 0 {
                self.findings.push(Finding::damage(key, "it is empty: 0 bytes"));
                continue;
            }
            let (bytes, content_bytes, sha256) = (object.bytes, None, None);
            self.parts.push(PartToFetch { key, bytes, codec, family, number, content_bytes, sha256 });
        }
        for (family, numbers) in numbers {
            let last = numbers.last().copied().unwrap_or(0);
            for number in (0..last).filter(|number| !numbers.contains(number)).take(1000) {
                let object = format!("{}{family}", archive.prefix.backup_dir(&backup.id));
                let what = format!("part {number} is not there, though part {last} is");
                self.findings.push(Finding::damage(object, what));
            }
        }
    }

    /// The data directory and every tablespace has parts, and there are parts of no other.
    fn families(&mut self, archive: &Archive, backup: &Backup) {
        if self.is_blind {
            return;
        }
        let directory = archive.prefix.backup_dir(&backup.id);
        let there: BTreeSet<PartFamily> = match &self.index {
            Some(index) => index.parts.iter().filter_map(|part| Some(parse_part_file_name(&part.name)?.0)).collect(),
            None => self.parts.iter().map(|part| part.family).collect(),
        };
        let tablespaces = backup.tablespaces.iter().map(|tablespace| PartFamily::Tablespace(tablespace.oid));
        let expected: BTreeSet<PartFamily> = tablespaces.chain([PartFamily::Data]).collect();
        for family in expected.difference(&there) {
            let what = match family {
                PartFamily::Data => "no part of the data directory is there".to_owned(),
                PartFamily::Tablespace(oid) => format!("no part of tablespace {oid} is there"),
            };
            self.findings.push(Finding::damage(format!("{directory}{family}"), what));
        }
        for family in there.difference(&expected) {
            let what = format!("{BACKUP_INFO_NAME} knows no tablespace of this number");
            // A restore of ours refuses what its own index names; Barman passes over what it does not know.
            let object = format!("{directory}{family}");
            let is_ours = self.index.is_some();
            self.findings.push(if is_ours { Finding::damage(object, what) } else { Finding::notice(object, what) });
        }
    }
}
