//! What this host knows to be in the store because the store said so: the answer to the archiver's next calls.

use std::fs::{self, File};
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt, FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::codec::digest::{CHECKSUM_PIECE_BYTES, Checksum, Sha256};
use crate::commands::seal::{FIRST_PAGE_BYTES, Sealed};
use crate::disk::{self, FileMark};
use crate::domain::segment::SegmentName;
use crate::error::{Error, Result};
use crate::wal::proof;

/// The archiver asks for a segment that rode along within seconds. Who asks later asks the store again: what was confirmed long
/// ago may have been removed since.
const BELIEVED_FOR: Duration = Duration::from_mins(10);

/// A receipt has some 600 bytes.
const RECEIPT_LIMIT_BYTES: u64 = 8 << 10;

/// The receipts of one `pg_wal` for one archive: a directory of small files that may vanish at any time, at the price of a
/// request each.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Receipts {
    directory: PathBuf,
    /// The archive and the `pg_wal`, in words that no other has.
    about: String,
}

/// What a receipt says: this content of this file was confirmed under this key.
#[derive(Debug, Serialize, Deserialize)]
struct Receipt {
    about: String,
    segment: String,
    key: String,
    sha256: String,
    /// [`Checksum`] of the content.
    checksum: u64,
    length: u64,
    system_identifier: String,
    file: FileMark,
    confirmed: DateTime<Utc>,
}

impl Receipts {
    /// The receipts in `cache_dir` of the `pg_wal` that `segment` lies in, for the server `root` in `store`; none for a file
    /// that lies in no directory that can be named. `store` tells a store from every other. Nothing is made or read.
    #[must_use]
    pub fn of(cache_dir: &Path, store: &str, root: &str, segment: &Path) -> Option<Self> {
        let parent = segment.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let pg_wal = fs::canonicalize(parent).ok()?;
        let about = format!("{store}\n{root}\n{}", pg_wal.to_str()?);
        let digest = Sha256::of(about.as_bytes()).to_string();
        Some(Self { directory: cache_dir.join(format!("receipts-{}", &digest[..16])), about })
    }

    /// True when the store has confirmed, a short while ago, the very content that the file at `path` has now.
    ///
    /// The receipt must be of this archive, this `pg_wal` and this segment; the file must be the one that was read then, not
    /// written to, renamed or replaced since; its first page must be this segment's and this cluster's, and its content have
    /// the checksum it had. Reads the file, sends nothing. Whatever speaks against it is no error: the store is asked then.
    #[must_use]
    pub fn vouch_for(&self, segment: SegmentName, path: &Path) -> bool {
        self.read(segment, path).is_ok_and(|receipt| receipt.is_some_and(|receipt| content_is(&receipt, segment, path)))
    }

    /// True when there is a receipt for the file as it is now, as far as can be told without reading it.
    pub(crate) fn hold(&self, segment: SegmentName, path: &Path) -> bool {
        self.read(segment, path).is_ok_and(|receipt| receipt.is_some())
    }

    fn read(&self, segment: SegmentName, path: &Path) -> Result<Option<Receipt>> {
        let entry = self.directory.join(segment.to_string());
        if !is_ours(&self.directory, fs::Metadata::is_dir) || !is_ours(&entry, fs::Metadata::is_file) {
            return Ok(None);
        }
        let content = disk::read_at_most(&entry, RECEIPT_LIMIT_BYTES)?;
        let Ok(receipt) = serde_json::from_slice::<Receipt>(&content) else { return Ok(None) };
        let age = Utc::now().signed_duration_since(receipt.confirmed).to_std();
        let holds = receipt.about == self.about
            && receipt.segment == segment.to_string()
            // A clock that was set back says nothing.
            && age.is_ok_and(|age| age < BELIEVED_FOR)
            && receipt.file == FileMark::of(path)?;
        Ok(holds.then_some(receipt))
    }

