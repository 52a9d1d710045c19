//! What a running server says about itself: everything a backup must know before it begins.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio_postgres::error::SqlState;

use super::connection::{Answer, Failure, QUICK, Session};
use crate::domain::backup::Tablespace;
use crate::domain::cluster::{ServerVersion, SystemIdentifier};
use crate::domain::segment::SegmentSize;
use crate::error::{Error, ErrorKind, Result};

/// The oldest major version whose base backups we take.
pub const OLDEST_MAJOR_VERSION: u32 = 13;

/// The server itself looks up the size of every file for this; beyond a minute the size is left out.
const SIZE_LIMIT: Duration = Duration::from_mins(1);

/// How often a tablespace that is being made is looked for in the catalog; a link that is still unknown then was left
/// behind by a crash.
const LOOKS_FOR_TABLESPACES: u32 = 20;

/// Between two looks.
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// A server and its settings at one moment.
#[derive(Debug, Clone)]
pub struct ServerFacts {
    /// Its version.
    pub version: ServerVersion,
    /// Its cluster.
    pub system_identifier: SystemIdentifier,
    /// The catalog version: the last part of a tablespace's `PG_<major>_<catalog version>` directory.
    pub catalog_version: u32,
    /// Where the data directory lies, as the server sees it.
    pub data_directory: PathBuf,
    /// The size of its WAL segments.
    pub segment_size: SegmentSize,
    /// Tablespaces outside the data directory's own tree; in-place tablespaces are part of the data directory.
    pub tablespaces: Vec<Tablespace>,
    /// True for a standby.
    pub in_recovery: bool,
    /// Whether data pages carry checksums.
    pub data_checksums: bool,
    /// Where `postgresql.conf` lies.
    pub config_file: Option<PathBuf>,
    /// Where `pg_hba.conf` lies.
    pub hba_file: Option<PathBuf>,
    /// Where `pg_ident.conf` lies.
    pub ident_file: Option<PathBuf>,
    /// Further files settings come from, sorted; without `postgresql.auto.conf`.
    pub included_files: Vec<PathBuf>,
    /// `archive_mode`.
    pub archive_mode: String,
    /// `archive_command`; empty when none is set, `(disabled)` while `archive_mode` is off.
    pub archive_command: String,
    /// `archive_library`, from version 15 on.
    pub archive_library: Option<String>,
    /// `wal_level`: `replica` or `logical`.
    pub wal_level: String,
    /// `summarize_wal`, from version 17 on.
    pub summarize_wal: Option<String>,
    /// The sum of all tablespaces, in bytes; `None` when we may not ask or it takes too long.
    pub cluster_size_bytes: Option<u64>,
    /// Whether the session's role is a superuser.
    pub is_superuser: bool,
    /// `max_replication_slots`.
    pub max_replication_slots: u32,
}

impl ServerFacts {
    /// Asks the server: five queries.
    ///
    /// Errors: `Local` for a server before version 13, for `wal_level = minimal`, or for missing rights, with the
    /// `GRANT` to run as a hint.
    pub async fn read(session: &Session) -> Result<Self> {
        let version = session.version();
        if version.major() < OLDEST_MAJOR_VERSION {
            return Err(refuse(format!(
                "could not use PostgreSQL {version}: version {OLDEST_MAJOR_VERSION} or newer is needed"
            )));
        }
        let settings = read_settings(session)
            .await
            .map_err(|failure| failure.or_grant(&format!("GRANT pg_read_all_settings TO {}", session.role())))?;
        let wal_level = settings.get("wal_level")?.to_owned();
        if wal_level == "minimal" {
            return Err(refuse("could not use the server: its \"wal_level\" is \"minimal\"".to_owned())
                .with_hint("set wal_level to replica and restart the server"));
        }
        let path = |column: &str| settings.optional(column).map(|path| path.map(PathBuf::from));
        let owned = |column: &str| settings.optional(column).map(|text| text.map(str::to_owned));
        Ok(Self {
            version,
            system_identifier: settings.parse("system_identifier")?,
            catalog_version: settings.parse("catalog_version")?,
            data_directory: PathBuf::from(settings.get("data_directory")?),
            segment_size: SegmentSize::new(settings.parse("segment_size")?)?,
            tablespaces: read_tablespaces(session).await?,
            in_recovery: settings.get("in_recovery")? == "true",
            data_checksums: settings.get("data_checksums")? == "on",
            config_file: path("config_file")?,
            hba_file: path("hba_file")?,
            ident_file: path("ident_file")?,
            included_files: read_included_files(session).await?,
            archive_mode: settings.get("archive_mode")?.to_owned(),
            archive_command: settings.get("archive_command")?.to_owned(),
            archive_library: owned("archive_library")?,
            wal_level,
            summarize_wal: owned("summarize_wal")?,
            cluster_size_bytes: read_cluster_size(session).await?,
            is_superuser: settings.get("is_superuser")? == "on",
            max_replication_slots: settings.parse("max_replication_slots")?,
        })
    }

