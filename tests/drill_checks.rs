//! What a drill looks for in a recovered server, on real servers: each fault is found, named, and told from mistakes of the operator.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails the test that called it")]

use std::os::unix::fs::{FileExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::harness::{
    Cluster, ClusterOptions, PgVersion, Postgres, StoreEnv, TestDir, archive_of, backup_run, barback, block_on,
    for_each_version, id_of, on_disk, running_cluster, server_user, store_options, take_backup,
};
use barback::commands::drill_checks::{Recovered, look_into};
use barback::commands::drill_pages::check_pages;
use barback::commands::interrupt::Interrupt;
use barback::commands::table_snapshot;
use barback::domain::drill::CheckOutcome::{self, Fail, Inconclusive, Notice, Pass, Skipped};
use barback::domain::drill_checks::{DrillChecks, Expectation, NumberRange, QueryCheck};
use barback::layout::drill_record::DrillCheck;
use barback::layout::part_index::DamagedFile;
use barback::layout::table_snapshot::TableSnapshot;
use barback::postgres::inspection::LocalServer;
use barback::postgres::private_server::RunAs;

const PAGE: u64 = 8192;
const FIVE_MINUTES: Duration = Duration::from_mins(5);

/// A cluster in which no background work reads or writes tables.
fn quiet_cluster(dir: &TestDir, version: &PgVersion, options: ClusterOptions) -> Cluster {
    running_cluster(dir, version, options.set("autovacuum", "off"), 0)
}

/// The cluster as a drill knows it: its socket lies in the test's directory.
fn recovered<'a>(dir: &'a TestDir, cluster: &'a Cluster) -> Recovered<'a> {
    let connect = cluster.connect_string();
    let port = connect.split(' ').find_map(|word| word.strip_prefix("port=")).unwrap();
    Recovered {
        server: LocalServer { sockets: dir.path(), port: port.parse().unwrap(), role: "postgres" },
        bindir: &cluster.version().bindir,
        is_promoted: true,
        run_as: server_user().map(|id| RunAs { uid: id, gid: id }),
        target_time: None,
        last_replayed: None,
        ends_with_backup: true,
    }
}

fn look(server: &Recovered<'_>, checks: &DrillChecks, tables: Option<&TableSnapshot>) -> Vec<DrillCheck> {
    block_on(async { look_into(server, checks, tables, &Interrupt::listen().unwrap()).await })
}

fn one<'a>(done: &'a [DrillCheck], name: &str) -> &'a DrillCheck {
    done.iter().find(|check| check.name == name).unwrap_or_else(|| panic!("no \"{name}\" in {done:?}"))
}

fn without_amcheck(queries: Vec<QueryCheck>) -> DrillChecks {
    DrillChecks { amcheck: None, statement_timeout: Duration::from_secs(2), queries }
}

fn query(name: &str, query: &str, expected: Expectation) -> QueryCheck {
    let (name, query) = (name.to_owned(), query.to_owned());
    QueryCheck { name, database: "postgres".to_owned(), query, expected }
}

fn number(least: &str) -> Expectation {
    Expectation::Number(NumberRange { least: Some(least.parse().unwrap()), most: None })
}

