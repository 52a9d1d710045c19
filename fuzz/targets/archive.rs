//! What lies in an archive beside WAL and tar: `backup.info`, manifests, our own records, names, histories.

use std::collections::BTreeMap;
use std::fmt::{Debug, Display};
use std::str::FromStr;

use barback::domain::backup::{Backup, BackupId, BackupName};
use barback::domain::barman_choice::{TargetWords, Wanted, choose};
use barback::domain::barman_retention::{Keep, RetainedBackup, Retention, RetentionPolicy};
use barback::domain::catalog::Catalog;
use barback::domain::cluster::{ServerVersion, SystemIdentifier};
use barback::domain::compression::Compression;
use barback::domain::expiry;
use barback::domain::lsn::Lsn;
use barback::domain::needed_wal::{missing_of_backup, needed_wal};
use barback::domain::recoverability::{Holdings, Recoverability};
use barback::domain::recovery_target::{RecoveryTarget, TargetAction, TargetRequest, TargetTimeline};
use barback::domain::restore_plan::{self, PlanInput};
use barback::domain::retention::{Held, Rules, Wish};
use barback::domain::segment::{SegmentName, SegmentSize, WalFileName};
use barback::domain::timeline::{TimelineHistory, TimelineId};
use barback::domain::verification::{Degree, Depth, Verdict};
use barback::domain::wal_removal::{self, ArchivedWal};
use barback::domain::window::WalInventory;
use barback::error::Result;
use barback::layout::backup_record::BackupRecord;
use barback::layout::catalog_cache::CatalogCache;
use barback::layout::drill_chain::{DrillChain, DrillLink};
use barback::layout::drill_record::DrillRecord;
use barback::layout::expiry_lock::{ExpiryLock, is_dead};
use barback::layout::identity::Identity;
use barback::layout::keys::{ServerPrefix, parse_part_file_name, part_file_name};
use barback::layout::manifest::{ManifestFile, ManifestWriter, WalRange};
use barback::layout::manifest_reader::{ListedFile, ManifestEnd, ManifestReader};
use barback::layout::part_index::PartIndex;
use barback::layout::python_literal::Literal;
use barback::layout::table_snapshot::TableSnapshot;
use barback::layout::tar_objects::tar_objects;
use barback::layout::verify_record::{RecordName, Subject, VerifyRecord};
use barback::layout::{backup_info, python_json};
use barback::wal::proof;
use chrono::{DateTime, FixedOffset, Utc};

use super::{line_and_rest, text};

/// Half a year after the corpus was made.
fn now() -> DateTime<Utc> {
    DateTime::from_timestamp(1_795_000_000, 0).expect("it is a time")
}

fn id() -> BackupId {
    "20261123T083817".parse().expect("it is an id")
}

/// `backup.info` in both readings, and a Python literal by itself.
pub fn backup_info(bytes: &[u8]) {
    let text = text(bytes);
    if let Ok(backup) = backup_info::parse(&id(), &text) {
        let written = backup_info::write(&backup);
        let read = backup_info::parse(&id(), &written).expect("what is written can be read");
        assert_eq!(backup_info::write(&read), written, "writing is stable");
    }
    if let Ok(record) = BackupRecord::parse("20261123T083817", &text) {
        let json: serde_json::Value = serde_json::from_str(&record.to_json()).expect("it is shown as JSON");
        assert_eq!(json["backup_id"], "20261123T083817");
        let _ = (record.retained(Some(Keep::Full)), record.tablespaces(), record.shown("tablespaces"));
    }
    if let Ok(literal) = Literal::parse(&text) {
        let written = literal.to_string();
        let read = Literal::parse(&written).expect("what is written can be read");
        assert_eq!(read.to_string(), written, "writing is stable");
        python_json::write_literal(&mut String::new(), &literal);
    }
    let _ = Keep::of_annotation(&text);
}

