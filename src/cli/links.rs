//! The links under which this program answers as Barman's cloud commands.

use std::fs;
use std::io::ErrorKind as Io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use super::barman::call::Program;
use crate::disk;
use crate::error::{Error, ErrorKind, Result};

/// Makes the nine links `barman-cloud-*` in `directory` to the program `exe` and returns their paths.
///
/// A link to barback that is there stays or is pointed at `exe`. Errors: `Local` for anything else of that name
/// (Barman's own scripts, say), which is left as it is, and then no link is made at all; and when the directory
/// cannot be written.
pub fn install(directory: &Path, exe: &Path) -> Result<Vec<PathBuf>> {
    let links: Vec<PathBuf> = Program::ALL.iter().map(|program| directory.join(program.name())).collect();
    for link in &links {
        check_free(link, exe)?;
    }
    for link in &links {
        disk::remove_if_there(link)?;
        symlink(exe, link).map_err(|cause| Error::local("create link", link, cause))?;
    }
    Ok(links)
}

/// A name is free when nothing is there, or a link to a program of `exe`'s name.
fn check_free(link: &Path, exe: &Path) -> Result<()> {
    let refuse = |what: &str| {
        let message = format!("could not create link \"{}\": {what}", link.display());
        Err(Error::new(ErrorKind::Local, message)
            .with_hint("Move it away, or choose a directory that comes before it in the PATH."))
    };
    match fs::symlink_metadata(link) {
        Err(cause) if cause.kind() == Io::NotFound => Ok(()),
        Err(cause) => Err(Error::local("look at", link, cause)),
        Ok(facts) if !facts.is_symlink() => refuse("a file of this name is there"),
        Ok(_) => {
            let target = fs::read_link(link).map_err(|cause| Error::local("read link", link, cause))?;
            if target.file_name() == exe.file_name() {
                return Ok(());
            }
            refuse(&format!("it is there, and leads to \"{}\"", target.display()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nine_links_lead_to_the_program_and_can_be_made_again() {
        let dir = tempfile::tempdir().unwrap();
        for exe in ["/opt/old/barback", "/opt/new/barback"] {
            let links = install(dir.path(), Path::new(exe)).unwrap();
            assert_eq!(links.len(), 9);
            assert!(links.iter().all(|link| fs::read_link(link).unwrap() == Path::new(exe)));
        }
        assert!(dir.path().join("barman-cloud-check-wal-archive").is_symlink());
    }

    #[test]
    fn barman_s_own_program_is_not_replaced_and_then_nothing_is_done() {
        let dir = tempfile::tempdir().unwrap();
        let theirs = dir.path().join("barman-cloud-restore");
        fs::write(&theirs, "#!python").unwrap();
        let error = install(dir.path(), Path::new("/opt/barback")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Local);
        assert!(error.to_string().contains("barman-cloud-restore\": a file of this name"), "{error}");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        fs::remove_file(&theirs).unwrap();
        symlink("/opt/venv/python", &theirs).unwrap();
        assert!(install(dir.path(), Path::new("/opt/barback")).is_err());
        assert_eq!(fs::read_link(&theirs).unwrap(), Path::new("/opt/venv/python"));
    }
}
