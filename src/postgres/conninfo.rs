//! Which server to connect to, and how: libpq's rules for connection strings, `PG*` variables and defaults.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::conninfo_syntax::{self, Settings};
use crate::error::{Error, Result};
use crate::secret::Secret;

/// Where a socket is looked for when no host is named: Debian's and Red Hat's directory, then PostgreSQL's own.
pub const DEFAULT_SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];
/// The limit for connecting to one host when `connect_timeout` is not set; libpq would wait for ever.
pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How we are called in `pg_stat_activity` unless told otherwise.
pub const APPLICATION_NAME: &str = "barback";

const DEFAULT_PORT: u16 = 5432;
const DEFAULT_DATABASE: &str = "postgres";

/// Everything needed to connect; `Debug` does not show the password.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conninfo {
    /// Servers to try, in this order; never empty.
    pub endpoints: Vec<Endpoint>,
    /// The role.
    pub user: String,
    /// The database.
    pub dbname: String,
    /// The password, unless it is to be looked up in `passfile`.
    pub password: Option<Secret>,
    /// The password file; it need not exist.
    pub passfile: Option<PathBuf>,
    /// Whether and how to use TLS.
    pub tls: TlsOptions,
    /// The limit for connecting to one host.
    pub connect_timeout: Duration,
    /// How the session is called in `pg_stat_activity`.
    pub application_name: String,
    /// Command-line options for the server process.
    pub options: Option<String>,
    /// Which kind of server will do.
    pub session: TargetSession,
}

/// One server to try.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Socket or network address.
    pub address: Address,
    /// The port; part of a socket's file name too.
    pub port: u16,
}

/// How a server is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Address {
    /// The directory of a Unix-domain socket.
    Unix(PathBuf),
    /// TCP: the name certificates are checked against, and the address when it is not to be looked up.
    Tcp {
        /// Host name, or the address again when only that was given.
        host: String,
        /// `hostaddr`.
        address: Option<IpAddr>,
    },
}

/// `sslmode`, in libpq's meaning.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SslMode {
    /// Never TLS.
    Disable,
    /// Plain first, TLS if the server refuses.
    Allow,
    /// TLS first, plain if that fails.
    Prefer,
    /// TLS; the certificate is checked only if there are root certificates.
    Require,
    /// TLS with a certificate of a known authority.
    VerifyCa,
    /// TLS with a certificate of a known authority for this very host.
    VerifyFull,
}

/// Root certificates to check the server with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RootCertificates {
    /// The operating system's (`sslrootcert=system`).
    System,
    /// A PEM file that must exist.
    File(PathBuf),
    /// libpq's default file, used when it exists.
    IfExists(PathBuf),
    /// None known (no home directory).
    None,
}

/// A client certificate and its key, both PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientCertificate {
    /// The certificate chain.
    pub certificate: PathBuf,
    /// The private key.
    pub key: PathBuf,
    /// False for libpq's default files, which are used only when they exist.
    pub required: bool,
}

/// TLS options.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TlsOptions {
    /// How much TLS is wanted.
    pub mode: SslMode,
    /// What the server's certificate is checked against.
    pub roots: RootCertificates,
    /// Our own certificate.
    pub client: Option<ClientCertificate>,
}

/// `target_session_attrs`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TargetSession {
    /// The first that answers.
    Any,
    /// One that accepts writes.
    ReadWrite,
    /// One that does not.
    ReadOnly,
    /// One not in recovery.
    Primary,
    /// One in recovery.
    Standby,
    /// One in recovery if there is any.
    PreferStandby,
}

