//! One session with a PostgreSQL server: asking with deadlines, telling what went wrong, closing.

use std::error::Error as _;
use std::future::Future;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::SetOnce;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Row, SimpleQueryMessage};

use super::connect;
use super::conninfo::Conninfo;
use crate::domain::cluster::ServerVersion;
use crate::error::{Error, ErrorKind, Result};

/// The limit for questions the server answers from memory.
pub(super) const QUICK: Duration = Duration::from_secs(30);
/// The source file from which PostgreSQL complains about data files (`storage/smgr/md.c`): the same SQLSTATE also means a
/// library that is not installed.
const STORAGE_MANAGER: &str = "md.c";
/// The limit for saying goodbye.
const CLOSE: Duration = Duration::from_secs(10);

/// A session as the role of a [`Conninfo`], with settings under which answers read the same everywhere.
///
/// Times come in UTC and ISO style, names resolve to `pg_catalog`, and no server-side timeout ends the session.
#[derive(Debug)]
pub struct Session {
    client: Client,
    connection: JoinHandle<()>,
    /// Why the connection ended, once it has.
    lost: Arc<SetOnce<String>>,
    endpoint: String,
    user: String,
    version: ServerVersion,
    backend_pid: i32,
}

impl Session {
    /// Connects to the first server of `conninfo` that answers and is of the kind asked for.
    ///
    /// Each host has its own time limit. An authentication failure ends the search, as in libpq. A password file
    /// that cannot be used is passed over with a log line. Errors: `Local`, naming every server tried; `Usage` for
    /// TLS options that contradict each other.
    pub async fn connect(conninfo: &Conninfo) -> Result<Self> {
        connect::to_any(conninfo).await
    }

    /// Takes over a connection that was opened to `endpoint`, and prepares the session.
    pub(super) async fn begin<C>(client: Client, connection: C, endpoint: String, user: String) -> Result<Self>
    where
        C: Future<Output = Result<(), tokio_postgres::Error>> + Send + 'static,
    {
        let lost = Arc::new(SetOnce::new());
        let connection = watch(connection, Arc::clone(&lost));
        let version = ServerVersion(0);
        let mut session = Self { client, connection, lost, endpoint, user, version, backend_pid: 0 };
        session.set_up().await?;
        Ok(session)
    }

    /// Where the session goes, `host:port` or the socket's path, for messages.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The role, as an SQL identifier.
    #[must_use]
    pub fn role(&self) -> String {
        format!("\"{}\"", self.user.replace('"', "\"\""))
    }

    /// The server's version.
    #[must_use]
    pub fn version(&self) -> ServerVersion {
        self.version
    }

    /// The server process that serves this session.
    #[must_use]
    pub fn backend_pid(&self) -> i32 {
        self.backend_pid
    }

    /// Asks for a sign of life, within 30 seconds. Errors: `Local` when the session is gone.
    pub async fn ping(&self) -> Result<()> {
        self.rows("reach PostgreSQL", "SELECT 1", &[], QUICK).await?;
        Ok(())
    }

    /// Waits until the session is gone, if ever, and says why: a server that shuts down is noticed at once.
    pub async fn lost(&self) -> Error {
        local(format!("the connection was lost: {}", self.lost.wait().await))
    }

    /// Ends the session, and with it a base backup or temporary slot it may hold; waits until the server was told.
    pub async fn close(self) -> Result<()> {
        drop(self.client);
        match timeout(CLOSE, self.connection).await {
            Ok(_) => Ok(()),
            Err(_) => Err(local(format!("could not close the session with \"{}\" in {CLOSE:?}", self.endpoint))),
        }
    }

    /// Asks `sql`; `doing` completes `could not …` in errors.
    pub(super) async fn rows(
        &self,
        doing: &str,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
        deadline: Duration,
    ) -> Result<Vec<Answer>, Failure> {
        let rows = self.within(doing, deadline, self.client.query(sql, parameters)).await?;
        Ok(rows.into_iter().map(Answer).collect())
    }

    /// Asks `sql`, which answers with exactly one row.
    pub(super) async fn row(
        &self,
        doing: &str,
        sql: &str,
        parameters: &[&(dyn ToSql + Sync)],
        deadline: Duration,
    ) -> Result<Answer, Failure> {
        self.within(doing, deadline, self.client.query_one(sql, parameters)).await.map(Answer)
    }

    /// Runs statements that answer with nothing.
    pub(super) async fn run(&self, doing: &str, sql: &str) -> Result<(), Failure> {
        self.within(doing, QUICK, self.client.batch_execute(sql)).await
    }

    /// The types of the columns that `sql`, which must be one statement, would give; nothing is run.
    pub(super) async fn columns(&self, doing: &str, sql: &str, deadline: Duration) -> Result<Vec<Type>, Failure> {
        let statement = self.within(doing, deadline, self.client.prepare(sql)).await?;
        Ok(statement.columns().iter().map(|column| column.type_().clone()).collect())
    }

    /// Asks `sql` and gives the first column of its rows as PostgreSQL writes it, whatever its type.
    pub(super) async fn texts(
        &self,
        doing: &str,
        sql: &str,
        deadline: Duration,
    ) -> Result<Vec<Option<String>>, Failure> {
        let messages = self.within(doing, deadline, self.client.simple_query(sql)).await?;
        let text = |message| match message {
            SimpleQueryMessage::Row(row) => Some((!row.is_empty()).then(|| row.get(0).map(str::to_owned)).flatten()),
            _ => None,
        };
        Ok(messages.into_iter().filter_map(text).collect())
    }

