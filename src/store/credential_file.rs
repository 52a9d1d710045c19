//! Files with credentials that others may write or read are not used.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::error::{Error, Result};

/// What a file system calls itself that is in memory (Linux `magic.h`): Kubernetes mounts secrets on one.
const TMPFS_MAGIC: i64 = 0x0102_1994;

/// What is done with a file of credentials that others may read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadableByOthers {
    /// It is not used.
    Refuse,
    /// It is used, with a warning: as Barman uses it.
    Warn,
    /// It is used: there need be no secret in it.
    Allow,
}

/// Refuses `path` where everybody may write it, and where everybody may read it though we could forbid that: the file is ours, and
/// lies on a disk that can be written. Warns where its group may write it. One that is not there is no business of this function.
///
/// Errors: `Usage`, with the command that closes the file.
pub(super) fn refuse_open(path: &Path, readable: ReadableByOthers) -> Result<()> {
    let Ok(facts) = fs::metadata(path) else { return Ok(()) };
    // In an empty one is no secret: CloudNativePG writes it to say that there is none.
    if !facts.is_file() || facts.len() == 0 {
        return Ok(());
    }
    let is_ours = facts.uid() == rustix::process::geteuid().as_raw();
    let could_be_closed = is_ours && !is_in_memory(path) && !is_read_only(path);
    let Some(open) = open_to_others(facts.mode(), could_be_closed) else { return Ok(()) };
    let what =
        format!("credentials file \"{}\": it {} (mode {:04o})", path.display(), open.says, facts.mode() & 0o7777);
    match (open.whom, readable) {
        (Whom::GroupToWrite, _) | (Whom::AllToRead, ReadableByOthers::Warn) => {
            tracing::warn!("{what}");
            return Ok(());
        }
        (Whom::AllToRead, ReadableByOthers::Allow) => return Ok(()),
        (Whom::AllToRead, ReadableByOthers::Refuse) | (Whom::AllToWrite, _) => {}
    }
    let hint = format!("{} {}", open.closes, path.display());
    Err(Error::usage(format!("could not use {what}")).with_hint(format!("Close it: {hint}")))
}

/// How a file is open, and what closes it.
#[derive(Debug, PartialEq, Eq)]
struct Open {
    whom: Whom,
    says: &'static str,
    closes: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Whom {
    AllToWrite,
    /// Kubernetes gives a volume's group this right at each mount, where a pod has an `fsGroup`.
    GroupToWrite,
    AllToRead,
}

fn open_to_others(mode: u32, could_be_closed: bool) -> Option<Open> {
    if mode & 0o002 != 0 {
        let says = "can be written by everybody, who could have us send credentials to them";
        return Some(Open { whom: Whom::AllToWrite, says, closes: "chmod go-w" });
    }
    if mode & 0o020 != 0 {
        let says = "can be written by its group, who could have us send credentials to them";
        return Some(Open { whom: Whom::GroupToWrite, says, closes: "chmod go-w" });
    }
    let is_readable = mode & 0o004 != 0 && could_be_closed;
    let says = "can be read by everybody on this host";
    is_readable.then_some(Open { whom: Whom::AllToRead, says, closes: "chmod 600" })
}

/// What lies on a file system that cannot be written cannot be closed.
fn is_read_only(path: &Path) -> bool {
    rustix::fs::statvfs(path).is_ok_and(|facts| facts.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
}

fn is_in_memory(path: &Path) -> bool {
    // The type of the field differs between machines.
    rustix::fs::statfs(path).is_ok_and(|facts| i128::from(facts.f_type) == i128::from(TMPFS_MAGIC))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn what_others_may_write_is_never_used_and_what_they_may_read_only_where_we_cannot_help_it() {
        for (mode, could_be_closed, expected) in [
            (0o600, true, None),
            (0o640, true, None),
            (0o644, true, Some("chmod 600")),
            // A secret that Kubernetes mounts.
            (0o644, false, None),
            (0o664, false, Some("chmod go-w")),
            (0o602, false, Some("chmod go-w")),
        ] {
            assert_eq!(open_to_others(mode, could_be_closed).map(|open| open.closes), expected, "{mode:o}");
        }
    }

    #[test]
    fn a_file_that_is_refused_is_named_with_what_closes_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("credentials");
        assert!(refuse_open(&path, ReadableByOthers::Refuse).is_ok());
        fs::write(&path, "[default]").unwrap();
        for (mode, refused_by_us, refused_by_both) in [(0o600, false, false), (0o666, true, true)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            assert_eq!(refuse_open(&path, ReadableByOthers::Refuse).is_err(), refused_by_us);
            assert_eq!(refuse_open(&path, ReadableByOthers::Warn).is_err(), refused_by_both);
        }
        let refused = refuse_open(&path, ReadableByOthers::Refuse).unwrap_err();
        assert_eq!(refused.hint().unwrap(), format!("Close it: chmod go-w {}", path.display()));
    }
}
