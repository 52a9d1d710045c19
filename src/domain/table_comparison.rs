//! The tables of a cluster when it was backed up, held against those of its recovered copy.

use std::collections::BTreeMap;
use std::fmt;

use crate::domain::drill::CheckOutcome;

/// How many names one line holds.
const NAMED: usize = 10;

/// Below so many rows or pages a tenth says nothing.
const LEAST_TO_COMPARE: u64 = 1000;

/// Estimates that differ by more than this are told.
const LARGEST_FACTOR: u64 = 10;

/// A table's place in its database.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TableName {
    /// Its schema.
    pub schema: String,
    /// Its name there.
    pub name: String,
}

impl fmt::Display for TableName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

/// What is known of a table without reading it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TableFacts {
    /// The table's number, which a table made anew under the same name does not have.
    pub oid: u32,
    /// `r` for a table, `p` for a partitioned one, `m` for a materialized view (PostgreSQL's `relkind`).
    pub kind: char,
    /// How many rows PostgreSQL takes it to have; none when it never looked.
    pub rows: Option<u64>,
    /// Of a copy its pages, of a snapshot how many there were when PostgreSQL last looked.
    pub pages: u64,
}

/// The tables of one database.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DatabaseTables {
    /// Its tables, or the largest of them.
    pub tables: BTreeMap<TableName, TableFacts>,
    /// How many more it has.
    pub left_out: u64,
}

/// Databases by name.
pub type Databases = BTreeMap<String, DatabaseTables>;

/// What was there at both looks: it was there all the time between, with a moment that no table can be looked at in.
///
/// A database that was not reached at the second look is left out.
#[must_use]
pub fn in_both(before: Databases, after: &Databases) -> Databases {
    let mut both = before;
    both.retain(|name, _| after.contains_key(name));
    for (name, database) in &mut both {
        let Some(after) = after.get(name) else { continue };
        database.tables.retain(|table, facts| after.tables.get(table).is_some_and(|then| then.oid == facts.oid));
        for (table, facts) in &mut database.tables {
            *facts = after.tables.get(table).copied().unwrap_or(*facts);
        }
        database.left_out = after.left_out;
    }
    both
}

/// What was found of a database in the copy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DatabaseFound {
    /// Those of its tables that were asked for and are there.
    Tables(BTreeMap<TableName, TableFacts>),
    /// There is no such database.
    Missing,
    /// It could not be looked into, and why.
    Unknown(String),
}

/// Where copy and snapshot differ. Names are those of `database.schema.table`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Comparison {
    /// Tables that were compared.
    pub tables: u64,
    /// Databases that were compared.
    pub databases: u64,
    /// Databases and tables that are not there.
    pub missing: Vec<String>,
    /// Tables of no page that had rows.
    pub empty: Vec<String>,
    /// Tables that are ten times larger or smaller than they were, by estimates.
    pub differing: Vec<String>,
    /// Databases that could not be looked into, and why.
    pub unknown: Vec<String>,
}

/// Compares a snapshot with what was found.
#[must_use]
pub fn compare(then: &Databases, found: &BTreeMap<String, DatabaseFound>) -> Comparison {
    let mut comparison = Comparison::default();
    for (database, known) in then {
        match found.get(database) {
            None | Some(DatabaseFound::Missing) => {
                comparison.databases += 1;
                comparison.tables += known.tables.len() as u64;
                comparison.missing.push(format!("database {database}"));
            }
            Some(DatabaseFound::Unknown(why)) => comparison.unknown.push(format!("database {database}: {why}")),
            Some(DatabaseFound::Tables(now)) => {
                comparison.databases += 1;
                comparison.tables += known.tables.len() as u64;
                for (table, was) in &known.tables {
                    comparison.table(&format!("{database}.{table}"), *was, now.get(table).copied());
                }
            }
        }
    }
    comparison
}

impl Comparison {
    fn table(&mut self, name: &str, was: TableFacts, now: Option<TableFacts>) {
        let Some(now) = now else { return self.missing.push(name.to_owned()) };
        let had_rows = was.pages > 0 && was.rows.is_some_and(|rows| rows > 0);
        if now.kind != 'p' && had_rows && now.pages == 0 {
            self.empty.push(name.to_owned());
        } else if let (Some(was), Some(now)) = (was.rows, now.rows)
            && far_apart(was, now)
        {
            self.differing.push(format!("{name} (about {was} rows then, {now} now)"));
        } else if now.kind != 'p' && was.pages > now.pages && far_apart(was.pages, now.pages) {
            // Only less is told: the snapshot's number may be an old one, and tables grow.
            self.differing.push(format!("{name} ({} pages then, {} now)", was.pages, now.pages));
        }
    }

    /// What it comes to. `ends_with_backup`: recovery went no further than the backup's end, where every table of the snapshot was
    /// there; later one may have been dropped with good reason.
    #[must_use]
    pub fn outcome(&self, ends_with_backup: bool) -> CheckOutcome {
        if ends_with_backup && !self.missing.is_empty() {
            CheckOutcome::Fail
        } else if !self.unknown.is_empty() {
            CheckOutcome::Inconclusive
        } else if self.missing.is_empty() && self.empty.is_empty() && self.differing.is_empty() {
            CheckOutcome::Pass
        } else {
            CheckOutcome::Notice
        }
    }

