//! Finding a server that answers: libpq's order of hosts, its attempts with and without TLS, and its refusals.

use std::error::Error as _;
use std::io::ErrorKind as IoErrorKind;
use std::path::Path;
use std::time::Duration;

use tokio::time::timeout;
use tokio_postgres::Config;
use tokio_postgres::config::SslMode as WireMode;
use tokio_postgres::error::SqlState;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::connection::{QUICK, Session, describe, local};
use super::conninfo::{Address, Conninfo, DEFAULT_SOCKET_DIRECTORIES, Endpoint, SslMode, TargetSession};
use super::passfile::{Login, PasswordFile};
use super::tls;
use crate::error::{Error, ErrorKind, Result};

/// How long TCP may be silent before a probe is sent: firewalls forget idle connections during hours of copying.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(30);
/// Time between unanswered probes.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(10);

/// Connects to the first server of `conninfo` that answers and is of the kind asked for.
pub(super) async fn to_any(conninfo: &Conninfo) -> Result<Session> {
    let passwords = match (&conninfo.password, &conninfo.passfile) {
        (None, Some(path)) => PasswordFile::read(path),
        _ => PasswordFile::default(),
    };
    if let Some(warning) = &passwords.warning {
        tracing::warn!("{warning}");
    }
    let mut second_choice = None;
    let mut failures: Vec<Refusal> = Vec::new();
    for endpoint in &conninfo.endpoints {
        match connect_to(conninfo, endpoint, &passwords).await {
            Ok(session) => match suits(&session, conninfo.session).await? {
                Suits::Yes => return Ok(session),
                Suits::IfNothingElse => second_choice = second_choice.or(Some(session)),
                Suits::No(why) => {
                    failures.push(Refusal::passing(why, endpoint));
                    session.close().await?;
                }
            },
            Err(refusal) => {
                let last = refusal.is_final;
                failures.push(refusal);
                if last {
                    break;
                }
            }
        }
    }
    second_choice.ok_or_else(|| could_not_connect(failures))
}

async fn suits(session: &Session, wanted: TargetSession) -> Result<Suits> {
    if wanted == TargetSession::Any {
        return Ok(Suits::Yes);
    }
    let sql = "SELECT pg_is_in_recovery()::text AS standby, current_setting('transaction_read_only') AS read_only";
    let row = session.row("ask whether the server is a standby", sql, &[], QUICK).await?;
    let standby = row.get("standby")? == "true";
    let read_only = row.get("read_only")? == "on";
    let unless = |suits: bool, why| if suits { Suits::Yes } else { Suits::No(why) };
    Ok(match wanted {
        TargetSession::Any => Suits::Yes,
        TargetSession::ReadWrite => unless(!read_only, "session is read-only"),
        TargetSession::ReadOnly => unless(read_only, "session is not read-only"),
        TargetSession::Primary => unless(!standby, "server is in hot standby mode"),
        TargetSession::Standby => unless(standby, "server is not in hot standby mode"),
        TargetSession::PreferStandby if standby => Suits::Yes,
        TargetSession::PreferStandby => Suits::IfNothingElse,
    })
}