    /// Asks anew which tablespaces there are, and looks whether this process finds them where the server does.
    ///
    /// To be called when the backup has begun: waiting for its checkpoint may take as long as `checkpoint_timeout`, and
    /// a tablespace made meanwhile is not made again by replay. `pgdata` is the data directory as this process sees it:
    /// a link in its `pg_tblspc` that the catalog does not know yet is one being made, and is waited for a moment.
    ///
    /// Errors: `Local`, for a tablespace whose directory this process does not see: it would be backed up as empty.
    pub async fn renew_tablespaces(&mut self, session: &Session, pgdata: &Path) -> Result<()> {
        for look in 1.. {
            let links = tablespace_links(pgdata)?;
            self.tablespaces = read_tablespaces(session).await?;
            let unknown = links.iter().find(|oid| self.tablespaces.iter().all(|there| there.oid != **oid));
            let Some(unknown) = unknown else { break };
            if look == LOOKS_FOR_TABLESPACES {
                tracing::warn!("link \"pg_tblspc/{unknown}\" is of no tablespace and is left out of the backup");
                break;
            }
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
        let directory = self.tablespace_directory();
        let hidden = self.tablespaces.iter().find(|there| !Path::new(&there.location).join(&directory).is_dir());
        hidden.map_or(Ok(()), |there| {
            let message = format!(
                "could not find tablespace \"{}\": \"{}\" holds no directory \"{directory}\" here",
                there.name, there.location
            );
            Err(refuse(message)
                .with_hint("barback reads tablespaces itself: mount them at the paths the server knows them by."))
        })
    }

    /// True when somebody is set to archive this cluster's WAL: this server, or the primary a standby follows.
    #[must_use]
    pub fn archives_wal(&self) -> bool {
        let has_library = self.archive_library.as_deref().is_some_and(|library| !library.is_empty());
        self.archive_mode != "off" && (has_library || !self.archive_command.trim().is_empty())
    }

    /// The directory inside a tablespace's location that belongs to this server's version.
    #[must_use]
    pub fn tablespace_directory(&self) -> String {
        format!("PG_{}_{}", self.version.major(), self.catalog_version)
    }
}

/// The links in `pg_tblspc`, by OID.
fn tablespace_links(pgdata: &Path) -> Result<Vec<u32>> {
    let directory = pgdata.join("pg_tblspc");
    let failed = |cause| Error::local("read directory", &directory, cause);
    let mut links = Vec::new();
    for entry in std::fs::read_dir(&directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
        let oid: Option<u32> = entry.file_name().to_str().and_then(|name| name.parse().ok());
        links.extend(oid.filter(|_| is_link));
    }
    Ok(links)
}

fn refuse(message: String) -> Error {
    Error::new(ErrorKind::Local, message)
}

async fn read_settings(session: &Session) -> Result<Answer, Failure> {
    let sql = "SELECT system.system_identifier::text, system.catalog_version_no::text AS catalog_version, \
         pg_is_in_recovery()::text AS in_recovery, \
         (SELECT setting FROM pg_settings WHERE name = 'wal_segment_size') AS segment_size, \
         current_setting('data_directory') AS data_directory, \
         current_setting('data_checksums') AS data_checksums, \
         nullif(current_setting('config_file'), '') AS config_file, \
         nullif(current_setting('hba_file'), '') AS hba_file, \
         nullif(current_setting('ident_file'), '') AS ident_file, \
         current_setting('archive_mode') AS archive_mode, \
         current_setting('archive_command') AS archive_command, \
         current_setting('archive_library', true) AS archive_library, \
         current_setting('wal_level') AS wal_level, \
         current_setting('summarize_wal', true) AS summarize_wal, \
         current_setting('is_superuser') AS is_superuser, \
         current_setting('max_replication_slots') AS max_replication_slots \
         FROM pg_control_system() AS system";
    session.row("read the server's settings", sql, &[], QUICK).await
}

/// An in-place tablespace (a developers' option) has a relative location and is walked with the data directory.
async fn read_tablespaces(session: &Session) -> Result<Vec<Tablespace>> {
    let sql = "SELECT spcname::text AS name, oid::text AS oid, pg_tablespace_location(oid) AS location \
         FROM pg_tablespace WHERE pg_tablespace_location(oid) LIKE '/%' ORDER BY pg_tablespace.oid";
    let rows = session.rows("read the tablespaces", sql, &[], QUICK).await?;
    rows.iter()
        .map(|row| {
            Ok(Tablespace {
                name: row.get("name")?.to_owned(),
                oid: row.parse("oid")?,
                location: row.get("location")?.to_owned(),
            })
        })
        .collect()
}

async fn read_included_files(session: &Session) -> Result<Vec<PathBuf>> {
    let sql = "SELECT DISTINCT sourcefile COLLATE \"C\" AS file FROM pg_settings WHERE sourcefile IS NOT NULL \
         AND sourcefile <> current_setting('config_file') \
         AND sourcefile <> current_setting('data_directory') || '/postgresql.auto.conf' ORDER BY 1";
    let rows = session.rows("read the configuration files", sql, &[], QUICK).await?;
    rows.iter().map(|row| row.get("file").map(PathBuf::from)).collect()
}

/// Needs `pg_read_all_stats` or rights on every tablespace; a backup can do without.
async fn read_cluster_size(session: &Session) -> Result<Option<u64>> {
    const DOING: &str = "read the cluster's size";
    session.run(DOING, &format!("SET statement_timeout = {}", SIZE_LIMIT.as_millis())).await?;
    let sql = "SELECT sum(pg_tablespace_size(oid))::text AS bytes FROM pg_tablespace";
    let answer = session.row(DOING, sql, &[], SIZE_LIMIT + QUICK).await;
    let size = match answer {
        Ok(row) => Some(row.parse("bytes")?),
        Err(failure) if failure.is(&SqlState::INSUFFICIENT_PRIVILEGE) || failure.is(&SqlState::QUERY_CANCELED) => None,
        Err(failure) => return Err(failure.into()),
    };
    session.run(DOING, "SET statement_timeout = 0").await?;
    Ok(size)
}
