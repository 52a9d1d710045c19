//! An archive of 2,000 backups and 200,000 WAL objects on MinIO: what the commands that look at all of it take.
//!
//! `make scale` runs it; numbers of backups and segments may be given as arguments.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a bench is a program of its own that fails aloud"
)]

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use chrono::{DateTime, TimeDelta, Utc};
use futures::StreamExt as _;
use object_store::path::Path as Key;
use object_store::{ObjectStoreExt as _, PutPayload};

#[allow(dead_code, unused_imports, reason = "a bench uses a part of the harness")]
#[path = "../tests/harness/mod.rs"]
mod harness;
use harness::{Minio, block_on, s3_client};

/// Puts at the same time while the archive is made.
const PUTS_IN_FLIGHT: usize = 64;

/// Segments of 16 MiB in one "log".
const SEGMENTS_PER_LOG: u64 = 256;

/// Commands, and how often each is run.
const COMMANDS: [&[&str]; 4] =
    [&["list", "-o", "json"], &["status"], &["expire", "--dry-run", "--policy", "30d"], &["check"]];
const RUNS: usize = 3;

fn main() {
    let numbers: Vec<u64> = std::env::args().skip(1).filter_map(|word| word.parse().ok()).collect();
    let [backups, segments] = numbers[..] else { return measure(2_000, 200_000) };
    measure(backups, segments);
}

fn measure(backups: u64, segments: u64) {
    let Some(server) = Minio::start() else { return };
    let began = Instant::now();
    fill(&server, backups, segments);
    println!("{backups} backups and {segments} WAL objects were put in {:.0} s", began.elapsed().as_secs_f64());
    let counter = Counter::before(&server);
    let mut env = server.env();
    env.iter_mut().filter(|(name, _)| name.contains("ENDPOINT")).for_each(|(_, value)| {
        *value = format!("http://127.0.0.1:{}", counter.port);
    });
    env.push(("BARBACK_STORE".to_owned(), "s3://bkt/pfx".to_owned()));
    println!("{:<40} {:>8} {:>9} {:>9}  exit", "command", "wall s", "peak MiB", "requests");
    for words in COMMANDS {
        for _ in 0..RUNS {
            let before = counter.requests.load(Ordering::Relaxed);
            let done = harness::barback(words).envs(&env).run();
            let asked = counter.requests.load(Ordering::Relaxed) - before;
            let (wall, mib) = (done.took.as_secs_f64(), done.peak_rss_kib >> 10);
            let code = done.status.code().map_or("none".to_owned(), |code| code.to_string());
            println!("{:<40} {wall:>8.2} {mib:>9} {asked:>9}  {code}", words.join(" "));
        }
    }
}

/// One backup for each stretch of segments, an hour apart, the last just now.
fn fill(server: &Minio, backups: u64, segments: u64) {
    let client = s3_client(&server.env());
    let now = Utc::now();
    let each = segments / backups;
    let infos = (0..backups).flat_map(|at| {
        let ended = now - TimeDelta::hours(i64::try_from(backups - at).unwrap());
        let directory = format!("pfx/main/base/{}", ended.format("%Y%m%dT%H%M%S"));
        [
            (format!("{directory}/backup.info"), info(ended, 1 + at * each)),
            (format!("{directory}/data.tar.zst"), "tar".to_owned()),
            (format!("{directory}/backup_manifest.zst"), "manifest".to_owned()),
            (format!("{directory}/barback.json"), "{}".to_owned()),
        ]
    });
    let wal = (1..=segments).map(|number| {
        let name = name(number);
        (format!("pfx/main/wals/{}/{name}.zst", &name[..16]), "wal".to_owned())
    });
    let puts = futures::stream::iter(infos.chain(wal))
        .map(|(key, content)| {
            let client = &client;
            async move { client.put(&Key::parse(key).unwrap(), PutPayload::from(content.into_bytes())).await.map(drop) }
        })
        .buffer_unordered(PUTS_IN_FLIGHT);
    block_on(puts.for_each(async |put| put.unwrap()));
}

fn name(number: u64) -> String {
    format!("{:08X}{:08X}{:08X}", 1, number / SEGMENTS_PER_LOG, number % SEGMENTS_PER_LOG)
}

/// A `backup.info` as long as real ones are.
fn info(ended: DateTime<Utc>, number: u64) -> String {
    let time = ended.format("%Y-%m-%d %H:%M:%S+00:00");
    let (lsn, wal) = (number << 24, name(number));
    let place = |offset: u64| format!("{:X}/{:X}", lsn >> 32, (lsn & 0xFFFF_FFFF) + offset);
    let label = "START WAL LOCATION: 0/2000028 (file 000000010000000000000002)\\n".repeat(8);
    format!(
        "backup_label='{label}'\nbegin_offset=40\nbegin_time={time}\nbegin_wal={wal}\nbegin_xlog={}\n\
         config_file=/etc/postgresql/15/main/postgresql.conf\nend_offset=256\nend_time={time}\nend_wal={wal}\n\
         end_xlog={}\nmode=concurrent\npgdata=/var/lib/postgresql/15/main\nserver_name=cloud\nsize=33554432\n\
         status=DONE\nsystemid=7711281960404649938\ntimeline=1\nversion=150020\nxlog_segment_size=16777216\n",
        place(40),
        place(256)
    )
}

/// Stands before a server and counts what it is asked.
struct Counter {
    port: u16,
    requests: Arc<AtomicU64>,
}

impl Counter {
    fn before(server: &Minio) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let endpoint = server.env().into_iter().find(|(name, _)| name == "AWS_ENDPOINT_URL").unwrap().1;
        let server = endpoint.trim_start_matches("http://").to_owned();
        let requests = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&requests);
        std::thread::spawn(move || {
            for client in listener.incoming().map_while(Result::ok) {
                let upstream = TcpStream::connect(&server).unwrap();
                let (mut answers, mut caller) = (upstream.try_clone().unwrap(), client.try_clone().unwrap());
                std::thread::spawn(move || drop(std::io::copy(&mut answers, &mut caller)));
                let counted = Arc::clone(&counted);
                std::thread::spawn(move || forward(client, upstream, &counted));
            }
        });
        Self { port, requests }
    }
}

/// Copies what the caller says; every request line ends in the protocol's name.
fn forward(mut from: TcpStream, mut to: TcpStream, requests: &AtomicU64) {
    const END: &[u8] = b" HTTP/1.1\r\n";
    let (mut buffer, mut last) = ([0; 16384], Vec::new());
    while let Ok(count @ 1..) = from.read(&mut buffer) {
        last.extend_from_slice(&buffer[..count]);
        let found = last.windows(END.len()).filter(|window| *window == END).count();
        requests.fetch_add(found as u64, Ordering::Relaxed);
        last.drain(..last.len().saturating_sub(END.len() - 1));
        if to.write_all(&buffer[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
}
