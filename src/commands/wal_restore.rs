//! The second way: one WAL file from the archive to the path PostgreSQL gave.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::pin::pin;
use std::time::Duration;

use crate::commands::archive::{Archive, ContentCheck, WAL_LIMIT_BYTES, most_bytes};
use crate::commands::object_stream::READ_BYTES;
use crate::commands::prefetch::{Neighbour, fetch_ahead};
use crate::commands::spool::{Spool, SpoolOptions};
use crate::commands::unseal::{SealedObject, unseal, unseal_to};
use crate::domain::compression::Compression;
use crate::domain::segment::{SegmentName, SegmentSize, WalFileName};
use crate::error::{Error, ErrorKind, Result};
use crate::store::{Fetched, Listed, Metadata, Place};
use crate::wal::proof;

/// How long recovery waits, once it has its segment, for those that are fetched ahead of it: a store that stalls on one of
/// them must not stall recovery.
const NEIGHBOURS_GRACE: Duration = Duration::from_secs(15);

/// No more than this many segments are fetched ahead, however many are asked for: 4 GiB of the usual ones.
const NEIGHBOURS_MAX: usize = 255;

/// What `restore_command` asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WalRestoreRequest {
    /// The WAL name, as PostgreSQL's `%f` gives it.
    pub name: WalFileName,
    /// Where to put it, as `%p` gives it.
    pub destination: PathBuf,
    /// The format to look for first: one request when the guess holds. Without one the archive is listed first.
    pub expected: Option<Compression>,
    /// When the incomplete segment that a promotion left serves the complete one's name.
    pub partial: PartialPolicy,
    /// Whether the history file of a base backup, which recovery never asks for, is there at all.
    pub backup_histories: BackupHistories,
    /// Whether the file must be what its name says.
    pub check: ContentCheck,
    /// Where segments fetched ahead are looked for and kept; nowhere when none. It is not used for other files.
    pub spool: Option<SpoolOptions>,
}

/// When `<segment>.partial` serves who asks for `<segment>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartialPolicy {
    /// When the complete segment is there in no format.
    LastResort,
    /// Never; and asked for under its own name it is not there either (Barman's `--no-partial`).
    Never,
    /// When its key is the first in byte order, as with Barman 3.19.1: a `.partial.gz` beats a complete `.snappy`, `.xz` or
    /// `.zst`, and recovery ends early. See [`choose`]'s test.
    BarmanOrder,
}

/// Whether `<segment>.<offset>.backup` can be restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackupHistories {
    /// Like any file in the archive.
    Restored,
    /// No, it is said not to be there, as by `barman-cloud-wal-restore` 3.19.1.
    Absent,
}

/// An object that can serve a WAL name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    key: String,
    codec: Compression,
    /// It is a `.partial` that would stand in for the complete segment.
    is_partial: bool,
}

/// Restores one WAL file. One request when it is stored under the expected suffix, two more otherwise; without an expectation
/// two requests when it is there, one when it is not; none when an earlier call fetched it ahead.
///
/// The content's length, digest (where the object carries one) and, unless waived, its page header are checked before it
/// appears at the destination, whole and durable. With a spool, the segments that the archive lists next are fetched at the
/// same time; that they fail or that there is no room for them costs a log line, and at most 15 s.
///
/// Errors: `NotFound` only when the store listed the name and nothing serves it, or the request excludes it; everything else
/// means "could not find out", and PostgreSQL must not take it for the end of WAL. `Local` when the destination cannot be
/// written. Memory: the object; with segments fetched ahead, 64 MiB more.
pub async fn wal_restore(archive: &Archive, request: &WalRestoreRequest) -> Result<()> {
    if is_excluded(request) {
        return Err(absent(&request.name));
    }
    let spool = request.spool.as_ref().map(|options| Spool::new(options, &archive.prefix, request.check));
    if spool.as_ref().is_some_and(|spool| spool.deliver(&request.name, &request.destination)) {
        return Ok(());
    }
    let wanted = request.spool.as_ref().map_or(0, |options| options.segments.saturating_sub(1).min(NEIGHBOURS_MAX));
    match (spool, request.name) {
        (Some(spool), WalFileName::Segment(segment)) if wanted > 0 => {
            restore_with_neighbours(archive, request, &spool, segment, wanted).await
        }
        _ => fetch(archive, request).await.map_err(|error| explain(request, error)),
    }
}

