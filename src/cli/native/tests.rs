//! What the grammar takes and refuses, and where each setting comes from.

use super::*;
use crate::cli::invocation::{CompressionChoice, OutputFormat, restore_command_argv};
use crate::domain::compression::Compression;
use crate::domain::recovery_target::{RecoveryTarget, TargetAction, TargetRequest, TargetTimeline};

const STORE: [(&str, &str); 1] = [("BARBACK_STORE", "file:///backups")];

fn parse_at(line: &str, env: &[(&str, &str)], config: &Path) -> std::result::Result<Invocation, Exit> {
    let argv = std::iter::once("barback").chain(line.split_whitespace()).map(OsString::from).collect();
    let env = env.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    parse_with(argv, &env, Zone::Fixed(chrono::FixedOffset::east_opt(7200).unwrap()), config)
}

fn parse_words(line: &str, env: &[(&str, &str)]) -> std::result::Result<Invocation, Exit> {
    parse_at(line, env, Path::new("/nonexistent/barback.toml"))
}

fn run(line: &str, env: &[(&str, &str)]) -> Run {
    match parse_words(line, env) {
        Ok(Invocation::Run(run)) => *run,
        other => panic!("{line}: {other:?}"),
    }
}

fn restore(line: &str) -> RestoreArgs {
    match run(&format!("restore /copy {line}"), &STORE).command {
        Command::Restore(args) => *args,
        other => panic!("{line}: {other:?}"),
    }
}

fn backup(line: &str) -> BackupArgs {
    match run(&format!("backup {line}"), &STORE).command {
        Command::Backup(args) => args,
        other => panic!("{line}: {other:?}"),
    }
}

fn refusal(line: &str, env: &[(&str, &str)]) -> (u8, String) {
    match parse_words(line, env) {
        Err(Exit::Grammar { error, code }) => (code, error.render().to_string()),
        Err(Exit::Refused { error, code }) => (code, format!("{error}\n{}", error.hint().unwrap_or(""))),
        Ok(invocation) => panic!("{line} was taken: {invocation:?}"),
    }
}

#[test]
fn clap_finds_no_mistake_in_the_grammar() {
    Cli::command().debug_assert();
}

#[test]
fn every_command_is_understood() {
    for (line, command) in [
        ("wal-archive pg_wal/000000010000000000000001", "WalArchive"),
        ("wal-archive --all pg_wal --jobs 4", "WalArchiveAll(WalArchiveAllArgs { directory: \"pg_wal\", jobs: 4 })"),
        ("wal-restore 000000010000000000000001 pg_wal/RECOVERYXLOG", "WalRestore"),
        ("wal-restore 00000002.history pg_wal/RECOVERYHISTORY", "WalRestore"),
        ("backup", "Backup"),
        ("restore /copy", "Restore"),
        ("list", "List"),
        ("show latest", "Show"),
        ("expire --policy 30d --dry-run", "Expire"),
        ("expire --debris", "Expire"),
        ("expire --floor-lsn 1/0", "Expire"),
        ("delete latest", "Delete"),
        ("keep latest --standalone", "Keep"),
        ("--server other -vv list -o json --no-progress", "List"),
    ] {
        assert!(format!("{:?}", run(line, &STORE).command).starts_with(command), "{line}");
    }
}

#[test]
fn version_and_completions_need_no_store_and_no_valid_configuration() {
    let broken = [("BARBACK_CONFIG", "/nonexistent.toml")];
    assert!(matches!(parse_words("version -o json", &broken), Ok(Invocation::Version(OutputFormat::Json))));
    assert!(matches!(parse_words("completions bash", &broken), Ok(Invocation::Completions(Shell::Bash))));
    let mut script = Vec::new();
    completions(Shell::Bash, &mut script).unwrap();
    assert!(String::from_utf8(script).unwrap().contains("wal-restore"));
}

