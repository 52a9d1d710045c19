//! What one call of `restore_command` brought, and how long recovery waited for it: a line of the journal of a drill.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use crate::domain::segment::WalFileName;
use crate::error::{Error, Result};

/// One call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// What was asked for.
    pub name: WalFileName,
    /// What came of it.
    pub outcome: Outcome,
    /// From the call's beginning to its end.
    pub took: Duration,
}

/// What came of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The file lay ready.
    Ready,
    /// It came while recovery waited.
    Late,
    /// The archive says that it is not there.
    Absent,
    /// It is there, and is not what it should be.
    Damaged,
    /// Nobody knows: the store did not answer, or this host is at fault.
    Unknown,
}

const WORDS: [(Outcome, &str); 5] = [
    (Outcome::Ready, "ready"),
    (Outcome::Late, "late"),
    (Outcome::Absent, "absent"),
    (Outcome::Damaged, "damaged"),
    (Outcome::Unknown, "unknown"),
];

impl fmt::Display for Delivery {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let word = WORDS.iter().find(|(outcome, _)| *outcome == self.outcome).map_or("unknown", |(_, word)| *word);
        write!(f, "{} {word} {}", self.name, self.took.as_micros())
    }
}

impl FromStr for Delivery {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let refuse = || Error::corrupt(format!("\"{}\" is not a line of a journal of WAL", text.escape_debug()));
        let [name, word, took] = text.split(' ').collect::<Vec<_>>()[..] else { return Err(refuse()) };
        let outcome = WORDS.iter().find(|(_, known)| *known == word).map(|(outcome, _)| *outcome).ok_or_else(refuse)?;
        let took = Duration::from_micros(took.parse().map_err(|_| refuse())?);
        Ok(Self { name: name.parse()?, outcome, took })
    }
}

/// A whole journal, added up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Deliveries {
    /// Segments that came.
    pub segments: u64,
    /// Those of them that recovery had to wait for,
    pub late: u64,
    /// and for how long.
    pub starved: Duration,
    /// All the time that recovery spent in calls.
    pub waited: Duration,
    /// Segments that are not in the archive, in the order in which they were asked for.
    pub absent: Vec<WalFileName>,
    /// The first file that is damaged.
    pub damaged: Option<WalFileName>,
    /// The last call, if it could not find out.
    pub unknown: Option<WalFileName>,
}

/// So many absent names are kept: recovery asks for the end of the WAL again and again.
const ABSENT_KEPT: usize = 100;

impl Deliveries {
    /// Takes in the next lines of a journal. Lines that are none are passed over.
    pub fn add_lines(&mut self, lines: &str) {
        lines.lines().filter_map(|line| line.parse().ok()).for_each(|delivery| self.add(&delivery));
    }

    fn add(&mut self, delivery: &Delivery) {
        let Delivery { name, outcome, took } = delivery;
        self.waited = self.waited.saturating_add(*took);
        self.unknown = (*outcome == Outcome::Unknown).then_some(*name);
        let is_segment = matches!(name, WalFileName::Segment(_));
        match outcome {
            Outcome::Ready | Outcome::Late if is_segment => {
                self.segments += 1;
                if *outcome == Outcome::Late {
                    self.late += 1;
                    self.starved = self.starved.saturating_add(*took);
                }
            }
            Outcome::Absent if is_segment && self.absent.len() < ABSENT_KEPT => self.absent.push(*name),
            Outcome::Damaged => self.damaged = self.damaged.or(Some(*name)),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_journal_is_added_up() {
        let journal = "00000002.history absent 900\n000000010000000000000002 late 40000\n\
                       000000010000000000000003 ready 2000\n000000010000000000000004 damaged 7\n\
                       000000010000000000000005 absent 3000\n00000001000000000000";
        let mut all = Deliveries::default();
        all.add_lines(journal);
        assert_eq!((all.segments, all.late), (2, 1));
        assert_eq!((all.starved, all.waited), (Duration::from_millis(40), Duration::from_micros(45_907)));
        assert_eq!(all.absent, ["000000010000000000000005".parse().unwrap()]);
        assert_eq!(all.damaged, Some("000000010000000000000004".parse().unwrap()));
        assert_eq!(all.unknown, None);
        all.add_lines("000000010000000000000005 unknown 3000\n");
        assert!(all.unknown.is_some() && all.segments == 2);
    }

    #[test]
    fn a_line_is_read_back_as_it_was_written() {
        for (outcome, _) in WORDS {
            let took = Duration::from_micros(1234);
            let delivery = Delivery { name: "000000010000000000000002".parse().unwrap(), outcome, took };
            assert_eq!(delivery.to_string().parse::<Delivery>().unwrap(), delivery);
        }
        for text in [
            "",
            "x",
            "000000010000000000000002 ready",
            "000000010000000000000002 gone 1",
            "000000010000000000000002 ready x",
        ] {
            assert!(text.parse::<Delivery>().is_err(), "{text}");
        }
    }
}