    /// Writes down that the store has confirmed what was made ready. Durable when it returns. Blocking.
    ///
    /// Errors: `Local`.
    pub(crate) fn write(&self, segment: SegmentName, key: &str, sealed: &Sealed) -> Result<()> {
        // A file that changed while it was read may be another one by now.
        let (Some(file), Some(cluster)) = (sealed.mark, sealed.facts.system_identifier) else { return Ok(()) };
        let receipt = Receipt {
            about: self.about.clone(),
            segment: segment.to_string(),
            key: key.to_owned(),
            sha256: sealed.facts.sha256.clone(),
            checksum: sealed.checksum,
            length: sealed.facts.length,
            system_identifier: cluster.to_string(),
            file,
            confirmed: Utc::now(),
        };
        let json = serde_json::to_vec_pretty(&receipt)
            .map_err(|cause| Error::corrupt(format!("could not write the receipt of \"{segment}\": {cause}")))?;
        let failed = |cause| Error::local("create directory", &self.directory, cause);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory).map_err(failed)?;
        disk::publish(&self.directory.join(segment.to_string()), &json)
    }

    /// Removes what will not be asked for any more now that `requested` was, and what was left behind. Blocking. What cannot be
    /// removed is in nobody's way.
    pub(crate) fn tidy(&self, requested: SegmentName) {
        if !is_ours(&self.directory, fs::Metadata::is_dir) {
            return;
        }
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let segment = name.to_str().and_then(|name| name.parse::<SegmentName>().ok());
            let is_over = segment.is_some_and(|segment| segment.timeline == requested.timeline && segment < requested);
            let age = entry.metadata().ok().and_then(|facts| facts.modified().ok()?.elapsed().ok());
            if is_over || age.is_some_and(|age| age > BELIEVED_FOR) {
                // It is believed no more in any case.
                let _ = disk::remove_if_there(&entry.path());
            }
        }
    }
}

/// True for what is there, of the right kind, and can be written to by its owner alone, who is this user.
fn is_ours(path: &Path, is_kind: impl FnOnce(&fs::Metadata) -> bool) -> bool {
    fs::symlink_metadata(path).is_ok_and(|facts| {
        is_kind(&facts) && facts.uid() == rustix::process::geteuid().as_raw() && facts.mode() & 0o022 == 0
    })
}

/// Whether the file still holds what the receipt says, byte by byte.
fn content_is(receipt: &Receipt, segment: SegmentName, path: &Path) -> bool {
    let check = || -> Result<bool> {
        let (page, length) = disk::read_beginning(path, FIRST_PAGE_BYTES)?;
        let cluster = proof::check_segment(segment, &page, length, None)?;
        if cluster.to_string() != receipt.system_identifier || length != receipt.length {
            return Ok(false);
        }
        let file = File::open(path).map_err(|cause| Error::local("read file", path, cause))?;
        let checksum = checksum_of(&file, length).map_err(|cause| Error::local("read file", path, cause))?;
        Ok(checksum == receipt.checksum)
    };
    check().unwrap_or(false)
}

/// The checksum of a file of `length` bytes, one half of it made by another thread: the archiver waits for it.
fn checksum_of(file: &File, length: u64) -> std::io::Result<u64> {
    let pieces = length.div_ceil(CHECKSUM_PIECE_BYTES as u64);
    let of_pieces = |range: Range<u64>| -> std::io::Result<Vec<u64>> {
        let mut buffer = vec![0; CHECKSUM_PIECE_BYTES];
        let each = range.map(|number| {
            let begin = number * CHECKSUM_PIECE_BYTES as u64;
            let left = usize::try_from(length - begin).unwrap_or(usize::MAX).min(buffer.len());
            let piece = &mut buffer[..left];
            file.read_exact_at(piece, begin)?;
            Ok(Checksum::of_piece(piece))
        });
        each.collect()
    };
    let half = pieces / 2;
    let (first, second) = std::thread::scope(|scope| {
        let beside = std::thread::Builder::new().spawn_scoped(scope, || of_pieces(half..pieces));
        let first = of_pieces(0..half);
        let second = match beside {
            Ok(thread) => thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)),
            // Without a second thread the first does it all.
            Err(_) => of_pieces(half..pieces),
        };
        (first, second)
    });
    let mut checksum = Checksum::default();
    first?.into_iter().chain(second?).for_each(|piece| checksum.add(piece));
    Ok(checksum.finish())
}