#[test]
fn usage_errors_exit_with_3_and_help_with_0() {
    for line in [
        "",
        "frobnicate",
        "expire",
        "expire --policy soon",
        "expire --policy 30d --minimum-redundancy 0",
        "delete",
        "keep",
        "keep latest --standalone --release",
        "drill --target yesterday",
        "drill --seed 7",
        "drill --level 4",
        "drill --target random --target-lsn 0/1",
        "drill --target-action shutdown --target-lsn 0/1",
        "drill --objective soon",
        "list --bogus",
        "list extra",
        "show",
        "list -o yaml",
        "wal-archive",
        "wal-archive a --all pg_wal",
        "wal-archive --all pg_wal --jobs 65",
        "wal-archive a --compression rar",
        "wal-archive a --compression-level high",
        "backup --jobs 0",
        "backup --jobs 65",
        "backup --part-size 1MiB",
        "backup --part-size 1GiB",
        "backup --max-rate 1",
        "backup --name latest",
        "backup --name 20260608T113200",
        "backup --wal-timeout 30d",
        "backup -d host=a,password=b --bogus",
        "restore",
        "restore /copy --target-lsn 16",
        "restore /copy --target-lsn 16/0 --target-xid 777",
        "restore /copy --target-immediate --target-name a",
        "restore /copy --target-time 2026-06-08T11:32:00",
        "restore /copy --target-xid 2",
        "restore /copy --target-timeline 0",
        "restore /copy --target-action stop --target-immediate",
        "restore /copy --target-action promote",
        "restore /copy --exclusive",
        "restore /copy --exclusive --target-immediate",
        "restore /copy --exclusive --target-name a",
        "restore /copy --no-recovery --target-xid 777",
        "restore /copy --no-recovery --target-timeline 2",
        "restore /copy --tablespace fast",
        "restore /copy --tablespace fast=/a --tablespace fast=/b",
        "--store bucket list",
        "--server a/b list",
        "--endpoint-url minio:9000 list",
        "--retry-timeout soon list",
        "--config /nonexistent.toml list",
        "--server wal-restore --endpoint-url bad list",
    ] {
        assert_eq!(refusal(line, &STORE).0, 3, "{line}");
    }
    for line in ["--help", "-h", "help", "help backup", "backup --help", "wal-restore --help", "--version", "-V"] {
        assert_eq!(refusal(line, &[]).0, 0, "{line}");
    }
}

#[test]
fn a_usage_error_inside_restore_command_is_never_taken_for_the_end_of_the_wal() {
    for line in [
        "wal-restore",
        "wal-restore 000000010000000000000001",
        "wal-restore nonsense dest",
        "wal-restore 000000010000000000000001 dest --bogus",
        "--bogus wal-restore 000000010000000000000001 dest",
        "--store file:///b -v wal-restore 000000010000000000000001 dest extra",
        "-o json --store=s3://b wal-restore",
        "-vo json wal-restore 000000010000000000000001",
        "-o yaml wal-restore 000000010000000000000001 dest",
        "--config /nonexistent.toml wal-restore 000000010000000000000001 dest",
        "--store bucket wal-restore 000000010000000000000001 dest",
    ] {
        assert_eq!(refusal(line, &STORE).0, 255, "{line}");
    }
    assert_eq!(refusal("wal-restore 000000010000000000000001 dest", &[]).0, 255, "no store");
}

#[test]
fn a_missing_store_is_told_with_the_three_ways_to_give_it() {
    let (code, text) = refusal("list", &[("BARBACK_STORE", "")]);
    assert_eq!(code, 3);
    for way in ["--store", "BARBACK_STORE", "/etc/barback.toml", "s3://", "file:///"] {
        assert!(text.contains(way), "{way}: {text}");
    }
}

#[test]
fn a_secret_in_a_flag_is_refused_and_not_repeated() {
    for line in [
        "--store s3://id:hunter2@bucket list",
        "--endpoint-url https://id:hunter2@minio list",
        "backup -d postgresql://me:hunter2@host/db",
        "backup -d password=hunter2",
    ] {
        let (code, text) = refusal(line, &STORE);
        assert_eq!(code, 3);
        assert!(text.contains("password") && !text.contains("hunter2"), "{text}");
    }
}