    async fn within<T, F>(&self, doing: &str, deadline: Duration, answer: F) -> Result<T, Failure>
    where
        F: Future<Output = Result<T, tokio_postgres::Error>>,
    {
        match timeout(deadline, answer).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(cause)) => Err(self.failure(doing, &cause)),
            Err(_) => {
                let seconds = deadline.as_secs();
                let error = local(format!("could not {doing}: no answer from the server in {seconds} s"));
                Err(Failure { error, state: None, said: None, is_storage: false })
            }
        }
    }

    fn failure(&self, doing: &str, cause: &tokio_postgres::Error) -> Failure {
        let reason = match self.lost.get() {
            Some(lost) if cause.as_db_error().is_none() => format!("the connection was lost: {lost}"),
            _ => describe(cause),
        };
        let mut error = local(format!("could not {doing}: {reason}"));
        if let Some(hint) = cause.as_db_error().and_then(|server| server.hint()) {
            error = error.with_hint(hint);
        }
        let server = cause.as_db_error();
        Failure {
            error,
            state: cause.code().cloned(),
            said: server.map(|server| server.message().to_owned()),
            is_storage: server.and_then(|server| server.file()) == Some(STORAGE_MANAGER),
        }
    }

    /// Learns who answers and puts the session's settings in place.
    async fn set_up(&mut self) -> Result<()> {
        let facts = self
            .row(
                "read the server's version",
                "SELECT current_setting('server_version_num') AS version, pg_backend_pid()::text AS pid",
                &[],
                QUICK,
            )
            .await?;
        self.version = ServerVersion(facts.parse("version")?);
        self.backend_pid = facts.parse("pid")?;
        let mut settings = "SET search_path = pg_catalog; SET TimeZone = 'UTC'; SET DateStyle = 'ISO, YMD'; \
             SET statement_timeout = 0; SET lock_timeout = 0; SET idle_in_transaction_session_timeout = 0"
            .to_owned();
        if self.version.major() >= 14 {
            settings.push_str("; SET idle_session_timeout = 0");
        }
        if self.version.major() >= 17 {
            settings.push_str("; SET transaction_timeout = 0");
        }
        self.run("prepare the session", &settings).await?;
        Ok(())
    }
}

/// An error from the server and its SQLSTATE, for callers that know what a state means.
#[derive(Debug)]
pub(super) struct Failure {
    error: Error,
    state: Option<SqlState>,
    /// The server's message alone: its details may hold the content of a row.
    said: Option<String>,
    is_storage: bool,
}

impl Failure {
    /// The SQLSTATE, the message alone, and whether it was the storage manager that failed.
    pub(super) fn facts(&self) -> (Option<&str>, String, bool) {
        let said = self.said.clone().unwrap_or_else(|| self.error.to_string());
        (self.state.as_ref().map(SqlState::code), said, self.is_storage)
    }

    /// True when the server answered with `state`.
    pub(super) fn is(&self, state: &SqlState) -> bool {
        self.state.as_ref() == Some(state)
    }

    /// Says which rights to grant, if it was rights that were missing.
    pub(super) fn or_grant(self, statements: &str) -> Error {
        if self.is(&SqlState::INSUFFICIENT_PRIVILEGE) {
            self.error.with_hint(format!("run as a superuser: {statements}"))
        } else {
            self.error
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        failure.error
    }
}

/// One row whose columns are all text.
#[derive(Debug)]
pub(super) struct Answer(Row);

impl Answer {
    /// The text of `column`, if it is not null.
    pub(super) fn optional(&self, column: &str) -> Result<Option<&str>> {
        self.0.try_get(column).map_err(|cause| {
            let message = format!("could not read the server's answer \"{column}\": {}", describe(&cause));
            Error::new(ErrorKind::Bug, message)
        })
    }

    /// The text of `column`.
    pub(super) fn get(&self, column: &str) -> Result<&str> {
        self.optional(column)?.ok_or_else(|| local(format!("could not learn \"{column}\" from the server: it is null")))
    }

    /// The value of `column`.
    pub(super) fn parse<T: FromStr>(&self, column: &str) -> Result<T> {
        let text = self.get(column)?;
        text.parse().map_err(|_| local(format!("could not understand the server's \"{column}\": \"{text}\"")))
    }
}

pub(super) fn local(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::Local, message)
}

/// Drives the connection until it ends, and keeps the reason for whoever asks next.
fn watch<C>(connection: C, lost: Arc<SetOnce<String>>) -> JoinHandle<()>
where
    C: Future<Output = Result<(), tokio_postgres::Error>> + Send + 'static,
{
    tokio::spawn(async move {
        let reason = match connection.await {
            Ok(()) => "it was closed".to_owned(),
            Err(cause) => describe(&cause),
        };
        // Set once only, here.
        let _ = lost.set(reason);
    })
}

/// The cause in one line: what the server said, or what the network did.
pub(super) fn describe(cause: &tokio_postgres::Error) -> String {
    if let Some(server) = cause.as_db_error() {
        let detail = server.detail().map(|detail| format!(" ({detail})")).unwrap_or_default();
        return format!("{}: {}{detail} [{}]", server.severity(), server.message(), server.code().code());
    }
    let mut text = cause.to_string();
    let mut source = cause.source();
    while let Some(deeper) = source {
        let next = deeper.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        source = deeper.source();
    }
    text.strip_prefix("error connecting to server: ").map(str::to_owned).unwrap_or(text)
}
