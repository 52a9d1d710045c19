//! Settings in layers: flag, then environment, then file, then default.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::de::{DeTable, DeValue};

use super::expire::{self, ExpireLayer};
use super::invocation::{AddressingStyle, CompressionChoice, LogFormat, OutputFormat};
use super::quantity::human_size;
pub(super) use super::values::{
    absolute_path, boolean, conninfo, endpoint_url, jobs, level, max_memory, max_rate, one_word, part_size,
    retry_timeout_s, server_name, store_url, wait, word,
};
use super::wal_restore::{self, WalRestoreLayer};
use crate::domain::compression::Compression;
use crate::error::{Error, Result};

/// Read when no other file is named and it exists.
pub const DEFAULT_PATH: &str = "/etc/barback.toml";

/// More than any configuration needs; a wrong path must not read a database into memory.
const FILE_LIMIT_BYTES: u64 = 1 << 20;

/// Every key, as written in the file; the environment's name for it is `BARBACK_` and the key in capitals, with `_` for
/// the dot: `backup.jobs` is `BARBACK_BACKUP_JOBS`.
pub const KEYS: [&str; 30] = [
    "store",
    "server",
    "output",
    "endpoint_url",
    "s3_addressing_style",
    "aws_profile",
    "region",
    "ca_bundle",
    "retry_timeout_s",
    "log_format",
    "cache_dir",
    "max_memory",
    "wal.compression",
    "wal.compression_level",
    "wal_archive.jobs",
    "backup.jobs",
    "backup.compression",
    "backup.compression_level",
    "backup.part_size",
    "backup.max_rate",
    "backup.dbname",
    "backup.pgdata",
    "backup.fast",
    "backup.wal_timeout",
    "restore.jobs",
    "restore.max_rate",
    "wal_restore.jobs",
    "wal_restore.idle",
    "expire.policy",
    "expire.minimum_redundancy",
];

/// Words in an unknown key that say its value is meant to be secret.
const SECRET_WORDS: [&str; 7] = ["password", "passwd", "passphrase", "secret", "token", "credential", "key"];

/// Whether `text`, found at `path`, can be used as a configuration file. Errors: `Usage`, with file, line and key.
pub fn check(text: &str, path: &Path) -> Result<()> {
    Layer::from_toml(text, path).map(drop)
}

/// What one source of settings says; `None` where it says nothing.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Layer {
    pub store: Option<String>,
    pub server: Option<String>,
    pub output: Option<OutputFormat>,
    pub endpoint_url: Option<String>,
    pub addressing_style: Option<AddressingStyle>,
    pub aws_profile: Option<String>,
    pub region: Option<String>,
    pub ca_bundle: Option<PathBuf>,
    pub retry_timeout_s: Option<u64>,
    pub log_format: Option<LogFormat>,
    pub cache_dir: Option<PathBuf>,
    pub max_memory_bytes: Option<usize>,
    pub wal: CompressionLayer,
    pub wal_archive_jobs: Option<usize>,
    pub wal_restore: WalRestoreLayer,
    pub backup: BackupLayer,
    pub restore_jobs: Option<usize>,
    pub restore_max_rate_bytes: Option<u64>,
    pub expire: ExpireLayer,
}

/// `[backup]`.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct BackupLayer {
    pub jobs: Option<usize>,
    pub compression: CompressionLayer,
    pub part_size_bytes: Option<u64>,
    pub max_rate_bytes: Option<u64>,
    pub dbname: Option<String>,
    pub pgdata: Option<PathBuf>,
    pub fast: Option<bool>,
    pub wal_timeout: Option<Duration>,
}

/// A compression and a level, either of which may be left to a lower layer.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct CompressionLayer {
    pub codec: Option<Compression>,
    pub level: Option<i32>,
}

