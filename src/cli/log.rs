//! Talk on stderr: one line an event, and the last word of a command that failed.

use std::fmt::{self, Write as _};
use std::io::{IsTerminal, Write};

use serde::Serialize;
use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::{FmtContext, FormatEvent, FormatFields};
use tracing_subscriber::registry::LookupSpan;

use super::invocation::{LogFormat, LogSettings};
use super::progress::Screen;
use super::zone::rfc3339;
use crate::error::Error;

/// What a long command says of its phases as it goes on: that is of interest wherever a log is kept.
const PHASES: &str = crate::commands::progress::PHASES;

/// Starts the log for this process. Warnings and worse, and the phases of a drill, by default, `-v` info, `-vv` debug, `-vvv` trace; `-q` errors, `-qq`
/// nothing; without flags `BARBACK_LOG` decides. The levels are barback's own: libraries stay at warnings unless
/// `BARBACK_LOG` names them.
///
/// Errors: `Usage` when `BARBACK_LOG` cannot be read. `Bug` when called twice.
pub fn init(settings: &LogSettings, screen: &Screen) -> crate::error::Result<()> {
    let builder = tracing_subscriber::fmt().with_env_filter(filter(settings)?).with_writer(screen.clone());
    let started = match settings.format {
        LogFormat::Json => builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init(),
        LogFormat::Text => {
            let colour = std::io::stderr().is_terminal();
            builder.with_ansi(colour).event_format(OneLine { times: settings.verbosity > 0 }).try_init()
        }
    };
    started.map_err(|error| Error::new(crate::error::ErrorKind::Bug, format!("could not start the log: {error}")))
}

fn filter(settings: &LogSettings) -> crate::error::Result<EnvFilter> {
    let directives = match (settings.verbosity, &settings.filter) {
        (0, Some(text)) if text.parse::<tracing::level_filters::LevelFilter>().is_ok() => {
            format!("warn,barback={text}")
        }
        (0, Some(text)) => text.clone(),
        (0, None) => format!("warn,{PHASES}=info"),
        (i8::MIN..=-2, _) => "off".to_owned(),
        (-1, _) => "error".to_owned(),
        (1, _) => "warn,barback=info".to_owned(),
        (2, _) => "warn,barback=debug".to_owned(),
        (3.., _) => "warn,barback=trace".to_owned(),
    };
    EnvFilter::builder().parse(&directives).map_err(|error| {
        Error::usage(format!("environment variable BARBACK_LOG: \"{}\": {error}", directives.escape_debug()))
            .with_hint("Give a level (error, warn, info, debug, trace) or directives such as barback=debug.")
    })
}

/// Prints why a command failed: `barback: could not …` and, when the reader can act, `HINT: …` on a line of its own.
///
/// As JSON it is one object with `timestamp`, `level`, `kind`, `message` and, if any, `hint`. A stderr that cannot be
/// written to is no reason to fail differently.
pub fn report(error: &Error, program: &str, format: LogFormat, out: &mut dyn Write) {
    let text = match format {
        LogFormat::Text => {
            let hint = error.hint().map_or(String::new(), |hint| format!("HINT: {}\n", one_line(hint)));
            format!("{program}: {}\n{hint}", one_line(&error.to_string()))
        }
        LogFormat::Json => {
            let line = ReportLine {
                timestamp: rfc3339(chrono::Utc::now()),
                level: "ERROR",
                kind: format!("{:?}", error.kind()),
                message: error.to_string(),
                hint: error.hint(),
            };
            serde_json::to_string(&line).map_or_else(|_| format!("{error}\n"), |json| json + "\n")
        }
    };
    drop(out.write_all(text.as_bytes()));
}

#[derive(Serialize)]
struct ReportLine<'a> {
    timestamp: String,
    level: &'static str,
    kind: String,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    hint: Option<&'a str>,
}

/// A server's answer may span lines; the PostgreSQL log wants one an event, and a terminal no control codes.
fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for word in text.split(char::is_control).map(str::trim).filter(|word| !word.is_empty()) {
        if !line.is_empty() {
            line.push(' ');
        }
        line += word;
    }
    line
}

