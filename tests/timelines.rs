//! Timeline 1, a branch to 2, and back to 1, on real PostgreSQL: each restore follows the branch that was asked for.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails the test that called it")]

use crate::harness::{Cluster, ClusterOptions, PgVersion, Postgres, Site, snapshot};

/// A history with three branches; rows tell where they were written.
///
/// ```text
/// timeline 1: a [A] b --- c1 [C] d1        e1
///                    \               \
/// timeline 2:         b2 [B] c2       \
/// timeline 3:                          f3
/// ```
struct Branches {
    site: Site,
    /// On 1, before 2 began; on 2; on 1, after 2 began.
    a: String,
    b: String,
    c: String,
    /// LSNs after the rows b2, c2, c1 and d1.
    after: [String; 4],
}

fn insert(cluster: &Cluster, row: &str) -> String {
    cluster.psql(&format!("INSERT INTO history VALUES ('{row}')"));
    cluster.psql("SELECT pg_current_wal_insert_lsn()")
}

fn rows(cluster: &Cluster) -> String {
    cluster.psql("SELECT string_agg(row, ' ' ORDER BY row) FROM history")
}

/// Restores with `args`, promotes, and says from which backup, onto which timeline, with which rows.
fn restored(site: &Site, name: &str, args: &[&str]) -> (String, String, String) {
    let action = args.iter().any(|arg| arg.starts_with("--target-lsn"));
    let args = [args, if action { &["--target-action", "promote"] } else { &[] }].concat();
    let restored = site.restore(name, &args);
    let backup = restored.backup_id.clone();
    let (rows, parent) = restored.promoted(|copy| {
        let timeline: u32 = copy.psql("SELECT timeline_id FROM pg_control_checkpoint()").parse().unwrap();
        let history = std::fs::read_to_string(copy.data().join(format!("pg_wal/{timeline:08X}.history"))).unwrap();
        let parent = history.lines().rfind(|line| !line.is_empty()).unwrap();
        (rows(copy), parent.split('\t').next().unwrap().to_owned())
    });
    (backup, parent, rows)
}

/// Starts a copy that archives into its source's store, which makes a new timeline there.
fn branch(site: &Site, name: &str, args: &[&str]) -> Cluster {
    let mut copy = site.restore(name, &[args, &["--keep-archiving", "--target-action", "promote"]].concat()).cluster;
    copy.start();
    copy.wait_until("SELECT pg_is_in_recovery()", "f", std::time::Duration::from_mins(1));
    copy
}

impl Branches {
    /// Timelines 1 and 2; both sources are stopped at the end, 1 with everything archived.
    fn write(version: &PgVersion) -> (Self, Cluster) {
        let site = Site::on_files(version);
        let primary = site.primary(ClusterOptions::default().wal_segment_mb(1));
        primary.psql("CREATE TABLE history (row text)");
        insert(&primary, "a");
        let a = site.backup(&primary);
        let fork = insert(&primary, "b");
        let after_c1 = insert(&primary, "c1");
        primary.archive_everything();

        let mut second = branch(&site, "second", &["--target-lsn", &fork]);
        assert_eq!(rows(&second), "a b");
        let after_b2 = insert(&second, "b2");
        second.archive_everything();
        let b = site.backup(&second);
        let after_c2 = insert(&second, "c2");
        second.archive_everything();
        second.stop("fast");

        let c = site.backup(&primary);
        let after_d1 = insert(&primary, "d1");
        primary.archive_everything();
        (Self { site, a, b, c, after: [after_b2, after_c2, after_c1, after_d1] }, primary)
    }
}