/// Queries of the table `people`, what is expected, and what becomes of it.
type Question = (&'static str, &'static str, Expectation, CheckOutcome, Option<&'static str>);

fn questions() -> Vec<Question> {
    let exact = |text: &str| Expectation::Number(NumberRange::exactly(text.parse().unwrap()));
    let text = |text: &str| Expectation::Text(text.to_owned());
    let fresh = || Expectation::NewestWithin(FIVE_MINUTES);
    vec![
        ("enough", "select count(*) from people", number("3"), Pass, Some("3")),
        ("too few", "select count(*) from people", number("4"), Fail, Some("3")),
        ("sum", "select sum(paid) from people", exact("37.5"), Pass, Some("37.5")),
        ("float", "select 1e300::float8", number("1"), Pass, None),
        ("no number", "select 'NaN'::float8", number("1"), Fail, Some("NaN")),
        ("yes", "select bool_and(ok) from people", Expectation::Boolean(true), Pass, Some("true")),
        ("name", "select min(name) from people", text("Smith"), Pass, Some("that text")),
        ("other name", "select min(name) from people", text("Smyth"), Fail, Some("another text, 5 letters long")),
        ("fresh", "select max(born) from people", fresh(), Pass, Some("2026-06-08 11:58:00+00")),
        ("stale", "select max(born) - interval '4 min' from people", fresh(), Fail, Some("2026-06-08 11:54:00+00")),
        ("future", "select max(born) + interval '1 h' from people", fresh(), Fail, Some("2026-06-08 12:58:00+00")),
        ("nothing", "select max(born) from people where false", fresh(), Fail, Some("null")),
        ("settings", "show work_mem", text("4MB"), Inconclusive, None),
        ("no table", "select count(*) from orders", number("1"), Fail, None),
        ("no column", "select max(age) from people", number("1"), Fail, None),
        ("two rows", "select paid from people", number("1"), Inconclusive, None),
        ("no row", "select paid from people where false", number("1"), Inconclusive, None),
        ("two columns", "select 1, 2", number("1"), Inconclusive, None),
        ("another type", "select name from people limit 1", number("1"), Inconclusive, None),
        ("a mistake", "selct 1", number("1"), Inconclusive, None),
        ("too slow", "select 1 from pg_sleep(60)", number("1"), Inconclusive, None),
        ("two statements", "select 1; drop table people", number("1"), Inconclusive, None),
        ("no query", "drop table people", number("1"), Inconclusive, None),
        (
            "writes",
            "with gone as (delete from people returning 1) select count(*) from gone",
            number("0"),
            Inconclusive,
            None,
        ),
        ("draws", "select nextval('numbers')", number("0"), Inconclusive, None),
        (
            "allows itself",
            "select 1 from set_config('transaction_read_only', 'off', false), nextval('numbers')",
            number("0"),
            Inconclusive,
            None,
        ),
        ("leaks", "select sum(name::int) from people", number("0"), Inconclusive, None),
        ("commented", "select count(*) from people; -- all of them", number("3"), Pass, Some("3")),
        ("a billion", "select 1 from generate_series(1, 1000000000)", number("1"), Inconclusive, None),
    ]
}

#[test]
fn every_answer_of_a_real_server_is_judged_for_what_it_is() {
    for_each_version(|version| {
        let dir = TestDir::new();
        let cluster = quiet_cluster(&dir, version, ClusterOptions::default());
        cluster.psql("CREATE TABLE people (name text, born timestamptz, paid numeric, ok bool)");
        cluster.psql(
            "INSERT INTO people SELECT 'Smith', '2026-06-08 11:58:00+00', 12.50, true FROM generate_series(1, 3)",
        );
        cluster.psql("CREATE SEQUENCE numbers");
        cluster.psql("ALTER DATABASE postgres SET default_transaction_read_only = off");
        let table = questions();
        let queries = table.iter().map(|(name, sql, expected, ..)| query(name, sql, expected.clone())).collect();
        let mut checks = without_amcheck(queries);
        let elsewhere = QueryCheck { database: "shop".to_owned(), ..query("no database", "select 1", number("1")) };
        checks.queries.push(elsewhere);
        let server = Recovered { target_time: "2026-06-08T12:00:00Z".parse().ok(), ..recovered(&dir, &cluster) };
        let done = look(&server, &checks, None);
        for (name, _, _, outcome, found) in &table {
            let check = one(&done, name);
            assert_eq!(check.outcome, *outcome, "{check:?}");
            if found.is_some() {
                assert_eq!(check.found.as_deref(), *found, "{check:?}");
            }
        }
        assert_eq!(one(&done, "no database").outcome, Fail);
        assert_eq!((one(&done, "stale").kind.as_str(), one(&done, "enough").kind.as_str()), ("freshness", "sql"));
        assert!(one(&done, "no table").detail.as_ref().unwrap().contains("relation \"orders\" does not exist"));
        assert!(one(&done, "too slow").detail.as_ref().unwrap().contains("statement timeout"));
        assert!(!format!("{done:?}").contains("Smith"), "content of a row: {done:?}");
        assert_eq!(cluster.psql("SELECT count(*) FROM people"), "3");
        assert_eq!(cluster.psql("SELECT is_called FROM numbers"), "f");
        assert_eq!((one(&done, "amcheck").outcome, one(&done, "tables").outcome), (Skipped, Skipped));
        assert_eq!(one(&done, "indexes").outcome, Pass);
        let order: Vec<&str> = done.iter().map(|check| check.name.as_str()).collect();
        assert_eq!((order[0], order[1], order[2], *order.last().unwrap()), ("indexes", "tables", "enough", "amcheck"));
    });
}

#[test]
fn a_relation_whose_file_is_gone_is_a_failure_and_a_library_that_is_not_installed_is_none() {
    for_each_version(|version| {
        let dir = TestDir::new();
        let mut cluster = quiet_cluster(&dir, version, ClusterOptions::default());
        cluster.psql("CREATE TABLE lost AS SELECT 1 AS n");
        cluster.psql("CREATE TABLE damaged AS SELECT generate_series(1, 1000) AS n");
        cluster.psql("CREATE FUNCTION needs_library() RETURNS int LANGUAGE internal AS 'pg_backend_pid'");
        cluster.psql(
            "UPDATE pg_proc SET prolang = (SELECT oid FROM pg_language WHERE lanname = 'c'), \
             probin = '/nonexistent/library' WHERE proname = 'needs_library'",
        );
        let [lost, damaged] =
            ["lost", "damaged"].map(|table| cluster.psql(&format!("SELECT pg_relation_filepath('{table}')")));
        cluster.stop("fast");
        std::fs::remove_file(cluster.data().join(lost)).unwrap();
        overwrite(&cluster.data().join(damaged), PAGE + 100, b"damage");
        cluster.start();
        let checks = without_amcheck(vec![
            query("lost", "select count(*) from lost", number("1")),
            query("damaged", "select count(*) from damaged", number("1")),
            query("library", "select needs_library()", number("1")),
        ]);
        let done = look(&recovered(&dir, &cluster), &checks, None);
        let outcomes = ["lost", "damaged", "library"].map(|name| one(&done, name).outcome);
        assert_eq!(outcomes, [Fail, Fail, Inconclusive], "{done:?}");
        assert!(one(&done, "damaged").detail.as_ref().unwrap().contains("invalid page in block 1"), "{done:?}");
    });
}

#[test]
fn nothing_is_asked_after_a_signal() {
    let Some(version) = Postgres::newest() else { return };
    let dir = TestDir::new();
    let cluster = quiet_cluster(&dir, &version, ClusterOptions::default());
    let checks = DrillChecks {
        amcheck: Some(FIVE_MINUTES),
        ..without_amcheck(vec![
            query("slow", "select 1 from pg_sleep(60)", number("1")),
            query("next", "select 1", number("1")),
        ])
    };
    let checks = DrillChecks { statement_timeout: FIVE_MINUTES, ..checks };
    let server = recovered(&dir, &cluster);
    let began = Instant::now();
    let done = block_on(async {
        let interrupt = Interrupt::listen().unwrap();
        let stopper = interrupt.clone();
        let stopping = async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            stopper.stop();
        };
        tokio::join!(look_into(&server, &checks, None, &interrupt), stopping).0
    });
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    for name in ["slow", "next", "amcheck"] {
        let check = one(&done, name);
        assert_eq!(check.outcome, Inconclusive, "{check:?}");
        assert!(check.detail.as_ref().unwrap().starts_with("stopped"), "{check:?}");
    }
}

