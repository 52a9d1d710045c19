//! The command lines that `CloudNativePG` composes, in every combination, and what each must mean.
//!
//! Tags come in any order; extra arguments are the user's and stand where the operator puts them; options stand before,
//! between and behind positional arguments. None of it may be lost.

use super::super::call::{
    AzureCredential, Backup, Call, Cloud, Delete, Format, Program, Provider, S3Encryption, Tag, WalArchive, Which, Work,
};
use super::{ask, words};
use crate::domain::compression::BarmanLevel;
use crate::domain::compression::Compression;

const SERVER: &str = "cluster-example";
const BACKUP_ID: &str = "20261123T083817";
const PGDATA: &str = "/var/lib/postgresql/data/pgdata";

/// A store as the operator describes it on a command line.
struct Store {
    url: &'static str,
    endpoint: Option<&'static str>,
    provider: &'static [&'static str],
    means: (Provider, Option<AzureCredential>),
}

const STORES: [Store; 6] = [
    Store {
        url: "s3://bucket/path/",
        endpoint: None,
        provider: &["--cloud-provider", "aws-s3"],
        means: (Provider::S3, None),
    },
    Store {
        url: "s3://bucket",
        endpoint: Some("https://minio.example:9000"),
        provider: &["--cloud-provider", "aws-s3"],
        means: (Provider::S3, None),
    },
    Store {
        url: "https://account.blob.core.windows.net/container/path",
        endpoint: None,
        provider: &["--cloud-provider", "azure-blob-storage"],
        means: (Provider::Azure, None),
    },
    Store {
        url: "https://account.blob.core.windows.net/container",
        endpoint: None,
        provider: &["--cloud-provider", "azure-blob-storage", "--credential", "default"],
        means: (Provider::Azure, Some(AzureCredential::Default)),
    },
    Store {
        url: "http://azurite:10000/account/container/path",
        endpoint: Some("http://ignored.example"),
        provider: &["--cloud-provider", "azure-blob-storage", "--credential", "managed-identity"],
        means: (Provider::Azure, Some(AzureCredential::ManagedIdentity)),
    },
    Store {
        url: "gs://bucket/path",
        endpoint: None,
        provider: &["--cloud-provider", "google-cloud-storage"],
        means: (Provider::Gcs, None),
    },
];

impl Store {
    fn endpoint(&self) -> Vec<&'static str> {
        self.endpoint.map_or_else(Vec::new, |endpoint| vec!["--endpoint-url", endpoint])
    }

    fn cloud(&self) -> Cloud {
        Cloud {
            provider: self.means.0,
            endpoint_url: self.endpoint.map(str::to_owned),
            aws_profile: None,
            read_timeout_s: None,
            addressing_style: None,
            azure_credential: self.means.1,
            encryption: None,
            sse_kms_key_id: None,
            kms_key_name: None,
            encryption_scope: None,
        }
    }
}

/// Words of an option, and what they add to a meaning.
type Part<T> = (&'static [&'static str], fn(&mut T));

fn tag(key: &str, value: &str) -> Tag {
    (key.to_owned(), value.to_owned())
}

/// Parses, and takes the call apart into what every command has and its own work.
fn call(program: Program, line: &[&[&str]]) -> Call {
    let line = line.concat();
    let call = ask(program, &line).unwrap_or_else(|exit| panic!("{line:?} is refused: {exit:?}"));
    assert_eq!(call.program, program);
    call
}

#[track_caller]
fn expect_common(call: &Call, store: &Store, cloud: &Cloud) {
    assert_eq!(&call.cloud, cloud);
    assert_eq!((call.url.as_str(), call.server.as_str()), (store.url, SERVER));
    assert!(!call.test);
}

