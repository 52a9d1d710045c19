//! The name of the operating-system user this process runs as: libpq's default role.

use std::fs;

/// The name `/etc/passwd` gives the effective user id; `None` when it is not listed there.
///
/// libpq asks the system, not `$USER`: under `su`, `setpriv` or cron the two differ. Users known only to a
/// directory service are not found here; `$USER` is the caller's second choice.
#[must_use]
pub fn name() -> Option<String> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    name_of(&passwd, rustix::process::geteuid().as_raw())
}

/// The user and group ids of the user called `name`; `None` when `/etc/passwd` does not list it.
#[must_use]
pub fn numbers_of(name: &str) -> Option<(u32, u32)> {
    let passwd = fs::read_to_string("/etc/passwd").ok()?;
    numbers_in(&passwd, name)
}

fn numbers_in(passwd: &str, name: &str) -> Option<(u32, u32)> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next()? == name).then_some(())?;
        Some((fields.nth(1)?.parse().ok()?, fields.next()?.parse().ok()?))
    })
}

fn name_of(passwd: &str, uid: u32) -> Option<String> {
    let uid = uid.to_string();
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_name_is_found_by_number() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\npostgres:x:70:70::/var/lib/postgresql:/bin/sh\n";
        assert_eq!(name_of(passwd, 70).as_deref(), Some("postgres"));
        assert_eq!(name_of(passwd, 7), None);
        assert_eq!(numbers_in(passwd, "postgres"), Some((70, 70)));
        assert_eq!(numbers_in(passwd, "broken"), None);
    }
}
