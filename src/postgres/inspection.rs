//! Looking into a server that was recovered to be looked into: its indexes, and the questions of whoever runs it.
//!
//! The sessions are those of a superuser, and the questions are somebody's SQL. So every session reads only, one statement is one
//! statement, and what leads out of the server is cut off first ([`cut_off_foreign_data`]).

use std::path::Path;
use std::time::Duration;

use tokio_postgres::types::Type;

use super::connection::{Failure, QUICK, Session};
use super::conninfo::Conninfo;
use crate::domain::drill_checks::{Answer, AnswerKind, Refused};
use crate::error::Result;

/// How these sessions are called in `pg_stat_activity`.
pub const APPLICATION_NAME: &str = "barback drill";

/// Beyond the server's own time limit, before it is taken for dead.
const GRACE: Duration = Duration::from_secs(10);

/// So many invalid indexes of one database are named.
const INDEXES_NAMED: u32 = 1000;

/// Where a server listens that nobody else uses, and as whom it is looked into.
#[derive(Debug, Clone, Copy)]
pub struct LocalServer<'a> {
    /// The directory of its socket.
    pub sockets: &'a Path,
    /// Its port, a part of the socket's name.
    pub port: u16,
    /// A superuser whom it lets in without a password.
    pub role: &'a str,
}

impl LocalServer<'_> {
    /// A session that changes nothing: every transaction is read-only, and messages come in English.
    pub async fn read_only(&self, database: &str) -> Result<Session> {
        let session = self.connect(database).await?;
        session.run("prepare the session", "SET default_transaction_read_only = on; SET lc_messages = 'C'").await?;
        Ok(session)
    }

    async fn connect(&self, database: &str) -> Result<Session> {
        let Self { sockets, port, role } = *self;
        let conninfo = Conninfo::of_socket(sockets, port, role, database, APPLICATION_NAME);
        // Boxed: the way to a server is long, and every future that may go it would be.
        Box::pin(Session::connect(&conninfo)).await
    }

    /// Takes their handlers from all foreign data wrappers of a database, and gives how many there were.
    ///
    /// A copy of production holds the addresses and passwords of other production servers: a query that reads a foreign table
    /// would read there, and a view or function may hide that it does. Without a handler every foreign table fails at once. Event
    /// triggers stay silent meanwhile. Not for a server in recovery, which cannot be changed.
    pub async fn cut_off_foreign_data(&self, database: &str) -> Result<usize> {
        let session = self.connect(database).await?;
        let cut = Self::take_handlers(&session).await;
        session.close().await?;
        cut
    }

    async fn take_handlers(session: &Session) -> Result<usize> {
        const DOING: &str = "put foreign data out of reach";
        session.run(DOING, "SET default_transaction_read_only = off; SET session_replication_role = replica").await?;
        let sql = "SELECT quote_ident(fdwname) AS name FROM pg_foreign_data_wrapper WHERE fdwhandler <> 0";
        let wrappers = session.rows(DOING, sql, &[], QUICK).await?;
        for wrapper in &wrappers {
            let name = wrapper.get("name")?;
            session.run(DOING, &format!("ALTER FOREIGN DATA WRAPPER {name} NO HANDLER")).await?;
        }
        Ok(wrappers.len())
    }
}

/// True when the session's database knows foreign servers that can be reached.
pub async fn reaches_foreign_data(session: &Session) -> Result<bool> {
    let sql = "SELECT count(*)::text AS servers FROM pg_foreign_server s \
         JOIN pg_foreign_data_wrapper w ON w.oid = s.srvfdw WHERE w.fdwhandler <> 0";
    let servers: u64 = session.row("look for foreign servers", sql, &[], QUICK).await?.parse("servers")?;
    Ok(servers > 0)
}

/// The indexes of the session's database that PostgreSQL does not use, or does not keep up to date: at most 1000, and how many
/// there are.
pub async fn invalid_indexes(session: &Session) -> Result<(Vec<String>, u64)> {
    let sql = format!(
        "SELECT n.nspname || '.' || c.relname AS name, (count(*) OVER ())::text AS total \
         FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace \
         WHERE NOT (i.indisvalid AND i.indisready AND i.indislive) ORDER BY 1 LIMIT {INDEXES_NAMED}"
    );
    let rows = session.rows("look for invalid indexes", &sql, &[], QUICK).await?;
    let total = rows.first().map_or(Ok(0), |row| row.parse("total"))?;
    let names = rows.iter().map(|row| row.get("name").map(str::to_owned));
    Ok((names.collect::<Result<_>>()?, total))
}