/// Environment variables that stand in for a keyword (libpq `PQconninfoOptions`).
const ENVIRONMENT: [(&str, &str); 27] = [
    ("PGHOST", "host"),
    ("PGHOSTADDR", "hostaddr"),
    ("PGPORT", "port"),
    ("PGUSER", "user"),
    ("PGDATABASE", "dbname"),
    ("PGPASSWORD", "password"),
    ("PGPASSFILE", "passfile"),
    ("PGSERVICE", "service"),
    ("PGOPTIONS", "options"),
    ("PGAPPNAME", "application_name"),
    ("PGCONNECT_TIMEOUT", "connect_timeout"),
    ("PGTARGETSESSIONATTRS", "target_session_attrs"),
    ("PGSSLMODE", "sslmode"),
    ("PGSSLROOTCERT", "sslrootcert"),
    ("PGSSLCERT", "sslcert"),
    ("PGSSLKEY", "sslkey"),
    ("PGSSLCRL", "sslcrl"),
    ("PGSSLCRLDIR", "sslcrldir"),
    ("PGSSLCERTMODE", "sslcertmode"),
    ("PGSSLNEGOTIATION", "sslnegotiation"),
    ("PGSSLMINPROTOCOLVERSION", "ssl_min_protocol_version"),
    ("PGSSLMAXPROTOCOLVERSION", "ssl_max_protocol_version"),
    ("PGREQUIREPEER", "requirepeer"),
    ("PGREQUIREAUTH", "require_auth"),
    ("PGCHANNELBINDING", "channel_binding"),
    ("PGGSSENCMODE", "gssencmode"),
    ("PGLOADBALANCEHOSTS", "load_balance_hosts"),
];

/// Keywords that do what they say.
const SUPPORTED: [&str; 16] = [
    "host",
    "hostaddr",
    "port",
    "user",
    "dbname",
    "password",
    "passfile",
    "connect_timeout",
    "options",
    "application_name",
    "fallback_application_name",
    "target_session_attrs",
    "sslmode",
    "sslrootcert",
    "sslcert",
    "sslkey",
];

/// Keywords accepted without effect: what they ask for holds anyway, or takes nothing away.
const WITHOUT_EFFECT: [&str; 12] = [
    "client_encoding",
    "keepalives",
    "keepalives_idle",
    "keepalives_interval",
    "keepalives_count",
    "tcp_user_timeout",
    "sslcompression",
    "sslsni",
    "krbsrvname",
    "gsslib",
    "gssdelegation",
    "min_protocol_version",
];

/// Keywords of libpq that are refused, because leaving them out could weaken or change the connection; with the
/// values that ask for nothing we do not do anyway.
const REFUSED_BUT: [(&str, &[&str]); 17] = [
    ("service", &[]),
    ("servicefile", &[]),
    ("replication", &["false", "off", "no", "0"]),
    ("requirepeer", &[]),
    ("require_auth", &[]),
    ("channel_binding", &["disable", "prefer"]),
    ("gssencmode", &["disable", "prefer"]),
    ("load_balance_hosts", &["disable"]),
    ("sslnegotiation", &["postgres"]),
    ("sslcertmode", &["allow"]),
    ("sslpassword", &[]),
    ("sslcrl", &[]),
    ("sslcrldir", &[]),
    ("sslkeylogfile", &[]),
    ("ssl_min_protocol_version", &["TLSv1", "TLSv1.1", "TLSv1.2"]),
    ("ssl_max_protocol_version", &["TLSv1.3"]),
    ("max_protocol_version", &["3.0", "latest"]),
];

impl Conninfo {
    /// Resolves a connection string against `PG*` variables and defaults, by libpq's rules.
    ///
    /// `environment` also gives `HOME` (password file, certificates) and `USER` or `LOGNAME` (default role).
    /// Unlike libpq the default database is `postgres`, not one called like the role, and connecting has a limit.
    /// An empty value means the default. Errors: `Usage` for a malformed string, an unknown or unsupported keyword.
    pub fn resolve(conninfo: Option<&str>, environment: &BTreeMap<String, String>) -> Result<Self> {
        Self::of_settings(conninfo_syntax::parse(conninfo.unwrap_or_default())?, environment)
    }

    /// The same, of a session that is called `application_name` unless the connection string itself says otherwise.
    pub fn resolve_named(
        conninfo: &str,
        environment: &BTreeMap<String, String>,
        application_name: &str,
    ) -> Result<Self> {
        let mut settings = conninfo_syntax::parse(conninfo)?;
        settings.entry("application_name".to_owned()).or_insert_with(|| application_name.to_owned());
        Self::of_settings(settings, environment)
    }

    /// The server whose socket lies in the directory `sockets`, which lets `user` in without a password.
    #[must_use]
    pub fn of_socket(sockets: &Path, port: u16, user: &str, dbname: &str, application_name: &str) -> Self {
        Self {
            endpoints: vec![Endpoint { address: Address::Unix(sockets.to_owned()), port }],
            user: user.to_owned(),
            dbname: dbname.to_owned(),
            password: None,
            passfile: None,
            tls: TlsOptions { mode: SslMode::Disable, roots: RootCertificates::None, client: None },
            connect_timeout: DEFAULT_CONNECT_TIMEOUT,
            application_name: application_name.to_owned(),
            options: None,
            session: TargetSession::Any,
        }
    }