const WAL_CODECS: [(&[&str], Option<Compression>); 7] = [
    (&[], None),
    (&["--gzip"], Some(Compression::Gzip)),
    (&["--bzip2"], Some(Compression::Bzip2)),
    (&["--lz4"], Some(Compression::Lz4)),
    (&["--snappy"], Some(Compression::Snappy)),
    (&["--xz"], Some(Compression::Xz)),
    (&["--zstd"], Some(Compression::Zstd)),
];
const WAL_ENCRYPTIONS: [(&[&str], Option<S3Encryption>); 3] =
    [(&[], None), (&["-e", "AES256"], Some(S3Encryption::Aes256)), (&["-e", "aws:kms"], Some(S3Encryption::Kms))];
const WAL_EXTRAS: [Part<Call>; 8] = [
    (&[], |_| {}),
    (&["--read-timeout=60", "-vv"], |call| {
        call.cloud.read_timeout_s = Some(60);
        call.verbosity = 2;
    }),
    (&["--read-timeout", "60", "--aws-profile=p"], |call| {
        call.cloud.read_timeout_s = Some(60);
        call.cloud.aws_profile = Some("p".to_owned());
    }),
    (&["--compression-level=high", "-P", "p"], |call| {
        archive_of(call).level = Some(BarmanLevel::High);
        call.cloud.aws_profile = Some("p".to_owned());
    }),
    (&["--compression-level", "-7", "--sse-kms-key-id=arn:aws:kms:x", "-q"], |call| {
        archive_of(call).level = Some(BarmanLevel::Number(-7));
        call.cloud.sse_kms_key_id = Some("arn:aws:kms:x".to_owned());
        call.verbosity = -1;
    }),
    (&["--max-block-size=1MB", "--max-concurrency=4", "--max-single-put-size=2MiB"], |call| {
        let archive = archive_of(call);
        archive.max_block_size = 1 << 20;
        archive.max_concurrency = 4;
        archive.max_single_put_size = 2_000_000;
    }),
    (&["--kms-key-name=projects/p/k", "--encryption-scope=sc"], |call| {
        call.cloud.kms_key_name = Some("projects/p/k".to_owned());
        call.cloud.encryption_scope = Some("sc".to_owned());
    }),
    (&["--history-tag=h,2"], |call| archive_of(call).history_tags = Some(vec![tag("h", "2")])),
];
const WAL_TAGS: [Part<Call>; 4] = [
    (&[], |_| {}),
    (&["--tags", "a,b", "\"k,1\",\"say \"\"x\"\"\""], |call| {
        archive_of(call).tags = vec![tag("a", "b"), tag("k,1", "say \"x\"")];
    }),
    (&["--tags", "z,", "aws:x,ü"], |call| archive_of(call).tags = vec![tag("z", ""), tag("aws:x", "ü")]),
    (&["--tags"], |_| {}),
];

#[test]
fn wal_archive_means_what_the_operator_wants_in_every_combination() {
    for store in &STORES {
        for ((codec, compression), (encryption, encrypted)) in product(&WAL_CODECS, &WAL_ENCRYPTIONS) {
            for ((extra, extra_means), (tags, tags_mean)) in product(&WAL_EXTRAS, &WAL_TAGS) {
                for history in [true, false] {
                    if history && extra.concat().contains("--history-tag") {
                        continue;
                    }
                    let history_tags: &[&str] = if history { &["--history-tags", "h,1"] } else { &[] };
                    let path = "pg_wal/000000010000000000000001";
                    let place = [store.url, SERVER, path];
                    let endpoint = store.endpoint();
                    let endpoint = endpoint.as_slice();
                    let line = [codec, encryption, extra, endpoint, tags, history_tags, store.provider, &place];
                    let found = call(Program::WalArchive, &line);

                    let mut wanted = call(Program::WalArchive, &[&place]);
                    wanted.cloud = store.cloud();
                    wanted.cloud.encryption = *encrypted;
                    archive_of(&mut wanted).compression = *compression;
                    if history {
                        archive_of(&mut wanted).history_tags = Some(vec![tag("h", "1")]);
                    }
                    extra_means(&mut wanted);
                    tags_mean(&mut wanted);
                    assert_eq!(found, wanted);
                    expect_common(&found, store, &wanted.cloud);
                    assert_eq!(archive_of(&mut wanted).path.as_deref(), Some(path.as_ref()));
                }
            }
        }
    }
}

