//! Recovery to a moment on real PostgreSQL: every kind of target stops exactly where it was asked to.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails the test that called it")]

use std::fmt::Write as _;
use std::time::Duration;

use crate::harness::{Cluster, ClusterOptions, PgVersion, Postgres, S3Server, Site, for_each_version, snapshot};

/// How long a server may take to replay what a test wrote.
const PATIENCE: Duration = Duration::from_mins(1);
/// A restore point whose name every layer of quoting could break.
const POINT: &str = "it's 100% \\ \"safe\"";
/// A commit record without anything special is 40 bytes long; another record beside it, or a page's header, makes it more.
const LONE_COMMIT_BYTES: u64 = 48;

/// One committed row of the known history.
#[derive(Debug)]
struct Event {
    n: usize,
    xid: String,
    /// When it was committed, as the server recorded it, to the microsecond.
    time: String,
    /// Where the commit record begins.
    lsn: String,
    /// Whether nothing else was written between the reading of `lsn` and the commit.
    is_exact: bool,
}

/// Seven rows, each its own transaction: 1, backup `first`, 2 to 4, the restore point, 5, backup `second`, 6 and 7.
struct History {
    events: Vec<Event>,
    first: String,
    second: String,
}

impl History {
    fn write(site: &Site, primary: &Cluster) -> Self {
        primary.psql("CREATE TABLE history (n int PRIMARY KEY, filler text)");
        let mut events = vec![commit(primary, 1)];
        let first = site.backup(primary);
        events.extend((2..=4).map(|n| commit(primary, n)));
        primary.psql(&format!("SELECT pg_create_restore_point('{}')", POINT.replace('\'', "''")));
        events.push(commit(primary, 5));
        let second = site.backup(primary);
        events.extend((6..=7).map(|n| commit(primary, n)));
        primary.archive_everything();
        Self { events, first, second }
    }

    fn event(&self, n: usize) -> &Event {
        &self.events[n - 1]
    }

    /// One between the two backups whose commit record's place is known to the byte.
    fn exact(&self) -> &Event {
        self.events[1..4].iter().find(|event| event.is_exact).expect("an idle server writes nothing in between")
    }
}

fn commit(cluster: &Cluster, n: usize) -> Event {
    let answer = cluster.psql(&format!(
        "BEGIN; INSERT INTO history VALUES ({n}, repeat('x', 500)) RETURNING pg_current_xact_id(); \
         SELECT pg_current_wal_insert_lsn(); COMMIT; SELECT pg_current_wal_insert_lsn()"
    ));
    let lines: Vec<&str> = answer.lines().collect();
    let [xid, lsn, after] = lines.as_slice() else { panic!("{answer}") };
    let sql = format!(
        "SELECT to_char(pg_xact_commit_timestamp('{xid}'::xid) AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || '+00', \
         pg_wal_lsn_diff('{after}', '{lsn}')"
    );
    let answer = cluster.psql(&sql);
    let (time, bytes) = answer.split_once('|').unwrap();
    Event {
        n,
        xid: (*xid).to_owned(),
        time: time.to_owned(),
        lsn: (*lsn).to_owned(),
        is_exact: bytes.parse::<u64>().unwrap() <= LONE_COMMIT_BYTES,
    }
}

/// Which rows are there: `1,2,3`.
fn rows(cluster: &Cluster) -> String {
    cluster.psql("SELECT string_agg(n::text, ',' ORDER BY n) FROM history")
}

fn up_to(n: usize) -> String {
    let mut text = String::from("1");
    (2..=n).for_each(|n| write!(text, ",{n}").unwrap());
    text
}