    fn of_settings(mut settings: Settings, environment: &BTreeMap<String, String>) -> Result<Self> {
        for (variable, keyword) in ENVIRONMENT {
            if let Some(value) = environment.get(variable) {
                settings.entry(keyword.to_owned()).or_insert_with(|| value.clone());
            }
        }
        for (keyword, value) in &settings {
            check_keyword(keyword, value)?;
        }
        settings.retain(|_, value| !value.is_empty());

        let variable = |name: &str| environment.get(name).filter(|value| !value.is_empty()).cloned();
        let home = variable("HOME").map(PathBuf::from);
        let mut take = |keyword: &str| settings.remove(keyword);
        let user = take("user").or_else(|| variable("USER")).or_else(|| variable("LOGNAME")).ok_or_else(|| {
            Error::usage("could not tell the PostgreSQL user").with_hint("give it with user=… or PGUSER")
        })?;
        let fallback_name = take("fallback_application_name");
        Ok(Self {
            user,
            dbname: take("dbname").unwrap_or_else(|| DEFAULT_DATABASE.to_owned()),
            password: take("password").map(Secret::new),
            passfile: take("passfile").map(PathBuf::from).or_else(|| Some(home.as_ref()?.join(".pgpass"))),
            connect_timeout: connect_timeout(take("connect_timeout").as_deref())?,
            application_name: take("application_name").or(fallback_name).unwrap_or_else(|| APPLICATION_NAME.to_owned()),
            options: take("options"),
            session: target_session(take("target_session_attrs").as_deref())?,
            tls: tls_options(&mut settings, home.as_deref())?,
            endpoints: endpoints(&settings)?,
        })
    }
}

/// The connection string of Barman 3.19.1's `-h`, `-p`, `-U` and `-d`: `host=… port=… user=… dbname=…`.
///
/// A `dbname` with `=` in it, or an empty one, is the whole string already, and the others do not count. A value is
/// quoted when it is empty or has white space in it, and only then are quotes and backslashes in it escaped.
#[must_use]
pub fn of_options(host: Option<&str>, port: Option<&str>, user: Option<&str>, dbname: &str) -> String {
    if dbname.is_empty() || dbname.contains('=') {
        return dbname.to_owned();
    }
    let quoted = |value: &str| match value {
        "" => "''".to_owned(),
        plain if !plain.contains(char::is_whitespace) => plain.to_owned(),
        spaced => format!("'{}'", spaced.replace('\\', "\\\\").replace('\'', "\\'")),
    };
    let options = [("host", host), ("port", port), ("user", user), ("dbname", Some(dbname))];
    let given = options.into_iter().filter_map(|(name, value)| Some(format!("{name}={}", quoted(value?))));
    given.collect::<Vec<_>>().join(" ")
}

fn check_keyword(keyword: &str, value: &str) -> Result<()> {
    if SUPPORTED.contains(&keyword) || WITHOUT_EFFECT.contains(&keyword) {
        return Ok(());
    }
    match REFUSED_BUT.iter().find(|(refused, _)| *refused == keyword) {
        Some((_, harmless)) if value.is_empty() || harmless.contains(&value) => Ok(()),
        Some(("service", _)) => Err(Error::usage("connection service files are not supported")
            .with_hint("write the service's settings into the connection string or PG* variables")),
        Some((_, harmless)) => {
            let error = Error::usage(format!("connection keyword \"{keyword}\" is not supported"));
            Err(if harmless.is_empty() {
                error
            } else {
                error.with_hint(format!("leave it out or set it to {}", harmless.join(" or ")))
            })
        }
        None => Err(Error::usage(format!("unknown connection keyword \"{}\"", keyword.escape_debug()))),
    }
}

/// A value that is not one of those a keyword takes.
fn invalid(keyword: &str, value: &str, takes: &str) -> Error {
    Error::usage(format!("\"{}\" is not valid for {keyword}: {takes}", value.escape_debug()))
}

