//! What is wrong with a server's settings, for whoever wants its WAL archived and its backups restorable.

use crate::domain::archive_command;
use crate::domain::backup::BackupId;
use crate::domain::cluster::SystemIdentifier;
use crate::domain::finding::{Finding, Severity};
use crate::domain::host::{HostState, Settings};

/// What this host's server should be set to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// The store that this check looks at.
    pub store: String,
    /// The server's name in it.
    pub server: String,
    /// An `archive_command` that archives there.
    pub archive_command: String,
}

/// Whose the archive is, as far as it tells.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Ownership {
    /// What was recorded when the first file came.
    pub recorded: Option<SystemIdentifier>,
    /// The cluster of the newest backup.
    pub newest_backup: Option<(BackupId, SystemIdentifier)>,
}

/// A file that barback reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileFacts {
    /// Where it is.
    pub path: String,
    /// Its permissions, such as 0o600.
    pub mode: u32,
    /// Whether credentials are in it.
    pub holds_secrets: bool,
}

/// Where the settings come from, and which files others may read or write that should not.
#[must_use]
pub fn files(config: Option<&str>, files: &[FileFacts]) -> Vec<Finding> {
    let code = "configuration";
    let mut findings = vec![match config {
        Some(path) => Finding::good(code, format!("settings are read from \"{path}\"")),
        None => Finding::new(
            Severity::Good,
            code,
            "there is no configuration file: settings come from flags and from this shell's environment",
            "the archiver has the server's environment, not this one",
        ),
    }];
    findings.extend(files.iter().filter_map(loose));
    findings
}

fn loose(file: &FileFacts) -> Option<Finding> {
    let FileFacts { path, mode, holds_secrets } = file;
    let (is_loose, why, next) = if *holds_secrets {
        (mode & 0o077 != 0, "whoever reads it can read and delete the archive", "chmod 600")
    } else {
        (mode & 0o022 != 0, "whoever writes it decides where WAL and backups go", "chmod go-w")
    };
    is_loose.then(|| {
        let what = format!("\"{path}\" is open to others: its mode is {mode:04o}");
        Finding::new(Severity::Warning, "file-mode", what, why).with_next(format!("{next} {path}"))
    })
}

/// Everything that is to be said of the server's settings; nothing where they are not known.
#[must_use]
pub fn settings(state: &HostState, expected: &Expected) -> Vec<Finding> {
    let mut findings: Vec<Finding> = state.unknown.iter().map(|what| unknown(what)).collect();
    findings.push(data_checksums(state.data_checksums));
    let Some(settings) = &state.settings else { return findings };
    let is_archiving = matches!(state.archive_mode.as_deref(), Some("on" | "always"));
    findings.push(archive_mode(state, settings, expected));
    if is_archiving {
        findings.push(what_archives(settings, expected));
        findings.extend(archive_timeout(settings));
    }
    findings.extend(wal_level(settings));
    findings.extend(full_page_writes(settings));
    findings
}

/// Whether the archive is this cluster's.
#[must_use]
pub fn identity(ours: SystemIdentifier, archive: &Ownership, expected: &Expected) -> Finding {
    let code = "identity";
    let other = |theirs: SystemIdentifier, says: &str| {
        let what = format!("the archive belongs to cluster {theirs} ({says}), this server is cluster {ours}");
        let why =
            "two clusters in one place destroy each other's archive; nothing of this server can be archived there";
        let next = format!(
            "archive under another name: --server {}-{ours}; or, where the old cluster is gone for good, move its objects away first",
            expected.server
        );
        Finding::new(Severity::Problem, code, what, why).with_next(next)
    };
    match archive {
        Ownership { recorded: Some(theirs), .. } if *theirs != ours => other(*theirs, "barback/identity.json"),
        Ownership { newest_backup: Some((id, theirs)), .. } if *theirs != ours => {
            other(*theirs, &format!("backup {id}"))
        }
        Ownership { recorded: None, newest_backup: None } => {
            Finding::good(code, format!("the archive is nobody's yet; this server is cluster {ours}"))
        }
        _ => Finding::good(code, format!("the archive is this server's, cluster {ours}")),
    }
}

fn unknown(what: &str) -> Finding {
    let why = "what is not seen is not checked; run check as the user that PostgreSQL runs as";
    Finding::new(Severity::Unknown, "host-unknown", what, why)
}