fn archive_of(call: &mut Call) -> &mut WalArchive {
    match &mut call.work {
        Work::WalArchive(archive) => archive,
        other => panic!("{other:?}"),
    }
}

fn backup_of(call: &mut Call) -> &mut Backup {
    match &mut call.work {
        Work::Backup(backup) => backup,
        other => panic!("{other:?}"),
    }
}

fn product<'a, A, B>(these: &'a [A], those: &'a [B]) -> impl Iterator<Item = (&'a A, &'a B)> {
    these.iter().flat_map(|one| those.iter().map(move |other| (one, other)))
}

#[test]
fn what_wal_archive_is_not_told_has_barmans_defaults() {
    let mut call = call(Program::WalArchive, &[&["s3://b", SERVER, "w"]]);
    let archive = archive_of(&mut call);
    assert_eq!((archive.compression, archive.level), (None, None));
    assert_eq!((archive.tags.len(), archive.history_tags.as_deref()), (0, None));
    assert_eq!((archive.max_block_size, archive.max_single_put_size), (4 << 20, 64 << 20));
    assert_eq!(archive.max_concurrency, 1);
    assert_eq!(call.verbosity, 0);
}

const BACKUP_CODECS: [(&[&str], Compression); 5] = [
    (&[], Compression::None),
    (&["--gzip"], Compression::Gzip),
    (&["--bzip2"], Compression::Bzip2),
    (&["--lz4"], Compression::Lz4),
    (&["--snappy"], Compression::Snappy),
];
const BACKUP_OPTIONS: [Part<Call>; 5] = [
    (&[], |_| {}),
    (&["--encryption", "AES256"], |call| call.cloud.encryption = Some(S3Encryption::Aes256)),
    (&["--encryption", "aws:kms", "--immediate-checkpoint", "--jobs", "8"], |call| {
        call.cloud.encryption = Some(S3Encryption::Kms);
        backup_of(call).immediate_checkpoint = true;
        backup_of(call).jobs = 8;
    }),
    (&["--immediate-checkpoint"], |call| backup_of(call).immediate_checkpoint = true),
    (&["--jobs", "1"], |call| backup_of(call).jobs = 1),
];
const BACKUP_EXTRAS: [Part<Call>; 6] = [
    (&[], |_| {}),
    (&["--min-chunk-size=5MB", "--read-timeout=60", "-vv"], |call| {
        backup_of(call).min_chunk_size = Some(5 << 20);
        call.cloud.read_timeout_s = Some(60);
        call.verbosity = 2;
    }),
    (&["--min-chunk", "5242880", "--max-archive-size=10GB", "--max-bandwidth=0.5GiB"], |call| {
        let backup = backup_of(call);
        backup.min_chunk_size = Some(5 << 20);
        backup.max_archive_size = 10 << 30;
        backup.max_bandwidth = Some(500_000_000);
    }),
    (&["-S", "1TB", "-h", "/controller/run", "-p5433", "-d", "app"], |call| {
        let backup = backup_of(call);
        backup.max_archive_size = 1 << 40;
        backup.host = Some("/controller/run".to_owned());
        backup.port = Some("5433".to_owned());
        backup.dbname = "app".to_owned();
    }),
    (&["--sse-kms-key-id=k", "--kms-key-name=g", "--encryption-scope=a", "--aws-region=eu"], |call| {
        call.cloud.sse_kms_key_id = Some("k".to_owned());
        call.cloud.kms_key_name = Some("g".to_owned());
        call.cloud.encryption_scope = Some("a".to_owned());
    }),
    (&["--snapshot-disk=d", "--snapshot-instance=i"], |call| {
        backup_of(call).snapshot_option = Some("--snapshot-disk".to_owned());
    }),
];
const BACKUP_TAGS: [Part<Call>; 2] =
    [(&[], |_| {}), (&["--tags", "a,b", "c,d"], |call| backup_of(call).tags = vec![tag("a", "b"), tag("c", "d")])];
