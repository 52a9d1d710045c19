//! What Barman 3.19.1 answered, against what we answer.

use serde_json::{Map, Value, json};

use super::super::call::{
    Asked, AzureCredential, Call, Cloud, Exit, Format, KeepAction, Program, Provider, S3Encryption, Tag,
    TargetTimeline, Which, Work, parse,
};
use super::{COLUMNS, ask};
use crate::cli::invocation::AddressingStyle;
use crate::domain::barman_retention::Keep as Retained;
use crate::domain::compression::BarmanLevel;

const ARGV: &str = include_str!("../../../../fixtures/barman-argv/argv.jsonl");
const DEFAULTS: &str = include_str!("../../../../fixtures/barman-argv/defaults.json");
const USAGE: &str = include_str!("../../../../fixtures/barman-argv/usage.json");

fn program(command: &str) -> Program {
    Program::from_name(&format!("barman-cloud-{command}")).unwrap()
}

#[test]
fn usage_texts_are_wrapped_as_by_argparse_at_every_width() {
    let recorded: Value = serde_json::from_str(USAGE).unwrap();
    for (command, usages) in recorded.as_object().unwrap() {
        for (how, usage) in usages.as_object().unwrap() {
            let program = program(command);
            let name = how.strip_prefix("as ").unwrap_or(program.name());
            let asked = Asked { program, name, columns: Some(how.parse().unwrap_or(COLUMNS)) };
            let Err(Exit::Usage { stderr }) = parse(asked, &["-h".into()]) else { panic!("{command} knows -h") };
            let (ours, _) = stderr.trim_end().rsplit_once('\n').unwrap();
            assert_eq!(format!("{ours}\n"), usage.as_str().unwrap(), "{command} at {how}");
        }
    }
}

#[test]
fn every_recorded_command_line_is_accepted_or_refused_as_by_barman() {
    let usages: Value = serde_json::from_str(USAGE).unwrap();
    let defaults: Value = serde_json::from_str(DEFAULTS).unwrap();
    let mut faults = Vec::new();
    let mut count = 0;
    for line in ARGV.lines() {
        let line: Value = serde_json::from_str(line).unwrap();
        let command = line["command"].as_str().unwrap();
        let words: Vec<&str> = line["argv"].as_array().unwrap().iter().map(|word| word.as_str().unwrap()).collect();
        let ours = ask(program(command), &words);
        let usage = usages[command][COLUMNS.to_string()].as_str().unwrap();
        if let Err(fault) = compare(&line, usage, &defaults[command], &ours) {
            faults.push(format!("{command} {words:?}\n    {fault}\n    ours: {ours:?}"));
        }
        count += 1;
    }
    assert!(count > 3000, "only {count} command lines were recorded");
    assert!(faults.is_empty(), "{} of {count} differ:\n{}", faults.len(), faults.join("\n"));
}

fn compare(line: &Value, usage: &str, defaults: &Value, ours: &Result<Call, Exit>) -> Result<(), String> {
    if let Some(parsed) = line["parsed"].as_object() {
        let mut expected = defaults.as_object().unwrap().clone();
        expected.extend(parsed.clone());
        return accepted(&expected, defaults, ours);
    }
    let recorded = |key: &str| line[key].as_str().unwrap_or_default();
    match ours {
        // Where Barman 3.19.1 dies with a traceback of a value, that value is refused.
        Err(Exit::Usage { stderr }) if line["crash"].is_string() => {
            if stderr.contains("is not a valid size string") {
                Ok(())
            } else {
                Err("another error".to_owned())
            }
        }
        Err(Exit::Printed { stdout }) if line["exit"] == 0 => {
            let same = recorded("stdout") == stdout || recorded("stdout") == "(help)" && stdout.starts_with("usage: ");
            if same { Ok(()) } else { Err(format!("stdout: {}", line["stdout"])) }
        }
        Err(Exit::Usage { stderr }) if line["exit"] == 3 && line["usage"] == true => {
            let same = stderr.strip_prefix(usage) == Some(recorded("stderr"));
            if same { Ok(()) } else { Err(format!("stderr: {}", line["stderr"])) }
        }
        Err(Exit::Bare { stderr }) if line["exit"] == 3 && line["usage"] == false => {
            if stderr == recorded("stderr") {
                Ok(())
            } else {
                Err(format!("stderr: {}", line["stderr"]))
            }
        }
        _ => Err(format!("recorded: {line}")),
    }
}

