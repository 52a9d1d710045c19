//! Segments fetched before recovery asks for them: local files that are a help when they are there and good, and never more than that.

use std::fs::{self, File, Metadata};
use std::io::{ErrorKind as IoErrorKind, Read};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::codec::digest::Sha256;
use crate::commands::archive::{ContentCheck, WAL_LIMIT_BYTES};
use crate::commands::unseal::{SealedObject, unseal_to};
use crate::disk;
use crate::domain::segment::{SegmentName, WalFileName};
use crate::error::{Error, Result};
use crate::layout::keys::ServerPrefix;
use crate::wal::proof;

/// Recovery asks for what was fetched ahead within seconds. What lies longer may be from before the archive was emptied and
/// the cluster made anew.
const STALE_AFTER: Duration = Duration::from_hours(1);

/// How much of a segment is read to check it: more than its header.
const FIRST_PAGE_BYTES: u64 = 512;

/// Where WAL that is fetched ahead is kept, and how much of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SpoolOptions {
    /// The directory; made on demand, for its owner alone. Nothing is made unless there is something to put in.
    pub directory: PathBuf,
    /// What the files in it are called.
    pub layout: SpoolLayout,
    /// How many segments to fetch at once, the requested one among them. Up to 1: only that one, but what an earlier call
    /// fetched is used.
    pub segments: usize,
}

/// What the files in a spool are called.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpoolLayout {
    /// `barback-<16 digits>/<segment>`: each store and server has a directory of its own, which only its owner may write to.
    Keyed {
        /// What tells the store from every other: its place and its endpoint.
        store: String,
    },
    /// `.barback-spool-<16 digits>/<segment>`, in the server's own `pg_wal`, where a file is handed over by a rename. Nothing
    /// of PostgreSQL's looks at such a name. The directory goes into the digits as well.
    InWal {
        /// What tells the store from every other: its place and its endpoint.
        store: String,
    },
    /// `<segment>`, as Barman 3.19.1 has it: two clusters on one host take each other's WAL.
    Shared,
}

/// A spool as one call sees it. Nothing is touched before it is used.
#[derive(Debug, Clone)]
pub(crate) struct Spool {
    directory: PathBuf,
    is_keyed: bool,
    is_in_wal: bool,
    check: ContentCheck,
}

impl Spool {
    pub(crate) fn new(options: &SpoolOptions, server: &ServerPrefix, check: ContentCheck) -> Self {
        match &options.layout {
            SpoolLayout::Keyed { store } => {
                let key = Sha256::of(format!("{store}\n{}", server.root()).as_bytes()).to_string();
                let directory = options.directory.join(format!("barback-{}", &key[..16]));
                Self { directory, is_keyed: true, is_in_wal: false, check: ContentCheck::Checked }
            }
            SpoolLayout::InWal { store } => {
                let place = options.directory.display();
                let key = Sha256::of(format!("{store}\n{}\n{place}", server.root()).as_bytes()).to_string();
                let directory = options.directory.join(format!(".barback-spool-{}", &key[..16]));
                Self { directory, is_keyed: true, is_in_wal: true, check: ContentCheck::Checked }
            }
            SpoolLayout::Shared => {
                Self { directory: options.directory.clone(), is_keyed: false, is_in_wal: false, check }
            }
        }
    }

    /// Moves the file called `name` to `destination`, whole, and durable unless it lies in `pg_wal` already; false where there
    /// is none that can be used.
    ///
    /// Whatever goes wrong is said and is no error: the file is in the store as well.
    pub(crate) fn deliver(&self, name: &WalFileName, destination: &Path) -> bool {
        let delivered = self.try_to_deliver(name, destination).unwrap_or_else(|error| {
            tracing::warn!("{error}; \"{name}\" is fetched from the store");
            false
        });
        if let (true, Some(segment)) = (delivered, name.segment()) {
            self.tidy(segment);
        }
        delivered
    }

    fn try_to_deliver(&self, name: &WalFileName, destination: &Path) -> Result<bool> {
        // Nothing else is ever kept here; Barman's spool is asked for any name.
        if self.is_keyed && !matches!(name, WalFileName::Segment(_)) {
            return Ok(false);
        }
        let entry = self.entry(name);
        if !is_there(&entry)? || !self.is_trusted()? {
            return Ok(false);
        }
        if let Err(error) = self.verify(name, &entry) {
            if self.is_keyed {
                disk::remove_if_there(&entry)?;
            }
            return Err(error.context(format!("could not use file \"{}\"", entry.display())));
        }
        match self.move_to(name, &entry, destination) {
            // Another call was faster.
            Err(_) if !is_there(&entry)? => Ok(false),
            outcome => outcome.map(|()| true),
        }
    }

    fn move_to(&self, name: &WalFileName, entry: &Path, destination: &Path) -> Result<()> {
        // Recovery makes the file it is given durable under another name (KeepFileRestoredFromArchive in xlogarchive.c), and
        // asks anew after a crash; an fsync of `pg_wal` would wait for whatever else is being written there.
        let rename = if self.is_in_wal { disk::hand_over } else { disk::publish_by_rename };
        if rename(entry, destination)? {
            return Ok(());
        }
        let content = disk::read_at_most(entry, WAL_LIMIT_BYTES)?;
        if self.check == ContentCheck::Checked {
            proof::check(name, &content, None)?;
        }
        disk::publish(destination, &content)?;
        disk::remove_if_there(entry)
    }

