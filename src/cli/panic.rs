//! What is said when barback itself is wrong: one line, with the place in the code, and how to say it to us.

use std::backtrace::{Backtrace, BacktraceStatus};
use std::io::{Write, stderr};
use std::panic::PanicHookInfo;

/// From now on a panic is told in barback's own words. `RUST_BACKTRACE=1` adds where it came from.
///
/// What PostgreSQL's log shows of a panic is then one line that says whose fault it is, and not a thread's name.
pub fn explain_panics() {
    std::panic::set_hook(Box::new(|info| {
        let backtrace = Backtrace::capture();
        let text = explained(&what(info), info.location().map(ToString::to_string).as_deref(), &backtrace);
        // There is nobody left to tell.
        drop(stderr().write_all(text.as_bytes()));
    }));
}

fn what(info: &PanicHookInfo<'_>) -> String {
    let payload = info.payload();
    let text = payload.downcast_ref::<&str>().map(|text| (*text).to_owned());
    text.or_else(|| payload.downcast_ref::<String>().cloned()).unwrap_or_else(|| "no reason was given".to_owned())
}

fn explained(what: &str, place: Option<&str>, backtrace: &Backtrace) -> String {
    let what = what.split_whitespace().collect::<Vec<_>>().join(" ");
    let place = place.unwrap_or("an unknown place");
    let version = env!("CARGO_PKG_VERSION");
    let first = format!("barback: this is a fault of barback {version}, at {place}: {what}\n");
    let second = if backtrace.status() == BacktraceStatus::Captured {
        format!("HINT: Please report it with these lines.\n{backtrace}\n")
    } else {
        "HINT: Please report it. With RUST_BACKTRACE=1 in the environment it says where it came from.\n".to_owned()
    };
    first + &second
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_is_a_line_that_says_whose_fault_it_is_and_a_hint() {
        let text = explained("index out\nof bounds", Some("src/wal/page.rs:7:3"), &Backtrace::disabled());
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(lines.len(), 2, "{text}");
        assert!(
            lines[0].starts_with("barback: this is a fault of barback ")
                && lines[0].ends_with("src/wal/page.rs:7:3: index out of bounds")
        );
        assert!(lines[1].contains("RUST_BACKTRACE=1"));
    }

    #[test]
    fn with_the_switch_a_panic_says_where_it_came_from() {
        let text = explained("why", None, &Backtrace::force_capture());
        assert!(text.contains("panic::tests::with_the_switch"), "{text}");
    }
}