fn every_branch_can_be_followed(version: &PgVersion) {
    let (branches, mut primary) = Branches::write(version);
    let Branches { site, a, b, c, after: [b2, c2, c1, d1] } = &branches;
    let from = |backup: &str, parent: &str, rows: &str| (backup.to_owned(), parent.to_owned(), rows.to_owned());
    assert_eq!(restored(site, "latest", &[]), from(b, "2", "a b b2 c2"));
    assert_eq!(restored(site, "two", &["--target-timeline", "2", "--target-lsn", b2]), from(a, "2", "a b b2"));
    assert_eq!(restored(site, "one", &["--target-timeline", "1", "--target-lsn", c1]), from(a, "1", "a b c1"));
    assert_eq!(restored(site, "one-end", &["--target-timeline", "1"]), from(c, "1", "a b c1 d1"));
    let own = ["--target-timeline", "current", "--backup"];
    assert_eq!(restored(site, "own-a", &[&own[..], &[a]].concat()), from(a, "1", "a b c1 d1"));
    assert_eq!(restored(site, "own-b", &[&own[..], &[b]].concat()), from(b, "2", "a b b2 c2"));
    refusals(&branches, c2, d1);

    // Back to 1: the newest timeline of the archive is then 3, which descends from 1 and knows nothing of 2.
    insert(&primary, "e1");
    primary.archive_everything();
    primary.stop("fast");
    let mut third = branch(site, "third", &["--target-timeline", "1", "--target-lsn", d1]);
    assert_eq!(rows(&third), "a b c1 d1");
    insert(&third, "f3");
    third.archive_everything();
    third.stop("fast");
    assert_eq!(restored(site, "latest-3", &[]), from(c, "3", "a b c1 d1 f3"));
    assert_eq!(restored(site, "one-again", &["--target-timeline", "1"]), from(c, "1", "a b c1 d1 e1"));
    assert_eq!(restored(site, "two-again", &["--target-timeline", "2"]), from(b, "2", "a b b2 c2"));
}

/// What lies on no path, or beyond its end: refused with both ends of the window, nothing touched.
fn refusals(branches: &Branches, c2: &str, d1: &str) {
    let Branches { site, a, b, c, .. } = branches;
    let before = snapshot(site.dir.path());
    for (args, why) in [
        (vec!["--target-timeline", "2", "--backup", c], "the path to timeline 2 leaves timeline 1"),
        (vec!["--target-timeline", "1", "--backup", b], "timeline 2 is not on the path to timeline 1"),
        (vec!["--target-timeline", "2", "--target-lsn", "0/FFFFFF00"], "the archive ends at"),
        (vec!["--target-timeline", "1", "--target-lsn", "0/FFFFFF00"], "the archive ends at"),
        (vec!["--target-timeline", "1", "--target-lsn", c2, "--backup", b], "is not on the path to timeline 1"),
        (vec!["--target-timeline", "2", "--target-lsn", d1, "--backup", c], "leaves timeline 1"),
        (vec!["--target-timeline", "9"], "\"00000009.history\" is not in the archive"),
    ] {
        let refused = site.restore_run("refused", &args).run().expect_code(1);
        assert!(refused.stderr.contains(why), "{args:?}: {}", refused.stderr);
        let window = refused.stderr.split_once(" reach from ").map(|(_, rest)| rest.to_owned()).unwrap_or_default();
        assert_eq!(window.matches("(LSN ").count(), 2, "{args:?}: {}", refused.stderr);
        assert!(refused.stdout.is_empty() && refused.stderr.contains("HINT"), "{}", refused.stderr);
    }
    assert!(snapshot(site.dir.path()) == before, "a refusal touched something; backups {a} {b} {c}");
}

#[test]
fn on_postgresql_15_every_branch_can_be_followed() {
    let Some(version) = Postgres::version(15) else { return };
    every_branch_can_be_followed(&version);
}

#[test]
fn on_postgresql_16_every_branch_can_be_followed() {
    let Some(version) = Postgres::version(16) else { return };
    every_branch_can_be_followed(&version);
}

#[test]
fn on_postgresql_18_every_branch_can_be_followed() {
    let Some(version) = Postgres::version(18) else { return };
    every_branch_can_be_followed(&version);
}