#[test]
fn a_foreign_table_is_out_of_reach_before_the_first_query() {
    let Some(version) = Postgres::version(15) else { return };
    let dir = TestDir::new();
    let cluster = quiet_cluster(&dir, &version, ClusterOptions::default());
    let secret = dir.write("secret.csv", "42\n");
    cluster.psql("CREATE EXTENSION file_fdw");
    cluster.psql("CREATE SERVER elsewhere FOREIGN DATA WRAPPER file_fdw");
    let options = format!("OPTIONS (filename '{}', format 'csv')", secret.display());
    cluster.psql(&format!("CREATE FOREIGN TABLE remote (n int) SERVER elsewhere {options}"));
    cluster.psql("CREATE VIEW harmless AS SELECT max(n) AS n FROM remote");
    let event = "CREATE FUNCTION loud() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'heard'; END $$; \
         CREATE EVENT TRIGGER listener ON ddl_command_end EXECUTE FUNCTION loud()";
    assert_eq!(cluster.psql("SELECT n FROM harmless"), "42");
    cluster.psql(event);
    let checks = without_amcheck(vec![
        query("remote", "select n from harmless", number("1")),
        query("local", "select 1", number("1")),
    ]);
    // In recovery nothing can be changed: the database is not asked at all.
    let paused = Recovered { is_promoted: false, ..recovered(&dir, &cluster) };
    let done = look(&paused, &checks, None);
    assert_eq!((one(&done, "remote").outcome, one(&done, "local").outcome), (Inconclusive, Inconclusive), "{done:?}");
    assert!(one(&done, "local").detail.as_ref().unwrap().contains("foreign servers"), "{done:?}");
    assert_eq!(cluster.psql("SELECT n FROM harmless"), "42");

    let done = look(&recovered(&dir, &cluster), &checks, None);
    assert_eq!((one(&done, "remote").outcome, one(&done, "local").outcome), (Inconclusive, Pass), "{done:?}");
    assert!(one(&done, "remote").detail.as_ref().unwrap().contains("has no handler"), "{done:?}");
    assert!(cluster.try_psql("SELECT n FROM harmless").unwrap_err().contains("has no handler"));
}

