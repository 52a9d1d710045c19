//! Talk on stderr as Barman's cloud commands talk: time, process, level, text.

use std::fmt;

use chrono::Local;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use crate::cli::progress::Screen;
use crate::error::{Error, ErrorKind, Result};

/// No line is longer: those who read them line by line give up at a megabyte.
const LINE_LIMIT_CHARS: usize = 16_000;

/// Starts the log. Warnings and worse by default; each `-v` more, each `-q` less, `-qq` nothing at all: the levels of
/// Barman 3.19.1. What libraries say stays at warnings.
///
/// Errors: `Bug` when called twice.
pub fn init(verbosity: i8, screen: &Screen) -> Result<()> {
    let started = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(directives(verbosity)))
        .with_writer(screen.clone())
        .with_ansi(false)
        .event_format(BarmanLine)
        .try_init();
    started.map_err(|error| Error::new(ErrorKind::Bug, format!("could not start the log: {error}")))
}

fn directives(verbosity: i8) -> &'static str {
    match verbosity {
        i8::MIN..=-2 => "off",
        -1 => "error",
        0 => "warn",
        1 => "warn,barback=info",
        2.. => "warn,barback=debug",
    }
}

/// `2026-11-23 08:40:54,488 [18767] ERROR: text`, the time by the local clock.
struct BarmanLine;

impl<S, N> FormatEvent<S, N> for BarmanLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut text = Text::default();
        event.record(&mut text);
        let level = match *event.metadata().level() {
            Level::ERROR => "ERROR",
            Level::WARN => "WARNING",
            Level::INFO => "INFO",
            Level::DEBUG | Level::TRACE => "DEBUG",
        };
        let time = Local::now().format("%Y-%m-%d %H:%M:%S,%3f");
        writeln!(out, "{time} [{}] {level}: {}", std::process::id(), printable(&text.whole()))
    }
}

/// Keeps line ends, which some of Barman's messages have, and no other control character.
fn printable(text: &str) -> String {
    let clean = |c: char| if c.is_control() && c != '\n' && c != '\t' { ' ' } else { c };
    text.trim_end().chars().take(LINE_LIMIT_CHARS).map(clean).collect()
}

/// An event's message, and its fields behind it.
#[derive(Default)]
struct Text {
    message: String,
    fields: Vec<String>,
}

impl Text {
    fn whole(&self) -> String {
        if self.fields.is_empty() {
            self.message.clone()
        } else {
            format!("{} ({})", self.message, self.fields.join(", "))
        }
    }
}

impl Visit for Text {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            self.fields.push(format!("{}={value:?}", field.name()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::log::tests::Captured;

    #[test]
    fn a_line_has_barman_s_form() {
        let captured = Captured::default();
        let writer = captured.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .event_format(BarmanLine)
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!("first\nHINT: second\r\x1b[2J");
            tracing::error!(attempt = 2, "third");
        });
        let text = captured.text();
        let lines: Vec<&str> = text.lines().collect();
        let (time, rest) = lines[0].split_at(23);
        assert!(chrono::NaiveDateTime::parse_from_str(time, "%Y-%m-%d %H:%M:%S,%3f").is_ok(), "{time}");
        assert_eq!(rest, format!(" [{}] WARNING: first", std::process::id()));
        assert_eq!(lines[1], "HINT: second  [2J");
        assert!(lines[2].ends_with("ERROR: third (attempt=2)"), "{}", lines[2]);
    }

    #[test]
    fn verbosity_moves_the_level_as_barman_s_does() {
        let levels = [-3, -2, -1, 0, 1, 2, 9].map(directives);
        assert_eq!(
            levels,
            ["off", "off", "error", "warn", "warn,barback=info", "warn,barback=debug", "warn,barback=debug"]
        );
    }
}