fn explain(request: &WalRestoreRequest, error: Error) -> Error {
    match error.kind() {
        // Recovery asks for what is not there as a matter of routine: a statement, not a complaint.
        ErrorKind::NotFound => error,
        _ => error.context(format!("could not restore WAL file \"{}\"", request.name)),
    }
}

fn is_excluded(request: &WalRestoreRequest) -> bool {
    match request.name {
        WalFileName::BackupHistory(..) => request.backup_histories == BackupHistories::Absent,
        WalFileName::Partial(_) => request.partial == PartialPolicy::Never,
        _ => false,
    }
}

fn absent(name: &WalFileName) -> Error {
    Error::new(ErrorKind::NotFound, format!("WAL file \"{name}\" is not in the archive"))
}

/// The content of a complete segment, in whatever format it is stored, and checked by its first page. One listing, and a
/// request for each 8 MiB, as in a restore: whoever reads single segments must not wait longer for an answer than others.
///
/// Errors: `NotFound`; `Corrupt` and `Mismatch` for what is not the segment of that name; the store's.
pub(crate) async fn read_segment(archive: &Archive, segment: SegmentName) -> Result<Vec<u8>> {
    let name = WalFileName::Segment(segment);
    let (directory, begins) = directory_and_name(archive, &name);
    let objects = archive.store.list_names(&directory, &begins).await?;
    let serving = objects.into_iter().filter_map(|object| Some((object.bytes, candidate(archive, &name, object)?)));
    let whole = serving.filter(|(_, one)| !one.is_partial).min_by(|(_, a), (_, b)| a.key.cmp(&b.key));
    let (bytes, Candidate { key, codec, .. }) = whole.ok_or_else(|| absent(&name))?;
    let most = SegmentSize::MAX.bytes();
    if bytes > most + most / 64 {
        return Err(Error::corrupt(format!("object \"{key}\" is {bytes} bytes long, which no segment is")));
    }
    let mut stored = Vec::new();
    while (stored.len() as u64) < bytes {
        let begin = stored.len() as u64;
        let piece = archive.store.get_range(&key, begin..bytes.min(begin + READ_BYTES)).await?;
        if piece.is_empty() {
            return Err(Error::corrupt(format!("object \"{key}\" ends after {begin} of {bytes} bytes")));
        }
        stored.extend_from_slice(&piece);
    }
    let fetched = Fetched { content: stored.into(), metadata: Metadata::new() };
    let (content, _) = unseal(&key, codec, fetched, most)?;
    proof::check(&name, &content, None).map_err(|error| error.context(format!("object \"{key}\" cannot be used")))?;
    Ok(content)
}

/// The object that holds the complete `segment`: one request where it is stored under the suffix of `guess`, two more
/// otherwise. Not unpacked, so not checked.
///
/// Errors: `NotFound` only when the store listed the name; the store's.
pub(crate) async fn find_complete(archive: &Archive, segment: SegmentName, guess: Compression) -> Result<SealedObject> {
    let name = WalFileName::Segment(segment);
    let key = archive.wal_key(&name, guess);
    match archive.get_sealed(&key, WAL_LIMIT_BYTES).await {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        outcome => return outcome.map(|fetched| SealedObject { key, codec: guess, fetched }),
    }
    let candidates = list_candidates(archive, &name).await?;
    let Candidate { key, codec, .. } = choose(candidates, PartialPolicy::Never).ok_or_else(|| absent(&name))?;
    let fetched = archive.get_sealed(&key, WAL_LIMIT_BYTES).await.map_err(contradiction)?;
    Ok(SealedObject { key, codec, fetched })
}

/// Gets the file and puts it in its place.
async fn fetch(archive: &Archive, request: &WalRestoreRequest) -> Result<()> {
    let name = &request.name;
    if let Some(codec) = request.expected {
        let key = archive.wal_key(name, codec);
        match archive.get_sealed(&key, most_bytes(name, request.check)).await {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            outcome => return put_in_place(request, SealedObject { key, codec, fetched: outcome? }),
        }
    }
    let candidates = list_candidates(archive, name).await?;
    let best = choose(candidates, request.partial).ok_or_else(|| absent(name))?;
    fetch_listed(archive, request, best).await
}