/// libpq treats zero and negative numbers like a missing one, and does not go below two seconds.
fn connect_timeout(value: Option<&str>) -> Result<Duration> {
    let Some(value) = value else { return Ok(DEFAULT_CONNECT_TIMEOUT) };
    let seconds: i32 =
        value.trim().parse().map_err(|_| invalid("connect_timeout", value, "it is a number of seconds"))?;
    Ok(match u64::try_from(seconds) {
        Ok(0) | Err(_) => DEFAULT_CONNECT_TIMEOUT,
        Ok(seconds) => Duration::from_secs(seconds.max(2)),
    })
}

fn target_session(value: Option<&str>) -> Result<TargetSession> {
    Ok(match value {
        None | Some("any") => TargetSession::Any,
        Some("read-write") => TargetSession::ReadWrite,
        Some("read-only") => TargetSession::ReadOnly,
        Some("primary") => TargetSession::Primary,
        Some("standby") => TargetSession::Standby,
        Some("prefer-standby") => TargetSession::PreferStandby,
        Some(other) => {
            let takes = "it is any, read-write, read-only, primary, standby or prefer-standby";
            return Err(invalid("target_session_attrs", other, takes));
        }
    })
}

/// Takes the `ssl*` settings out; `home` is where libpq's default files lie, in `.postgresql`.
fn tls_options(settings: &mut Settings, home: Option<&Path>) -> Result<TlsOptions> {
    let default_file = |name: &str| home.map(|home| home.join(".postgresql").join(name));
    let roots = match settings.remove("sslrootcert") {
        Some(word) if word == "system" => RootCertificates::System,
        Some(path) => RootCertificates::File(path.into()),
        None => default_file("root.crt").map_or(RootCertificates::None, RootCertificates::IfExists),
    };
    let word = settings.remove("sslmode");
    let mode = match word.as_deref() {
        None if roots == RootCertificates::System => SslMode::VerifyFull,
        None | Some("prefer") => SslMode::Prefer,
        Some("disable") => SslMode::Disable,
        Some("allow") => SslMode::Allow,
        Some("require") => SslMode::Require,
        Some("verify-ca") => SslMode::VerifyCa,
        Some("verify-full") => SslMode::VerifyFull,
        Some(other) => {
            let takes = "it is disable, allow, prefer, require, verify-ca or verify-full";
            return Err(invalid("sslmode", other, takes));
        }
    };
    if roots == RootCertificates::System && mode != SslMode::VerifyFull {
        let word = word.unwrap_or_default();
        return Err(Error::usage(format!("weak sslmode \"{word}\" may not be used with sslrootcert=system"))
            .with_hint("use sslmode=verify-full"));
    }
    let given = settings.remove("sslcert").map(PathBuf::from);
    let required = given.is_some();
    let key = settings.remove("sslkey").map(PathBuf::from).or_else(|| default_file("postgresql.key"));
    let client = given
        .or_else(|| default_file("postgresql.crt"))
        .zip(key)
        .map(|(certificate, key)| ClientCertificate { certificate, key, required });
    if required && client.is_none() {
        return Err(Error::usage("sslcert is given but sslkey is not"));
    }
    Ok(TlsOptions { mode, roots, client })
}