enum Suits {
    Yes,
    IfNothingElse,
    No(&'static str),
}

/// Why one server is not used.
struct Refusal {
    error: Error,
    endpoint: String,
    /// True when the search ends here: credentials were refused, or our own files are unusable.
    is_final: bool,
    /// True for a missing socket in a default directory: of interest only when there is no better reason.
    is_minor: bool,
}

impl Refusal {
    fn passing(why: impl Into<String>, endpoint: &Endpoint) -> Self {
        Self { error: local(why), endpoint: name(endpoint), is_final: false, is_minor: false }
    }
}

/// Tries one server, with and without TLS as `sslmode` says.
async fn connect_to(conninfo: &Conninfo, endpoint: &Endpoint, files: &PasswordFile) -> Result<Session, Refusal> {
    let fatal = |error| Refusal { error, endpoint: name(endpoint), is_final: true, is_minor: false };
    let config = wire_config(conninfo, endpoint, files);
    let mode = match endpoint.address {
        // PostgreSQL has no TLS on Unix-domain sockets, and libpq ignores sslmode there.
        Address::Unix(_) => SslMode::Disable,
        Address::Tcp { .. } => conninfo.tls.mode,
    };
    let connector = match mode {
        SslMode::Disable => None,
        _ => Some(tls::connector(&conninfo.tls).map_err(fatal)?),
    };
    let attempts: &[WireMode] = match mode {
        SslMode::Disable => &[WireMode::Disable],
        SslMode::Allow => &[WireMode::Disable, WireMode::Require],
        SslMode::Prefer => &[WireMode::Prefer, WireMode::Disable],
        SslMode::Require | SslMode::VerifyCa | SslMode::VerifyFull => &[WireMode::Require],
    };
    let mut first: Option<Refusal> = None;
    for wire_mode in attempts {
        let mut config = config.clone();
        config.ssl_mode(*wire_mode);
        match attempt(conninfo, endpoint, &config, connector.clone()).await {
            Ok(session) => return Ok(session),
            Err((refusal, other_encryption_may_help)) => {
                let refusal = first.take().unwrap_or(refusal);
                if !other_encryption_may_help {
                    return Err(refusal);
                }
                first = Some(refusal);
            }
        }
    }
    Err(first.unwrap_or_else(|| Refusal::passing("no way to connect was tried", endpoint)))
}

/// One attempt; a refusal comes with whether the other kind of encryption is worth a try.
async fn attempt(
    conninfo: &Conninfo,
    endpoint: &Endpoint,
    config: &Config,
    tls: Option<MakeRustlsConnect>,
) -> Result<Session, (Refusal, bool)> {
    let opened = timeout(conninfo.connect_timeout, open(conninfo, endpoint, config, tls)).await;
    let Ok(opened) = opened else {
        let why = format!("no answer in {} s", conninfo.connect_timeout.as_secs());
        return Err((Refusal::passing(why, endpoint), false));
    };
    opened.map_err(|opening| match opening {
        Opening::SetUp(error) => (Refusal { error, endpoint: name(endpoint), is_final: true, is_minor: false }, false),
        Opening::Connect(cause) => {
            let refused = cause.as_db_error().is_some();
            let starting = cause.code() == Some(&SqlState::CANNOT_CONNECT_NOW);
            let missing_server =
                matches!(io_kind(&cause), Some(IoErrorKind::NotFound | IoErrorKind::ConnectionRefused));
            let mut error = local(describe(&cause));
            if let Some(hint) = connect_hint(&cause, missing_server) {
                error = error.with_hint(hint);
            }
            let is_final = (refused && !starting) || lacks_password(&cause);
            let is_minor = missing_server && is_default_socket(endpoint);
            (Refusal { error, endpoint: name(endpoint), is_final, is_minor }, !missing_server)
        }
    })
}

enum Opening {
    Connect(tokio_postgres::Error),
    SetUp(Error),
}

async fn open(
    conninfo: &Conninfo,
    endpoint: &Endpoint,
    config: &Config,
    tls: Option<MakeRustlsConnect>,
) -> Result<Session, Opening> {
    let (place, user) = (name(endpoint), conninfo.user.clone());
    let session = if let Some(tls) = tls {
        let (client, connection) = config.connect(tls).await.map_err(Opening::Connect)?;
        Session::begin(client, connection, place, user).await
    } else {
        let (client, connection) = config.connect(tokio_postgres::NoTls).await.map_err(Opening::Connect)?;
        Session::begin(client, connection, place, user).await
    };
    session.map_err(Opening::SetUp)
}

fn wire_config(conninfo: &Conninfo, endpoint: &Endpoint, files: &PasswordFile) -> Config {
    let mut config = Config::new();
    config
        .user(&conninfo.user)
        .dbname(&conninfo.dbname)
        .application_name(&conninfo.application_name)
        .port(endpoint.port)
        .keepalives(true)
        .keepalives_idle(KEEPALIVE_IDLE)
        .keepalives_interval(KEEPALIVE_INTERVAL);
    match &endpoint.address {
        Address::Unix(directory) => {
            config.host_path(directory);
        }
        Address::Tcp { host, address } => {
            config.host(host);
            if let Some(address) = address {
                config.hostaddr(*address);
            }
        }
    }
    if let Some(options) = &conninfo.options {
        config.options(options);
    }
    let login =
        Login { host: login_host(endpoint), port: endpoint.port, dbname: &conninfo.dbname, user: &conninfo.user };
    if let Some(password) = conninfo.password.clone().or_else(|| files.password(login)) {
        config.password(password.reveal());
    }
    config
}

/// The host as password files know it: `localhost` for the default socket directories.
fn login_host(endpoint: &Endpoint) -> &str {
    match &endpoint.address {
        Address::Tcp { host, .. } => host,
        Address::Unix(_) if is_default_socket(endpoint) => "localhost",
        Address::Unix(path) => path.to_str().unwrap_or_default(),
    }
}

fn is_default_socket(endpoint: &Endpoint) -> bool {
    let is = |path: &Path| DEFAULT_SOCKET_DIRECTORIES.iter().any(|default| path == Path::new(default));
    matches!(&endpoint.address, Address::Unix(path) if is(path))
}

/// How messages call a server: `host:port`, or a socket's path.
fn name(endpoint: &Endpoint) -> String {
    match &endpoint.address {
        Address::Unix(directory) => format!("{}/.s.PGSQL.{}", directory.display(), endpoint.port),
        Address::Tcp { host, .. } if host.contains(':') => format!("[{host}]:{}", endpoint.port),
        Address::Tcp { host, .. } => format!("{host}:{}", endpoint.port),
    }
}

/// The one error for all servers tried. A default socket that does not exist is not worth a word beside a better one.
fn could_not_connect(mut failures: Vec<Refusal>) -> Error {
    if failures.iter().any(|refusal| !refusal.is_minor) {
        failures.retain(|refusal| !refusal.is_minor);
    }
    let kind = failures.last().map_or(ErrorKind::Bug, |refusal| refusal.error.kind());
    let hint = failures.iter().rev().find_map(|refusal| refusal.error.hint().map(str::to_owned));
    let texts: Vec<String> = failures
        .iter()
        .map(|refusal| format!("could not connect to PostgreSQL at \"{}\": {}", refusal.endpoint, refusal.error))
        .collect();
    let error = Error::new(kind, texts.join("; "));
    match hint {
        Some(hint) => error.with_hint(hint),
        None => error,
    }
}

fn connect_hint(cause: &tokio_postgres::Error, missing_server: bool) -> Option<String> {
    let code = cause.code();
    if code == Some(&SqlState::INVALID_PASSWORD) {
        return Some("check the password: PGPASSWORD, the password file or password=… is used".to_owned());
    }
    if code == Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION) {
        return Some("check the role and the lines for it in the server's pg_hba.conf".to_owned());
    }
    if let Some(hint) = cause.as_db_error().and_then(|server| server.hint()) {
        return Some(hint.to_owned());
    }
    if lacks_password(cause) {
        return Some("give a password with PGPASSWORD or in ~/.pgpass".to_owned());
    }
    missing_server.then(|| "is the server running there and accepting connections?".to_owned())
}

