//! What one setting may be, wherever it was said: from its text to a value, or an error that names both.

use std::path::PathBuf;
use std::time::Duration;

use clap::ValueEnum;

use super::quantity::{human_size, parse_duration, parse_size};
use crate::commands::memory;
use crate::error::{Error, Result};
use crate::layout::keys::ServerPrefix;

/// Workers at most: each holds buffers, and a store gains nothing from more.
const MAX_JOBS: usize = 64;

/// S3 refuses smaller parts except the last.
const MIN_PART_SIZE_BYTES: u64 = 5 << 20;

/// A part is held in memory until the store has confirmed it.
const MAX_PART_SIZE_BYTES: u64 = 512 << 20;

/// Below this a backup would never end; the lower limit of `pg_basebackup --max-rate`.
const MIN_RATE_BYTES: u64 = 32 << 10;

/// A week: longer is a mistake in the unit.
const MAX_WAIT: Duration = Duration::from_hours(7 * 24);

/// A store's URL. Never repeats the text in an error: it may hold a password.
pub(super) fn store_url(text: &str) -> Result<String> {
    let Some((scheme, rest)) = text.split_once("://") else {
        return Err(Error::usage("the store is not a URL").with_hint(STORE_EXAMPLES));
    };
    if scheme.is_empty() || rest.is_empty() || text.chars().any(char::is_control) {
        return Err(Error::usage("the store's URL is not complete").with_hint(STORE_EXAMPLES));
    }
    refuse_user_info(text, "the store's URL")?;
    Ok(text.to_owned())
}

const STORE_EXAMPLES: &str = "Write s3://bucket/prefix, https://account.blob.core.windows.net/container/prefix, \
                              gs://bucket/prefix or file:///dir.";

/// An endpoint: `http://` or `https://`, without credentials.
pub(super) fn endpoint_url(text: &str) -> Result<String> {
    refuse_user_info(text, "the endpoint's URL")?;
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    if host.is_none_or(str::is_empty) || text.chars().any(|c| c.is_control() || c == ' ') {
        return Err(Error::usage(format!("\"{}\" is not a URL such as https://minio:9000", text.escape_debug())));
    }
    Ok(text.to_owned())
}

fn refuse_user_info(url: &str, what: &str) -> Result<()> {
    let authority = url.split_once("://").map_or("", |(_, rest)| rest.split('/').next().unwrap_or(""));
    if authority.contains('@') {
        return Err(Error::usage(format!("{what} must not hold a user name or password"))
            .with_hint("Give credentials through the AWS_* environment variables, ~/.aws or an instance role."));
    }
    Ok(())
}

/// A cluster's name inside the store: one path component.
pub(super) fn server_name(text: &str) -> Result<String> {
    ServerPrefix::new("", text)?;
    Ok(text.to_owned())
}

/// A connection string without a password. Never repeats the text in an error.
pub(super) fn conninfo(text: &str) -> Result<String> {
    let uri = text.strip_prefix("postgresql://").or_else(|| text.strip_prefix("postgres://"));
    let has_password = match uri {
        Some(rest) => {
            let authority = rest.split(['/', '?']).next().unwrap_or("");
            let in_authority = authority.rsplit_once('@').is_some_and(|(user, _)| user.contains(':'));
            let query = rest.split_once('?').map_or("", |(_, query)| query);
            in_authority || query.split('&').any(|pair| is_password(pair.split('=').next().unwrap_or("")))
        }
        None => text
            .match_indices('=')
            .any(|(at, _)| is_password(text[..at].trim_end().rsplit(char::is_whitespace).next().unwrap_or(""))),
    };
    if has_password {
        return Err(Error::usage("the connection string must not hold a password")
            .with_hint("Put the password in ~/.pgpass, or give it through PGPASSFILE or PGPASSWORD."));
    }
    Ok(text.to_owned())
}

fn is_password(keyword: &str) -> bool {
    keyword == "password" || keyword == "sslpassword"
}

