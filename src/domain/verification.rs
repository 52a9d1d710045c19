//! What looking at backups and WAL found, and what that comes to.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, ErrorKind, Result};

/// How closely something was looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Depth {
    /// Names and sizes, and the small objects that say what should be there.
    Quick,
    /// Every byte.
    Deep,
}

/// What a verification comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Everything that was looked at is as it should be.
    Pass,
    /// Nothing is known to be damaged, but not everything could be looked at.
    Inconclusive,
    /// Something is missing or damaged.
    Fail,
}

/// How bad a finding is. What is missing is never mixed up with what could not be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Degree {
    /// Proved: it is not there, or it is not what it should be.
    Damage,
    /// Nobody knows: the store or this host did not answer.
    Unknown,
    /// Odd, and no reason to distrust a restore.
    Notice,
}

macro_rules! words {
    ($type:ident, $what:literal, $($variant:ident = $word:literal),+) => {
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(match self { $(Self::$variant => $word),+ })
            }
        }

        impl FromStr for $type {
            type Err = Error;

            fn from_str(text: &str) -> Result<Self> {
                match text {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(Error::corrupt(format!(concat!("\"{}\" is not ", $what), text.escape_debug()))),
                }
            }
        }
    };
}

pub(crate) use words;

words!(Depth, "a depth of verification", Quick = "quick", Deep = "deep");
words!(Verdict, "a verdict", Pass = "pass", Inconclusive = "inconclusive", Fail = "fail");
words!(Degree, "a degree of a finding", Damage = "damage", Unknown = "unknown", Notice = "notice");

/// One thing that is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// How bad it is.
    pub degree: Degree,
    /// What it is about: an object's key, a segment, a file in a backup, a timeline.
    pub object: String,
    /// What is wrong, with both values where there are two.
    pub what: String,
}

impl Finding {
    /// Proved damage.
    pub fn damage(object: impl Into<String>, what: impl Into<String>) -> Self {
        Self { degree: Degree::Damage, object: object.into(), what: what.into() }
    }

    /// Something odd.
    pub fn notice(object: impl Into<String>, what: impl Into<String>) -> Self {
        Self { degree: Degree::Notice, object: object.into(), what: what.into() }
    }

    /// Something that could not be found out.
    pub fn unknown(object: impl Into<String>, what: impl Into<String>) -> Self {
        Self { degree: Degree::Unknown, object: object.into(), what: what.into() }
    }

    /// What a failed look at `object` proves: bytes that are wrong are damage, and so is what the store says is not there;
    /// an answer that did not come, or was refused, proves nothing.
    pub fn of_error(object: impl Into<String>, error: &Error) -> Self {
        let degree = match error.kind() {
            ErrorKind::Corrupt | ErrorKind::Mismatch | ErrorKind::NotFound | ErrorKind::Conflict => Degree::Damage,
            _ => Degree::Unknown,
        };
        Self { degree, object: object.into(), what: error.to_string() }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.degree, self.object, self.what)
    }
}

/// How many findings of each degree are kept; the others are counted.
const KEPT: usize = 1000;

/// Findings: the first of each degree, and how many there were.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Findings {
    kept: Vec<Finding>,
    damage: u64,
    unknown: u64,
    notices: u64,
}

impl Findings {
    /// Takes one in.
    pub fn push(&mut self, finding: Finding) {
        let degree = finding.degree;
        if self.kept.iter().filter(|kept| kept.degree == degree).count() < KEPT {
            self.kept.push(finding);
        }
        *self.counter(degree) += 1;
    }

    /// Counts `more` of a degree that are not named.
    pub fn count_unnamed(&mut self, degree: Degree, more: u64) {
        *self.counter(degree) += more;
    }

    /// Takes all of `others` in.
    pub fn append(&mut self, others: Self) {
        let named = |degree| others.kept.iter().filter(|kept| kept.degree == degree).count() as u64;
        for degree in [Degree::Damage, Degree::Unknown, Degree::Notice] {
            self.count_unnamed(degree, others.count(degree) - named(degree));
        }
        others.kept.into_iter().for_each(|finding| self.push(finding));
    }