const BACKUP_NAME: &str = "backup-20261123083817";

#[test]
fn backup_means_what_the_operator_wants_in_every_combination() {
    for store in &STORES {
        for ((codec, compression), (options, options_mean)) in product(&BACKUP_CODECS, &BACKUP_OPTIONS) {
            for ((extra, extra_means), (tags, tags_mean)) in product(&BACKUP_EXTRAS, &BACKUP_TAGS) {
                let (who, place) = (["--user", "postgres", "--name", BACKUP_NAME], [store.url, SERVER]);
                let endpoint = store.endpoint();
                let line = [&who, *codec, options, extra, tags, &endpoint, store.provider, &place];
                let found = call(Program::Backup, &line);

                let mut wanted = call(Program::Backup, &[&place]);
                wanted.cloud = store.cloud();
                let backup = backup_of(&mut wanted);
                assert_eq!((backup.dbname.as_str(), backup.jobs), ("postgres", 2));
                assert_eq!((backup.max_archive_size, backup.compression), (100 << 30, Compression::None));
                backup.compression = *compression;
                backup.user = Some("postgres".to_owned());
                backup.name = Some(BACKUP_NAME.to_owned());
                options_mean(&mut wanted);
                extra_means(&mut wanted);
                tags_mean(&mut wanted);
                assert_eq!(found, wanted);
                expect_common(&found, store, &wanted.cloud);
            }
        }
    }
}

#[test]
fn wal_restore_takes_extra_arguments_between_the_server_and_the_file() {
    const EXTRAS: [&[&str]; 4] =
        [&[], &["--no-partial"], &["--read-timeout=60", "-vv"], &["--read-t", "60", "-v", "-v"]];
    for (store, extra) in product(&STORES, &EXTRAS) {
        for name in ["000000010000000000000001", "00000002.history", "not-a-name"] {
            let (place, file) = ([store.url, SERVER], [name, "pg_wal/RECOVERYXLOG"]);
            let found = call(Program::WalRestore, &[&store.endpoint(), store.provider, &place, extra, &file]);
            let mut cloud = store.cloud();
            let patient = extra.len() > 1;
            cloud.read_timeout_s = patient.then_some(60);
            expect_common(&found, store, &cloud);
            assert_eq!(found.verbosity, if patient { 2 } else { 0 });
            let Work::WalRestore(restore) = found.work else { panic!("{:?}", found.work) };
            assert_eq!((restore.name.as_str(), restore.parallel), (name, 0));
            assert_eq!(restore.destination.to_str(), Some("pg_wal/RECOVERYXLOG"));
            assert_eq!(restore.spool_dir.to_str(), Some("/var/tmp/walrestore"));
            assert_eq!(restore.no_partial, *extra == ["--no-partial"]);
        }
    }
}

#[test]
fn both_orders_of_restore_mean_the_same() {
    const EXTRAS: [&[&str]; 4] = [
        &[],
        &["--read-timeout=60"],
        &["--tablespace", "ts1:/mnt/ts1", "--tablespace=ts2:/mnt/ts2"],
        &["-v", "-P", "p"],
    ];
    for (store, extra) in product(&STORES, &EXTRAS) {
        let (from, into) = ([store.url, SERVER, BACKUP_ID], [PGDATA]);
        let plugin = call(Program::Restore, &[store.provider, &store.endpoint(), extra, &from, &into]);
        let in_tree = call(Program::Restore, &[&store.endpoint(), &from, store.provider, extra, &into]);
        assert_eq!(plugin, in_tree);
        let mut cloud = store.cloud();
        cloud.read_timeout_s = extra.contains(&"--read-timeout=60").then_some(60);
        cloud.aws_profile = extra.contains(&"-P").then(|| "p".to_owned());
        expect_common(&plugin, store, &cloud);
        let Work::Restore(restore) = plugin.work else { panic!("{:?}", plugin.work) };
        assert_eq!((restore.backup.as_str(), restore.directory.to_str()), (BACKUP_ID, Some(PGDATA)));
        let tablespaces = [("ts1".into(), "/mnt/ts1".into()), ("ts2".into(), "/mnt/ts2".into())];
        assert_eq!(restore.tablespaces, if extra.contains(&"--tablespace") { &tablespaces[..] } else { &[] });
        assert_eq!((restore.target_tli, restore.target_time, restore.target_lsn), (None, None, None));
        assert_eq!(restore.snapshot_option, None);
    }
}

