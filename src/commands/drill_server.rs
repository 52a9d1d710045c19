//! The server of a drill: configured to be out of everybody's reach, started, and followed through its log.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use crate::commands::drill_log::{DrillLog, Stopped};
use crate::commands::drill_scratch::Scratch;
use crate::domain::delivery::Deliveries;
use crate::domain::private_settings::{preload_libraries, private_settings};
use crate::error::{Error, ErrorKind, Result};
use crate::postgres::pg_control;
use crate::postgres::private_server::{self, PrivateServer, RunningServer};
use crate::postgres::recovery_log::RecoveryLog;
use crate::postgres::settings;

/// Sockets of a server are called by its port; ours lie in a directory of their own.
pub(crate) const PORT: u16 = 5432;

/// More of a log or journal than this is not read at once.
const LOG_LIMIT_BYTES: u64 = 64 << 20;

/// Replaces everything that the source configured: the server reads nothing but what is written here.
///
/// Which libraries it preloaded is asked before that; those that are installed here and do nothing on their own stay.
pub(crate) fn configure(
    scratch: &Scratch,
    bindir: &Path,
    recovery: &[(String, String)],
    log: &mut DrillLog,
) -> Result<Vec<String>, Stopped> {
    let data = scratch.data();
    let preload = if data.join("postgresql.conf").is_file() {
        private_server::configured(bindir, &data, "shared_preload_libraries", scratch.run_as())
    } else {
        // Debian keeps it elsewhere; `ALTER SYSTEM` may still have set it.
        None
    };
    let libraries = private_server::library_directory(bindir);
    let is_installed =
        |name: &str| libraries.as_ref().is_some_and(|directory| private_server::has_library(directory, name));
    let (kept, out) = preload_libraries(preload.as_deref().unwrap_or_default(), is_installed);
    if !out.is_empty() {
        log.note(format!("not preloaded here: {}", out.join(", ")));
    }
    scratch.write(&scratch.configuration("postgresql.conf"), "")?;
    scratch.write(&scratch.configuration("pg_hba.conf"), "local all all trust\n")?;
    scratch.write(&scratch.configuration("pg_ident.conf"), "")?;
    scratch.write(&data.join("postgresql.auto.conf"), &settings::auto_conf("", recovery))?;
    scratch.write(&scratch.journal(), "")?;
    scratch.write(&scratch.log(), "")?;
    scratch.open_up()?;
    Ok(kept)
}

/// The server, its log and its journal.
#[derive(Debug)]
pub(crate) struct DrillServer {
    pub(crate) running: RunningServer,
    pub(crate) log: RecoveryLog,
    /// What its calls for WAL came to.
    pub(crate) deliveries: Deliveries,
    log_file: GrowingFile,
    journal: GrowingFile,
}

/// A file that others add lines to.
#[derive(Debug)]
struct GrowingFile {
    path: PathBuf,
    read_bytes: u64,
}

impl GrowingFile {
    fn new(path: PathBuf) -> Self {
        Self { path, read_bytes: 0 }
    }

    /// The whole lines that have come since the last look; one that is being written is read the next time. Errors: `Local`.
    fn next_lines(&mut self) -> Result<String> {
        let failed = |cause| Error::local("read file", &self.path, cause);
        let mut file = File::open(&self.path).map_err(failed)?;
        file.seek(SeekFrom::Start(self.read_bytes)).map_err(failed)?;
        let mut bytes = Vec::new();
        file.take(LOG_LIMIT_BYTES).read_to_end(&mut bytes).map_err(failed)?;
        let whole = bytes.iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1);
        self.read_bytes += whole as u64;
        Ok(String::from_utf8_lossy(&bytes[..whole]).into_owned())
    }
}

impl DrillServer {
    /// Starts it, with as much as the control file says that its source had.
    pub(crate) fn start(scratch: &Scratch, bindir: &Path, exe: &Path, preload: &[String], major: u32) -> Result<Self> {
        let data = scratch.data();
        let control = pg_control::read_consistent(&data.join("global/pg_control"))?;
        let mut settings = private_settings(major, control.standby_limits, preload, host_memory());
        for (setting, file) in
            [("config_file", "postgresql.conf"), ("hba_file", "pg_hba.conf"), ("ident_file", "pg_ident.conf")]
        {
            settings.push((setting.to_owned(), scratch.configuration(file).display().to_string()));
        }
        // What an earlier start said is over.
        scratch.write(&scratch.log(), "")?;
        let server = PrivateServer {
            bindir,
            data_directory: &data,
            sockets: scratch.sockets(),
            port: PORT,
            log: &scratch.log(),
            settings: &settings,
            run_as: scratch.run_as(),
            keeper: exe,
        };
        Ok(Self {
            running: server.start()?,
            log: RecoveryLog::default(),
            deliveries: Deliveries::default(),
            log_file: GrowingFile::new(scratch.log()),
            journal: GrowingFile::new(scratch.journal()),
        })
    }

    /// Takes in what it and its calls for WAL have said since the last look. Errors: `Local`.
    pub(crate) fn look(&mut self) -> Result<()> {
        self.log.add(&self.log_file.next_lines()?);
        self.deliveries.add_lines(&self.journal.next_lines()?);
        Ok(())
    }

    /// Why it ended by itself, and whose fault that is.
    pub(crate) fn why_it_ended(&mut self) -> Stopped {
        if let Err(error) = self.look() {
            return Stopped::inconclusive(error);
        }
        let deliveries = &self.deliveries;
        let ours = self.log.last_of("barback: error: ").map(str::to_owned);
        let said = self.log.fatal.clone().or_else(|| self.log.last_line().map(str::to_owned));
        let said = said.unwrap_or_else(|| "it said nothing".to_owned());
        if let Some(name) = deliveries.damaged {
            let message = ours.unwrap_or_else(|| format!("WAL file \"{name}\" in the archive is damaged ({said})"));
            let message = format!("could not recover: {message}");
            return Stopped::fail(Error::corrupt(message));
        }
        if let Some(name) = deliveries.unknown {
            let message = ours.unwrap_or_else(|| format!("WAL file \"{name}\" could not be fetched ({said})"));
            let message = format!("could not recover: {message}");
            return Stopped::inconclusive(Error::new(ErrorKind::Unreachable, message));
        }
        if self.log.is_fault_of_the_backup() {
            let missing = deliveries.absent.last().map(|name| format!("; WAL file \"{name}\" is not in the archive"));
            let message = format!("could not recover: {said}{}", missing.unwrap_or_default());
            return Stopped::fail(Error::corrupt(message));
        }
        let message = format!("the server of the drill ended: {said}");
        Stopped::inconclusive(Error::new(ErrorKind::Local, message))
    }
}

/// What this host has, where that can be told.
fn host_memory() -> Option<u64> {
    let info = fs::read_to_string("/proc/meminfo").ok()?;
    let line = info.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    line.split_whitespace().next()?.parse::<u64>().ok().map(|kib| kib << 10)
}