    /// What differs, in words; none when nothing does.
    #[must_use]
    pub fn in_words(&self) -> Option<String> {
        let lists = [
            ("not there", &self.missing),
            ("empty, and had rows", &self.empty),
            ("of another size", &self.differing),
            ("not looked into", &self.unknown),
        ];
        let told = lists.iter().filter(|(_, names)| !names.is_empty());
        let words: Vec<String> = told.map(|(what, names)| format!("{what}: {}", first_of(names))).collect();
        (!words.is_empty()).then(|| words.join("; "))
    }
}

/// The first names, and how many more there are.
#[must_use]
pub fn first_of(names: &[String]) -> String {
    let shown = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn far_apart(one: u64, two: u64) -> bool {
    let (less, more) = (one.min(two), one.max(two));
    more >= LEAST_TO_COMPARE && less < more / LARGEST_FACTOR
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts(oid: u32, rows: Option<u64>, pages: u64) -> TableFacts {
        TableFacts { oid, kind: 'r', rows, pages }
    }

    fn tables(list: &[(&str, TableFacts)]) -> BTreeMap<TableName, TableFacts> {
        let name = |name: &str| TableName { schema: "public".to_owned(), name: name.to_owned() };
        list.iter().map(|(table, facts)| (name(table), *facts)).collect()
    }

    fn database(list: &[(&str, TableFacts)]) -> Databases {
        let database = DatabaseTables { tables: tables(list), left_out: 0 };
        BTreeMap::from([("shop".to_owned(), database)])
    }

    fn compared(then: &[(&str, TableFacts)], now: &[(&str, TableFacts)]) -> Comparison {
        compare(&database(then), &BTreeMap::from([("shop".to_owned(), DatabaseFound::Tables(tables(now)))]))
    }

    #[test]
    fn a_missing_table_is_a_failure_only_where_nothing_can_have_dropped_it() {
        let comparison =
            compared(&[("kept", facts(1, None, 1)), ("gone", facts(2, None, 1))], &[("kept", facts(1, None, 1))]);
        assert_eq!((comparison.tables, comparison.databases), (2, 1));
        assert_eq!(comparison.missing, ["shop.public.gone"]);
        assert_eq!(comparison.outcome(true), CheckOutcome::Fail);
        assert_eq!(comparison.outcome(false), CheckOutcome::Notice);
        assert_eq!(comparison.in_words().unwrap(), "not there: shop.public.gone");
    }

    #[test]
    fn a_missing_database_is_one_name_and_one_that_cannot_be_looked_into_says_nothing() {
        let then = database(&[("one", facts(1, None, 1)), ("two", facts(2, None, 1))]);
        let gone = compare(&then, &BTreeMap::new());
        assert_eq!(
            (gone.missing.as_slice(), gone.outcome(true)),
            (["database shop".to_owned()].as_slice(), CheckOutcome::Fail)
        );
        let unknown = BTreeMap::from([("shop".to_owned(), DatabaseFound::Unknown("it is away".to_owned()))]);
        let unknown = compare(&then, &unknown);
        assert_eq!((unknown.databases, unknown.outcome(true)), (0, CheckOutcome::Inconclusive));
        assert_eq!(unknown.in_words().unwrap(), "not looked into: database shop: it is away");
    }

    #[test]
    fn tables_that_lost_their_pages_or_most_of_them_are_told() {
        let then = [
            ("emptied", facts(1, Some(5), 1)),
            ("never_filled", facts(2, None, 0)),
            ("fewer_rows", facts(3, Some(100_000), 500)),
            ("shrunk", facts(4, None, 5000)),
            ("grown", facts(5, None, 5000)),
            ("small", facts(6, Some(90), 1)),
        ];
        let now = [
            ("emptied", facts(1, Some(5), 0)),
            ("never_filled", facts(2, None, 0)),
            ("fewer_rows", facts(3, Some(9_999), 500)),
            ("shrunk", facts(4, None, 499)),
            ("grown", facts(5, None, 500_000)),
            ("small", facts(6, Some(1), 1)),
        ];
        let comparison = compared(&then, &now);
        assert_eq!(comparison.empty, ["shop.public.emptied"]);
        assert_eq!(
            comparison.differing,
            [
                "shop.public.fewer_rows (about 100000 rows then, 9999 now)",
                "shop.public.shrunk (5000 pages then, 499 now)"
            ]
        );
        assert_eq!(comparison.outcome(true), CheckOutcome::Notice);
        assert_eq!(compared(&then, &then).outcome(true), CheckOutcome::Pass);
        assert_eq!(compared(&then, &then).in_words(), None);
    }

    #[test]
    fn only_what_was_there_at_both_looks_was_there_between() {
        let before =
            database(&[("kept", facts(1, None, 1)), ("dropped", facts(2, None, 1)), ("made_anew", facts(3, None, 1))]);
        let after =
            database(&[("kept", facts(1, Some(7), 2)), ("made_anew", facts(9, None, 1)), ("new", facts(4, None, 1))]);
        assert_eq!(in_both(before.clone(), &after), database(&[("kept", facts(1, Some(7), 2))]));
        assert_eq!(in_both(before, &Databases::new()), Databases::new());
    }

    #[test]
    fn a_line_names_ten_and_counts_the_others() {
        let names: Vec<String> = (1..=12).map(|number| number.to_string()).collect();
        assert_eq!(first_of(&names), "1, 2, 3, 4, 5, 6, 7, 8, 9, 10 and 2 more");
    }
}