/// True when the server wants a password and we have none; the library tells this by its text only.
fn lacks_password(cause: &tokio_postgres::Error) -> bool {
    cause.source().is_some_and(|source| source.to_string() == "password missing")
}

/// What the operating system said, if it was the operating system.
fn io_kind(cause: &tokio_postgres::Error) -> Option<IoErrorKind> {
    let mut source = cause.source();
    while let Some(deeper) = source {
        if let Some(io) = deeper.downcast_ref::<std::io::Error>() {
            return Some(io.kind());
        }
        source = deeper.source();
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn conninfo(text: &str) -> Conninfo {
        let environment = BTreeMap::from([("USER".to_owned(), "me".to_owned())]);
        Conninfo::resolve(Some(text), &environment).unwrap()
    }

    #[test]
    fn servers_are_named_as_people_write_them() {
        let names = |text: &str| conninfo(text).endpoints.iter().map(name).collect::<Vec<_>>();
        assert_eq!(names("host=/run/pg port=9"), ["/run/pg/.s.PGSQL.9"]);
        assert_eq!(names("host=db,::1"), ["db:5432", "[::1]:5432"]);
    }

    #[test]
    fn default_sockets_look_up_the_password_of_localhost() {
        let hosts = |text: &str| conninfo(text).endpoints.iter().map(|e| login_host(e).to_owned()).collect::<Vec<_>>();
        assert_eq!(hosts(""), ["localhost", "localhost"]);
        assert_eq!(hosts("host=/run/pg"), ["/run/pg"]);
        assert_eq!(hosts("host=db"), ["db"]);
    }

    #[tokio::test]
    async fn a_missing_server_is_named_with_a_hint() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().display();
        let error = Session::connect(&conninfo(&format!("host={path} port=7"))).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Local);
        let expected = format!("could not connect to PostgreSQL at \"{path}/.s.PGSQL.7\": No such file or directory");
        assert!(error.to_string().starts_with(&expected), "{error}");
        assert!(error.hint().unwrap().contains("running"));
    }

    #[tokio::test]
    async fn a_server_that_never_answers_is_given_up_on() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let text = format!("host=127.0.0.1 port={port} connect_timeout=2 sslmode=disable");
        let error = Session::connect(&conninfo(&text)).await.unwrap_err();
        assert!(error.to_string().ends_with("no answer in 2 s"), "{error}");
    }

    #[tokio::test]
    async fn a_root_certificate_that_is_demanded_must_exist() {
        let text = "host=127.0.0.1 port=1 sslmode=verify-full sslrootcert=/nonexistent/root.crt";
        let error = Session::connect(&conninfo(text)).await.unwrap_err();
        assert!(error.to_string().contains("/nonexistent/root.crt"), "{error}");
    }
}