/// Every JSON document of ours. What is read can be written, and is the same when it is read again.
pub fn records(bytes: &[u8]) {
    stable(bytes, PartIndex::from_json, |index| index.to_json().map(String::into_bytes));
    stable(bytes, Identity::from_json, |identity| Ok(identity.to_json().into_bytes()));
    stable(bytes, VerifyRecord::from_json, |record| record.to_json().map(String::into_bytes));
    stable(bytes, TableSnapshot::from_json, |snapshot| snapshot.to_json().map(String::into_bytes));
    stable(bytes, CatalogCache::from_json, CatalogCache::to_json);
    stable(bytes, ExpiryLock::from_json, ExpiryLock::to_json);
    stable(bytes, DrillRecord::from_json, |record| record.to_json().map(String::into_bytes));
    if let Ok(lock) = ExpiryLock::from_json(bytes) {
        let _ = (is_dead(lock.started, now()), is_dead(now(), lock.started));
        let _ = lock.may_delete_since("000000010000000000000001".parse().expect("it is a segment"));
    }
    if let Ok(record) = VerifyRecord::from_json(bytes) {
        let (name, _) = (record.name().to_string(), record.subject.stretch(SegmentSize::DEFAULT));
        let _ = name.parse::<RecordName>();
    }
    let drill = DrillRecord::from_json(bytes).map_err(|error| error.to_string());
    let sequence = drill.as_ref().ok().and_then(|record| record.sequence).unwrap_or(u64::MAX);
    let link = |sequence| DrillLink { sequence, sha256: None, record: drill.clone() };
    let _ = DrillChain::of(&[link(1), link(sequence), link(u64::MAX)]);
}

fn stable<T>(bytes: &[u8], read: impl Fn(&[u8]) -> Result<T>, write: impl Fn(&T) -> Result<Vec<u8>>) {
    if let Ok(found) = read(bytes) {
        let written = write(&found).expect("what was read can be written");
        let again = read(&written).expect("what is written can be read");
        assert_eq!(write(&again).expect("it can be written again"), written, "writing is stable");
    }
}

/// `backup_manifest`: as it is, with a checksum that is right, in one piece and in many; and what it lists, written anew.
pub fn manifest(bytes: &[u8]) {
    const SUM: &[u8] = b"\"Manifest-Checksum\": \"";
    let whole = read_manifest(&[bytes]);
    let pieces: Vec<&[u8]> = bytes.chunks(7).collect();
    assert_eq!(whole.as_ref().ok(), read_manifest(&pieces).as_ref().ok(), "pieces read like the whole");
    let Some(at) = bytes.windows(SUM.len()).position(|window| window == SUM) else { return };
    let digest = ring::digest::digest(&ring::digest::SHA256, &bytes[..at]);
    let hex = digest.as_ref().iter().fold(String::new(), |hex, byte| format!("{hex}{byte:02x}"));
    let mended = [&bytes[..at], SUM, hex.as_bytes(), b"\"}\n"].concat();
    let Ok((files, end)) = read_manifest(&[&mended]) else { return };
    let identifier = end.system_identifier.unwrap_or(SystemIdentifier(1));
    let mut writer = ManifestWriter::new(ServerVersion(180_000), identifier);
    for file in &files {
        let ListedFile { path, size_bytes, crc32c } = file;
        writer.file(&ManifestFile { path, size_bytes: *size_bytes, modified: now(), crc32c: *crc32c });
    }
    let range = WalRange { timeline: TimelineId::FIRST, start: Lsn(0), end: Lsn(u64::MAX) };
    let mut written = writer.take_bytes();
    written.extend(writer.finish(&[range]));
    let (read, end) = read_manifest(&[&written]).expect("what is written can be read");
    assert_eq!((read, end.system_identifier), (files, Some(identifier)));
}

fn read_manifest(pieces: &[&[u8]]) -> Result<(Vec<ListedFile>, ManifestEnd)> {
    let (mut reader, mut files) = (ManifestReader::new(), Vec::new());
    for piece in pieces {
        reader.update(piece, |file| {
            files.push(file);
            Ok(())
        })?;
    }
    let end = reader.finish()?;
    assert_eq!(end.files, files.len() as u64);
    Ok((files, end))
}

/// Names in listings and what they are made of, one to a line. What is read is written alike.
pub fn names(bytes: &[u8]) {
    let text = text(bytes);
    let prefix = ServerPrefix::new("pfx", "main").expect("it is a prefix");
    for line in text.lines().take(64) {
        same::<SegmentName>(line, str::eq_ignore_ascii_case);
        same::<WalFileName>(line, str::eq_ignore_ascii_case);
        same::<BackupId>(line, str::eq);
        assert!(line.parse::<BackupName>().map_or(true, |name| name.as_str() == line), "{line}");
        same::<RecordName>(line, str::eq);
        same::<Subject>(line, str::eq_ignore_ascii_case);
        same::<Lsn>(line, |_, _| true);
        same::<TimelineId>(line, |_, _| true);
        same::<SystemIdentifier>(line, |_, _| true);
        same::<Compression>(line, |_, _| true);
        same::<Depth>(line, str::eq);
        same::<Verdict>(line, str::eq);
        same::<Degree>(line, str::eq);
        if let Some((family, number, codec)) = parse_part_file_name(line) {
            assert_eq!(part_file_name(family, number, codec), line);
        }
        key(&prefix, line);
        key(&prefix, &format!("pfx/main/{line}"));
        let (url, server) = line.split_once(' ').unwrap_or((line, line));
        let _ = (ServerPrefix::new(url, server), ServerPrefix::nested(url, server));
        if let Some(name) = wal_removal::wal_name(line) {
            assert!(line.contains(name) && wal_removal::timeline_of(name).is_some(), "{line}");
        }
    }
    let keys: Vec<String> = text.lines().take(64).map(|line| format!("pfx/main/base/x/{line}")).collect();
    let found = tar_objects("pfx/main/base/x/", keys.iter().map(String::as_str), &[16389, -1], "main");
    assert!(found.keys.iter().all(|key| keys.contains(key)), "only what was listed is found");
    let _ = ArchivedWal::new("pfx/main/wals/", text.lines().take(64).map(|line| format!("pfx/main/wals/{line}")));
}