#[test]
fn the_commands_for_the_catalogue_mean_what_the_operator_wants() {
    for store in &STORES {
        let endpoint = store.endpoint();
        let place = [store.url, SERVER];
        let check = call(Program::CheckWalArchive, &[&endpoint, store.provider, &place]);
        expect_common(&check, store, &store.cloud());
        assert_eq!(check.work, Work::CheckWalArchive { timeline: None });

        let json: &[&str] = &["--format", "json"];
        let list = call(Program::BackupList, &[json, &endpoint, store.provider, &place]);
        expect_common(&list, store, &store.cloud());
        assert_eq!(list.work, Work::List { format: Format::Json });

        let backup = "backup-20261123083817";
        let show = call(Program::BackupShow, &[json, &endpoint, store.provider, &place, &[backup]]);
        expect_common(&show, store, &store.cloud());
        assert_eq!(show.work, Work::Show { backup: backup.to_owned(), format: Format::Json });

        for policy in ["RECOVERY WINDOW OF 7 DAYS", "RECOVERY WINDOW OF 2 WEEKS", "RECOVERY WINDOW OF 1 MONTHS"] {
            let extra = words("--minimum-redundancy 2 --batch-size=100 --dry-run --check-object-lock");
            let policy_words = ["--retention-policy", policy];
            let plain = call(Program::BackupDelete, &[&endpoint, store.provider, &policy_words, &place]);
            let extended = call(Program::BackupDelete, &[&endpoint, store.provider, &policy_words, &extra, &place]);
            expect_common(&plain, store, &store.cloud());
            let mut wanted = Delete {
                what: Which::Policy(policy.to_owned()),
                minimum_redundancy: 0,
                dry_run: false,
                batch_size: None,
                check_object_lock: false,
            };
            assert_eq!(plain.work, Work::Delete(wanted.clone()));
            wanted.minimum_redundancy = 2;
            wanted.batch_size = Some(100);
            wanted.dry_run = true;
            wanted.check_object_lock = true;
            assert_eq!(extended.work, Work::Delete(wanted));
        }
    }
}

#[test]
fn tags_may_come_in_any_order() {
    let forwards = call(Program::Backup, &[&["--tags", "a,b", "c,d", "--jobs", "2", "s3://b", SERVER]]);
    let backwards = call(Program::Backup, &[&["--tags", "c,d", "a,b", "--jobs", "2", "s3://b", SERVER]]);
    let sorted = |mut call: Call| {
        backup_of(&mut call).tags.sort();
        call
    };
    assert_eq!(sorted(forwards), sorted(backwards));
}

#[test]
fn an_unknown_extra_argument_is_one_clear_last_line() {
    for program in Program::ALL {
        let positionals = super::super::grammar::arguments(program).iter().filter(|one| one.is_positional()).count();
        let choice: &[&str] = match program {
            Program::BackupDelete => &["-b", "b"],
            Program::BackupKeep => &["-r"],
            _ => &[],
        };
        let line = [vec!["--made-up=1"], choice.to_vec(), vec!["x"; positionals]].concat();
        let stderr = super::stderr_of(ask(program, &line));
        let last = format!("{}: error: unrecognized arguments: --made-up=1", program.name());
        assert_eq!(stderr.lines().last(), Some(last.as_str()));
    }
}
