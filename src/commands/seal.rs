//! A WAL file on its way into the archive: read once, and on that way checked, digested and compressed.

use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::JoinHandle;

use crate::codec::compression;
use crate::codec::digest::{CHECKSUM_PIECE_BYTES, Checksum, Sha256, Sha256Builder};
use crate::commands::archive::{ContentCheck, WAL_LIMIT_BYTES, WalCompression};
use crate::disk::{self, FileMark};
use crate::domain::cluster::SystemIdentifier;
use crate::domain::compression::Compression;
use crate::domain::segment::{SegmentName, SegmentSize, WalFileName};
use crate::domain::timeline::{TimelineHistory, TimelineId};
use crate::error::{Error, Result};
use crate::layout::content_facts::ContentFacts;
use crate::wal::proof;

/// The size of a WAL page (`XLOG_BLCKSZ`); its header lies in the first bytes, whatever the size.
pub(crate) const FIRST_PAGE_BYTES: u64 = 8192;

/// How much of a segment is in memory before it is compressed, and in how many pieces.
const PIECE_BYTES: u64 = CHECKSUM_PIECE_BYTES as u64;
const PIECES_WAITING: usize = 2;

/// A WAL file ready to be put.
#[derive(Debug)]
pub(crate) struct Sealed {
    /// As it is stored.
    pub(crate) content: Vec<u8>,
    /// What it is.
    pub(crate) facts: ContentFacts,
    /// Its [`Checksum`]: much quicker to make again than its digest.
    pub(crate) checksum: u64,
    /// The file it was read from, in the state it was read in; none when it changed meanwhile.
    pub(crate) mark: Option<FileMark>,
}

/// Whether PostgreSQL waits for this very file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Crew {
    /// It does: the digest is made on a thread of its own, while this one compresses.
    Two,
    /// Others are sealed at the same time: one thread does it all.
    One,
}

/// Reads the file at `path`, checks, digests and compresses it. Blocking.
///
/// A segment for zstd goes through in pieces: 1 MiB and its compressed form are all that is in memory. Of other files and
/// formats the content is in memory too.
///
/// Errors: as [`proof::check`]; `Local`, among them a file that another took the place of.
pub(crate) fn seal(
    name: &WalFileName,
    path: &Path,
    compression: WalCompression,
    check: ContentCheck,
    crew: Crew,
) -> Result<Sealed> {
    let before = FileMark::of(path)?;
    let history = || name.segment().and_then(|segment| read_history_beside(path, segment.timeline));
    let (content, digests, length, system_identifier) = match name {
        WalFileName::Segment(segment) if check == ContentCheck::Checked && compression.codec == Compression::Zstd => {
            in_pieces(*segment, path, compression, history().as_ref(), crew)?
        }
        _ => {
            let content = disk::read_at_most(path, WAL_LIMIT_BYTES)?;
            let cluster = match check {
                ContentCheck::Unchecked => None,
                ContentCheck::Checked => proof::check(name, &content, history().as_ref())?,
            };
            let length = content.len() as u64;
            let (digests, content) = digest_and_compress(content, compression, crew)?;
            (content, digests, length, cluster)
        }
    };
    let after = FileMark::of(path)?;
    if !after.is_same_file(&before) {
        return Err(Error::local("read file", path, std::io::Error::other("another took its place meanwhile")));
    }
    let facts = ContentFacts { sha256: digests.sha256.to_string(), length, system_identifier };
    Ok(Sealed { content, facts, checksum: digests.checksum, mark: (after == before).then_some(after) })
}

/// Refuses a segment that is none before the store is asked anything on its account. Blocking, for one page.
pub(crate) fn check_first_page(name: &WalFileName, path: &Path) -> Result<()> {
    let (WalFileName::Segment(segment) | WalFileName::Partial(segment)) = name else { return Ok(()) };
    let (page, length) = disk::read_beginning(path, FIRST_PAGE_BYTES)?;
    let history = read_history_beside(path, segment.timeline);
    proof::check_segment(*segment, &page, length, history.as_ref()).map(drop)
}

