//! Which of Barman's habits a user wants back where this face deliberately differs.

use std::collections::BTreeMap;

use crate::error::{Error, Result};

/// The variable that names them, separated by commas or white space.
pub const VARIABLE: &str = "BARBACK_BARMAN_QUIRKS";

/// Habits of Barman 3.19.1 that are not followed unless asked for; `docs/compatibility.md` says why for each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[allow(
    clippy::struct_excessive_bools,
    reason = "each is one word of the variable, and they do not depend on each other"
)]
pub struct Quirks {
    /// `overwrite-wal`: WAL with other content replaces what the archive holds under its name.
    pub overwrite_wal: bool,
    /// `unchecked-wal`: a file is archived and restored whatever its bytes are.
    pub unchecked_wal: bool,
    /// `partial-order`: the first key in byte order serves a segment, be it a `.partial`.
    pub partial_order: bool,
    /// `shared-spool`: the spool is keyed by the segment's name alone.
    pub shared_spool: bool,
    /// `any-status`: a backup that is not DONE can be restored by its id.
    pub any_status: bool,
    /// `loose-bandwidth`: `--max-bandwidth` limits nothing.
    pub loose_bandwidth: bool,
    /// `no-wal-wait`: a backup is DONE when PostgreSQL says so, whether its WAL is in the archive or not.
    pub no_wal_wait: bool,
}

impl Quirks {
    /// What the environment asks for; nothing when the variable is not set.
    ///
    /// Errors: `Usage` for a word that is none of them, with all there are.
    pub fn from_env(env: &BTreeMap<String, String>) -> Result<Self> {
        let mut quirks = Self::default();
        let text = env.get(VARIABLE).map(String::as_str).unwrap_or_default();
        let words = text.split(|c: char| c == ',' || c.is_whitespace()).filter(|word| !word.is_empty());
        for word in words {
            let found = quirks.words().into_iter().find(|(name, _)| *name == word);
            match found {
                Some((_, quirk)) => *quirk = true,
                None => return Err(unknown(word)),
            }
        }
        Ok(quirks)
    }

    fn words(&mut self) -> [(&'static str, &mut bool); 7] {
        [
            ("overwrite-wal", &mut self.overwrite_wal),
            ("unchecked-wal", &mut self.unchecked_wal),
            ("partial-order", &mut self.partial_order),
            ("shared-spool", &mut self.shared_spool),
            ("any-status", &mut self.any_status),
            ("loose-bandwidth", &mut self.loose_bandwidth),
            ("no-wal-wait", &mut self.no_wal_wait),
        ]
    }
}

fn unknown(word: &str) -> Error {
    let known = Quirks::default().words().map(|(name, _)| name).join(", ");
    Error::usage(format!("environment variable {VARIABLE}: \"{}\" is none of {known}", word.escape_debug()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Quirks> {
        Quirks::from_env(&BTreeMap::from([(VARIABLE.to_owned(), text.to_owned())]))
    }

    #[test]
    fn without_the_variable_no_habit_of_barman_s_is_followed() {
        assert_eq!(Quirks::from_env(&BTreeMap::new()).unwrap(), Quirks::default());
        assert_eq!(read(" , ").unwrap(), Quirks::default());
    }

    #[test]
    fn words_are_separated_by_commas_or_spaces() {
        let quirks = read("overwrite-wal, partial-order any-status").unwrap();
        let wanted = Quirks { overwrite_wal: true, partial_order: true, any_status: true, ..Quirks::default() };
        assert_eq!(quirks, wanted);
    }

    #[test]
    fn an_unknown_word_is_refused_with_all_there_are() {
        let error = read("overwrite-wal,typo").unwrap_err().to_string();
        assert!(error.contains("\"typo\" is none of overwrite-wal, unchecked-wal"), "{error}");
        assert!(error.ends_with("no-wal-wait"), "{error}");
    }
}
