//! The tables of a cluster while it is backed up, kept beside the backup for a drill to compare with: never a reason for a backup
//! to fail, nor to wait for long.

use std::time::{Duration, Instant};

use chrono::Utc;
use tokio::time::timeout;

use crate::codec::compression;
use crate::commands::archive::Archive;
use crate::commands::backup_request::{BackupRequest, Tables};
use crate::commands::interrupt::Interrupt;
use crate::domain::backup::BackupId;
use crate::domain::compression::Compression;
use crate::domain::table_comparison::{Databases, in_both};
use crate::error::{Error, ErrorKind, Result};
use crate::layout::table_snapshot::{LIMIT_BYTES, TableSnapshot};
use crate::postgres::connection::Session;
use crate::postgres::conninfo::Conninfo;
use crate::postgres::tables;
use crate::store::Metadata;

/// How long one look may take; there are two.
const LOOK: Duration = Duration::from_secs(4);

/// How long one database may take of that.
const ONE_DATABASE: Duration = Duration::from_secs(2);

/// So many databases are looked into.
const MOST_DATABASES: usize = 100;

/// So many tables of one database are kept, the largest.
const MOST_TABLES: u32 = 10_000;

/// So many in all: some 10 MiB while they are held.
const MOST_TABLES_IN_ALL: usize = 50_000;

/// How long the store may take for the object.
const STORING: Duration = Duration::from_secs(10);

/// The tables of a running cluster at one moment.
#[derive(Debug)]
pub(crate) struct Look {
    superuser: String,
    databases: Databases,
    left_out: u64,
}

/// Looks at the tables of the server, where the request wants that; none when that cannot be had.
pub(crate) async fn look(request: &BackupRequest, interrupt: &Interrupt) -> Option<Look> {
    if request.tables == Tables::PassedOver {
        return None;
    }
    let looked = tokio::select! {
        looked = Box::pin(look_within(&request.conninfo)) => looked,
        () = interrupt.stopped() => return None,
    };
    looked.map_err(|error| tracing::debug!("the tables are not recorded: {error}")).ok()
}

/// Looks once more and keeps what is there both times: that was there at the end of the backup, which lies between.
pub(crate) async fn keep(
    archive: &Archive,
    request: &BackupRequest,
    id: &BackupId,
    before: Option<Look>,
    interrupt: &Interrupt,
) {
    let Some(before) = before else { return };
    let Some(after) = look(request, interrupt).await else { return };
    let all = before.databases.len().max(after.databases.len()) as u64 + before.left_out.max(after.left_out);
    let databases = in_both(before.databases, &after.databases);
    let snapshot = TableSnapshot {
        backup_id: id.clone(),
        taken: Utc::now(),
        superuser: after.superuser,
        databases_left_out: all.saturating_sub(databases.len() as u64),
        databases,
    };
    let stored = tokio::select! {
        stored = timeout(STORING, store(archive, &snapshot)) => stored,
        () = interrupt.stopped() => return,
    };
    match stored {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!("the tables are not recorded: {error}"),
        Err(_) => tracing::warn!("the tables are not recorded: the store took more than {} s", STORING.as_secs()),
    }
}

/// The snapshot beside backup `id`; none when there is none: older versions, Barman and backups that could not look leave none.
///
/// One request. Errors: the store's; `Corrupt` and `Mismatch` as [`TableSnapshot::from_json`], and for that of another backup.
pub async fn load(archive: &Archive, id: &BackupId) -> Result<Option<TableSnapshot>> {
    let key = archive.prefix.table_snapshot(id);
    let fetched = match archive.store.get(&key, LIMIT_BYTES).await {
        Ok(fetched) => fetched,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    let read = compression::decompress(Compression::Zstd, &fetched.content, LIMIT_BYTES)
        .and_then(|json| TableSnapshot::from_json(&json))
        .map_err(|error| error.context(format!("could not use \"{key}\"")))?;
    if read.backup_id != *id {
        return Err(Error::corrupt(format!("\"{key}\" is that of backup \"{}\"", read.backup_id)));
    }
    Ok(Some(read))
}

async fn store(archive: &Archive, snapshot: &TableSnapshot) -> Result<()> {
    let json = snapshot.to_json()?;
    if json.len() as u64 > LIMIT_BYTES {
        return Err(Error::new(ErrorKind::Local, format!("{} bytes are more than {LIMIT_BYTES}", json.len())));
    }
    let packed = compression::compress(Compression::Zstd, None, json.as_bytes())?;
    archive.store.put(&archive.prefix.table_snapshot(&snapshot.backup_id), packed, &Metadata::new()).await
}

/// Sessions of its own, one after the other: the one that must stop the backup waits for nothing.
async fn look_within(conninfo: &Conninfo) -> Result<Look> {
    let began = Instant::now();
    let (superuser, names) = within(LOOK, async {
        let session = session(conninfo, &conninfo.dbname).await?;
        let superuser = tables::bootstrap_superuser(&session, LOOK).await?;
        Ok((superuser, tables::databases(&session, LOOK).await?))
    })
    .await?;
    let mut look = Look { superuser, databases: Databases::new(), left_out: 0 };
    let mut room = MOST_TABLES_IN_ALL;
    for name in names {
        let left = ONE_DATABASE.min(LOOK.saturating_sub(began.elapsed()));
        if left.is_zero() || room == 0 || look.databases.len() == MOST_DATABASES {
            look.left_out += 1;
            continue;
        }
        let most = MOST_TABLES.min(u32::try_from(room).unwrap_or(u32::MAX));
        let looked = within(left, async {
            let session = session(conninfo, &name).await?;
            tables::largest(&session, most, left).await
        });
        match looked.await {
            Ok(database) => {
                room -= database.tables.len().min(room);
                look.databases.insert(name, database);
            }
            Err(error) => {
                tracing::debug!("the tables of database \"{name}\" are not recorded: {error}");
                look.left_out += 1;
            }
        }
    }
    Ok(look)
}

async fn session(conninfo: &Conninfo, database: &str) -> Result<Session> {
    let conninfo = Conninfo { dbname: database.to_owned(), connect_timeout: ONE_DATABASE, ..conninfo.clone() };
    // Boxed: the way to a server is long, and every future that may go it would be.
    Box::pin(Session::connect(&conninfo)).await
}

async fn within<T>(limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
    let late = |_| Error::new(ErrorKind::Local, format!("it took more than {} s", limit.as_secs_f32()));
    timeout(limit, work).await.map_err(late)?
}
