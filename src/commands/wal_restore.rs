//! The second way: one WAL file from the archive to the path PostgreSQL gave.

use std::path::PathBuf;

use crate::commands::archive::Archive;
use crate::disk;
use crate::domain::compression::Compression;
use crate::domain::segment::WalFileName;
use crate::error::{Error, ErrorKind, Result};
use crate::wal::proof;

/// What `restore_command` asks for.
#[derive(Debug, Clone)]
pub struct WalRestoreRequest {
    /// The WAL name, as PostgreSQL's `%f` gives it.
    pub name: WalFileName,
    /// Where to put it, as `%p` gives it.
    pub destination: PathBuf,
    /// The format to look for first: one request when the guess holds.
    pub expected: Compression,
}

/// An object that can serve a WAL name.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    key: String,
    codec: Compression,
    is_partial: bool,
}

/// Restores one WAL file. One request when it is stored under the expected suffix, two more otherwise.
///
/// The content's length, digest (where the object carries one) and page header are checked before it appears at the
/// destination, whole and durable.
///
/// Errors: `NotFound` only when the store listed the name and nothing serves it; everything else means "could not
/// find out", and PostgreSQL must not take it for the end of WAL.
pub async fn wal_restore(archive: &Archive, request: &WalRestoreRequest) -> Result<()> {
    let doing = || format!("could not restore WAL file \"{}\"", request.name);
    let content = fetch(archive, &request.name, request.expected).await.map_err(|error| match error.kind() {
        // Recovery asks for what is not there as a matter of routine: a statement, not a complaint.
        ErrorKind::NotFound => error,
        _ => error.context(doing()),
    })?;
    disk::publish(&request.destination, &content)
}

async fn fetch(archive: &Archive, name: &WalFileName, expected: Compression) -> Result<Vec<u8>> {
    let guess = Candidate {
        key: format!("{}{}", archive.prefix.wal(name), expected.suffix()),
        codec: expected,
        is_partial: false,
    };
    match read_checked(archive, name, &guess).await {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        outcome => return outcome,
    }
    let candidates = list_candidates(archive, name).await?;
    let Some(best) = choose(candidates) else {
        return Err(Error::new(ErrorKind::NotFound, format!("WAL file \"{name}\" is not in the archive")));
    };
    // The listing saw it, so a miss now is a contradiction and no proof of absence.
    read_checked(archive, name, &best).await.map_err(|error| match error.kind() {
        ErrorKind::NotFound => error.as_kind(ErrorKind::Unreachable),
        _ => error,
    })
}

async fn read_checked(archive: &Archive, name: &WalFileName, candidate: &Candidate) -> Result<Vec<u8>> {
    let (content, _) = archive.read_sealed(&candidate.key, candidate.codec).await?;
    proof::check(name, &content, None)
        .map_err(|error| error.context(format!("object \"{}\" cannot be used", candidate.key)))?;
    Ok(content)
}

/// Everything stored under the name, in any suffix, `.partial` included.
async fn list_candidates(archive: &Archive, name: &WalFileName) -> Result<Vec<Candidate>> {
    let key = archive.prefix.wal(name);
    let (directory, begins) = key.rsplit_once('/').expect("a WAL key lies in a directory");
    let objects = archive.store.list_names(&format!("{directory}/"), begins).await?;
    let serves = |found: &WalFileName| match (found, name) {
        (WalFileName::Partial(partial), WalFileName::Segment(segment)) => partial == segment,
        _ => found == name,
    };
    let candidates = objects.into_iter().filter_map(|object| {
        let (found, codec) = archive.prefix.wal_from_key(&object.key)?;
        let is_partial = matches!(found, WalFileName::Partial(_)) && found != *name;
        serves(&found).then_some(Candidate { key: object.key, codec, is_partial })
    });
    Ok(candidates.collect())
}

/// The complete segment before any `.partial`, whatever their suffixes: Barman 3.19.1 takes the first key in byte
/// order, where `.partial` comes before `.snappy`, `.xz` and `.zst`.
fn choose(candidates: Vec<Candidate>) -> Option<Candidate> {
    candidates.into_iter().min_by(|a, b| (a.is_partial, &a.key).cmp(&(b.is_partial, &b.key)))
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
        assert_eq!(choose(vec![partial.clone(), whole.clone()]), Some(whole));
        assert_eq!(choose(vec![partial.clone()]), Some(partial));
        assert_eq!(choose(Vec::new()), None);
    }
}