    /// True where a good file of that name lies here already.
    pub(crate) fn holds(&self, segment: SegmentName) -> bool {
        let name = WalFileName::Segment(segment);
        self.verify(&name, &self.entry(&name)).is_ok()
    }

    /// Makes the directory, if need be, and removes what will not be asked for any more now that `requested` was.
    ///
    /// Errors: `Local`, among them a directory that is not ours alone.
    pub(crate) fn prepare(&self, requested: SegmentName) -> Result<()> {
        let failed = |cause| Error::local("create spool directory", &self.directory, cause);
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&self.directory).map_err(failed)?;
        if !self.is_trusted()? {
            return Err(failed(IoErrorKind::NotFound.into()));
        }
        self.tidy(requested);
        Ok(())
    }

    /// Unpacks, checks and keeps a segment that was fetched. It appears whole and durable, or not at all.
    ///
    /// Errors: `Corrupt` and `Mismatch` for what is not the segment of that name; `Local`.
    pub(crate) fn keep(&self, segment: SegmentName, object: SealedObject, check: ContentCheck) -> Result<()> {
        let name = WalFileName::Segment(segment);
        unseal_to(&self.entry(&name), &name, object, check)
    }

    /// Where the files lie.
    pub(crate) fn directory(&self) -> &Path {
        &self.directory
    }

    fn entry(&self, name: &WalFileName) -> PathBuf {
        self.directory.join(name.to_string())
    }

    /// False where there is no such directory. The place it lies in may be open to everybody: a directory that another user
    /// made or may write to would have us recover what that user likes. Barman's spool is taken as it is.
    ///
    /// Errors: `Local` for one that is not ours alone, or cannot be looked at.
    pub(crate) fn is_trusted(&self) -> Result<bool> {
        if !self.is_keyed {
            return Ok(true);
        }
        let failed = |cause| Error::local("use spool directory", &self.directory, cause);
        match fs::symlink_metadata(&self.directory) {
            Err(cause) if is_absence(&cause) => Ok(false),
            Err(cause) => Err(failed(cause)),
            Ok(facts) if facts.is_dir() && is_ours(&facts) => Ok(true),
            Ok(_) => Err(failed(std::io::Error::other("others than this user may write to it"))),
        }
    }

    /// Checks that the file at `entry` is the one called `name`: fresh, plain, of the right length, with the right first page.
    fn verify(&self, name: &WalFileName, entry: &Path) -> Result<()> {
        let failed = |cause| Error::local("read file", entry, cause);
        let facts = fs::symlink_metadata(entry).map_err(failed)?;
        if !facts.is_file() {
            return Err(Error::corrupt("it is no regular file"));
        }
        if self.is_keyed && is_stale(&facts) {
            return Err(Error::corrupt("it was left behind long ago"));
        }
        if self.check == ContentCheck::Unchecked {
            return Ok(());
        }
        if let WalFileName::Segment(segment) | WalFileName::Partial(segment) = name {
            let mut first_page = Vec::new();
            File::open(entry)
                .and_then(|file| file.take(FIRST_PAGE_BYTES).read_to_end(&mut first_page))
                .map_err(failed)?;
            return proof::check_segment(*segment, &first_page, facts.len(), None).map(drop);
        }
        proof::check(name, &disk::read_at_most(entry, WAL_LIMIT_BYTES)?, None).map(drop)
    }

    /// Removes the segments before `requested` on its timeline, and whatever was left behind long ago. What cannot be removed
    /// stays: it is in nobody's way.
    fn tidy(&self, requested: SegmentName) {
        if !self.is_keyed || !self.is_trusted().unwrap_or(false) {
            return;
        }
        for entry in fs::read_dir(&self.directory).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let segment = name.parse::<SegmentName>().ok();
            let is_stale = || entry.metadata().is_ok_and(|facts| is_stale(&facts));
            let is_over = match segment {
                Some(segment) => (segment.timeline == requested.timeline && segment < requested) || is_stale(),
                None => disk::is_staged(name) && is_stale(),
            };
            if is_over && let Err(error) = disk::remove_if_there(&entry.path()) {
                tracing::debug!("{error}");
            }
        }
    }
}

fn is_there(path: &Path) -> Result<bool> {
    match fs::symlink_metadata(path) {
        Err(cause) if is_absence(&cause) => Ok(false),
        outcome => outcome.map(|_| true).map_err(|cause| Error::local("look for file", path, cause)),
    }
}

fn is_absence(cause: &std::io::Error) -> bool {
    matches!(cause.kind(), IoErrorKind::NotFound | IoErrorKind::NotADirectory)
}

fn is_ours(facts: &Metadata) -> bool {
    facts.uid() == rustix::process::geteuid().as_raw() && facts.mode() & 0o022 == 0
}

/// A time that lies ahead of the clock says nothing, so such a file is stale too.
fn is_stale(facts: &Metadata) -> bool {
    !facts.modified().is_ok_and(|time| time.elapsed().is_ok_and(|age| age < STALE_AFTER))
}