/// `barback: warning: could not … (attempt=2)`; the time in front with `-v`.
struct OneLine {
    times: bool,
}

impl<S, N> FormatEvent<S, N> for OneLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, _: &FmtContext<'_, S, N>, mut out: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let mut line = Line::default();
        event.record(&mut line);
        if self.times {
            write!(out, "{} ", chrono::Utc::now().format("%Y-%m-%d %H:%M:%S%.3f UTC"))?;
        }
        let level = *event.metadata().level();
        let (word, colour) = match level {
            Level::ERROR => ("error", 31),
            Level::WARN => ("warning", 33),
            Level::INFO => ("info", 32),
            Level::DEBUG => ("debug", 34),
            Level::TRACE => ("trace", 35),
        };
        if out.has_ansi_escapes() {
            write!(out, "barback: \x1b[{colour}m{word}:\x1b[0m {}", one_line(&line.message))?;
        } else {
            write!(out, "barback: {word}: {}", one_line(&line.message))?;
        }
        if !line.fields.is_empty() {
            write!(out, " ({})", one_line(&line.fields))?;
        }
        writeln!(out)
    }
}

/// The parts of an event.
#[derive(Default)]
struct Line {
    message: String,
    fields: String,
}

impl Visit for Line {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.message = format!("{value:?}");
        } else {
            let comma = if self.fields.is_empty() { "" } else { ", " };
            // Writing to a String cannot fail.
            let _ = write!(self.fields, "{comma}{}={value:?}", field.name());
        }
    }
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::{Arc, Mutex};

    use super::*;
    use crate::error::ErrorKind;

    fn settings(verbosity: i8, filter: Option<&str>) -> LogSettings {
        LogSettings { verbosity, filter: filter.map(str::to_owned), format: LogFormat::Text }
    }

    #[test]
    fn flags_decide_before_the_environment() {
        for (verbosity, env, directives) in [
            (0, None, "barback::phase=info,warn"),
            (1, None, "barback=info,warn"),
            (2, Some("error"), "barback=debug,warn"),
            (-1, Some("debug"), "error"),
            (-3, None, "off"),
            (0, Some("debug"), "barback=debug,warn"),
            (0, Some("object_store=trace"), "object_store=trace"),
        ] {
            assert_eq!(filter(&settings(verbosity, env)).unwrap().to_string(), directives);
        }
        let error = filter(&settings(0, Some("barback=loud"))).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Usage);
    }

    /// What a log wrote.
    #[derive(Clone, Default)]
    pub(in crate::cli) struct Captured(Arc<Mutex<Vec<u8>>>);

    impl Captured {
        pub(in crate::cli) fn text(&self) -> String {
            String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
        }
    }

    impl Write for Captured {
        fn write(&mut self, text: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(text);
            Ok(text.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn logged(times: bool) -> String {
        let captured = Captured::default();
        let writer = captured.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .event_format(OneLine { times })
            .finish();
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(attempt = 2, key = "a/b", "could not reach the store:\nconnection refused");
        });
        captured.text()
    }

    #[test]
    fn an_event_is_one_line() {
        let line = "barback: warning: could not reach the store: connection refused (attempt=2, key=\"a/b\")\n";
        assert_eq!(logged(false), line);
        let timed = logged(true);
        assert!(timed.ends_with(line) && timed.contains(" UTC barback"), "{timed}");
    }

    #[test]
    fn a_failure_is_reported_with_its_hint() {
        let error = Error::new(ErrorKind::Denied, "could not archive segment \"X\": access\r\ndenied \x1b[2J")
            .with_hint("Look at the key.");
        let mut out = Vec::new();
        report(&error, "barback", LogFormat::Text, &mut out);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(text, "barback: could not archive segment \"X\": access denied [2J\nHINT: Look at the key.\n");

        let mut out = Vec::new();
        report(&error, "barback", LogFormat::Json, &mut out);
        let json: serde_json::Value = serde_json::from_slice(&out).unwrap();
        assert_eq!(json["level"], "ERROR");
        assert_eq!(json["kind"], "Denied");
        assert_eq!(json["hint"], "Look at the key.");
        assert_eq!(String::from_utf8(out).unwrap().lines().count(), 1);
    }
}