    /// Those that are kept, the worst first.
    #[must_use]
    pub fn named(&self) -> Vec<&Finding> {
        let mut named: Vec<&Finding> = self.kept.iter().collect();
        named.sort_by_key(|finding| finding.degree);
        named
    }

    /// How many of one degree there were.
    #[must_use]
    pub fn count(&self, degree: Degree) -> u64 {
        match degree {
            Degree::Damage => self.damage,
            Degree::Unknown => self.unknown,
            Degree::Notice => self.notices,
        }
    }

    /// How many there were.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.damage + self.unknown + self.notices
    }

    /// What they come to: damage outweighs what nobody knows.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match (self.damage, self.unknown) {
            (0, 0) => Verdict::Pass,
            (0, _) => Verdict::Inconclusive,
            _ => Verdict::Fail,
        }
    }

    fn counter(&mut self, degree: Degree) -> &mut u64 {
        match degree {
            Degree::Damage => &mut self.damage,
            Degree::Unknown => &mut self.unknown,
            Degree::Notice => &mut self.notices,
        }
    }
}

impl FromIterator<Finding> for Findings {
    fn from_iter<I: IntoIterator<Item = Finding>>(findings: I) -> Self {
        let mut all = Self::default();
        findings.into_iter().for_each(|finding| all.push(finding));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn damage_outweighs_what_nobody_knows_and_a_notice_weighs_nothing() {
        let (damage, unknown, notice) =
            (Finding::damage("a", "b"), Finding::unknown("a", "b"), Finding::notice("a", "b"));
        let verdict = |findings: &[&Finding]| findings.iter().copied().cloned().collect::<Findings>().verdict();
        assert_eq!(verdict(&[]), Verdict::Pass);
        assert_eq!(verdict(&[&notice]), Verdict::Pass);
        assert_eq!(verdict(&[&notice, &unknown]), Verdict::Inconclusive);
        assert_eq!(verdict(&[&unknown, &damage]), Verdict::Fail);
    }

    #[test]
    fn an_answer_that_did_not_come_is_never_damage() {
        for (kind, degree) in [
            (ErrorKind::NotFound, Degree::Damage),
            (ErrorKind::Corrupt, Degree::Damage),
            (ErrorKind::Mismatch, Degree::Damage),
            (ErrorKind::Unreachable, Degree::Unknown),
            (ErrorKind::Denied, Degree::Unknown),
            (ErrorKind::Interrupted, Degree::Unknown),
            (ErrorKind::Local, Degree::Unknown),
            (ErrorKind::Bug, Degree::Unknown),
        ] {
            assert_eq!(Finding::of_error("x", &Error::new(kind, "y")).degree, degree, "{kind:?}");
        }
    }

    #[test]
    fn the_first_thousand_are_named_the_worst_first_and_all_are_counted() {
        let mut findings: Findings = (0..1500).map(|at| Finding::notice(at.to_string(), "odd")).collect();
        let mut more: Findings = (0..1200).map(|at| Finding::damage(at.to_string(), "gone")).collect();
        more.count_unnamed(Degree::Damage, 5);
        findings.append(more);
        assert_eq!(findings.count(Degree::Damage), 1205);
        assert_eq!(findings.total(), 2705);
        let named = findings.named();
        assert_eq!(named.len(), 2000);
        assert_eq!((named[0].degree, named[0].object.as_str()), (Degree::Damage, "0"));
    }

    #[test]
    fn words_are_read_back() {
        for verdict in [Verdict::Pass, Verdict::Fail, Verdict::Inconclusive] {
            assert_eq!(verdict.to_string().parse::<Verdict>().unwrap(), verdict);
        }
        assert_eq!("deep".parse::<Depth>().unwrap(), Depth::Deep);
        assert!("Deep".parse::<Depth>().is_err());
    }
}