/// A segment's compressed form, digest, length and cluster, with a few pieces of it in memory at a time.
fn in_pieces(
    segment: SegmentName,
    path: &Path,
    with: WalCompression,
    history: Option<&TimelineHistory>,
    crew: Crew,
) -> Result<(Vec<u8>, Digests, u64, Option<SystemIdentifier>)> {
    let failed = |cause| Error::local("read file", path, cause);
    let mut file = File::open(path).map_err(failed)?;
    let length = file.metadata().map_err(failed)?.len();
    let mut digesting = Digesting::begin(crew);
    // Half, which WAL seldom exceeds: what grows is in memory twice, and what is not written to is not in memory at all.
    let sink = Vec::with_capacity(usize::try_from(length / 2).unwrap_or(0));
    let mut encoder = compression::sized_encoder(with.codec, with.level, length, sink)?;
    let (mut pieces, mut cluster, mut done) = (Pieces::default(), None, 0);
    loop {
        let mut piece = pieces.take();
        Read::by_ref(&mut file).take(PIECE_BYTES).read_to_end(&mut piece).map_err(failed)?;
        if cluster.is_none() {
            cluster = Some(proof::check_segment(segment, &piece, length, history)?);
        }
        if piece.is_empty() {
            break;
        }
        done += piece.len() as u64;
        let piece = Arc::new(piece);
        digesting.take(&piece);
        encoder.write_all(&piece).map_err(failed)?;
        pieces.give_back(piece);
    }
    if done != length {
        let cause = format!("it was {length} bytes long when it was opened, and {done} were read");
        return Err(Error::local("read file", path, std::io::Error::other(cause)));
    }
    let mut content = encoder.finish()?;
    content.shrink_to_fit();
    Ok((content, digesting.finish(), length, cluster))
}

/// Buffers that are used again once the digest has seen them: fresh memory costs as much as a tenth of the compression.
#[derive(Default)]
struct Pieces(Vec<Arc<Vec<u8>>>);

impl Pieces {
    fn take(&mut self) -> Vec<u8> {
        let free = self.0.iter().position(|piece| Arc::strong_count(piece) == 1);
        let mut piece = free.and_then(|at| Arc::into_inner(self.0.swap_remove(at))).unwrap_or_default();
        piece.clear();
        piece
    }

    fn give_back(&mut self, piece: Arc<Vec<u8>>) {
        self.0.push(piece);
    }
}

/// What is made of the content beside its compressed form.
#[derive(Clone, Copy)]
struct Digests {
    sha256: Sha256,
    checksum: u64,
}

#[derive(Default)]
struct Builder {
    sha256: Sha256Builder,
    checksum: Checksum,
}

impl Builder {
    fn update(&mut self, piece: &[u8]) {
        self.sha256.update(piece);
        self.checksum.update(piece);
    }

    fn finish(self) -> Digests {
        Digests { checksum: self.checksum.finish(), sha256: self.sha256.finish() }
    }
}

/// Digests that are made here, or by a thread beside this one.
enum Digesting {
    Here(Box<Builder>),
    Beside(SyncSender<Arc<Vec<u8>>>, JoinHandle<Digests>),
}

impl Digesting {
    fn begin(crew: Crew) -> Self {
        if crew == Crew::One {
            return Self::Here(Box::default());
        }
        let (sender, pieces) = sync_channel::<Arc<Vec<u8>>>(PIECES_WAITING);
        let digest = move || {
            let mut builder = Builder::default();
            for piece in &pieces {
                builder.update(&piece);
            }
            builder.finish()
        };
        // Without a second thread the first does it all.
        std::thread::Builder::new()
            .spawn(digest)
            .map_or_else(|_| Self::Here(Box::default()), |thread| Self::Beside(sender, thread))
    }

    fn take(&mut self, piece: &Arc<Vec<u8>>) {
        match self {
            Self::Here(builder) => builder.update(piece),
            // The thread only ends before this does when it panics, which `finish` tells of.
            Self::Beside(sender, _) => drop(sender.send(Arc::clone(piece))),
        }
    }

    fn finish(self) -> Digests {
        match self {
            Self::Here(builder) => builder.finish(),
            Self::Beside(sender, thread) => {
                drop(sender);
                thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
            }
        }
    }
}

/// The digests of `content` and its compressed form.
fn digest_and_compress(content: Vec<u8>, with: WalCompression, crew: Crew) -> Result<(Digests, Vec<u8>)> {
    let content = Arc::new(content);
    // What is not compressed leaves nothing to do beside the digests.
    let crew = if with.codec == Compression::None { Crew::One } else { crew };
    let mut digesting = Digesting::begin(crew);
    digesting.take(&content);
    let sealed = match with.codec {
        Compression::None => None,
        codec => Some(compression::compress(codec, with.level, &content)?),
    };
    let digests = digesting.finish();
    // The thread that shared it has ended.
    Ok((digests, sealed.unwrap_or_else(|| Arc::unwrap_or_clone(content))))
}

/// The history of `timeline` from the same `pg_wal`, when it lies there. It only sharpens a check, so a history that
/// cannot be read is treated like one that is not there.
fn read_history_beside(path: &Path, timeline: TimelineId) -> Option<TimelineHistory> {
    if timeline == TimelineId::FIRST {
        return Some(TimelineHistory::root(timeline));
    }
    let beside = path.with_file_name(WalFileName::TimelineHistory(timeline).to_string());
    let content = disk::read_at_most(&beside, SegmentSize::MAX.bytes()).ok()?;
    TimelineHistory::parse(timeline, std::str::from_utf8(&content).ok()?).ok()
}