#[test]
fn a_flag_wins_over_the_environment_over_the_file_over_the_default() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("barback.toml");
    std::fs::write(&config, "store = \"file:///from-file\"\nserver = \"from-file\"\nregion = \"from-file\"\n").unwrap();
    let settings = |line: &str, env: &[(&str, &str)]| match parse_at(line, env, &config) {
        Ok(Invocation::Run(run)) => run.settings,
        other => panic!("{other:?}"),
    };
    let env = [("BARBACK_STORE", "file:///from-env"), ("BARBACK_SERVER", "from-env"), ("AWS_REGION", "from-aws")];

    let all = settings("list --store file:///from-flag", &env);
    assert_eq!(all.store.url, "file:///from-flag");
    assert_eq!(all.store.server, "from-env");
    assert_eq!(all.store.region.as_deref(), Some("from-file"));
    assert_eq!(all.store.retry_timeout_s, 60);
    assert_eq!(all.config_path.as_deref(), Some(config.as_path()));

    let other = dir.path().join("other.toml");
    std::fs::write(&other, "store = \"file:///from-other\"\n").unwrap();
    let named = settings(&format!("list --config {}", other.display()), &env[2..]);
    assert_eq!(named.store.url, "file:///from-other");
    assert_eq!(named.store.server, "main", "a named file replaces the default file");
    assert_eq!(named.store.region.as_deref(), Some("from-aws"));

    std::fs::write(&config, "stroe = \"x\"\n").unwrap();
    assert!(parse_at("list", &env, &config).is_err(), "the default file is checked as well");
}

#[test]
fn defaults_are_as_documented() {
    let Run { settings, .. } = run("list", &STORE);
    assert_eq!(settings.store.server, "main");
    assert_eq!(settings.store.addressing_style, AddressingStyle::Auto);
    assert_eq!(settings.output, OutputFormat::Text);
    assert_eq!(settings.log, LogSettings::default());
    assert!(settings.progress && settings.config_path.is_none());
    let zstd = CompressionChoice { codec: Compression::Zstd, level: Some(1) };
    assert_eq!(settings.wal_compression, zstd);
    assert_eq!(
        backup(""),
        BackupArgs {
            dbname: None,
            pgdata: None,
            name: None,
            jobs: 2,
            compression: zstd,
            fast: false,
            max_rate_bytes: None,
            max_memory_bytes: 256 << 20,
            part_size_bytes: 8 << 20,
            wal_timeout: Duration::from_mins(10),
        }
    );
    let args = restore("");
    assert!(args.recovery && !args.plan && !args.keep_archiving && (1..=8).contains(&args.jobs));
}

#[test]
fn talk_is_counted_up_and_down() {
    for (line, verbosity, progress) in [("list -vv", 2, true), ("-q list", -1, false), ("-v list -q", 0, false)] {
        let settings = run(line, &STORE).settings;
        assert_eq!((settings.log.verbosity, settings.progress), (verbosity, progress), "{line}");
    }
    assert!(!run("list --no-progress", &STORE).settings.progress);
    let env = [STORE[0], ("BARBACK_LOG", "debug"), ("BARBACK_LOG_FORMAT", "json")];
    let log = run("list", &env).settings.log;
    assert_eq!((log.filter.as_deref(), log.format), (Some("debug"), LogFormat::Json));
}

#[test]
fn backup_options_arrive_typed() {
    let args = backup(
        "-d dbname=postgres --pgdata /data --name nightly --jobs 4 --compression lz4 --compression-level -3 --fast \
         --max-rate 50MB --part-size 16MiB --wal-timeout 5m",
    );
    assert_eq!(args.dbname.as_deref(), Some("dbname=postgres"));
    assert_eq!(args.pgdata.as_deref(), Some(Path::new("/data")));
    assert_eq!(args.name.unwrap().as_str(), "nightly");
    assert_eq!(args.compression, CompressionChoice { codec: Compression::Lz4, level: Some(-3) });
    assert!(args.fast);
    assert_eq!((args.jobs, args.max_rate_bytes, args.part_size_bytes), (4, Some(50_000_000), 16 << 20));
    assert_eq!(args.wal_timeout, Duration::from_mins(5));
}

#[test]
fn wal_commands_carry_their_compression_in_the_settings() {
    let settings = run("wal-archive a --compression gzip --compression-level 9", &STORE).settings;
    assert_eq!(settings.wal_compression, CompressionChoice { codec: Compression::Gzip, level: Some(9) });
    let settings = run("wal-restore 000000010000000000000001 b --compression xz", &STORE).settings;
    assert_eq!(settings.wal_compression.codec, Compression::Xz);
}