/// The servers to try: `host`, `hostaddr` and `port` are lists of equal length, or one port for all.
fn endpoints(settings: &Settings) -> Result<Vec<Endpoint>> {
    let list = |keyword: &str| -> Vec<&str> {
        settings.get(keyword).map(|value| value.split(',').map(str::trim).collect()).unwrap_or_default()
    };
    let (hosts, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
    let count = hosts.len().max(addresses.len()).max(1);
    if !hosts.is_empty() && !addresses.is_empty() && hosts.len() != addresses.len() {
        let message = format!("could not match {} hosts to {} hostaddr values", hosts.len(), addresses.len());
        return Err(Error::usage(message));
    }
    if ports.len() > 1 && ports.len() != count {
        return Err(Error::usage(format!("could not match {} ports to {count} hosts", ports.len())));
    }
    let mut endpoints = Vec::new();
    for at in 0..count {
        let item = |list: &[&str]| list.get(at).filter(|item| !item.is_empty()).map(|item| (*item).to_owned());
        let port = match if ports.len() == 1 { ports.first() } else { ports.get(at) } {
            None | Some(&"") => DEFAULT_PORT,
            Some(text) => text
                .parse()
                .ok()
                .filter(|port| *port > 0)
                .ok_or_else(|| invalid("port", text, "it is a number from 1 to 65535"))?,
        };
        for address in endpoint_addresses(item(&hosts), item(&addresses))? {
            endpoints.push(Endpoint { address, port });
        }
    }
    Ok(endpoints)
}

/// One host's address; a host nobody named is a socket in either default directory.
fn endpoint_addresses(host: Option<String>, address: Option<String>) -> Result<Vec<Address>> {
    let address: Option<IpAddr> = match address {
        Some(text) => Some(text.parse().map_err(|_| invalid("hostaddr", &text, "it is a numeric IP address"))?),
        None => None,
    };
    Ok(match (host, address) {
        (None, None) => DEFAULT_SOCKET_DIRECTORIES.iter().map(|path| Address::Unix(path.into())).collect(),
        (Some(path), None) if path.starts_with('/') => vec![Address::Unix(path.into())],
        (Some(name), None) if name.starts_with('@') => {
            return Err(invalid("host", &name, "sockets in the abstract namespace are not supported"));
        }
        (None, Some(address)) => vec![Address::Tcp { host: address.to_string(), address: Some(address) }],
        (Some(host), address) => vec![Address::Tcp { host, address }],
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(conninfo: &str, variables: &[(&str, &str)]) -> Result<Conninfo> {
        let mut environment =
            BTreeMap::from([("USER".to_owned(), "me".to_owned()), ("HOME".to_owned(), "/h".to_owned())]);
        environment.extend(variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())));
        Conninfo::resolve(Some(conninfo), &environment)
    }

    fn tcp(host: &str, port: u16) -> Endpoint {
        Endpoint { address: Address::Tcp { host: host.into(), address: None }, port }
    }

    #[test]
    fn options_become_the_connection_string_that_barman_makes_of_them() {
        let table: [(_, _, _, &str, &str); 7] = [
            (None, None, None, "postgres", "dbname=postgres"),
            (Some("/run/pg"), Some("5433"), Some("me"), "db", "host=/run/pg port=5433 user=me dbname=db"),
            (Some("h"), None, None, "service=x host=other", "service=x host=other"),
            (Some("h"), None, None, "", ""),
            (Some(""), None, Some("a b"), "db", "host='' user='a b' dbname=db"),
            (None, None, Some(r"o'b\ c"), "db", r"user='o\'b\\ c' dbname=db"),
            (None, None, Some(r"o'b\c"), "db", r"user=o'b\c dbname=db"),
        ];
        for (host, port, user, dbname, expected) in table {
            assert_eq!(of_options(host, port, user, dbname), expected);
        }
        let spaced = of_options(Some("a b"), None, Some("it's me"), "d b");
        let found = resolve(&spaced, &[]).unwrap();
        assert_eq!((found.user.as_str(), found.dbname.as_str()), ("it's me", "d b"));
    }

    #[test]
    fn a_session_has_the_name_it_is_given_unless_the_string_names_it() {
        let named = |conninfo: &str| {
            let environment = [("USER", "me"), ("PGAPPNAME", "env")];
            let environment = environment.map(|(name, value)| (name.to_owned(), value.to_owned())).into();
            Conninfo::resolve_named(conninfo, &environment, "barman_cloud_backup").unwrap().application_name
        };
        assert_eq!(named("dbname=x"), "barman_cloud_backup");
        assert_eq!(named("application_name=mine"), "mine");
        assert_eq!(named("postgresql:///x?application_name=mine"), "mine");
    }

    #[test]
    fn without_anything_the_default_sockets_and_the_database_postgres_are_used() {
        let found = resolve("", &[]).unwrap();
        let sockets: Vec<_> = DEFAULT_SOCKET_DIRECTORIES
            .iter()
            .map(|path| Endpoint { address: Address::Unix(path.into()), port: 5432 })
            .collect();
        assert_eq!(found.endpoints, sockets);
        assert_eq!((found.user.as_str(), found.dbname.as_str()), ("me", "postgres"));
        assert_eq!(found.passfile.as_deref(), Some(Path::new("/h/.pgpass")));
        assert_eq!(found.connect_timeout, DEFAULT_CONNECT_TIMEOUT);
        assert_eq!(found.application_name, "barback");
        assert_eq!(found.tls.mode, SslMode::Prefer);
    }

    #[test]
    fn the_string_wins_over_the_environment_and_an_empty_value_over_both() {
        let variables = [("PGHOST", "env"), ("PGPORT", "1"), ("PGDATABASE", "envdb"), ("PGPASSWORD", "p")];
        let found = resolve("host=given", &variables).unwrap();
        assert_eq!(found.endpoints, [tcp("given", 1)]);
        assert_eq!(found.dbname, "envdb");
        assert_eq!(found.password.unwrap().reveal(), "p");
        assert!(matches!(resolve("host=''", &variables).unwrap().endpoints[0].address, Address::Unix(_)));
        assert_eq!(resolve("given", &variables).unwrap().dbname, "given");
    }

    #[test]
    fn several_hosts_share_or_split_ports() {
        assert_eq!(resolve("host=a,b port=9", &[]).unwrap().endpoints, [tcp("a", 9), tcp("b", 9)]);
        assert_eq!(resolve("postgres://a:1,b/x", &[]).unwrap().endpoints, [tcp("a", 1), tcp("b", 5432)]);
        assert!(resolve("host=a,b,c port=1,2", &[]).is_err());
        assert!(resolve("host=a,b hostaddr=127.0.0.1", &[]).is_err());
        let address = Some("127.0.0.1".parse().unwrap());
        let found = resolve("host=a hostaddr=127.0.0.1", &[]).unwrap().endpoints;
        assert_eq!(found[0].address, Address::Tcp { host: "a".into(), address });
        let found = resolve("hostaddr=127.0.0.1", &[]).unwrap().endpoints;
        assert_eq!(found[0].address, Address::Tcp { host: "127.0.0.1".into(), address });
    }

    #[test]
    fn unknown_and_unsupported_keywords_are_refused_by_name() {
        for (conninfo, part) in [
            ("hots=a", "unknown connection keyword \"hots\""),
            ("service=x", "service files are not supported"),
            ("channel_binding=require", "\"channel_binding\" is not supported"),
            ("sslcrl=x", "\"sslcrl\" is not supported"),
            ("gssencmode=require", "\"gssencmode\" is not supported"),
            ("sslmode=maybe", "\"maybe\" is not valid for sslmode"),
            ("port=0", "\"0\" is not valid for port"),
            ("port=70000", "\"70000\" is not valid for port"),
            ("hostaddr=name", "\"name\" is not valid for hostaddr"),
            ("connect_timeout=soon", "\"soon\" is not valid for connect_timeout"),
            ("target_session_attrs=x", "\"x\" is not valid for target_session_attrs"),
            ("sslmode=require sslrootcert=system", "weak sslmode \"require\""),
            ("host=@x", "abstract"),
        ] {
            let error = resolve(conninfo, &[]).unwrap_err();
            assert!(error.to_string().contains(part), "{conninfo}: {error}");
        }
        assert!(resolve("", &[("PGSERVICE", "x")]).unwrap_err().to_string().contains("service"));
        assert!(resolve("channel_binding=prefer gssencmode=disable client_encoding=latin1", &[]).is_ok());
    }

    #[test]
    fn tls_files_default_to_the_home_directory() {
        let tls = resolve("sslmode=verify-ca", &[]).unwrap().tls;
        assert_eq!(tls.roots, RootCertificates::IfExists("/h/.postgresql/root.crt".into()));
        assert!(!tls.client.unwrap().required);
        let tls = resolve("sslrootcert=system", &[]).unwrap().tls;
        assert_eq!((tls.mode, tls.roots), (SslMode::VerifyFull, RootCertificates::System));
        let tls = resolve("", &[("PGSSLMODE", "require"), ("PGSSLCERT", "/c"), ("PGSSLKEY", "/k")]).unwrap().tls;
        let client = ClientCertificate { certificate: "/c".into(), key: "/k".into(), required: true };
        assert_eq!((tls.mode, tls.client), (SslMode::Require, Some(client)));
    }

    #[test]
    fn timeouts_follow_libpq() {
        for (text, seconds) in [("0", 10), ("-1", 10), ("1", 2), ("30", 30)] {
            let found = resolve(&format!("connect_timeout={text}"), &[]).unwrap();
            assert_eq!(found.connect_timeout.as_secs(), seconds, "{text}");
        }
    }

    #[test]
    fn passwords_are_not_printed() {
        let found = resolve("password=secret", &[]).unwrap();
        assert!(!format!("{found:?}").contains("secret"));
    }

    #[test]
    fn a_user_must_come_from_somewhere() {
        assert!(Conninfo::resolve(None, &BTreeMap::new()).is_err());
    }
}
