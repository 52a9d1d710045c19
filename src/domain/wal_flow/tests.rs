//! Facts of one server and what is said of them.

use super::*;
use crate::domain::cluster::SystemIdentifier;
use crate::domain::host::Settings;
use crate::domain::lsn::Lsn;
use crate::domain::segment::SegmentSize;

const NOW: &str = "2026-11-25T12:00:00Z";

fn time(text: &str) -> DateTime<Utc> {
    text.parse().unwrap()
}

fn timeline(number: u32) -> TimelineId {
    TimelineId::new(number).unwrap()
}

fn segment(timeline: u32, number: u32) -> String {
    format!("{timeline:08X}00000000{number:08X}")
}

fn state() -> HostState {
    HostState {
        archive_mode: Some("on".to_owned()),
        settings: Some(Settings::default()),
        archiver: Some(ArchiverFacts {
            archived_count: 5,
            last_archived_wal: Some(segment(1, 5)),
            last_archived_time: Some(time("2026-11-25T11:59:00Z")),
            ..ArchiverFacts::default()
        }),
        ready_segments: Some(0),
        ready_bytes: Some(0),
        wal_free_bytes: Some(50 << 30),
        wal_total_bytes: Some(100 << 30),
        current_lsn: Some(Lsn(100 << 30)),
        ..HostState::new(time(NOW), SystemIdentifier(7), SegmentSize::DEFAULT, TimelineId::FIRST)
    }
}

fn waiting(segments: u64, since: &str) -> HostState {
    HostState {
        ready_segments: Some(segments),
        ready_bytes: Some(segments << 24),
        ready_since: Some(time(since)),
        ..state()
    }
}

fn archive(segments: &[(u32, u32)]) -> WalInventory {
    let mut wal = WalInventory::new();
    for (timeline, number) in segments {
        wal.add(&segment(*timeline, *number).parse().unwrap(), time(NOW));
    }
    wal
}

fn worse(state: &HostState, wal: &WalInventory, history: Option<&TimelineHistory>) -> Vec<(Severity, &'static str)> {
    let found = findings(state, Some(ArchivedWal { wal, history }));
    found.iter().filter(|one| one.severity != Severity::Good).map(|one| (one.severity, one.code)).collect()
}

fn said(state: &HostState, wal: &WalInventory, code: &str) -> String {
    let found = findings(state, Some(ArchivedWal { wal, history: None }));
    found.into_iter().find(|one| one.code == code).map(|one| one.what).unwrap_or_default()
}

#[test]
fn what_postgresql_believes_is_held_against_the_archive() {
    for (last, there, missing) in [
        (segment(1, 5), &[(1, 4), (1, 5)][..], None),
        (segment(1, 5), &[(1, 3), (1, 4)], Some("\"000000010000000000000005\"")),
        (segment(1, 5), &[(1, 3)], Some("\"000000010000000000000004\", \"000000010000000000000005\"")),
        (segment(1, 9), &[(1, 3)], Some("\"000000010000000000000009\" (6 segments)")),
        (segment(1, 5), &[], Some("\"000000010000000000000005\"")),
        // A segment that is newer does not make up for it.
        (segment(1, 5), &[(1, 4), (1, 6)], Some("\"000000010000000000000005\"")),
        (segment(1, 5), &[(2, 5)], Some("\"000000010000000000000005\"")),
        (format!("{}.00000028.backup", segment(1, 5)), &[(1, 4)], None),
        (format!("{}.00000028.backup", segment(1, 5)), &[(1, 3)], Some("\"000000010000000000000004\"")),
        ("00000002.history".to_owned(), &[], None),
        (format!("{}.partial", segment(1, 5)), &[], None),
        ("nonsense".to_owned(), &[], None),
    ] {
        let mut state = state();
        state.archiver.as_mut().unwrap().last_archived_wal = Some(last.clone());
        let wal = archive(there);
        let found = worse(&state, &wal, None);
        match missing {
            None => assert_eq!(found, [], "{last} {there:?}"),
            Some(names) => {
                assert_eq!(found, [(Severity::Problem, "archived-wal")], "{last} {there:?}");
                let said = said(&state, &wal, "archived-wal");
                assert!(said.ends_with(names), "{said}");
            }
        }
    }
}

