//! Servers that speak a part of S3, or want it said in one way only: what works there all the same.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a helper of tests fails the test that called it")]

use std::collections::BTreeMap;

use serde_json::Value;

use crate::harness::{
    ClusterOptions, Fault, Minio, Postgres, S3Server, Seen, StoreEnv, TestDir, barback, barback_binary, id_of,
    list_backups, on_s3, restore_copy, running_cluster, start_copy, take_backup,
};

/// Uncompressed in the smallest parts, so that the tar of a small cluster is an upload in parts.
const MANY_PARTS: [&str; 6] = ["--compression", "none", "--part-size", "5MiB", "--jobs", "2"];

type Rule = Box<dyn FnMut(&Seen) -> Option<Fault> + Send>;

/// Archives, takes two backups, expires the older one and restores the other, on a server with this rule.
fn lives_on(s3: &S3Server, rule: Rule) {
    let Some(version) = Postgres::newest() else { return };
    let dir = TestDir::new();
    let mut env = on_s3(s3);
    env.push(("BARBACK_CACHE_DIR".into(), dir.join("cache").display().to_string()));
    s3.fault_when(rule);
    let command = format!("{} wal-archive %p", barback_binary().display());
    let options = ClusterOptions::default().set("archive_mode", "on").set("archive_command", command).envs(&env);
    let cluster = running_cluster(&dir, &version, options, 2);
    let ids: Vec<String> = (0..2)
        .map(|_| {
            let id = id_of(&take_backup(&cluster, &env, &MANY_PARTS));
            cluster.archive_everything();
            id
        })
        .collect();
    assert!(expired(&env).contains(&ids[0]));
    assert_eq!(list_backups(&env).iter().map(id_of).collect::<Vec<_>>(), ids[1..]);
    assert!(!s3.keys().iter().any(|key| key.contains(&ids[0])), "something of the backup is left");
    let mut copy = restore_copy(&dir, "copy", &version, &env, &[]);
    start_copy(&mut copy);
}

fn expired(env: &StoreEnv) -> String {
    barback(&["expire", "--policy", "REDUNDANCY 1", "--retry-timeout", "20"]).envs(env).success().stdout
}

fn deletes_several(seen: &Seen) -> bool {
    seen.method == "POST" && seen.target.split('?').nth(1).is_some_and(|query| query.starts_with("delete"))
}

#[test]
fn a_server_that_deletes_one_object_at_a_time_is_served_so() {
    for status in [400, 405, 501] {
        let s3 = S3Server::start();
        let refuses = move |seen: &Seen| deletes_several(seen).then_some(Fault::Status(status));
        if status == 501 {
            lives_on(&s3, Box::new(refuses));
            continue;
        }
        s3.fault_when(refuses);
        let said = checked(&on_s3(&s3));
        assert!(dialect(&said).contains("deletes objects one by one"), "{status}: {said}");
    }
}

#[test]
fn a_deletion_of_several_carries_the_digest_that_some_servers_want() {
    let s3 = S3Server::start();
    lives_on(
        &s3,
        Box::new(|seen| (deletes_several(seen) && seen.header("content-md5").is_none()).then_some(Fault::Status(400))),
    );
    assert!(s3.requests().iter().any(deletes_several));
}

#[test]
fn no_checksum_is_sent_that_a_server_might_refuse() {
    let s3 = S3Server::start();
    lives_on(
        &s3,
        Box::new(|seen| {
            let is_new = |name: &str| name.starts_with("x-amz-checksum") || name.starts_with("x-amz-trailer");
            let is_refused = seen.headers.iter().any(|(name, value)| is_new(name) || value.contains("aws-chunked"));
            is_refused.then_some(Fault::Status(501))
        }),
    );
}

/// Some servers (Cloudflare's R2) refuse an upload whose parts are not of one size, but for the last.
#[test]
fn all_parts_of_an_upload_but_the_last_are_of_one_size() {
    let s3 = S3Server::start();
    lives_on(&s3, Box::new(|_| None));
    let mut uploads: BTreeMap<String, BTreeMap<u32, u64>> = BTreeMap::new();
    for seen in s3.requests() {
        let Some((_, query)) = seen.target.split_once('?') else { continue };
        let value = |name: &str| query.split('&').find_map(|pair| pair.strip_prefix(&format!("{name}=")));
        if let (Some(number), Some(id)) = (value("partNumber"), value("uploadId")) {
            let length = seen.header("content-length").unwrap().parse().unwrap();
            uploads.entry(id.to_owned()).or_default().insert(number.parse().unwrap(), length);
        }
    }
    assert!(uploads.values().any(|parts| parts.len() > 2), "{uploads:?}");
    for parts in uploads.values() {
        let sizes: Vec<u64> = parts.values().copied().collect();
        let (last, others) = sizes.split_last().unwrap();
        assert!(others.iter().all(|size| *size == sizes[0]) && *last <= sizes[0], "{sizes:?}");
    }
}

#[test]
fn a_limit_on_the_number_of_parts_is_said_and_the_backup_is_failed() {
    let Some(version) = Postgres::newest() else { return };
    let (dir, s3) = (TestDir::new(), S3Server::start());
    let env = on_s3(&s3);
    let cluster = running_cluster(&dir, &version, ClusterOptions::default(), 2);
    s3.fault_when(|seen| {
        let number = seen.target.split_once("partNumber=").map(|(_, rest)| rest.split('&').next().unwrap().to_owned());
        number.is_some_and(|number| number.parse::<u32>().unwrap() > 3).then_some(Fault::Status(400))
    });
    let connect = cluster.connect_string();
    let failed = barback(&["backup", "--fast", "-d", &connect]).args(MANY_PARTS).envs(&env).run().expect_code(2);
    assert!(failed.stderr.contains("could not upload a part of object"), "{}", failed.stderr);
    assert_eq!(list_backups(&env)[0]["status"], "FAILED");
    // With larger parts there are fewer.
    barback(&["backup", "--fast", "-d", &connect, "--compression", "none", "--part-size", "64MiB"])
        .envs(&env)
        .success();
}

#[test]
fn a_check_says_which_server_it_found() {
    let said = checked(&on_s3(&S3Server::ignoring_create_only()));
    assert!(dialect(&said).contains("ignores create-only puts"), "{said}");
    let Some(minio) = Minio::start() else { return };
    let mut env = minio.env();
    env.push(("BARBACK_STORE".into(), "s3://bkt/pfx".into()));
    let said = checked(&env);
    assert_eq!(
        dialect(&said),
        "MinIO speaks S3, honours create-only puts, deletes a thousand objects at once, locks no objects"
    );
}

fn checked(env: &StoreEnv) -> Value {
    let run = barback(&["check", "-o", "json", "-d", "host=/nonexistent", "--retry-timeout", "5"]).envs(env).run();
    serde_json::from_str(&run.stdout).unwrap_or_else(|_| panic!("{}{}", run.stdout, run.stderr))
}

fn dialect(document: &Value) -> String {
    let findings = document["check"]["findings"].as_array().unwrap();
    let found = findings.iter().find(|finding| finding["code"] == "dialect");
    found.unwrap_or_else(|| panic!("{document}"))["what"].as_str().unwrap().to_owned()
}
