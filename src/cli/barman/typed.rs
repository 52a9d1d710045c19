//! From what was typed to a [`Call`]: which occurrence counts, and what holds where nothing was typed.

use std::ffi::OsString;
use std::path::PathBuf;

use super::argparse::Occurrence;
use super::call::{
    AzureCredential, Backup, Call, Cloud, Delete, Format, Keep, KeepAction, Program, Provider, Restore, S3Encryption,
    Tag, TargetTimeline, WalArchive, WalRestore, Which, Work,
};
use super::grammar::{self, Key};
use super::python;
use super::values::{self, Value};
use crate::cli::invocation::AddressingStyle;
use crate::domain::barman_retention::Keep as Retained;
use crate::domain::compression::{BarmanLevel, Compression};

/// Where `wal-restore --parallel` puts what it fetched ahead.
const DEFAULT_SPOOL_DIR: &str = "/var/tmp/walrestore";
/// `--max-archive-size`
const DEFAULT_ARCHIVE_BYTES: u64 = 100 << 30;
/// `--max-block-size`
const DEFAULT_BLOCK_BYTES: u64 = 4 << 20;
/// `--max-single-put-size`
const DEFAULT_SINGLE_PUT_BYTES: u64 = 64 << 20;
/// `--jobs`
const DEFAULT_JOBS: usize = 2;

/// Why arguments that are all there make no call.
pub(super) enum Refused {
    /// What must be there was given as `--` where that is no terminator, and argparse takes it away.
    Missing(&'static str),
    /// Something that only the log tells.
    Logged(String),
}

/// What was typed, to be asked for by key.
pub(super) struct Typed(pub Vec<Occurrence<Key, Value>>);

impl Typed {
    /// The call that was typed.
    pub(super) fn call(&self, program: Program) -> Result<Call, Refused> {
        call(program, self)
    }

    fn all(&self, key: Key) -> impl Iterator<Item = &Value> {
        self.0.iter().filter(move |occurrence| occurrence.key == key).flat_map(|occurrence| &occurrence.values)
    }

    fn count(&self, key: Key) -> usize {
        self.0.iter().filter(|occurrence| occurrence.key == key).count()
    }

    fn flag(&self, key: Key) -> bool {
        self.count(key) > 0
    }

    /// The values of the last occurrence.
    fn last_values(&self, key: Key) -> Option<&[Value]> {
        let last = self.0.iter().rev().find(|occurrence| occurrence.key == key)?;
        Some(&last.values)
    }

    fn last(&self, key: Key) -> Option<&Value> {
        self.last_values(key)?.first()
    }

    fn text(&self, key: Key) -> Option<String> {
        if let Some(Value::Text(text)) = self.last(key) { Some(text.clone()) } else { None }
    }

    fn required_text(&self, key: Key, metavar: &'static str) -> Result<String, Refused> {
        self.text(key).ok_or(Refused::Missing(metavar))
    }

    fn path(&self, key: Key) -> Option<PathBuf> {
        if let Some(Value::Path(path)) = self.last(key) { Some(PathBuf::from(path)) } else { None }
    }

    fn number(&self, key: Key) -> Option<i64> {
        if let Some(Value::Number(number)) = self.last(key) { Some(*number) } else { None }
    }

    /// A number that is not below zero, or zero.
    fn natural(&self, key: Key) -> Option<u64> {
        self.number(key).map(|number| u64::try_from(number).unwrap_or(0))
    }

    fn size(&self, key: Key) -> Option<u64> {
        if let Some(Value::Size(bytes)) = self.last(key) { Some(*bytes) } else { None }
    }

    fn level(&self) -> Option<BarmanLevel> {
        if let Some(Value::Level(level)) = self.last(Key::CompressionLevel) { *level } else { None }
    }

    fn timeline(&self) -> Option<TargetTimeline> {
        if let Some(Value::Timeline(timeline)) = self.last(Key::TargetTli) { Some(*timeline) } else { None }
    }

    /// The tags of `appended`, or where that was not typed, of the last `list`. None when there is neither.
    fn tags(&self, appended: Key, list: Key) -> Option<Vec<Tag>> {
        let tag = |value: &Value| if let Value::Tag(tag) = value { tag.clone() } else { None };
        if self.flag(appended) {
            return Some(self.all(appended).filter_map(tag).collect());
        }
        Some(self.last_values(list)?.iter().filter_map(tag).collect())
    }