/// The listing saw it, so a miss now is a contradiction and no proof of absence.
async fn fetch_listed(archive: &Archive, request: &WalRestoreRequest, candidate: Candidate) -> Result<()> {
    let Candidate { key, codec, .. } = candidate;
    let fetched = archive.get_sealed(&key, most_bytes(&request.name, request.check)).await.map_err(contradiction)?;
    put_in_place(request, SealedObject { key, codec, fetched })
}

fn put_in_place(request: &WalRestoreRequest, object: SealedObject) -> Result<()> {
    unseal_to(&request.destination, &request.name, object, request.check)
}

fn contradiction(error: Error) -> Error {
    match error.kind() {
        ErrorKind::NotFound => error.as_kind(ErrorKind::Unreachable),
        _ => error,
    }
}

/// Everything stored under the name, in any suffix, `.partial` included.
async fn list_candidates(archive: &Archive, name: &WalFileName) -> Result<Vec<Candidate>> {
    let (directory, begins) = directory_and_name(archive, name);
    let objects = archive.store.list_names(&directory, &begins).await?;
    Ok(objects.into_iter().filter_map(|object| candidate(archive, name, object)).collect())
}

fn directory_and_name(archive: &Archive, name: &WalFileName) -> (String, String) {
    let key = archive.prefix.wal(name);
    let (directory, begins) = key.rsplit_once('/').expect("a WAL key lies in a directory");
    (format!("{directory}/"), begins.to_owned())
}

/// The object, if it can serve `name`.
fn candidate(archive: &Archive, name: &WalFileName, object: Listed) -> Option<Candidate> {
    let (found, codec) = archive.prefix.wal_from_key(&object.key)?;
    let serves = match (found, name) {
        (WalFileName::Partial(partial), WalFileName::Segment(segment)) => partial == *segment,
        _ => found == *name,
    };
    serves.then_some(Candidate { key: object.key, codec, is_partial: found != *name })
}

fn choose(candidates: Vec<Candidate>, policy: PartialPolicy) -> Option<Candidate> {
    let candidates = candidates.into_iter();
    match policy {
        PartialPolicy::LastResort => candidates.min_by(|a, b| (a.is_partial, &a.key).cmp(&(b.is_partial, &b.key))),
        PartialPolicy::Never => candidates.filter(|one| !one.is_partial).min_by(|a, b| a.key.cmp(&b.key)),
        PartialPolicy::BarmanOrder => candidates.min_by(|a, b| a.key.cmp(&b.key)),
    }
}

/// Restores `segment` and fetches up to `wanted` of those after it into the spool, all at once. The requested one decides.
async fn restore_with_neighbours(
    archive: &Archive,
    request: &WalRestoreRequest,
    spool: &Spool,
    segment: SegmentName,
    wanted: usize,
) -> Result<()> {
    let listed = list_with_neighbours(archive, segment, wanted).await;
    let (candidates, neighbours) = listed.map_err(|error| explain(request, error))?;
    let best = choose(candidates, request.partial).ok_or_else(|| absent(&request.name))?;
    let mut requested =
        pin!(async { fetch_listed(archive, request, best).await.map_err(|error| explain(request, error)) });
    let mut ahead = pin!(fetch_ahead(archive, spool, segment, neighbours, request.check));
    tokio::select! {
        biased;
        outcome = &mut requested => outcome?,
        () = &mut ahead => return requested.await,
    }
    if tokio::time::timeout(NEIGHBOURS_GRACE, ahead).await.is_err() {
        tracing::warn!("gave up fetching WAL ahead of \"{segment}\" after {} s", NEIGHBOURS_GRACE.as_secs());
    }
    Ok(())
}