fn archive_mode(state: &HostState, settings: &Settings, expected: &Expected) -> Finding {
    let code = "archive-mode";
    let next = format!(
        "ALTER SYSTEM SET archive_mode = 'on'; ALTER SYSTEM SET archive_command = {}; then restart the server",
        quoted(&expected.archive_command)
    );
    match state.archive_mode.as_deref() {
        Some("on") if state.in_recovery => Finding::new(
            Severity::Good,
            code,
            "this is a standby: with archive_mode = on it archives nothing before it is promoted",
            "its primary archives; check there too",
        ),
        Some(mode @ ("on" | "always")) => Finding::good(code, format!("archive_mode is {mode}")),
        Some(_) if settings.pending_restart.contains("archive_mode") => Finding::new(
            Severity::Problem,
            code,
            "archive_mode is off until the server is restarted",
            "no WAL is archived: a backup can only be restored to its own end",
        )
        .with_next("restart the server"),
        Some(_) => Finding::new(
            Severity::Problem,
            code,
            "archive_mode is off",
            "no WAL is archived: a backup can only be restored to its own end",
        )
        .with_next(next),
        None => {
            Finding::new(Severity::Unknown, code, "archive_mode may not be read", "it decides whether WAL is archived")
                .with_next("GRANT pg_read_all_settings TO the role that checks")
        }
    }
}

fn what_archives(settings: &Settings, expected: &Expected) -> Finding {
    let code = "archive-command";
    let should_be =
        format!("ALTER SYSTEM SET archive_command = {}; SELECT pg_reload_conf()", quoted(&expected.archive_command));
    if let Some(library) = settings.get("archive_library").filter(|library| !library.is_empty()) {
        let what = format!("archive_library is \"{library}\", so that archive_command is not used");
        let why = "what the library archives goes elsewhere, or nowhere";
        return Finding::new(Severity::Problem, "archive-library", what, why)
            .with_next(format!("ALTER SYSTEM SET archive_library = ''; {should_be}"));
    }
    let Some(command) = settings.get("archive_command") else {
        return Finding::new(
            Severity::Unknown,
            code,
            "archive_command may not be read",
            "it decides what becomes of WAL",
        )
        .with_next("GRANT pg_read_all_settings TO the role that checks");
    };
    if command.trim().is_empty() {
        let why = "WAL piles up in pg_wal, and PostgreSQL counts that as no failure: failed_count stays at 0";
        return Finding::new(Severity::Problem, code, "archive_command is empty", why).with_next(should_be);
    }
    let read = archive_command::read(command);
    if let Some(hidden) = read.swallowed_by {
        let what = format!("archive_command hides its failures: \"{hidden}\" makes it end with 0 whatever happened");
        let why = "PostgreSQL then takes a segment for archived, and removes it, while the store does not have it";
        return Finding::new(Severity::Problem, "archive-command-hides-failure", what, why).with_next(should_be);
    }
    if !read.calls_barback {
        let what = format!("archive_command calls another program: \"{}\"", shortened(command));
        let why = "what it does, and which exit code it gives, cannot be seen from here; the store is what counts";
        return Finding::new(Severity::Warning, code, what, why).with_next(should_be);
    }
    if !read.names_the_file {
        let what = "archive_command does not name the file, %p";
        return Finding::new(Severity::Problem, code, what, "nothing can be archived").with_next(should_be);
    }
    let trimmed = |url: &str| url.trim_end_matches('/').to_owned();
    let elsewhere = read.store.filter(|store| trimmed(store) != trimmed(&expected.store));
    let as_other = read.server.filter(|server| *server != expected.server);
    if elsewhere.is_some() || as_other.is_some() {
        let place = elsewhere.map(|store| format!("store \"{store}\"")).into_iter();
        let name = as_other.map(|server| format!("server \"{server}\"")).into_iter();
        let there = place.chain(name).collect::<Vec<_>>().join(", ");
        let what = format!(
            "archive_command archives to {there}; this check looks at \"{}\", server \"{}\"",
            expected.store, expected.server
        );
        let why = "backups here and WAL there cannot be restored together";
        return Finding::new(Severity::Problem, "archive-command-elsewhere", what, why).with_next(should_be);
    }
    Finding::good(code, "archive_command calls barback and hands its exit code on")
}

