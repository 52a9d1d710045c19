//! Looking into a server that a drill has recovered: its indexes, its tables against those of the backup's time, the operator's own
//! queries, and PostgreSQL's own checker.
//!
//! What is said holds names, counts and times, and never the content of a row. Every step has a limit and ends on a signal.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use tokio::time::timeout;

use crate::commands::interrupt::Interrupt;
use crate::domain::drill::CheckOutcome;
use crate::domain::drill_checks::{DrillChecks, Judged, QueryCheck, judge, judge_refusal};
use crate::domain::measure::{count_of, human_duration};
use crate::domain::table_comparison::{DatabaseFound, DatabaseTables, compare, first_of};
use crate::error::{Error, ErrorKind, Result};
use crate::layout::drill_record::DrillCheck;
use crate::layout::table_snapshot::TableSnapshot;
use crate::postgres::amcheck::{self, Amcheck, AmcheckEnd, Scope};
use crate::postgres::connection::Session;
use crate::postgres::inspection::{self, LocalServer};
use crate::postgres::private_server::RunAs;
use crate::postgres::tables;

/// Where the names of all databases are read: one of them is there, unless somebody dropped both.
const FIRST_DATABASES: [&str; 2] = ["postgres", "template1"];

/// How long the look at the indexes of all databases may take, and that at all tables: catalogs and file sizes.
const LOOK: Duration = Duration::from_mins(10);

/// Beyond the limit of a query: its sessions, and its look at the query's text.
const GRACE: Duration = Duration::from_mins(1);

/// `pg_amcheck` looks at so many relations at once, at most.
const MOST_JOBS: usize = 4;

/// A server that was recovered from a backup, and what is known of it.
#[derive(Debug, Clone, Copy)]
pub struct Recovered<'a> {
    /// Where it listens, and as whom it is looked into.
    pub server: LocalServer<'a>,
    /// PostgreSQL's programs.
    pub bindir: &'a Path,
    /// Whether recovery has ended; else it is paused at its target, and the server can only be read.
    pub is_promoted: bool,
    /// User and group to run programs as.
    pub run_as: Option<RunAs>,
    /// The target, where it is a time.
    pub target_time: Option<DateTime<Utc>>,
    /// The time of the last commit that was replayed.
    pub last_replayed: Option<DateTime<Utc>>,
    /// Whether recovery went no further than the end of the backup (`immediate`): then nobody can have dropped a table since.
    pub ends_with_backup: bool,
}

/// Looks into the server, in this order: `indexes`, `tables` against the snapshot, each query, `amcheck`.
///
/// Before any query, foreign data is put out of reach in every database of a promoted copy, see
/// [`LocalServer::cut_off_foreign_data`]; in a paused one that cannot be, and databases with foreign servers are not asked. Gives
/// one check for each thing that was to be looked at: after a signal the others are inconclusive, with the signal as the reason.
pub async fn look_into(
    server: &Recovered<'_>,
    checks: &DrillChecks,
    tables: Option<&TableSnapshot>,
    interrupt: &Interrupt,
) -> Vec<DrillCheck> {
    let look = Look { server: *server, checks, interrupt };
    let databases = look.bounded(LOOK, look.databases()).await;
    let mut done = vec![
        look.check("indexes", "indexes", look.bounded(LOOK, look.indexes(&databases))).await,
        look.check("tables", "tables", look.bounded(LOOK, look.tables(&databases, tables))).await,
    ];
    let mut reach = BTreeMap::new();
    for query in &checks.queries {
        let database = query.database.as_str();
        if !reach.contains_key(database) {
            reach.insert(database, look.bounded(LOOK, look.prepare(&databases, database)).await);
        }
        let asked = look.bounded(checks.statement_timeout.saturating_add(GRACE), look.ask(&reach[database], query));
        let check = look.check(&query.name, query.expected.kind(), asked).await;
        let expected = query.expected.in_words(look.moment());
        done.push(DrillCheck { database: Some(query.database.clone()), expected: Some(expected), ..check });
    }
    done.push(look.check("amcheck", "amcheck", look.amcheck(&databases)).await);
    done
}

