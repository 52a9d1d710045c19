//! The password file, `~/.pgpass` (libpq `passwordFromFile`).

use std::fs;
use std::io::ErrorKind as IoErrorKind;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::secret::Secret;

/// What a password is looked up by.
#[derive(Debug, Clone, Copy)]
pub struct Login<'a> {
    /// The host as the user named it; `localhost` for the default socket directories.
    pub host: &'a str,
    /// The port.
    pub port: u16,
    /// The database.
    pub dbname: &'a str,
    /// The role.
    pub user: &'a str,
}

/// The content of a password file, or nothing with the reason why it was passed over.
#[derive(Debug, Default)]
pub struct PasswordFile {
    content: Option<Secret>,
    /// Why an existing file is not used, for the user to see.
    pub warning: Option<String>,
}

impl PasswordFile {
    /// Reads the file at `path`.
    ///
    /// A missing file is empty. A file that others may read, that is no plain file, or that cannot be read (under another user's
    /// `HOME`, say) is not used and leaves a `warning`; libpq passes over the last without a word.
    #[must_use]
    pub fn read(path: &Path) -> Self {
        let ignored = |why: &str| Self {
            content: None,
            warning: Some(format!("password file \"{}\" is not used: {why}", path.display())),
        };
        let unreadable = |cause: &std::io::Error| match cause.kind() {
            IoErrorKind::NotFound | IoErrorKind::NotADirectory => Self::default(),
            _ => ignored(&format!("it cannot be read: {cause}")),
        };
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(cause) => return unreadable(&cause),
        };
        if !metadata.is_file() {
            return ignored("it is not a plain file");
        }
        if metadata.permissions().mode() & 0o077 != 0 {
            return ignored("it has group or world access; permissions should be u=rw (0600) or less");
        }
        match fs::read(path) {
            Ok(bytes) => Self::of_bytes(&bytes),
            Err(cause) => unreadable(&cause),
        }
    }

    /// A file with this content.
    #[must_use]
    pub fn of_bytes(content: &[u8]) -> Self {
        Self { content: Some(Secret::new(String::from_utf8_lossy(content))), warning: None }
    }

    /// The password of the first line that matches `login`.
    #[must_use]
    pub fn password(&self, login: Login<'_>) -> Option<Secret> {
        self.content.as_ref().and_then(|content| find(content.reveal(), login))
    }
}

/// Finds the first line `host:port:database:user:password` that matches; `*` matches all, `\` protects `:` and `\`.
fn find(content: &str, login: Login<'_>) -> Option<Secret> {
    let port = login.port.to_string();
    let wanted = [login.host, &port, login.dbname, login.user];
    content.lines().filter(|line| !line.starts_with('#')).find_map(|line| {
        let mut rest = line.strip_suffix('\r').unwrap_or(line);
        for value in wanted {
            let (field, protected, after) = field(rest);
            if field != value && (protected || field != "*") {
                return None;
            }
            rest = after?;
        }
        let (password, ..) = field(rest);
        (!password.is_empty()).then(|| Secret::new(password))
    })
}

/// Splits one field off: its text without backslashes, whether it had any, and what follows its `:`.
fn field(text: &str) -> (String, bool, Option<&str>) {
    let mut value = String::new();
    let mut protected = false;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            ':' => return (value, protected, Some(chars.as_str())),
            '\\' => {
                protected = true;
                value.push(chars.next().unwrap_or('\\'));
            }
            _ => value.push(c),
        }
    }
    (value, protected, None)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(content: &str) -> Option<String> {
        let login = Login { host: "db", port: 5432, dbname: "shop", user: "me" };
        find(content, login).map(|password| password.reveal().to_owned())
    }

    #[test]
    fn the_first_matching_line_counts() {
        assert_eq!(
            lookup("# db:5432:shop:me:no\nother:5432:shop:me:no\ndb:5432:shop:me:yes\n*:*:*:*:late"),
            Some("yes".into())
        );
        assert_eq!(lookup("*:*:*:me:any\r\n"), Some("any".into()));
    }

    #[test]
    fn backslashes_protect_colons_backslashes_and_stars() {
        assert_eq!(lookup(r"d\b:5432:shop:me:a\:b\\c"), Some(r"a:b\c".into()));
        assert_eq!(lookup(r"\*:5432:shop:me:no"), None);
    }

    #[test]
    fn short_lines_and_empty_passwords_match_nothing() {
        for line in ["", "db", "db:5432:shop:me", "db:5432:shop:me:", ":::::"] {
            assert_eq!(lookup(line), None, "{line}");
        }
    }

    #[test]
    fn a_file_others_may_read_is_not_used() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pgpass");
        let login = Login { host: "db", port: 1, dbname: "d", user: "u" };
        assert!(PasswordFile::read(&path).warning.is_none());
        fs::write(&path, "*:*:*:*:secret\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let open = PasswordFile::read(&path);
        assert!(open.warning.as_deref().unwrap().contains("group or world"));
        assert!(open.password(login).is_none());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        let closed = PasswordFile::read(&path);
        assert_eq!(closed.password(login).unwrap().reveal(), "secret");
        assert!(!format!("{closed:?}").contains("secret"));
    }
}
