//! How long a recovery takes when it is needed at the worst moment, foreseen from one that was measured.

use std::time::Duration;

use crate::domain::measure::{human_duration, human_size};

/// What was measured, and what is known of the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Measured {
    /// What does not depend on how much WAL there is: planning, fetching, syncing, starting, promoting.
    pub fixed: Duration,
    /// WAL that was replayed.
    pub replayed_bytes: u64,
    /// How long that took, waiting for WAL included.
    pub replay: Duration,
    /// How fast the cluster writes WAL.
    pub wal_bytes_per_hour: Option<u64>,
    /// The longest time between two base backups.
    pub base_interval: Option<Duration>,
    /// How long a recovery may take.
    pub objective: Option<Duration>,
}

/// What follows from it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Forecast {
    /// How fast WAL is replayed, in bytes a second.
    pub replay_bytes_per_s: u64,
    /// How long a recovery takes just before the next base backup.
    pub worst_case: Duration,
    /// How often base backups must be taken to keep the objective; none without one, and where none helps.
    pub needed_interval: Option<Duration>,
    /// That in words.
    pub sentence: String,
}

/// Less WAL than this was replayed too quickly to say anything about speed.
const ENOUGH_BYTES: u64 = 16 << 20;

const HOUR: f64 = 3600.0;

impl Measured {
    /// None where too little was replayed, or nothing is known of the cluster's WAL and base backups.
    #[must_use]
    pub fn forecast(&self) -> Option<Forecast> {
        let (per_hour, interval) = (self.wal_bytes_per_hour?, self.base_interval?);
        let replay_s = self.replay.as_secs_f64();
        if self.replayed_bytes < ENOUGH_BYTES || replay_s <= 0.0 {
            return None;
        }
        let rate = float(self.replayed_bytes) / replay_s;
        // Seconds of replay for each second that the last base backup is old.
        let slope = float(per_hour) / HOUR / rate;
        let worst_case = self.fixed + seconds(interval.as_secs_f64() * slope);
        let spare = self.objective.map(|objective| objective.checked_sub(self.fixed));
        let needed_interval = spare.flatten().filter(|_| slope > 0.0).map(|spare| seconds(spare.as_secs_f64() / slope));
        let what_follows = match (self.objective, spare) {
            (None, _) => String::new(),
            (Some(objective), Some(None)) => format!(
                "; {} cannot be kept whatever the base backups: all but replay takes {} already",
                human_duration(objective),
                human_duration(self.fixed)
            ),
            (Some(objective), _) if worst_case > objective => {
                let every = needed_interval.map_or_else(String::new, human_duration);
                format!("; for {} take a base backup every {every}", human_duration(objective))
            }
            (Some(objective), _) => format!(", which keeps {}", human_duration(objective)),
        };
        let sentence = format!(
            "At {}/s replay and {} of WAL per hour, just before the next base backup ({} after the last) this takes \
             {}{what_follows}.",
            human_size(whole(rate)),
            human_size(per_hour),
            human_duration(interval),
            human_duration(worst_case)
        );
        Some(Forecast { replay_bytes_per_s: whole(rate), worst_case, needed_interval, sentence })
    }
}

/// The largest step between two of `ended`, in order: the longest time between two base backups. None for fewer than two.
#[must_use]
pub fn longest_interval(ended: &[chrono::DateTime<chrono::Utc>]) -> Option<Duration> {
    ended.windows(2).filter_map(|pair| (pair[1] - pair[0]).to_std().ok()).max()
}

#[allow(clippy::cast_precision_loss, reason = "an estimate")]
fn float(bytes: u64) -> f64 {
    bytes as f64
}

#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "an estimate that is no less than zero")]
fn whole(rate: f64) -> u64 {
    rate as u64
}

fn seconds(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MB: u64 = 1_000_000;

    fn measured() -> Measured {
        Measured {
            fixed: Duration::from_mins(10),
            replayed_bytes: 880 * MB,
            replay: Duration::from_secs(10),
            wal_bytes_per_hour: Some(41_000 * MB),
            base_interval: Some(Duration::from_hours(24)),
            objective: Some(Duration::from_hours(2)),
        }
    }

    #[test]
    fn the_worst_moment_is_just_before_the_next_base_backup() {
        let forecast = measured().forecast().unwrap();
        assert_eq!(forecast.replay_bytes_per_s, 88 * MB);
        // 24 h of 41 GB at 88 MB/s.
        assert_eq!(forecast.worst_case.as_secs(), 600 + 24 * 41_000 / 88);
        // What 110 minutes can replay is written in 14 hours.
        assert_eq!(forecast.needed_interval.unwrap().as_secs(), 6600 * 88 * 3600 / 41_000);
        let said = &forecast.sentence;
        assert!(said.contains("this takes 3 h 16 min; for 2 h 00 min take a base backup every 14 h 10 min."), "{said}");
    }

    #[test]
    fn an_objective_is_kept_or_out_of_reach() {
        let kept = Measured { objective: Some(Duration::from_hours(4)), ..measured() }.forecast().unwrap();
        assert!(kept.sentence.ends_with("this takes 3 h 16 min, which keeps 4 h 00 min."), "{}", kept.sentence);
        let never = Measured { objective: Some(Duration::from_mins(5)), ..measured() }.forecast().unwrap();
        assert_eq!(never.needed_interval, None);
        assert!(never.sentence.contains("5 min 00 s cannot be kept"), "{}", never.sentence);
        let none = Measured { objective: None, ..measured() }.forecast().unwrap();
        assert!(none.sentence.ends_with("this takes 3 h 16 min."), "{}", none.sentence);
    }

    #[test]
    fn nothing_is_foreseen_from_too_little() {
        assert_eq!(Measured { replayed_bytes: 1000, ..measured() }.forecast(), None);
        assert_eq!(Measured { base_interval: None, ..measured() }.forecast(), None);
        assert_eq!(Measured { wal_bytes_per_hour: None, ..measured() }.forecast(), None);
        assert_eq!(Measured { replay: Duration::ZERO, ..measured() }.forecast(), None);
        let idle = Measured { wal_bytes_per_hour: Some(0), ..measured() }.forecast().unwrap();
        assert_eq!((idle.worst_case, idle.needed_interval), (Duration::from_mins(10), None));
    }

    #[test]
    fn the_longest_interval_counts() {
        let at = |text: &str| text.parse::<chrono::DateTime<chrono::Utc>>().unwrap();
        let ended = [at("2026-11-01T00:00:00Z"), at("2026-11-02T00:00:00Z"), at("2026-11-02T12:00:00Z")];
        assert_eq!(longest_interval(&ended), Some(Duration::from_hours(24)));
        assert_eq!(longest_interval(&ended[..1]), None);
    }
}