impl Layer {
    /// What the environment says. An empty variable says nothing; variables that are no setting are left alone (a
    /// Kubernetes service called `barback` brings its own).
    pub fn from_env(env: &BTreeMap<String, String>) -> Result<Self> {
        let mut layer = Self::default();
        for key in KEYS {
            let name = env_name(key);
            if let Some(value) = env.get(&name).filter(|value| !value.is_empty()) {
                layer.set(key, value).map_err(|error| error.context(format!("environment variable {name}")))?;
            }
        }
        Ok(layer)
    }

    /// What the AWS tools' own variables say; the lowest layer, so that a host's file wins over a login shell's profile.
    ///
    /// Beside keys `AWS_PROFILE` is not a profile that was asked for: the AWS tools take the keys.
    pub fn from_aws_env(env: &BTreeMap<String, String>) -> Self {
        let first =
            |names: &[&str]| names.iter().find_map(|name| env.get(*name).filter(|value| !value.is_empty()).cloned());
        Self {
            endpoint_url: first(&["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"]),
            region: first(&["AWS_REGION", "AWS_DEFAULT_REGION"]),
            aws_profile: first(&["AWS_PROFILE"]).filter(|_| first(&["AWS_ACCESS_KEY_ID"]).is_none()),
            ca_bundle: first(&["AWS_CA_BUNDLE"]).map(PathBuf::from),
            ..Self::default()
        }
    }

    /// What the file at `path` says. `Usage` for anything it should not say, with file, line and key.
    pub fn from_file(path: &Path) -> Result<Self> {
        Self::from_toml(&read(path)?, path)
    }

    fn from_toml(text: &str, path: &Path) -> Result<Self> {
        let place = |offset: usize| {
            let line = text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1;
            format!("\"{}\" line {line}", path.display())
        };
        let document = DeTable::parse(text).map_err(|error| {
            let offset = error.span().map_or(0, |span| span.start);
            Error::usage(format!("could not read configuration file {}: {}", place(offset), error.message()))
        })?;
        let mut entries = Vec::new();
        flatten(document.get_ref(), "", &mut entries);
        entries.sort_by_key(|entry| entry.offset);
        let mut layer = Self::default();
        for entry in entries {
            layer.set_from_file(&entry).map_err(|error| error.context(place(entry.offset)))?;
        }
        Ok(layer)
    }

    fn set_from_file(&mut self, entry: &Entry) -> Result<()> {
        let Entry { key, value, .. } = entry;
        if !KEYS.contains(&key.as_str()) {
            return Err(refuse_unknown(key));
        }
        let FileValue::Text(text) = value else {
            return Err(Error::usage(format!("\"{key}\" must be a string, a number, true or false")));
        };
        self.set(key, text).map_err(|error| error.context(format!("\"{key}\"")))
    }

    /// Sets `key` (one of [`KEYS`]) from its text.
    fn set(&mut self, key: &str, text: &str) -> Result<()> {
        match key {
            "store" => self.store = Some(store_url(text)?),
            "server" => self.server = Some(server_name(text)?),
            "output" => self.output = Some(word(text)?),
            "endpoint_url" => self.endpoint_url = Some(endpoint_url(text)?),
            "s3_addressing_style" => self.addressing_style = Some(word(text)?),
            "aws_profile" => self.aws_profile = Some(one_word(text)?),
            "region" => self.region = Some(one_word(text)?),
            "ca_bundle" => self.ca_bundle = Some(absolute_path(text)?),
            "retry_timeout_s" => self.retry_timeout_s = Some(retry_timeout_s(text)?),
            "log_format" => self.log_format = Some(word(text)?),
            "cache_dir" => self.cache_dir = Some(absolute_path(text)?),
            "max_memory" => self.max_memory_bytes = Some(max_memory(text)?),
            "wal.compression" => self.wal.codec = Some(text.parse()?),
            "wal.compression_level" => self.wal.level = Some(level(text)?),
            "wal_archive.jobs" => self.wal_archive_jobs = Some(jobs(text)?),
            "wal_restore.jobs" => self.wal_restore.jobs = Some(jobs(text)?),
            "wal_restore.idle" => self.wal_restore.idle = Some(wal_restore::idle(text)?),
            "backup.jobs" => self.backup.jobs = Some(jobs(text)?),
            "backup.compression" => self.backup.compression.codec = Some(text.parse()?),
            "backup.compression_level" => self.backup.compression.level = Some(level(text)?),
            "backup.part_size" => self.backup.part_size_bytes = Some(part_size(text)?),
            "backup.max_rate" => self.backup.max_rate_bytes = Some(max_rate(text)?),
            "backup.dbname" => self.backup.dbname = Some(conninfo(text)?),
            "backup.pgdata" => self.backup.pgdata = Some(absolute_path(text)?),
            "backup.fast" => self.backup.fast = Some(boolean(text)?),
            "backup.wal_timeout" => self.backup.wal_timeout = Some(wait(text)?),
            "restore.jobs" => self.restore_jobs = Some(jobs(text)?),
            "restore.max_rate" => self.restore_max_rate_bytes = Some(max_rate(text)?),
            "expire.policy" => self.expire.policy = Some(text.parse()?),
            "expire.minimum_redundancy" => self.expire.minimum_redundancy = Some(expire::minimum_redundancy(text)?),
            _ => return Err(refuse_unknown(key)),
        }
        Ok(())
    }