#[test]
fn restore_builds_the_target() {
    let lsn = "16/B374D848".parse().unwrap();
    for (line, target, inclusive, action) in [
        ("", RecoveryTarget::Latest, true, TargetAction::Promote),
        ("--target-lsn 16/B374D848", RecoveryTarget::Lsn(lsn), true, TargetAction::Pause),
        ("--target-xid 777 --exclusive", RecoveryTarget::Xid(777), false, TargetAction::Pause),
        ("--target-name p1", RecoveryTarget::Name("p1".to_owned()), true, TargetAction::Pause),
        ("--target-immediate --target-action shutdown", RecoveryTarget::Immediate, true, TargetAction::Shutdown),
        (
            "--target-time 2026-06-08T11:32:00+02:00 --target-action promote",
            RecoveryTarget::Time("2026-06-08T11:32:00+02:00".parse().unwrap()),
            true,
            TargetAction::Promote,
        ),
    ] {
        let request = TargetRequest { target, inclusive, timeline: TargetTimeline::Latest, action };
        assert_eq!(restore(line).request, request, "{line}");
    }
    assert_eq!(restore("--target-timeline current").request.timeline, TargetTimeline::Current);
}

#[test]
fn restore_paths_are_absolute() {
    let args = restore("--tablespace fast=ts/fast --tablespace a=/b=c --pg-bindir bin --plan --keep-archiving");
    let here = std::env::current_dir().unwrap();
    assert_eq!(args.tablespaces["fast"], here.join("ts/fast"));
    assert_eq!(args.tablespaces["a"], Path::new("/b=c"));
    assert_eq!(args.pg_bindir, Some(here.join("bin")));
    assert!(args.plan && args.keep_archiving);
}

