//! A short-named directory in `/tmp` that the unprivileged user owns and that vanishes with the test.

use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};

use super::process::server_user;

/// A directory of one test: `/tmp/bb-` and six letters, short because a Unix socket's path has at most 107 bytes.
///
/// Removed on drop; kept, and named on stderr, when the test panics or `BARBACK_KEEP=1`.
#[derive(Debug)]
pub struct TestDir {
    path: PathBuf,
}

impl TestDir {
    /// A new empty directory, mode 0755, owned by the user that servers and barback run as.
    pub fn new() -> Self {
        let path = tempfile::Builder::new().prefix("bb-").tempdir_in("/tmp").unwrap().keep();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        give_away(&path);
        Self { path }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A path inside it; nothing is created.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// Creates the directory `name` (mode 0700, one level, may exist) for the unprivileged user.
    pub fn create_dir(&self, name: &str) -> PathBuf {
        let path = self.join(name);
        if !path.is_dir() {
            std::fs::create_dir(&path).unwrap();
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700)).unwrap();
            give_away(&path);
        }
        path
    }

    /// Writes the file `name` for the unprivileged user.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        std::fs::write(&path, content).unwrap();
        give_away(&path);
        path
    }

    /// The same for credentials: nobody else may read it.
    pub fn write_secret(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.write(name, content);
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        path
    }

    /// A `file://` URL of the directory `name` inside, which is created.
    pub fn file_store(&self, name: &str) -> String {
        format!("file://{}", self.create_dir(name).display())
    }
}

impl Drop for TestDir {
    fn drop(&mut self) {
        if std::thread::panicking() || std::env::var_os("BARBACK_KEEP").is_some() {
            eprintln!("kept for a look: {}", self.path.display());
        } else if let Err(error) = std::fs::remove_dir_all(&self.path) {
            eprintln!("could not remove \"{}\": {error}", self.path.display());
        }
    }
}

/// Makes the unprivileged user the owner, when we are root; else it is ours already.
pub fn give_away(path: &Path) {
    if let Some(id) = server_user() {
        chown(path, Some(id), Some(id)).unwrap();
    }
}