/// What may be said of a database before a query is asked there.
enum Reach {
    /// It can be asked.
    Open,
    /// It is not there.
    Missing,
}

/// A check without its name.
type Said = (Judged, Option<String>);

struct Look<'a> {
    server: Recovered<'a>,
    checks: &'a DrillChecks,
    interrupt: &'a Interrupt,
}

impl Look<'_> {
    /// Times a check, and makes whatever kept it from being carried out its reason.
    async fn check(&self, name: &str, kind: &str, work: impl Future<Output = Result<Said>>) -> DrillCheck {
        let began = Instant::now();
        let (judged, expected) = work.await.unwrap_or_else(|error| (Judged::inconclusive(error.to_string()), None));
        DrillCheck {
            name: name.to_owned(),
            kind: kind.to_owned(),
            database: None,
            outcome: judged.outcome,
            expected,
            found: judged.found,
            detail: judged.detail,
            took_ms: u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }

    /// Ends work that takes longer than `limit`, and on a signal.
    async fn bounded<T>(&self, limit: Duration, work: impl Future<Output = Result<T>>) -> Result<T> {
        self.interrupt.check()?;
        tokio::select! {
            done = timeout(limit, work) => done.map_err(|_| {
                Error::new(ErrorKind::Local, format!("the server did not answer within {}", human_duration(limit)))
            })?,
            () = self.interrupt.stopped() => {
                self.interrupt.check()?;
                Err(Error::new(ErrorKind::Interrupted, "stopped"))
            }
        }
    }

    /// The moment to which was recovered.
    fn moment(&self) -> Option<DateTime<Utc>> {
        self.server.target_time.or(self.server.last_replayed)
    }

    async fn databases(&self) -> Result<BTreeSet<String>> {
        let mut failure = None;
        for database in FIRST_DATABASES {
            match self.server.server.read_only(database).await {
                Ok(session) => return Ok(tables::databases(&session, tables::PATIENT).await?.into_iter().collect()),
                Err(error) => failure = failure.or(Some(error)),
            }
        }
        Err(failure.unwrap_or_else(|| Error::new(ErrorKind::Bug, "no database was tried")))
    }

    /// Invalid indexes are told and no more: a `CREATE INDEX CONCURRENTLY` that failed, or was running, left them in the source.
    async fn indexes(&self, databases: &Result<BTreeSet<String>>) -> Result<Said> {
        let (mut named, mut count) = (Vec::new(), 0);
        for database in known(databases)? {
            let session = self.server.server.read_only(database).await?;
            let (names, total) = inspection::invalid_indexes(&session).await?;
            count += total;
            named.extend(names.into_iter().map(|name| format!("{database}.{name}")));
            close(session).await;
        }
        let outcome = if count == 0 { CheckOutcome::Pass } else { CheckOutcome::Notice };
        let detail = (count > 0).then(|| {
            format!(
                "{}; they may have been so in the source, and are not used until they are built anew",
                first_of(&named)
            )
        });
        let judged = Judged { outcome, found: Some(format!("{count} invalid")), detail };
        Ok((judged, Some("no invalid index".to_owned())))
    }

    async fn tables(&self, databases: &Result<BTreeSet<String>>, snapshot: Option<&TableSnapshot>) -> Result<Said> {
        let Some(snapshot) = snapshot else {
            let why = "the backup has no snapshot of its tables";
            return Ok((Judged { outcome: CheckOutcome::Skipped, found: None, detail: Some(why.to_owned()) }, None));
        };
        let there = known(databases)?;
        let mut found = BTreeMap::new();
        for (name, tables) in &snapshot.databases {
            let looked = if there.contains(name) {
                self.tables_of(name, tables).await.unwrap_or_else(|error| DatabaseFound::Unknown(error.to_string()))
            } else {
                DatabaseFound::Missing
            };
            found.insert(name.clone(), looked);
        }
        let comparison = compare(&snapshot.databases, &found);
        let (tables, databases) = (count_of(comparison.tables, "table"), count_of(comparison.databases, "database"));
        let missing = comparison.missing.len();
        let judged = Judged {
            outcome: comparison.outcome(self.server.ends_with_backup),
            found: Some(if missing == 0 { "all of them".to_owned() } else { format!("{missing} missing") }),
            detail: comparison.in_words(),
        };
        Ok((judged, Some(format!("{tables} in {databases}, as when the backup was taken"))))
    }

    async fn tables_of(&self, database: &str, tables: &DatabaseTables) -> Result<DatabaseFound> {
        let session = self.server.server.read_only(database).await?;
        let found = tables::named(&session, tables.tables.keys(), LOOK).await?;
        close(session).await;
        Ok(DatabaseFound::Tables(found))
    }

    /// Makes a database one that may be asked.
    async fn prepare(&self, databases: &Result<BTreeSet<String>>, database: &str) -> Result<Reach> {
        if !known(databases)?.contains(database) {
            return Ok(Reach::Missing);
        }
        let server = self.server.server;
        if self.server.is_promoted {
            let wrappers = server.cut_off_foreign_data(database).await?;
            tracing::debug!("{wrappers} foreign data wrappers of database \"{database}\" were put out of reach");
            return Ok(Reach::Open);
        }
        let session = server.read_only(database).await?;
        let reaches = inspection::reaches_foreign_data(&session).await?;
        close(session).await;
        if reaches {
            let message =
                "the database knows foreign servers, which cannot be put out of reach while recovery is paused";
            return Err(Error::new(ErrorKind::Local, message));
        }
        Ok(Reach::Open)
    }

    async fn ask(&self, reach: &Result<Reach>, query: &QueryCheck) -> Result<Said> {
        let judged = match reach {
            Err(error) => Judged::inconclusive(error.to_string()),
            Ok(Reach::Missing) => Judged {
                outcome: CheckOutcome::Fail,
                found: None,
                detail: Some(format!("there is no database \"{}\" that takes connections", query.database)),
            },
            Ok(Reach::Open) => {
                let session = self.server.server.read_only(&query.database).await?;
                let answer = inspection::ask(&session, &query.query, self.checks.statement_timeout).await;
                close(session).await;
                match answer {
                    Ok(answer) => judge(&query.expected, &answer, self.moment()),
                    Err(refused) => judge_refusal(&refused),
                }
            }
        };
        Ok((judged, None))
    }

    async fn amcheck(&self, databases: &Result<BTreeSet<String>>) -> Result<Said> {
        let skipped = |why: String| Judged { outcome: CheckOutcome::Skipped, found: None, detail: Some(why) };
        let Some(budget) = self.checks.amcheck else { return Ok((skipped("it is not asked for".to_owned()), None)) };
        let program = self.server.bindir.join(amcheck::PROGRAM);
        if !program.is_file() {
            let why = format!("{} is not installed with this PostgreSQL", amcheck::PROGRAM);
            return Ok((skipped(why), None));
        }
        let all = known(databases)?;
        let scope = match self.bounded(LOOK, self.scope(all)).await? {
            Ok(scope) => scope,
            Err(why) => return Ok((skipped(why), None)),
        };
        let partly = match &scope {
            Scope::InRecovery(some) if some.len() < all.len() => {
                Some(format!("only in {} of {} databases, where the extension is", some.len(), all.len()))
            }
            Scope::InRecovery(_) => Some("without parents of index pages, while recovery is paused".to_owned()),
            Scope::All => None,
        };
        let (judged, budget) = (self.run_amcheck(program, scope, budget).await?, human_duration(budget));
        let judged = self.unless_sorted_otherwise(judged, all).await?;
        let detail = [judged.detail, partly].into_iter().flatten().collect::<Vec<_>>().join("; ");
        let detail = (!detail.is_empty()).then_some(detail);
        Ok((Judged { detail, ..judged }, Some(format!("nothing damaged, within {budget}"))))
    }

    /// Where this host sorts text in another way than the source did, indexes look damaged that are not.
    async fn unless_sorted_otherwise(&self, judged: Judged, databases: &BTreeSet<String>) -> Result<Judged> {
        let is_of_tables = judged.detail.as_deref().is_some_and(|detail| detail.contains("heap table"));
        if judged.outcome != CheckOutcome::Fail || is_of_tables {
            return Ok(judged);
        }
        for database in databases {
            let session = self.server.server.read_only(database).await?;
            let other = inspection::other_collation(&session).await?;
            close(session).await;
            if let Some(other) = other {
                let detail = format!(
                    "this host sorts text in another way than the source ({other}), which looks the same: {}",
                    judged.detail.unwrap_or_default()
                );
                return Ok(Judged { outcome: CheckOutcome::Inconclusive, found: judged.found, detail: Some(detail) });
            }
        }
        Ok(judged)
    }

    /// Where `pg_amcheck` can look, or why nowhere.
    async fn scope(&self, databases: &BTreeSet<String>) -> Result<Result<Scope, String>> {
        let mut with_extension = Vec::new();
        for database in databases {
            let session = self.server.server.read_only(database).await?;
            let (is_there, is_available) = inspection::amcheck_extension(&session).await?;
            close(session).await;
            if !is_there && !is_available {
                return Ok(Err("the contrib extension amcheck is not installed with this PostgreSQL".to_owned()));
            }
            if self.server.is_promoted {
                return Ok(Ok(Scope::All));
            }
            if is_there {
                with_extension.push(database.clone());
            }
        }
        if with_extension.is_empty() {
            let why = "recovery is paused, and no database has the extension amcheck, which cannot be made then";
            return Ok(Err(why.to_owned()));
        }
        Ok(Ok(Scope::InRecovery(with_extension)))
    }

    async fn run_amcheck(&self, program: std::path::PathBuf, scope: Scope, budget: Duration) -> Result<Judged> {
        let (sockets, role) = (self.server.server.sockets.to_owned(), self.server.server.role.to_owned());
        let (port, run_as, interrupt) = (self.server.server.port, self.server.run_as, self.interrupt.clone());
        let jobs = std::thread::available_parallelism().map_or(1, usize::from).min(MOST_JOBS);
        let running = tokio::task::spawn_blocking(move || {
            let server = LocalServer { sockets: &sockets, port, role: &role };
            let run = Amcheck { program: &program, server, run_as, scope, jobs, budget };
            run.run(&|| interrupt.check().is_err())
        });
        let ended = running
            .await
            .map_err(|error| Error::new(ErrorKind::Bug, format!("{} failed: {error}", amcheck::PROGRAM)))?;
        // A signal has a better word for it.
        self.interrupt.check()?;
        let of = |outcome, found: &str, detail| Judged { outcome, found: Some(found.to_owned()), detail };
        Ok(match ended? {
            AmcheckEnd::Sound => of(CheckOutcome::Pass, "nothing damaged", None),
            AmcheckEnd::Damaged(lines) => of(CheckOutcome::Fail, "damage", Some(lines.join("; "))),
            AmcheckEnd::Failed(why) => Judged::inconclusive(why),
            AmcheckEnd::OutOfTime => {
                let spent = human_duration(budget);
                let why = format!("its {spent} were over before it had looked at everything");
                of(CheckOutcome::Notice, "nothing damaged until then", Some(why))
            }
        })
    }
}

/// The databases, or again why they are not known.
fn known(databases: &Result<BTreeSet<String>>) -> Result<&BTreeSet<String>> {
    databases.as_ref().map_err(|error| Error::new(error.kind(), error.to_string()))
}

/// Nothing depends on the goodbye.
async fn close(session: Session) {
    if let Err(error) = session.close().await {
        tracing::debug!("{error}");
    }
}
