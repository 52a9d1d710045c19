//! `barback check`: its words, what they ask for, and the exit code of what was found.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::Args;

use super::config;
use super::exit_code;
use super::invocation::{Settings, own_command_argv};
use super::native_grammar::absolute;
use super::output;
use super::run::{Surroundings, as_libpq_sees_it};
use super::store::{Traffic, open};
use crate::commands::check::{CheckReport, CheckRequest, check};
use crate::domain::finding::Severity;
use crate::domain::host_health::{Expected, FileFacts};
use crate::error::{Error, ErrorKind, Result};
use crate::postgres::conninfo::Conninfo;
use crate::postgres::settings::restore_command;

/// The words behind `check`.
#[derive(Debug, Args)]
pub(super) struct CheckOptions {
    /// Connection string or URI, by libpq's rules [default: the PG* variables]
    #[arg(short, long, value_name = "CONNINFO")]
    pub dbname: Option<String>,
    /// The data directory on this host [default: what the server says]
    #[arg(long, value_name = "DIR")]
    pub pgdata: Option<PathBuf>,
}

impl CheckOptions {
    /// What the flags say; `backup.dbname` and `backup.pgdata` of the other layers go for this command too.
    pub fn layer(&self) -> Result<config::BackupLayer> {
        let dbname =
            self.dbname.as_deref().map(config::conninfo).transpose().map_err(|error| error.context("--dbname"))?;
        Ok(config::BackupLayer {
            dbname,
            pgdata: self.pgdata.as_deref().map(absolute).transpose()?,
            ..config::BackupLayer::default()
        })
    }
}

/// `check`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CheckArgs {
    /// The connection string, without a password; `None`: libpq's defaults and `PG*` variables.
    pub dbname: Option<String>,
    /// The data directory, absolute; `None`: what the server says.
    pub pgdata: Option<PathBuf>,
}

/// Checks, prints what was found, and gives the exit code: 0 without a problem, 1 with one, 2 where the store cannot be asked.
///
/// Errors: `Usage` for what cannot be used at all; `Local` when `out` cannot be written.
pub(super) async fn run(
    settings: &Settings,
    args: CheckArgs,
    around: &Surroundings<'_>,
    out: &mut dyn Write,
) -> Result<u8> {
    let archive = match open(&settings.store, around.environment, Traffic::SMALL_READS).await {
        Err(error) if matches!(error.kind(), ErrorKind::Usage | ErrorKind::Bug) => return Err(error),
        archive => archive,
    };
    let request = request(settings, args, around)?;
    let report = check(archive, &request).await;
    output::check(out, around.stdout(settings), &settings.store, &report)?;
    Ok(code_of(&report))
}

fn code_of(report: &CheckReport) -> u8 {
    match report.count(Severity::Problem) {
        _ if !report.is_store_reached => exit_code::STORE,
        0 => exit_code::DONE,
        _ => exit_code::ABSENT,
    }
}

fn request(settings: &Settings, args: CheckArgs, around: &Surroundings<'_>) -> Result<CheckRequest> {
    let exe = std::env::current_exe()
        .map_err(|cause| Error::new(ErrorKind::Local, format!("could not find this program's own path: {cause}")))?;
    let words = own_command_argv(settings, &exe, "wal-archive")?;
    let config = settings.config_path.as_deref();
    let secrets = credential_files(settings, around.environment);
    let files = config.map(|path| (path, false)).into_iter().chain(secrets.iter().map(|path| (path.as_path(), true)));
    Ok(CheckRequest {
        conninfo: Conninfo::resolve(args.dbname.as_deref(), &as_libpq_sees_it(around.environment))?,
        pgdata: args.pgdata,
        expected: Expected {
            store: settings.store.url.clone(),
            server: settings.store.server.clone(),
            archive_command: restore_command(&words, " %p"),
        },
        config: config.map(|path| path.display().to_string()),
        files: files.filter_map(|(path, holds_secrets)| facts_of(path, holds_secrets)).collect(),
        now: around.now,
    })
}

/// The files that credentials for this store would be read from, whether or not they are there.
fn credential_files(settings: &Settings, environment: &BTreeMap<String, String>) -> Vec<PathBuf> {
    let variable = |name: &str| environment.get(name).filter(|value| !value.is_empty());
    let url = &settings.store.url;
    if url.starts_with("gs:") {
        return variable("GOOGLE_APPLICATION_CREDENTIALS").map(PathBuf::from).into_iter().collect();
    }
    let is_profile = settings.store.aws_profile.is_some() || variable("AWS_ACCESS_KEY_ID").is_none();
    if !url.starts_with("s3:") || !is_profile {
        return Vec::new();
    }
    let in_home = || variable("HOME").map(|home| Path::new(home).join(".aws/credentials"));
    variable("AWS_SHARED_CREDENTIALS_FILE").map(PathBuf::from).or_else(in_home).into_iter().collect()
}

fn facts_of(path: &Path, holds_secrets: bool) -> Option<FileFacts> {
    let mode = std::fs::metadata(path).ok()?.permissions().mode() & 0o7777;
    Some(FileFacts { path: path.display().to_string(), mode, holds_secrets })
}