    /// This layer, and `lower` wherever it says nothing.
    pub fn or(self, lower: Self) -> Self {
        Self {
            store: self.store.or(lower.store),
            server: self.server.or(lower.server),
            output: self.output.or(lower.output),
            endpoint_url: self.endpoint_url.or(lower.endpoint_url),
            addressing_style: self.addressing_style.or(lower.addressing_style),
            aws_profile: self.aws_profile.or(lower.aws_profile),
            region: self.region.or(lower.region),
            ca_bundle: self.ca_bundle.or(lower.ca_bundle),
            retry_timeout_s: self.retry_timeout_s.or(lower.retry_timeout_s),
            log_format: self.log_format.or(lower.log_format),
            cache_dir: self.cache_dir.or(lower.cache_dir),
            max_memory_bytes: self.max_memory_bytes.or(lower.max_memory_bytes),
            wal: self.wal.or(lower.wal),
            wal_archive_jobs: self.wal_archive_jobs.or(lower.wal_archive_jobs),
            wal_restore: self.wal_restore.or(lower.wal_restore),
            backup: BackupLayer {
                jobs: self.backup.jobs.or(lower.backup.jobs),
                compression: self.backup.compression.or(lower.backup.compression),
                part_size_bytes: self.backup.part_size_bytes.or(lower.backup.part_size_bytes),
                max_rate_bytes: self.backup.max_rate_bytes.or(lower.backup.max_rate_bytes),
                dbname: self.backup.dbname.or(lower.backup.dbname),
                pgdata: self.backup.pgdata.or(lower.backup.pgdata),
                fast: self.backup.fast.or(lower.backup.fast),
                wal_timeout: self.backup.wal_timeout.or(lower.backup.wal_timeout),
            },
            restore_jobs: self.restore_jobs.or(lower.restore_jobs),
            restore_max_rate_bytes: self.restore_max_rate_bytes.or(lower.restore_max_rate_bytes),
            expire: self.expire.or(lower.expire),
        }
    }
}

impl CompressionLayer {
    /// A level belongs to a codec: a layer that names another codec does not take over the lower layer's level.
    fn or(self, lower: Self) -> Self {
        let same_codec = self.codec.is_none_or(|codec| codec == lower.codec.unwrap_or(Compression::Zstd));
        Self { codec: self.codec.or(lower.codec), level: self.level.or(if same_codec { lower.level } else { None }) }
    }

    /// The choice: zstd at level 1 unless something else was said.
    pub fn choice(self) -> CompressionChoice {
        let codec = self.codec.unwrap_or(Compression::Zstd);
        CompressionChoice { codec, level: self.level.or((codec == Compression::Zstd).then_some(1)) }
    }
}

