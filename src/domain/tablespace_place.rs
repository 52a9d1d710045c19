//! Where a tablespace may be put on the word of a backup alone: whoever can write into an archive chooses that word.

use std::path::{Component, Path};

/// Places of the system, with everything below them. No server keeps tables there, and root could write there.
const SYSTEM: [&str; 18] = [
    "/bin",
    "/boot",
    "/dev",
    "/etc",
    "/lib",
    "/lib32",
    "/lib64",
    "/libx32",
    "/proc",
    "/root",
    "/run",
    "/sbin",
    "/sys",
    "/usr",
    "/var/lock",
    "/var/mail",
    "/var/run",
    "/var/spool",
];

/// Below one of those, but for administrators to fill.
const LOCAL: &str = "/usr/local";

/// Places that everything shares: a tablespace lies in a directory of its own below them.
const SHARED: [&str; 14] = [
    "/home",
    "/media",
    "/mnt",
    "/opt",
    "/srv",
    "/tmp",
    "/usr/local",
    "/var",
    "/var/cache",
    "/var/lib",
    "/var/local",
    "/var/log",
    "/var/opt",
    "/var/tmp",
];

/// Why a tablespace may not go to `path`, where nobody but its backup says so; none where it may.
///
/// It becomes PostgreSQL's, with its permissions, and is filled. Links are not resolved here.
#[must_use]
pub fn refused(path: &Path) -> Option<&'static str> {
    if !path.is_absolute() {
        return Some("it is no absolute path");
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Some("it leads upwards");
    }
    if path.parent().is_none() {
        return Some("it is the root directory");
    }
    let is_system = SYSTEM.iter().any(|system| path.starts_with(system));
    if is_system && !path.starts_with(LOCAL) {
        return Some("it is a place of the system");
    }
    let is_shared = SHARED.iter().any(|shared| path == Path::new(shared));
    is_shared.then_some("others have their files there")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tablespace_goes_where_servers_keep_them_and_not_where_the_system_lives() {
        for good in [
            "/srv/fast",
            "/mnt/ssd1",
            "/ts1",
            "/var/lib/postgresql/ts",
            "/data/ts",
            "/usr/local/pgsql/ts",
            "/tmp/ts",
            "/opt/ts",
            "/etcetera",
            "/library/ts",
            "/usrs/x",
            "/var/spooler",
        ] {
            assert_eq!(refused(Path::new(good)), None, "{good}");
        }
        for bad in [
            "",
            "ts",
            "./ts",
            "../etc",
            "/",
            "//",
            "/.",
            "/etc",
            "/etc/",
            "/etc/cron.d",
            "//etc",
            "/./etc/x",
            "/usr",
            "/usr/lib/x",
            "/usr/local",
            "/lib",
            "/lib64/x",
            "/bin",
            "/sbin/x",
            "/boot/x",
            "/dev/shm/x",
            "/proc/1",
            "/sys/x",
            "/run/x",
            "/var/run/x",
            "/var/spool/cron/crontabs",
            "/srv/../etc",
            "/srv/x/..",
            "/srv",
            "/home",
            "/mnt/",
            "/tmp",
            "/var",
            "/var/lib",
            "/root",
        ] {
            assert!(refused(Path::new(bad)).is_some(), "{bad}");
        }
    }
}