/// `pg_ctl start` may return before or after a server that ends by itself has ended.
fn wait_for_end(cluster: &Cluster) {
    let started = std::time::Instant::now();
    while cluster.is_running() {
        assert!(started.elapsed() < PATIENCE, "{}", cluster.log());
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Restores with `target`, promotes, and expects rows 1 to `last`, from the backup `from`, in a copy that does not archive.
fn expect(site: &Site, name: &str, target: &[&str], (from, last): (&str, usize)) {
    let args = [target, &["--target-action", "promote"]].concat();
    let restored = site.restore(name, if target.is_empty() { target } else { &args });
    assert_eq!(restored.backup_id, from, "{target:?}");
    restored.promoted(|copy| {
        assert_eq!(rows(copy), up_to(last), "{target:?}");
        assert_eq!(copy.psql("SHOW archive_mode"), "off");
        assert_eq!(copy.psql("SELECT timeline_id FROM pg_control_checkpoint()"), "2");
    });
}

fn every_target_stops_where_it_was_asked_to(version: &PgVersion, site: &Site) {
    let mut primary = site.primary(ClusterOptions::default());
    let history = History::write(site, &primary);
    primary.stop("fast");
    let (first, second) = (history.first.as_str(), history.second.as_str());
    let (third, sixth, exact) = (history.event(3), history.event(6), history.exact());

    expect(site, "time", &["--target-time", &third.time], (first, 3));
    expect(site, "time-x", &["--target-time", &third.time, "--exclusive"], (first, 2));
    expect(site, "lsn", &["--target-lsn", &exact.lsn], (first, exact.n));
    expect(site, "lsn-x", &["--target-lsn", &exact.lsn, "--exclusive"], (first, exact.n - 1));
    expect(site, "xid", &["--target-xid", &sixth.xid], (second, 6));
    expect(site, "xid-x", &["--target-xid", &third.xid, "--exclusive", "--backup", first], (first, 2));
    expect(site, "name", &["--target-name", POINT, "--backup", first], (first, 4));
    expect(site, "now", &["--target-immediate"], (second, 5));
    expect(site, "latest", &[], (second, 7));
    assert!(!primary.is_running(), "{} was left alone", version.major);
}

#[test]
fn on_postgresql_15_every_target_stops_exactly_where_it_was_asked_to() {
    let Some(version) = Postgres::version(15) else { return };
    every_target_stops_where_it_was_asked_to(&version, &Site::on_files(&version));
}

#[test]
fn on_postgresql_16_every_target_stops_exactly_where_it_was_asked_to() {
    let Some(version) = Postgres::version(16) else { return };
    every_target_stops_where_it_was_asked_to(&version, &Site::on_files(&version));
}

#[test]
fn on_postgresql_18_every_target_stops_exactly_where_it_was_asked_to() {
    let Some(version) = Postgres::version(18) else { return };
    every_target_stops_where_it_was_asked_to(&version, &Site::on_files(&version));
}

#[test]
fn on_s3_a_copy_recovers_with_the_credentials_of_its_servers_environment() {
    let Some(version) = Postgres::newest() else { return };
    let server = S3Server::start();
    let site = Site::on_s3(&version, &server);
    let mut primary = site.primary(ClusterOptions::default());
    let history = History::write(&site, &primary);
    primary.stop("fast");
    expect(&site, "time", &["--target-time", &history.event(3).time], (&history.first, 3));
    expect(&site, "latest", &[], (&history.second, 7));
    for (name, setting) in server.env() {
        let text = std::fs::read_to_string(site.dir.join("latest/postgresql.auto.conf")).unwrap();
        assert!(!(name.contains("SECRET") && text.contains(&setting)), "{text}");
    }
}

#[test]
fn the_action_at_the_target_is_the_one_asked_for() {
    for_each_version(|version| {
        let site = Site::on_files(version);
        let mut primary = site.primary(ClusterOptions::default());
        let history = History::write(&site, &primary);
        primary.stop("fast");
        let target = ["--target-time", &history.event(3).time];

        let mut paused = site.restore("pause", &target).cluster;
        paused.start();
        paused.wait_until("SELECT pg_get_wal_replay_pause_state()", "paused", PATIENCE);
        assert_eq!(rows(&paused), up_to(3), "pausing is what PostgreSQL does unless told otherwise");
        paused.psql("SELECT pg_wal_replay_resume()");
        paused.wait_until("SELECT pg_is_in_recovery()", "f", PATIENCE);
        assert_eq!(rows(&paused), up_to(3));
        paused.psql("INSERT INTO history VALUES (100)");
        paused.stop("fast");

        let mut down = site.restore("shutdown", &[&target[..], &["--target-action", "shutdown"]].concat()).cluster;
        down.try_start();
        wait_for_end(&down);
        assert!(down.log().contains("shutdown at recovery target"), "{}", down.log());
        let state = version.run("pg_controldata").arg(down.data()).success().stdout;
        assert!(state.contains("shut down in recovery"), "{state}");
    });
}

/// What names alone cannot see: PostgreSQL then says that it never came to the target, and does not promote.
#[test]
fn a_target_that_recovery_never_meets_ends_it_loudly() {
    let Some(version) = Postgres::newest() else { return };
    let site = Site::on_files(&version);
    let mut primary = site.primary(ClusterOptions::default());
    let history = History::write(&site, &primary);
    primary.archive_everything();
    primary.stop("fast");
    let in_the_first_backup = history.event(1).xid.as_str();
    let targets = [["--target-xid", in_the_first_backup], ["--target-name", POINT]];
    for (name, target) in ["xid", "name"].iter().zip(targets) {
        let restored = site.restore(name, &[&target[..], &["--target-action", "promote"]].concat());
        assert_eq!(restored.backup_id, history.second);
        let mut copy = restored.cluster;
        copy.try_start();
        wait_for_end(&copy);
        let log = copy.log();
        assert!(log.contains("recovery ended before configured recovery target was reached"), "{target:?}: {log}");
        assert!(!log.contains("selected new timeline"), "{log}");
    }
}

#[test]
fn a_copy_archives_only_when_it_was_told_to() {
    let Some(version) = Postgres::newest() else { return };
    let site = Site::on_files(&version);
    let mut primary = site.primary(ClusterOptions::default());
    History::write(&site, &primary);
    primary.stop("fast");
    let store = site.dir.join("store");
    let before = snapshot(&store);
    site.restore("off", &[]).promoted(|copy| {
        copy.psql("CREATE TABLE t (); SELECT pg_switch_wal()");
        assert_eq!(copy.psql("SHOW archive_mode"), "off");
    });
    assert_eq!(snapshot(&store), before, "the copy wrote into its source's archive");
    site.restore("on", &["--keep-archiving"]).promoted(|copy| {
        assert_eq!(copy.psql("SHOW archive_mode"), "on");
        copy.archive_everything();
    });
    assert!(site.stored_file("00000002.history").is_file());
}

#[test]
fn a_plan_touches_nothing_and_names_the_backup_that_is_then_used() {
    let Some(version) = Postgres::newest() else { return };
    let site = Site::on_files(&version);
    let mut primary = site.primary(ClusterOptions::default());
    let history = History::write(&site, &primary);
    primary.stop("fast");
    let before = snapshot(site.dir.path());
    let lsn = history.exact();
    for (target, backup) in [(&["--target-lsn", lsn.lsn.as_str()][..], &history.first), (&[], &history.second)] {
        let plan = site.restore_run("planned", &[target, &["--plan"]].concat()).success();
        let plan: serde_json::Value = serde_json::from_str(&plan.stdout).unwrap();
        assert_eq!((plan["schema"].as_u64(), plan["plan"]["backup_id"].as_str()), (Some(1), Some(backup.as_str())));
        let text = site.barback(&["restore", "--plan"]).arg(site.dir.join("planned")).args(target).success().stdout;
        assert!(text.contains(backup.as_str()), "{text}");
    }
    let grown: Vec<_> = snapshot(site.dir.path()).into_keys().filter(|path| !before.contains_key(path)).collect();
    assert!(grown.is_empty() && snapshot(site.dir.path()) == before, "{grown:?}");
    assert_eq!(site.restore("planned", &["--target-lsn", &lsn.lsn]).backup_id, history.first);
}