#[test]
fn a_timeline_of_which_nothing_is_there_is_missing_from_its_begin() {
    let history = TimelineHistory::parse(timeline(2), "1\t0/3000000\twhy\n").unwrap();
    let mut state = HostState { timeline: timeline(2), ..state() };
    state.archiver.as_mut().unwrap().last_archived_wal = Some(segment(2, 4));
    let wal = archive(&[(1, 2)]);
    let found = findings(&state, Some(ArchivedWal { wal: &wal, history: Some(&history) }));
    let belief = found.iter().find(|one| one.code == "archived-wal").unwrap();
    assert!(belief.what.ends_with("\"000000020000000000000003\", \"000000020000000000000004\""), "{belief:?}");
}

#[test]
fn an_archiver_is_judged_by_its_last_attempt() {
    for (archived, failed, expected) in [
        (Some("2026-11-25T11:00:00Z"), None, vec![]),
        (Some("2026-11-25T11:00:00Z"), Some("2026-11-25T10:00:00Z"), vec![]),
        (Some("2026-11-25T11:00:00Z"), Some("2026-11-25T11:30:00Z"), vec![(Severity::Problem, "archiver")]),
        (None, Some("2026-11-25T11:30:00Z"), vec![(Severity::Problem, "archiver")]),
        (None, None, vec![(Severity::Warning, "archiver")]),
    ] {
        let mut state = state();
        state.archiver = Some(ArchiverFacts {
            last_archived_wal: archived.map(|_| segment(1, 5)),
            last_archived_time: archived.map(time),
            failed_count: u64::from(failed.is_some()),
            last_failed_wal: failed.map(|_| segment(1, 6)),
            last_failed_time: failed.map(time),
            ..ArchiverFacts::default()
        });
        assert_eq!(worse(&state, &archive(&[(1, 5)]), None), expected, "{archived:?} {failed:?}");
    }
}

#[test]
fn a_standby_that_archives_nothing_is_not_blamed_for_what_its_archiver_says() {
    let standby = HostState { in_recovery: true, ..state() };
    assert_eq!(worse(&standby, &archive(&[]), None), []);
    let always = HostState { archive_mode: Some("always".to_owned()), ..standby };
    assert_eq!(worse(&always, &archive(&[]), None), [(Severity::Problem, "archived-wal")]);
}

#[test]
fn a_queue_is_judged_by_its_length_and_its_age() {
    let wal = archive(&[(1, 5)]);
    for (segments, since, expected) in [
        (0, None, None),
        (2, Some("2026-11-25T11:59:00Z"), None),
        (3, Some("2026-11-25T11:59:30Z"), Some(Severity::Warning)),
        (100, Some("2026-11-25T11:59:30Z"), Some(Severity::Warning)),
        (101, Some("2026-11-25T11:59:30Z"), Some(Severity::Problem)),
        (1, Some("2026-11-25T10:59:59Z"), Some(Severity::Problem)),
        (0, Some("2026-11-25T10:59:59Z"), Some(Severity::Problem)),
    ] {
        let state = HostState { ready_since: since.map(time), ..waiting(segments, NOW) };
        let found = findings(&state, Some(ArchivedWal { wal: &wal, history: None }));
        let queue = found.iter().find(|one| one.code == "wal-waiting").unwrap();
        assert_eq!(queue.severity, expected.unwrap_or(Severity::Good), "{segments} {since:?}");
    }
}

#[test]
fn what_waits_on_a_server_that_is_down_is_a_problem_at_once() {
    let down = HostState { settings: None, archive_mode: None, archiver: None, ..waiting(1, "2026-11-25T11:59:30Z") };
    assert_eq!(worse(&down, &archive(&[]), None), [(Severity::Problem, "wal-waiting")]);
    let clean = HostState { ready_segments: Some(0), ready_bytes: Some(0), ready_since: None, ..down };
    assert_eq!(worse(&clean, &archive(&[]), None), []);
}