fn accepted(expected: &Map<String, Value>, defaults: &Value, ours: &Result<Call, Exit>) -> Result<(), String> {
    let nothing = json!([]);
    // What must be there, `--` without being the terminator: Barman goes on with an empty list for a name.
    let needed = ["destination_url", "source_url", "server_name", "wal_name", "wal_dest", "backup_id", "recovery_dir"];
    if needed.iter().any(|name| expected.get(*name) == Some(&nothing)) {
        return if matches!(ours, Err(Exit::Usage { .. })) { Ok(()) } else { Err("a name without a value".to_owned()) };
    }
    let rules = expected.get("tablespace").and_then(Value::as_array).into_iter().flatten();
    let bad_rule = rules.clone().any(|rule| !rule.as_str().unwrap().contains(':')) && expected["test"] == false;
    let call = match ours {
        Ok(call) if !bad_rule => call,
        Err(Exit::Logged { message }) if bad_rule && message.starts_with("Invalid tablespace relocation rule '") => {
            return Ok(());
        }
        _ => return Err("recorded: accepted".to_owned()),
    };
    for (key, ours) in as_namespace(call) {
        let wanted = expected.get(&key).ok_or(format!("Barman has no {key}"))?;
        // A value `--` is taken away by argparse, which leaves an empty list; then ours is what holds without it.
        let is_list = ["tags", "history_tags", "tablespace"].contains(&key.as_str());
        let wanted = if *wanted == nothing && !is_list { &defaults[&key] } else { wanted };
        if !same(&key, &ours, wanted) {
            return Err(format!("{key}: ours {ours}, Barman's {wanted}"));
        }
    }
    let snapshot =
        |key: &str| expected.get(key).is_some_and(|value| *value != nothing && *value != "" && !value.is_null());
    let wants_snapshot =
        ["snapshot_instance", "snapshot_disks", "snapshot_recovery_instance"].into_iter().any(snapshot);
    let has_snapshot = match &call.work {
        Work::Backup(backup) => backup.snapshot_option.is_some(),
        Work::Restore(restore) => restore.snapshot_option.is_some(),
        _ => false,
    };
    if wants_snapshot == has_snapshot { Ok(()) } else { Err("one of them takes a snapshot".to_owned()) }
}

/// Equal but for what has no effect: empty tags and levels, and numbers beyond 64 bits.
fn same(key: &str, ours: &Value, wanted: &Value) -> bool {
    match (key, wanted) {
        ("tags" | "history_tags", Value::Array(tags)) => {
            let tags: Vec<&Value> = tags.iter().filter(|tag| !tag.is_null()).collect();
            if tags.is_empty() { *ours == json!([]) || ours.is_null() } else { *ours == json!(tags) }
        }
        ("tags", Value::Null) => *ours == json!([]),
        // Any word but one means JSON; the words themselves are not kept.
        ("format", Value::String(word)) => (word == "console") == (ours == "console"),
        ("compression_level", Value::String(level)) if level.is_empty() => ours.is_null(),
        ("parallel", Value::Number(number)) if number.as_f64().unwrap() < 0.0 => *ours == json!(0),
        // A test of the store does not look at the rules.
        ("tablespace", _) => *ours == json!([]) || ours == wanted,
        (_, Value::Number(number)) if number.is_f64() => {
            let extremes = [json!(i64::MAX), json!(u64::MAX), json!(i64::MIN)];
            extremes.contains(ours) && (number.as_f64().unwrap() < 0.0) == (*ours == json!(i64::MIN))
        }
        _ => ours == wanted,
    }
}

/// What Python's argparse would have returned for this call, as far as we keep it.
fn as_namespace(call: &Call) -> Map<String, Value> {
    let mut names = cloud(&call.cloud);
    let mut add = |name: &str, value: Value| {
        names.insert(name.to_owned(), value);
    };
    let writes = matches!(call.work, Work::WalArchive(_) | Work::Backup(_) | Work::CheckWalArchive { .. });
    add(if writes { "destination_url" } else { "source_url" }, json!(call.url));
    add("server_name", json!(call.server));
    add("verbose", json!(call.verbosity.max(0)));
    add("quiet", json!((-call.verbosity).max(0)));
    add("test", json!(call.test));
    match &call.work {
        Work::WalArchive(_) | Work::Backup(_) | Work::WalRestore(_) => transfer(call, &mut add),
        _ => catalogue(&call.work, &mut add),
    }
    names
}

/// The commands with options of their own for storing and fetching.
fn transfer(call: &Call, add: &mut dyn FnMut(&str, Value)) {
    match &call.work {
        Work::WalArchive(archive) => {
            add("wal_path", json!(archive.path));
            add("compression", json!(archive.compression.map(|codec| codec.to_string())));
            add("compression_level", archive.level.map_or(Value::Null, level));
            add("tags", tags(&archive.tags));
            add("history_tags", archive.history_tags.as_deref().map_or(Value::Null, tags));
            add("max_block_size", json!(archive.max_block_size));
            add("max_concurrency", json!(archive.max_concurrency));
            add("max_single_put_size", json!(archive.max_single_put_size));
            protection(&call.cloud, add);
        }
        Work::WalRestore(restore) => {
            add("wal_name", json!(restore.name));
            add("wal_dest", json!(restore.destination));
            add("no_partial", json!(restore.no_partial));
            add("parallel", json!(restore.parallel));
            add("spool_dir", json!(restore.spool_dir));
        }
        Work::Backup(backup) => {
            // Here Barman calls them by their suffix.
            add("compression", json!(backup.compression.suffix().strip_prefix('.')));
            add("host", json!(backup.host));
            add("port", json!(backup.port));
            add("user", json!(backup.user));
            add("dbname", json!(backup.dbname));
            add("immediate_checkpoint", json!(backup.immediate_checkpoint));
            add("jobs", json!(backup.jobs));
            add("max_archive_size", json!(backup.max_archive_size));
            add("min_chunk_size", json!(backup.min_chunk_size));
            add("max_bandwidth", json!(backup.max_bandwidth));
            add("backup_name", json!(backup.name));
            add("tags", tags(&backup.tags));
            protection(&call.cloud, add);
        }
        _ => {}
    }
}

