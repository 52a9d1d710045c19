//! What `backup.info` promises: Barman's files are read in full and written back byte for byte.

use chrono::Utc;
use proptest::prelude::*;

use super::*;
use crate::domain::cluster::SystemIdentifier;
use crate::domain::segment::SegmentName;
use crate::domain::timeline::TimelineId;
use crate::error::ErrorKind;

const FIXTURES: [(&str, &str); 4] = [
    (
        "20261123T083817",
        include_str!("../../../fixtures/barman-3.19.1/bucket/pfx/main/base/20261123T083817/backup.info"),
    ),
    (
        "20261123T083822",
        include_str!("../../../fixtures/barman-3.19.1/bucket/pfx/main/base/20261123T083822/backup.info"),
    ),
    (
        "20261123T083826",
        include_str!("../../../fixtures/barman-3.19.1/bucket/pfx/main/base/20261123T083826/backup.info"),
    ),
    (
        "20261123T083832",
        include_str!("../../../fixtures/barman-3.19.1/bucket/pfx/main/base/20261123T083832/backup.info"),
    ),
];

/// What differs between the four backups of the fixture.
struct Expected {
    name: &'static str,
    begin: u64,
    begin_time: &'static str,
    end_time: &'static str,
    cluster_size: u64,
    /// total, copy, serialized copy; copy of 16389 and data; serialized copy of 16389 and data.
    times: [f64; 7],
}

const EXPECTED: [Expected; 4] = [
    Expected {
        name: "fx1",
        begin: 0x150_0028,
        begin_time: "2026-11-23T08:38:17.378155+00:00",
        end_time: "2026-11-23T08:38:18.782813+00:00",
        cluster_size: 8_714_951,
        times: [2.488_638, 1.960_629, 0.974_184, 0.016_311, 1.960_629, 0.009_631, 0.187_505],
    },
    Expected {
        name: "fx2",
        begin: 0x170_0028,
        begin_time: "2026-11-23T08:38:22.475722+00:00",
        end_time: "2026-11-23T08:38:23.320326+00:00",
        cluster_size: 8_731_335,
        times: [1.926_051, 1.659_446, 2.022_145, 0.013_472, 1.659_446, 0.007_418, 0.422_346],
    },
    Expected {
        name: "fx3",
        begin: 0x190_0028,
        begin_time: "2026-11-23T08:38:26.955356+00:00",
        end_time: "2026-11-23T08:38:27.792157+00:00",
        cluster_size: 8_755_911,
        times: [2.912_743, 2.7077, 1.873_655, 0.010_438, 2.7077, 0.005_076, 0.481_467],
    },
    Expected {
        name: "fx4",
        begin: 0x1B0_0028,
        begin_time: "2026-11-23T08:38:32.371380+00:00",
        end_time: "2026-11-23T08:38:32.930009+00:00",
        cluster_size: 8_772_295,
        times: [1.912_354, 0.245_918, 0.185_292, 0.186_916, 0.028_027, 0.174_921, 0.010_371],
    },
];

fn id() -> BackupId {
    "20261123T083817".parse().unwrap()
}

fn expected_backup(id: &str, expected: &Expected) -> Backup {
    let size = SegmentSize::new(1 << 20).unwrap();
    let begin = Lsn(expected.begin);
    let segment = SegmentName::from_number(TimelineId::FIRST, size.segment_of(begin), size);
    let second = &expected.begin_time[11..19];
    let [total, copy, serialized, copy_ts, copy_data, serialized_ts, serialized_data] = expected.times;
    let per_item = |ts, data| BTreeMap::from([("16389".to_owned(), ts), ("data".to_owned(), data)]);
    Backup {
        name: Some(expected.name.to_owned()),
        status: BackupStatus::Done,
        system_identifier: Some(SystemIdentifier(7_711_281_960_404_649_938)),
        version: Some(ServerVersion(150_020)),
        pgdata: Some("/tmp/bmn/pg/data".to_owned()),
        config_file: Some("/tmp/bmn/pg/data/postgresql.conf".to_owned()),
        hba_file: Some("/tmp/bmn/pg/data/pg_hba.conf".to_owned()),
        ident_file: Some("/tmp/bmn/pg/data/pg_ident.conf".to_owned()),
        included_files: None,
        timeline: Some(TimelineId::FIRST),
        begin_lsn: Some(begin),
        end_lsn: Some(Lsn(expected.begin + 0xD8)),
        begin_segment: Some(segment),
        end_segment: Some(segment),
        begin_time: Some(DateTime::parse_from_rfc3339(expected.begin_time).unwrap()),
        end_time: Some(DateTime::parse_from_rfc3339(expected.end_time).unwrap()),
        segment_size: size,
        cluster_size_bytes: Some(expected.cluster_size),
        data_checksums: Some(true),
        tablespaces: vec![Tablespace { name: "ts1".to_owned(), oid: 16389, location: "/tmp/bmn/pg/ts1".to_owned() }],
        backup_label: Some(format!(
            "START WAL LOCATION: {begin} (file {segment})\nCHECKPOINT LOCATION: {}\nBACKUP METHOD: streamed\n\
             BACKUP FROM: primary\nSTART TIME: 2026-11-23 {second} UTC\nLABEL: Barman backup cloud {id}\n\
             START TIMELINE: 1\n",
            Lsn(expected.begin + 0x38)
        )),
        error: None,
        copy_stats: Some(CopyStats {
            total_time_s: total,
            number_of_workers: 2,
            copy_time_s: copy,
            serialized_copy_time_s: serialized,
            copy_time_per_item_s: per_item(copy_ts, copy_data),
            serialized_copy_time_per_item_s: per_item(serialized_ts, serialized_data),
        }),
        summarize_wal: None,
        comments: Vec::new(),
        ..Backup::new(id.parse().unwrap())
    }
}