/// A name of type `T` is written as it was read, by the measure of `is_same`.
fn same<T: FromStr + Display + PartialEq + Debug>(line: &str, is_same: impl Fn(&str, &str) -> bool) {
    if let Ok(name) = line.parse::<T>() {
        let written = name.to_string();
        assert!(is_same(&written, line), "\"{line}\" became \"{written}\"");
        assert_eq!(written.parse::<T>().ok(), Some(name), "\"{written}\"");
    }
}

fn key(prefix: &ServerPrefix, key: &str) {
    if let Some((name, codec)) = prefix.wal_from_key(key) {
        assert!(format!("{}{}", prefix.wal(&name), codec.suffix()).eq_ignore_ascii_case(key), "{key}");
    }
    if let Some((id, _)) = prefix.backup_from_key(key) {
        assert!(key.starts_with(&prefix.backup_dir(&id)), "{key}");
        if let Some((family, number, codec)) = prefix.part_from_key(&id, key) {
            assert_eq!(prefix.part(&id, &family, number, codec), key);
        }
    }
    if let Some(sequence) = prefix.drill_from_key(key) {
        assert_eq!(prefix.drill(sequence), key);
    }
    let _ = (prefix.timeline_of_wal_directory(key), prefix.backup_from_dir_key(key));
}

/// A timeline history, and a file that says it is one or a backup's.
pub fn history(bytes: &[u8]) {
    let text = text(bytes);
    let timeline = |number| TimelineId::new(number).expect("it is not 0");
    for tip in [2, 9, u32::MAX].map(timeline) {
        let name = WalFileName::TimelineHistory(tip);
        let Ok(history) = TimelineHistory::parse(tip, &text) else { continue };
        assert!(proof::check(&name, text.as_bytes(), None).is_ok() || text.len() > 1 << 20);
        let legs = history.legs();
        assert_eq!(legs.first().map(|leg| leg.begin), Some(Lsn(0)), "a path begins where WAL does");
        assert_eq!(legs.last().map(|leg| (leg.timeline, leg.end)), Some((tip, None)), "and ends with its tip");
        assert!(legs.windows(2).all(|two| two[0].end == Some(two[1].begin)), "without holes");
        for leg in &legs {
            assert_eq!(history.end_of(leg.timeline), Some(leg.end));
            assert_eq!(history.timeline_at(leg.begin), leg.timeline);
        }
        assert_eq!(history.parts_from(&history), None);
        let _ = history.parts_from(&TimelineHistory::root(TimelineId::FIRST));
    }
    let segment: SegmentName = "000000010000000000000001".parse().expect("it is a segment");
    let _ = proof::check(&WalFileName::BackupHistory(segment, 40), bytes, None);
}

/// A whole catalogue: names of WAL files, then behind lines of `---` backups and histories, each after its name. The rules of
/// verifying, restoring and expiring must bear whatever it says.
pub fn catalogue(bytes: &[u8]) {
    let text = text(bytes);
    let mut chapters = text.split("\n---\n");
    let mut wal = WalInventory::new();
    for name in chapters.next().unwrap_or_default().lines().take(200).filter_map(|line| line.parse().ok()) {
        wal.add(&name, now());
    }
    let (mut backups, mut retained, mut histories) = (Vec::new(), Vec::new(), BTreeMap::new());
    for chapter in chapters.take(8) {
        let (name, content) = line_and_rest(chapter);
        if let Ok(WalFileName::TimelineHistory(timeline)) = name.parse() {
            histories.extend(TimelineHistory::parse(timeline, content).ok().map(|history| (timeline, history)));
        } else if let Ok(id) = name.parse() {
            backups.extend(backup_info::parse(&id, content).ok());
            retained.extend(BackupRecord::parse(name, content).ok().map(|record| record.retained(None)));
        }
    }
    let backups = Catalog::new(backups).backups().to_vec();
    verified(&backups, &wal, &histories);
    restored(&backups, &wal, &histories);
    expired(&backups, &wal, &histories);
    as_barman_does(&backups, &retained);
}