fn protection(cloud: &Cloud, add: &mut dyn FnMut(&str, Value)) {
    add("encryption", json!(cloud.encryption.map(encryption)));
    add("sse_kms_key_id", json!(cloud.sse_kms_key_id));
    add("kms_key_name", json!(cloud.kms_key_name));
    add("encryption_scope", json!(cloud.encryption_scope));
}

/// The commands for backups and WAL that are there.
fn catalogue(work: &Work, add: &mut dyn FnMut(&str, Value)) {
    match work {
        Work::List { format } => add("format", format_word(*format)),
        Work::Show { backup, format } => {
            add("backup_id", json!(backup));
            add("format", format_word(*format));
        }
        Work::Delete(delete) => {
            let (id, policy) = match &delete.what {
                Which::Id(id) => (Some(id), None),
                Which::Policy(policy) => (None, Some(policy)),
            };
            add("backup_id", json!(id));
            add("retention_policy", json!(policy));
            add("minimum_redundancy", json!(delete.minimum_redundancy));
            add("dry_run", json!(delete.dry_run));
            add("delete_batch_size", json!(delete.batch_size));
            add("check_object_lock", json!(delete.check_object_lock));
        }
        Work::Keep(keep) => {
            let target = match keep.what {
                KeepAction::Target(Retained::Full) => Some("full"),
                KeepAction::Target(Retained::Standalone) => Some("standalone"),
                KeepAction::Release | KeepAction::Status => None,
            };
            add("backup_id", json!(keep.backup));
            add("target", json!(target));
            add("status", json!(keep.what == KeepAction::Status));
            add("release", json!(keep.what == KeepAction::Release));
        }
        Work::CheckWalArchive { timeline } => add("timeline", json!(timeline)),
        Work::Restore(restore) => {
            let rule = |(name, place): &(std::ffi::OsString, std::path::PathBuf)| {
                format!("{}:{}", name.display(), place.display())
            };
            add("backup_id", json!(restore.backup));
            add("recovery_dir", json!(restore.directory));
            add("tablespace", json!(restore.tablespaces.iter().map(rule).collect::<Vec<_>>()));
            add("target_time", json!(restore.target_time));
            add("target_lsn", json!(restore.target_lsn));
            add("target_tli", restore.target_tli.map_or(Value::Null, timeline));
        }
        _ => {}
    }
}

fn cloud(cloud: &Cloud) -> Map<String, Value> {
    let provider = match cloud.provider {
        Provider::S3 => "aws-s3",
        Provider::Azure => "azure-blob-storage",
        Provider::Gcs => "google-cloud-storage",
    };
    let style = cloud.addressing_style.map(|style| match style {
        AddressingStyle::Auto => "auto",
        AddressingStyle::Path => "path",
        AddressingStyle::Virtual => "virtual",
    });
    let credential = cloud.azure_credential.map(|credential| match credential {
        AzureCredential::AzureCli => "azure-cli",
        AzureCredential::ManagedIdentity => "managed-identity",
        AzureCredential::Default => "default",
    });
    let names = json!({
        "cloud_provider": provider,
        "endpoint_url": cloud.endpoint_url,
        "aws_profile": cloud.aws_profile,
        "read_timeout": cloud.read_timeout_s,
        "addressing_style": style,
        "azure_credential": credential,
    });
    names.as_object().unwrap().clone()
}

fn format_word(format: Format) -> Value {
    match format {
        Format::Console => json!("console"),
        Format::Json => json!("json"),
    }
}

fn encryption(encryption: S3Encryption) -> &'static str {
    match encryption {
        S3Encryption::Aes256 => "AES256",
        S3Encryption::Kms => "aws:kms",
    }
}

fn level(level: BarmanLevel) -> Value {
    match level {
        BarmanLevel::Low => json!("low"),
        BarmanLevel::Medium => json!("medium"),
        BarmanLevel::High => json!("high"),
        BarmanLevel::Number(number) => json!(number),
    }
}

fn timeline(timeline: TargetTimeline) -> Value {
    match timeline {
        TargetTimeline::Current => json!("current"),
        TargetTimeline::Latest => json!("latest"),
        TargetTimeline::Id(id) => json!(id),
    }
}

fn tags(tags: &[Tag]) -> Value {
    json!(tags.iter().map(|(key, value)| [key, value]).collect::<Vec<_>>())
}
