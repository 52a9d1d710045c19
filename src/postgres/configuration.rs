//! Configuration that lies outside the data directory, made fit for a copy that has everything inside.

use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::postgres::server::ServerFacts;
use crate::postgres::settings;

/// Settings that would lead the copy back to the source's files.
const LEADS_AWAY: [&str; 4] = ["data_directory", "hba_file", "ident_file", "external_pid_file"];

/// Configuration files are written by people; one of this size is something else.
const FILE_LIMIT_BYTES: u64 = 16 << 20;

/// What becomes of configuration that lies outside the data directory.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// It is made fit for a copy that has everything inside: usual names, settings that point elsewhere switched off.
    FitForCopy,
    /// It is taken as it is, under its own name, and included files are only told of (Barman 3.19.1).
    AsItIs,
}

/// Reads the configuration files a restored copy needs and would not find in its data directory, as on Debian, where
/// they lie in `/etc`: path in the copy, content.
///
/// `postgresql.conf` comes with the settings that point elsewhere commented out. Included files below the
/// configuration's own directory keep their place relative to it; others are warned about, as they cannot be found
/// again from the copy. Errors: `Local` for a file in use that cannot be read, except a missing `pg_ident.conf`.
pub fn outside_data_directory(pgdata: &Path, facts: &ServerFacts, form: Form) -> Result<Vec<(String, Vec<u8>)>> {
    match form {
        Form::FitForCopy => fit_for_copy(pgdata, facts),
        Form::AsItIs => as_it_is(pgdata, facts),
    }
}

fn as_it_is(pgdata: &Path, facts: &ServerFacts) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    for (path, is_optional) in [(&facts.config_file, false), (&facts.hba_file, false), (&facts.ident_file, true)] {
        let Some(path) = path.as_deref().filter(|path| is_outside(path, pgdata, facts)) else { continue };
        if path.exists() || !is_optional {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            files.push((name, read(path)?));
        }
    }
    let elsewhere: Vec<String> = facts
        .included_files
        .iter()
        .filter(|path| is_outside(path, pgdata, facts))
        .map(|path| path.display().to_string())
        .collect();
    if !elsewhere.is_empty() {
        let files = elsewhere.join(", ");
        tracing::warn!("configuration that is included from outside the data directory is not backed up: {files}");
    }
    Ok(files)
}

fn fit_for_copy(pgdata: &Path, facts: &ServerFacts) -> Result<Vec<(String, Vec<u8>)>> {
    let mut files = Vec::new();
    let main = facts.config_file.as_deref().filter(|path| is_outside(path, pgdata, facts));
    if let Some(path) = main {
        let text = String::from_utf8_lossy(&read(path)?).into_owned();
        let directory = path.parent().unwrap_or(Path::new("/"));
        // Debian's configuration includes a directory that is mostly empty: the copy would not start without it.
        let has_included = facts.included_files.iter().any(|included| included.starts_with(directory));
        let names: Vec<&str> = LEADS_AWAY.into_iter().chain((!has_included).then_some("include_dir")).collect();
        files.push(("postgresql.conf".to_owned(), settings::neutralise(&text, &names).0.into_bytes()));
    }
    let companions = [(&facts.hba_file, "pg_hba.conf"), (&facts.ident_file, "pg_ident.conf")];
    for (path, name) in companions {
        let Some(path) = path.as_deref().filter(|path| is_outside(path, pgdata, facts)) else { continue };
        if path.exists() || name != "pg_ident.conf" {
            files.push((name.to_owned(), read(path)?));
        }
    }
    for path in facts.included_files.iter().filter(|path| is_outside(path, pgdata, facts)) {
        if let Some(relative) = main.and_then(Path::parent).and_then(|directory| path.strip_prefix(directory).ok()) {
            files.push((relative.to_string_lossy().into_owned(), read(path)?));
        } else {
            let path = path.display();
            tracing::warn!("configuration file \"{path}\" lies outside the data directory and is not backed up");
        }
    }
    Ok(files)
}

/// The server's paths and ours may differ when the data directory is seen through another mount.
fn is_outside(path: &Path, pgdata: &Path, facts: &ServerFacts) -> bool {
    let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| PathBuf::from(path));
    !path.starts_with(&facts.data_directory) && !real(path).starts_with(real(pgdata))
}

fn read(path: &Path) -> Result<Vec<u8>> {
    let failed = |cause| Error::local("read configuration file", path, cause);
    if fs::metadata(path).map_err(failed)?.len() > FILE_LIMIT_BYTES {
        let message = format!("configuration file \"{}\" is longer than {FILE_LIMIT_BYTES} bytes", path.display());
        return Err(Error::corrupt(message));
    }
    fs::read(path).map_err(failed)
}