fn archive_timeout(settings: &Settings) -> Option<Finding> {
    let code = "archive-timeout";
    let seconds: u64 = settings.get("archive_timeout")?.parse().ok()?;
    Some(if seconds == 0 {
        Finding::new(
            Severity::Warning,
            code,
            "archive_timeout is 0",
            "WAL leaves this host when a segment is full, and on a quiet server that may take days: all that was committed since is lost with the host",
        )
        .with_next("ALTER SYSTEM SET archive_timeout = '1min'; SELECT pg_reload_conf()")
    } else {
        Finding::good(
            code,
            format!("archive_timeout is {seconds} s: no more is lost with the host than that and an upload"),
        )
    })
}

fn wal_level(settings: &Settings) -> Option<Finding> {
    let code = "wal-level";
    let level = settings.get("wal_level")?;
    Some(if level == "minimal" {
        let why = "such WAL leaves out what bulk loads write: nothing can be restored with it";
        Finding::new(Severity::Problem, code, "wal_level is minimal", why)
            .with_next("ALTER SYSTEM SET wal_level = 'replica'; then restart the server, and take a new backup")
    } else {
        Finding::good(code, format!("wal_level is {level}"))
    })
}

fn full_page_writes(settings: &Settings) -> Option<Finding> {
    (settings.get("full_page_writes")? == "off").then(|| {
        let why = "a page that was half written when its host stopped, or while it was backed up from a standby, cannot be repaired";
        Finding::new(Severity::Problem, "full-page-writes", "full_page_writes is off", why)
            .with_next("ALTER SYSTEM SET full_page_writes = 'on'; SELECT pg_reload_conf(); then take a new backup")
    })
}

fn data_checksums(are_on: bool) -> Finding {
    let code = "data-checksums";
    if are_on {
        return Finding::good(code, "data pages carry checksums");
    }
    let why = "damage by disks and memory is backed up unseen, until no backup without it is left";
    Finding::new(Severity::Warning, code, "data pages carry no checksums", why)
        .with_next("pg_checksums --enable, while the server is stopped")
}

/// As an SQL string.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