#[test]
fn an_index_that_lacks_rows_is_found_and_one_that_is_not_used_is_named() {
    for_each_version(|version| {
        let dir = TestDir::new();
        let cluster = quiet_cluster(&dir, version, ClusterOptions::default());
        cluster.psql("CREATE DATABASE shop");
        cluster.psql("CREATE TABLE orders AS SELECT generate_series(1, 1000) AS n");
        cluster.psql("CREATE INDEX by_number ON orders (n)");
        let checks = DrillChecks::default();
        let sound = look(&recovered(&dir, &cluster), &checks, None);
        let can_check = cluster.version().bindir.join("pg_amcheck").is_file()
            && cluster.psql("SELECT count(*) FROM pg_available_extensions WHERE name = 'amcheck'") == "1";
        let expected = if can_check { Pass } else { Skipped };
        assert_eq!((one(&sound, "indexes").outcome, one(&sound, "amcheck").outcome), (Pass, expected), "{sound:?}");

        let says = |valid: bool| {
            format!(
                "UPDATE pg_index SET indisready = {valid}, indisvalid = {valid} WHERE indexrelid = 'by_number'::regclass"
            )
        };
        cluster.psql(&says(false));
        cluster.psql("INSERT INTO orders SELECT generate_series(1001, 1010)");
        let named = look(&recovered(&dir, &cluster), &without_amcheck(Vec::new()), None);
        let indexes = one(&named, "indexes");
        assert_eq!((indexes.outcome, indexes.found.as_deref()), (Notice, Some("1 invalid")));
        assert!(indexes.detail.as_ref().unwrap().starts_with("postgres.public.by_number; "), "{indexes:?}");
        cluster.psql(&says(true));
        let damaged = look(&recovered(&dir, &cluster), &checks, None);
        let amcheck = one(&damaged, "amcheck");
        if can_check {
            assert_eq!(amcheck.outcome, Fail, "{amcheck:?}");
            let told = amcheck.detail.as_ref().unwrap();
            assert!(told.contains("\"postgres.public.by_number\": ERROR:  XX001"), "{told}");
        }
    });
}

/// A directory of programs in which `pg_amcheck` is this script.
fn programs(dir: &TestDir, script: &str) -> PathBuf {
    let bindir = dir.create_dir("bin");
    let program = dir.write("bin/pg_amcheck", format!("#!/bin/sh\n{script}\n"));
    std::fs::set_permissions(program, std::fs::Permissions::from_mode(0o755)).unwrap();
    bindir
}

