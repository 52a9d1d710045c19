//! The base backups of one server, and how people call them.

use crate::domain::backup::{Backup, BackupStatus};
use crate::error::{Error, ErrorKind, Result};

/// How many backups an error lists; more would push the message itself off the screen.
const LISTED: usize = 10;

/// Every base backup of one server, oldest id first.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Catalog {
    backups: Vec<Backup>,
}

impl Catalog {
    /// A catalogue of `backups`, given in any order.
    #[must_use]
    pub fn new(mut backups: Vec<Backup>) -> Self {
        backups.sort_by(|a, b| a.id.cmp(&b.id));
        Self { backups }
    }

    /// The backups, oldest id first.
    #[must_use]
    pub fn backups(&self) -> &[Backup] {
        &self.backups
    }

    /// The backup called `word`: an id, a name given with `--name`, `latest` or `oldest`.
    ///
    /// `latest` and `oldest` mean complete (`DONE`) backups, by the time they ended: the ids of Barman are local wall-clock
    /// times and may run backwards when clocks change.
    ///
    /// Errors: `NotFound`, with the newest ten there are; `Usage` when several backups bear the name.
    pub fn find(&self, word: &str) -> Result<&Backup> {
        let done = self.backups.iter().filter(|backup| backup.status == BackupStatus::Done);
        let age = |backup: &&Backup| (backup.end_time, backup.id.clone());
        let none_done = || self.not_found("there is no complete backup");
        match word {
            "latest" => return done.max_by_key(age).ok_or_else(none_done),
            "oldest" => return done.min_by_key(age).ok_or_else(none_done),
            _ => {}
        }
        if let Some(backup) = self.backups.iter().find(|backup| backup.id.as_str() == word) {
            return Ok(backup);
        }
        let named: Vec<&Backup> = self.backups.iter().filter(|backup| backup.name.as_deref() == Some(word)).collect();
        let word = word.escape_debug();
        match named[..] {
            [backup] => Ok(backup),
            [] => Err(self.not_found(&format!("there is no backup \"{word}\""))),
            _ => Err(Error::usage(format!("{} backups are named \"{word}\": {}", named.len(), list(&named)))
                .with_hint("give the id of the one you mean")),
        }
    }

    fn not_found(&self, what: &str) -> Error {
        let all: Vec<&Backup> = self.backups.iter().collect();
        let message = if all.is_empty() {
            format!("{what}: the catalogue is empty")
        } else {
            format!("{what} among {}", list(&all))
        };
        Error::new(ErrorKind::NotFound, message)
    }
}

/// The newest of `backups` with status and name, and how many more there are.
fn list(backups: &[&Backup]) -> String {
    let newest = backups.iter().rev().take(LISTED).map(|backup| {
        let name = backup.name.as_ref().map_or_else(String::new, |name| format!(" \"{}\"", name.escape_debug()));
        format!("{}{name} ({})", backup.id, backup.status)
    });
    let mut words: Vec<String> = newest.collect();
    if backups.len() > LISTED {
        words.push(format!("and {} older ones", backups.len() - LISTED));
    }
    words.join(", ")
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    fn backup(id: &str, status: BackupStatus, name: Option<&str>) -> Backup {
        let end_time = DateTime::parse_from_str(&format!("{id}+0000"), "%Y%m%dT%H%M%S%z").ok();
        Backup { status, name: name.map(str::to_owned), end_time, ..Backup::new(id.parse().unwrap()) }
    }

    fn catalog() -> Catalog {
        Catalog::new(vec![
            backup("20260103T000000", BackupStatus::Done, Some("weekly")),
            backup("20260101T000000", BackupStatus::Failed, Some("first")),
            backup("20260102T000000", BackupStatus::Done, Some("weekly")),
            backup("20260104T000000", BackupStatus::Started, None),
        ])
    }

    fn found(word: &str) -> String {
        catalog().find(word).map_or_else(|error| error.to_string(), |backup| backup.id.to_string())
    }

    #[test]
    fn backups_are_found_by_id_name_and_age() {
        assert_eq!(found("20260104T000000"), "20260104T000000");
        assert_eq!(found("first"), "20260101T000000");
        assert_eq!(found("latest"), "20260103T000000");
        assert_eq!(found("oldest"), "20260102T000000");
    }

    #[test]
    fn latest_goes_by_the_time_a_backup_ended_not_by_an_id_in_local_time() {
        let mut winter = backup("20261025T020000", BackupStatus::Done, None);
        winter.end_time = DateTime::parse_from_rfc3339("2026-10-25T02:30:00+01:00").ok();
        let mut summer = backup("20261025T024500", BackupStatus::Done, None);
        summer.end_time = DateTime::parse_from_rfc3339("2026-10-25T02:50:00+02:00").ok();
        let catalog = Catalog::new(vec![winter.clone(), summer.clone()]);
        assert_eq!(catalog.find("latest").unwrap().id, winter.id);
        assert_eq!(catalog.find("oldest").unwrap().id, summer.id);
    }

    #[test]
    fn a_name_borne_twice_is_refused_with_both_ids() {
        let error = catalog().find("weekly").unwrap_err().to_string();
        assert_eq!(
            error,
            "2 backups are named \"weekly\": 20260103T000000 \"weekly\" (DONE), 20260102T000000 \"weekly\" (DONE)"
        );
    }

    #[test]
    fn what_is_not_there_is_refused_with_at_most_ten_that_are() {
        let many = (10..28).map(|day| backup(&format!("202601{day}T000000"), BackupStatus::Done, None)).collect();
        let error = Catalog::new(many).find("20260101T000000").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let text = error.to_string();
        assert!(text.contains("20260127T000000") && !text.contains("20260117T000000"), "{text}");
        assert!(text.ends_with("and 8 older ones"), "{text}");
        assert_eq!(
            Catalog::default().find("latest").unwrap_err().to_string(),
            "there is no complete backup: the catalogue is empty"
        );
        let failed = Catalog::new(vec![backup("20260101T000000", BackupStatus::Failed, None)]);
        assert_eq!(failed.find("latest").unwrap_err().kind(), ErrorKind::NotFound);
    }
}