fn shortened(command: &str) -> String {
    const MOST_CHARS: usize = 80;
    match command.char_indices().nth(MOST_CHARS) {
        Some((end, _)) => format!("{} …", &command[..end]),
        None => command.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::segment::SegmentSize;
    use crate::domain::timeline::TimelineId;

    fn expected() -> Expected {
        Expected {
            store: "s3://bkt/pfx".to_owned(),
            server: "main".to_owned(),
            archive_command: "barback wal-archive %p".to_owned(),
        }
    }

    fn state(changes: &[(&str, &str)]) -> HostState {
        let mut values: std::collections::BTreeMap<String, String> = [
            ("archive_mode", "on"),
            ("archive_command", "barback wal-archive %p"),
            ("archive_library", ""),
            ("archive_timeout", "60"),
            ("wal_level", "replica"),
            ("full_page_writes", "on"),
        ]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into();
        values.extend(changes.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())));
        let now = "2026-11-25T12:00:00Z".parse().unwrap();
        HostState {
            data_checksums: true,
            archive_mode: values.get("archive_mode").cloned(),
            settings: Some(Settings { values, ..Settings::default() }),
            ..HostState::new(now, SystemIdentifier(7), SegmentSize::DEFAULT, TimelineId::FIRST)
        }
    }

    fn worse(state: &HostState) -> Vec<(Severity, &'static str)> {
        let found = settings(state, &expected());
        found.iter().filter(|one| one.severity != Severity::Good).map(|one| (one.severity, one.code)).collect()
    }

    #[test]
    fn every_setting_that_breaks_a_promise_is_found() {
        let problem = Severity::Problem;
        for (changes, found) in [
            (&[][..], vec![]),
            (&[("archive_mode", "always")], vec![]),
            (&[("archive_mode", "off"), ("archive_command", "(disabled)")], vec![(problem, "archive-mode")]),
            (&[("archive_command", "")], vec![(problem, "archive-command")]),
            (&[("archive_command", "  ")], vec![(problem, "archive-command")]),
            (&[("archive_command", "barback wal-archive")], vec![(problem, "archive-command")]),
            (
                &[("archive_command", "barback wal-archive %p || true")],
                vec![(problem, "archive-command-hides-failure")],
            ),
            (&[("archive_command", "cp %p /x/%f; exit 0")], vec![(problem, "archive-command-hides-failure")]),
            (&[("archive_command", "/usr/local/bin/archive.sh %p")], vec![(Severity::Warning, "archive-command")]),
            (
                &[("archive_command", "barback --server other wal-archive %p")],
                vec![(problem, "archive-command-elsewhere")],
            ),
            (&[("archive_command", "barback --store s3://bkt/pfx/ wal-archive %p")], vec![]),
            (
                &[("archive_command", "barman-cloud-wal-archive s3://bkt/old main %p")],
                vec![(problem, "archive-command-elsewhere")],
            ),
            (&[("archive_library", "basic_archive")], vec![(problem, "archive-library")]),
            (&[("archive_timeout", "0")], vec![(Severity::Warning, "archive-timeout")]),
            (&[("wal_level", "minimal")], vec![(problem, "wal-level")]),
            (&[("full_page_writes", "off")], vec![(problem, "full-page-writes")]),
        ] {
            assert_eq!(worse(&state(changes)), found, "{changes:?}");
        }
        assert_eq!(worse(&HostState { data_checksums: false, ..state(&[]) }), [(Severity::Warning, "data-checksums")]);
    }

    #[test]
    fn a_standby_that_waits_for_its_promotion_is_in_order_and_told_of() {
        let standby = HostState { in_recovery: true, ..state(&[]) };
        assert_eq!(worse(&standby), []);
        let found = settings(&standby, &expected());
        assert!(found.iter().any(|one| one.code == "archive-mode" && one.what.contains("standby")), "{found:?}");
    }

    #[test]
    fn a_mode_that_waits_for_a_restart_says_so() {
        let mut off = state(&[("archive_mode", "off")]);
        off.settings.as_mut().unwrap().pending_restart.insert("archive_mode".to_owned());
        let found = settings(&off, &expected());
        let mode = found.iter().find(|one| one.code == "archive-mode").unwrap();
        assert_eq!(mode.next.as_deref(), Some("restart the server"));
    }

    #[test]
    fn what_may_not_be_read_is_unknown_and_no_fault() {
        let hidden = HostState { archive_mode: None, settings: Some(Settings::default()), ..state(&[]) };
        assert_eq!(worse(&hidden), [(Severity::Unknown, "archive-mode")]);
        let offline = HostState { settings: None, unknown: vec!["no server".to_owned()], ..state(&[]) };
        assert_eq!(worse(&offline), [(Severity::Unknown, "host-unknown")]);
    }

    #[test]
    fn files_that_others_may_use_are_named_with_what_to_type() {
        let file = |mode: u32, holds_secrets: bool| FileFacts { path: "/x".to_owned(), mode, holds_secrets };
        for (file, next) in [
            (file(0o644, false), None),
            (file(0o664, false), Some("chmod go-w /x")),
            (file(0o600, true), None),
            (file(0o640, true), Some("chmod 600 /x")),
        ] {
            let found = files(Some("/etc/barback.toml"), &[file]);
            assert_eq!(found[0].severity, Severity::Good);
            assert_eq!(found.get(1).and_then(|one| one.next.as_deref()), next);
        }
    }

    #[test]
    fn another_cluster_s_archive_is_refused_with_both_identifiers() {
        let id: BackupId = "20261123T083817".parse().unwrap();
        let (ours, theirs) = (SystemIdentifier(7), SystemIdentifier(8));
        for (recorded, backup, severity) in [
            (None, None, Severity::Good),
            (Some(ours), None, Severity::Good),
            (None, Some(ours), Severity::Good),
            (Some(theirs), None, Severity::Problem),
            (None, Some(theirs), Severity::Problem),
            (Some(ours), Some(theirs), Severity::Problem),
        ] {
            let archive = Ownership { recorded, newest_backup: backup.map(|cluster| (id.clone(), cluster)) };
            let found = identity(ours, &archive, &expected());
            assert_eq!(found.severity, severity, "{archive:?}");
            assert_eq!(
                found.what.contains("cluster 8") && found.what.contains("cluster 7"),
                severity == Severity::Problem
            );
        }
    }
}