/// Whether the extension `amcheck` is in the session's database, and whether it could be.
pub async fn amcheck_extension(session: &Session) -> Result<(bool, bool)> {
    let sql = "SELECT EXISTS (SELECT FROM pg_extension WHERE extname = 'amcheck')::text AS there, \
         EXISTS (SELECT FROM pg_available_extensions WHERE name = 'amcheck')::text AS available";
    let row = session.row("look for the extension amcheck", sql, &[], QUICK).await?;
    Ok((row.get("there")? == "true", row.get("available")? == "true"))
}

/// A collation of the session's database that this host sorts in another way than the source did, with both versions; none where all
/// are alike. Indexes of text are out of order then, as they would be after any move to such a host.
pub async fn other_collation(session: &Session) -> Result<Option<String>> {
    let of_database = match session.version().major() {
        // Before version 15 nobody recorded that of the database itself.
        ..15 => "",
        _ => {
            "UNION ALL SELECT datname, datcollversion, pg_database_collation_actual_version(oid) FROM pg_database \
             WHERE datname = current_database()"
        }
    };
    let sql = format!(
        "SELECT format('%s: version %s there, %s here', name, there, here) AS said FROM \
         (SELECT collname AS name, collversion AS there, pg_collation_actual_version(oid) AS here FROM pg_collation \
          {of_database}) all_of_them WHERE there <> here LIMIT 1"
    );
    let rows = session.rows("ask for the versions of collations", &sql, &[], QUICK).await?;
    rows.first().map(|row| row.get("said").map(str::to_owned)).transpose()
}

/// Asks `query` in a read-only session of [`LocalServer`] and takes at most two rows of its answer.
///
/// It is looked at first, which refuses more than one statement and tells its columns before anything is run. Names resolve as they
/// do for the role; times come in UTC and ISO style. It reads within a transaction that cannot be made one that writes.
pub async fn ask(session: &Session, query: &str, within: Duration) -> Result<Answer, Refused> {
    const DOING: &str = "ask the query";
    let settings = format!(
        "SET search_path TO DEFAULT; SET statement_timeout = {}; SET cursor_tuple_fraction = 1",
        within.as_millis()
    );
    let at_once = |failure: Failure| refused(&failure, false);
    session.run(DOING, &settings).await.map_err(at_once)?;
    let deadline = within.saturating_add(GRACE);
    let columns = session.columns(DOING, query, deadline).await.map_err(|failure| refused(&failure, true))?;
    let [column] = columns.as_slice() else { return Ok(Answer::Columns(columns.len())) };
    session.run(DOING, "BEGIN READ ONLY").await.map_err(at_once)?;
    // A cursor, so that a query of a billion rows gives two of them.
    let declare = format!("DECLARE barback_drill NO SCROLL CURSOR FOR {query}");
    session.texts(DOING, &declare, deadline).await.map_err(at_once)?;
    let rows = session.texts(DOING, "FETCH 2 FROM barback_drill", deadline).await.map_err(at_once)?;
    session.run(DOING, "ROLLBACK").await.map_err(at_once)?;
    Ok(match <[Option<String>; 1]>::try_from(rows) {
        Ok([value]) => Answer::Value(kind_of(column), value),
        Err(rows) if rows.is_empty() => Answer::NoRow,
        Err(_) => Answer::ManyRows,
    })
}

fn refused(failure: &Failure, is_of_the_text: bool) -> Refused {
    let (state, message, is_storage) = failure.facts();
    Refused { state: state.map(str::to_owned), message, is_of_the_text, is_storage }
}

fn kind_of(column: &Type) -> AnswerKind {
    match *column {
        Type::INT2 | Type::INT4 | Type::INT8 | Type::NUMERIC | Type::FLOAT4 | Type::FLOAT8 | Type::OID => {
            AnswerKind::Number
        }
        Type::BOOL => AnswerKind::Boolean,
        Type::TIMESTAMPTZ | Type::TIMESTAMP | Type::DATE => AnswerKind::Time,
        _ => AnswerKind::Other,
    }
}