#[test]
fn amcheck_has_a_budget_and_what_it_says_is_told_from_what_befell_it() {
    let Some(version) = Postgres::version(15) else { return };
    let dir = TestDir::new();
    let cluster = quiet_cluster(&dir, &version, ClusterOptions::default());
    let budget = Some(Duration::from_secs(1));
    let amcheck = |bindir: &Path, is_promoted| {
        let server = Recovered { bindir, is_promoted, ..recovered(&dir, &cluster) };
        let checks = DrillChecks { amcheck: budget, ..without_amcheck(Vec::new()) };
        one(&look(&server, &checks, None), "amcheck").clone()
    };
    let began = Instant::now();
    let late = amcheck(&programs(&dir, "exec sleep 600"), true);
    assert_eq!(late.outcome, Notice, "{late:?}");
    assert!(late.detail.as_ref().unwrap().contains("1.0 s were over"), "{late:?}");
    // One that does not let itself be asked is killed.
    let stubborn = amcheck(&programs(&dir, "trap '' INT\nwhile :; do sleep 1; done"), true);
    assert_eq!(stubborn.outcome, Notice, "{stubborn:?}");
    assert!(began.elapsed() < Duration::from_secs(30), "{:?}", began.elapsed());
    let failing = amcheck(&programs(&dir, "echo 'pg_amcheck: error: no way' >&2\nexit 1"), true);
    assert_eq!(failing.outcome, Inconclusive);
    assert!(failing.detail.as_ref().unwrap().ends_with("error: no way"), "{failing:?}");
    let chatty = amcheck(&programs(&dir, "yes '    nothing to see' | head -c 10000000\nexit 0"), true);
    assert_eq!(chatty.outcome, Pass, "{chatty:?}");
    let absent = amcheck(&dir.create_dir("empty"), true);
    assert_eq!(absent.outcome, Skipped);
    assert!(absent.detail.as_ref().unwrap().contains("not installed"), "{absent:?}");

    // While recovery is paused the extension cannot be made, but used where it is.
    let paused = amcheck(&version.bindir, false);
    assert_eq!(paused.outcome, Skipped, "{paused:?}");
    cluster.psql("CREATE EXTENSION amcheck");
    let paused = amcheck(&version.bindir, false);
    assert!(matches!(paused.outcome, Pass | Notice), "{paused:?}");
    assert!(paused.detail.as_ref().unwrap().contains("only in 1 of 2 databases"), "{paused:?}");
}

fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    std::fs::OpenOptions::new().write(true).open(path).unwrap().write_all_at(bytes, offset).unwrap();
}

fn pages(cluster: &Cluster, known: &[DamagedFile]) -> DrillCheck {
    block_on(async { check_pages(cluster.data(), known, 2, &Interrupt::listen().unwrap()) })
}

#[test]
fn a_flipped_byte_in_any_page_is_found_and_named() {
    for_each_version(|version| {
        let dir = TestDir::new();
        let space = dir.create_dir("space");
        let mut cluster = quiet_cluster(&dir, version, ClusterOptions::default());
        cluster.psql(&format!("CREATE TABLESPACE side LOCATION '{}'", space.display()));
        cluster.psql("CREATE TABLE in_side TABLESPACE side AS SELECT repeat('x', 500) FROM generate_series(1, 1000)");
        cluster.psql("CREATE TABLE orders AS SELECT repeat('x', 500) FROM generate_series(1, 1000)");
        cluster.psql("VACUUM");
        let [side, orders] =
            ["in_side", "orders"].map(|table| cluster.psql(&format!("SELECT pg_relation_filepath('{table}')")));
        // A directory of another version's, as an upgrade leaves it, is none of ours.
        let foreign = dir.create_dir("space/PG_9.6_201608131");
        std::fs::create_dir(foreign.join("5")).unwrap();
        std::fs::write(foreign.join("5/1259"), [1; 8192]).unwrap();

        let running = pages(&cluster, &[]);
        assert_eq!(running.outcome, Inconclusive, "{running:?}");
        cluster.stop("fast");
        let sound = pages(&cluster, &[]);
        assert_eq!(sound.outcome, Pass, "{sound:?}");
        let count: u64 =
            sound.found.unwrap().strip_prefix("0 damaged of ").unwrap().split(' ').next().unwrap().parse().unwrap();
        assert!(count > 1000, "{count} pages");
        // A page that was allocated and never used.
        let file = std::fs::OpenOptions::new().write(true).open(cluster.data().join(&orders)).unwrap();
        file.set_len(file.metadata().unwrap().len() + PAGE).unwrap();
        let grown = pages(&cluster, &[]);
        assert_eq!(grown.found.unwrap(), format!("0 damaged of {} pages", count + 1));

        overwrite(&cluster.data().join(&orders), 7 * PAGE + 100, b"damage");
        overwrite(&cluster.data().join(&side), 2 * PAGE + 8000, b"damage");
        let damaged = pages(&cluster, &[]);
        assert_eq!((damaged.outcome, damaged.found.unwrap()), (Fail, format!("2 damaged of {} pages", count + 1)));
        let detail = damaged.detail.unwrap();
        assert_eq!(detail, format!("\"{orders}\": block 7; \"{side}\": block 2"));
        let file = |path: &str, block| DamagedFile { path: path.to_owned(), blocks: vec![block], count: 1 };
        let known = pages(&cluster, &[file(&orders, 7), file(&side, 2)]);
        assert_eq!(known.outcome, Fail);
        assert!(known.detail.unwrap().ends_with("damaged in the cluster already when the backup was taken"));
        let one_known = pages(&cluster, &[file(&orders, 7), file(&side, 3)]);
        assert_eq!(one_known.detail.unwrap(), detail);
    });
}

