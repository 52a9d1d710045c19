//! A missing server fails a test where servers are required and is said aloud, once per test binary, elsewhere.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::sync::Mutex;

static SAID: Mutex<BTreeSet<String>> = Mutex::new(BTreeSet::new());

/// True where a missing server must fail the test: in CI and where the developer asks for it.
pub fn servers_are_required() -> bool {
    std::env::var("BARBACK_REQUIRE_SERVERS").is_ok_and(|value| value == "1")
        || std::env::var("CI").is_ok_and(|value| value == "true")
}

/// Says that `what` is not tested because of `reason`; panics where servers are required.
///
/// Past the capture of the test runner, and into the file `BARBACK_SKIPPED_FILE` from which `make test` prints its summary.
pub fn skip(what: &str, reason: &str) {
    assert!(!servers_are_required(), "{what} cannot be tested: {reason}");
    pass_over(what, reason);
}

/// Says the same where no installation would help, such as a privilege that the machine does not give: never a failure.
pub fn pass_over(what: &str, reason: &str) {
    let line = format!("{what}: {reason}");
    if !SAID.lock().expect("no panic happens under this lock").insert(line.clone()) {
        return;
    }
    let _ = writeln!(std::io::stderr(), "SKIPPED: {line}");
    if let Some(path) = std::env::var_os("BARBACK_SKIPPED_FILE")
        && let Ok(mut file) = OpenOptions::new().append(true).create(true).open(path)
    {
        let _ = writeln!(file, "{line}");
    }
}