/// The environment's name for `key`.
pub(super) fn env_name(key: &str) -> String {
    format!("BARBACK_{}", key.replace('.', "_").to_ascii_uppercase())
}

struct Entry {
    key: String,
    offset: usize,
    value: FileValue,
}

enum FileValue {
    Text(String),
    Other,
}

/// Lists a table's leaves by dotted key. Also an empty table, so that a misspelt section is noticed without a key in it.
fn flatten(table: &DeTable<'_>, section: &str, entries: &mut Vec<Entry>) {
    for (name, value) in table {
        let key = if section.is_empty() { name.get_ref().to_string() } else { format!("{section}.{}", name.get_ref()) };
        let value = match value.get_ref() {
            DeValue::Table(inner) if !inner.is_empty() || is_section(&key) => {
                flatten(inner, &key, entries);
                continue;
            }
            DeValue::String(text) => FileValue::Text(text.to_string()),
            DeValue::Integer(number) => FileValue::Text(number.to_string()),
            DeValue::Float(number) => FileValue::Text(number.to_string()),
            DeValue::Boolean(flag) => FileValue::Text(flag.to_string()),
            DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => FileValue::Other,
        };
        entries.push(Entry { key, offset: name.span().start, value });
    }
}

fn is_section(key: &str) -> bool {
    KEYS.iter().any(|known| known.strip_prefix(key).is_some_and(|rest| rest.starts_with('.')))
}

fn refuse_unknown(key: &str) -> Error {
    let shown = key.escape_debug();
    let leaf = last_part(key).to_ascii_lowercase();
    if SECRET_WORDS.iter().any(|word| leaf.contains(word)) {
        return Error::usage(format!("\"{shown}\" looks like a secret, and secrets do not belong in this file")).with_hint(
            "Give store credentials through the AWS_* environment variables, ~/.aws or an instance role, and database \
             passwords through PGPASSFILE or ~/.pgpass.",
        );
    }
    let nearest = KEYS
        .iter()
        .min_by_key(|known| {
            let by_name = strsim::damerau_levenshtein(last_part(key), last_part(known)) + 1;
            let whole = strsim::damerau_levenshtein(key, known);
            (whole.min(by_name), whole)
        })
        .expect("there are keys");
    let hint = match nearest.split_once('.') {
        Some((section, name)) => format!("The nearest known key is \"{name}\" in section [{section}]."),
        None => format!("The nearest known key is \"{nearest}\", before any section."),
    };
    Error::usage(format!("unknown key \"{shown}\"")).with_hint(hint)
}

fn last_part(key: &str) -> &str {
    key.rsplit('.').next().unwrap_or(key)
}

