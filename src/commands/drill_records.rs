//! The records of drills: one more at the end of the row, the whole row, and the newest alone.

use futures::StreamExt;

use crate::codec::digest::Sha256;
use crate::commands::archive::Archive;
use crate::error::{Error, ErrorKind, Result};
use crate::layout::drill_chain::{DrillChain, DrillLink};
use crate::layout::drill_record::{DrillRecord, MAX_BYTES};
use crate::store::{Listed, Metadata, Place, Put};

/// Records read at the same time; each is a few KiB, and 4 MiB at most.
const READS_IN_FLIGHT: usize = 16;

/// Each time another drill was first. So many do not end in the same moments.
const ATTEMPTS: usize = 20;

/// When the newest record cannot be read, so many before it are asked when a drill last passed.
const LOOKS_BACK: usize = 10;

/// Every drill on record, and what is wrong with the row.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct DrillHistory {
    /// Those that can be read, the oldest first.
    pub records: Vec<DrillRecord>,
    /// What a look at the whole row has shown.
    pub chain: DrillChain,
}

/// The newest drill on record.
#[derive(Debug)]
pub struct NewestDrill {
    /// Its number.
    pub sequence: u64,
    /// What its record says, or why it cannot be read.
    pub record: Result<DrillRecord>,
}

/// Puts `record` at the end of the row: gives it its number, the digest of the record before it and the time of the last drill
/// that passed. The bytes in the store are then those of [`DrillRecord::to_json`]. When this fails, `record` is as it was.
///
/// Requests: 1 list, 1 GET and 1 create-only PUT; the same again when another drill was first. Errors: the store's, `Denied`
/// for credentials that may only read; `Conflict` when others were first twenty times.
pub async fn append(archive: &Archive, record: &mut DrillRecord) -> Result<()> {
    for _ in 0..ATTEMPTS {
        let mut numbered = record.clone();
        if !follow(archive, &mut numbered).await? {
            continue;
        }
        let json = numbered.to_json()?.into_bytes();
        if json.len() > MAX_BYTES {
            let message = format!("the record of a drill is {} bytes long, and {MAX_BYTES} can be read", json.len());
            return Err(Error::new(ErrorKind::Bug, message));
        }
        let key = archive.prefix.drill(numbered.sequence.unwrap_or_default());
        let put = archive.store.put_new(&key, json.clone(), &Metadata::new(), &archive.prefix.dialect_probe()).await?;
        if put == Put::Created || holds(archive, &key, &json).await? {
            *record = numbered;
            return Ok(());
        }
    }
    let message = format!("other drills were recorded first, {ATTEMPTS} times");
    Err(Error::new(ErrorKind::Conflict, message))
}

/// Whether the object at `key` has this very content: the answer to its own put may have been lost.
async fn holds(archive: &Archive, key: &str, content: &[u8]) -> Result<bool> {
    match archive.store.get(key, MAX_BYTES as u64).await {
        Ok(fetched) => Ok(fetched.content == content),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => Ok(false),
        Err(error) => Err(error),
    }
}

/// Makes `record` the one after the newest; false when that vanished meanwhile.
async fn follow(archive: &Archive, record: &mut DrillRecord) -> Result<bool> {
    let numbers = numbers(archive).await?;
    (record.sequence, record.previous_sha256, record.last_passed) = (Some(1), None, None);
    let Some(newest) = numbers.last() else { return Ok(true) };
    let Some(link) = read(archive, *newest).await? else { return Ok(false) };
    let next = newest.checked_add(1);
    record.sequence = Some(next.ok_or_else(|| Error::corrupt("the last record of a drill has the highest number"))?);
    record.previous_sha256 = link.sha256;
    // None for a record that cannot be read: then the ones before it are asked.
    let mut known = link.record.ok();
    for before in numbers.iter().rev().skip(1).take(LOOKS_BACK) {
        if known.is_some() {
            break;
        }
        known = read(archive, *before).await?.and_then(|link| link.record.ok());
    }
    record.last_passed = known.and_then(|known| known.last_passed_so_far());
    Ok(true)
}

/// Reads every record and follows the row.
///
/// Requests: 1 list and 1 GET for each record. Memory: what the records come to, and 64 MiB at most while they are read. Errors:
/// the store's. A record that is damaged is none: the answer says so.
pub async fn history(archive: &Archive) -> Result<DrillHistory> {
    let numbers = numbers(archive).await?;
    if numbers.is_empty() && matches!(archive.store.place(), Place::Directory(_)) {
        // Says that an empty directory proves nothing, where the store is one.
        archive.store.list_names("", "").await?;
    }
    let reads = numbers.into_iter().map(|number| read(archive, number));
    let mut reads = futures::stream::iter(reads).buffered(READS_IN_FLIGHT);
    let mut links = Vec::new();
    while let Some(link) = reads.next().await {
        links.extend(link?);
    }
    let chain = DrillChain::of(&links);
    Ok(DrillHistory { records: links.into_iter().filter_map(|link| link.record.ok()).collect(), chain })
}

/// The newest record among the objects that a listing of `barback/` has shown; none where no drill was recorded.
///
/// Requests: 1 GET. Errors: the store's, but for a record that is damaged, of a newer version, or vanished.
pub async fn newest(archive: &Archive, listed: &[Listed]) -> Result<Option<NewestDrill>> {
    let numbers = listed.iter().filter_map(|object| archive.prefix.drill_from_key(&object.key));
    let Some(sequence) = numbers.max() else { return Ok(None) };
    let record = match archive.store.get(&archive.prefix.drill(sequence), MAX_BYTES as u64).await {
        Ok(fetched) => DrillRecord::from_json(&fetched.content),
        Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::Corrupt) => Err(error),
        Err(error) => return Err(error),
    };
    Ok(Some(NewestDrill { sequence, record }))
}

/// The numbers that are taken, ascending.
async fn numbers(archive: &Archive) -> Result<Vec<u64>> {
    let mut numbers = Vec::new();
    let take = |object: Listed| numbers.extend(archive.prefix.drill_from_key(&object.key));
    archive.store.list(&archive.prefix.drills(), None, take).await?;
    numbers.sort_unstable();
    Ok(numbers)
}

/// A record that a listing showed; none when it vanished since.
async fn read(archive: &Archive, sequence: u64) -> Result<Option<DrillLink>> {
    match archive.store.get(&archive.prefix.drill(sequence), MAX_BYTES as u64).await {
        Ok(fetched) => {
            let record = DrillRecord::from_json(&fetched.content).map_err(|error| error.to_string());
            Ok(Some(DrillLink { sequence, sha256: Some(Sha256::of(&fetched.content).to_string()), record }))
        }
        // Too long to be one: its bytes are not read, so that nothing can be said of their digest.
        Err(error) if error.kind() == ErrorKind::Corrupt => {
            Ok(Some(DrillLink { sequence, sha256: None, record: Err(error.to_string()) }))
        }
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