#[test]
fn the_volume_s_end_is_foretold_while_wal_piles_up() {
    let wal = archive(&[(1, 5)]);
    let volume = |state: &HostState| {
        let found = findings(state, Some(ArchivedWal { wal: &wal, history: None }));
        let one = found.into_iter().find(|one| one.code == "wal-volume").unwrap();
        (one.severity, one.what)
    };
    // 60 segments in 16 minutes are 1 MiB a second: 50 GiB last 14 hours.
    let (severity, what) = volume(&waiting(60, "2026-11-25T11:44:00Z"));
    assert_eq!(severity, Severity::Problem);
    assert!(what.ends_with("WAL piles up at 1 MiB/s and fills them in 14 h 13 min"), "{what}");
    // The same in 16 hours: more than a month.
    assert_eq!(volume(&waiting(60, "2026-11-24T20:00:00Z")).0, Severity::Warning);
    // Too short to tell.
    assert_eq!(volume(&waiting(60, "2026-11-25T11:59:30Z")).0, Severity::Good);
    assert_eq!(volume(&state()).0, Severity::Good);
    let low = |state: HostState| HostState { wal_free_bytes: Some(9 << 30), ..state };
    assert_eq!(volume(&low(state())).0, Severity::Warning);
    assert_eq!(volume(&low(waiting(60, "2026-11-25T11:59:30Z"))).0, Severity::Problem);
}

#[test]
fn segments_that_a_promotion_left_behind_are_found() {
    let history = TimelineHistory::parse(timeline(2), "1\t0/5800000\twhy\n").unwrap();
    let mut promoted = HostState { timeline: timeline(2), ..state() };
    promoted.archiver.as_mut().unwrap().last_archived_wal = Some(segment(2, 6));
    promoted.earlier_segments = [3, 4, 5].map(|number| segment(1, number).parse().unwrap()).into();
    // The switch was in segment 5, which goes on as timeline 2's.
    for (there, expected) in [
        (&[(1, 3), (1, 4), (2, 5), (2, 6)][..], 0),
        (&[(1, 3), (2, 5), (2, 6)], 1),
        (&[(2, 5), (2, 6)], 2),
        // Without the copy under the newer name the older one is still not what recovery asks for.
        (&[(1, 3), (1, 4), (2, 6)], 0),
    ] {
        let wal = archive(there);
        let found = findings(&promoted, Some(ArchivedWal { wal: &wal, history: Some(&history) }));
        let left: Vec<&Finding> = found.iter().filter(|one| one.code == "wal-left-behind").collect();
        assert_eq!(left.len(), usize::from(expected > 0), "{there:?}");
        for one in left {
            assert_eq!(one.what.matches("\"0000000100000000").count(), expected, "{one:?}");
        }
    }
}

#[test]
fn slots_that_keep_too_much_are_named() {
    let slot = |is_active: bool, behind: u64, status: &str| Slot {
        name: "s".to_owned(),
        is_active,
        restart_lsn: Some(Lsn((100 << 30) - behind)),
        wal_status: Some(status.to_owned()),
        inactive_since: None,
    };
    let wal = archive(&[(1, 5)]);
    for (slot, free, expected) in [
        (slot(false, 1 << 20, "reserved"), 50 << 30, None),
        (slot(false, 2 << 30, "extended"), 50 << 30, Some((Severity::Warning, "slot-keeps-wal"))),
        (slot(true, 2 << 30, "extended"), 50 << 30, None),
        (slot(true, 17 << 30, "extended"), 50 << 30, Some((Severity::Warning, "slot-keeps-wal"))),
        (slot(false, 60 << 30, "extended"), 50 << 30, Some((Severity::Problem, "slot-keeps-wal"))),
        (slot(false, 2 << 30, "lost"), 50 << 30, Some((Severity::Warning, "slot-lost"))),
    ] {
        let state = HostState { slots: vec![slot.clone()], wal_free_bytes: Some(free), ..state() };
        assert_eq!(worse(&state, &wal, None), expected.into_iter().collect::<Vec<_>>(), "{slot:?}");
    }
    let settings = |limit: &str| Settings {
        values: [("max_slot_wal_keep_size".to_owned(), limit.to_owned())].into(),
        ..Settings::default()
    };
    let with = |limit: &str, slots: Vec<Slot>| HostState { settings: Some(settings(limit)), slots, ..state() };
    let idle = slot(false, 0, "reserved");
    assert_eq!(worse(&with("-1", vec![idle.clone()]), &wal, None), [(Severity::Warning, "slot-limit")]);
    assert_eq!(worse(&with("1024", vec![idle]), &wal, None), []);
    assert_eq!(worse(&with("-1", Vec::new()), &wal, None), [], "without a slot there is nothing to limit");
}