/// Workers.
pub(super) fn jobs(text: &str) -> Result<usize> {
    text.parse().ok().filter(|jobs| (1..=MAX_JOBS).contains(jobs)).ok_or_else(|| {
        Error::usage(format!("\"{}\" is not a number of jobs from 1 to {MAX_JOBS}", text.escape_debug()))
    })
}

/// A compression level; whether the codec knows it, the codec says.
pub(super) fn level(text: &str) -> Result<i32> {
    text.parse().map_err(|_| {
        Error::usage(format!("\"{}\" is not a compression level: it must be a number", text.escape_debug()))
    })
}

/// The size of one upload request.
pub(super) fn part_size(text: &str) -> Result<u64> {
    let bytes = parse_size(text)?;
    if (MIN_PART_SIZE_BYTES..=MAX_PART_SIZE_BYTES).contains(&bytes) {
        return Ok(bytes);
    }
    let (least, most) = (human_size(MIN_PART_SIZE_BYTES), human_size(MAX_PART_SIZE_BYTES));
    Err(Error::usage(format!("\"{text}\" cannot be a part's size: it must be from {least} to {most}")))
}

/// Bytes per second.
pub(super) fn max_rate(text: &str) -> Result<u64> {
    let bytes = parse_size(text)?;
    if bytes < MIN_RATE_BYTES {
        let least = human_size(MIN_RATE_BYTES);
        return Err(Error::usage(format!("\"{text}\" per second is too slow: the least is {least}")));
    }
    Ok(bytes)
}

/// All that a command may hold.
pub(super) fn max_memory(text: &str) -> Result<usize> {
    let bytes = usize::try_from(parse_size(text)?).unwrap_or(usize::MAX);
    if bytes < memory::LEAST_BYTES {
        let least = human_size(memory::LEAST_BYTES as u64);
        return Err(Error::usage(format!("\"{text}\" of memory is too little: the least is {least}")));
    }
    Ok(bytes)
}

/// How long to wait for something.
pub(super) fn wait(text: &str) -> Result<Duration> {
    let duration = parse_duration(text)?;
    if duration > MAX_WAIT {
        return Err(Error::usage(format!("\"{text}\" is too long to wait: the most is a week")));
    }
    Ok(duration)
}

/// The retry budget in whole seconds; 0 for none.
pub(super) fn retry_timeout_s(text: &str) -> Result<u64> {
    wait(text).map(|duration| duration.as_secs())
}

pub(super) fn boolean(text: &str) -> Result<bool> {
    match text.to_ascii_lowercase().as_str() {
        "true" | "on" | "yes" | "1" => Ok(true),
        "false" | "off" | "no" | "0" => Ok(false),
        _ => Err(Error::usage(format!("\"{}\" is neither true nor false", text.escape_debug()))),
    }
}

pub(super) fn word<T: ValueEnum>(text: &str) -> Result<T> {
    T::from_str(text, false).map_err(|_| {
        let words: Vec<String> = T::value_variants()
            .iter()
            .filter_map(ValueEnum::to_possible_value)
            .map(|v| v.get_name().to_owned())
            .collect();
        Error::usage(format!("\"{}\" is not one of {}", text.escape_debug(), words.join(", ")))
    })
}

pub(super) fn one_word(text: &str) -> Result<String> {
    if text.is_empty() || text.chars().any(|c| c.is_control() || c.is_whitespace()) {
        return Err(Error::usage(format!("\"{}\" is empty or has white space in it", text.escape_debug())));
    }
    Ok(text.to_owned())
}

/// A path that means the same from every directory: cron, the archiver and a shell stand in different ones.
pub(super) fn absolute_path(text: &str) -> Result<PathBuf> {
    let path = PathBuf::from(text);
    if path.is_absolute() {
        return Ok(path);
    }
    Err(Error::usage(format!("\"{}\" is not an absolute path", text.escape_debug())))
}