fn handed_on(line: &str, env: &[(&str, &str)], config: &Path) -> String {
    match parse_at(line, env, config) {
        Ok(Invocation::Run(run)) => {
            let words = restore_command_argv(&run.settings, Path::new("/usr/bin/barback")).unwrap().join(" ");
            // As many as this machine has cores, within limits.
            let jobs = (2..=4).map(|jobs| format!(" --jobs {jobs}")).find(|end| words.ends_with(end));
            jobs.map_or(words.clone(), |end| words.strip_suffix(&end).unwrap().to_owned() + " --jobs N")
        }
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn restore_command_leads_to_the_same_store_and_holds_no_secret() {
    let nowhere = Path::new("/nonexistent");
    let env = [
        ("BARBACK_STORE", "s3://bucket/prefix"),
        ("BARBACK_ENDPOINT_URL", "https://minio:9000"),
        ("AWS_REGION", "garage"),
        ("AWS_SECRET_ACCESS_KEY", "hunter2"),
    ];
    assert_eq!(
        handed_on("restore /copy --server blue --s3-addressing-style path --retry-timeout 5", &env, nowhere),
        "/usr/bin/barback wal-restore --store s3://bucket/prefix --server blue --endpoint-url https://minio:9000 \
         --s3-addressing-style path --region garage --retry-timeout 5 --compression zstd --jobs N"
    );
    assert_eq!(
        handed_on("restore /copy", &[STORE[0], env[2]], nowhere),
        "/usr/bin/barback wal-restore --store file:///backups --server main --compression zstd --jobs N"
    );
}

#[test]
fn restore_command_names_an_explicit_file_and_leaves_its_options_there() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("barback.toml");
    std::fs::write(&config, "store = \"s3://b\"\nregion = \"r\"\naws_profile = \"p\"\n[wal]\ncompression = \"lz4\"\n")
        .unwrap();
    let named = [("BARBACK_CONFIG", config.to_str().unwrap())];
    let line = handed_on("restore /copy --region other", &named, Path::new("/nonexistent"));
    assert_eq!(
        line,
        format!(
            "/usr/bin/barback wal-restore --config {} --store s3://b --server main --region other --compression lz4 --jobs N",
            config.display()
        )
    );
    let line = handed_on("restore /copy", &[], &config);
    assert_eq!(line, "/usr/bin/barback wal-restore --store s3://b --server main --compression lz4 --jobs N");
}

#[test]
fn a_copy_fetches_ahead_as_the_configuration_says() {
    let dir = tempfile::tempdir().unwrap();
    let config = dir.path().join("barback.toml");
    std::fs::write(&config, "store = \"s3://b\"\n[wal_restore]\njobs = 7\nidle = \"5s\"\n").unwrap();
    assert!(!handed_on("restore /copy", &[], &config).contains("--jobs"), "the file says it to the copy as well");
    let words = handed_on("restore /copy --jobs 9", &[("BARBACK_WAL_RESTORE_JOBS", "16")], &config);
    assert!(words.ends_with(" --jobs 16"), "{words}");
    let call = |env: &[(&str, &str)], more: &str| {
        let line = format!("wal-restore 000000010000000000000001 pg_wal/RECOVERYXLOG {more}");
        match parse_at(&line, env, &config) {
            Ok(Invocation::Run(run)) => match run.command {
                Command::WalRestore(args) => (args.jobs, args.idle.as_secs(), args.fetch_ahead),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(call(&[], ""), (7, 5, false));
    assert_eq!(call(&[], "--jobs 1"), (1, 5, false));
    assert_eq!(call(&[("BARBACK_WAL_RESTORE_IDLE", "2m")], "--fetch-ahead"), (7, 120, true));
    for idle in ["0", "11m", "x"] {
        assert!(refusal("list", &[STORE[0], ("BARBACK_WAL_RESTORE_IDLE", idle)]).1.contains("IDLE"), "{idle}");
    }
}

#[test]
fn what_is_handed_on_can_be_parsed_again() {
    let env = [("BARBACK_STORE", "s3://bucket/prefix"), ("AWS_PROFILE", "ops"), ("BARBACK_CA_BUNDLE", "/ca.pem")];
    let first = run("restore /copy --endpoint-url http://h:1 --s3-addressing-style virtual", &env).settings;
    let words = restore_command_argv(&first, Path::new("barback")).unwrap()[1..].join(" ");
    let again = run(&format!("{words} 000000010000000000000001 pg_wal/RECOVERYXLOG"), &[]).settings;
    assert_eq!(again.store, first.store);
    assert_eq!(again.wal_compression, first.wal_compression);
}

#[test]
fn help_tells_the_essentials() {
    let help = refusal("--help", &[]).1;
    for words in
        ["wal-archive", "wal-restore", "archive_command = 'barback wal-archive %p'", "BARBACK_STORE", "Exit codes"]
    {
        assert!(help.contains(words), "{words}: {help}");
    }
    assert!(!help.contains("\n  find "), "find is not built yet");
    let restore = refusal("restore --help", &[]).1;
    for words in ["--target-time <TIME>", "Recovery target", "--plan", "barback restore /srv/copy --target-lsn"] {
        assert!(restore.contains(words), "{words}: {restore}");
    }
    assert!(help.lines().chain(restore.lines()).all(|line| line.chars().count() <= 100), "help fits 100 columns");
}

#[test]
fn a_policy_comes_from_the_flag_the_environment_or_the_file_in_this_order() {
    let policy = |line: &str, env: &[(&str, &str)]| match run(line, &[&STORE, env].concat()).command {
        Command::Expire(args) => (args.policy.unwrap().to_string(), args.minimum_redundancy),
        other => panic!("{other:?}"),
    };
    let env = [("BARBACK_EXPIRE_POLICY", "REDUNDANCY 3"), ("BARBACK_EXPIRE_MINIMUM_REDUNDANCY", "2")];
    assert_eq!(policy("expire", &env), ("REDUNDANCY 3".to_owned(), 2));
    assert_eq!(policy("expire --policy 4w", &env), ("RECOVERY WINDOW OF 28 DAYS".to_owned(), 2));
    assert_eq!(policy("expire --policy 4w", &[]).1, 1);
    match run("delete latest", &[&STORE, &env[..]].concat()).command {
        Command::Delete(args) => assert_eq!(args.minimum_redundancy, 2),
        other => panic!("{other:?}"),
    }
}