#[test]
fn every_field_barman_wrote_is_read() {
    for ((id, text), expected) in FIXTURES.iter().zip(&EXPECTED) {
        assert_eq!(parse(&id.parse().unwrap(), text).unwrap(), expected_backup(id, expected));
    }
}

#[test]
fn barmans_files_are_written_back_byte_for_byte() {
    for (id, text) in FIXTURES {
        assert_eq!(write(&parse(&id.parse().unwrap(), text).unwrap()), text);
    }
}

#[test]
fn a_backup_just_started_has_every_field_but_its_name() {
    let backup = Backup { status: BackupStatus::Started, ..Backup::new(id()) };
    let text = write(&backup);
    assert_eq!(text.lines().count(), 33);
    assert!(text.starts_with("backup_label=None\nbegin_offset=None\n"), "{text}");
    assert!(text.contains("\nserver_name=cloud\nsize=None\nstatus=STARTED\nsummarize_wal=None\n"), "{text}");
    assert!(text.contains("\ntablespaces=None\n") && text.ends_with("xlog_segment_size=16777216\n"), "{text}");
    assert_eq!(parse(&id(), &text).unwrap(), backup);
}

#[test]
fn missing_and_unknown_fields_blank_lines_and_spaces_are_no_errors() {
    let backup =
        parse(&id(), "# one\n#two \n\n  \r\n future_field = 1\r\n status = DONE \r\nbackup_name= a = b\n").unwrap();
    assert_eq!(backup.status, BackupStatus::Done);
    assert_eq!(backup.name.as_deref(), Some("a = b"));
    assert_eq!(backup.comments, ["one", "two"]);
    assert_eq!(backup.segment_size, SegmentSize::DEFAULT);
    assert_eq!(parse(&id(), "").unwrap(), Backup::new(id()));
    assert!(write(&backup).starts_with("# one\n# two\nbackup_label=None\nbackup_name=a = b\n"));
}

#[test]
fn the_last_of_equal_fields_wins() {
    assert_eq!(parse(&id(), "timeline=x\ntimeline=3\n").unwrap().timeline, TimelineId::new(3));
    assert_eq!(parse(&id(), "timeline=3\ntimeline=None\n").unwrap().timeline, None);
}

#[test]
fn a_value_that_cannot_be_read_is_corrupt_and_named() {
    for (field, value) in [
        ("backup_label", "START WAL"),
        ("backup_label", "1"),
        ("begin_time", "yesterday"),
        ("begin_wal", "15"),
        ("begin_xlog", "0-15"),
        ("cluster_size", "-1"),
        ("cluster_size", ""),
        ("copy_stats", "[]"),
        ("copy_stats", "{'number_of_workers': 1.5}"),
        ("copy_stats", "{'number_of_workers': -1}"),
        ("copy_stats", "{'total_time': 'x'}"),
        ("copy_stats", "{'copy_time_per_item': 1}"),
        ("data_checksums", "true"),
        ("end_time", "2026-02-30 00:00:00+00:00"),
        ("end_wal", "000000000000000000000015"),
        ("end_xlog", "0/"),
        ("included_files", "[1]"),
        ("included_files", "'a'"),
        ("systemid", "x"),
        ("tablespaces", "[('ts1', 16389)]"),
        ("tablespaces", "[('ts1', -1, '/a')]"),
        ("timeline", "0"),
        ("version", "15.20"),
        ("xlog_segment_size", "3"),
    ] {
        let refused = parse(&id(), &format!("status=DONE\n{field}={value}\n")).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::Corrupt, "{field}={value}");
        assert!(refused.to_string().contains(&format!("value \"{value}\" of field \"{field}\"")), "{refused}");
    }
}