#[test]
fn pages_of_a_cluster_that_crashed_or_has_no_checksums_are_not_judged() {
    let Some(version) = Postgres::newest() else { return };
    let dir = TestDir::new();
    let options = ClusterOptions::default().data_checksums(false).name("plain");
    let mut plain = quiet_cluster(&dir, &version, options);
    plain.stop("fast");
    assert_eq!(pages(&plain, &[]).outcome, Skipped);
    let mut crashed = quiet_cluster(&dir, &version, ClusterOptions::default());
    crashed.stop("immediate");
    let judged = pages(&crashed, &[]);
    assert_eq!(judged.outcome, Inconclusive);
    assert!(judged.detail.unwrap().contains("not shut down cleanly"));
}

fn snapshot_of(env: &StoreEnv, id: &str) -> Option<TableSnapshot> {
    block_on(async {
        let archive = archive_of(store_options(&env[0].1, [])).await;
        table_snapshot::load(&archive, &id.parse().unwrap()).await.unwrap()
    })
}

#[test]
fn a_backup_records_its_tables_and_a_drill_misses_one() {
    for_each_version(|version| {
        let dir = TestDir::new();
        let env = on_disk(&dir, "store");
        let cluster = quiet_cluster(&dir, version, ClusterOptions::default());
        for sql in [
            "CREATE DATABASE shop",
            "CREATE DATABASE closed",
            "CREATE DATABASE template IS_TEMPLATE true ALLOW_CONNECTIONS false",
            "CREATE TABLE orders AS SELECT generate_series(1, 1000) AS n",
            "CREATE TABLE dropped AS SELECT 1 AS n",
            "CREATE TABLE emptied AS SELECT generate_series(1, 1000) AS n",
            "CREATE UNLOGGED TABLE unlogged AS SELECT 1 AS n",
            "CREATE MATERIALIZED VIEW view AS SELECT count(*) FROM orders",
            "CREATE TABLE parts (n int) PARTITION BY RANGE (n)",
            "VACUUM ANALYZE",
        ] {
            cluster.psql(sql);
        }
        let hba = cluster.data().join("pg_hba.conf");
        let rules = std::fs::read_to_string(&hba).unwrap();
        std::fs::write(&hba, format!("local closed all reject\n{rules}")).unwrap();
        cluster.psql("SELECT pg_reload_conf()");
        cluster.wait_until("SELECT count(*) FROM pg_hba_file_rules WHERE auth_method = 'reject'", "1", FIVE_MINUTES);

        let finished = backup_run(&cluster, &env, &["-vv"]).success();
        let backup: serde_json::Value = serde_json::from_str(&finished.stdout).unwrap();
        let snapshot = snapshot_of(&env, &id_of(&backup["backup"])).unwrap();
        assert!(finished.stderr.contains("database \"closed\""), "{}", finished.stderr);
        assert_eq!(snapshot.superuser, "postgres");
        let databases: Vec<&str> = snapshot.databases.keys().map(String::as_str).collect();
        assert_eq!((databases, snapshot.databases_left_out), (vec!["postgres", "shop", "template1"], 1));
        let tables = &snapshot.databases["postgres"].tables;
        let listed: Vec<(String, char)> = tables.iter().map(|(name, facts)| (name.to_string(), facts.kind)).collect();
        let expected = [("dropped", 'r'), ("emptied", 'r'), ("orders", 'r'), ("parts", 'p'), ("view", 'm')];
        assert_eq!(listed, expected.map(|(name, kind)| (format!("public.{name}"), kind)));
        let orders = tables.iter().find(|(name, _)| name.name == "orders").unwrap().1;
        assert_eq!((orders.rows, orders.pages > 0), (Some(1000), true));

        // The other way in too: without a snapshot, and into a file that verify and delete know.
        barback(&["verify"]).envs(&env).success();
        let server = recovered(&dir, &cluster);
        let compare = |server: &Recovered<'_>| {
            one(&look(server, &without_amcheck(Vec::new()), Some(&snapshot)), "tables").clone()
        };
        let same = compare(&server);
        assert_eq!((same.outcome, same.detail), (Pass, None));
        assert_eq!(same.expected.unwrap(), "5 tables in 3 databases, as when the backup was taken");
        cluster.psql("TRUNCATE emptied");
        let emptied = compare(&server);
        assert_eq!(
            (emptied.outcome, emptied.detail.unwrap()),
            (Notice, "empty, and had rows: postgres.public.emptied".to_owned())
        );
        cluster.psql("DROP TABLE dropped");
        cluster.psql("DROP DATABASE shop");
        let missing = compare(&server);
        assert_eq!((missing.outcome, missing.found.unwrap()), (Fail, "2 missing".to_owned()));
        let detail = missing.detail.unwrap();
        assert!(detail.starts_with("not there: postgres.public.dropped, database shop; "), "{detail}");
        let later = compare(&Recovered { ends_with_backup: false, ..server });
        assert_eq!(later.outcome, Notice);
    });
}