    /// The first option that has to do with snapshots of disks and changes what the command does.
    fn snapshot_option(&self) -> Option<String> {
        let first = self.0.iter().find(|occurrence| match occurrence.key {
            Key::SnapshotDisk => true,
            // An empty name is none.
            Key::SnapshotInstance | Key::SnapshotRecoveryInstance => {
                occurrence.values.iter().any(|value| *value != Value::Text(String::new()))
            }
            _ => false,
        });
        first.map(|occurrence| occurrence.name.to_owned())
    }

    fn compression(&self) -> Option<Compression> {
        let flags = [
            (Key::Gzip, Compression::Gzip),
            (Key::Bzip2, Compression::Bzip2),
            (Key::Xz, Compression::Xz),
            (Key::Snappy, Compression::Snappy),
            (Key::Zstd, Compression::Zstd),
            (Key::Lz4, Compression::Lz4),
        ];
        flags.into_iter().find(|(key, _)| self.flag(*key)).map(|(_, compression)| compression)
    }
}

fn call(program: Program, typed: &Typed) -> Result<Call, Refused> {
    let count = |key: Key| i8::try_from(typed.count(key)).unwrap_or(i8::MAX);
    let test = typed.flag(Key::Test);
    Ok(Call {
        program,
        cloud: cloud(typed),
        verbosity: count(Key::Verbose).saturating_sub(count(Key::Quiet)),
        test,
        url: typed.required_text(Key::Url, grammar::url_metavar(program))?,
        server: typed.required_text(Key::Server, "server_name")?,
        work: match program {
            Program::WalArchive => Work::WalArchive(wal_archive(typed)),
            Program::WalRestore => Work::WalRestore(wal_restore(typed)?),
            Program::Backup => Work::Backup(Box::new(backup(typed))),
            Program::BackupList => Work::List { format: format(typed) },
            Program::BackupShow => {
                Work::Show { backup: typed.required_text(Key::Backup, "backup_id")?, format: format(typed) }
            }
            Program::BackupDelete => Work::Delete(delete(typed)?),
            Program::BackupKeep => Work::Keep(keep(typed)?),
            Program::CheckWalArchive => Work::CheckWalArchive { timeline: typed.natural(Key::Timeline) },
            Program::Restore => Work::Restore(Box::new(restore(typed, test)?)),
        },
    })
}

fn cloud(typed: &Typed) -> Cloud {
    let choice = |key: Key| typed.text(key).unwrap_or_default();
    Cloud {
        provider: match choice(Key::CloudProvider).as_str() {
            "azure-blob-storage" => Provider::Azure,
            "google-cloud-storage" => Provider::Gcs,
            _ => Provider::S3,
        },
        endpoint_url: typed.text(Key::EndpointUrl),
        aws_profile: typed.text(Key::AwsProfile),
        read_timeout_s: typed.number(Key::ReadTimeout),
        addressing_style: match choice(Key::AddressingStyle).as_str() {
            "auto" => Some(AddressingStyle::Auto),
            "virtual" => Some(AddressingStyle::Virtual),
            "path" => Some(AddressingStyle::Path),
            _ => None,
        },
        azure_credential: match choice(Key::AzureCredential).as_str() {
            "azure-cli" => Some(AzureCredential::AzureCli),
            "managed-identity" => Some(AzureCredential::ManagedIdentity),
            "default" => Some(AzureCredential::Default),
            _ => None,
        },
        encryption: match choice(Key::Encryption).as_str() {
            "AES256" => Some(S3Encryption::Aes256),
            "aws:kms" => Some(S3Encryption::Kms),
            _ => None,
        },
        sse_kms_key_id: typed.text(Key::SseKmsKeyId),
        kms_key_name: typed.text(Key::KmsKeyName),
        encryption_scope: typed.text(Key::EncryptionScope),
    }
}

fn wal_archive(typed: &Typed) -> WalArchive {
    WalArchive {
        path: typed.path(Key::WalPath),
        compression: typed.compression(),
        level: typed.level(),
        tags: typed.tags(Key::Tag, Key::Tags).unwrap_or_default(),
        history_tags: typed.tags(Key::HistoryTag, Key::HistoryTags).filter(|tags| !tags.is_empty()),
        max_block_size: typed.size(Key::MaxBlockSize).unwrap_or(DEFAULT_BLOCK_BYTES),
        max_concurrency: typed.natural(Key::MaxConcurrency).unwrap_or(1),
        max_single_put_size: typed.size(Key::MaxSinglePutSize).unwrap_or(DEFAULT_SINGLE_PUT_BYTES),
    }
}

fn wal_restore(typed: &Typed) -> Result<WalRestore, Refused> {
    Ok(WalRestore {
        name: typed.required_text(Key::WalName, "wal_name")?,
        destination: typed.path(Key::WalDest).ok_or(Refused::Missing("wal_dest"))?,
        no_partial: typed.flag(Key::NoPartial),
        parallel: typed.natural(Key::Parallel).unwrap_or(0),
        spool_dir: typed.path(Key::SpoolDir).unwrap_or_else(|| PathBuf::from(DEFAULT_SPOOL_DIR)),
    })
}

fn backup(typed: &Typed) -> Backup {
    Backup {
        compression: typed.compression().unwrap_or(Compression::None),
        host: typed.text(Key::Host),
        port: typed.text(Key::Port),
        user: typed.text(Key::User),
        dbname: typed.text(Key::Dbname).unwrap_or_else(|| "postgres".to_owned()),
        immediate_checkpoint: typed.flag(Key::ImmediateCheckpoint),
        jobs: typed.natural(Key::Jobs).map_or(DEFAULT_JOBS, |jobs| usize::try_from(jobs).unwrap_or(usize::MAX)),
        max_archive_size: typed.size(Key::MaxArchiveSize).unwrap_or(DEFAULT_ARCHIVE_BYTES),
        min_chunk_size: typed.size(Key::MinChunkSize),
        max_bandwidth: typed.size(Key::MaxBandwidth),
        name: typed.text(Key::Name),
        tags: typed.tags(Key::Tag, Key::Tags).unwrap_or_default(),
        snapshot_option: typed.snapshot_option(),
    }
}

fn format(typed: &Typed) -> Format {
    match typed.text(Key::Format).as_deref() {
        None | Some("console") => Format::Console,
        Some(_) => Format::Json,
    }
}

fn delete(typed: &Typed) -> Result<Delete, Refused> {
    let policy = || typed.text(Key::RetentionPolicy).map(Which::Policy);
    let what = typed.text(Key::BackupId).map(Which::Id).or_else(policy);
    Ok(Delete {
        what: what.ok_or(Refused::Missing("-b/--backup-id or -r/--retention-policy"))?,
        minimum_redundancy: typed.natural(Key::MinimumRedundancy).unwrap_or(0),
        dry_run: typed.flag(Key::DryRun),
        batch_size: typed.number(Key::BatchSize),
        check_object_lock: typed.flag(Key::CheckObjectLock),
    })
}

fn keep(typed: &Typed) -> Result<Keep, Refused> {
    let what = match typed.text(Key::KeepTarget).as_deref() {
        Some("full") => KeepAction::Target(Retained::Full),
        Some(_) => KeepAction::Target(Retained::Standalone),
        None if typed.flag(Key::Release) => KeepAction::Release,
        None => KeepAction::Status,
    };
    Ok(Keep { backup: typed.required_text(Key::Backup, "backup_id")?, what })
}

fn restore(typed: &Typed, test: bool) -> Result<Restore, Refused> {
    Ok(Restore {
        backup: typed.required_text(Key::Backup, "backup_id")?,
        directory: typed.path(Key::RecoveryDir).ok_or(Refused::Missing("recovery_dir"))?,
        // Barman 3.19.1 looks at the rules after the store, so a test of the store never does.
        tablespaces: if test { Vec::new() } else { tablespaces(typed)? },
        target_time: typed.text(Key::TargetTime),
        target_lsn: typed.text(Key::TargetLsn),
        target_tli: typed.timeline(),
        snapshot_option: typed.snapshot_option(),
    })
}

fn tablespaces(typed: &Typed) -> Result<Vec<(OsString, PathBuf)>, Refused> {
    let rules = typed.all(Key::Tablespace).filter_map(|value| match value {
        Value::Path(rule) => Some(rule),
        _ => None,
    });
    rules
        .map(|rule| {
            values::tablespace_rule(rule).ok_or_else(|| {
                let rule = python::printed(rule);
                Refused::Logged(format!(
                    "Invalid tablespace relocation rule '{rule}'\nHINT: The valid syntax for a relocation rule is \
                     NAME:LOCATION"
                ))
            })
        })
        .collect()
}