type Histories = BTreeMap<TimelineId, TimelineHistory>;

fn verified(backups: &[Backup], wal: &WalInventory, histories: &Histories) {
    let all: Vec<&Backup> = backups.iter().collect();
    for backup in backups {
        let needed = needed_wal(&all, wal, histories, backup.segment_size);
        for stretch in needed.present.iter().chain(&needed.missing).chain(&needed.missing_beside) {
            assert!(stretch.first <= stretch.last && stretch.segments() > 0, "{stretch:?}");
            let _ = (stretch.ends(backup.segment_size), stretch.by_directory(backup.segment_size).next());
        }
        assert!(missing_of_backup(backup, wal, histories).len() <= 1000, "what is said of a backup is bounded");
    }
    let found = Recoverability::of(Holdings { backups, wal, histories });
    for interval in found.timelines.iter().flat_map(|state| &state.intervals) {
        assert!(!interval.backups.is_empty() && interval.from_lsn <= interval.to_lsn, "{interval:?}");
    }
    let _ = found.gaps.iter().map(|gap| gap.names(SegmentSize::DEFAULT).next()).collect::<Vec<_>>();
}

fn restored(backups: &[Backup], wal: &WalInventory, histories: &Histories) {
    let times = backups.iter().filter_map(|backup| backup.end_time).map(RecoveryTarget::Time);
    let places = backups.iter().filter_map(|backup| backup.end_lsn).map(RecoveryTarget::Lsn);
    let targets = [RecoveryTarget::Latest, RecoveryTarget::Immediate].into_iter().chain(times).chain(places);
    for target in targets.take(6) {
        for timeline in [TargetTimeline::Latest, TargetTimeline::Current] {
            let request =
                TargetRequest { target: target.clone(), inclusive: true, timeline, action: TargetAction::Promote };
            let input = PlanInput {
                catalog: Catalog::new(backups.to_vec()),
                inventory: wal.clone(),
                histories: histories.clone(),
                request,
                backup: None,
                now: now(),
            };
            if let Ok(plan) = restore_plan::plan(&input) {
                assert!(backups.contains(&plan.backup), "a backup of the catalogue is chosen");
                let _ = (plan.wal_segments(), plan.request.settings(plan.timeline));
            }
        }
    }
}

fn expired(backups: &[Backup], wal: &WalInventory, histories: &Histories) {
    let held = |backup| Held { backup, keep: None, bound: None, debris: None };
    for policy in ["30d", "REDUNDANCY 1"] {
        let wish = Wish::Policy(policy.parse().expect("it is a policy"));
        let holdings = expiry::Holdings {
            backups: backups.iter().map(held).collect(),
            unreadable: Vec::new(),
            unrecorded: Vec::new(),
            orphans: Vec::new(),
            wal,
            histories,
            floor: None,
        };
        if let Ok(plan) = expiry::plan(&holdings, &Rules { wish, minimum_redundancy: 1, now: now() }) {
            let stays = plan.backups.iter().filter(|backup| !backup.verdict.goes && backup.restorable).count();
            assert!(stays > 0 || plan.restorable == 0, "the last backup that can be restored stays");
            let _ = (plan.segments_going(), expiry::steps(&plan));
        }
    }
}

/// The same by the rules of the other face.
fn as_barman_does(backups: &[Backup], retained: &[RetainedBackup]) {
    for policy in ["REDUNDANCY 1", "RECOVERY WINDOW OF 9999999999999 DAYS", "RECOVERY WINDOW OF 1 DAYS"] {
        let policy = RetentionPolicy::parse(policy).expect("it is a policy");
        let _ = Retention { policy, minimum_redundancy: 1, now: now().fixed_offset(), server: "main" }.judge(retained);
    }
    let ids: Vec<String> = retained.iter().map(|backup| backup.id.clone()).collect();
    let _ = wal_removal::deletions(retained, &ids, true, now());
    let utc = |_| FixedOffset::east_opt(0).expect("it is an offset");
    let time = TargetWords { time: Some("2026-11-23 08:38:19"), ..TargetWords::default() };
    if let Ok(wanted) = Wanted::read("auto", time, utc) {
        let _ = choose(&wanted, &Catalog::new(backups.to_vec()), None, true).is_ok();
    }
}