#[test]
fn a_line_without_an_equals_sign_and_a_huge_file_are_corrupt() {
    for text in ["status", " # no comment", &"\n".repeat(MAX_BYTES + 1)] {
        assert_eq!(parse(&id(), text).unwrap_err().kind(), ErrorKind::Corrupt);
    }
    assert!(parse(&id(), &"\n".repeat(MAX_BYTES)).is_ok());
}

#[test]
fn times_are_read_in_every_form_python_writes() {
    for (text, rfc3339) in [
        ("2026-11-23 08:38:17.378155+00:00", "2026-11-23T08:38:17.378155+00:00"),
        ("2026-11-23 08:38:17+00:00", "2026-11-23T08:38:17+00:00"),
        ("2026-11-23T08:38:17.5Z", "2026-11-23T08:38:17.500+00:00"),
        ("2026-11-23 08:38:17 +0530", "2026-11-23T08:38:17+05:30"),
        ("2026-11-23 08:38:17-03", "2026-11-23T08:38:17-03:00"),
        ("2026-11-23 08:38:17", "2026-11-23T08:38:17+00:00"),
    ] {
        let expected = DateTime::parse_from_rfc3339(rfc3339).unwrap();
        let read = read_time(text).unwrap();
        assert_eq!((read, read.offset()), (expected, expected.offset()), "{text}");
    }
    for text in ["2026-11-23 08:38:17+05:30:15", "2026-11-23 08:38:17-053015"] {
        let offset = read_time(text).unwrap().offset().local_minus_utc();
        assert_eq!(offset.abs(), 5 * 3600 + 30 * 60 + 15, "{text}");
    }
}

#[test]
fn what_is_no_time_is_refused() {
    for text in [
        "",
        " ",
        "2026-11-23",
        "2026-11-23 08:38",
        "2026-11-23 24:00:00",
        "2026-11-23 08:38:60",
        "2026-13-01 00:00:00",
        "26-11-23 08:38:17",
        "2026-11-23 08:38:17.",
        "2026-11-23 08:38:17.1234567890",
        "2026-11-23 08:38:17+24:00",
        "2026-11-23 08:38:17+05:60",
        "2026-11-23 08:38:17+5",
        "2026-11-23 08:38:17+05:3",
        "2026-11-23 08:38:17+1:2:3:4:",
        "2026-11-23 08:38:17 CET",
        "2026-11-23 08:38:17Zulu",
        "2026-11-23 ٠٨:38:17",
        "Mon Nov 23 08:38:17 2026",
    ] {
        assert!(read_time(text).is_err(), "{text}");
    }
}

#[test]
fn times_are_written_as_python_writes_them() {
    for text in [
        "2026-11-23 08:38:17.378155+00:00",
        "2026-11-23 08:38:17.000001-09:30",
        "2026-11-23 08:38:17+05:30",
        "0001-01-01 00:00:00-00:01",
    ] {
        assert_eq!(write_time(read_time(text).unwrap()), text);
    }
}

#[test]
fn an_offset_barman_cannot_read_is_written_as_utc() {
    // dateutil 2.9.0, which Barman 3.19.1 reads times with: "Unknown string format".
    let time = read_time("2026-11-23 03:08:03.782813-05:30:15").unwrap();
    assert_eq!(write_time(time), "2026-11-23 08:38:18.782813+00:00");
}

#[test]
fn nothing_in_a_value_can_add_a_line() {
    let backup = Backup {
        name: Some("a\nstatus=DONE".to_owned()),
        pgdata: Some("/a\r\n/b".to_owned()),
        error: Some("first\nsecond".to_owned()),
        status: BackupStatus::Other("X\nY".to_owned()),
        comments: vec!["one\ntimeline=9".to_owned()],
        ..Backup::new(id())
    };
    let read = parse(&id(), &write(&backup)).unwrap();
    assert_eq!(read.name.as_deref(), Some("a?status=DONE"));
    assert_eq!(read.pgdata.as_deref(), Some("/a??/b"));
    assert_eq!(read.error.as_deref(), Some("first"));
    assert_eq!(read.status, BackupStatus::Other("X?Y".to_owned()));
    assert_eq!(read.comments, ["one", "timeline=9"]);
    assert_eq!(read.timeline, None);
}

fn any_time() -> impl Strategy<Value = DateTime<FixedOffset>> {
    (0i64..253_000_000_000_000_000, -86_399i32..86_400).prop_map(|(micros, offset)| {
        let time = DateTime::<Utc>::from_timestamp_micros(micros).unwrap();
        time.with_timezone(&FixedOffset::east_opt(offset).unwrap())
    })
}

fn any_segment() -> impl Strategy<Value = SegmentName> {
    (1u32.., any::<u32>(), any::<u32>()).prop_map(|(timeline, log, segment)| SegmentName {
        timeline: TimelineId::new(timeline).unwrap(),
        log,
        segment,
    })
}

