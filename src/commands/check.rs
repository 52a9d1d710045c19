//! Can this host archive here: the store, the server and the archive, looked at and held against each other.

use std::path::PathBuf;

use chrono::{DateTime, Utc};

use crate::commands::archive::Archive;
use crate::commands::archive_state::ArchiveState;
use crate::commands::host_state::{self, HostState};
use crate::commands::store_access::try_store;
use crate::commands::survey::Survey;
use crate::domain::finding::{Finding, Severity};
use crate::domain::host_health::{self, Expected, FileFacts, Ownership};
use crate::domain::store_health::{self, StoreFacts};
use crate::domain::wal_flow::{self, ArchivedWal};
use crate::error::{Error, ErrorKind, Result};
use crate::postgres::conninfo::Conninfo;

/// What is to be checked.
#[derive(Debug)]
pub struct CheckRequest {
    /// The server.
    pub conninfo: Conninfo,
    /// Its data directory on this host; none: what the server says.
    pub pgdata: Option<PathBuf>,
    /// What the server should be set to.
    pub expected: Expected,
    /// The configuration file in use.
    pub config: Option<String>,
    /// It, and files with credentials.
    pub files: Vec<FileFacts>,
    /// The time it is.
    pub now: DateTime<Utc>,
}

/// What was found, in groups, the worst of each first.
#[derive(Debug, Clone, PartialEq)]
pub struct CheckReport {
    /// False where the store could not be asked at all.
    pub is_store_reached: bool,
    /// Of the store and the way there.
    pub store: Vec<Finding>,
    /// Of the server on this host.
    pub server: Vec<Finding>,
    /// Of what the archive holds.
    pub archive: Vec<Finding>,
}

impl CheckReport {
    /// How many findings are of `severity`.
    #[must_use]
    pub fn count(&self, severity: Severity) -> usize {
        let all = self.store.iter().chain(&self.server).chain(&self.archive);
        all.filter(|finding| finding.severity == severity).count()
    }
}

/// Looks at everything there is, and goes on where something cannot be looked at: what that is becomes a finding.
///
/// `archive` may be the error of opening it. The server is asked before the archive is listed, so that all it calls archived must
/// be in the listing. Requests: those of [`ArchiveState::read`] and some 15 small ones.
pub async fn check(archive: Result<Archive>, request: &CheckRequest) -> CheckReport {
    let (host, store) = futures::join!(look_at_host(request), async {
        match &archive {
            Ok(archive) => try_store(archive).await,
            Err(error) => Err(copy_of(error)),
        }
    });
    let (state, server) = host;
    let mut report = CheckReport {
        is_store_reached: store.is_ok(),
        store: host_health::files(request.config.as_deref(), &request.files),
        server,
        archive: Vec::new(),
    };
    report.store.extend(store_findings(&store));
    let seen = match (&archive, &store) {
        (Ok(archive), Ok(_)) => look_into(archive, request.now, &mut report.archive).await,
        _ => None,
    };
    if let Some(state) = &state {
        report.server.extend(host_health::settings(state, &request.expected));
        let history = state.history.as_ref();
        let archived = seen.as_ref().map(|seen| ArchivedWal {
            wal: &seen.survey.wal,
            history: history.or_else(|| seen.survey.histories.get(&state.timeline)),
        });
        report.server.extend(wal_flow::findings(state, archived));
        if let Some(seen) = &seen {
            let whose = host_health::identity(state.system_identifier, &seen.ownership, &request.expected);
            report.archive.push(whose);
        }
    }
    for group in [&mut report.store, &mut report.server, &mut report.archive] {
        group.sort_by_key(|finding| finding.severity);
    }
    report
}

fn copy_of(error: &Error) -> Error {
    let copy = Error::new(error.kind(), error.to_string());
    error.hint().into_iter().fold(copy, Error::with_hint)
}

fn store_findings(store: &Result<StoreFacts>) -> Vec<Finding> {
    match store {
        Ok(facts) => store_health::findings(facts),
        Err(error) => {
            let why = "nothing can be archived, and nothing restored; WAL piles up on this host meanwhile";
            let finding = Finding::new(Severity::Problem, "store-unreachable", error.to_string(), why);
            vec![error.hint().into_iter().fold(finding, Finding::with_next)]
        }
    }
}

/// The server's state, else what its data directory shows, else nothing; and what stood in the way.
async fn look_at_host(request: &CheckRequest) -> (Option<HostState>, Vec<Finding>) {
    let pgdata = request.pgdata.as_deref();
    let error = match host_state::read(&request.conninfo, pgdata).await {
        Ok(state) => {
            let version = state.version.map(|version| format!("PostgreSQL {version}")).unwrap_or_default();
            let role = if state.in_recovery { "a standby" } else { "a primary" };
            let what = format!("{version} answers, {role} on timeline {}", state.timeline);
            return (Some(state), vec![Finding::good("server-reachable", what)]);
        }
        Err(error) => error,
    };
    if error.kind() == ErrorKind::Mismatch {
        let why = "this check was told to look at a directory and a server that do not belong together";
        let finding = Finding::new(Severity::Problem, "data-directory", error.to_string(), why);
        return (None, vec![finding.with_next("correct --pgdata, or -d")]);
    }
    let why = "its settings, its archiver and its slots are not checked";
    let mut findings = vec![
        Finding::new(Severity::Unknown, "server-unreachable", error.to_string(), why)
            .with_next("barback check -d 'host=… user=postgres', as the user that PostgreSQL runs as"),
    ];
    let Some(pgdata) = pgdata else { return (None, findings) };
    match host_state::read_without_server(pgdata, request.now) {
        Ok(state) => (Some(state), findings),
        Err(error) => {
            let why = "neither the server nor its data directory can be looked at";
            findings.push(Finding::new(Severity::Unknown, "data-directory", error.to_string(), why));
            (None, findings)
        }
    }
}

/// What was seen of the archive.
struct Seen {
    survey: Survey,
    ownership: Ownership,
}

async fn look_into(archive: &Archive, now: DateTime<Utc>, findings: &mut Vec<Finding>) -> Option<Seen> {
    let state = match ArchiveState::read(archive, now).await {
        Ok(state) => state,
        Err(error) => {
            let why = "which backups there are, and how far they lead, is not known";
            findings.push(Finding::new(Severity::Problem, "archive-unreadable", error.to_string(), why));
            return None;
        }
    };
    findings.extend(state.findings());
    let recorded = archive.read_identity().await.unwrap_or_else(|error| {
        let why = "nothing can be archived before it is known whether this server may";
        findings.push(Finding::new(Severity::Problem, "identity", error.to_string(), why));
        None
    });
    let newest_backup =
        state.backups.iter().rev().find_map(|backup| Some((backup.id.clone(), backup.system_identifier?)));
    let recorded = recorded.map(|identity| identity.system_identifier);
    Some(Seen { survey: state.survey, ownership: Ownership { recorded, newest_backup } })
}
