//! Which moment a drill goes to: the one that was asked for, or one drawn from all that can be reached.

use chrono::{DateTime, TimeDelta, Utc};

use crate::commands::archive::Archive;
use crate::commands::catalog;
use crate::commands::drill::DrillRequest;
use crate::commands::drill_log::Stopped;
use crate::commands::last_commit::last_commit;
use crate::domain::backup::BackupStatus;
use crate::domain::recovery_target::{RecoveryTarget, TargetRequest};
use crate::domain::restore_plan::{PlanInput, plan};
use crate::error::{Error, ErrorKind, Result};

/// What a drill is to go to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Wanted {
    /// This.
    Given(TargetRequest),
    /// Some moment between the end of the oldest backup and the last commit; the rest as given.
    Random {
        /// The same number and the same archive give the same moment.
        seed: u64,
        /// What to do there, and on which timeline.
        like: TargetRequest,
    },
}

/// What a drill goes to.
pub(crate) struct Resolved {
    pub(crate) target: TargetRequest,
    /// The number that it was drawn with.
    pub(crate) seed: Option<u64>,
    /// That there are moments which cannot be reached.
    pub(crate) note: Option<String>,
}

/// So often is a moment drawn that lies in a hole.
const DRAWS: u32 = 50;

/// The target.
///
/// Requests, for a random one: those of a look at the catalogue and the names of all WAL, and up to three segments.
pub(crate) async fn resolve(archive: &Archive, request: &DrillRequest) -> Result<Resolved, Stopped> {
    let (seed, like) = match &request.wanted {
        Wanted::Given(target) => return Ok(Resolved { target: target.clone(), seed: None, note: None }),
        Wanted::Random { seed, like } => (*seed, like),
    };
    let loaded = catalog::load(archive).await?;
    let (inventory, histories) = catalog::read_wal(archive).await?;
    let oldest = loaded.catalog.backups().iter().filter(|backup| backup.status == BackupStatus::Done);
    let oldest = oldest.filter_map(|backup| backup.end_time).min().map(|time| time.to_utc());
    let input = |target: RecoveryTarget| PlanInput {
        catalog: loaded.catalog.clone(),
        inventory: inventory.clone(),
        histories: histories.clone(),
        request: TargetRequest { target, ..like.clone() },
        backup: request.backup.clone(),
        now: request.now,
    };
    let newest = plan(&input(RecoveryTarget::Latest))?;
    let from = if request.backup.is_some() { Some(newest.window.from_time) } else { oldest };
    let (Some(from), Some(last)) = (from, last_commit(archive, &newest).await?) else {
        return Err(nothing_to_draw("no transaction was committed in the last segments"));
    };
    // Recovery stops at a time only where something was committed later.
    let span = last.time.signed_duration_since(from).num_microseconds().and_then(|span| u64::try_from(span).ok());
    let Some(span) = span.filter(|span| *span > 0) else {
        return Err(nothing_to_draw("nothing was committed after the end of the backup"));
    };
    let mut state = seed;
    let mut refusal = None;
    for draw in 0..DRAWS {
        let target = RecoveryTarget::Time(at(from, next(&mut state) % span).fixed_offset());
        match plan(&input(target.clone())) {
            Ok(_) => {
                let words = |error: &Error| format!("{draw} moments that were drawn first cannot be reached: {error}");
                let target = TargetRequest { target, ..like.clone() };
                return Ok(Resolved { target, seed: Some(seed), note: refusal.as_ref().map(words) });
            }
            Err(error) => refusal = Some(error),
        }
    }
    Err(refusal.map_or_else(|| nothing_to_draw("no moment was drawn"), Stopped::from))
}

fn nothing_to_draw(why: &str) -> Stopped {
    let error = Error::new(ErrorKind::Local, format!("could not draw a moment to go to: {why}"));
    Stopped::inconclusive(error.with_hint("Drill with --target latest instead."))
}

fn at(from: DateTime<Utc>, micros: u64) -> DateTime<Utc> {
    from + TimeDelta::microseconds(i64::try_from(micros).unwrap_or(0))
}

/// The next number of a row that `state` stands for: `SplitMix64` (Steele, Lea and Flood 2014).
fn next(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9E37_79B9_7F4A_7C15);
    let mut mixed = *state;
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_draws_the_same_moments() {
        let row = |seed: u64| {
            let mut state = seed;
            (0..3).map(|_| next(&mut state)).collect::<Vec<_>>()
        };
        assert_eq!(row(7), row(7));
        assert_ne!(row(7), row(8));
        // The first numbers of the algorithm's reference for the seed 0.
        assert_eq!(row(0)[..2], [0xE220_A839_7B1D_CDAF, 0x6E78_9E6A_A1B9_65F4]);
    }
}
