//! Answers on stdout: text for people, JSON documents with `"schema": 1` for programs.

mod catalog;
mod check;
pub mod drill;
mod expire;
mod metrics;
mod outcome;
mod plan;
mod status;
mod status_view;
mod table;
mod verify;
mod wal_archive_all;

use std::io::{ErrorKind as IoErrorKind, Write};
use std::path::PathBuf;

use serde::Serialize;

pub use self::catalog::{list, show};
pub use self::check::check;
pub use self::expire::{ExpiryView, KeepView, expiry_outcome, expiry_verdicts, kept};
pub use self::metrics::metrics;
pub use self::outcome::{BackupOutcome, Phase, RestoreOutcome, backup_summary, backup_taken, restored};
pub use self::plan::{PlanView, TargetView, WindowView, plan};
pub use self::status::status;
pub use self::status_view::StatusView;
pub use self::verify::verified;
pub use self::wal_archive_all::{ShipOutcome, wal_shipped};
use super::invocation::OutputFormat;
use super::zone::Zone;
use crate::error::{Error, ErrorKind, Result};

/// The version of every JSON document: it goes up when a field changes its meaning or goes away, not when one is added.
const SCHEMA: u32 = 1;

/// How an answer is to look.
#[derive(Debug, Clone, Copy)]
pub struct Style {
    /// Text or JSON.
    pub format: OutputFormat,
    /// The reader's zone, for text; JSON is in UTC.
    pub zone: Zone,
    /// Draw bars: for terminals.
    pub charts: bool,
}

/// Prints the version: `barback 0.1.0`, or `{"schema": 1, "version": "0.1.0"}`.
pub fn version(out: &mut dyn Write, format: OutputFormat) -> Result<()> {
    #[derive(Serialize)]
    struct Version {
        version: &'static str,
    }
    let version = env!("CARGO_PKG_VERSION");
    match format {
        OutputFormat::Text => emit(out, format!("barback {version}\n").as_bytes()),
        OutputFormat::Json => emit_json(out, &Version { version }),
    }
}

/// Writes all of `text`. A reader that has gone away (`barback list | head -1`) is no error.
///
/// Errors: `Local` when stdout cannot be written to, such as a full disk.
pub fn emit(out: &mut dyn Write, text: &[u8]) -> Result<()> {
    match out.write_all(text).and_then(|()| out.flush()) {
        Err(error) if error.kind() != IoErrorKind::BrokenPipe => {
            let message = format!("could not write to standard output: {error}");
            Err(Error::new(ErrorKind::Local, message).with_source(error))
        }
        _ => Ok(()),
    }
}

/// Names the links that were made, one a line.
pub fn links_installed(out: &mut dyn Write, links: &[PathBuf]) -> Result<()> {
    let lines: Vec<String> = links.iter().map(|link| link.display().to_string()).collect();
    emit(out, format!("{}\n", lines.join("\n")).as_bytes())
}

/// Writes `answer` as an indented document with the schema's number in front.
fn emit_json<T: Serialize>(out: &mut dyn Write, answer: &T) -> Result<()> {
    #[derive(Serialize)]
    struct Document<'a, T> {
        schema: u32,
        #[serde(flatten)]
        answer: &'a T,
    }
    let document = Document { schema: SCHEMA, answer };
    let mut text = serde_json::to_vec_pretty(&document)
        .map_err(|error| Error::new(ErrorKind::Bug, format!("could not write an answer as JSON: {error}")))?;
    text.push(b'\n');
    emit(out, &text)
}

/// Text from a bucket or a server without what could move a terminal's cursor.
fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Failing(IoErrorKind);

    impl Write for Failing {
        fn write(&mut self, _: &[u8]) -> std::io::Result<usize> {
            Err(self.0.into())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_reader_that_left_is_no_error_and_a_full_disk_is() {
        assert!(emit(&mut Failing(IoErrorKind::BrokenPipe), b"x").is_ok());
        let error = emit(&mut Failing(IoErrorKind::StorageFull), b"x").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Local);
    }

    #[test]
    fn the_version_is_printed_in_both_shapes() {
        let mut text = Vec::new();
        version(&mut text, OutputFormat::Text).unwrap();
        assert_eq!(text, format!("barback {}\n", env!("CARGO_PKG_VERSION")).as_bytes());
        let mut json = Vec::new();
        version(&mut json, OutputFormat::Json).unwrap();
        let document: serde_json::Value = serde_json::from_slice(&json).unwrap();
        assert_eq!(document["schema"], 1);
        assert!(json.starts_with(b"{\n  \"schema\": 1,"), "the schema comes first");
    }
}