fn read(path: &Path) -> Result<String> {
    use std::io::Read;

    // Not `Local`: which file to read is part of how barback was called.
    let refuse =
        |cause: &str| Error::usage(format!("could not read configuration file \"{}\": {cause}", path.display()));
    let mut text = String::new();
    let file = std::fs::File::open(path).map_err(|error| refuse(&error.to_string()))?;
    file.take(FILE_LIMIT_BYTES + 1).read_to_string(&mut text).map_err(|error| refuse(&error.to_string()))?;
    if text.len() as u64 > FILE_LIMIT_BYTES {
        return Err(refuse(&format!("it is larger than {}", human_size(FILE_LIMIT_BYTES))));
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Layer> {
        Layer::from_toml(text, Path::new("/etc/barback.toml"))
    }

    fn refusal(text: &str) -> (String, String) {
        let error = parse(text).unwrap_err();
        assert_eq!(error.kind(), crate::error::ErrorKind::Usage);
        (error.to_string(), error.hint().unwrap_or("").to_owned())
    }

    /// A value each key takes.
    fn sample(key: &str) -> &'static str {
        match last_part(key) {
            "store" => "s3://bucket/prefix",
            "endpoint_url" => "https://minio:9000",
            "s3_addressing_style" => "path",
            "output" | "log_format" => "json",
            "ca_bundle" | "cache_dir" | "pgdata" => "/some/where",
            "retry_timeout_s" | "jobs" | "compression_level" => "3",
            "compression" => "gzip",
            "max_memory" => "128MiB",
            "part_size" | "max_rate" => "16MiB",
            "fast" => "true",
            "wal_timeout" | "idle" => "5m",
            "policy" => "30d",
            "minimum_redundancy" => "2",
            _ => "word",
        }
    }

    #[test]
    fn every_key_is_taken_from_file_and_environment_alike() {
        let mut file = String::new();
        let mut env = BTreeMap::new();
        for key in KEYS.into_iter().filter(|key| !key.contains('.')) {
            file.extend([
                key,
                " = \"",
                sample(key),
                "\"
",
            ]);
        }
        for key in KEYS.into_iter().filter(|key| key.contains('.')) {
            file.extend([
                key,
                " = \"",
                sample(key),
                "\"
",
            ]);
        }
        for key in KEYS {
            env.insert(env_name(key), sample(key).to_owned());
        }
        let layer = parse(&file).unwrap();
        assert_eq!(layer, Layer::from_env(&env).unwrap());
        assert_eq!(layer.clone().or(Layer::default()), layer);
        assert_eq!(Layer::default().or(layer.clone()), layer, "no key is lost in merging");
        for key in KEYS {
            let mut one = Layer::default();
            one.set(key, sample(key)).unwrap();
            assert_ne!(one, Layer::default(), "{key}");
        }
    }

    #[test]
    fn sections_numbers_and_booleans_are_read() {
        let layer =
            parse("retry_timeout_s = 5\n[backup]\njobs = 4\nfast = true\npart_size = 8388608\n[wal]\n").unwrap();
        assert_eq!(layer.retry_timeout_s, Some(5));
        assert_eq!(layer.backup.jobs, Some(4));
        assert_eq!(layer.backup.fast, Some(true));
        assert_eq!(layer.backup.part_size_bytes, Some(8 << 20));
    }

    #[test]
    fn an_unknown_key_is_named_with_its_line_and_the_nearest_known_one() {
        for (text, line, key, nearest) in [
            ("server = \"a\"\nstroe = \"s3://b\"\n", 2, "stroe", "\"store\", before any section"),
            ("[backup]\njob = 4\n", 2, "backup.job", "\"jobs\" in section [backup]"),
            ("\n\n[backups]\njobs = 4\n", 4, "backups.jobs", "\"jobs\" in section [backup]"),
            ("[wall]\n", 1, "wall", "\"store\""),
            ("part_size = 1\n", 1, "part_size", "\"part_size\" in section [backup]"),
            ("[store]\nurl = \"x\"\n", 2, "store.url", "\"store\", before any section"),
        ] {
            let (message, hint) = refusal(text);
            assert_eq!(message, format!("\"/etc/barback.toml\" line {line}: unknown key \"{key}\""));
            if key != "wall" {
                assert!(hint.contains(nearest), "{key}: {hint}");
            }
        }
    }

    #[test]
    fn secrets_in_the_file_are_refused_and_not_repeated() {
        for text in [
            "password = \"hunter2\"",
            "aws_secret_access_key = \"hunter2\"",
            "[aws]\naccess_key = \"hunter2\"",
            "[backup]\nPGPASSWORD = \"hunter2\"",
            "session_token = \"hunter2\"",
        ] {
            let (message, hint) = refusal(text);
            assert!(message.contains("looks like a secret"), "{message}");
            assert!(!message.contains("hunter2"));
            assert!(hint.contains("environment") && hint.contains(".aws") && hint.contains(".pgpass"), "{hint}");
        }
        for text in [
            "store = \"s3://id:hunter2@bucket\"",
            "endpoint_url = \"https://id:hunter2@minio\"",
            "[backup]\ndbname = \"host=a password=hunter2\"",
            "[backup]\ndbname = \"password = hunter2\"",
            "[backup]\ndbname = \"postgresql://me:hunter2@host/db\"",
            "[backup]\ndbname = \"postgresql://host/db?sslmode=require&password=hunter2\"",
        ] {
            let (message, _) = refusal(text);
            assert!(message.contains("password") && !message.contains("hunter2"), "{message}");
        }
        for fine in ["host=a user=b passfile=/x", "postgresql://me@host:5432/db?sslmode=require", "db"] {
            assert!(conninfo(fine).is_ok(), "{fine}");
        }
    }

    #[test]
    fn values_are_checked_when_the_file_is_read() {
        for (text, cause) in [
            ("store = \"bucket\"", "not a URL"),
            ("store = [\"s3://a\"]", "must be a string"),
            ("server = \"a/b\"", "could not use server name"),
            ("output = \"yaml\"", "is not one of text, json"),
            ("endpoint_url = \"minio:9000\"", "is not a URL"),
            ("ca_bundle = \"ca.pem\"", "is not an absolute path"),
            ("retry_timeout_s = \"soon\"", "is not a duration"),
            ("[backup]\njobs = 0", "from 1 to 64"),
            ("[backup]\npart_size = \"1MiB\"", "from 5 MiB to 512 MiB"),
            ("[backup]\nmax_rate = \"1kB\"", "too slow"),
            ("[backup]\nfast = \"maybe\"", "neither true nor false"),
            ("[wal]\ncompression = \"rar\"", "choose from none, gzip"),
            ("[wal]\ncompression_level = 1.5", "compression level"),
            ("store = ", "could not read configuration file"),
            ("[wal]\n[wal]\n", "could not read configuration file"),
        ] {
            let (message, _) = refusal(text);
            assert!(message.contains(cause) && message.contains("\"/etc/barback.toml\" line "), "{message}");
        }
    }

    #[test]
    fn a_level_stays_with_its_codec() {
        let named = |codec, level| CompressionLayer { codec, level };
        let (gzip, zstd) = (Some(Compression::Gzip), Some(Compression::Zstd));
        for (upper, lower, codec, level) in [
            (named(None, None), named(None, None), Compression::Zstd, Some(1)),
            (named(gzip, None), named(None, None), Compression::Gzip, None),
            (named(zstd, None), named(gzip, Some(9)), Compression::Zstd, Some(1)),
            (named(gzip, None), named(gzip, Some(9)), Compression::Gzip, Some(9)),
            (named(None, Some(5)), named(gzip, Some(9)), Compression::Gzip, Some(5)),
            (named(gzip, None), named(None, Some(19)), Compression::Gzip, None),
            (named(zstd, None), named(None, Some(19)), Compression::Zstd, Some(19)),
        ] {
            assert_eq!(upper.or(lower).choice(), CompressionChoice { codec, level }, "{upper:?} over {lower:?}");
        }
    }

    #[test]
    fn an_empty_variable_says_nothing_and_a_bad_one_is_named() {
        let env = |name: &str, value: &str| BTreeMap::from([(name.to_owned(), value.to_owned())]);
        assert_eq!(Layer::from_env(&env("BARBACK_STORE", "")).unwrap(), Layer::default());
        assert_eq!(Layer::from_env(&env("BARBACK_SERVICE_HOST", "10.0.0.1")).unwrap(), Layer::default());
        let error = Layer::from_env(&env("BARBACK_BACKUP_JOBS", "many")).unwrap_err();
        assert!(error.to_string().starts_with("environment variable BARBACK_BACKUP_JOBS: \"many\""), "{error}");
    }

    #[test]
    fn a_missing_or_oversized_file_is_a_usage_error() {
        let error = Layer::from_file(Path::new("/nonexistent/barback.toml")).unwrap_err();
        assert_eq!(error.kind(), crate::error::ErrorKind::Usage);
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("big.toml");
        std::fs::write(&path, vec![b'#'; (1 << 20) + 1]).unwrap();
        assert!(Layer::from_file(&path).unwrap_err().to_string().contains("larger than 1 MiB"));
    }
}
