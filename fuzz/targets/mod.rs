//! Every parser of bytes from outside as a function of bytes: cargo-fuzz feeds them (`make fuzz`), and so does `tests/fuzz.rs`
//! where there is no nightly compiler.
//!
//! A target panics where a parser does, and where what it read breaks a promise: what is written is read back, a name stays
//! below its directory, nothing is longer than was asked for.

mod archive;
mod bytes;
mod words;

/// A name, which is also that of its corpus below `fixtures/fuzz`, and what it does with bytes.
pub type Target = (&'static str, fn(&[u8]));

/// All of them. Each has a program of its name in `fuzz/bin`, too.
pub const TARGETS: [Target; 15] = [
    ("arguments", words::arguments),
    ("backup_info", archive::backup_info),
    ("catalogue", archive::catalogue),
    ("cluster_files", bytes::cluster_files),
    ("configuration", words::configuration),
    ("connection_settings", words::connection_settings),
    ("decoders", bytes::decoders),
    ("history", archive::history),
    ("local_notes", words::local_notes),
    ("manifest", archive::manifest),
    ("names", archive::names),
    ("records", archive::records),
    ("store_answers", words::store_answers),
    ("tar", bytes::tar),
    ("wal", bytes::wal),
];

/// Runs one target. Panics when there is none of that name.
pub fn run(name: &str, bytes: &[u8]) {
    let (_, target) = TARGETS.iter().find(|(known, _)| *known == name).expect("the target is listed");
    target(bytes);
}

/// Most parsers take text. What is no UTF-8 is refused before they see it; here it becomes text, so that no input is wasted.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// What comes before the first line feed, and what comes after it.
fn line_and_rest(text: &str) -> (&str, &str) {
    text.split_once('\n').unwrap_or((text, ""))
}