/// A text as it can stand after `=`: nothing around it and no control characters.
fn any_line() -> impl Strategy<Value = String> {
    "[a-zé/=#'\"\\\\][ -~é]{0,10}[a-z/=#'\"\\\\]"
}

fn any_stats() -> impl Strategy<Value = CopyStats> {
    let time = || -1e9..1e18;
    let per_item = || prop::collection::btree_map(any::<String>(), -1e9..1e18, 0..3);
    (time(), any::<u32>(), time(), time(), per_item(), per_item()).prop_map(
        |(total_time_s, number_of_workers, copy_time_s, serialized_copy_time_s, copy, serialized)| CopyStats {
            total_time_s,
            number_of_workers,
            copy_time_s,
            serialized_copy_time_s,
            copy_time_per_item_s: copy,
            serialized_copy_time_per_item_s: serialized,
        },
    )
}

fn any_backup() -> impl Strategy<Value = Backup> {
    let option = prop::option::of::<BoxedStrategy<String>>;
    let tablespace = (any::<String>(), any::<u32>(), any::<String>()).prop_map(|(name, oid, location)| Tablespace {
        name,
        oid,
        location,
    });
    let texts = prop::array::uniform6(option(any_line().boxed()));
    let files = prop::option::of(prop::collection::vec(any::<String>(), 1..3));
    let wal = prop::option::of((any::<u64>(), any::<u64>(), any_segment(), any_segment(), any_time(), any_time()));
    let numbers = prop::option::of((any::<u64>(), any::<u32>(), any::<u64>(), any::<bool>()));
    let comments = prop::collection::vec("[a-z=][a-z =]{0,5}[a-z=]", 0..3);
    (texts, option(any::<String>().boxed()), files, wal, numbers, (20u32..31, prop::option::of(any_stats())), comments)
        .prop_flat_map(move |parts| (Just(parts), prop::collection::vec(tablespace.clone(), 0..3)))
        .prop_map(|((texts, label, files, wal, numbers, (size, copy_stats), comments), tablespaces)| {
            let [name, pgdata, config_file, hba_file, ident_file, error] = texts;
            Backup {
                name,
                status: BackupStatus::Done,
                system_identifier: numbers.map(|numbers| SystemIdentifier(numbers.0)),
                version: numbers.map(|numbers| ServerVersion(numbers.1)),
                pgdata,
                config_file,
                hba_file,
                ident_file,
                included_files: files,
                timeline: wal.map(|wal| wal.2.timeline),
                begin_lsn: wal.map(|wal| Lsn(wal.0)),
                end_lsn: wal.map(|wal| Lsn(wal.1)),
                begin_segment: wal.map(|wal| wal.2),
                end_segment: wal.map(|wal| wal.3),
                begin_time: wal.map(|wal| wal.4),
                end_time: wal.map(|wal| wal.5),
                segment_size: SegmentSize::new(1 << size).unwrap(),
                cluster_size_bytes: numbers.map(|numbers| numbers.2),
                data_checksums: numbers.map(|numbers| numbers.3),
                tablespaces,
                backup_label: label,
                error,
                copy_stats,
                summarize_wal: None,
                comments,
                ..Backup::new(id())
            }
        })
}

proptest! {
    #[test]
    fn what_is_written_is_read_back(backup in any_backup()) {
        let text = write(&backup);
        let read = parse(&id(), &text).unwrap();
        prop_assert_eq!(write(&read), text);
        prop_assert_eq!(read, backup);
    }

    #[test]
    fn hostile_text_does_no_harm(text: String, lines in "([a-z_]{1,12}=[ -~\u{0}\u{85}é]{0,30}\n){0,5}") {
        for text in [text, lines] {
            if let Ok(backup) = parse(&id(), &text) {
                prop_assert!(parse(&id(), &write(&backup)).is_ok());
            }
        }
    }

    #[test]
    fn damaged_files_do_no_harm(which in 0..4usize,
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<char>(), 0..3), 1..8)) {
        let mut text: Vec<char> = FIXTURES[which].1.chars().collect();
        for (at, letter, kind) in edits {
            let at = at.index(text.len());
            match kind {
                0 => text[at] = letter,
                1 => text.insert(at, letter),
                _ => { text.remove(at); }
            }
        }
        let text: String = text.into_iter().collect();
        if let Ok(backup) = parse(&id(), &text) {
            let written = write(&backup);
            prop_assert_eq!(write(&parse(&id(), &written).unwrap()), written);
        }
    }

    #[test]
    fn hostile_times_do_no_harm(text in "[0-9T:+Z .é-]{0,40}") {
        let _ = read_time(&text);
        let _ = read_offset(&text);
    }
}