/// What can serve `segment`, and the next segments in the archive after it. One listing, and one more where the directory of
/// the segment ends: it holds 4 GiB of WAL.
async fn list_with_neighbours(
    archive: &Archive,
    segment: SegmentName,
    wanted: usize,
) -> Result<(Vec<Candidate>, Vec<Neighbour>)> {
    let name = WalFileName::Segment(segment);
    let (directory, begins) = directory_and_name(archive, &name);
    let key = format!("{directory}{begins}");
    let mut candidates = Vec::new();
    // A directory is read as it lies, without an order to stop at.
    let is_ordered = !matches!(archive.store.place(), Place::Directory(_));
    let mut next = Next { after: segment, wanted, is_ordered, found: BTreeMap::new() };
    // Just before the name: listings begin after what they are given.
    let before = &key[..key.len() - 1];
    let each = |object: Listed| {
        let goes_on = next.take(archive, &object);
        candidates.extend(candidate(archive, &name, object));
        goes_on
    };
    archive.store.list_while(&directory, Some(before), each).await?;
    if candidates.is_empty() && !is_ordered {
        // This listing tells an archive that is not mounted from one that ends here.
        candidates = list_candidates(archive, &name).await?;
    }
    let last = next.found.keys().last().copied().unwrap_or(segment);
    if !candidates.is_empty() && next.found.len() < wanted && may_end_its_directory(last) {
        let beyond = SegmentName { log: last.log.saturating_add(1), segment: 0, ..last };
        let (directory, _) = directory_and_name(archive, &WalFileName::Segment(beyond));
        if let Err(error) = archive.store.list_while(&directory, None, |object| next.take(archive, &object)).await {
            tracing::info!("{error}; no WAL is fetched ahead from there");
        }
    }
    Ok((candidates, next.found.into_values().collect()))
}

/// True for numbers with which a directory of segments of some size ends: 3 at 1 GiB, 255 at 16 MiB, 4095 at 1 MiB.
fn may_end_its_directory(segment: SegmentName) -> bool {
    segment.segment >= 3 && segment.segment.saturating_add(1).is_power_of_two()
}

/// The first complete segments after one, from listings.
struct Next {
    after: SegmentName,
    wanted: usize,
    is_ordered: bool,
    found: BTreeMap<SegmentName, Neighbour>,
}

impl Next {
    /// Takes the object if it is one of them; false when no later object can be.
    fn take(&mut self, archive: &Archive, object: &Listed) -> bool {
        let Some((WalFileName::Segment(segment), codec)) = archive.prefix.wal_from_key(&object.key) else {
            return true;
        };
        if segment <= self.after || self.found.get(&segment).is_some_and(|known| known.key <= object.key) {
            return true;
        }
        let neighbour = Neighbour { segment, key: object.key.clone(), codec, bytes: object.bytes };
        self.found.insert(segment, neighbour);
        let is_full = self.found.len() > self.wanted;
        if is_full {
            self.found.pop_last();
        }
        !(is_full && self.is_ordered)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidate(key: &str, is_partial: bool) -> Candidate {
        Candidate { key: key.to_owned(), codec: Compression::None, is_partial }
    }

    #[test]
    fn a_partial_segment_is_never_chosen_while_the_complete_one_is_there() {
        let partial = candidate("w/000000010000000000000020.partial.gz", true);
        let whole = candidate("w/000000010000000000000020.zst", false);
        let both = vec![partial.clone(), whole.clone()];
        assert_eq!(choose(both.clone(), PartialPolicy::LastResort), Some(whole.clone()));
        assert_eq!(choose(vec![partial.clone()], PartialPolicy::LastResort), Some(partial.clone()));
        assert_eq!(choose(both.clone(), PartialPolicy::Never), Some(whole));
        assert_eq!(choose(vec![partial.clone()], PartialPolicy::Never), None);
        // barman-cloud-wal-restore 3.19.1 takes the first key in byte order.
        assert_eq!(choose(both, PartialPolicy::BarmanOrder), Some(partial));
        assert_eq!(choose(Vec::new(), PartialPolicy::LastResort), None);
    }

    #[test]
    fn in_barmans_order_plain_and_early_suffixes_come_before_partial_ones() {
        let partial = candidate("w/000000010000000000000020.partial", true);
        for (suffix, whole_first) in
            [("", true), (".bz2", true), (".gz", true), (".lz4", true), (".snappy", false), (".xz", false)]
        {
            let whole = candidate(&format!("w/000000010000000000000020{suffix}"), false);
            let chosen = choose(vec![partial.clone(), whole.clone()], PartialPolicy::BarmanOrder);
            assert_eq!(chosen, Some(if whole_first { whole } else { partial.clone() }), "{suffix}");
        }
    }

    #[test]
    fn a_directory_may_end_with_the_last_segment_of_any_size() {
        let name = |number: u32| SegmentName { segment: number, ..("000000010000000000000000").parse().unwrap() };
        for number in [3, 7, 63, 255, 4095] {
            assert!(may_end_its_directory(name(number)), "{number}");
        }
        for number in [0, 1, 2, 4, 254, 256, u32::MAX] {
            assert!(!may_end_its_directory(name(number)), "{number}");
        }
    }
}