#[test]
fn a_backup_goes_on_without_its_tables_when_the_store_does_not_take_them() {
    use crate::harness::{Fault, S3Server, on_s3};
    let Some(version) = Postgres::newest() else { return };
    let dir = TestDir::new();
    let s3 = S3Server::start();
    let env = on_s3(&s3);
    let cluster = quiet_cluster(&dir, &version, ClusterOptions::default());
    s3.fault_when(|seen| seen.target.contains("barback-tables").then_some(Fault::Status(403)));
    let finished = backup_run(&cluster, &env, &[]).success();
    s3.heal();
    assert!(finished.stderr.contains("the tables are not recorded: "), "{}", finished.stderr);
    s3.forget_requests();
    take_backup(&cluster, &env, &[]);
    let puts =
        s3.requests().iter().filter(|seen| seen.method == "PUT" && seen.target.contains("barback-tables")).count();
    assert_eq!(puts, 1);
}

#[test]
fn a_server_that_keeps_its_catalogs_to_itself_delays_no_backup() {
    let Some(version) = Postgres::newest() else { return };
    let dir = TestDir::new();
    let env = on_disk(&dir, "store");
    let cluster = quiet_cluster(&dir, &version, ClusterOptions::default());
    cluster.psql("CREATE DATABASE shop");
    let connect = cluster.connect_string().replace("dbname=postgres", "dbname=shop");
    let lock = "BEGIN; LOCK TABLE pg_class IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(60)";
    let holder = version.run("psql").args(["-X", "-d", &connect, "-c", lock]).start();
    let held = "SELECT count(*) FROM pg_locks WHERE relation = 'pg_class'::regclass AND mode = 'AccessExclusiveLock'";
    cluster.wait_until(held, "1", FIVE_MINUTES);
    let began = Instant::now();
    let id = id_of(&take_backup(&cluster, &env, &[]));
    let took = began.elapsed();
    drop(holder);
    assert!(took < Duration::from_secs(30), "{took:?}");
    let snapshot = snapshot_of(&env, &id).unwrap();
    assert!(!snapshot.databases.contains_key("shop") && snapshot.databases.contains_key("postgres"));
}
