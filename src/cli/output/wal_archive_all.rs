//! What `wal-archive --all` prints: how many files of `pg_wal` are where, and which are not.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write;

use serde::Serialize;

use super::table::fields;
use super::{Style, clean, emit, emit_json};
use crate::cli::invocation::OutputFormat;
use crate::error::Result;

/// What can become of a file, in the order it is printed.
const WORDS: [&str; 4] = ["archived", "there already", "not complete", "refused"];

/// What became of every file of a `pg_wal`. JSON, under `"wal_archive"`: the counts, and every file with what became of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ShipOutcome {
    files: Vec<ShippedFile>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct ShippedFile {
    name: String,
    outcome: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
}

impl ShipOutcome {
    /// Adds what became of the file `name`, and why.
    pub fn add(&mut self, name: String, outcome: &'static str, reason: Option<String>) {
        self.files.push(ShippedFile { name, outcome, reason });
    }

    fn count(&self, word: &str) -> usize {
        self.files.iter().filter(|file| file.outcome == word).count()
    }
}

/// Prints the counts; `each_file` puts a line for each file in front of them. What is refused is always named.
pub fn wal_shipped(out: &mut dyn Write, style: Style, each_file: bool, outcome: &ShipOutcome) -> Result<()> {
    #[derive(Serialize)]
    struct Answer<'a> {
        #[serde(flatten)]
        counts: BTreeMap<String, usize>,
        files: &'a [ShippedFile],
    }
    #[derive(Serialize)]
    struct Document<'a> {
        wal_archive: Answer<'a>,
    }
    if style.format == OutputFormat::Json {
        let counts = WORDS.iter().map(|word| (word.replace(' ', "_"), outcome.count(word))).collect();
        return emit_json(out, &Document { wal_archive: Answer { counts, files: &outcome.files } });
    }
    let mut text = String::new();
    for file in outcome.files.iter().filter(|file| each_file || file.outcome == "refused") {
        let reason = file.reason.as_deref().map_or(String::new(), |reason| format!(": {}", clean(reason)));
        writeln!(text, "{} {}{reason}", file.name, file.outcome).expect("a String takes everything");
    }
    text += &fields(0, &WORDS.map(|word| (word, outcome.count(word).to_string())));
    emit(out, text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::zone::Zone;

    fn printed(format: OutputFormat, each_file: bool) -> String {
        let mut outcome = ShipOutcome::default();
        outcome.add("00000002.history".to_owned(), "archived", None);
        outcome.add("000000020000000000000005".to_owned(), "refused", Some("why\u{1b}".to_owned()));
        outcome.add("000000020000000000000006".to_owned(), "not complete", Some("later".to_owned()));
        let mut out = Vec::new();
        let style = Style { format, zone: Zone::Host, charts: false };
        wal_shipped(&mut out, style, each_file, &outcome).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn counts_are_printed_and_what_was_refused_is_named() {
        let text = printed(OutputFormat::Text, false);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines[0], "000000020000000000000005 refused: why\u{fffd}");
        assert_eq!(lines.len(), 5, "{text}");
        for (line, wanted) in lines[1..].iter().zip([("archived", "1"), ("there", "0"), ("not", "1"), ("refused", "1")])
        {
            assert!(line.starts_with(wanted.0) && line.ends_with(wanted.1), "{line}");
        }
        assert!(printed(OutputFormat::Text, true).starts_with("00000002.history archived\n"));
    }

    #[test]
    fn programs_get_counts_and_every_file() {
        let document: serde_json::Value = serde_json::from_str(&printed(OutputFormat::Json, false)).unwrap();
        assert_eq!(document["schema"], 1);
        let answer = &document["wal_archive"];
        assert_eq!((&answer["archived"], &answer["there_already"]), (&1.into(), &0.into()));
        assert_eq!((&answer["not_complete"], &answer["refused"]), (&1.into(), &1.into()));
        assert_eq!(answer["files"][1]["outcome"], "refused");
        assert_eq!(answer["files"][2]["reason"], "later");
        assert!(answer["files"][0].get("reason").is_none());
    }
}
