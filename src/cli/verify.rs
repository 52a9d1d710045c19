//! `barback verify`: its words, what they ask for, and what its answer means for the exit code.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::Args;

use super::invocation::Settings;
use super::quantity::{parse_duration, parse_size};
use super::run::Surroundings;
use super::store::{Traffic, open};
use super::{config, exit_code, output};
use crate::commands::memory;
use crate::commands::progress::Progress;
use crate::commands::verify::{VerifyRequest, Which, verify};
use crate::domain::segment::SegmentSize;
use crate::domain::verification::{Depth, Verdict};
use crate::domain::verify_choice::Sample;
use crate::error::{Error, ErrorKind, Result};

/// More objects read at once gain nothing on one host.
const MAX_DEFAULT_JOBS: usize = 8;

/// The words of `verify`.
#[derive(Debug, Clone, PartialEq, Eq, Args)]
pub struct VerifyArgs {
    /// An id, a name, latest or oldest [default: latest]
    #[arg(value_name = "ID", conflicts_with = "all")]
    id: Option<String>,
    /// Every complete backup, and all WAL since the oldest
    #[arg(long)]
    all: bool,
    /// Read every byte, not only names and sizes
    #[arg(long)]
    deep: bool,
    /// Leave out what passed less than this ago, as 30d
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    max_age: Option<Duration>,
    /// Read this much only, as 5% or 10GiB: what was read longest ago
    #[arg(long, value_name = "SHARE", value_parser = sample, requires = "deep")]
    sample: Option<Sample>,
    /// Stop after this long, as 2h
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    max_duration: Option<Duration>,
    /// Objects to read at once [default: twice the cores, 8 at most]
    #[arg(long, value_name = "N", value_parser = config::jobs)]
    jobs: Option<usize>,
    /// Download at most this much a second, as 50MiB
    #[arg(long, value_name = "SIZE", value_parser = config::max_rate)]
    max_rate: Option<u64>,
    /// Hold at most this much in memory, whatever the jobs [default: 256MiB]
    #[arg(long, value_name = "SIZE", value_parser = config::max_memory)]
    pub(super) max_memory: Option<usize>,
    /// Record nothing in the store, for credentials that may only read
    #[arg(long)]
    no_record: bool,
}

impl VerifyArgs {
    /// With what all settings together allow in memory.
    pub(super) fn within(self, max_memory: Option<usize>) -> Self {
        Self { max_memory, ..self }
    }

    fn request(self, now: DateTime<Utc>) -> VerifyRequest {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        VerifyRequest {
            which: match self.id {
                _ if self.all => Which::All,
                Some(id) => Which::One(id),
                None => Which::One("latest".to_owned()),
            },
            depth: if self.deep { Depth::Deep } else { Depth::Quick },
            max_age: self.max_age,
            sample: self.sample,
            max_duration: self.max_duration,
            jobs: self.jobs.unwrap_or((2 * cores).min(MAX_DEFAULT_JOBS)),
            max_memory_bytes: self.max_memory.unwrap_or(memory::DEFAULT_BYTES),
            max_rate_bytes_per_s: self.max_rate,
            record: !self.no_record,
            now,
        }
    }
}

/// Verifies, prints what was found, and gives the exit code: 0 passed, 1 damage, 5 not everything could be looked at.
///
/// Errors: when nothing could be looked at at all, or all passed and that could not be recorded though it might have been.
pub(super) async fn run(
    args: VerifyArgs,
    settings: &Settings,
    around: &Surroundings<'_>,
    out: &mut dyn Write,
) -> Result<u8> {
    // The store must be there: a directory is not made for what it should hold.
    let traffic = Traffic { upload: 0, download: SegmentSize::MAX.bytes(), writes: false };
    let archive = open(&settings.store, around.environment, traffic).await?;
    let progress = Arc::new(Progress::default());
    let drawing = around.screen.draw(Arc::clone(&progress));
    let outcome = verify(&archive, &args.request(around.now), progress).await;
    drop(drawing);
    let answer = match outcome {
        Err(error) if error.kind() == ErrorKind::Interrupted => {
            tracing::error!("{error}; nothing was verified");
            return Ok(exit_code::INCONCLUSIVE);
        }
        outcome => outcome?,
    };
    output::verified(out, around.stdout(settings), &settings.store.server, &answer)?;
    let verdict = answer.verdict();
    match answer.unrecorded {
        Some(error) if verdict == Verdict::Pass && error.kind() != ErrorKind::Denied => return Err(error),
        Some(error) => tracing::warn!("{error}; with --no-record nothing is recorded on purpose"),
        None => {}
    }
    Ok(match verdict {
        Verdict::Pass => exit_code::DONE,
        Verdict::Fail => exit_code::ABSENT,
        Verdict::Inconclusive => exit_code::INCONCLUSIVE,
    })
}

fn duration(text: &str) -> Result<Duration> {
    parse_duration(text)
}

/// Reads `5%`, `0.5%` or a size.
fn sample(text: &str) -> Result<Sample> {
    let refuse = || Error::usage(format!("\"{text}\" is not a share such as 5% or 10GiB"));
    let Some(percent) = text.trim().strip_suffix('%') else {
        return parse_size(text).map(Sample::Bytes).map_err(|_| refuse());
    };
    let (whole, decimals) = percent.split_once('.').unwrap_or((percent, "0"));
    let is_plain = |digits: &str| !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit());
    if !is_plain(whole) || !is_plain(decimals) || decimals.len() > 4 {
        return Err(refuse());
    }
    let millionths = format!("{whole}{decimals:0<4}").parse().ok().filter(|share| (1..=1_000_000).contains(share));
    millionths.map(Sample::Millionths).ok_or_else(refuse)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_are_read_as_percents_and_sizes() {
        assert_eq!(sample("5%").unwrap(), Sample::Millionths(50_000));
        assert_eq!(sample("0.25%").unwrap(), Sample::Millionths(2_500));
        assert_eq!(sample("100%").unwrap(), Sample::Millionths(1_000_000));
        assert_eq!(sample("10GiB").unwrap(), Sample::Bytes(10 << 30));
        for text in ["", "%", "0%", "101%", "-5%", "5.%", "1.23456%", "five%", "5 percent"] {
            assert_eq!(sample(text).unwrap_err().kind(), ErrorKind::Usage, "{text}");
        }
    }
}
